"""The rules of TFLite operators: layouts are [batch, height, width, channels].

A rule gets an `Op` whose attributes hold the `step` (kind and options) and the `edges` it reads and makes. Quantised tensors
flow as the integers they are stored as. Products of them are summed in 32 bits,

    sum (x - zero_x) w = sum x w - zero_x sum w,

where the second sum depends on weights alone; other operators work on real numbers and round their result.
Source: the schema of TFLite (tensorflow/compiler/mlir/lite/schema) and its reference kernels.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workloads.importers.nodes import Op, Rules, Unsupported, bounded, check_kernel, concrete, integers
from workloads.importers.tflite.files import Edge
from workloads.importers.tflite.integers import integer_convolution

RULES = Rules()
rule = RULES.rule
ACTIVATIONS = {
    0: None,
    1: (0.0, np.inf),
    2: (-1.0, 1.0),
    3: (0.0, 6.0),
}  # ActivationFunctionType: none, relu, relu in -1..1, relu6


def edge_of(op: Op, place: int) -> Edge:
    """The edge of input number `place`."""
    return op.get("inputs")[place]


def result_of(op: Op, place: int = 0) -> Edge:
    """The edge of output number `place`."""
    return op.get("outputs")[place]


def option(op: Op, name: str, default: Any = 0) -> Any:
    """One field of the operator's options."""
    return op.get("step").option(name, default)


def real(op: Op, place: int) -> Any:
    """Input number `place` as real numbers."""
    value, found = op.inputs[place], edge_of(op, place).quantization
    if found is None or not np.issubdtype(value.dtype, np.integer):
        return value
    rank = np.ndim(value)
    return (value.astype(np.float32) - found.along(found.zero, rank).astype(np.float32)) * found.along(found.scale, rank)


def stored(op: Op, value: Any, place: int = 0, activate: bool = True) -> Any:
    """A real result through the fused activation, as output number `place` is stored."""
    if activate:
        value = activated(op, value)
    return rounded(op, value, place)


def rounded(op: Op, value: Any, place: int = 0) -> Any:
    """A real result as output number `place` is stored."""
    edge = result_of(op, place)
    found = edge.quantization
    if found is None or not np.issubdtype(edge.dtype, np.integer):
        return value.astype(edge.dtype)
    limits, rank = np.iinfo(edge.dtype), np.ndim(value)
    steps = op.xp.round(value / found.along(found.scale, rank)) + found.along(found.zero, rank).astype(np.float32)
    return op.xp.clip(steps, limits.min, limits.max).astype(edge.dtype)


def activated(op: Op, value: Any) -> Any:
    """The fused activation function."""
    number = option(op, "FusedActivationFunction")
    if number == 4:
        return jnp.tanh(value)
    if number not in ACTIVATIONS:
        raise Unsupported(f"node {op.name!r} ({op.kind}): fused activation {number} is not read")
    limits = ACTIVATIONS[number]
    if limits is None:
        return value
    value = op.xp.maximum(value, np.asarray(limits[0], value.dtype))
    return value if limits[1] == np.inf else op.xp.minimum(value, np.asarray(limits[1], value.dtype))


# Products


def _integers(op: Op) -> bool:
    return edge_of(op, 0).quantization is not None and np.issubdtype(op.inputs[0].dtype, np.integer)


def _finish(op: Op, total: Any, under: Any = None) -> Any:
    """Bias, scales and rounding of a product; `under` is what is to be taken off each output channel for the zero point."""
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    if not _integers(op):
        return stored(op, total if bias is None else total + real(op, 2))
    data, weights = edge_of(op, 0).quantization, edge_of(op, 1).quantization
    assert data is not None
    if weights is None:
        raise Unsupported(f"node {op.name!r} ({op.kind}): weights without a scale")
    offset = bias if under is None else -under if bias is None else bias - under
    total = total if offset is None else total + offset
    scale = data.scale.ravel()[0] * weights.scale
    return stored(op, total.astype(np.float32) * (scale if scale.size > 1 else scale.reshape(())))


