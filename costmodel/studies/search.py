"""The best point of a grid: every point tried, or a gradient followed through the relaxed model and rounded, or points at random.

A point is one value for each named dimension, out of the values allowed there. The objective takes one point and gives one
number, infinite where the point is not feasible; batching is done here.

    exhaustive   all points, in chunks that are made and scored inside one compiled program: the optimum, up to `MOST` points
    gradient     `starts` points of a lattice, `steps` of Adam on the logarithm of the relaxed objective in the logarithms of
                 the coordinates, kept inside the grid; then each end point's neighbours (the allowed values just below and
                 above it in every dimension) by the objective itself, and from the best one line searches along every
                 dimension and trades between two until none is better
    random       `budget` points drawn evenly

The relaxed objective must be finite and positive everywhere and grow where points become infeasible; `penalty` does that. Its
optimum need not round to the best point: compare with the exhaustive search where that is possible (`Minimum.value`).
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from costmodel.mapping.affine.caches import Traffic, nest_traffic
from costmodel.mapping.affine.nests import Nest, Sides
from costmodel.relax import HARD, Relaxation, soft

METHODS = ("exhaustive", "gradient", "random")
MOST = 1 << 28
CHUNK = 1 << 14
CORNERS = 1 << 12  # neighbours of one end point
RATE = 0.05  # of Adam, of the range of a logarithm
SHARPNESS = 8.0  # of the relaxed traffic
Objective = Callable[..., Float[Array, ""]]  # of a point (dimensions,) and `args`


class Minimum(NamedTuple):
    """The best point found; infinite value: no feasible point was met."""

    point: dict[str, float]
    value: float
    evaluations: int  # of the objective itself
    descents: int  # gradient steps, of all starts together


class TileChoice(NamedTuple):
    """The best tile of a nest and its traffic."""

    tile: dict[str, int]
    traffic: Traffic
    evaluations: int


def penalty(need: Array, capacity: Array, sharpness: float = 32.0) -> Float[Array, ""]:
    """Factor >= 1 on a relaxed objective: near 1 below the capacity, 1 + sharpness ln(need / capacity) well beyond it."""
    over = jnp.log(need) - jnp.log(capacity)
    return 1.0 + jax.nn.softplus(sharpness * over)


def minimize(
    objective: Objective,
    grid: Mapping[str, Sequence[float] | np.ndarray],
    *,
    args: tuple[Any, ...] = (),
    method: str = "gradient",
    relaxed: Objective | None = None,
    starts: int = 16,
    steps: int = 150,
    budget: int = 4096,
    key: PRNGKeyArray | None = None,
    chunk: int = CHUNK,
) -> Minimum:
    """The point of `grid` (allowed values of each dimension, positive) with the least `objective(point, *args)`; see the module.

    What is compiled for an objective is kept for as long as it is the same function: give what changes as `args`.
    `relaxed` (default: the objective) is descended by "gradient"; `key` is drawn from by "random" (default: that of seed 0).
    `chunk` points are scored side by side by "exhaustive" and "random": fewer suit an objective with large intermediates.
    ValueError for an unknown method, an empty or non-positive dimension, or more than `MOST` points to try.
    """
    if method not in METHODS:
        raise ValueError(f"method = {method!r} is not one of {', '.join(METHODS)}")
    if not grid:
        raise ValueError("the grid has no dimension, at least 1 is needed")
    axes = [np.unique(np.asarray(values, float)) for values in grid.values()]
    for name, axis in zip(grid, axes, strict=True):
        if not len(axis) or not (axis > 0).all():
            raise ValueError(f"grid: dimension {name} needs at least one value, all of them positive")
    table, lengths = _table(axes), tuple(map(len, axes))
    if method == "gradient":
        point, value, tried = _descend(objective, relaxed or objective, axes, starts, steps, args)
        descents = starts * steps
    else:
        tried, descents = (budget if method == "random" else math.prod(lengths)), 0
        if tried > MOST:
            raise ValueError(f"the grid has {tried} points, at most {MOST} can be tried one by one")
        keys = jax.random.key(0) if key is None else key
        first = jax.random.randint(keys, (budget, len(axes)), 0, jnp.asarray(lengths)) if method == "random" else None
        point, value = _scan(objective, lengths, tried, min(chunk, tried), table, first, args)
    return Minimum({name: float(x) for name, x in zip(grid, np.asarray(point), strict=True)}, float(value), tried, descents)


def _table(axes: list[np.ndarray]) -> Array:
    """Values (dimensions, longest), shorter axes repeated at the end."""
    width = max(map(len, axes))
    return jnp.asarray(np.stack([np.pad(axis, (0, width - len(axis)), mode="edge") for axis in axes]), float)


@functools.partial(jax.jit, static_argnames=("objective", "lengths", "count", "chunk"))
def _scan(
    objective: Objective,
    lengths: tuple[int, ...],
    count: int,
    chunk: int,
    table: Array,
    drawn: Array | None,
    args: tuple[Any, ...],
) -> tuple[Array, Array]:
    """Best of `count` points: those drawn (positions), or the grid's in row-major order."""

    def best_of(start: Array) -> tuple[Array, Array]:
        index = jnp.minimum(start + jnp.arange(chunk), count - 1)
        points = _at(table, jnp.stack(jnp.unravel_index(index, lengths), -1) if drawn is None else drawn[index])
        values = jax.vmap(lambda point: objective(point, *args))(points)
        winner = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))
        return points[winner], values[winner]

    points, values = jax.lax.map(best_of, jnp.arange(0, count, chunk))
    winner = jnp.argmin(values)
    return points[winner], values[winner]


