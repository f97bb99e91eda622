"""Misses of an LRU cache for affine programs as written: reuse distances found in closed form at chosen accesses.

An access hits iff fewer than S other elements were touched since its element's last use. For one access at a known
iteration both parts follow from the difference bounds of `programs`:

    last use    of an element by a reference: the latest iteration, in the order of execution, that touches it before now;
                loops are settled from outside in, each at its largest possible value once those around it are known
    distance    1 + elements whose own last use is later than that

Nothing is executed, and no cost grows with the number of iterations. Distances are evaluated at about `samples` iterations of
every reference: lattices in its region, one for each combination of loops in their first turn, where distances differ, and in
later ones. Elements are counted on a lattice of at most `elements` of each array. First uses are counted on that lattice, not
sampled. So for arrays of at most `elements` elements each distance is exact and only its frequency is estimated; above, both are;
more of either brings the estimate closer. Misses are a step in S for each sample; a soft policy makes them smooth, for
gradients in S.

After Haystack (Gysi et al., PLDI 2019), which counts symbolically with a library that this package cannot take for its licence.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from costmodel import relax
from costmodel.mapping.affine.caches import check_fast
from costmodel.mapping.affine.programs import FAR, RANK, Accesses, AffineProgram
from costmodel.relax import HARD, Relaxation

FIRST = 0.25  # share of the samples that take the first turn of a loop, for each loop
BATCH = 256  # samples of one call
PAD = 8  # accesses and arrays are padded to a multiple, so that programs of one depth share compiled code
COUNTED = 1 << 12  # points that count the iterations of a region


class ReuseProfile(NamedTuple):
    """Sampled reuse distances of a program: `lru_misses` asks it for any cache size."""

    distance: Float[Array, " samples"]  # elements; infinite on first use
    weight: Float[Array, " samples"]  # accesses that a sample stands for
    write: Bool[Array, " samples"]
    first_reads: Float[Array, ""]  # elements whose first use is a read
    first_writes: Float[Array, ""]


class LruMisses(NamedTuple):
    """Elements loaded, and written without being in the cache (allocated without a load); shape of the cache sizes asked."""

    reads: Float[Array, "..."]
    writes: Float[Array, "..."]


class _Tables(NamedTuple):
    """`Accesses` as int32 arrays, padded, with the lattice of elements of each array."""

    region: Array
    upward: Array
    step: Array
    start: Array
    plus: Array
    minus: Array
    offset: Array
    array: Array
    write: Array
    shared: Array
    before: Array
    weight: Array
    text: Array
    elements: Array  # (arrays, elements, RANK)
    scale: Array  # (arrays,) elements that a lattice point stands for


def reuse_profile(
    program: AffineProgram, sizes: Mapping[str, int | float], *, samples: int = 128, elements: int = 4096
) -> ReuseProfile:
    """Reuse distances of every access of `program` with numbers for its sizes; see the module.

    ValueError as `AffineProgram.bind`, and for fewer than 1 sample or element.
    """
    for name, value in (("samples", samples), ("elements", elements)):
        if value < 1:
            raise ValueError(f"{name} = {value} is outside its range [1, inf)")
    bound = program.bind(sizes)
    tables = _tables(bound, elements)
    access, turn, weight = _samples(bound, samples)
    missing = -len(access) % BATCH
    access, turn = np.pad(access, (0, missing), mode="edge"), np.pad(turn, ((0, missing), (0, 0)), mode="edge")
    parts = [_distances(tables, access[i : i + BATCH], turn[i : i + BATCH]) for i in range(0, len(access), BATCH)]
    reads, writes = _first_uses(tables)
    distance = jnp.concatenate(parts)[: len(weight)]
    return ReuseProfile(distance, jnp.asarray(weight, float), jnp.asarray(bound.write[access[: len(weight)]]), reads, writes)


def lru_misses(
    profile: ReuseProfile, fast: Num[Array | np.ndarray, "*sizes"] | Sequence[float] | float, policy: Relaxation = HARD
) -> LruMisses:
    """Misses in caches of `fast` elements, any number of sizes at once; differentiable in `fast` under a soft policy.

    ValueError for a plain `fast` that is not above 0.
    """
    check_fast(fast)
    capacity = jnp.asarray(fast, float)
    known = jnp.isfinite(profile.distance)
    hit = relax.fits(jnp.where(known, profile.distance, 1.0), capacity[..., None], policy)
    missed = jnp.where(known, (1 - hit) * profile.weight, 0.0)
    read, written = jnp.where(profile.write, 0.0, missed), jnp.where(profile.write, missed, 0.0)
    return LruMisses(profile.first_reads + read.sum(-1), profile.first_writes + written.sum(-1))


def _lattice(count: int, dimensions: int) -> np.ndarray:
    """`count` points of a low-discrepancy sequence in the unit cube (Roberts' generalised golden ratio)."""
    ratio = 2.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    steps = ratio ** -np.arange(1, dimensions + 1)
    return (0.5 + np.outer(np.arange(1, count + 1), steps)) % 1.0


def _samples(bound: Accesses, samples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Access, iteration and weight of all samples, those of equal iterations taken together."""
    depth, rows, weights = bound.region.shape[-1] - 1, [], []
    for firsts in itertools.product((True, False), repeat=depth):
        share = math.prod(FIRST if first else 1 - FIRST for first in firsts)
        turns, weight = _draw(bound, firsts, max(1, round(samples * share)))
        _, fine = _draw(bound, firsts, COUNTED if any(not f for f in firsts) else 1)
        own = weight.sum(1, keepdims=True)  # the combination stands for as many iterations as the finer lattice counts
        weight = weight * np.divide(fine.mean(1, keepdims=True), own, out=np.zeros_like(own), where=own > 0)
        access = np.broadcast_to(np.arange(len(bound.array))[:, None], weight.shape)
        rows.append(np.concatenate([access[..., None], turns], -1)[weight > 0])
        weights.append(weight[weight > 0])
    unique, where = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    return unique[:, 0], unique[:, 1:], np.bincount(where.ravel(), np.concatenate(weights), len(unique))


def _draw(bound: Accesses, firsts: tuple[bool, ...], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Iterations (accesses, count, depth) with some loops in their first turn and the others later; how many each stands for."""
    depth = len(firsts)
    points, m = _lattice(count, depth), bound.region[:, None]
    shape = (len(bound.array), count)
    upper = np.broadcast_to(m[..., :depth, depth], (*shape, depth)).copy()
    lower = np.broadcast_to(-m[..., depth, :depth], (*shape, depth)).copy()
    turns, weight = np.zeros((*shape, depth), np.int64), np.ones(shape)
    for q, first in enumerate(firsts):
        step, start = (x[:, None, q] for x in (bound.step, bound.start))
        start = lower[..., q] + (start - lower[..., q]) % step
        length = np.maximum((upper[..., q] - start) // step + 1, 0)
        rank = np.zeros(shape, np.int64) if first else np.minimum(1 + (points[:, q] * (length - 1)).astype(np.int64), length - 1)
        weight = weight * (np.minimum(length, 1) if first else np.maximum(length - 1, 0))
        value = turns[..., q] = start + step * np.where(bound.upward[:, None, q], rank, length - 1 - rank)
        upper = np.minimum(upper, value[..., None] + m[..., :depth, q])
        lower = np.maximum(lower, value[..., None] - m[..., q, :depth])
    return turns, weight


def _padded(values: np.ndarray, fill: int, axes: int = 1) -> Array:
    """As int32, with the first `axes` axes padded to a multiple of `PAD`."""
    width = [(0, -n % PAD) if i < axes else (0, 0) for i, n in enumerate(values.shape)]
    return jnp.asarray(np.pad(values.astype(np.int32), width, constant_values=fill))


def _tables(bound: Accesses, most: int) -> _Tables:
    volumes = bound.extent.prod(1)
    width = int(min(most, volumes.max()))
    width = -(-width // 256) * 256
    chosen, scale = [], []
    for low, extent, volume in zip(bound.low, bound.extent, volumes, strict=True):
        if volume <= width:
            index = np.stack(np.unravel_index(np.arange(volume), extent), -1)
            far = np.full((width - volume, RANK), extent)  # outside the array: never touched
            chosen.append(low + np.concatenate([index, far]))
            scale.append(1.0)
        else:
            axes = np.flatnonzero(extent > 1)
            index = np.zeros((width, RANK), int)
            index[:, axes] = _lattice(width, len(axes)) * extent[axes]
            chosen.append(low + index)
            scale.append(volume / width)
    columns = {
        name: _padded(getattr(bound, name), {"region": -1, "step": 1}.get(name, 0), 2 if name in ("shared", "before") else 1)
        for name in _Tables._fields[:-2]
    }
    weights = jnp.asarray(np.pad(np.asarray(scale), (0, -len(scale) % PAD)), jnp.result_type(float))
    return _Tables(**columns, elements=_padded(np.stack(chosen), 0), scale=weights)


def _pinned(a: _Tables, elements: Array) -> tuple[Array, Array]:
    """Closed regions (nodes, nodes, R, E) of the iterations in which each access touches elements (R, E, RANK); which exist."""
    m = jnp.broadcast_to(jnp.moveaxis(a.region, 0, -1)[..., None], (*a.region.shape[1:], *elements.shape[:2]))
    for d in range(RANK):
        plus, minus = (x[None, None, :, d, None] for x in (a.plus, a.minus))
        value = elements[..., d] - a.offset[:, d, None]
        through = jnp.take_along_axis(m, plus, 1) + value + jnp.take_along_axis(m, minus, 0)
        back = jnp.take_along_axis(m, minus, 1) - value + jnp.take_along_axis(m, plus, 0)
        m = jnp.clip(jnp.minimum(m, jnp.minimum(through, back)), -FAR, FAR)
    exists = functools.reduce(jnp.logical_and, [m[q, q] >= 0 for q in range(m.shape[0])])
    return m, exists


class _Settled(NamedTuple):
    """Loop turns of many accesses, each (R, E), and where there are such iterations."""

    turns: list[Array]
    possible: Array


def _settle(
    a: _Tables, m: Array, fixed: list[Array], ends: tuple[list[Array], list[Array]], upward: Array, limit: tuple[Array, Array]
) -> _Settled:
    """The latest turns (loops counting `upward`) after those `fixed`; bounds `ends` hold with these, `limit` is of the next."""
    upper, lower = (list(side) for side in ends)
    depth, p = len(upper), len(fixed)
    turns, possible = list(fixed), jnp.ones(m.shape[2:], bool)
    for q in range(p, depth):
        high, low = upper[q], lower[q]
        if q == p:
            high, low = jnp.minimum(high, limit[0]), jnp.maximum(low, limit[1])
        start, step, up = a.start[:, q, None], a.step[:, q, None], upward[:, q, None]
        high, low = high - (high - start) % step, low + (start - low) % step
        possible &= low <= high
        value = jnp.where(up, high, low)
        turns.append(value)
        for i in range(q + 1, depth):
            upper[i], lower[i] = jnp.minimum(upper[i], value + m[i, q]), jnp.maximum(lower[i], value - m[q, i])
    return _Settled(turns, possible)


def _last_use(a: _Tables, m: Array, exists: Array, access: Array, now: Array) -> tuple[Array, Array, Array]:
    """Time (two words) of the latest use by each access before `access` at iteration `now`, and whether there is one; (R, E)."""
    depth, upward = m.shape[0] - 1, a.upward > 0
    shared, before = a.shared[access][:, None], a.before[access][:, None] > 0
    upper, lower = [m[q, depth] for q in range(depth)], [-m[depth, q] for q in range(depth)]
    best, found, feasible = [jnp.zeros(m.shape[2:], jnp.int32)] * depth, jnp.zeros(m.shape[2:], bool), exists
    for p in range(depth + 1):  # the first p loops as now, the next one earlier: the more, the later
        earlier = p < shared
        none = (jnp.asarray(FAR), jnp.asarray(-FAR))
        if p < depth:
            up = upward[:, p, None]
            none = jnp.where(earlier & up, now[p] - 1, FAR), jnp.where(earlier & ~up, now[p] + 1, -FAR)
        settled = _settle(a, m, [jnp.broadcast_to(now[q], m.shape[2:]) for q in range(p)], (upper, lower), upward, none)
        possible = settled.possible & feasible & (earlier | ((p == shared) & before))
        best = [jnp.where(possible, new, old) for new, old in zip(settled.turns, best, strict=True)]
        found |= possible
        if p < depth:
            feasible &= (lower[p] <= now[p]) & (now[p] <= upper[p])
            upper = [jnp.minimum(u, now[p] + m[i, p]) for i, u in enumerate(upper)]
            lower = [jnp.maximum(low, now[p] - m[p, i]) for i, low in enumerate(lower)]
    return *_time(a, best), found


def _time(a: _Tables, turns: list[Array]) -> tuple[Array, Array]:
    """The two words of a time."""
    words = [
        sum((a.weight[:, w, q, None] * turn for q, turn in enumerate(turns)), a.text[:, w, None] + jnp.zeros_like(turns[0]))
        for w in (0, 1)
    ]
    return words[0], words[1]


def _element(a: _Tables, access: Array, turn: Array) -> Array:
    nodes = jnp.append(turn, 0)
    return nodes[a.plus[access]] - nodes[a.minus[access]] + a.offset[access]


@jax.jit
def _distances(a: _Tables, access: Array, turn: Array) -> Array:
    """Reuse distances (samples,) of accesses at iterations (samples, depth); infinite on first use."""
    regions, exist = _pinned(a, a.elements[a.array])
    member = (a.array[None, :] == jnp.arange(len(a.scale))[:, None]).astype(a.scale.dtype)

    def one(sample: tuple[Array, Array]) -> Array:
        element = jnp.broadcast_to(_element(a, *sample), (len(a.array), 1, RANK))
        own = [x[:, 0] for x in _last_use(a, *_pinned(a, element), *sample)]
        usable = own[2] & (a.array == a.array[sample[0]])
        high = jnp.max(jnp.where(usable, own[0], -1))
        low = jnp.max(jnp.where(usable & (own[0] == high), own[1], -1))
        first, second, found = _last_use(a, regions, exist, *sample)
        touched = found & ((first > high) | ((first == high) & (second > low)))
        counted = ((member @ touched.astype(member.dtype)) > 0).sum(1) @ a.scale
        return jnp.where(usable.any(), 1 + counted, jnp.inf)

    return jax.lax.map(one, (jnp.asarray(access, jnp.int32), jnp.asarray(turn, jnp.int32)))


@jax.jit
def _first_uses(a: _Tables) -> tuple[Array, Array]:
    """Elements whose first use is a read, and a write."""
    m, exists = _pinned(a, a.elements[a.array])
    depth = m.shape[0] - 1
    ends = [m[q, depth] for q in range(depth)], [-m[depth, q] for q in range(depth)]
    settled = _settle(a, m, [], ends, a.upward <= 0, (jnp.asarray(FAR), jnp.asarray(-FAR)))  # the latest, backwards
    first, second = _time(a, settled.turns)
    found = settled.possible & exists

    def of(array: Array) -> tuple[Array, Array]:
        mine = found & (a.array == array)[:, None]
        soonest = jnp.min(jnp.where(mine, first, 2**30), 0)
        then = jnp.min(jnp.where(mine & (first == soonest), second, 2**30), 0)
        by = mine & (first == soonest) & (second == then)
        return (by & (a.write == 0)[:, None]).any(0).sum(), (by & (a.write > 0)[:, None]).any(0).sum()

    reads, writes = jax.lax.map(of, jnp.arange(len(a.scale)))
    return reads @ a.scale, writes @ a.scale
