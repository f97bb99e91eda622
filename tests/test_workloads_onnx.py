"""ONNX files: counts and numbers against ONNX Runtime, and files nobody vouches for."""

import math
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import workloads

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'tempo-pim[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: it is the reference of these tests")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

ZOO = Path(onnx.__file__).parent / "backend/test/data/light"

# From running each file under ONNX Runtime 1.31.1 with every intermediate exposed: MACs, constant operands of linear and
# normalising layers, and bytes alive at the peak in file order without aliasing.
LIGHT = {
    "light_bvlc_alexnet": (654_560_384, 60_965_224, 2_239_488),
    "light_inception_v1": (1_431_556_352, 6_998_552, 6_422_528),
    "light_resnet50": (4_089_184_256, 25_610_152, 9_633_792),
    "light_squeezenet": (349_151_936, 1_235_496, 6_308_352),
    "light_zfnet512": (1_481_727_008, 87_250_536, 9_124_608),
}
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_zoo_counts_are_exact(name):
    network = workloads.read_network(ZOO / f"{name}.onnx")
    table = workloads.load(ZOO / f"{name}.onnx")
    macs, parameters, peak = LIGHT[name]
    assert table.total("macs") == macs
    assert table.info.uncounted == ()
    jax.eval_shape(network.apply, network.parameter_shapes(), *network.inputs.values())
    assert network.liveness.peak() == peak
    assert abs(table.info.parameters - parameters) <= 1  # a one-element tensor of the first Inception is no layer's


def make(path, nodes, inputs, outputs, constants=None, opset=17):
    """A file with one graph; inputs and outputs are name: (type, shape), constants arrays."""
    info = {k: helper.make_tensor_value_info(k, t, s) for k, (t, s) in (inputs | outputs).items()}
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", [info[k] for k in inputs], [info[k] for k in outputs], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return model


def compare(path, feeds, tolerance=2e-6, shapes=None):
    """Our function, jitted, against ONNX Runtime."""
    network = workloads.read_network(path, shapes)
    given = {k: v for k, v in feeds.items() if k in network.inputs}
    found = jax.jit(network.apply)(network.read_parameters(), *given.values())
    wanted = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == np.shape(theirs)
        np.testing.assert_allclose(np.asarray(ours, np.float64), np.asarray(theirs, np.float64), rtol=tolerance, atol=tolerance)
    return network


rng = np.random.default_rng(7)
normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
IMAGE = normal(2, 4, 9, 7)

NODES = {  # name: (operator, inputs after x, attributes, operator set)
    "conv": ("Conv", [normal(6, 2, 3, 3), normal(6)], dict(group=2, strides=[2, 1], pads=[1, 0, 1, 2], dilations=[1, 2]), 17),
    "conv same": ("Conv", [normal(5, 4, 2, 3)], dict(auto_pad="SAME_LOWER", strides=[2, 2]), 17),
    "transposed": (
        "ConvTranspose",
        [normal(4, 3, 3, 2), normal(6)],
        dict(group=2, strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 0]),
        17,
    ),
    "max pool": ("MaxPool", [], dict(kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=1), 17),
    "average pool": ("AveragePool", [], dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 17),
    "average with pad": (
        "AveragePool",
        [],
        dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
        17,
    ),
    "batch norm": ("BatchNormalization", [normal(4), normal(4), normal(4), np.abs(normal(4)) + 0.1], dict(epsilon=1e-3), 15),
    "instance norm": ("InstanceNormalization", [normal(4), normal(4)], {}, 17),
    "layer norm": ("LayerNormalization", [normal(7), normal(7)], dict(axis=-1), 17),
    "lrn": ("LRN", [], dict(size=3, alpha=0.01, beta=0.6, bias=1.5), 17),
    "softmax old": ("Softmax", [], dict(axis=2), 11),
    "softmax": ("Softmax", [], dict(axis=1), 13),
    "resize linear": ("Resize", [np.zeros(0, np.float32), np.asarray([1, 1, 1.5, 2], np.float32)], dict(mode="linear"), 13),
    "resize nearest": (
        "Resize",
        [np.zeros(0, np.float32), np.asarray([1, 1, 2, 2], np.float32)],
        dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        13,
    ),
    "slice": ("Slice", [np.asarray([-1, 1]), np.asarray([-100, 6]), np.asarray([2, 3]), np.asarray([-2, 2])], {}, 13),
    "pad": ("Pad", [np.asarray([0, 0, 1, 2, 0, 0, 0, 1]), np.asarray(3.0, np.float32)], {}, 13),
    "pad edge": ("Pad", [np.asarray([0, 0, 1, 2, 0, 0, 0, 1])], dict(mode="edge"), 13),
    "gather": ("Gather", [np.asarray([[0, -1], [2, 1]])], dict(axis=1), 13),
    "reduce": ("ReduceMean", [], dict(axes=[1, -1], keepdims=0), 13),
    "reduce norm": ("ReduceL2", [], dict(axes=[2]), 13),
    "argmax": ("ArgMax", [], dict(axis=1, keepdims=0), 13),
    "depth to space": ("DepthToSpace", [], dict(blocksize=2, mode="CRD"), 13),
    "clip": ("Clip", [np.asarray(-0.5, np.float32), np.asarray(0.75, np.float32)], {}, 13),
    "gelu": ("Gelu", [], {}, 20),
    "hard sigmoid": ("HardSigmoid", [], dict(alpha=0.3, beta=0.4), 13),
    "selu": ("Selu", [], {}, 13),
    "quantise": (
        "QuantizeLinear",
        [np.asarray([0.1, 0.2, 0.05, 0.3], np.float32), np.asarray([3, 5, 0, 9], np.uint8)],
        dict(axis=1),
        13,
    ),
    "power": ("Pow", [np.asarray(3.0, np.float32)], {}, 13),
    "expand": ("Expand", [np.asarray([3, 1, 1, 1, 1])], {}, 13),
    "tile": ("Tile", [np.asarray([1, 2, 1, 3])], {}, 13),
    "cumulative": ("CumSum", [np.asarray(2)], dict(exclusive=1, reverse=1), 14),
    "where": ("Where", [normal(2, 4, 9, 7), normal(7)], {}, 16),
}


