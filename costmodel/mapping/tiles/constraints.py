"""What a tile needs: bytes of every tensor, DMA commands, cycles, and whether it fits.

    use(tile) = sum over tensors of  coefficient ceil4(bytes of its part)  <=  size of the level

Everything that an operation touches lives together while it runs. A command moves a run of contiguous bytes, or a rectangle of
runs: an axis needs a command of its own for each index as soon as `dimensions` axes further in are cut. How many axes a
transfer's commands cover, and how many commands each takes for its length, is decided once, for the full tile.

Totals over all tiles are exact, edge tiles included, without enumerating them: a tensor's part is a product over its axes,
so its sum over the grid of tiles is the product of the sums along each loop.

Kinks: sizes are rounded up to whole elements and clipped to the tensor, counts of tiles are rounded up; under a relaxed policy
the counts take the policy's slope, sizes are not rounded, and the choice of commands stays a step.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from costmodel.mapping.tiles.levels import Dma, Kernels
from costmodel.mapping.tiles.rules import Buffers
from costmodel.relax import HARD, Relaxation, ceil_div
from workloads.loop_axes import WHOLE
from workloads.nests import LoopNest, TensorInfo

ALIGNMENT = 4  # bytes
Values = Sequence[float] | Num[np.ndarray, " n"]


class Nest(NamedTuple):
    """A loop nest as arrays, so that nests of equal shapes share one program: loops (D,), tensors (T,), their axes (T, A).

    `follows` (T, A, D) says which loop an axis follows; absent tensors have 0 bytes per element.
    """

    extents: Float[Array, " loops"]
    follows: Float[Array, "tensors axes loops"]
    scale: Float[Array, "tensors axes"]
    offset: Float[Array, "tensors axes"]
    sizes: Float[Array, "tensors axes"]
    element: Float[Array, " tensors"]  # B
    write: Float[Array, " tensors"]  # 1 where it is written
    moved: Float[Array, " tensors"]  # 1 where it crosses the link, 0 where it is at home in the inner level
    copies: Float[Array, " tensors"]  # buffers
    products: Float[Array, ""]  # multiply-accumulates of the whole operation
    depthwise: Float[Array, ""]  # 1: the products are of a depthwise convolution
    operations: Float[Array, ""]


class Work(NamedTuple):
    """Cycles of one tile, or of all of them, in each stage."""

    load: Float[Array, ""]
    kernel: Float[Array, ""]
    store: Float[Array, ""]


def nest_arrays(
    nest: LoopNest,
    tensors: Sequence[TensorInfo],
    buffers: Buffers,
    *,
    moved: Sequence[bool] | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Nest:
    """The arrays of a nest; `moved` (default: all) says which accesses cross the link, `shape` pads to (tensors, axes, loops).

    Raises ValueError if `shape` is smaller than the nest.
    """
    own = (len(nest.accesses), max(len(a.axes) for a in nest.accesses), len(nest.extents))
    t, a, d = shape or own
    if t < own[0] or a < own[1] or d < own[2]:
        raise ValueError(f"shape = {(t, a, d)} is smaller than the nest's own (tensors, axes, loops) = {own}")
    extents, follows = np.ones(d), np.zeros((t, a, d))
    extents[: own[2]] = nest.extents
    scale, offset, sizes = np.zeros((t, a)), np.ones((t, a)), np.ones((t, a))
    columns = np.zeros((4, t))
    for i, access in enumerate(nest.accesses):
        start = a - len(access.axes)  # the fastest axis comes last
        for j, axis in enumerate(access.axes, start):
            sizes[i, j], offset[i, j] = axis.extent, axis.extent
            if axis.loop != WHOLE:
                follows[i, j, axis.loop], scale[i, j], offset[i, j] = 1.0, axis.scale, axis.offset
        crosses = moved is None or moved[i]
        columns[:, i] = tensors[access.tensor].bits / 8, access.write, crosses, buffers.coefficients[i]
    numbers = (extents, follows, scale, offset, sizes, *columns, nest.macs, float(nest.depthwise), nest.operations)
    return Nest(*(jnp.asarray(x, float) for x in numbers))


def parts(nest: Nest, tile: Num[Array, " loops"], policy: Relaxation = HARD) -> Float[Array, "tensors axes"]:
    """Elements along each axis of each tensor that a tile touches."""
    raw = nest.scale * _along(nest, tile) + nest.offset
    if policy.name != "soft":
        raw = raw + jax.lax.stop_gradient(jnp.ceil(raw - 1e-3) - raw)
    return jnp.clip(raw, 1.0, nest.sizes)


def memory_use(nest: Nest, tile: Num[Array, " loops"], policy: Relaxation = HARD) -> Float[Array, ""]:
    """Bytes that a tile's buffers take in the inner level (4-byte aligned, unless the policy is soft)."""
    return jnp.sum(buffer_sizes(nest, tile, policy))


