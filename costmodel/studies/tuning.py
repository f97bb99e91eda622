"""tune(): the best schedule of every operation on a crossbar chip, found by sketches, annotations and mutations.

After the auto-schedulers of tensor compilers, with the timing model in the place of a device: a sketch fixes what is
stationary, an annotation draws every tile size, number of turns, copies and blocks at random, and mutation rules change
what did well. All candidates of a generation, of all operations, are scored in one compiled and vectorised call.

Mutation rules, drawn with equal chance:

    step      one decision moves to a neighbouring value
    redraw    one decision is annotated anew
    trade     one decision moves up and another one down: copies against turns, word lines against filters
    sketch    something else becomes stationary

Every generation keeps its best `ELITE` share; the other candidates are children of two of the better half (each decision
from either), most of them mutated, and a few new annotations. The law of a schedule's cost: `costmodel.mapping.sketches`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from costmodel.cost import Conditions
from costmodel.estimation import estimate
from costmodel.mapping.sketches import (
    DECISIONS,
    Decisions,
    Schedule,
    ScheduleCost,
    default_choice,
    make_decisions,
    make_schedule,
    schedule_cost,
)
from costmodel.processors.base import Processor, as_arrays
from costmodel.processors.cim import CrossbarChip
from physics import unknown_name
from workloads import OpTable

OBJECTIVES = ("latency", "energy", "energy_delay")
METHODS = ("evolution", "random", "exhaustive")
Genes = Int[Array, "*ops candidates decisions"]  # positions among the values of each decision, or the values
ELITE, FRESH, MUTATED = 1 / 16, 1 / 16, 0.85  # shares: kept, annotated anew, of the children mutated
LARGEST = 1_000_000  # candidates per generation
MOST = 5_000_000  # candidates of one operation that are tried one by one
CHUNK = 16_384


class Tuning(NamedTuple):
    """The best schedule of every operation of a table, and what it is compared with; arrays (n_ops,) unless said otherwise."""

    schedule: Schedule
    cost: ScheduleCost
    default: ScheduleCost  # of the chip's own schedule
    history: Float[Array, "generations ops"]  # best objective so far after each generation, the random start first
    typical_start: Float[Array, " ops"]  # median objective of the random start
    evaluations: int  # candidates scored per operation


class _Task(NamedTuple):
    """What is tuned: every operation as a table of one row, and what may be chosen for it."""

    rows: OpTable
    decisions: Decisions


class _Population(NamedTuple):
    """Candidates, as positions among the values of each decision, and their objective; infinite where infeasible."""

    genes: Genes
    scores: Float[Array, "*ops candidates"]


class _Sizes(NamedTuple):
    """Candidates of a generation by origin."""

    kept: int
    children: int
    fresh: int

    @classmethod
    def of(cls, population: int, method: str) -> "_Sizes":
        kept = max(1, round(ELITE * population))
        fresh = population - kept if method == "random" else min(max(1, round(FRESH * population)), population - kept)
        return cls(kept, population - kept - fresh, fresh)


def tune(
    hardware: Processor,
    ops: OpTable,
    key: PRNGKeyArray | None = None,
    *,
    objective: str = "latency",
    method: str = "evolution",
    population: int = 256,
    generations: int = 32,
    conditions: Conditions = Conditions(),
    progress: Callable[[int, int], None] | None = None,
) -> Tuning:
    """Search the schedules of every operation of `ops` on a crossbar chip, each as if it had the chip to itself.

    `objective`: latency (s), energy (J) or energy_delay (J s). `method`: "evolution"; "random", annotations only and as many
    evaluations; "exhaustive", every candidate, for small operations. The same `key` (default: that of seed 0) gives the same
    result. `progress(done, total)` is called after every generation. Raises ValueError for hardware without crossbars, a table
    without matrix products, an unknown name, or a size outside its range.
    """
    chip = _check(hardware, ops, conditions, objective, method, population, generations)
    task = _tasks(chip, ops)
    aim = jnp.asarray(OBJECTIVES.index(objective))
    score = functools.partial(_scores, aim, chip, task.rows, conditions)
    if method == "exhaustive":
        genes, history, typical, count = _exhaustive(score, task.decisions, progress)
    else:
        sizes = _Sizes.of(population, method)
        keys = jax.random.split(jax.random.key(0) if key is None else key, (generations, ops.n_ops))
        state = _Population(_annotate(keys[0], task.decisions.counts, population), jnp.zeros((ops.n_ops, population)))
        lines, typical = [], jnp.zeros(ops.n_ops)
        for done, keys_now in enumerate(keys):
            genes = _breed(sizes, keys_now, task.decisions.counts, state) if done else state.genes
            state = _Population(genes, score(_choices(task.decisions, genes)))
            typical = typical if done else jnp.median(state.scores, axis=1)
            lines.append(state.scores.min(axis=1))
            _report(progress, done + 1, generations)
        winner = jnp.argmin(state.scores, axis=1)
        genes = jnp.take_along_axis(state.genes, winner[:, None, None], axis=1)
        history, count = jnp.stack(lines), population + (generations - 1) * (population - sizes.kept)
    schedule, cost, default = _priced(aim, chip, task.rows, conditions, _choices(task.decisions, genes))
    return Tuning(schedule, cost, default, history, typical, count)


def _report(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _tasks(chip: CrossbarChip, ops: OpTable) -> _Task:
    rows = jax.tree.map(lambda column: column[:, None], as_arrays(ops))
    return _Task(rows, Decisions(*map(jnp.asarray, make_decisions(chip, ops))))


@jax.jit
def _choices(decisions: Decisions, genes: Genes) -> Genes:
    """The values at the positions `genes`."""
    values = jnp.swapaxes(jnp.asarray(decisions.values), 1, 2)  # (ops, width, decisions)
    return jnp.take_along_axis(values, genes, axis=1)


def _objective(aim: Array, cost: ScheduleCost) -> Array:
    """The one of the `OBJECTIVES` at position `aim`."""
    value = jnp.stack([cost.latency, cost.energy, cost.energy * cost.latency])[aim]
    return jnp.where(cost.feasible, value, jnp.inf)


def _costs(chip: CrossbarChip, rows: OpTable, conditions: Conditions, choices: Genes) -> tuple[Schedule, ScheduleCost]:
    """Schedules and costs of all candidates of all operations, each (ops, candidates)."""

    def one(row: OpTable, choice: Array) -> tuple[Schedule, ScheduleCost]:
        schedule = make_schedule(chip, row, choice)
        return schedule, schedule_cost(chip, row, schedule, conditions)

    return jax.vmap(jax.vmap(one, in_axes=(None, 0)))(rows, choices)


@jax.jit
def _scores(
    aim: Array, chip: CrossbarChip, rows: OpTable, conditions: Conditions, choices: Genes
) -> Float[Array, "ops candidates"]:
    """Objective of all candidates of all operations."""
    return _objective(aim, _costs(chip, rows, conditions, choices)[1])


@jax.jit
def _priced(
    aim: Array, chip: CrossbarChip, rows: OpTable, conditions: Conditions, found: Genes
) -> tuple[Schedule, ScheduleCost, ScheduleCost]:
    """The better of what was found and the chip's own schedule: schedule, cost, and the cost of the chip's own."""
    own = jnp.broadcast_to(default_choice(chip), found.shape)
    schedules, costs = _costs(chip, rows, conditions, jnp.concatenate([found.astype(own.dtype), own], axis=1))
    better = jnp.argmin(_objective(aim, costs), axis=1)[:, None]
    best = jax.tree.map(lambda x: jnp.take_along_axis(x, better, axis=1)[:, 0], (schedules, costs))
    return best[0], best[1], jax.tree.map(lambda x: x[:, 1], costs)


@functools.partial(jax.jit, static_argnums=2)
def _annotate(keys: Key[Array, " ops"], counts: Array, n: int) -> Genes:
    """`n` candidates of every operation, every decision drawn evenly from its values."""
    return jax.vmap(functools.partial(_draw, n=n))(keys, counts)


def _draw(key: PRNGKeyArray, counts: Array, n: int) -> Array:
    return jnp.floor(jax.random.uniform(key, (n, len(DECISIONS))) * counts).astype(counts.dtype)


@functools.partial(jax.jit, static_argnums=0)
def _breed(sizes: _Sizes, keys: Key[Array, " ops"], counts: Array, state: _Population) -> Genes:
    """The next generation of every operation, the best of the last one first."""

    def one(key: PRNGKeyArray, counts: Array, old: _Population) -> Array:
        ranked = old.genes[jnp.argsort(old.scores)]
        cross, mutate, fresh = jax.random.split(key, 3)
        children = _mutate(mutate, counts, _cross(cross, ranked, sizes.children))
        return jnp.concatenate([ranked[: sizes.kept], children, _draw(fresh, counts, sizes.fresh)])

    return jax.vmap(one)(keys, counts, state)


def _cross(key: PRNGKeyArray, ranked: Array, n: int) -> Array:
    """`n` children of the better half of `ranked`: each decision from either of two parents."""
    parents, either = jax.random.split(key)
    chosen = ranked[jax.random.randint(parents, (2, n), 0, max(1, ranked.shape[0] // 2))]
    return jnp.where(jax.random.bernoulli(either, shape=(n, len(DECISIONS))), chosen[0], chosen[1])


def _mutate(key: PRNGKeyArray, counts: Array, genes: Array) -> Array:
    """Most candidates with one rule applied: step, redraw, trade or sketch (see the module)."""
    n, width = genes.shape
    keys, decision = jax.random.split(key, 6), jnp.arange(width)
    mutated = jax.random.bernoulli(keys[0], MUTATED, (n, 1))
    step, redraw, trade, sketch = (mutated & (jax.random.randint(keys[1], (n, 1), 0, 4) == rule) for rule in range(4))
    first = jax.random.randint(keys[2], (n, 1), 0, width)
    second = (first + jax.random.randint(keys[3], (n, 1), 1, width)) % width
    up = jnp.where(jax.random.bernoulli(keys[4], shape=(n, 1)), 1, -1)
    here, there = decision == first, decision == second
    moved = jnp.clip(genes + up * (here & (step | trade)) - up * (there & trade), 0, counts - 1)
    anew = (here & redraw) | ((decision == DECISIONS.index("stationary")) & sketch)
    return jnp.where(anew, _draw(keys[5], counts, n), moved)


def _exhaustive(
    score: Callable[[Genes], Array], decisions: Decisions, progress: Callable[[int, int], None] | None
) -> tuple[Genes, Array, Array, int]:
    """Best genes, their objective as a history of one line, the median objective, and the number of candidates."""
    shapes = np.asarray(decisions.counts)
    sizes = np.prod(shapes.astype(np.int64), axis=1)
    largest = int(sizes.max())
    if largest > MOST:
        raise ValueError(f"operation {np.argmax(sizes)} has {largest:,} schedules; at most {MOST:,} are tried one by one")

    def candidates(begin: int) -> Genes:
        """The next `CHUNK` of every operation; after its last one, that again."""
        ranks = np.minimum(np.arange(begin, begin + CHUNK), sizes[:, None] - 1)
        each = [np.stack(np.unravel_index(r, shape), axis=-1) for r, shape in zip(ranks, shapes, strict=True)]
        return jnp.asarray(np.stack(each), jnp.int32)

    parts = []
    for begin in range(0, largest, CHUNK):
        parts.append(np.asarray(score(_choices(decisions, candidates(begin)))))
        _report(progress, min(begin + CHUNK, largest), largest)
    scores = [row[:size] for row, size in zip(np.concatenate(parts, axis=1), sizes, strict=True)]
    best = [np.unravel_index(np.argmin(row), shape) for row, shape in zip(scores, shapes, strict=True)]
    lowest, median = jnp.asarray([[row.min() for row in scores]]), jnp.asarray([np.median(row) for row in scores])
    return jnp.asarray(np.asarray(best)[:, None], jnp.int32), lowest, median, largest


def _check(
    hardware: Processor, ops: OpTable, conditions: Conditions, objective: str, method: str, population: int, generations: int
) -> CrossbarChip:
    jax.eval_shape(lambda: estimate(hardware, ops, conditions))  # the same demands, without the arithmetic
    if not isinstance(hardware, CrossbarChip):
        raise ValueError(f"tune() schedules crossbars; hardware is a {type(hardware).__name__}, not a CrossbarChip")
    if not (np.asarray(ops.macs) * np.asarray(ops.mask) > 0).any():
        raise ValueError("ops has no matrix product, so there is nothing to tune")
    if objective not in OBJECTIVES:
        raise ValueError(unknown_name("objective", objective, OBJECTIVES))
    if method not in METHODS:
        raise ValueError(unknown_name("method", method, METHODS))
    for name, value, hi in (("population", population, LARGEST), ("generations", generations, LARGEST)):
        low = 4 if name == "population" else 1
        if not low <= value <= hi:
            raise ValueError(f"{name} = {value} is outside its range [{low}, {hi}]")
    return hardware