@pytest.mark.parametrize("name", sorted(NODES))
def test_operators_compute_what_the_standard_says(name, tmp_path):
    kind, constants, attributes, opset = NODES[name]
    names = [f"c{i}" for i in range(len(constants))]
    x = (IMAGE > 0) if name == "where" else IMAGE
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    kinds = {"argmax": INT, "quantise": TensorProto.UINT8}
    make(
        tmp_path / "m.onnx",
        [node],
        {"x": (TensorProto.BOOL if name == "where" else FLOAT, list(x.shape))},
        {"y": (kinds.get(name, FLOAT), None)},
        dict(zip(names, constants, strict=True)),
        opset,
    )
    compare(tmp_path / "m.onnx", {"x": x}, 2e-5)


@pytest.mark.parametrize(
    ("kind", "gates", "extra"), [("LSTM", 4, {}), ("GRU", 3, {"linear_before_reset": 1}), ("GRU", 3, {}), ("RNN", 1, {})]
)
def test_recurrent_layers(kind, gates, extra, tmp_path):
    x, w, r, b = normal(5, 2, 3), normal(1, gates * 4, 3), normal(1, gates * 4, 4), normal(1, 2 * gates * 4)
    node = helper.make_node(kind, ["x", "w", "r", "b"], ["y", "h"], hidden_size=4, **extra)
    make(tmp_path / "m.onnx", [node], {"x": (FLOAT, [5, 2, 3])}, {"y": (FLOAT, None), "h": (FLOAT, None)}, dict(w=w, r=r, b=b))
    compare(tmp_path / "m.onnx", {"x": x}, 1e-5)
    # per step and sequence: gates x hidden x (inputs + hidden) = gates 4 (3 + 4)
    assert workloads.load(tmp_path / "m.onnx").total("macs") == 5 * 2 * gates * 4 * (3 + 4)


def test_integer_products(tmp_path):
    """ConvInteger and MatMulInteger keep 8-bit operands; NumPy's integers are the reference."""
    x = rng.integers(0, 255, (1, 3, 6, 6)).astype(np.uint8)
    w = rng.integers(-127, 127, (4, 3, 3, 3)).astype(np.int8)
    zero = np.asarray(7, np.uint8)
    node = helper.make_node("ConvInteger", ["x", "w", "z"], ["y"])
    make(
        tmp_path / "m.onnx", [node], {"x": (TensorProto.UINT8, [1, 3, 6, 6])}, {"y": (TensorProto.INT32, None)}, dict(w=w, z=zero)
    )
    network = workloads.read_network(tmp_path / "m.onnx")
    found = network.apply(network.read_parameters(), x)[0]
    centred = x.astype(int) - 7
    wanted = np.zeros((1, 4, 4, 4), int)
    for i in range(4):
        for j in range(4):
            wanted[0, :, i, j] = np.einsum("cij,ocij->o", centred[0, :, i : i + 3, j : j + 3], w.astype(int))
    np.testing.assert_array_equal(found, wanted)
    assert workloads.load(tmp_path / "m.onnx").total("macs") == 4 * 4 * 4 * 27


def branches():
    """y = x W if c else x V W, as a graph with an If."""
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["a"])], "t", [], [helper.make_tensor_value_info("a", FLOAT, [2, 5])]
    )
    nodes = [helper.make_node("MatMul", ["x", "v"], ["t"]), helper.make_node("MatMul", ["t", "w"], ["b"])]
    other = helper.make_graph(nodes, "e", [], [helper.make_tensor_value_info("b", FLOAT, [2, 5])])
    return helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)