def buffer_sizes(nest: Nest, tile: Num[Array, " loops"], policy: Relaxation = HARD) -> Float[Array, " tensors"]:
    """Bytes of each tensor's buffers for one tile; their sum is `memory_use`."""
    size = nest.element * product(parts(nest, tile, policy))
    if policy.name != "soft":
        size = size + jax.lax.stop_gradient(ALIGNMENT * jnp.ceil(size / ALIGNMENT) - size)
    return nest.copies * size


def inside(nest: Nest, tile: Num[Array, " loops"]) -> Nest:
    """The nest that is left to do within one tile, its parts of the tensors stored contiguously."""
    share = product(tile / nest.extents)
    return nest._replace(
        extents=jnp.asarray(tile, nest.extents.dtype), sizes=parts(nest, tile),
        offset=jnp.where(jnp.sum(nest.follows, axis=-1) > 0, nest.offset, nest.sizes),
        products=nest.products * share, operations=nest.operations * share,
    )  # fmt: skip


def tile_counts(nest: Nest, tile: Num[Array, " loops"], policy: Relaxation = HARD) -> Float[Array, " loops"]:
    """Number of tiles along each loop."""
    return ceil_div(nest.extents, jnp.clip(tile, 1.0, nest.extents), policy)


def at(nest: Nest, tile: Num[Array, " loops"], where: str, policy: Relaxation = HARD) -> Float[Array, " loops"]:
    """Sizes of the "first", "second", "last but one" or "last" tile of a grid; the innermost cut loop runs fastest."""
    n = tile_counts(nest, tile, policy)
    full, edge = jnp.clip(tile, 1.0, nest.extents), nest.extents - (n - 1) * jnp.clip(tile, 1.0, nest.extents)
    cut = n > 1
    fastest = cut & (_further_in(cut.astype(n.dtype)) == 0)  # the last of the cut loops
    if where == "first":
        return full
    if where == "last":
        return edge
    if where == "second":
        return jnp.where(fastest & (n <= 2), edge, full)
    return jnp.where(fastest, full, edge)


class Transfers(NamedTuple):
    """What is fixed about a nest's transfers for a given full tile: axes that take commands of their own, commands per run."""

    counted: Bool[Array, "tensors axes"]
    pieces: Float[Array, " tensors"]


def transfers(nest: Nest, tile: Num[Array, " loops"], link: Dma, policy: Relaxation = HARD) -> Transfers:
    """How the parts of a full tile are moved (see the module)."""
    part = parts(nest, tile, policy)
    counted = _further_in((part < nest.sizes).astype(part.dtype)) >= link.dimensions
    run = nest.element * product(jnp.where(counted, 1.0, part))
    return Transfers(counted, jax.lax.stop_gradient(jnp.maximum(jnp.ceil(run / link.longest), 1.0)))


def work(nest: Nest, tile: Num[Array, " loops"], how: Transfers, link: Dma, kernels: Kernels, policy: Relaxation = HARD) -> Work:
    """Cycles of one tile of the sizes `tile` (at most the full tile's) in each stage, without the loop's own."""
    part = parts(nest, tile, policy)
    commands = how.pieces * product(jnp.where(how.counted, part, 1.0))
    cycles = link.time(commands, nest.element * product(part)) * nest.moved * (nest.element > 0)
    share = product(tile / nest.extents)
    return Work(jnp.sum(cycles * (1 - nest.write)), kernels.call + share * computing(nest, kernels), jnp.sum(cycles * nest.write))


def total_work(
    nest: Nest, tile: Num[Array, " loops"], how: Transfers, link: Dma, kernels: Kernels, policy: Relaxation = HARD
) -> Work:
    """Cycles of all tiles together in each stage (exact; see the module), without the loop's own."""
    n = tile_counts(nest, tile, policy)
    full, edge = parts(nest, at(nest, tile, "first"), policy), parts(nest, at(nest, tile, "last", policy), policy)
    along = _along(nest, n - 1)
    sums = along * full + edge
    follows_any = jnp.sum(nest.follows, axis=1)  # (T, D)
    others = product(jnp.where(follows_any > 0, 1.0, n))
    size = nest.element * others * product(sums)
    commands = others * how.pieces * product(jnp.where(how.counted, sums, along + 1))
    cycles = link.time(commands, size) * nest.moved * (nest.element > 0)
    kernel = product(n) * kernels.call + computing(nest, kernels)
    return Work(jnp.sum(cycles * (1 - nest.write)), kernel, jnp.sum(cycles * nest.write))


