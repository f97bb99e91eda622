"""The MLPerf Tiny networks: published totals, layer tables, folding and training."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import workloads
from workloads import OpKind

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

# mlcommons/tiny commit 1afd2c9, parsed from the reference TFLite files:
# macs (padded taps), macs without zero-padding taps, parameters with BN folded, peak live activation elements, at operation
TOTALS = {
    "ds-cnn": (2_656_768, 2_562_432, 22_604, 16_000, 1),
    "mobilenet-v1-0.25": (7_489_664, 7_399_464, 210_850, 55_296, 2),
    "fc-autoencoder": (264_192, 264_192, 265_864, 768, 0),
    "resnet8": (12_501_632, 11_574_592, 77_706, 49_152, 2),
}
# the same source, Keras: trainable parameters and batch normalisation's moving statistics
TRAINABLE = {
    "ds-cnn": (23_756, 1_152),
    "mobilenet-v1-0.25": (216_322, 5_472),
    "fc-autoencoder": (267_928, 2_064),
    "resnet8": (78_186, 480),
}
# the same source, layer by layer: operation, macs, macs without zero-padding taps, parameters, live activation elements
# (RESHAPE rows, which alias their input, left out)
DS_CNN = [
    (OpKind.CONV, 320_000, 270_720, 2_624, 8_490),
    *[(OpKind.DEPTHWISE, 72_000, 60_736, 640, 16_000), (OpKind.CONV, 512_000, 512_000, 4_160, 16_000)] * 4,
    (OpKind.REDUCE, 0, 0, 0, 8_064),
    (OpKind.DENSE, 768, 768, 780, 76),
    (OpKind.REDUCE, 0, 0, 0, 24),
]
RESNET8 = [
    (OpKind.CONV, 442_368, 424_128, 448, 19_456),
    (OpKind.CONV, 2_359_296, 2_262_016, 2_320, 32_768),
    (OpKind.CONV, 2_359_296, 2_262_016, 2_320, 49_152),
    (OpKind.ELEMENTWISE, 0, 0, 0, 49_152),
    (OpKind.CONV, 1_179_648, 1_131_008, 4_640, 24_576),
    (OpKind.CONV, 2_359_296, 2_166_784, 9_248, 32_768),
    (OpKind.CONV, 131_072, 131_072, 544, 32_768),
    (OpKind.ELEMENTWISE, 0, 0, 0, 24_576),
    (OpKind.CONV, 1_179_648, 1_083_392, 18_496, 12_288),
    (OpKind.CONV, 2_359_296, 1_982_464, 36_928, 16_384),
    (OpKind.CONV, 131_072, 131_072, 2_112, 16_384),
    (OpKind.ELEMENTWISE, 0, 0, 0, 12_288),
    (OpKind.REDUCE, 0, 0, 0, 4_160),
    (OpKind.DENSE, 640, 640, 650, 74),
    (OpKind.REDUCE, 0, 0, 0, 20),
]
ALIASES = {"kws": "ds-cnn", "vww": "mobilenet-v1-0.25", "ad": "fc-autoencoder", "ic": "resnet8"}


@pytest.mark.parametrize("name", TOTALS)
def test_totals_equal_the_reference_files(name):
    table = workloads.load(name)
    macs, valid, parameters, peak, at = TOTALS[name]
    assert table.total("macs") == macs
    assert table.total("macs_valid") == valid
    assert table.info.parameters == parameters
    assert table.total("weights") == parameters  # every parameter is read exactly once
    assert (table.peak_live, table.info.peak_op) == (peak, at)
    assert table.info.uncounted == () and table.info.flags == ()


@pytest.mark.parametrize(("name", "layers"), [("ds-cnn", DS_CNN), ("resnet8", RESNET8)])
def test_layers_equal_the_reference_files(name, layers):
    table = workloads.load(name)
    columns = (table.kind, table.macs, table.macs_valid, table.weights, table.live)
    rows = [tuple(int(c[i]) for c in columns) for i in range(table.n_ops)]
    assert rows == [tuple(int(x) for x in layer) for layer in layers]


@pytest.mark.parametrize("name", TOTALS)
def test_rows_are_consistent(name):
    table = workloads.load(name)
    product = table.macs > 0
    gemm = table.m.astype(float) * table.n * table.k * table.groups
    np.testing.assert_array_equal(table.macs[product], gemm[product])
    assert (table.flops >= 2 * table.macs).all()
    assert set(table.activation_bits) == set(table.weight_bits) == {32.0}
    for producer, consumer in table.info.edges:
        assert 0 <= producer < consumer < table.n_ops
    assert {consumer for _, consumer in table.info.edges} == set(range(1, table.n_ops))  # only row 0 reads the input alone
    assert len(set(table.info.op_names)) == table.n_ops


@pytest.mark.parametrize("name", TOTALS)
def test_flops_of_the_training_form_agree_with_xla(name):
    network = workloads.load_network(name)
    x = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
    variables = jax.eval_shape(network.module.init, jax.random.key(0), x)
    table = workloads.profile(network.module.apply, variables, x)  # nothing is a parameter, so nothing is hoisted
    flops = table.total("flops") - 2 * (table.total("macs") - table.total("macs_valid"))
    assert flops == pytest.approx(jax.jit(network.module.apply).lower(variables, x).cost_analysis()["flops"], rel=1e-5)


def test_first_layer_of_ds_cnn_by_hand():
    table = workloads.load("ds-cnn")
    # im2col: 25 x 5 positions, 64 filters, 10 x 4 x 1 taps
    assert (table.m[0], table.n[0], table.k[0], table.groups[0]) == (125, 64, 40, 1)
    # 2 x 320,000 for the products, one bias addition and one ReLU for each of 8,000 outputs
    assert table.flops[0] == 640_000 + 2 * 8_000
    assert (table.inputs[0], table.outputs[0]) == (490, 8_000)
    # depthwise: 64 groups of 9 taps and one filter
    assert (table.m[1], table.n[1], table.k[1], table.groups[1]) == (125, 1, 9, 64)


def test_residual_edges_of_resnet8():
    edges = set(workloads.load("resnet8").info.edges)
    assert {(0, 3), (2, 3)} <= edges  # the skip of the first stack goes around two convolutions
    assert {(5, 7), (6, 7), (3, 6)} <= edges  # the second goes through the shortcut convolution


@pytest.mark.parametrize("name", TRAINABLE)
def test_trainable_parameters(name):
    network = workloads.load_network(name)
    x = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
    variables = jax.eval_shape(network.module.init, jax.random.key(0), x)
    count = {k: sum(leaf.size for leaf in jax.tree.leaves(v)) for k, v in variables.items()}
    assert (count["params"], count["batch_stats"]) == TRAINABLE[name]
    output = jax.eval_shape(network.module.apply, variables, x)
    assert output.shape == (1, network.n_outputs)


def _variables(network, x, *, spread):
    """He-normal kernels; biases and normalisation `spread` around their usual start (quicker than compiling `init`)."""
    shapes = jax.eval_shape(network.module.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        if leaf.ndim == 1:
            return (float(path[-1].key in ("var", "scale")) + rng.uniform(-spread, spread, leaf.shape)).astype(np.float32)
        return (rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.mark.parametrize("name", TRAINABLE)
def test_folded_network_computes_the_same(name):
    network = workloads.load_network(name)
    x = np.random.default_rng(2).normal(size=(2, *network.input_shape)).astype(np.float32)
    variables = _variables(network, x, spread=0.5)
    expected = jax.jit(network.module.apply)(variables, x)
    folded = workloads.fold_batch_norm(variables)
    got = jax.jit(network.module.clone(folded=True).apply)(folded, x)
    assert sum(leaf.size for leaf in jax.tree.leaves(folded)) == TOTALS[name][2]
    assert float(jnp.std(expected)) > 1e-2
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))


def test_folding_refuses_incomplete_variables():
    with pytest.raises(ValueError, match="batch_stats"):
        workloads.fold_batch_norm({"params": {}})
    layer = {"linear": {"kernel": jnp.ones((2, 2))}, "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2)}}
    stats = {"norm": {"mean": jnp.ones(2), "var": jnp.ones(2)}}
    with pytest.raises(ValueError, match="layer /a has no 'bias'"):
        workloads.fold_batch_norm({"params": {"a": layer}, "batch_stats": {"a": stats}})


def _digits():
    """1,797 handwritten digits, 8 x 8, values 0..1, from scikit-learn (UCI Optical Recognition of Handwritten Digits)."""
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    return jnp.asarray(images.reshape(-1, 8, 8, 1) / 16, jnp.float32), jnp.asarray(labels)


def _train(network, inputs, loss_of, *, steps, batch, rate):
    """First and mean of the last losses of `steps` Adam steps."""
    variables = _variables(network, inputs[:1], spread=0.0)
    optimizer = optax.adam(rate)

    def loss(params, stats, index, key):
        output, updates = network.module.apply(
            {"params": params, "batch_stats": stats}, inputs[index], train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )
        return loss_of(output, index), updates["batch_stats"]

    @jax.jit
    def step(params, stats, state, key):
        index = jax.random.randint(key, (batch,), 0, len(inputs))
        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params, stats, index, key)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), stats, state, value

    params, stats = variables["params"], variables["batch_stats"]
    state, losses = optimizer.init(params), []
    for key in jax.random.split(jax.random.key(1), steps):
        params, stats, state, value = step(params, stats, state, key)
        losses.append(float(value))
    return np.mean(losses[:3]), np.mean(losses[-3:]), {"params": params, "batch_stats": stats}


def test_ds_cnn_learns_digits():
    images, labels = _digits()
    inputs = jnp.pad(jnp.repeat(images, 6, axis=1), ((0, 0), (0, 1), (1, 1), (0, 0)))
    assert inputs.shape[1:] == (49, 10, 1)

    def loss(logits, index):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[index]).mean()

    first, last, variables = _train(workloads.load_network("kws"), inputs, loss, steps=36, batch=32, rate=1e-2)
    assert first > 2.0  # ln 12 = 2.48 for a network that knows nothing
    assert last < 0.7 * first
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(variables))


def test_autoencoder_learns_digits():
    images, _ = _digits()
    inputs = jnp.tile(images.reshape(-1, 64), (1, 10))

    def loss(output, index):
        return jnp.mean((output - inputs[index]) ** 2)

    first, last, _ = _train(workloads.load_network("ad"), inputs, loss, steps=40, batch=64, rate=5e-3)
    # the best constant output is the mean image
    assert last < 0.5 * first
    assert last < 1.1 * float(jnp.var(inputs, axis=0).mean())


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_aliases_give_the_same_cached_table(alias, name):
    assert workloads.load(alias) is workloads.load(name.upper())


def test_list_networks():
    assert workloads.list_networks() == tuple(TOTALS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: workloads.load("resnet9"), "unknown network 'resnet9'; close: resnet8"),
        (lambda: workloads.load("qqqq"), "known: ds-cnn"),
        (lambda: workloads.load("a.tflite"), "a.tflite: cannot be read: No such file"),
        (lambda: workloads.load(Path("b.onnx")), "b.onnx: cannot be read: No such file"),
        (lambda: workloads.load("kws", jnp.ones(3)), "arguments go with a function"),
        (lambda: workloads.load_network("resnet9"), "close: resnet8"),
    ],
)
def test_catalog_errors_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_duplicate_alias_is_refused():
    from workloads.catalog import ENTRIES, Entry
    from workloads.names import build_index

    twin = Entry("other", ("KWS",), "DSCNN", (1,), 1, softmax=False)
    with pytest.raises(ValueError, match="'KWS' is claimed by both 'ds-cnn' and 'other'"):
        build_index([*ENTRIES, twin])


def test_load_of_a_function_is_profile():
    table = workloads.load(lambda w, x: x @ w, jnp.ones((3, 4)), jnp.ones((2, 3)), weights=(0,), name="product")
    assert (table.info.name, table.total("macs"), table.total("weights")) == ("product", 24, 12)


def test_tables_stack_and_vmap():
    tables = [workloads.load(name) for name in workloads.list_networks()]
    batch = workloads.stack(tables)
    assert batch.kind.shape == (4, max(t.n_ops for t in tables))
    macs = jax.vmap(lambda t: jnp.sum(jnp.where(t.mask, t.macs, 0)))(batch)
    np.testing.assert_allclose(macs, [t.total("macs") for t in tables], rtol=1e-6)


def test_import_leaves_flax_alone():
    code = "import sys, workloads; sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=workloads.__path__[0] + "/..").returncode == 0
