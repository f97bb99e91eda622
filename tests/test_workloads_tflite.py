"""TFLite files, built here with the schema's own functions: counts by hand, numbers against NumPy, and damaged files."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import workloads

tflite = pytest.importorskip("tflite", reason="tflite is not installed: pip install 'tempo-pim[tflite]'")
import flatbuffers  # noqa: E402

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

TYPES = {
    np.dtype(np.float32): tflite.TensorType.FLOAT32,
    np.dtype(np.int8): tflite.TensorType.INT8,
    np.dtype(np.int32): tflite.TensorType.INT32,
}
rng = np.random.default_rng(3)
normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731


class File:
    """A file under construction: tensors are added, then operators on them."""

    def __init__(self):
        self.tensors, self.operators = [], []

    def tensor(self, shape, dtype=np.float32, data=None, scale=None, zero=0, axis=0):
        """A tensor's number; `scale` may be one number or one for each entry along `axis`."""
        self.tensors.append((list(shape), np.dtype(dtype), data, scale, zero, axis))
        return len(self.tensors) - 1

    def constant(self, data, **more):
        return self.tensor(data.shape, data.dtype, data, **more)

    def operator(self, kind, inputs, outputs, options="", **values):
        self.operators.append((kind, inputs, outputs, options, values))

    def write(self, path, inputs, outputs):
        b = flatbuffers.Builder(1024)
        buffers = [self._buffer(b, None)] + [self._buffer(b, t[2]) for t in self.tensors]
        tensors = [self._tensor(b, i) for i in range(len(self.tensors))]
        kinds = sorted({o[0] for o in self.operators})
        codes = [
            self._table(
                b,
                "OperatorCode",
                DeprecatedBuiltinCode=min(getattr(tflite.BuiltinOperator, k), 127),
                BuiltinCode=getattr(tflite.BuiltinOperator, k),
            )
            for k in kinds
        ]
        operators = [self._operator(b, o, kinds) for o in self.operators]
        graph = self._table(
            b,
            "SubGraph",
            Tensors=self._offsets(b, tensors),
            Inputs=self._integers(b, inputs),
            Outputs=self._integers(b, outputs),
            Operators=self._offsets(b, operators),
        )
        vectors = dict(
            OperatorCodes=self._offsets(b, codes), Subgraphs=self._offsets(b, [graph]), Buffers=self._offsets(b, buffers)
        )
        b.Finish(self._table(b, "Model", Version=3, **vectors), file_identifier=b"TFL3")
        path.write_bytes(bytes(b.Output()))

    @staticmethod
    def _table(b, name, **fields):
        getattr(tflite, f"{name}Start")(b)
        for field, value in fields.items():
            getattr(tflite, f"{name}Add{field}")(b, value)
        return getattr(tflite, f"{name}End")(b)

    @staticmethod
    def _integers(b, values):
        return b.CreateNumpyVector(np.asarray(values, np.int32))

    @staticmethod
    def _offsets(b, offsets):
        b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            b.PrependUOffsetTRelative(offset)
        return b.EndVector()

    def _buffer(self, b, data):
        return self._table(b, "Buffer", **({} if data is None else dict(Data=b.CreateByteVector(data.tobytes()))))

    def _tensor(self, b, number):
        shape, dtype, _, scale, zero, axis = self.tensors[number]
        fields = dict(Shape=self._integers(b, shape), Type=TYPES[dtype], Buffer=number + 1, Name=b.CreateString(f"t{number}"))
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            zeros = np.full(scales.shape, zero, np.int64)
            vectors = dict(Scale=b.CreateNumpyVector(scales), ZeroPoint=b.CreateNumpyVector(zeros), QuantizedDimension=axis)
            fields["Quantization"] = self._table(b, "QuantizationParameters", **vectors)
        return self._table(b, "Tensor", **fields)

    def _operator(self, b, operator, kinds):
        kind, inputs, outputs, options, values = operator
        fields = dict(OpcodeIndex=kinds.index(kind), Inputs=self._integers(b, inputs), Outputs=self._integers(b, outputs))
        if options:
            fields |= dict(
                BuiltinOptions=self._table(b, options, **values), BuiltinOptionsType=getattr(tflite.BuiltinOptions, options)
            )
        return self._table(b, "Operator", **fields)