@jax.custom_jvp
def product(values: Array) -> Array:
    """Product of positive values along the last axis; its slope goes through the logarithm, which is faster than in general."""
    return jnp.prod(values, axis=-1)


@product.defjvp
def _product_jvp(primals: Any, tangents: Any) -> Any:
    found = product(primals[0])
    return found, found * jnp.sum(tangents[0] / primals[0], axis=-1)


def _along(nest: Nest, values: Array) -> Array:
    """The value of the loop that each axis follows, 0 where it follows none; sums of few terms, so that everything fuses."""
    return sum((nest.follows[..., d] * values[d] for d in range(values.shape[0])), jnp.zeros_like(nest.scale))


def _further_in(flags: Array) -> Array:
    """How many of the last axis' later entries are set."""
    sums, running = [], jnp.zeros_like(flags[..., 0])
    for i in reversed(range(flags.shape[-1])):
        sums.append(running)
        running = running + flags[..., i]
    return jnp.stack(sums[::-1], axis=-1)


def computing(nest: Nest, kernels: Kernels) -> Float[Array, ""]:
    """Cycles of the whole operation in its kernels, calls left out."""
    rate = jnp.where(nest.depthwise > 0, kernels.depthwise_rate, kernels.mac_rate)
    return nest.products / rate + nest.operations / kernels.operation_rate


_buffer_sizes = jax.jit(buffer_sizes)


def packing_peak(sizes: Values, first: Values, last: Values, copies: Values | None = None) -> int:
    """Largest sum of 4-byte aligned sizes (B), times their copies, over tensors that live together, both ends included.

    The least memory that any packing needs. Raises ValueError for a tensor that ends before it begins.
    """
    if not len(sizes):
        return 0
    begin, end = np.asarray(first, int), np.asarray(last, int)
    if (end < begin).any():
        i = int(np.argmax(end < begin))
        raise ValueError(f"last[{i}] = {end[i]} is before first[{i}] = {begin[i]}")
    aligned = ALIGNMENT * np.ceil(np.asarray(sizes, float) / ALIGNMENT) * (1 if copies is None else np.asarray(copies))
    change = np.zeros(int(end.max()) + 2)
    np.add.at(change, begin, aligned)
    np.add.at(change, end + 1, -aligned)
    return int(np.cumsum(change).max())


def pack(sizes: Values, first: Values, last: Values) -> tuple[tuple[int, ...], int]:
    """Addresses of tensors in one memory and the height reached: largest first, each at the lowest address that is free.

    At least `packing_peak`, and equal to it unless holes remain (a heuristic; Deeploy's MiniMalloc searches).
    """
    aligned = [ALIGNMENT * math.ceil(s / ALIGNMENT) for s in sizes]
    first, last = [int(t) for t in first], [int(t) for t in last]
    placed: list[tuple[int, int, int, int]] = []
    address = [0] * len(aligned)
    for i in sorted(range(len(aligned)), key=lambda i: (-aligned[i], first[i], i)):
        low = 0
        for start, size, begin, end in sorted(placed):
            if first[i] <= end and begin <= last[i] and start < low + aligned[i] and low < start + size:
                low = start + size
        address[i] = low
        placed.append((low, aligned[i], first[i], last[i]))
    return tuple(address), max((a + s for a, s in zip(address, aligned, strict=True)), default=0)


def check_fits(nest: LoopNest, tensors: Sequence[TensorInfo], arrays: Nest, room: float, level: str) -> None:
    """Raise ValueError, naming the tensor that takes most, if not even one iteration of the nest fits into `room` bytes."""
    size = np.asarray(_buffer_sizes(arrays, jnp.ones_like(arrays.extents)))
    if (need := float(size.sum())) > room:
        worst = tensors[nest.accesses[int(np.argmax(size[: len(nest.accesses)]))].tensor].name
        raise ValueError(f"{nest.name}: the smallest tile takes {need:,.0f} B, most of it {worst}; {level} has {room:,.0f} B")


@jax.jit
def tensor_cycles(nest: Nest, tile: Num[Array, " loops"], link: Dma, kernels: Kernels) -> Float[Array, " tensors"]:
    """Cycles that each tensor of a nest takes on a link, over all tiles."""
    how = transfers(nest, tile, link)

    def alone(which: Array) -> Array:
        one = nest._replace(element=nest.element * (jnp.arange(nest.element.shape[0]) == which))
        total = total_work(one, tile, how, link, kernels)
        return total.load + total.store

    return jax.vmap(alone)(jnp.arange(nest.element.shape[0]))
