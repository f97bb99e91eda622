"""Schedules of a matrix product on a crossbar chip: what a compiler may choose, and what each choice costs.

An operation (M, N, K, groups) is cut into tiles of `word_lines` x `filters`, Tk = ceil(K / word_lines) of them along K and Tn
columns of them along N and the groups. hold_k x hold_n tiles are in place at once, `copies` times over, each copy for its own
share of the M vectors; the rest take turns:

    turns   = ceil(Tk / hold_k) ceil(Tn / hold_n)
    batches = turns ceil(M / copies)                                    scope "layer"
    batches = ceil(Tk Tn M / min(arrays in scope, held copies))         scopes "chip" and "pe": the source's pool of arrays
    cycles  = batches ceil(input_bits / dac_bits) + pipeline turns      (Liao, Chen, King: timing model for an auto-scheduler)

What stays put while tiles take turns decides the traffic and the writing; without turns the three are the same:

    stationary   weights written     inputs read              partial sums written and read back
    weights      once                ceil(N tiles / hold_n)   2 (ceil(Tk / hold_k) - 1)
    outputs      once per block      ceil(N tiles / hold_n)   0
    inputs       once per block      1                        2 (ceil(Tk / hold_k) - 1)

A block is a part of the M vectors; the registers must hold its outputs, or its inputs. Only the used word lines are written.
One copy of the weights may be resident. Scope "layer" writes every further copy; "chip" and "pe" take them as being there.

`default_schedule` is the chip's own: it costs what `CrossbarChip.op_costs` says wherever the weights fit, and more where they
do not, because that estimate leaves out the traffic of taking turns. Each operation is taken as alone on the chip. Partial
sums are as wide as inputs; sums of tiles in place at once are added on the way for nothing, as in that estimate; the weights
left by one block are written anew for the next. Non-smooth everywhere: counts, not gradients.
"""

import enum
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from costmodel.cost import Conditions
from costmodel.processors.base import as_arrays, other_operations
from costmodel.processors.cim import CrossbarChip
from costmodel.relax import HARD, ceil_div, floor_div
from workloads import OpKind, OpTable

INPUT_REGISTER = 2048.0  # B per unit; ISAAC, Shafiee et al., ISCA 2016, component table
OUTPUT_REGISTER = 256.0  # B per unit; the same table
WIDTH = 32  # most values a decision can take


class Stationary(enum.IntEnum):
    """What stays in place while tiles of weights take turns."""

    WEIGHTS = 0
    OUTPUTS = 1
    INPUTS = 2


class Schedule(NamedTuple):
    """A schedule; integers of one shape, () for one operation."""

    word_lines: Int[Array, "..."]  # of an array that one tile uses
    filters: Int[Array, "..."]  # side by side in one array
    hold_k: Int[Array, "..."]  # tiles along K in place at once
    hold_n: Int[Array, "..."]  # tiles along N and the groups in place at once
    copies: Int[Array, "..."]  # of the tiles in place
    block: Int[Array, "..."]  # vectors that pass before the tiles change; M unless outputs or inputs are stationary
    stationary: Int[Array, "..."]  # a `Stationary`


class ScheduleCost(NamedTuple):
    """What a schedule costs, of the schedule's shape."""

    latency: Float[Array, "..."]  # s, programming included
    energy: Float[Array, "..."]  # J: dynamic, programming, and static over the latency
    programming_latency: Float[Array, "..."]  # s
    batches: Float[Array, "..."]  # rounds of matrix-vector products, one after the other
    arrays: Float[Array, "..."]  # in use
    written: Float[Array, "..."]  # weights written, in copies of all of them
    bytes_moved: Float[Array, "..."]  # B: inputs, outputs and partial sums
    feasible: Bool[Array, "..."]  # the arrays and the registers suffice


class Decisions(NamedTuple):
    """What a search chooses between: for each of the `DECISIONS` its values, padded to `WIDTH`, and their number."""

    values: Int[Array | np.ndarray, "... decisions width"]
    counts: Int[Array | np.ndarray, "... decisions"]