def small(path, quantised=False):
    """3x3 convolution with relu, depthwise 3x3 stride 2, mean over space, dense, softmax: floats, or 8-bit integers.

    Products: conv 8*6*4*(9*2) = 3456; depthwise 4*3*4*9 = 432; dense 4*3 = 12; without padded taps the convolution has
    (8*3-2)*(6*3-2)*4*2 = 2816 and the depthwise one (4*3-1)*(3*3-1)*4 = 352.
    """
    file = File()
    weights = [0.3 * normal(*s) for s in ((4, 3, 3, 2), (4,), (1, 3, 3, 4), (4,), (3, 4), (3,))]
    steps = [0.02, 0.03, 0.05, 0.05, 0.1]  # of the activations
    real = dict(zip(("w", "wb", "d", "db", "f", "fb"), weights, strict=True))
    if not quantised:
        activations = [file.tensor(s) for s in ((1, 8, 6, 2), (1, 8, 6, 4), (1, 4, 3, 4), (1, 4), (1, 3), (1, 3))]
        w, wb, d, db, f, fb = (file.constant(v) for v in weights)
    else:
        scales = {k: np.abs(v).max() / 127 for k, v in real.items()}
        shapes = ((1, 8, 6, 2), (1, 8, 6, 4), (1, 4, 3, 4), (1, 4), (1, 3))
        activations = [
            file.tensor(s, np.int8, scale=v, zero=z) for s, v, z in zip(shapes, steps, (3, -128, 5, 5, 0), strict=True)
        ]
        activations.append(file.tensor((1, 3), np.int8, scale=1 / 256, zero=-128))
        w = file.constant(np.round(real["w"] / scales["w"]).astype(np.int8), scale=np.full(4, scales["w"]), axis=0)
        d = file.constant(np.round(real["d"] / scales["d"]).astype(np.int8), scale=np.full(4, scales["d"]), axis=3)
        f = file.constant(np.round(real["f"] / scales["f"]).astype(np.int8), scale=scales["f"])
        wb = file.constant(np.round(real["wb"] / (steps[0] * scales["w"])).astype(np.int32), scale=steps[0] * scales["w"])
        db = file.constant(np.round(real["db"] / (steps[1] * scales["d"])).astype(np.int32), scale=steps[1] * scales["d"])
        fb = file.constant(np.round(real["fb"] / (steps[3] * scales["f"])).astype(np.int32), scale=steps[3] * scales["f"])
    axes = file.constant(np.asarray([1, 2], np.int32))
    x, a, b, c, e, y = activations
    file.operator("CONV_2D", [x, w, wb], [a], "Conv2DOptions", Padding=0, StrideH=1, StrideW=1, FusedActivationFunction=1)
    file.operator(
        "DEPTHWISE_CONV_2D", [a, d, db], [b], "DepthwiseConv2DOptions", Padding=0, StrideH=2, StrideW=2, DepthMultiplier=1
    )
    file.operator("MEAN", [b, axes], [c], "ReducerOptions", KeepDims=False)
    file.operator("FULLY_CONNECTED", [c, f, fb], [e], "FullyConnectedOptions")
    file.operator("SOFTMAX", [e], [y], "SoftmaxOptions", Beta=1.0)
    file.write(path, [x], [y])
    return real


def by_hand(real, x):
    """The same network in NumPy; SAME padding of a 3x3 window: one zero on each side (stride 2 on an even size: none before)."""
    padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    conv = np.stack([[np.einsum("hwc,ohwc->o", padded[i : i + 3, j : j + 3], real["w"]) for j in range(6)] for i in range(8)])
    hidden = np.maximum(conv + real["wb"], 0)
    padded = np.pad(hidden, ((0, 1), (0, 1), (0, 0)))
    deep = np.stack(
        [
            [np.einsum("hwc,hwc->c", padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3], real["d"][0]) for j in range(3)]
            for i in range(4)
        ]
    )
    logits = (deep + real["db"]).mean((0, 1)) @ real["f"].T + real["fb"]
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