def _zero(op: Op) -> int:
    found = edge_of(op, 0).quantization
    return 0 if found is None else int(found.zero.ravel()[0])


def _weights(op: Op) -> Any:
    """Weights as they enter a product: integers less their zero (8 bits where that is 0), or real numbers."""
    w, found = op.inputs[1], edge_of(op, 1).quantization
    if not _integers(op):
        return real(op, 1)
    if found is not None and np.any(found.zero):
        return jnp.asarray(w).astype(np.int16) - found.along(found.zero, np.ndim(w)).astype(np.int16)
    return jnp.asarray(w)


def _padding(op: Op) -> str:
    return {0: "SAME", 1: "VALID"}[option(op, "Padding")]


@rule("CONV_2D", "DEPTHWISE_CONV_2D")
def conv(op: Op, x: Any, w: Any, bias: Any = None) -> Any:
    """Convolution; kernels [outputs, height, width, inputs], or [1, height, width, channels] for depthwise ones."""
    deep, w = op.kind == "DEPTHWISE_CONV_2D", _weights(op)
    check_kernel(op, w.shape[1:3])
    strides, dilation = (
        (option(op, "StrideH", 1), option(op, "StrideW", 1)),
        (option(op, "DilationHFactor", 1), option(op, "DilationWFactor", 1)),
    )
    reach = [(k - 1) * d + 1 for k, d in zip(w.shape[1:3], dilation, strict=True)]
    parameters: dict[str, Any] = dict(
        window_strides=strides,
        padding=tuple(tuple(p) for p in jax.lax.padtype_to_pads(x.shape[1:3], reach, strides, _padding(op))),
        lhs_dilation=(1, 1),
        rhs_dilation=dilation,
        dimension_numbers=jax.lax.conv_dimension_numbers(x.shape, w.shape, ("NHWC", "IHWO" if deep else "OHWI", "NHWC")),
        feature_group_count=x.shape[-1] if deep else x.shape[-1] // w.shape[-1],
        batch_group_count=1,
    )
    if not _integers(op):
        return _finish(op, jax.lax.conv_general_dilated(jnp.asarray(real(op, 0)).astype(w.dtype), w, **parameters))
    return _finish(op, integer_convolution(jnp.asarray(x).astype(w.dtype), w, _zero(op), **parameters))


@rule("FULLY_CONNECTED")
def dense(op: Op, x: Any, w: Any, bias: Any = None) -> Any:
    """Products with [outputs, inputs]."""
    weights = jnp.asarray(_weights(op))
    x = jnp.asarray(x if _integers(op) else real(op, 0))
    flat = x.reshape(*(x.shape[:-1] if option(op, "KeepNumDims", False) else (-1,)), w.shape[1])
    if not _integers(op):
        return _finish(op, jnp.matmul(flat, weights.T))
    total = jnp.matmul(flat.astype(weights.dtype), weights.T, preferred_element_type=jnp.int32)
    return _finish(op, total, _zero(op) * jnp.sum(weights.astype(np.int32), axis=1) if _zero(op) else None)


@rule("BATCH_MATMUL")
def batch_matmul(op: Op, a: Any, b: Any) -> Any:
    """Products of matrices, either transposed."""
    left, right = real(op, 0), real(op, 1)
    left = jnp.swapaxes(left, -1, -2) if option(op, "AdjX", False) else left
    right = jnp.swapaxes(right, -1, -2) if option(op, "AdjY", False) else right
    return rounded(op, jnp.matmul(left, right))


@rule("TRANSPOSE_CONV")
def transpose_conv(op: Op, shape: Any, w: Any, x: Any, bias: Any = None) -> Any:
    """The adjoint of a convolution; kernels [outputs, height, width, inputs]."""
    _, height, width, _ = integers(op, shape, "shape")
    kernel, strides = real(op, 1), (option(op, "StrideH", 1), option(op, "StrideW", 1))
    pads = []
    for n, out, k, s in zip(x.shape[1:3], (height, width), kernel.shape[1:3], strides, strict=True):
        before = max((n - 1) * s + k - out, 0) // 2 if _padding(op) == "SAME" else 0
        pads.append((k - 1 - before, out - ((n - 1) * s + 1) + before))
    turned = jnp.flip(jnp.asarray(kernel), (1, 2))
    layout = ("NHWC", "OHWI", "NHWC")
    y = jax.lax.conv_general_dilated(
        jnp.asarray(real(op, 2)), turned, (1, 1), pads, lhs_dilation=strides, dimension_numbers=layout
    )
    return stored(op, y if bias is None else y + real(op, 3), activate=False)


