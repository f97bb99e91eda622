"""Cross-layer schedules of a network on crossbars that hold all of its weights: when each place of each layer is computed.

A base layer computes one output place per cycle (one matrix-vector product), copied d times d places. Layer by layer the network
takes sum_i ceil(t_i / d_i) cycles. Across layers every set of places starts as soon as the set before it on the same copy and
all places that it reads are finished (as soon as possible, ASAP). With q the work that the copy does before a place's set, w
that of the set, and ready the maximum of what it waits for (see `dependencies`),

    finish = max over earlier and equal sets of (ready - q)  +  q + w

a maximum over a window and a cumulative maximum per layer, in max-plus algebra: pure, to be jitted and vmapped over `duplicates`,
`cycle` and `transfer`. The makespan is convex and piecewise linear in `cycle` and `transfer`; where schedules tie, its gradient
is a subgradient (the tying paths share it).

    sets        `Sets(rows, columns)` of output places: Sets(1, 1) one place, Sets(1, 0) one row of a copy, ...
    direction   how copies share a layer: "vertical" strips (ranges of columns; strip k starts at round(k columns / d), ties to
                even), "horizontal" strips (ranges of rows), or "interleaved" (d places at a time in raster order, real d >= 1)

Times are in cycles unless `cycle` (s) says otherwise; in float32 cycle counts are exact up to 2**24. Not modelled, as in the
source: time beside the crossbars, contention on the network. Two extensions: `transfer`, a latency between a layer and its
readers, and `buffer`, how many places of its output each layer can keep for its readers (unlimited in the source). The buffer
is a ring: place n (row by row over the whole map) goes where place n - buffer was, so its set cannot start before that place
is finished and every base layer that reads it, directly or through what lies between, has finished its places that do;
room is noticed at once. Then "what it waits for" goes both ways, and a layer can block itself: a convolution of k x k needs
(k - 1) columns + k places, and a short way beside a long one what the long one keeps back. With less the schedule stands still.
Source: CLSA-CIM, Pelke et al., DATE 2024; strips, order and closed form: own derivation, checked against a simulation.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Num

from costmodel.mapping.dependencies import DIRECTIONS, INPUT, Axis, Join, Layer, LayerGraph, Step, Window


class Sets(NamedTuple):
    """Output places that are computed and handed on together, at least 1 row; `columns` 0 is the whole width of a copy."""

    rows: int = 1
    columns: int = 1

    def __str__(self) -> str:
        return f"{self.rows} x {self.columns or 'width'}"


PIXELS, WHOLE_ROWS = Sets(1, 1), Sets(1, 0)


class Schedule(eqx.Module):
    """When the base layers run; times in the unit of `cycle`, arrays of shape (layers,)."""

    makespan: Float[Array, ""]
    start: Float[Array, " layers"]  # of the first set
    finish: Float[Array, " layers"]  # of the last set
    busy: Float[Array, " layers"]  # summed over the copies

    def utilisation(self, crossbars: Any, available: int) -> Float[Array, ""]:
        """Share of the time that an average one of `available` crossbars works; `crossbars` per copy of each layer."""
        return jnp.sum(jnp.asarray(crossbars) * self.busy) / (available * self.makespan)


def layer_by_layer(graph: LayerGraph, duplicates: Any = None, cycle: Any = 1.0) -> Schedule:
    """One layer after the other, each copy of a layer with an equal share (rounded up) of its places.

    `duplicates` (layers,) >= 1, default 1; `cycle`: time of one product, a number or (layers,).
    """
    duplicates, cycle, _ = _arguments(graph, duplicates, cycle, 0.0, PIXELS, "vertical")
    work = jnp.asarray(graph.cycles)
    whole = jnp.asarray(duplicates, int)
    finish = jnp.cumsum(-(-work // whole) * cycle)
    start = jnp.concatenate([jnp.zeros(1), finish[:-1]])
    return Schedule(finish[-1], start, finish, work * cycle)


def cross_layer(
    graph: LayerGraph,
    duplicates: Any = None,
    *,
    cycle: Any = 1.0,
    transfer: Any = 0.0,
    sets: Sets = PIXELS,
    direction: str = "vertical",
    buffer: Any = None,
) -> Schedule:
    """Every set as soon as possible; see the module for the law, the order and the non-smooth points.

    `duplicates` (layers,): copies of each layer, default 1; more than a strip direction has columns (rows) idle. `cycle`: time of
    one product, `transfer`: time until a finished set can be read by other layers; numbers or (layers,), >= 0. `buffer`: places
    that each layer keeps for its readers, a number or (layers,), >= 1; None is no limit. With a limit the program repeats itself
    until all times are known, at worst once for every place over the smallest spare room; derivatives are forward (`jax.jvp`).
    Raises ValueError for a wrong length, a concrete number of copies or places kept below 1, sets below 1 row, an unknown
    direction, and a buffer with which the schedule stands still (within jit its makespan is infinite).
    """
    runs = _run(graph, duplicates, cycle, transfer, sets, direction, buffer)
    start, finish, busy = (jnp.stack(column) for column in zip(*(run[1:] for run in runs), strict=True))
    return Schedule(jnp.max(finish), start, finish, busy)


def finish_times(
    graph: LayerGraph,
    duplicates: Any = None,
    *,
    cycle: Any = 1.0,
    transfer: Any = 0.0,
    sets: Sets = PIXELS,
    direction: str = "vertical",
    buffer: Any = None,
) -> tuple[Float[Array, "rows columns"], ...]:
    """When each output place of each base layer is finished; arguments and errors as for `cross_layer`."""
    return tuple(run.places for run in _run(graph, duplicates, cycle, transfer, sets, direction, buffer))


class _Run(NamedTuple):
    """One base layer: when each place is finished, when the first set starts, when the last is finished, and the work."""

    places: Float[Array, "rows columns"]
    start: Float[Array, ""]
    finish: Float[Array, ""]
    busy: Float[Array, ""]


def _run(graph: LayerGraph, duplicates: Any, cycle: Any, transfer: Any, sets: Sets, direction: str, buffer: Any) -> list[_Run]:
    columns = _arguments(graph, duplicates, cycle, transfer, sets, direction)
    if buffer is None:
        return _forward(graph, columns, sets, direction)
    room = _column(graph, "buffer", buffer, int, 1)
    runs = _limited(graph, columns, room, sets, direction)
    if _stands_still(runs):
        first = _too_small(graph, room, lambda widened: _limited(graph, columns, widened, sets, direction))
        raise ValueError(
            f"buffer of {graph.names[first]} = {room[first]} places is too small: full before any of it can be dropped"
        )
    return runs


def _stands_still(runs: list[_Run]) -> bool:
    """Whether some times are infinite; False where they are not concrete."""
    last = [run.finish for run in runs]
    return not any(isinstance(value, Tracer) for value in last) and not np.isfinite(last).all()


def _too_small(graph: LayerGraph, room: Any, run: Callable[[Any], list[_Run]]) -> int:
    """A layer whose buffer stops the schedule, given those of the layers after it; bisected, with room for all before it."""
    stopped, moving = 0, len(graph.layers)
    while moving - stopped > 1:
        middle = (stopped + moving) // 2
        widened = [layer.rows * layer.columns if i < middle else room[i] for i, layer in enumerate(graph.layers)]
        stopped, moving = (middle, moving) if _stands_still(run(jnp.asarray(widened, int))) else (stopped, middle)
    return stopped


def _forward(graph: LayerGraph, columns: Any, sets: Sets, direction: str, room: Any = None) -> list[_Run]:
    """Every layer once, in order; `room`: when there is room for each place, by layer."""
    per_layer = zip(*(_unstack(column) for column in columns), strict=True)
    maps: list[Any] = []
    runs: list[_Run] = []
    for step in graph.steps:
        if isinstance(step, Layer):
            ready = jnp.zeros((1, 1)) if step.source == INPUT else maps[step.source]
            if room is not None:
                ready = jnp.maximum(ready, room[len(runs)])
            run, later = _layer(ready, *next(per_layer), step.size, step.repeat, sets, direction)
            runs.append(run)
            maps.append(later)
        else:
            maps.append(_between(step, tuple(maps[source] for source in step.sources)))
    return runs


@jax.jit
def _unstack(column: Num[Array, " layers"]) -> tuple[Num[Array, ""], ...]:
    return tuple(column)


def _arguments(graph: LayerGraph, duplicates: Any, cycle: Any, transfer: Any, sets: Sets, direction: str) -> Any:
    """The three arrays of shape (layers,), checked where they are concrete."""
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}; known: {', '.join(DIRECTIONS)}")
    if sets.rows < 1 or sets.columns < 0:
        raise ValueError(f"sets = {sets.rows} x {sets.columns} places is outside its range: rows >= 1, columns >= 0 (0: width)")
    dtype = float if direction == "interleaved" else int
    given = (("duplicates", 1 if duplicates is None else duplicates, dtype, 1), ("cycle", cycle, float, 0))
    return [_column(graph, *one) for one in (*given, ("transfer", transfer, float, 0))]


def _column(graph: LayerGraph, name: str, value: Any, kind: type, low: int) -> Num[Array, " layers"]:
    array, n = jnp.asarray(value, kind), len(graph.layers)
    if array.shape not in ((), (n,)):
        raise ValueError(f"{name} has shape {array.shape}, {graph.name} has {n} layers: shape () or ({n},) is needed")
    if not isinstance(array, Tracer) and (bad := np.flatnonzero(~(np.asarray(array) >= low))).size:
        raise ValueError(f"{name} of {graph.names[bad[0]]} = {array.reshape(-1)[bad[0]]} is below its limit {low}")
    return jnp.broadcast_to(array, (n,))


# -- base layers


class _Strips(NamedTuple):
    """Where each index of an axis lies: in which strip it is, and in which set of that strip."""

    first: Bool[Array, " size"]  # whether it is the first of its strip
    width: Int[Array, " size"]  # of its strip
    last: Int[Array, " size"]  # index of the last of its strip
    set_start: Int[Array, " size"]  # offset of its set in the strip
    set_width: Int[Array, " size"]
    set_first: Bool[Array, " size"]
    set_head: Int[Array, " size"]  # index of the first of its set
    set_last: Int[Array, " size"]  # index of the last of its set


def _strips(size: int, strips: Num[Array, ""] | int, width: int) -> _Strips:
    """`size` places cut into strips that start at round(k size / strips), and those into sets of `width` (0: one set)."""
    index, strips = jnp.arange(size), jnp.clip(jnp.asarray(strips, int), 1, size)
    # k is the last strip with round(k size / strips) <= index, that is k size / strips <= index + 1/2 (a tie rounds to even)
    scaled = (2 * index + 1) * strips
    k = scaled // (2 * size) - ((scaled % (2 * size) == 0) & (index % 2 == 1))
    start, end = _rounded(k * size, strips), _rounded((k + 1) * size, strips)
    offset = index - start
    block = end - start if width == 0 else jnp.full(size, width)
    set_start = offset // block * block
    set_width = jnp.minimum(block, end - start - set_start)
    head = start + set_start
    return _Strips(offset == 0, end - start, end - 1, set_start, set_width, index == head, head, head + set_width - 1)


def _rounded(numerator: Any, denominator: Any) -> Any:
    """round(numerator / denominator) in integers, ties to even."""
    doubled = 2 * numerator + denominator
    whole = doubled // (2 * denominator)
    return whole - ((doubled % (2 * denominator) == 0) & (whole % 2 == 1))


def _grid(duplicates: Any, size: tuple[int, int], sets: Sets, direction: str) -> tuple[_Strips, _Strips]:
    rows = _strips(size[0], duplicates if direction == "horizontal" else 1, sets.rows)
    columns = _strips(size[1], duplicates if direction == "vertical" else 1, sets.columns)
    return rows, columns


@functools.partial(jax.jit, static_argnames=("size", "repeat", "sets", "direction"))
def _layer(
    ready: Any, duplicates: Any, cycle: Any, transfer: Any, size: tuple[int, int], repeat: int, sets: Sets, direction: str
) -> tuple[_Run, Float[Array, "h w"]]:
    """A layer whose places may start at `ready`, and when others see it; one program for all layers of equal size."""
    busy = size[0] * size[1] * repeat * cycle
    cycle = cycle * repeat
    if direction == "interleaved":
        cycle, duplicates = cycle / duplicates, 1
    rows, columns = _grid(duplicates, size, sets, direction)
    work = rows.set_start[:, None] * columns.width + rows.set_width[:, None] * columns.set_start
    slack = jnp.broadcast_to(ready, size) - work * cycle
    if sets.rows > 1:  # a set waits for the last of its rows
        slack = _running(slack, rows.set_first, axis=0)[rows.set_last]
    along = _running(slack, columns.first, axis=1)
    above = _running(along[:, columns.last], rows.first, axis=0, exclusive=True)
    if sets.rows > 1:
        above = above[rows.set_head]
    if sets.columns != 1:
        along = along[:, columns.set_last]
    own = rows.set_width[:, None] * columns.set_width * cycle
    start = jnp.maximum(above, along) + work * cycle
    finish = start + own
    return _Run(finish, jnp.min(start), jnp.max(finish), busy), finish + transfer


def _running(x: Float[Array, "h w"], first: Bool[Array, " n"], axis: int, exclusive: bool = False) -> Float[Array, "h w"]:
    """Maximum of all before and here (`exclusive`: before) along an axis, anew where `first`; -inf where there is none."""
    lines = x if axis == 0 else x.T

    def advance(highest: Any, line: Any) -> Any:
        value, anew = line
        before = jnp.where(anew, -jnp.inf, highest)
        after = jnp.maximum(before, value)
        return after, (before if exclusive else after)

    _, result = lax.scan(advance, jnp.full(lines.shape[1], -jnp.inf, x.dtype), (lines, first))
    return result if axis == 0 else result.T


# -- between base layers


@functools.partial(jax.jit, static_argnames=("step",))
def _apply(maps: tuple[Any, ...], step: Any) -> Float[Array, "h w"]:
    if isinstance(step, Window):
        return _window(_window(maps[0], step.row, 0), step.column, 1)
    if isinstance(step, Join):
        return jnp.concatenate(maps, step.axis)
    return jnp.broadcast_to(functools.reduce(jnp.maximum, maps), step.size)


def _between(step: Step, maps: tuple[Any, ...]) -> Any:
    """A step without base layer; those that differ in their sources only share a compiled program."""
    if isinstance(step, Window):
        return _apply(maps, Window(INPUT, step.row, step.column))
    return _apply(maps, dataclasses.replace(cast(Any, step), sources=()))


def _window(x: Float[Array, "h w"], axis: Axis, dim: int) -> Float[Array, "h2 w2"]:
    """Maximum over the taps of one axis; padding is ready at 0."""
    if axis.trivial:
        return x
    x = jnp.repeat(x, axis.repeat, dim) if axis.repeat > 1 else x
    if axis.size == 1 and axis.kernel == x.shape[dim] and axis[2:] == Axis(1)[2:]:
        return jnp.max(x, dim, keepdims=True)
    edges = [(0, 0, 0), (0, 0, 0)]
    edges[dim] = (axis.low, axis.high, axis.spread - 1)
    x = lax.pad(x, jnp.zeros((), x.dtype), edges)
    reach = (axis.size - 1) * axis.stride + 1
    starts = (tap * axis.dilation for tap in range(axis.kernel))
    taps = [lax.slice_in_dim(x, start, start + reach, axis.stride, dim) for start in starts]
    return functools.reduce(jnp.maximum, taps)


# -- limited buffers


@functools.partial(jax.jit, static_argnames=("graph", "sets", "direction"))
def _limited(graph: LayerGraph, columns: Any, room: Int[Array, " layers"], sets: Sets, direction: str) -> list[_Run]:
    """The schedule with `room` places kept for each layer's readers.

    A time is infinite until all that it waits for is known, and exact from then on. Every pass makes more of them known;
    when one does not, the infinite ones wait for each other.
    """

    def known(free: Any) -> Any:
        return sum(jnp.isfinite(part).sum() for part in free)

    def advance(carry: Any) -> Any:
        free, _, _ = carry
        runs = _forward(graph, columns, sets, direction, free)
        gone = _dropped(graph, [run.places for run in runs])
        return [_behind(part, kept) for part, kept in zip(gone, room, strict=True)], known(free), runs

    unknown = [jnp.full(layer.size, jnp.inf) for layer in graph.layers]
    shapes = jax.eval_shape(lambda: _forward(graph, columns, sets, direction, unknown))
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    none = jnp.full_like(known(unknown), -1)
    return lax.while_loop(lambda carry: known(carry[0]) > carry[1], advance, (unknown, none, blank))[2]


def _behind(gone: Float[Array, "h w"], kept: Int[Array, ""]) -> Float[Array, "h w"]:
    """For every place when the one `kept` places before it is gone; the first ones find room at once."""
    before = jnp.arange(gone.size).reshape(gone.shape) - kept
    return jnp.where(before < 0, 0.0, gone.reshape(-1)[jnp.maximum(before, 0)])


def _dropped(graph: LayerGraph, finish: list[Any]) -> list[Float[Array, "h w"]]:
    """When every place of every base layer is finished itself and no longer needed by any reader."""
    layers = [index for index, step in enumerate(graph.steps) if isinstance(step, Layer)]
    ended = dict(zip(layers, finish, strict=True))
    needed = [ended.get(index, jnp.zeros(step.size)) for index, step in enumerate(graph.steps)]
    for index, step in reversed(list(enumerate(graph.steps))):
        times = ended.get(index, needed[index])
        for source in step.sources:
            if source == INPUT:
                continue
            size, part = graph.steps[source].size, times
            if isinstance(step, Join):  # operands follow each other along the axis
                part, times = jnp.split(times, [size[step.axis]], step.axis)
            if isinstance(step, Window):
                part = _readers(_readers(part, step.row, size[0], 0), step.column, size[1], 1)
            narrow = tuple(axis for axis in (0, 1) if size[axis] == 1)
            needed[source] = jnp.maximum(needed[source], jnp.max(part, narrow, keepdims=True))
    return [needed[index] for index in layers]


def _readers(x: Float[Array, "h w"], axis: Axis, inputs: int, dim: int) -> Float[Array, "h2 w2"]:
    """For each of `inputs` places of one axis the maximum over the outputs that read it; 0 where there is none."""
    if axis.trivial:
        return x
    found: list[list[int]] = [[] for _ in range(inputs)]
    for output in range(axis.size):
        for place in set(axis.taps(output, inputs)):
            found[place].append(output)
    most = max(1, *map(len, found))
    table = np.array([outputs + [axis.size] * (most - len(outputs)) for outputs in found])
    padded = jnp.concatenate([x, jnp.zeros_like(lax.slice_in_dim(x, 0, 1, axis=dim))], dim)
    return jnp.max(jnp.take(padded, table, dim), dim + 1)


def lower_bound(graph: LayerGraph, duplicates: Any = None) -> int:
    """No schedule of these copies takes fewer cycles: the work of the busiest copy of any layer."""
    copies = [1] * len(graph.layers) if duplicates is None else [int(d) for d in np.asarray(duplicates)]
    return max(math.ceil(t / d) for t, d in zip(graph.cycles, copies, strict=True))