def test_float_network(tmp_path):
    path = tmp_path / "m.tflite"
    real = small(path)
    x = normal(1, 8, 6, 2)
    network = workloads.read_network(path)
    found = jax.jit(network.apply)(network.read_parameters(), x)[0]
    np.testing.assert_allclose(found[0], by_hand(real, x), rtol=1e-4, atol=1e-6)
    table = workloads.load(path)
    assert table.total("macs") == 3456 + 432 + 12
    assert table.total("macs_valid") == 2816 + 352 + 12
    assert table.info.parameters == 72 + 4 + 36 + 4 + 12 + 3
    assert table.info.uncounted == () and set(table.weight_bits[table.macs > 0]) == {32.0}
    # alive in file order at the first operator: 8*6*2 floats of the input and 8*6*4 of its result
    assert network.liveness.peak() == 4 * (96 + 192)


def test_quantised_network_stays_in_integers(tmp_path):
    path = tmp_path / "m.tflite"
    real = small(path, quantised=True)
    x = np.clip(normal(1, 8, 6, 2), -2, 2)
    stored = np.round(x / 0.02 + 3).clip(-128, 127).astype(np.int8)
    network = workloads.read_network(path)
    found = jax.jit(network.apply)(network.read_parameters(), stored)[0]
    assert found.dtype == jnp.int8
    probability = (np.asarray(found[0], float) + 128) / 256
    wanted = by_hand(real, (stored.astype(np.float32) - 3) * np.float32(0.02))
    np.testing.assert_allclose(probability, wanted, atol=0.06)  # steps of the hidden tensors are up to 0.1
    table = workloads.load(path)
    assert table.total("macs") == 3456 + 432 + 12
    assert set(table.weight_bits[table.macs > 0]) == {8.0} and set(table.activation_bits[table.macs > 0]) == {8.0}


def test_gradients_reach_the_weights(tmp_path):
    small(tmp_path / "m.tflite")
    network = workloads.read_network(tmp_path / "m.tflite")
    x = jnp.asarray(normal(1, 8, 6, 2))
    gradient = jax.grad(lambda p: jnp.sum(network.apply(p, x)[0][0, 0]))(network.read_parameters())
    assert all(bool(jnp.isfinite(g).all()) for g in gradient.values())
    assert any(float(jnp.abs(g).max()) > 0 for g in gradient.values())