def test_branches_follow_a_given_value_or_count_the_heavier_one(tmp_path):
    constants = dict(w=normal(5, 5), v=normal(5, 5))
    inputs = {"x": (FLOAT, [2, 5]), "c": (TensorProto.BOOL, [])}
    make(tmp_path / "m.onnx", [branches()], inputs, {"y": (FLOAT, [2, 5])}, constants)
    x = normal(2, 5)
    for value in (True, False):
        compare(tmp_path / "m.onnx", {"x": x, "c": np.asarray(value)}, 1e-5, {"c": np.asarray(value)})
        compare(tmp_path / "m.onnx", {"x": x, "c": np.asarray(value)}, 1e-5)
    assert workloads.load(tmp_path / "m.onnx", shapes={"c": np.asarray(True)}).total("macs") == 50
    table = workloads.load(tmp_path / "m.onnx")
    assert table.total("macs") == 100 and any("cond" in flag for flag in table.info.flags)


def test_loops_run_their_body_as_often_as_they_say(tmp_path):
    """y = x W^3: a Loop of three trips."""
    body = helper.make_graph(
        [helper.make_node("MatMul", ["s", "w"], ["n"]), helper.make_node("Identity", ["go"], ["again"])],
        "b",
        [
            helper.make_tensor_value_info(k, t, s)
            for k, t, s in (("i", INT, []), ("go", TensorProto.BOOL, []), ("s", FLOAT, [2, 4]))
        ],
        [helper.make_tensor_value_info(k, t, s) for k, t, s in (("again", TensorProto.BOOL, []), ("n", FLOAT, [2, 4]))],
    )
    node = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)
    constants = dict(w=0.3 * normal(4, 4), trips=np.asarray(3))
    make(tmp_path / "m.onnx", [node], {"x": (FLOAT, [2, 4])}, {"y": (FLOAT, [2, 4])}, constants)
    compare(tmp_path / "m.onnx", {"x": normal(2, 4)}, 1e-5)
    assert workloads.load(tmp_path / "m.onnx").total("macs") == 3 * 2 * 4 * 4