# Pooling and reductions


def _pool(op: Op, x: Any, start: Any, combine: Any) -> Any:
    window = (1, option(op, "FilterHeight"), option(op, "FilterWidth"), 1)
    strides = (1, option(op, "StrideH"), option(op, "StrideW"), 1)
    return jax.lax.reduce_window(jnp.asarray(x), start, combine, window, strides, _padding(op))


@rule("MAX_POOL_2D")
def max_pool(op: Op, x: Any) -> Any:
    """The largest element of each window."""
    lowest = -np.inf if np.issubdtype(x.dtype, np.floating) else np.iinfo(x.dtype).min
    pooled = _pool(op, x, np.asarray(lowest, x.dtype), jax.lax.max)
    return stored(op, pooled) if np.issubdtype(x.dtype, np.floating) else pooled


@rule("AVERAGE_POOL_2D")
def average_pool(op: Op, x: Any) -> Any:
    """The mean of the elements of each window that lie in the image."""
    x = real(op, 0)
    zero = np.zeros((), x.dtype)
    counts = _pool(op, jnp.ones((1, *x.shape[1:3], 1), x.dtype), zero, jax.lax.add)
    return stored(op, _pool(op, x, zero, jax.lax.add) / counts)


REDUCTIONS = {
    "MEAN": "mean",
    "SUM": "sum",
    "REDUCE_MAX": "max",
    "REDUCE_MIN": "min",
    "REDUCE_PROD": "prod",
    "REDUCE_ANY": "any",
    "REDUCE_ALL": "all",
}


@rule(*REDUCTIONS)
def reduce(op: Op, x: Any, axes: Any) -> Any:
    """A reduction over some axes."""
    chosen = tuple(a % np.ndim(x) for a in integers(op, axes, "axes"))
    return rounded(op, getattr(op.xp, REDUCTIONS[op.kind])(real(op, 0), chosen, keepdims=bool(option(op, "KeepDims", False))))


@rule("ARG_MAX", "ARG_MIN")
def arg(op: Op, x: Any, axis: Any) -> Any:
    """The place of the largest or smallest element."""
    pick = op.xp.argmax if op.kind == "ARG_MAX" else op.xp.argmin
    return pick(x, integers(op, axis, "axis")[0]).astype(result_of(op).dtype)


# Element by element

BINARY = {
    "ADD": "add",
    "SUB": "subtract",
    "MUL": "multiply",
    "DIV": "divide",
    "MAXIMUM": "maximum",
    "MINIMUM": "minimum",
    "POW": "power",
    "FLOOR_DIV": "floor_divide",
    "FLOOR_MOD": "mod",
}
COMPARE = {
    "EQUAL": "equal",
    "NOT_EQUAL": "not_equal",
    "GREATER": "greater",
    "GREATER_EQUAL": "greater_equal",
    "LESS": "less",
    "LESS_EQUAL": "less_equal",
}
UNARY = {
    "ABS": "abs",
    "NEG": "negative",
    "EXP": "exp",
    "LOG": "log",
    "SQRT": "sqrt",
    "SQUARE": "square",
    "SIN": "sin",
    "COS": "cos",
    "TANH": "tanh",
    "FLOOR": "floor",
    "CEIL": "ceil",
    "ROUND": "round",
    "SIGN": "sign",
}
LOGICAL = {"LOGICAL_AND": "logical_and", "LOGICAL_OR": "logical_or", "LOGICAL_NOT": "logical_not"}