def test_variables_become_inputs_and_outputs(tmp_path):
    """A streaming sum: state + x, kept for the next call."""
    file = File()
    x, old, new = file.tensor((1, 4)), file.tensor((1, 4)), file.tensor((1, 4))
    handle, w = file.tensor((), np.int32), file.constant(normal(4, 4))
    y = file.tensor((1, 4))
    file.operator("VAR_HANDLE", [], [handle])
    file.operator("READ_VARIABLE", [handle], [old])
    file.operator("ADD", [x, old], [new], "AddOptions")
    file.operator("ASSIGN_VARIABLE", [handle, new], [])
    file.operator("FULLY_CONNECTED", [new, w, -1], [y], "FullyConnectedOptions")
    file.write(tmp_path / "m.tflite", [x], [y])
    network = workloads.read_network(tmp_path / "m.tflite")
    assert len(network.inputs) == 2
    value, state = normal(1, 4), normal(1, 4)
    out, after = network.apply(network.read_parameters(), value, state)
    np.testing.assert_allclose(after, value + state, rtol=1e-6)
    np.testing.assert_allclose(out, (value + state) @ file.tensors[w][2].T, rtol=1e-5, atol=1e-6)
    assert workloads.load(tmp_path / "m.tflite").total("macs") == 16


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a TFLite file"), (b"\x00" * 64, "not a TFLite file"), (b"\x10\x00\x00\x00TFL3" + b"\xff" * 60, "damaged")],
)
def test_what_is_no_file_is_refused(content, message, tmp_path):
    (tmp_path / "m.tflite").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        workloads.load(tmp_path / "m.tflite")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_give_one_line(seed, tmp_path):
    chance = random.Random(seed)
    small(tmp_path / "m.tflite", quantised=seed % 2 == 0)
    content = (tmp_path / "m.tflite").read_bytes()
    refused = 0
    for _ in range(40):
        data = bytearray(content)
        for _ in range(chance.choice((1, 3, 10, 50))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = len(data) if chance.random() < 0.8 else chance.randrange(len(data))
        (tmp_path / "f.tflite").write_bytes(bytes(data[:cut]))
        try:
            workloads.load(tmp_path / "f.tflite")
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and "f.tflite" in str(error)
    assert refused > 0


class Layers(File):
    """Layers by name on top of `File`, weights zero, SAME padding, 32-bit floats."""

    def conv(self, x, out, kernel, stride=1, relu=True, depthwise=False):
        _, h, w, c = self.tensors[x][0]
        y = self.tensor((1, -(-h // stride), -(-w // stride), out))
        weights = self.constant(np.zeros((1, *kernel, out) if depthwise else (out, *kernel, c), np.float32))
        bias = self.constant(np.zeros(out, np.float32))
        kind, options = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
        more = dict(DepthMultiplier=1) if depthwise else {}
        strides = dict(StrideH=stride, StrideW=stride, FusedActivationFunction=int(relu))
        self.operator(kind, [x, weights, bias], [y], options, Padding=0, **strides, **more)
        return y

    def add(self, a, b):
        y = self.tensor(self.tensors[a][0])
        self.operator("ADD", [a, b], [y], "AddOptions", FusedActivationFunction=1)
        return y

    def head(self, x, classes):
        """Average pool over all of space, reshape, dense, softmax."""
        _, h, w, c = self.tensors[x][0]
        pooled, flat, logits, y = (self.tensor(s) for s in ((1, 1, 1, c), (1, c), (1, classes), (1, classes)))
        window = dict(StrideH=h, StrideW=w, FilterHeight=h, FilterWidth=w)
        self.operator("AVERAGE_POOL_2D", [x], [pooled], "Pool2DOptions", Padding=1, **window)
        self.operator("RESHAPE", [pooled, self.constant(np.asarray([-1, c], np.int32))], [flat])
        weights = [self.constant(np.zeros(s, np.float32)) for s in ((classes, c), (classes,))]
        self.operator("FULLY_CONNECTED", [flat, *weights], [logits], "FullyConnectedOptions")
        self.operator("SOFTMAX", [logits], [y], "SoftmaxOptions", Beta=1.0)
        return y


def ds_cnn(path):
    file = Layers()
    inputs = file.tensor((1, 49, 10, 1))
    x = file.conv(inputs, 64, (10, 4), stride=2)
    for _ in range(4):
        x = file.conv(file.conv(x, 64, (3, 3), depthwise=True), 64, (1, 1))
    file.write(path, [inputs], [file.head(x, 12)])


def resnet8(path):
    file = Layers()
    inputs = file.tensor((1, 32, 32, 3))
    x = file.conv(inputs, 16, (3, 3))
    for out, stride in ((16, 1), (32, 2), (64, 2)):
        y = file.conv(file.conv(x, out, (3, 3), stride), out, (3, 3), relu=False)
        x = file.add(file.conv(x, out, (1, 1), 2, relu=False) if stride > 1 else x, y)
    file.write(path, [inputs], [file.head(x, 10)])


@pytest.mark.parametrize(("name", "write"), [("ds-cnn", ds_cnn), ("resnet8", resnet8)])
def test_a_file_and_the_jax_network_give_the_same_rows(name, write, tmp_path):
    """The JAX networks' rows equal those of MLPerf Tiny's own files (tests/test_workloads_networks.py)."""
    write(tmp_path / "m.tflite")
    found, wanted = workloads.load(tmp_path / "m.tflite"), workloads.load(name)
    for column in ("kind", "m", "n", "k", "groups", "macs", "macs_valid", "weights", "inputs", "outputs", "live"):
        np.testing.assert_array_equal(getattr(found, column), getattr(wanted, column), err_msg=column)
    assert (found.info.parameters, found.peak_live) == (wanted.info.parameters, wanted.peak_live)
    assert found.info.edges == wanted.info.edges and found.info.uncounted == ()
