"""Rules of operators that move elements about: shapes, slices, gathers, concatenations, reductions."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workloads.importers.nodes import Op, Unsupported, bounded, concrete, integers
from workloads.importers.onnx.rules import axes_of, axis_of, rule


@rule("Shape")
def shape(op: Op, x: Any) -> np.ndarray:
    """The shape, or the part from `start` to `end`; known when the file is read."""
    rank = np.ndim(x)
    start, end = int(op.get("start", 0)), op.get("end")
    return np.asarray(np.shape(x)[slice(start, rank if end is None else int(end))], np.int64)


@rule("Size")
def size(op: Op, x: Any) -> np.ndarray:
    """The number of elements."""
    return np.asarray(math.prod(np.shape(x)), np.int64)


@rule("Reshape")
def reshape(op: Op, x: Any, wanted: Any = None) -> Any:
    """Another shape: 0 keeps a dimension (unless `allowzero`), -1 is whatever is left."""
    target = list(op.get("shape", ()) if wanted is None else integers(op, wanted, "shape"))
    if not op.get("allowzero", 0):
        target = [x.shape[i] if d == 0 and i < x.ndim else d for i, d in enumerate(target)]
    if -1 in target and math.prod(d for d in target if d != -1) == 0:
        target[target.index(-1)] = 0
    return x.reshape(target)


@rule("Flatten")
def flatten(op: Op, x: Any) -> Any:
    """Two dimensions, split before `axis`."""
    axis = int(op.get("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@rule("Squeeze")
def squeeze(op: Op, x: Any, axes: Any = None) -> Any:
    """Without dimensions of size 1."""
    chosen = axes_of(op, axes, np.ndim(x))
    return x.reshape([d for i, d in enumerate(x.shape) if (d != 1 if chosen is None else i not in chosen)])


@rule("Unsqueeze")
def unsqueeze(op: Op, x: Any, axes: Any = None) -> Any:
    """With dimensions of size 1; the axes count in the result."""
    given = op.get("axes") if axes is None else integers(op, axes, "axes")
    return op.xp.expand_dims(x, tuple(int(a) for a in given))


@rule("Transpose")
def transpose(op: Op, x: Any) -> Any:
    """Axes in the order `perm`, or reversed."""
    return op.xp.transpose(x, op.get("perm"))


@rule("Concat")
def concat(op: Op, *parts: Any) -> Any:
    """Parts one after the other along `axis`."""
    return op.xp.concatenate(parts, axis_of(op, parts[0], 1))


@rule("Split")
def split(op: Op, x: Any, sizes: Any = None) -> Any:
    """Parts of the given sizes along `axis`, or equal ones."""
    axis = axis_of(op, x, 0)
    given = op.get("split") if sizes is None else integers(op, sizes, "sizes")
    if given is None:
        count = int(op.get("num_outputs", op.n_outputs))
        part = -(-x.shape[axis] // count)
        given = [part] * (count - 1) + [x.shape[axis] - part * (count - 1)]
    return tuple(op.xp.split(x, np.cumsum(given)[:-1].tolist(), axis))


@rule("Slice")
def slice_(op: Op, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    """x[start:end:step] along some axes."""
    first = op.get("starts") if starts is None else integers(op, starts, "starts")
    last = op.get("ends") if ends is None else integers(op, ends, "ends")
    chosen = op.get("axes") if axes is None else integers(op, axes, "axes")
    step = [1] * len(first) if steps is None else integers(op, steps, "steps")
    picked = [slice(None)] * x.ndim
    for axis, a, b, s in zip(range(len(first)) if chosen is None else chosen, first, last, step, strict=True):
        n = x.shape[axis]
        a, b = (int(np.clip(v, -n - 1, n)) for v in (a, b))
        picked[axis] = slice(a, None if b < -n else b, s)
    return x[tuple(picked)]


@rule("Gather")
def gather(op: Op, x: Any, indices: Any) -> Any:
    """x[indices] along `axis`; negative indices count from the end."""
    axis = axis_of(op, x, 0)
    if isinstance(indices, np.ndarray):
        return op.xp.take(x, indices % max(x.shape[axis], 1), axis)
    return jnp.take(x, indices, axis, mode="wrap")


@rule("GatherElements")
def gather_elements(op: Op, x: Any, indices: Any) -> Any:
    """One element for each index, along `axis`."""
    return op.xp.take_along_axis(x, indices, axis_of(op, x, 0))


@rule("GatherND")
def gather_nd(op: Op, x: Any, indices: Any) -> Any:
    """x at tuples of indices."""
    if op.get("batch_dims", 0):
        raise Unsupported(f"node {op.name!r} (GatherND): batch_dims = {op.get('batch_dims')} is not read, only 0")
    return x[tuple(op.xp.moveaxis(indices, -1, 0))]


@rule("ScatterElements", "Scatter")
def scatter_elements(op: Op, x: Any, indices: Any, updates: Any) -> Any:
    """x with single elements along `axis` replaced or added to."""
    axis = axis_of(op, x, 0)
    grid = list(jnp.indices(indices.shape, sparse=True))
    grid[axis] = indices
    target = jnp.asarray(x).at[tuple(grid)]
    return target.add(updates) if op.get("reduction", "none") == "add" else target.set(updates)


@rule("ScatterND")
def scatter_nd(op: Op, x: Any, indices: Any, updates: Any) -> Any:
    """x with slices at tuples of indices replaced or added to."""
    target = jnp.asarray(x).at[tuple(jnp.moveaxis(jnp.asarray(indices), -1, 0))]
    return target.add(updates) if op.get("reduction", "none") == "add" else target.set(updates)


@rule("Expand")
def expand(op: Op, x: Any, wanted: Any) -> Any:
    """Broadcast against a shape."""
    return op.xp.broadcast_to(x, np.broadcast_shapes(x.shape, integers(op, wanted, "shape")))


@rule("Tile")
def tile(op: Op, x: Any, repeats: Any) -> Any:
    """Repeated along every axis."""
    counts = integers(op, repeats, "repeats")
    bounded(op, x.size * math.prod(counts))
    return op.xp.tile(x, counts)


@rule("ConstantOfShape")
def constant_of_shape(op: Op, wanted: Any) -> Any:
    """One value everywhere; takes no memory until it is used."""
    value = np.ravel(op.get("value", np.zeros(1, np.float32)))
    return np.broadcast_to(value[0], integers(op, wanted, "shape"))


@rule("Pad")
def pad(op: Op, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    """Elements added (or, if negative, removed) at both ends of some axes."""
    amounts = op.get("pads", op.get("paddings")) if pads is None else integers(op, pads, "pads")
    chosen = range(x.ndim) if axes is None else axes_of(op, axes, x.ndim)
    assert chosen is not None
    count = len(amounts) // 2
    width = [(0, 0)] * x.ndim
    for axis, lo, hi in zip(chosen, amounts[:count], amounts[count:], strict=True):
        width[axis] = (int(lo), int(hi))
    bounded(op, math.prod(n + max(lo, 0) + max(hi, 0) for n, (lo, hi) in zip(x.shape, width, strict=True)))
    kept = tuple(slice(max(-lo, 0), n - max(-hi, 0)) for (lo, hi), n in zip(width, x.shape, strict=True))
    width = [(max(lo, 0), max(hi, 0)) for lo, hi in width]
    mode = op.get("mode", "constant")
    if mode == "constant":
        fill = op.get("value", 0.0) if value is None else value.reshape(())
        return op.xp.pad(x[kept], width, constant_values=op.xp.asarray(fill, x.dtype))
    return op.xp.pad(x[kept], width, mode={"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode])


@rule("OneHot")
def one_hot(op: Op, indices: Any, depth: Any, values: Any) -> Any:
    """values[1] where the index along the new `axis` is the element, else values[0]."""
    count = integers(op, depth, "depth")[0]
    axis = int(op.get("axis", -1))
    hot = jax.nn.one_hot(jnp.asarray(indices) % count, count, axis=axis, dtype=bool)
    return jnp.where(hot, values[1], values[0])


@rule("Trilu")
def triangle(op: Op, x: Any, k: Any = None) -> Any:
    """The upper or lower triangle."""
    offset = 0 if k is None else integers(op, k, "k")[0]
    return (op.xp.triu if op.get("upper", 1) else op.xp.tril)(x, offset)


@rule("DepthToSpace")
def depth_to_space(op: Op, x: Any) -> Any:
    """Channels become blocks of pixels."""
    n, c, h, w = x.shape
    b = int(op.get("blocksize"))
    if op.get("mode", "DCR") == "DCR":
        return x.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)


@rule("SpaceToDepth")
def space_to_depth(op: Op, x: Any) -> Any:
    """Blocks of pixels become channels."""
    n, c, h, w = x.shape
    b = int(op.get("blocksize"))
    return x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


# Reductions

REDUCTIONS = {
    "ReduceSum": lambda xp, x, axes, keep: xp.sum(x, axes, keepdims=keep, dtype=x.dtype),
    "ReduceMean": lambda xp, x, axes, keep: xp.mean(x, axes, keepdims=keep, dtype=x.dtype),
    "ReduceMax": lambda xp, x, axes, keep: xp.max(x, axes, keepdims=keep),
    "ReduceMin": lambda xp, x, axes, keep: xp.min(x, axes, keepdims=keep),
    "ReduceProd": lambda xp, x, axes, keep: xp.prod(x, axes, keepdims=keep, dtype=x.dtype),
    "ReduceL1": lambda xp, x, axes, keep: xp.sum(xp.abs(x), axes, keepdims=keep),
    "ReduceL2": lambda xp, x, axes, keep: xp.sqrt(xp.sum(x * x, axes, keepdims=keep)),
    "ReduceSumSquare": lambda xp, x, axes, keep: xp.sum(x * x, axes, keepdims=keep),
    "ReduceLogSum": lambda xp, x, axes, keep: xp.log(xp.sum(x, axes, keepdims=keep)),
    "ReduceLogSumExp": lambda xp, x, axes, keep: jax.nn.logsumexp(x, axes, keepdims=keep),
}


@rule(*REDUCTIONS)
def reduce(op: Op, x: Any, axes: Any = None) -> Any:
    """A reduction over some axes (none given: all, or with `noop_with_empty_axes` none)."""
    chosen = axes_of(op, axes, np.ndim(x))
    if not chosen:
        if op.get("noop_with_empty_axes", 0):
            return x
        chosen = None
    return REDUCTIONS[op.kind](op.xp, x, chosen, bool(op.get("keepdims", 1)))


@rule("ArgMax", "ArgMin")
def arg(op: Op, x: Any) -> Any:
    """The place of the largest or smallest element along `axis`."""
    axis, pick = axis_of(op, x, 0), op.xp.argmax if op.kind == "ArgMax" else op.xp.argmin
    if op.get("select_last_index", 0):
        found = x.shape[axis] - 1 - pick(op.xp.flip(x, axis), axis)
    else:
        found = pick(x, axis)
    return op.xp.expand_dims(found, axis) if op.get("keepdims", 1) else found


@rule("TopK")
def top_k(op: Op, x: Any, k: Any = None) -> Any:
    """The k largest (or smallest) elements along `axis` and their places, sorted."""
    count = int(op.get("k")) if k is None else integers(op, k, "k")[0]
    axis = axis_of(op, x, -1)
    moved = jnp.moveaxis(jnp.asarray(x), axis, -1)
    if op.get("largest", 1):
        values, places = jax.lax.top_k(moved, count)
    else:
        values, places = jax.lax.top_k(-moved, count)
        values = -values
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(places, -1, axis)


@rule("CumSum")
def cumulative_sum(op: Op, x: Any, axis: Any) -> Any:
    """Running sums along an axis."""
    along = integers(op, axis, "axis")[0] % np.ndim(x)
    x = op.xp.flip(x, along) if op.get("reverse", 0) else x
    total = op.xp.cumsum(x, along, dtype=x.dtype)
    total = total - x if op.get("exclusive", 0) else total
    return op.xp.flip(total, along) if op.get("reverse", 0) else total


@rule("NonZero")
def non_zero(op: Op, x: Any) -> Any:
    """Where a known tensor is not zero."""
    return np.asarray(np.nonzero(concrete(op, x, "content")), np.int64)


@rule("EyeLike")
def eye_like(op: Op, x: Any) -> np.ndarray:
    """Ones on a diagonal."""
    bounded(op, math.prod(np.shape(x)))
    return np.eye(*np.shape(x), k=int(op.get("k", 0)), dtype=np.float32)


@rule("Einsum")
def einsum(op: Op, *operands: Any) -> Any:
    """Sums of products by an equation."""
    return op.xp.einsum(op.get("equation").replace(" ", ""), *operands)
