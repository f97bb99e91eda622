"""Traffic of a tiled nest between a fast and a slow memory: a managed scratchpad and an LRU cache, as two models.

A tiled nest has the tile loops outside and the loops within a tile inside. F(a, l) are the elements of array a touched by all
loops inside loop l (see `nests`), T_l the iterations of l.

    scratchpad   One tile of every array is held: need = sum_a F(a, tile). A tile stays for as long as the innermost tile loops
                 do not move it; every other tile loop loads it again: loads = F(a, tile) prod T.
    LRU          Two uses of an element in neighbouring iterations of loop l are D_l distinct elements apart (itself included),
                 at most, over all places in the tile:

                     D_l = sum_a F(a, l)                                  arrays that l does not move
                         + sum_a min(F(a, l) + E(a, l), F(a, two of l))   arrays that it moves: the rest of one iteration
                                                                          and the beginning of the next

                 E(a, l) are the elements inside the first inner loop that does not move a; those of one iteration if all of
                 them do. From the inside out, beginning with one iteration (an element for each offset), with D_l <= S a loop
                 adds only its new elements, F(a, l - 1) / F(a, l) times; else all T_l times.

For the b x b tile of a matrix product (order i j k, k in steps of 1) these are b^2 + 2 b and D_k = b^2 + (b + 1) + 2 b: the known
thresholds, and between them an LRU cache thrashes where a scratchpad works. Loss beyond a threshold is a cliff, because all
places but those at the edge of a tile have the same distance; HARD takes it as a step, the other policies as a smooth one with
finite slopes. Loops that a tile does not divide are counted with their mean tile and checked with the whole one.
Source of the thresholds: stack distances of traced programs; the law after Wolf and Lam, PLDI 1991, and Ferrante et al. 1991.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from costmodel import relax
from costmodel.mapping.affine.nests import Nest, Sides, as_sides
from costmodel.relax import HARD, Relaxation

MEMORIES = ("scratchpad", "lru")


class Traffic(NamedTuple):
    """Elements moved by one tiled nest; arrays (streams,) in the order of `nest.streams` unless said otherwise."""

    loads: Float[Array, " streams"]
    stores: Float[Array, " streams"]
    need: Float[Array, ""]  # elements of fast memory that the tile's own reuse takes
    fits: Float[Array, ""]  # 1 if it has them; in between under a soft policy
    flops: Float[Array, ""]

    @property
    def loaded(self) -> Float[Array, "..."]:
        """All elements loaded."""
        return jnp.sum(self.loads, -1)

    @property
    def moved(self) -> Float[Array, "..."]:
        """All elements loaded and stored."""
        return jnp.sum(self.loads, -1) + jnp.sum(self.stores, -1)

    @property
    def intensity(self) -> Float[Array, "..."]:
        """Operations for each element moved."""
        return self.flops / self.moved


class _Level(NamedTuple):
    """One loop of a tiled nest."""

    loop: int
    trips: Array
    inside: list[Array]  # sides of what all loops further inside cover, with mean tiles
    largest: list[Array]  # and with whole tiles


def nest_traffic(
    nest: Nest,
    extents: Sides,
    tile: Sides | None = None,
    fast: Num[Array, ""] | float = 32_768.0,
    *,
    memory: str = "scratchpad",
    order: str | Sequence[str] | None = None,
    inner: str | Sequence[str] | None = None,
    policy: Relaxation = HARD,
) -> Traffic:
    """Traffic of `nest` with `extents` (loops,) in tiles with sides `tile` (loops,), between 1 and the extents.

    No tile: the loops as written. `fast` elements of fast memory; `memory` "scratchpad" or "lru"; `order` of the tile loops and
    `inner` of the loops within, outermost first (None: as written). A scratchpad's loads do not grow where the tile does not
    fit: see `fits`. Differentiable in extents, tile and fast; HARD: steps at tile counts and at the cliff.
    ValueError for an unknown memory, order, or number of sides, and for a plain `fast` that is not above 0.
    """
    check_fast(fast)
    if memory not in MEMORIES:
        raise ValueError(f"memory = {memory!r} is not one of {', '.join(MEMORIES)}")
    whole = as_sides(nest, extents, "extent")
    given = whole if tile is None else as_sides(nest, tile, "tile")
    sides = jnp.clip(given, 1.0, whole)
    tiles = relax.ceil_div(whole, sides, policy)
    mean, turns = list(whole / tiles), list(tiles)
    levels = _levels(nest.order(order), nest.order(inner), turns, mean, list(sides), list(whole))
    flops = nest.flops * jnp.prod(whole)
    capacity = jnp.asarray(fast, float)
    if memory == "lru":
        loads, need, fit = _lru(nest, levels, capacity, policy)
    else:
        loads, need = _scratchpad(nest, levels[: len(nest.loops)], mean, list(sides))
        fit = relax.fits(need, capacity, policy)
    reads = _reads(nest, loads)
    writes = jnp.asarray([s.written for s in nest.streams], loads.dtype)
    return Traffic(loads * reads, loads * writes, need, fit, flops)


def untiled_lru_loads(nest: Nest, extents: Array, fast: Array, policy: Relaxation) -> Float[Array, " streams"]:
    """Loads of an LRU cache for the loops as written."""
    sides = list(extents)
    loads, _, _ = _lru(nest, _levels((), nest.order(None), [], sides, sides, sides), fast, policy)
    return loads * _reads(nest, loads)


def _reads(nest: Nest, like: Array) -> Array:
    return jnp.asarray([s.read for s in nest.streams], like.dtype)


def check_fast(fast: object) -> None:
    """ValueError for a plain number of elements of fast memory that is not above 0."""
    if isinstance(fast, int | float | np.number) and not fast > 0:
        raise ValueError(f"fast = {fast:g} elements is outside its range (0, inf) elements")


def _with(sides: list[Array], loop: int, value: Array) -> list[Array]:
    return [value if i == loop else side for i, side in enumerate(sides)]


def _levels(order: tuple, inner: tuple, tiles: list, mean: list, sides: list, whole: list) -> list[_Level]:
    """All loops, outermost first."""
    levels: list[_Level] = []
    exact = largest = [jnp.ones(())] * len(whole)
    for loop in reversed(inner):
        levels.append(_Level(loop, mean[loop], exact, largest))
        exact, largest = _with(exact, loop, mean[loop]), _with(largest, loop, sides[loop])
    for loop in reversed(order):
        levels.append(_Level(loop, tiles[loop], exact, largest))
        exact, largest = _with(exact, loop, whole[loop]), _with(largest, loop, whole[loop])
    return levels[::-1]


def _scratchpad(nest: Nest, outer: list[_Level], mean: list[Array], sides: list[Array]) -> tuple[Array, Array]:
    loads, need = [], jnp.zeros(())
    for stream in nest.streams:
        need += stream.elements(sides)
        moved, resident = stream.elements(mean), jnp.ones(())
        for level in reversed(outer):
            if stream.moves_with(level.loop):
                moved = moved * level.trips
                resident = resident * jnp.clip(2.0 - level.trips, 0.0, 1.0)
            else:
                moved = moved * (resident + (1 - resident) * level.trips)
        loads.append(moved)
    return jnp.stack(loads), need


def _lru(nest: Nest, levels: list[_Level], fast: Array, policy: Relaxation) -> tuple[Array, Array, Array]:
    """Misses of each stream, and the distance that the innermost tile loop with more than one iteration needs."""
    touched = [[stream.elements(level.inside) for level in levels] for stream in nest.streams]
    distances = [_distance(nest, levels, q) for q in range(len(levels))]
    fit = [relax.fits(d, fast, policy) for d in distances]
    misses = []
    for stream, elements in zip(nest.streams, touched, strict=True):
        inside = [_covered(stream, level) for level in levels]
        missed = elements[-1]  # one iteration already touches an element for each offset
        for q in reversed(range(len(levels))):
            growth = inside[q] / elements[q]
            trips = levels[q].trips
            missed = missed * _between(fit[q], growth, trips, policy)
        misses.append(missed)
    need, fits = jnp.ones(()), jnp.ones(())
    for q in range(len(nest.loops)):  # the innermost tile loop that turns decides
        turns = levels[q].trips > 1
        need, fits = jnp.where(turns, distances[q], need), jnp.where(turns, fit[q], fits)
    return jnp.stack(misses), need, fits


def _covered(stream, level: _Level) -> Array:
    """Elements of everything from this loop inwards."""
    return stream.elements(_with(level.inside, level.loop, level.inside[level.loop] * level.trips))


def _between(fit: Array, growth: Array, trips: Array, policy: Relaxation) -> Array:
    if policy.name == "hard":
        return jnp.where(fit > 0, growth, trips)
    return growth * (trips / growth) ** (1 - fit)


def _distance(nest: Nest, levels: list[_Level], q: int) -> Array:
    """D of loop q; see the module."""
    level, distance = levels[q], jnp.zeros(())
    for stream in nest.streams:
        once = stream.elements(level.largest)
        if stream.moves_with(level.loop):
            step = level.largest[level.loop]
            twice = stream.elements(_with(level.largest, level.loop, 2 * step))
            once = jnp.minimum(once + _beginning(stream, levels, q), twice)
        distance += once
    return distance


def _beginning(stream, levels: list[_Level], q: int) -> Array:
    """E of loop q: what the next iteration has already touched of a moved array and this one had not; see the module."""
    found = stream.elements([jnp.ones(())] * len(levels[q].largest))
    for level in reversed(levels[q + 1 :]):
        if not stream.moves_with(level.loop):
            found = found + jnp.clip(level.trips - 1, 0.0, 1.0) * (stream.elements(level.largest) - found)
    return found
