"""The larger networks: published sizes, crossbar counts and cycles, graphs, folding and training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import workloads
from workloads import OpKind
from workloads.networks import vision

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

# CLSA-CIM, Pelke et al., DATE 2024, benchmark table: base layers and crossbars (256 x 256) that hold every layer once.
PUBLISHED = {
    "tiny-yolo-v3": (13, 142),
    "tiny-yolo-v4": (21, 117),
    "vgg16": (13, 233),
    "vgg19": (16, 314),
    "resnet50": (53, 390),
    "resnet101": (104, 679),
    "resnet152": (155, 936),
}
# Output places of all convolutions, computed by hand from the published layer tables (independent of this package).
PLACES = {
    "tiny-yolo-v3": 232_882,
    "tiny-yolo-v4": 113_061,
    "vgg16": 137_788,
    "vgg19": 141_904,
    "resnet50": 58_310,
    "resnet101": 68_306,
    "resnet152": 85_358,
}
# keras.applications, include_top=False: parameters with the moving statistics
KERAS_PARAMETERS = {
    "vgg16": 14_714_688,
    "vgg19": 20_024_384,
    "resnet50": 23_587_712,
    "resnet101": 42_658_176,
    "resnet152": 58_370_944,
}
# darknet prints these for 416 x 416: 5.571 and 6.910 "BFLOPS" = 2 multiply-accumulates each / 1e9
DARKNET = {"tiny-yolo-v3": 5.571e9, "tiny-yolo-v4": 6.910e9}


def products(table):
    return np.flatnonzero(np.asarray(table.macs) > 0)


def crossbars(table, rows=256, columns=256):
    """ceil(K / rows) ceil(N / columns) of every product, in integers."""
    return [-(-int(table.k[i]) // rows) * -(-int(table.n[i]) // columns) for i in products(table)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_layers_crossbars_and_cycles(name):
    table = workloads.load(name)
    assert (len(products(table)), sum(crossbars(table))) == PUBLISHED[name]
    assert int(table.m[products(table)].sum()) == PLACES[name]
    assert table.info.uncounted == () and table.info.flags == ()
    assert set(np.asarray(table.kind)[products(table)]) == {int(OpKind.CONV)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_edges_carry_the_graph(name):
    table = workloads.load(name)
    consumers = {consumer for _, consumer in table.info.edges}
    assert consumers == set(range(1, table.n_ops))  # only the first operation reads the image alone
    assert all(producer < consumer for producer, consumer in table.info.edges)
    sinks = set(range(table.n_ops)) - {producer for producer, _ in table.info.edges}
    assert len(sinks) == (2 if "yolo" in name else 1)


def test_residual_and_route_edges():
    table = workloads.load("resnet50")
    names = table.info.op_names
    adds = [i for i, name in enumerate(names) if name.endswith("add")]
    assert len(adds) == 16 and all(sum(c == add for _, c in table.info.edges) == 2 for add in adds)
    table = workloads.load("tiny-yolo-v4")
    last = table.info.op_names.index("conv19/linear/conv")
    (joined,) = [p for p, c in table.info.edges if c == last]
    sources = {table.info.op_names[p] for p, c in table.info.edges if c == joined}
    assert sources == {"conv18/linear/conv", "conv13/linear/conv"}


@pytest.mark.parametrize("name", KERAS_PARAMETERS)
def test_parameters_equal_keras(name):
    network = workloads.load_network(name)
    image = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
    variables = jax.eval_shape(network.module.init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == KERAS_PARAMETERS[name]
    assert jax.eval_shape(network.module.apply, variables, image).shape == (1, network.n_outputs)


@pytest.mark.parametrize("name", DARKNET)
def test_work_equals_darknet(name):
    assert 2 * workloads.load(name).total("macs") == pytest.approx(DARKNET[name], rel=5e-3)


def test_tiny_yolo_v4_layer_by_layer():
    table = workloads.load("tiny-yolo-v4")
    rows = products(table)
    # kernel volume, outputs, places of the source's layer table: the strided stem, one block, the head that is joined
    assert [int(table.k[i]) for i in rows[:6]] == [27, 288, 576, 288, 288, 64]
    assert [int(table.m[i]) for i in rows] == [43264, *[10816] * 5, *[2704] * 4, *[676] * 4, *[169] * 5, 676, 676]
    assert crossbars(table) == [1, 2, 3, 2, 2, 1, 5, 3, 3, 1, 9, 5, 5, 1, 36, 2, 18, 2, 1, 14, 1]


@pytest.mark.parametrize(("module", "expected"), [("VGG16", 2121), ("VGG19", 2202), ("ResNet50", 422), ("ResNet101", 711)])
def test_with_a_classifier(module, expected):
    """The published counts leave the classifier out: with it, VGG16 would need 2121 crossbars."""
    network = getattr(vision, module)(n_classes=1000, folded=True)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    table = workloads.profile(network.apply, variables, image, weights=(0,))
    assert sum(crossbars(table)) == expected


def test_stride_on_the_second_convolution():
    """The later form of ResNet50 needs as many crossbars and more cycles."""
    network = vision.ResNet50(stride_first=False, folded=True)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    table = workloads.profile(network.apply, variables, image, weights=(0,))
    assert sum(crossbars(table)) == 390 and int(table.m[products(table)].sum()) == 61_397


def small(module):
    """The same kind of network, small enough to run in a test."""
    blocks = {vision.ResNet50: {"blocks": (1, 1)}, vision.VGG16: {"depths": (1, 1), "widths": (4, 8)}}
    return module(**blocks.get(module, {}))


@pytest.mark.parametrize("module", [vision.ResNet50, vision.VGG16])
def test_folded_network_computes_the_same(module):
    network, x = small(module), jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        base = float(path[-1].key in ("var", "scale"))
        spread = 0.3 if leaf.ndim == 1 else np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return (base + rng.uniform(-spread, spread, leaf.shape)).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    folded = workloads.fold_batch_norm(variables) if "batch_stats" in variables else variables
    expected = network.apply(variables, x)
    np.testing.assert_allclose(network.clone(folded=True).apply(folded, x), expected, rtol=1e-3, atol=1e-3)
    assert float(jnp.abs(expected).max()) > 0.01


def test_gradients_reach_every_parameter():
    network, x = small(vision.ResNet50), jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    rng = np.random.default_rng(2)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.05, 0.2, leaf.shape).astype(np.float32), shapes)

    def loss(params):
        output, _ = network.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(output**2)

    gradients = jax.tree_util.tree_flatten_with_path(jax.grad(loss)(variables["params"]))[0]
    assert all(np.isfinite(g).all() for _, g in gradients)
    kernels = [g for path, g in gradients if path[-1].key == "kernel"]
    assert all(np.abs(g).max() > 0 for g in kernels)


def test_upsampling_repeats_pixels():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(vision.upsample(x)[0, :, :, 0], np.kron(np.arange(6.0).reshape(2, 3), np.ones((2, 2))))


def test_names():
    assert workloads.list_networks("vision") == tuple(PUBLISHED)
    assert not set(workloads.list_networks()) & set(PUBLISHED)  # the default stays the suite of the studies
    assert workloads.load("TinyYOLOv4") is workloads.load("tiny-yolo-v4") is workloads.load("yolov4-tiny")
    with pytest.raises(ValueError, match="unknown suite 'cifar'; known: mlperf-tiny, vision"):
        workloads.list_networks("cifar")
    with pytest.raises(ValueError, match="unknown network 'resnet51'; close: resnet50"):
        workloads.load("resnet51")