def dynamic(path):
    """Flatten by Shape, Gather and Concat, as exporters write it, then a product."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["m"]),
        helper.make_node("Concat", ["m", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    constants = dict(zero=np.asarray(0), axis=np.asarray([0]), rest=np.asarray([-1]), w=normal(12, 5))
    return make(path, nodes, {"x": (FLOAT, ["batch", 3, "side"])}, {"y": (FLOAT, ["batch", 5])}, constants)


def test_symbolic_dimensions_are_bound_by_the_user(tmp_path):
    path = tmp_path / "m.onnx"
    dynamic(path)
    compare(path, {"x": normal(6, 3, 4)}, 1e-5, {"x": (6, 3, 4)})
    assert workloads.load(path, shapes={"side": 4, "batch": 2}).total("macs") == 2 * 12 * 5
    assert workloads.load(path, shapes={"side": 4}).total("macs") == 12 * 5  # an unknown batch is one
    for shapes, message in (
        (None, r"input 'x' has shape \[batch, 3, side\]: say which"),
        ({"x": (1, 3)}, "does not fit the declared"),
        ({"x": (1, 2, 4)}, "does not fit the declared"),
        ({"z": (1,)}, "'z' is no input or dimension"),
        ({"side": 5}, "m.onnx: "),  # 15 features do not fit the product
    ):
        with pytest.raises(ValueError, match=message):
            workloads.load(path, shapes=shapes)


def test_profiles_do_not_read_weights(tmp_path, monkeypatch):
    """A layer of 10,000 weights: its numbers are read for a run, never for a profile."""
    from workloads.importers.onnx.files import Stored

    read, plain = [], Stored.read
    monkeypatch.setattr(Stored, "read", lambda tensor: read.append(tensor.name) or plain(tensor))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    make(tmp_path / "m.onnx", [node], {"x": (FLOAT, [1, 100])}, {"y": (FLOAT, [1, 100])}, dict(w=normal(100, 100)))
    assert workloads.load(tmp_path / "m.onnx").total("macs") == 10_000 and read == []
    workloads.read_network(tmp_path / "m.onnx").read_parameters()
    assert read == ["w"]


def test_gradients_reach_the_weights(tmp_path):
    path = tmp_path / "m.onnx"
    dynamic(path)
    network = workloads.read_network(path, {"side": 4})
    parameters = network.read_parameters()
    gradient = jax.grad(lambda p: jnp.sum(network.apply(p, jnp.ones((1, 3, 4)))[0]))(parameters)
    np.testing.assert_allclose(gradient["w"], np.ones((12, 5)))


def test_external_data_stays_in_the_folder(tmp_path):
    path = tmp_path / "in" / "m.onnx"
    path.parent.mkdir()
    (tmp_path / "secret").write_bytes(bytes(240))
    model = dynamic(path)
    onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=True, location="w.bin", size_threshold=100)
    assert workloads.load(path, shapes={"side": 4}).total("macs") == 60
    stored = onnx.load(path, load_external_data=False)
    tensor = next(t for t in stored.graph.initializer if t.name == "w")
    for location in ("../secret", str(tmp_path / "secret"), "", "missing.bin"):
        next(e for e in tensor.external_data if e.key == "location").value = location
        path.write_bytes(stored.SerializeToString())
        with pytest.raises(ValueError, match="tensor 'w': its data"):
            workloads.load(path, shapes={"side": 4})
    (path.parent / "link").symlink_to(tmp_path / "secret")
    next(e for e in tensor.external_data if e.key == "location").value = "link"
    path.write_bytes(stored.SerializeToString())
    with pytest.raises(ValueError, match="outside the model's folder"):
        workloads.load(path, shapes={"side": 4})


def test_unknown_operators_are_listed_and_strict_refuses_them(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["t"]),
        helper.make_node("Frobnicate", ["t"], ["y"], domain="org.example"),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("org.example", 1)]
    info = [helper.make_tensor_value_info(k, FLOAT, s) for k, s in (("x", [2, 3]), ("y", [2, 4]))]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [numpy_helper.from_array(normal(3, 4), "w")])
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "m.onnx")
    table = workloads.load(tmp_path / "m.onnx")
    assert table.info.uncounted == (("org.example::Frobnicate", 1),)
    with pytest.raises(ValueError, match=r"no rule for org\.example::Frobnicate"):
        workloads.load(tmp_path / "m.onnx", strict=True)


def test_bombs_are_refused(tmp_path):
    """A few bytes that ask for terabytes, or for ever."""
    huge = np.asarray([1 << 20, 1 << 20])
    chains = {
        "range": [helper.make_node("Range", ["lo", "hi", "one"], ["r"]), helper.make_node("Gather", ["r", "lo"], ["g"])],
        "tile": [helper.make_node("Tile", ["pair", "huge"], ["r"]), helper.make_node("Gather", ["r", "lo"], ["g"])],
    }
    constants = dict(lo=np.asarray(0), hi=np.asarray(1 << 60), one=np.asarray(1), pair=np.ones((2, 2), np.int64), huge=huge)
    for nodes in chains.values():
        last = [helper.make_node("Cast", ["g"], ["f"], to=1), helper.make_node("Add", ["x", "f"], ["y"])]
        make(tmp_path / "m.onnx", nodes + last, {"x": (FLOAT, [2])}, {"y": (FLOAT, None)}, constants)
        with pytest.raises(ValueError, match="from constants alone"):
            workloads.load(tmp_path / "m.onnx")


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Cut, flipped or overwritten somewhere."""
    data = bytearray(content)
    if chance.random() < 0.2:
        return bytes(data[: chance.randrange(len(data))])
    for _ in range(chance.choice((1, 3, 10))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_give_one_line(seed, tmp_path):
    chance = random.Random(seed)
    dynamic(tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    refused = 0
    for _ in range(40):
        (tmp_path / "f.onnx").write_bytes(mutated(content, chance))
        try:
            table = workloads.load(tmp_path / "f.onnx", shapes={"side": 4})
            assert math.isfinite(float(table.total("macs")))
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and "f.onnx" in str(error)
    assert refused > 0


def test_the_cache_knows_content_not_objects(tmp_path):
    from workloads.importers.cache import PROFILES

    PROFILES.clear()
    dynamic(tmp_path / "a.onnx")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.onnx").write_bytes((tmp_path / "a.onnx").read_bytes())
    first = workloads.load(tmp_path / "a.onnx", shapes={"side": 4})
    misses = workloads.profile_cache_info().misses
    assert workloads.load(tmp_path / "b" / "a.onnx", shapes={"side": 4}) is first
    assert workloads.profile_cache_info().misses == misses and workloads.profile_cache_info().hits == 1
    dynamic(tmp_path / "a.onnx")  # other weights: another content
    workloads.load(tmp_path / "a.onnx", shapes={"side": 4})
    assert workloads.profile_cache_info().misses > misses
    functions = [lambda x, k=k: (x * k) @ jnp.ones((3, 2 + k)) for k in (1, 2)]
    tables = [workloads.profile(f, jnp.ones((4, 3)), name="f") for f in functions]
    assert [t.total("macs") for t in tables] == [4 * 3 * 3, 4 * 3 * 4]
    assert workloads.profile(lambda x: (x * 1) @ jnp.ones((3, 3)), jnp.ones((4, 3)), name="f") is tables[0]