@rule(*BINARY)
def binary(op: Op, *_: Any) -> Any:
    """Arithmetic on two tensors."""
    value = getattr(op.xp, BINARY[op.kind])(real(op, 0), real(op, 1))
    return stored(op, value, activate=op.kind in ("ADD", "SUB", "MUL", "DIV"))


@rule(*COMPARE, *LOGICAL)
def compare(op: Op, *_: Any) -> Any:
    """A comparison, or logic."""
    return getattr(op.xp, (COMPARE | LOGICAL)[op.kind])(*(real(op, i) for i in range(len(op.inputs))))


@rule(*UNARY)
def unary(op: Op, _: Any) -> Any:
    """A function of one tensor."""
    return rounded(op, getattr(op.xp, UNARY[op.kind])(real(op, 0)))


FUNCTIONS = {
    "LOGISTIC": jax.nn.sigmoid,
    "RSQRT": jax.lax.rsqrt,
    "ELU": jax.nn.elu,
    "HARD_SWISH": jax.nn.hard_swish,
    "RELU": lambda x: jnp.maximum(x, 0),
    "RELU6": lambda x: jnp.clip(x, 0, 6),
    "RELU_N1_TO_1": lambda x: jnp.clip(x, -1, 1),
    "LOG_SOFTMAX": jax.nn.log_softmax,
}


@rule(*FUNCTIONS)
def function(op: Op, _: Any) -> Any:
    """An activation function."""
    return rounded(op, FUNCTIONS[op.kind](jnp.asarray(real(op, 0))))


@rule("LEAKY_RELU")
def leaky_relu(op: Op, _: Any) -> Any:
    """x, or alpha x below zero."""
    x = real(op, 0)
    return rounded(op, jnp.where(x < 0, np.float32(option(op, "Alpha", 0.0)) * x, x))


@rule("PRELU")
def parametric_relu(op: Op, *_: Any) -> Any:
    """x, or slope x below zero."""
    x = real(op, 0)
    return rounded(op, jnp.where(x < 0, real(op, 1) * x, x))


@rule("GELU")
def gelu(op: Op, _: Any) -> Any:
    """x times the normal distribution function, or its tanh form."""
    return rounded(op, jax.nn.gelu(real(op, 0), approximate=bool(option(op, "Approximate", False))))


@rule("SOFTMAX")
def softmax(op: Op, _: Any) -> Any:
    """Over the last axis."""
    return rounded(op, jax.nn.softmax(np.float32(option(op, "Beta", 1.0)) * jnp.asarray(real(op, 0)), axis=-1))


@rule("L2_NORMALIZATION")
def l2_normalise(op: Op, _: Any) -> Any:
    """Divided by the norm over the last axis."""
    x = real(op, 0)
    return stored(op, x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12)))


@rule("SELECT", "SELECT_V2")
def select(op: Op, condition: Any, *_: Any) -> Any:
    """One tensor where a condition holds, else another."""
    return rounded(op, op.xp.where(condition, real(op, 1), real(op, 2)))


@rule("CAST")
def cast(op: Op, x: Any) -> Any:
    """Another type."""
    return x.astype(result_of(op).dtype)


@rule("QUANTIZE", "DEQUANTIZE")
def requantise(op: Op, _: Any) -> Any:
    """Between real numbers and integers."""
    return rounded(op, real(op, 0))


@rule("DENSIFY")
def densify(op: Op, x: Any) -> Any:
    """Sparse weights written out; their numbers matter to nobody who counts operations, their shape does."""
    return x


# Movement


@rule("RESHAPE")
def reshape(op: Op, x: Any, shape: Any = None) -> Any:
    """Another shape."""
    if shape is not None and isinstance(shape, np.ndarray):
        return x.reshape(integers(op, shape, "shape"))
    return x.reshape(result_of(op).shape)


@rule("SQUEEZE")
def squeeze(op: Op, x: Any) -> Any:
    """Without the named dimensions of size 1, or without all of them."""
    options = op.get("step").options
    named = [] if options is None else [options.SqueezeDims(i) % np.ndim(x) for i in range(min(options.SqueezeDimsLength(), 8))]
    return x.reshape([d for i, d in enumerate(x.shape) if (i not in named if named else d != 1)])


