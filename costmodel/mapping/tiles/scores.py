"""Cycles of one tiling, without going through its tiles: for choosing among millions, and for gradients.

Single-buffered the sum over tiles is exact. Double-buffered it is the longest of the paths through the recurrence of `pipelines`
on which one stage is busy all the time,

    separate   the largest of  sum in + k_last + out_last,  in_first + sum k + out_last,  in_first + k_first + sum out,
               and the same with the last but one tile where the last step is a small one
    shared     in_0 + max(k_0, in_1) + max( sum k[1 .. n-2],  sum in[2 .. n-1] + out[0 .. n-3] )
                    + max(k_{n-1}, out_{n-2}) + out_{n-1}

which is never above the true time (each is a path), and equal to it for equal tiles. Smaller tiles at the edges make the core
and the DMA wait in turn, which no one path sees: over random tiles of ResNet8's operations the score falls 6 to 8 % short at
the first percentile, and at worst by two fifths (its last shortcut, in tiles of 61 of 64 channels: 1.64 for 2.69 million cycles
with a shared channel, 2.68 with separate ones; in tiles of 63, 41 %). `exact_stages` goes through all tiles by the recurrence
itself; `choices` compares the tilings of the best scores by it, so that what is chosen and reported does not rest on the score.

With two hops (L3 to L2 to L1) the inner total is the kernel of the outer pipeline.
Kinks: those of `constraints`, and ties of the maxima.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from costmodel.mapping.tiles.constraints import Nest, Work, at, inside, product, tile_counts, total_work, transfers, work
from costmodel.mapping.tiles.levels import Dma, Kernels
from costmodel.mapping.tiles.pipelines import Stages, double_buffered, single_buffered
from costmodel.relax import HARD, Relaxation, maximum

PLACES = ("first", "second", "last but one", "last")
MOST_TILES = 65_536  # of one pipeline that is gone through tile by tile


class Exact(NamedTuple):
    """A pipeline gone through tile by tile: sizes (tiles, loops), its stages, and which tiles are real."""

    sizes: np.ndarray
    stages: Stages
    mask: Bool[Array, " tiles"]


def score(
    nest: Nest, tile: Num[Array, " loops"], link: Dma, kernels: Kernels, *, double: bool, policy: Relaxation = HARD
) -> Float[Array, ""]:
    """Cycles of one tiling (`tile` iterations of each loop) over one link; see the module."""
    full = jnp.clip(jnp.asarray(tile, float), 1.0, nest.extents)
    how = transfers(nest, full, link, policy)
    n = product(tile_counts(nest, full, policy))
    total = total_work(nest, full, how, link, kernels, policy)
    if not double:
        return total.load + total.kernel + total.store
    places = PLACES if link.shared else (PLACES[0], *PLACES[2:])
    sizes = jnp.stack([at(nest, full, where, policy) for where in places])
    each = jax.vmap(lambda size: work(nest, size, how, link, kernels, policy))(sizes)
    control = _control(n, kernels)
    tiles = {w: Work(each.load[i], each.kernel[i] + control, each.store[i]) for i, w in enumerate(places)}
    return _double(tiles, total._replace(kernel=total.kernel + n * control), n, link.shared, policy)


def _control(n: Array, kernels: Kernels) -> Array:
    """Cycles that the double-buffered loop itself adds to each tile: none where there is only one."""
    return kernels.loop * jnp.clip(n - 1, 0.0, 1.0)


def _double(tiles: dict[str, Work], total: Work, n: Array, shared: bool, policy: Relaxation) -> Array:
    """The longest busy path; see the module."""
    share = jnp.clip(n - 1, 0.0, 1.0)
    first, before, last = tiles["first"], tiles["last but one"], tiles["last"]
    if not shared:
        loaded = total.load - last.load + share * before.kernel
        return maximum(
            total.load + last.kernel + last.store,
            loaded + last.kernel + last.store,
            loaded + share * before.store + last.store,
            first.load + total.kernel + last.store,
            first.load + total.kernel - last.kernel + share * before.store + last.store,
            first.load + first.kernel + total.store,
            policy=policy,
        )
    second = tiles["second"]
    computing = jnp.maximum(total.kernel - first.kernel - last.kernel, 0.0)
    moving = jnp.maximum(total.load - first.load - second.load + total.store - before.store - last.store, 0.0)
    several = (
        maximum(first.kernel, second.load, policy=policy)
        + maximum(computing, moving, policy=policy)
        + maximum(last.kernel, before.store, policy=policy)
    )
    return first.load + (1 - share) * first.kernel + share * several + last.store


def tile_grid(extents: np.ndarray, tile: np.ndarray) -> np.ndarray:
    """Sizes (tiles, loops) of all tiles in the order in which they run, the last loop fastest.

    Raises ValueError for more than `MOST_TILES` tiles or a size outside [1, extent].
    """
    extents, tile = np.asarray(np.rint(extents), int), np.asarray(np.rint(tile), int)
    if ((tile < 1) | (tile > extents)).any():
        raise ValueError(f"tile = {tuple(map(int, tile))} iterations is outside its range [1, {tuple(map(int, extents))}]")
    counts = -(-extents // tile)
    if (total := int(np.prod(counts))) > MOST_TILES:
        raise ValueError(
            f"tile = {tuple(map(int, tile))} makes {total:,} tiles; at most {MOST_TILES:,} are gone through one by one"
        )
    index = np.stack(np.unravel_index(np.arange(total), counts), axis=-1)
    return np.minimum(tile, extents - index * tile)


def exact_stages(
    nest: Nest, tile: np.ndarray, link: Dma, kernels: Kernels, *, double: bool, inner: np.ndarray | None = None
) -> Exact:
    """The pipeline of one tiling, tile by tile. `inner` (tiles,) replaces the cycles of the kernels (nested levels).

    Raises ValueError as `tile_grid` does.
    """
    sizes = tile_grid(np.asarray(nest.extents), np.asarray(tile))
    count = len(sizes)
    room = max(4, 4 ** -(-(count - 1).bit_length() // 2))  # few shapes, few programs
    padded = jnp.asarray(np.concatenate([sizes, np.repeat(sizes[-1:], room - count, axis=0)]), float)
    mask = jnp.arange(room) < count
    own = None if inner is None else jnp.asarray(np.pad(inner, (0, room - count)), float)
    return Exact(sizes, _run(nest, padded, mask, jnp.asarray(sizes[0], float), link, kernels, own, double), mask)


@jax.jit(static_argnames="double")
def _run(
    nest: Nest, sizes: Array, mask: Array, full: Array, link: Dma, kernels: Kernels, inner: Array | None, double: bool
) -> Stages:
    how = transfers(nest, full, link)
    each = jax.vmap(lambda tile: work(nest, tile, how, link, kernels))(sizes)
    n = jnp.sum(mask).astype(float)
    kernel = each.kernel if inner is None else inner
    if not double:
        return single_buffered(each.load, kernel, each.store, mask)
    return double_buffered(each.load, kernel + _control(n, kernels), each.store, mask, shared=link.shared)


def nested_score(
    nest: Nest,
    inner_nest: Nest,
    outer: Num[Array, " loops"],
    inner: Num[Array, " loops"],
    links: tuple[Dma, Dma],
    kernels: Kernels,
    *,
    double: tuple[bool, bool],
    policy: Relaxation = HARD,
) -> Float[Array, ""]:
    """Cycles of tiles within tiles: `outer` over the outer link, `inner` within each over the inner one; flags (inner, outer).

    The kernel of an outer tile is its inner pipeline. Outer tiles count by their share of the full one's
    work: exact if all are equal.
    """
    full = jnp.clip(jnp.asarray(outer, float), 1.0, nest.extents)
    how = transfers(nest, full, links[1], policy)
    n = product(tile_counts(nest, full, policy))
    one = score(inside(inner_nest, full), jnp.minimum(inner, full), links[0], kernels, double=double[0], policy=policy)
    total = total_work(nest, full, how, links[1], kernels, policy)
    kernel = one * product(nest.extents / full)
    if not double[1]:
        return total.load + kernel + total.store

    def tile(where: str) -> Work:
        size = at(nest, full, where, policy)
        own = work(nest, size, how, links[1], kernels, policy)
        return own._replace(kernel=one * product(size / full) + _control(n, kernels))

    tiles = {where: tile(where) for where in PLACES}
    return _double(tiles, total._replace(kernel=kernel + n * _control(n, kernels)), n, links[1].shared, policy)