DECISIONS = ("stationary", "word_lines", "filters", "turns_k", "turns_n", "copies", "blocks")


class _Tiling(NamedTuple):
    """An operation cut into tiles."""

    chip: CrossbarChip  # with arrays as large as the part of them that is used
    tiles: Float[Array, ""]
    along_k: Float[Array, ""]
    along_n: Float[Array, ""]  # of one group
    columns: Float[Array, ""]  # along N and the groups; groups that share an array count once


def _tiling(chip: CrossbarChip, ops: OpTable, word_lines: Any, filters: Any) -> _Tiling:
    slices = ceil_div(chip.weight_bits, chip.bits_per_cell)
    used = eqx.tree_at(lambda c: (c.rows, c.cols), chip, (word_lines, filters * slices))
    tiles, along_k = used.tiles(ops)[0], ceil_div(jnp.asarray(ops.k), word_lines)[0]
    return _Tiling(used, tiles, along_k, ceil_div(jnp.asarray(ops.n), filters)[0], ceil_div(tiles, along_k))


def default_choice(chip: CrossbarChip) -> Int[Array, " decisions"]:
    """A value of each of the `DECISIONS`: whole arrays, one copy in scope "layer", else as many as set all arrays to work."""
    copies = jnp.ones(()) if _writes_copies(chip) else chip.n_arrays
    one = jnp.ones(())
    return jnp.stack([0 * one, chip.rows, chip.cols, one, one, copies, one]).astype(int)


def default_schedule(chip: CrossbarChip, ops: OpTable) -> Schedule:
    """The chip's own schedule of the one operation in `ops`."""
    return make_schedule(chip, ops, default_choice(chip))


def make_schedule(chip: CrossbarChip, ops: OpTable, choice: Any) -> Schedule:
    """The schedule of the one operation in `ops` for a value of each of the `DECISIONS`; what does not fit is cut down."""
    t = as_arrays(ops)
    m = t.m[0]
    stationary, word_lines, filters, turns_k, turns_n, copies, blocks = jnp.asarray(choice, float)
    word_lines = jnp.minimum(word_lines, jnp.floor(chip.rows))
    filters = jnp.minimum(filters, chip.filters_per_array())
    tiling = _tiling(chip, t, word_lines, filters)
    hold_k = jnp.clip(ceil_div(tiling.along_k, turns_k), 1, chip.n_arrays)
    hold_n = jnp.clip(ceil_div(tiling.columns, turns_n), 1, floor_div(chip.n_arrays, hold_k))
    copies = jnp.clip(copies, 1, _most_copies(chip, m, hold_k * hold_n))
    whole = (stationary == Stationary.WEIGHTS) | ((hold_k >= tiling.along_k) & (hold_n >= tiling.columns))
    fits = floor_div(*_registers(chip, stationary, hold_k * word_lines, hold_n * filters))
    block = jnp.where(whole, m, jnp.clip(ceil_div(m, blocks), 1, jnp.maximum(fits, 1)))
    chosen = (word_lines, filters, hold_k, hold_n, copies, block, jnp.where(whole, float(Stationary.WEIGHTS), stationary))
    return Schedule(*(jnp.asarray(x, int) for x in chosen))


