"""Fusing producers with consumers: what it saves, and what it costs when the joint working set no longer fits.

Nests that share their outermost loop run either one after the other, or fused: b iterations of the shared loop of every nest,
then the next b. Arrays that the shared loop moves are *rows*, the others are *kept* (weights); a row array written by one nest
and read by a later one is an *intermediate*.

    apart    each nest by itself (`caches`); an intermediate is stored, and loaded again unless all of it stays:
             S >= intermediate + kept of both + the larger of their other rows
    fused    rows are loaded once, intermediates never, but for the part that its own tile pushes out: an element waits for at
             least the intermediate's tile, at most everything the producer touches in a tile

             LRU          kept arrays of all nests stay if D = sum kept + sum (rows of b iterations and the beginning of the
                          next) <= S, else all of them are loaded for each of the n / b tiles, as often as the nests
                          by themselves load them in one tile (once a row where they do not fit)
             scratchpad   what fits beside the tile's rows stays, the rest is loaded for each tile

So two layers of which each fits alone but not both turn an LRU cache's traffic from n d + d h + ... into n / b (2 d h), 26 times
more for n = 64, d = 32, h = 64 at S = 4096, and a scratchpad's only by what is missing.

Overlapped tiles (PolyMage, Mullapudi et al., ASPLOS 2015) fuse stencils along the tiled loops by computing the halo again:

    redundancy = mean over stages s = 1..h of ((t + 2 r (h - s)) / t)^d - 1
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from costmodel import relax
from costmodel.mapping.affine.caches import MEMORIES, check_fast, nest_traffic, untiled_lru_loads
from costmodel.mapping.affine.nests import Nest, Stream
from costmodel.relax import HARD, Relaxation

Number = Num[Array, ""] | float


class ChainTraffic(NamedTuple):
    """Elements moved by several nests."""

    loads: Float[Array, ""]
    stores: Float[Array, ""]
    need: Float[Array, ""]  # elements of fast memory for which everything stays
    flops: Float[Array, ""]

    @property
    def moved(self) -> Float[Array, ""]:
        """Loaded and stored."""
        return self.loads + self.stores

    @property
    def intensity(self) -> Float[Array, ""]:
        """Operations for each element moved."""
        return self.flops / self.moved


class Fusion(NamedTuple):
    """The same nests apart and fused."""

    apart: ChainTraffic
    fused: ChainTraffic

    @property
    def factor(self) -> Float[Array, ""]:
        """Loads of the fused nests over those apart: above 1, fusing hurts."""
        return self.fused.loads / self.apart.loads


def fuse(
    nests: Sequence[Nest],
    extents: Mapping[str, Number],
    rows: Number = 1.0,
    fast: Number = 32_768.0,
    *,
    memory: str = "lru",
    policy: Relaxation = HARD,
) -> Fusion:
    """Traffic of nests that share their first loop, apart and fused with `rows` iterations of it at a time; see the module.

    `extents` of all loops by name; arrays of one name are one array. Differentiable in extents, rows and fast; HARD: steps where
    something begins to fit. ValueError for an unknown memory, fewer than two nests, no shared first loop, a missing extent,
    or a plain `fast` that is not above 0.
    """
    check_fast(fast)
    if memory not in MEMORIES:
        raise ValueError(f"memory = {memory!r} is not one of {', '.join(MEMORIES)}")
    if len(nests) < 2 or len({nest.loops[0] for nest in nests}) > 1:
        raise ValueError("at least two nests with the same first loop are needed to fuse them along it")
    if missing := {name for nest in nests for name in nest.loops} - set(extents):
        raise ValueError(f"extents: loop {min(missing)} has none")
    whole = [jnp.stack([jnp.asarray(extents[name], float) for name in nest.loops]) for nest in nests]
    b = jnp.clip(jnp.asarray(rows, float), 1.0, whole[0][0])
    capacity = jnp.asarray(fast, float)
    flops = sum((nest.flops * jnp.prod(w) for nest, w in zip(nests, whole, strict=True)), jnp.zeros(()))
    between = _intermediates(nests)
    apart = _apart(nests, whole, b, capacity, memory, policy, between)
    fused = _fused(nests, whole, b, capacity, memory, policy, between)
    return Fusion(ChainTraffic(*apart, flops), ChainTraffic(*fused, flops))


def _intermediates(nests: Sequence[Nest]) -> dict[str, int]:
    """Arrays that a nest writes and a later one reads, with the position of their producer."""
    found: dict[str, int] = {}
    for i, nest in enumerate(nests):
        for stream in nest.streams:
            later = any(s.array == stream.array and s.read for other in nests[i + 1 :] for s in other.streams)
            if stream.written and later and stream.moves_with(0):
                found[stream.array] = i
    return found


def _apart(
    nests: Sequence[Nest], whole: list, b: Array, fast: Array, memory: str, policy: Relaxation, between: dict[str, int]
) -> tuple[Array, Array, Array]:
    loads, stores, need = jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
    for i, (nest, sides) in enumerate(zip(nests, whole, strict=True)):
        traffic = _alone(nest, sides, b, fast, memory, policy)
        for stream, moved in zip(nest.streams, traffic.loads, strict=True):
            if stream.array in between and i > between[stream.array]:
                distance = _apart_distance(nests, whole, between[stream.array], i, stream)
                moved = moved * (1 - relax.fits(distance, fast, policy))
            loads += moved
        stores += jnp.sum(traffic.stores)
        need = jnp.maximum(need, _kept(nest, sides) + sum(_row_parts(nest, sides, b), jnp.zeros(())))
    return loads, stores, need


def _alone(nest: Nest, sides: Array, b: Array, fast: Array, memory: str, policy: Relaxation):
    """One nest by itself, `b` rows at a time; a scratchpad keeps of the kept arrays what fits."""
    if memory == "lru":
        return nest_traffic(nest, sides, sides.at[0].set(b), fast, memory="lru", policy=policy)
    plain = nest_traffic(nest, sides, sides.at[0].set(b), fast, policy=policy)
    kept = jnp.stack([jnp.zeros(()) if s.moves_with(0) else s.elements(sides) * s.read for s in nest.streams])
    again = _reloaded(jnp.sum(kept), sum(_row_parts(nest, sides, b), jnp.zeros(())), fast)
    share = kept / jnp.maximum(jnp.sum(kept), 1.0)
    return plain._replace(loads=plain.loads + share * again * (relax.ceil_div(sides[0], b, policy) - 1))


def _reloaded(kept: Array, rows: Array, fast: Array) -> Array:
    """Elements of kept arrays for which a scratchpad has no place."""
    return jnp.clip(kept + rows - fast, 0.0, kept)


def _apart_distance(nests: Sequence[Nest], whole: list, producer: int, consumer: int, stream: Stream) -> Array:
    others = [
        sum((s.elements(whole[i]) for s in nests[i].streams if s.moves_with(0) and s.array != stream.array), jnp.zeros(()))
        for i in (producer, consumer)
    ]
    kept = sum((_kept(nests[i], whole[i]) for i in range(producer, consumer + 1)), jnp.zeros(()))
    return stream.elements(whole[consumer]) + kept + jnp.maximum(*others)


def _kept(nest: Nest, sides: Array) -> Array:
    return sum((s.elements(sides) for s in nest.streams if not s.moves_with(0)), jnp.zeros(()))


def _row_parts(nest: Nest, sides: Array, b: Array) -> list[Array]:
    """Elements of each row array in `b` iterations of the shared loop."""
    return [s.elements(sides.at[0].set(b)) for s in nest.streams if s.moves_with(0)]


def _fused(
    nests: Sequence[Nest], whole: list, b: Array, fast: Array, memory: str, policy: Relaxation, between: dict[str, int]
) -> tuple[Array, Array, Array]:
    tiles = relax.ceil_div(whole[0][0], b, policy)
    seen: dict[str, tuple[Array, Array, Stream]] = {}  # one array counts once, its larger part
    for nest, sides in zip(nests, whole, strict=True):
        for s in nest.streams:
            part, all_of_it = s.elements(sides.at[0].set(b)), s.elements(sides)
            if s.array in seen:
                part, all_of_it = jnp.maximum(part, seen[s.array][0]), jnp.maximum(all_of_it, seen[s.array][1])
            seen[s.array] = part, all_of_it, s
    kept = sum((part for part, _, s in seen.values() if not s.moves_with(0)), jnp.zeros(()))
    rows = sum((part for part, _, s in seen.values() if s.moves_with(0)), jnp.zeros(()))
    turning = sum((part + part / b for part, _, s in seen.values() if s.moves_with(0)), jnp.zeros(()))
    if memory == "lru":
        need = kept + jnp.minimum(turning, 2 * rows)
        lost = 1 - relax.fits(need, fast, policy)
        loads = kept + lost * (kept * (tiles - 1) + tiles * _swept_again(nests, whole, tiles, fast, policy))
    else:
        need = kept + rows
        loads = kept + _reloaded(kept, rows, fast) * (tiles - 1)
    stores = jnp.zeros(())
    for name, (part, all_of_it, stream) in seen.items():
        if name in between:
            lost = _pushed_out(nests, whole, b, fast, between[name], part) if memory == "lru" else jnp.zeros(())
            loads, stores = loads + lost * all_of_it, stores + lost * all_of_it
        elif stream.moves_with(0):
            read = any(s.read for nest in nests for s in nest.streams if s.array == name)
            written = any(s.written for nest in nests for s in nest.streams if s.array == name)
            loads, stores = loads + read * all_of_it, stores + written * all_of_it
    return loads, stores, need


def _swept_again(nests: Sequence[Nest], whole: list, tiles: Array, fast: Array, policy: Relaxation) -> Array:
    """Elements of kept arrays that the nests load in one tile beyond the first time."""
    again = jnp.zeros(())
    for nest, sides in zip(nests, whole, strict=True):
        loads = untiled_lru_loads(nest, sides.at[0].divide(tiles), fast, policy)
        for stream, loaded in zip(nest.streams, loads, strict=True):
            if not stream.moves_with(0):
                again += jnp.maximum(loaded - stream.elements(sides), 0.0)
    return again


def _pushed_out(nests: Sequence[Nest], whole: list, b: Array, fast: Array, producer: int, part: Array) -> Array:
    """Share of an intermediate's tile that is gone before it is used: distances lie evenly between the two ends."""
    nest, sides = nests[producer], whole[producer]
    longest = _kept(nest, sides) + sum(_row_parts(nest, sides, b), jnp.zeros(()))
    return jnp.clip((longest - fast) / jnp.maximum(longest - part, 1.0), 0.0, 1.0)