def _at(table: Array, positions: Array) -> Array:
    """Values at positions (points, dimensions)."""
    return table[jnp.arange(table.shape[0]), positions]


def _descend(
    objective: Objective, relaxed: Objective, axes: list[np.ndarray], starts: int, steps: int, args: tuple[Any, ...]
) -> tuple[Array, Array, int]:
    low = jnp.log(jnp.asarray([axis[0] for axis in axes], float))
    high = jnp.log(jnp.asarray([axis[-1] for axis in axes], float))
    lattice = (0.5 + jnp.arange(1, starts + 1)[:, None] * _golden(len(axes))) % 1.0
    ends = np.asarray(_adam(relaxed, steps, lattice, low, high, args))
    corners = np.unique(np.concatenate([_neighbours(axes, np.exp(end)) for end in ends]), axis=0)
    table = _table(axes)
    point, value, tried = _best(objective, table, corners, args)
    while True:  # each turn lowers the value, so it ends
        next_point, next_value, count = _best(objective, table, _around(point, axes), args)
        tried += count
        if not next_value < value:
            return _at(table, jnp.asarray(point[None]))[0], value, tried
        point, value = next_point, next_value


@functools.partial(jax.jit, static_argnames=("relaxed", "steps"))
def _adam(relaxed: Objective, steps: int, lattice: Array, low: Array, high: Array, args: tuple[Any, ...]) -> Array:
    """End points (starts, dimensions) in logarithms."""
    optimizer = optax.adam(RATE)
    slope = jax.grad(lambda x: jnp.log(relaxed(jnp.exp(x), *args)))

    def step(state: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, optax.OptState], None]:
        x, memory = state
        updates, memory = optimizer.update(jnp.nan_to_num(slope(x)) * (high - low), memory)
        assert isinstance(updates, Array)
        return (jnp.clip(x + updates * (high - low), low, high), memory), None

    def one(u: Array) -> Array:
        x = low + u * (high - low)
        return jax.lax.scan(step, (x, optimizer.init(x)), None, length=steps)[0][0]

    return jax.vmap(one)(lattice)


def _golden(dimensions: int) -> np.ndarray:
    """Steps of a low-discrepancy lattice (Roberts' generalised golden ratio)."""
    ratio = 2.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    return ratio ** -np.arange(1, dimensions + 1)


def _neighbours(axes: list[np.ndarray], point: np.ndarray) -> np.ndarray:
    """Positions of the allowed values around a point: below and above it in each dimension, the nearest alone if too many."""
    sides = []
    for axis, x in zip(axes, point, strict=True):
        above = int(np.clip(np.searchsorted(axis, x), 0, len(axis) - 1))
        sides.append(sorted({max(above - 1, 0), above}))
    if math.prod(map(len, sides)) > CORNERS:
        sides = [[min(side, key=lambda i, a=axis, v=x: abs(a[i] - v))] for side, axis, x in zip(sides, axes, point, strict=True)]
    return np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, len(axes))