def schedule_cost(chip: CrossbarChip, ops: OpTable, schedule: Schedule, conditions: Conditions = Conditions()) -> ScheduleCost:
    """Cost of the one operation in `ops` under `schedule`, alone on the chip; see the module for the law."""
    t, f, phases = as_arrays(ops), conditions.frequency, chip.phases()
    m, plan = t.m[0], Schedule(*(jnp.asarray(x, float) for x in schedule))
    tiling = _tiling(chip, t, plan.word_lines, plan.filters)
    whole_copy = tiling.chip.op_costs(t, conditions._replace(resident=0.0), HARD)  # every weight written once
    turns_k, turns_n = ceil_div(tiling.along_k, plan.hold_k), ceil_div(tiling.columns, plan.hold_n)
    turns, held = turns_k * turns_n, jnp.minimum(plan.hold_k * plan.hold_n, tiling.tiles)
    block = jnp.where((plan.stationary == Stationary.WEIGHTS) | (turns <= 1), m, plan.block)
    blocks = ceil_div(m, block)
    full = floor_div(m, block)

    def rounds(vectors: Array) -> Array:
        return _batches(tiling, t, plan, turns, held, vectors)

    batches = full * rounds(block) + rounds(m - full * block)
    cycles = batches * phases + jnp.where(tiling.tiles > 0, chip.pipeline, 0.0) * turns * blocks
    digital = other_operations(ops)[0] / (chip.digital_rate * f)
    reads = jnp.where(plan.stationary == Stationary.INPUTS, 1.0, ceil_div(tiling.along_n, plan.hold_n))
    sums = jnp.where(plan.stationary == Stationary.OUTPUTS, 0.0, 2 * (turns_k - 1))
    words = jnp.where(tiling.tiles > 0, t.inputs[0] * reads + t.outputs[0] * (1 + sums), t.inputs[0] + t.outputs[0])
    moved = words * chip.input_bits / 8
    running = jnp.maximum(cycles * chip.cycle_time / f + digital, moved / (chip.buffer_bandwidth * f))
    written = _written(chip, t, conditions, plan, blocks, held / jnp.maximum(tiling.tiles, 1.0))
    programming = written * whole_copy.programming_latency[0]
    latency = jnp.where(t.mask[0], running, 0.0) + programming
    energy = whole_copy.dynamic_energy[0] + written * whole_copy.programming_energy[0] + chip.static_power(conditions) * latency
    return ScheduleCost(
        latency=latency,
        energy=energy,
        programming_latency=programming,
        batches=batches,
        arrays=jnp.minimum(held * plan.copies, chip.n_arrays),
        written=written,
        bytes_moved=jnp.where(t.mask[0], moved, 0.0),
        feasible=_feasible(chip, plan, tiling, turns),
    )


def _batches(tiling: _Tiling, t: OpTable, plan: Any, turns: Array, held: Array, vectors: Array) -> Array:
    """Rounds for `vectors` of the M."""
    chip = tiling.chip
    if _writes_copies(chip):
        return jnp.where(tiling.tiles > 0, turns * ceil_div(vectors, plan.copies), 0.0)
    working = jnp.maximum(jnp.minimum(_pool(chip), held * plan.copies), 1.0)
    if chip.timing == "physical":
        return ceil_div(tiling.tiles * vectors, working)
    used_rows, used_filters = jnp.minimum(t.k[0], plan.word_lines), jnp.minimum(t.n[0], plan.filters)
    products = (t.k[0] / used_rows) * (t.n[0] / used_filters) * vectors * t.groups[0]
    return jnp.where(tiling.tiles > 0, ceil_div(products, working), 0.0)


def _written(chip: CrossbarChip, t: OpTable, conditions: Conditions, plan: Any, blocks: Array, held_share: Array) -> Array:
    """Weights written, in copies of all of them."""
    kept = jnp.where(t.kind[0] == OpKind.MATMUL, 0.0, conditions.resident * held_share)
    return (plan.copies if _writes_copies(chip) else 1.0) * blocks - kept


def _feasible(chip: CrossbarChip, plan: Any, tiling: _Tiling, turns: Array) -> Array:
    held = plan.hold_k * plan.hold_n
    arrays = held * plan.copies if _writes_copies(chip) else held
    capacity, each = _registers(chip, plan.stationary, plan.hold_k * plan.word_lines, plan.hold_n * plan.filters)
    in_place = (turns <= 1) | (plan.stationary == Stationary.WEIGHTS) | (plan.block * each <= capacity)
    return (arrays <= chip.n_arrays) & in_place & (plan.word_lines <= chip.rows) & (plan.filters <= chip.filters_per_array())