def overlap_redundancy(tile: Number, stages: int, radius: Number = 1.0, dimensions: int = 2) -> Float[Array, ""]:
    """Work done again, as a share of the useful work, by overlapped tiles of side `tile` over `stages` fused stencil stages.

    Differentiable in tile and radius. ValueError for a tile, stages or dimensions below 1 (concrete numbers only).
    """
    for name, value in (("tile", tile), ("stages", stages), ("dimensions", dimensions)):
        if isinstance(value, float | int) and not value >= 1:
            raise ValueError(f"{name} = {value:g} is outside its range [1, inf)")
    t = jnp.asarray(tile, float)
    work = sum((((t + 2 * radius * ahead) / t) ** dimensions for ahead in range(stages)), jnp.zeros_like(t))
    return work / stages - 1


def overlapped_loads(extent: Number, tile: Number, stages: Number, radius: Number = 1.0, dimensions: int = 2) -> Float[Array, ""]:
    """Elements loaded by overlapped tiles of a fused group over extent^dimensions points: (t + 2 r h)^d for each tile."""
    n, t = jnp.asarray(extent, float), jnp.asarray(tile, float)
    side = jnp.minimum(t + 2 * radius * stages, n)
    return (n / t * side) ** dimensions


def group_stages(tile: float, most: int, threshold: float = 0.4, radius: float = 1.0, dimensions: int = 2) -> int:
    """The most stages, up to `most`, whose redundancy stays within `threshold`: PolyMage's greedy grouping of a chain.

    Its thresholds were tuned among 0.2, 0.4 and 0.5. ValueError for a threshold below 0 or fewer than 1 stage.
    """
    if not most >= 1:
        raise ValueError(f"most = {most} is outside its range [1, inf)")
    if not threshold >= 0:
        raise ValueError(f"threshold = {threshold:g} is outside its range [0, inf)")
    fits = [h for h in range(1, most + 1) if float(overlap_redundancy(tile, h, radius, dimensions)) <= threshold]
    return max(fits, default=1)