def _around(point: np.ndarray, axes: list[np.ndarray]) -> np.ndarray:
    """Positions anywhere along one dimension, and one up with another one down."""
    unit = np.eye(len(axes), dtype=int)
    lines = [point + (np.arange(len(axis))[:, None] - point[i]) * unit[i] for i, axis in enumerate(axes)]
    trades = [(point + a - b)[None] for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j]
    return np.clip(np.concatenate([*lines, *trades]), 0, np.asarray([len(axis) - 1 for axis in axes]))


def _best(objective: Objective, table: Array, positions: np.ndarray, args: tuple[Any, ...]) -> tuple[np.ndarray, Array, int]:
    count = len(positions)
    padded = np.pad(positions, ((0, -count % 256), (0, 0)), mode="edge")  # few shapes to compile
    values = np.asarray(_score(objective, table, jnp.asarray(padded), args))[:count]
    winner = int(np.argmin(np.where(np.isnan(values), np.inf, values)))
    return positions[winner], jnp.asarray(values[winner]), count


@functools.partial(jax.jit, static_argnames=("objective",))
def _score(objective: Objective, table: Array, positions: Array, args: tuple[Any, ...]) -> Array:
    return jax.vmap(lambda point: objective(point, *args))(_at(table, positions))


def search_tiles(
    nest: Nest,
    extents: Sides,
    fast: float,
    *,
    memory: str = "scratchpad",
    order: str | Sequence[str] | None = None,
    inner: str | Sequence[str] | None = None,
    method: str = "gradient",
    sides: Mapping[str, Sequence[int]] | None = None,
) -> TileChoice:
    """The tile of `nest` that moves least with `fast` elements of fast memory, by gradient or by trying all.

    `sides`: allowed sides of some loops; else every whole number up to the extent for extents up to 64, a fine geometric series
    for larger ones. A scratchpad takes only tiles that fit. ValueError as `nest_traffic` and `minimize`.
    """
    whole, capacity = jnp.asarray(extents, float), jnp.asarray(fast, float)
    grid = {name: (sides or {}).get(name, _sides(int(n))) for name, n in zip(nest.loops, np.asarray(extents), strict=True)}
    hard, relaxed = _tile_objectives(nest, memory, nest.order(order), nest.order(inner))
    best = minimize(hard, grid, args=(whole, capacity), method=method, relaxed=relaxed)
    tile = {name: int(side) for name, side in best.point.items()}
    sized = jnp.asarray(list(tile.values()), float)
    return TileChoice(tile, nest_traffic(nest, whole, sized, capacity, memory=memory, order=order, inner=inner), best.evaluations)


@functools.cache
def _tile_objectives(nest: Nest, memory: str, order: tuple[int, ...], inner: tuple[int, ...]) -> tuple[Objective, Objective]:
    """Elements moved by a tile: exact, infinite where a scratchpad is too small; and relaxed."""
    names = [tuple(nest.loops[i] for i in loops) for loops in (order, inner)]

    def traffic(tile: Array, extents: Array, fast: Array, policy: Relaxation) -> Traffic:
        return nest_traffic(nest, extents, tile, fast, memory=memory, order=names[0], inner=names[1], policy=policy)

    def hard(tile: Array, extents: Array, fast: Array) -> Array:
        found = traffic(tile, extents, fast, HARD)
        return jnp.where((found.fits > 0) | (memory == "lru"), found.moved, jnp.inf)

    def relaxed(tile: Array, extents: Array, fast: Array) -> Array:
        found = traffic(tile, extents, fast, soft(SHARPNESS))
        return found.moved * (penalty(found.need, fast) if memory == "scratchpad" else 1.0)

    return hard, relaxed


def _sides(extent: int) -> np.ndarray:
    if extent <= 64:
        return np.arange(1, extent + 1)
    return np.unique(np.rint(np.geomspace(1, extent, 96)).astype(int))