def _registers(chip: CrossbarChip, stationary: Array, inputs: Array, outputs: Array) -> tuple[Array, Array]:
    """Bytes in the registers of all units for what is stationary, and bytes of one vector of it."""
    units = chip.elements * chip.units
    is_input = stationary == Stationary.INPUTS
    return units * jnp.where(is_input, INPUT_REGISTER, OUTPUT_REGISTER), jnp.where(
        is_input, inputs, outputs
    ) * chip.input_bits / 8


def _writes_copies(chip: CrossbarChip) -> bool:
    """Whether an operation has arrays of its own, so that every further copy is written."""
    return chip.scope == "layer" and chip.timing == "physical"


def _pool(chip: CrossbarChip) -> Array:
    """Arrays that work on one operation in the source's view; the printed form knows one element."""
    return chip.n_arrays if chip.scope == "chip" and chip.timing == "physical" else chip.units * chip.arrays


def _most_copies(chip: CrossbarChip, m: Array, held: Array) -> Array:
    if _writes_copies(chip):
        return jnp.clip(floor_div(chip.n_arrays, held), 1, m)
    return ceil_div(_pool(chip), held)


def make_decisions(chip: CrossbarChip, ops: OpTable, width: int = WIDTH) -> Decisions:
    """The values that each decision on each operation of `ops` may take, ascending, thinned out to at most `width`.

    Sizes are those that cut an operation evenly, and the whole array; turns, copies and blocks are all that differ.
    Arrays of shape (n_ops, decisions, width) and (n_ops, decisions).
    """
    limits = int(chip.rows), int(chip.filters_per_array()), int(chip.n_arrays if _writes_copies(chip) else _pool(chip))
    columns = zip(*(np.asarray(getattr(ops, name)).astype(int).tolist() for name in ("m", "n", "k", "groups")), strict=True)
    thinned = [[np.sort(_thin(x, width)) for x in _values(sizes, limits)] for sizes in columns]
    values = [[np.pad(x, (0, width - len(x)), mode="edge") for x in row] for row in thinned]
    return Decisions(np.asarray(values, np.int32), np.asarray([[len(x) for x in row] for row in thinned], np.int32))


def _values(sizes: tuple[int, ...], limits: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    """All values of each of the `DECISIONS` for sizes (M, N, K, groups) and limits (word lines, filters, arrays)."""
    (m, n, k, groups), (rows, filters, arrays) = sizes, limits
    return (
        np.arange(len(Stationary)),
        _sizes(k, rows, groups),
        _sizes(n, filters, groups),
        _shares(k),
        _shares(n * groups),
        np.arange(1, min(arrays, m) + 1),
        _shares(m),
    )


def _shares(n: int) -> np.ndarray:
    """Numbers of parts into which n differ in the size of a part."""
    parts = np.arange(1, n + 1) if n <= 4096 else np.unique(np.geomspace(1, n, 4096).astype(np.int64))
    return np.unique(-(-n // -(-n // parts)))


def _sizes(n: int, most: int, groups: int) -> np.ndarray:
    """Sizes from `most` down that cut n evenly; with several groups the multiples of n, too."""
    parts = np.arange(-(-n // most), n + 1) if n <= 4096 else np.geomspace(-(-n // most), n, 4096).astype(np.int64)
    even = np.unique(-(-n // parts))
    multiples = np.arange(1, min(most // n, groups) + 1) * n if n <= most else np.zeros(0, int)
    return np.unique(np.concatenate([even, multiples, [most]]))[::-1]


def _thin(values: np.ndarray, width: int) -> np.ndarray:
    """At most `width` of `values`, both ends among them, the first ones all and later ones ever more sparsely."""
    for count in range(4 * width, 1, -1):
        ranks = np.unique(np.rint(np.geomspace(1, len(values), count)).astype(int)) - 1
        if len(ranks) <= width:
            return values[ranks]
    return values[:1]
