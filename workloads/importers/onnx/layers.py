"""Rules of the layers of a network: products, convolutions, pooling, normalisation, resizing; quantised ones too."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workloads.importers.nodes import Op, Unsupported, check_kernel, concrete
from workloads.importers.onnx.elementwise import quantize
from workloads.importers.onnx.rules import axis_of, rule
from workloads.importers.resampling import linear, nearest

# Products


@rule("MatMul")
def matmul(op: Op, left: Any, right: Any) -> Any:
    """Products of matrices, broadcast over leading dimensions."""
    return op.xp.matmul(left, right)


@rule("Gemm")
def gemm(op: Op, a: Any, b: Any, c: Any = None) -> Any:
    """alpha A B + beta C, either transposed."""
    a, b = (a.T if op.get("transA", 0) else a), (b.T if op.get("transB", 0) else b)
    product = _scaled(op.xp.matmul(a, b), op.get("alpha", 1.0))
    return product if c is None else product + _scaled(c, op.get("beta", 1.0))


def _scaled(x: Any, factor: float) -> Any:
    return x if factor == 1.0 else x * np.asarray(factor, x.dtype)


@rule("MatMulInteger")
def matmul_integer(op: Op, a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> Any:
    """8-bit integers less their zero points, summed in 32 bits."""
    return jnp.matmul(_centred(a, a_zero), _centred(b, b_zero), preferred_element_type=jnp.int32)


@rule("QLinearMatMul")
def qlinear_matmul(
    op: Op, a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any, y_scale: Any, y_zero: Any
) -> Any:
    """Integers in, integers out."""
    total = jnp.matmul(_centred(a, a_zero), _centred(b, b_zero), preferred_element_type=jnp.int32)
    return quantize(op, total.astype(np.float32) * (a_scale * b_scale), y_scale, y_zero)


def _centred(x: Any, zero: Any) -> Any:
    """x less its zero point, in as few bits as hold it: nothing to do where the zero point is 0."""
    if zero is None or (isinstance(zero, np.ndarray) and not np.any(zero)):
        return x
    wide = x.astype(np.int16)
    return wide - zero.astype(np.int16)


# Windows: convolutions and pooling


def _pads(
    op: Op, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """Zeros before and after each spatial dimension, from `pads` or `auto_pad`."""
    rank, auto = len(kernel), op.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = op.get("pads", [0] * (2 * rank))
        return [(int(pads[i]), int(pads[i + rank])) for i in range(rank)]
    if auto == "VALID":
        return [(0, 0)] * rank
    found = []
    for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small = total // 2
        found.append((small, total - small) if auto == "SAME_UPPER" else (total - small, small))
    return found


def _window(op: Op, rank: int) -> tuple[list[int], list[int]]:
    return list(op.get("strides", [1] * rank)), list(op.get("dilations", [1] * rank))


def convolve(op: Op, x: Any, w: Any, accumulate: Any = None) -> Any:
    """Convolution of [batch, channels, space...] with [outputs, channels / groups, space...]."""
    rank = x.ndim - 2
    check_kernel(op, w.shape[2:])
    strides, dilations = _window(op, rank)
    pads = _pads(op, x.shape[2:], w.shape[2:], strides, dilations)
    space = "DHW"[-rank:] if rank <= 3 else None
    if space is None:
        raise Unsupported(f"node {op.name!r} ({op.kind}): {rank} spatial dimensions are not read, at most 3")
    layout = (f"NC{space}", f"OI{space}", f"NC{space}")
    groups = int(op.get("group", 1))
    return jax.lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(w),
        strides,
        pads,
        rhs_dilation=dilations,
        dimension_numbers=layout,
        feature_group_count=groups,
        preferred_element_type=accumulate,
    )


def _with_bias(x: Any, bias: Any) -> Any:
    return x if bias is None else x + bias.reshape(-1, *([1] * (x.ndim - 2)))


@rule("Conv")
def conv(op: Op, x: Any, w: Any, bias: Any = None) -> Any:
    """Convolution."""
    return _with_bias(convolve(op, x, w), bias)


@rule("ConvInteger")
def conv_integer(op: Op, x: Any, w: Any, x_zero: Any = None, w_zero: Any = None) -> Any:
    """8-bit integers less their zero points, summed in 32 bits."""
    left, right = _centred(x, x_zero), _centred(w, w_zero)
    common = np.promote_types(left.dtype, right.dtype)
    return convolve(op, left.astype(common), right.astype(common), jnp.int32)


@rule("QLinearConv")
def qlinear_conv(
    op: Op, x: Any, x_scale: Any, x_zero: Any, w: Any, w_scale: Any, w_zero: Any, y_scale: Any, y_zero: Any, bias: Any = None
) -> Any:
    """Integers in, integers out; weights may have one scale for each output channel."""
    left, right = _centred(x, x_zero), _centred(w, w_zero)
    common = np.promote_types(left.dtype, right.dtype)
    total = _with_bias(convolve(op, left.astype(common), right.astype(common), jnp.int32), bias)
    scale = (x_scale * w_scale).reshape(-1, *([1] * (x.ndim - 2)))
    return quantize(op, total.astype(np.float32) * scale, y_scale, y_zero)


@rule("ConvTranspose")
def conv_transpose(op: Op, x: Any, w: Any, bias: Any = None) -> Any:
    """The adjoint of a convolution: weights [channels, outputs / groups, space...]."""
    rank = x.ndim - 2
    strides, dilations = _window(op, rank)
    check_kernel(op, w.shape[2:])
    kernel, extra = w.shape[2:], list(op.get("output_padding", [0] * rank))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    wanted = op.get("output_shape")
    if wanted is not None or op.get("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID"):
        wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)] if wanted is None else wanted[-rank:]
        totals = [
            max(s * (n - 1) + e + r - o, 0) for s, n, e, r, o in zip(strides, x.shape[2:], extra, reach, wanted, strict=True)
        ]
        upper = op.get("auto_pad", "NOTSET") == "SAME_UPPER"
        pads = [(t // 2, t - t // 2) if upper else (t - t // 2, t // 2) for t in totals]
    else:
        pads = _pads(op, x.shape[2:], kernel, strides, dilations)
    groups = int(op.get("group", 1))
    turned = jnp.flip(jnp.asarray(w), tuple(range(2, 2 + rank)))
    turned = turned.reshape(groups, w.shape[0] // groups, *w.shape[1:]).swapaxes(1, 2)
    turned = turned.reshape(groups * w.shape[1], w.shape[0] // groups, *kernel)
    space = "DHW"[-rank:]
    result = jax.lax.conv_general_dilated(
        jnp.asarray(x),
        turned,
        [1] * rank,
        [(r - 1 - lo, r - 1 - hi + e) for r, (lo, hi), e in zip(reach, pads, extra, strict=True)],
        lhs_dilation=strides,
        rhs_dilation=dilations,
        dimension_numbers=(f"NC{space}", f"OI{space}", f"NC{space}"),
        feature_group_count=groups,
    )
    return _with_bias(result, bias)


def _pool(op: Op, x: Any, start: Any, combine: Any) -> tuple[Any, list[int], list[tuple[int, int]]]:
    kernel = list(op.get("kernel_shape"))
    check_kernel(op, kernel)
    strides, dilations = _window(op, len(kernel))
    pads = _pads(op, x.shape[2:], kernel, strides, dilations)
    if op.get("ceil_mode", 0):
        for i, (n, k, s, d, (lo, hi)) in enumerate(zip(x.shape[2:], kernel, strides, dilations, list(pads), strict=True)):
            span = (k - 1) * d + 1
            outputs = -(-(n + lo + hi - span) // s) + 1
            outputs -= (outputs - 1) * s >= n + lo  # a window that would start in the padding is left out
            pads[i] = (lo, max((outputs - 1) * s + span - n - lo, 0))
    full = [(0, 0), (0, 0), *pads]
    ones = (1, 1)
    pooled = jax.lax.reduce_window(
        jnp.asarray(x), start, combine, (*ones, *kernel), (*ones, *strides), full, window_dilation=(*ones, *dilations)
    )
    return pooled, kernel, pads


@rule("MaxPool")
def max_pool(op: Op, x: Any) -> Any:
    """The largest element of each window."""
    if op.n_outputs > 1:
        raise Unsupported(f"node {op.name!r} (MaxPool): its second output, the indices, is not read")
    lowest = -np.inf if np.issubdtype(x.dtype, np.floating) else np.iinfo(x.dtype).min
    return _pool(op, x, np.asarray(lowest, x.dtype), jax.lax.max)[0]


@rule("AveragePool")
def average_pool(op: Op, x: Any) -> Any:
    """The mean of each window, of the elements inside the image unless `count_include_pad`."""
    total, kernel, pads = _pool(op, x, np.zeros((), x.dtype), jax.lax.add)
    if not any(lo or hi for lo, hi in pads):
        return total / np.asarray(math.prod(kernel), x.dtype)
    strides, dilations = _window(op, len(kernel))
    counts = np.ones((), np.float64)
    declared = _pads(op, x.shape[2:], kernel, strides, dilations)
    for axis, (n, k, s, d) in enumerate(zip(x.shape[2:], kernel, strides, dilations, strict=True)):
        low, high = declared[axis]
        first, last = (-low, n + high) if op.get("count_include_pad", 0) else (0, n)
        places = -low + s * np.arange(total.shape[2 + axis])[:, None] + d * np.arange(k)
        counts = counts[..., None] * np.sum((places >= first) & (places < last), axis=1)
    return total / counts.astype(x.dtype)


@rule("GlobalAveragePool", "GlobalMaxPool")
def global_pool(op: Op, x: Any) -> Any:
    """The mean or maximum over space."""
    reduce = jnp.mean if op.kind == "GlobalAveragePool" else jnp.max
    return reduce(x, axis=tuple(range(2, x.ndim)), keepdims=True)


@rule("LpPool", "GlobalLpPool")
def lp_pool(op: Op, x: Any) -> Any:
    """The p-norm of each window."""
    p = float(op.get("p", 2))
    powers = jnp.abs(x) ** p
    if op.kind == "GlobalLpPool":
        return jnp.sum(powers, axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)
    return _pool(op, powers, np.zeros((), x.dtype), jax.lax.add)[0] ** (1 / p)


# Normalisation


def _channels(values: Any, rank: int) -> Any:
    return values.reshape(-1, *([1] * (rank - 2)))


@rule("BatchNormalization")
def batch_norm(op: Op, x: Any, scale: Any, bias: Any, mean: Any, variance: Any) -> Any:
    """With stored statistics; factors that depend on parameters alone are computed once."""
    factor = jnp.asarray(scale) / jnp.sqrt(jnp.asarray(variance) + np.asarray(op.get("epsilon", 1e-5), variance.dtype))
    offset = jnp.asarray(bias) - jnp.asarray(mean) * factor
    return x * _channels(factor, x.ndim).astype(x.dtype) + _channels(offset, x.ndim).astype(x.dtype)


@rule("InstanceNormalization")
def instance_norm(op: Op, x: Any, scale: Any, bias: Any) -> Any:
    """Each channel of each image by its own mean and variance."""
    return _standardised(op, x, tuple(range(2, x.ndim))) * _channels(scale, x.ndim) + _channels(bias, x.ndim)


@rule("GroupNormalization")
def group_norm(op: Op, x: Any, scale: Any, bias: Any) -> Any:
    """Groups of channels by their own mean and variance."""
    groups = int(op.get("num_groups"))
    split = x.reshape(x.shape[0], groups, -1)
    scale, bias = (jnp.repeat(v, x.shape[1] // groups) if v.shape[0] == groups else v for v in (scale, bias))
    return _standardised(op, split, (2,)).reshape(x.shape) * _channels(scale, x.ndim) + _channels(bias, x.ndim)


@rule("LayerNormalization")
def layer_norm(op: Op, x: Any, scale: Any, bias: Any = None) -> Any:
    """From `axis` on, by mean and variance."""
    y = _standardised(op, x, tuple(range(axis_of(op, x, -1), x.ndim))) * scale
    return y if bias is None else y + bias


@rule("RMSNormalization", "SimplifiedLayerNormalization")
def rms_norm(op: Op, x: Any, scale: Any) -> Any:
    """From `axis` on, by the root of the mean square."""
    axes = tuple(range(axis_of(op, x, -1), x.ndim))
    return x * jax.lax.rsqrt(jnp.mean(x * x, axes, keepdims=True) + op.get("epsilon", 1e-5)) * scale


def _standardised(op: Op, x: Any, axes: tuple[int, ...]) -> Any:
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred * centred, axes, keepdims=True) + op.get("epsilon", 1e-5))


@rule("LpNormalization")
def lp_norm(op: Op, x: Any) -> Any:
    """Divided by the norm along `axis`."""
    order = int(op.get("p", 2))
    return x / jnp.linalg.norm(x, ord=order, axis=axis_of(op, x, -1), keepdims=True)


@rule("Softmax", "LogSoftmax")
def softmax(op: Op, x: Any) -> Any:
    """Along `axis`; before set 13 over everything from `axis` on."""
    function = jax.nn.softmax if op.kind == "Softmax" else jax.nn.log_softmax
    if op.version >= 13:
        return function(x, axis=axis_of(op, x, -1))
    axis = axis_of(op, x, 1)
    if axis == x.ndim - 1:
        return function(x, axis=axis)
    return function(x.reshape(math.prod(x.shape[:axis]), -1), axis=-1).reshape(x.shape)


@rule("LRN")
def local_response(op: Op, x: Any) -> Any:
    """Local response normalisation over neighbouring channels."""
    size = int(op.get("size"))
    before = (size - 1) // 2
    window = (1, size, *([1] * (x.ndim - 2)))
    pads = [(0, 0), (before, size - 1 - before), *([(0, 0)] * (x.ndim - 2))]
    total = jax.lax.reduce_window(x * x, np.zeros((), x.dtype), jax.lax.add, window, (1,) * x.ndim, pads)
    scale = np.asarray(op.get("alpha", 1e-4) / size, x.dtype)
    return x / (np.asarray(op.get("bias", 1.0), x.dtype) + scale * total) ** np.asarray(op.get("beta", 0.75), x.dtype)


# Resizing


@rule("Resize", "Upsample")
def resize(op: Op, x: Any, *inputs: Any) -> Any:
    """Nearest or linear interpolation along every axis whose size changes."""
    scales, sizes = _resize_inputs(op, inputs)
    axes = [int(a) % x.ndim for a in op.get("axes", range(x.ndim))]
    target, factor = list(x.shape), [1.0] * x.ndim
    for i, axis in enumerate(axes):
        target[axis] = int(sizes[i]) if sizes is not None else int(np.floor(x.shape[axis] * scales[i]))
        factor[axis] = target[axis] / x.shape[axis] if sizes is not None else float(scales[i])
    mode = op.get("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        raise Unsupported(f"node {op.name!r} ({op.kind}): mode {mode!r} is not read, only nearest and linear")
    for axis in range(x.ndim):
        if target[axis] != x.shape[axis]:
            x = _resize_axis(op, x, axis, target[axis], factor[axis], mode)
    return x


def _resize_inputs(op: Op, inputs: tuple[Any, ...]) -> tuple[Any, Any]:
    if op.kind == "Upsample" or op.version < 11:
        return (op.get("scales") if not inputs else concrete(op, inputs[0], "scales")), None
    _, scales, sizes = (*inputs, None, None, None)[:3]
    if sizes is not None and np.size(sizes):
        return None, concrete(op, sizes, "sizes")
    return concrete(op, scales, "scales"), None


def _resize_axis(op: Op, x: Any, axis: int, target: int, factor: float, mode: str) -> Any:
    n, place = x.shape[axis], np.arange(target, dtype=np.float64)
    form = op.get("coordinate_transformation_mode", "half_pixel" if op.kind == "Resize" and op.version >= 11 else "asymmetric")
    if form == "align_corners":
        source = place * (n - 1) / max(target - 1, 1)
    elif form == "asymmetric":
        source = place / factor
    elif form in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        source = (place + 0.5) / factor - 0.5
        source = np.zeros(1) if form == "pytorch_half_pixel" and target == 1 else source
    else:
        raise Unsupported(f"node {op.name!r} ({op.kind}): coordinates {form!r} are not read")
    if mode == "nearest":
        rounding = op.get("nearest_mode", "round_prefer_floor" if op.kind == "Resize" and op.version >= 11 else "floor")
        places = {
            "floor": np.floor(source),
            "ceil": np.ceil(source),
            "round_prefer_floor": np.ceil(source - 0.5),
            "round_prefer_ceil": np.floor(source + 0.5),
        }[rounding]
        return nearest(x, axis, places)
    return linear(x, axis, source)
