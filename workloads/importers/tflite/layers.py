"""Rules of the layers of a network: products, convolutions, pooling, reductions, resizing; quantised ones too."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workloads.importers.nodes import Op, Unsupported, check_kernel, integers
from workloads.importers.resampling import linear, nearest
from workloads.importers.tflite.integers import integer_convolution
from workloads.importers.tflite.rules import edge_of, option, real, result_of, rounded, rule, stored

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
    total = _pool(op, x, np.zeros((), x.dtype), jax.lax.add)
    inside = [_inside(op, axis, x.shape[i], total.shape[i]) for i, axis in ((1, "Height"), (2, "Width"))]
    counts = inside[0][:, None, None] * inside[1][:, None]
    return stored(op, total / (counts if np.ptp(counts) else counts.flat[0]).astype(x.dtype))


def _inside(op: Op, axis: str, size: int, places: int) -> np.ndarray:
    """Elements of each window along "Height" or "Width" that lie in the image."""
    window, stride = option(op, f"Filter{axis}"), option(op, f"Stride{axis[0]}")
    low = jax.lax.padtype_to_pads((size,), (window,), (stride,), _padding(op))[0][0]
    first = stride * np.arange(places) - low
    return np.minimum(first + window, size) - np.maximum(first, 0)


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
        return nearest(x, axis, np.floor(source + 0.5) if option(op, "AlignCorners", False) else np.floor(source))
    return linear(x, axis, source)
