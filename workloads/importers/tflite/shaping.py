"""Rules of operators that move elements about, and of branches."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workloads.importers.nodes import Op, Unsupported, bounded, concrete, integers
from workloads.importers.tflite.rules import edge_of, option, real, result_of, rounded, rule, stored

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