@rule("EXPAND_DIMS")
def expand_dims(op: Op, x: Any, axis: Any) -> Any:
    """With a dimension of size 1."""
    return op.xp.expand_dims(x, integers(op, axis, "axis")[0])


@rule("SHAPE")
def shape_of(op: Op, x: Any) -> np.ndarray:
    """The shape; known when the file is read."""
    return np.asarray(np.shape(x), result_of(op).dtype)


@rule("TRANSPOSE")
def transpose(op: Op, x: Any, order: Any) -> Any:
    """Axes in another order."""
    return op.xp.transpose(x, integers(op, order, "order"))


@rule("CONCATENATION")
def concatenate(op: Op, *parts: Any) -> Any:
    """Parts one after the other."""
    same = all(_like(op, i) for i in range(len(parts)))
    values = parts if same else [rounded(op, real(op, i)) for i in range(len(parts))]
    joined = op.xp.concatenate(values, option(op, "Axis"))
    return joined if np.issubdtype(joined.dtype, np.integer) else stored(op, joined)


def _like(op: Op, place: int) -> bool:
    ours, theirs = edge_of(op, place).quantization, result_of(op).quantization
    if ours is None or theirs is None:
        return ours is theirs
    return np.array_equal(ours.scale, theirs.scale) and np.array_equal(ours.zero, theirs.zero)


@rule("PACK")
def pack(op: Op, *parts: Any) -> Any:
    """Parts along a new axis."""
    return op.xp.stack(parts, option(op, "Axis"))


@rule("UNPACK")
def unpack(op: Op, x: Any) -> Any:
    """Slices along an axis that disappears."""
    axis = option(op, "Axis") % np.ndim(x)
    return tuple(op.xp.squeeze(part, axis) for part in op.xp.split(x, x.shape[axis], axis))


@rule("SPLIT")
def split(op: Op, axis: Any, x: Any) -> Any:
    """Equal parts."""
    return tuple(op.xp.split(x, op.n_outputs, integers(op, axis, "axis")[0]))


@rule("SPLIT_V")
def split_sizes(op: Op, x: Any, sizes: Any, axis: Any) -> Any:
    """Parts of given sizes."""
    where = integers(op, axis, "axis")[0] % np.ndim(x)
    wanted = list(integers(op, sizes, "sizes"))
    if -1 in wanted:
        wanted[wanted.index(-1)] = x.shape[where] - sum(w for w in wanted if w >= 0)
    return tuple(op.xp.split(x, np.cumsum(wanted)[:-1].tolist(), where))


@rule("STRIDED_SLICE")
def strided_slice(op: Op, x: Any, begin: Any, end: Any, strides: Any) -> Any:
    """x[begin:end:stride]; bits of masks leave ends open or drop dimensions."""
    if option(op, "EllipsisMask") or option(op, "NewAxisMask"):
        raise Unsupported(f"node {op.name!r} ({op.kind}): ellipsis and new-axis masks are not read")
    picked: list[Any] = []
    for i, (a, b, s) in enumerate(zip(*(integers(op, v, "range") for v in (begin, end, strides)), strict=True)):
        if option(op, "ShrinkAxisMask") >> i & 1:
            picked.append(a)
        else:
            open_begin, open_end = option(op, "BeginMask") >> i & 1, option(op, "EndMask") >> i & 1
            picked.append(slice(None if open_begin else a, None if open_end else b, s))
    return x[tuple(picked)]


@rule("SLICE")
def slice_(op: Op, x: Any, begin: Any, sizes: Any) -> Any:
    """A box of the given sizes (-1: to the end)."""
    box = zip(integers(op, begin, "begin"), integers(op, sizes, "sizes"), strict=True)
    return x[tuple(slice(a, None if n == -1 else a + n) for a, n in box)]


@rule("GATHER")
def gather(op: Op, x: Any, indices: Any) -> Any:
    """x[indices] along an axis."""
    return op.xp.take(x, indices, option(op, "Axis")) if op.xp is np else jnp.take(x, indices, option(op, "Axis"), mode="clip")


@rule("PAD", "PADV2", "MIRROR_PAD")
def pad(op: Op, x: Any, widths: Any, value: Any = None) -> Any:
    """Elements added at both ends of every axis: zeros, a value, or mirrored ones."""
    wanted = concrete(op, widths, "widths").astype(int).tolist()
    if op.kind == "MIRROR_PAD":
        return op.xp.pad(x, wanted, mode="reflect" if option(op, "Mode") == 0 else "symmetric")
    bounded(op, math.prod(n + sum(width) for n, width in zip(x.shape, wanted, strict=True)))
    found = edge_of(op, 0).quantization
    blank = 0 if found is None else int(found.zero.ravel()[0])
    return op.xp.pad(x, wanted, constant_values=op.xp.asarray(blank if value is None else value, x.dtype))


@rule("TILE")
def tile(op: Op, x: Any, repeats: Any) -> Any:
    """Repeated along every axis."""
    counts = integers(op, repeats, "repeats")
    bounded(op, x.size * math.prod(counts))
    return op.xp.tile(x, counts)


@rule("BROADCAST_TO")
def broadcast_to(op: Op, x: Any, shape: Any) -> Any:
    """Broadcast to a shape."""
    return op.xp.broadcast_to(x, integers(op, shape, "shape"))


@rule("FILL")
def fill(op: Op, shape: Any, value: Any) -> Any:
    """One value everywhere."""
    return op.xp.broadcast_to(value, integers(op, shape, "shape"))


@rule("DEPTH_TO_SPACE")
def depth_to_space(op: Op, x: Any) -> Any:
    """Channels become blocks of pixels."""
    n, h, w, c = x.shape
    b = option(op, "BlockSize")
    return x.reshape(n, h, w, b, b, c // b**2).transpose(0, 1, 3, 2, 4, 5).reshape(n, h * b, w * b, c // b**2)


@rule("SPACE_TO_DEPTH")
def space_to_depth(op: Op, x: Any) -> Any:
    """Blocks of pixels become channels."""
    n, h, w, c = x.shape
    b = option(op, "BlockSize")
    return x.reshape(n, h // b, b, w // b, b, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // b, w // b, c * b**2)


@rule("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def resize(op: Op, x: Any, size: Any) -> Any:
    """Another height and width."""
    y = real(op, 0)
    for axis, target in zip((1, 2), integers(op, size, "size"), strict=True):
        y = _resized(op, y, axis, target)
    return rounded(op, y)


def _resized(op: Op, x: Any, axis: int, target: int) -> Any:
    n, place = x.shape[axis], np.arange(target, dtype=np.float64)
    half = option(op, "HalfPixelCenters", False)
    scale = (n - 1) / max(target - 1, 1) if option(op, "AlignCorners", False) and target > 1 else n / target
    source = (place + 0.5) * scale - 0.5 if half and op.kind == "RESIZE_BILINEAR" else place * scale
    if op.kind == "RESIZE_NEAREST_NEIGHBOR":
        source = (place + 0.5) * scale if half else source
        nearest = np.floor(source + 0.5) if option(op, "AlignCorners", False) else np.floor(source)
        return jnp.take(x, np.clip(nearest, 0, n - 1).astype(np.int32), axis)
    low = np.clip(np.floor(source), 0, n - 1)
    share = np.clip(source - low, 0.0, 1.0).astype(x.dtype).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    left, right = (jnp.take(x, v.astype(np.int32), axis) for v in (low, np.clip(low + 1, 0, n - 1)))
    return left + (right - left) * share


@rule("IF")
def branch(op: Op, condition: Any, *given: Any) -> Any:
    """One of two graphs."""
    assert op.subgraph is not None
    run = op.subgraph
    then, other = option(op, "ThenSubgraphIndex"), option(op, "ElseSubgraphIndex")
    if isinstance(condition, np.ndarray):
        return tuple(run(then if bool(np.all(condition)) else other, given))
    arrays = [lambda body=body: tuple(jnp.asarray(v) for v in run(body, given)) for body in (then, other)]
    return jax.lax.cond(jnp.all(condition), *arrays)
