"""What a scheduler of task graphs sees: of each ready task, of each processor, of each pair of them, and of the whole.

Entries do not depend on the unit of time, the numbering, or the sizes of graph and machine, so that one policy serves all. Times
are differences to the best alternative at hand, over the problem's `unit` (the mean time a processor has for a task),
squeezed by asinh. Only the `window` ready tasks of highest upward rank are shown.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rl.envs.dag_problems import Outlook, SchedulingProblem
from rl.envs.dag_simulator import Heat, Offers, Placement, slowdown

TASK_FEATURES = (
    "upward rank below the highest",
    "optimistic rank below the highest",
    "path after it below the longest",
    "shortest duration",
    "slack to the estimated makespan",
    "soonest finish after the soonest of all",
    "successors / 4",
    "successors that wait for it alone / 4",
    "mean ln(duration / shortest)",
    "path from it / bound",
)
PROCESSOR_FEATURES = (
    "free after the first",
    "mean ln(duration / shortest) of what is left",
    "share of what is left that is fastest here",
    "ln(slowdown)",
    "temperature rise / limit",
)
PAIR_FEATURES = (
    "finish after its soonest",
    "optimistic finish after its soonest",
    "optimistic finish after the soonest of all",
    "path through it above the estimate",
    "area above the estimate",
    "rise of the estimate",
    "idle time before it",
    "start after the soonest of all",
    "finish after the soonest of all",
    "ln(duration / shortest)",
)
CONTEXT_FEATURES = (
    "share of tasks left",
    "ln(1 + tasks left) / 3",
    "ln(ready tasks / processors)",
    "longest path / estimate",
    "bound / estimate",
    "ready share of tasks left",
)


class GraphObservation(NamedTuple):
    """Features of one state; rows without a ready task are 0 and not legal."""

    tasks: Float[Array, "window task_features"]
    processors: Float[Array, "processors processor_features"]
    pairs: Float[Array, "window processors pair_features"]
    context: Float[Array, " context_features"]
    priority: Float[Array, "window processors 2"]  # PEFT's, in units: optimistic rank below the highest, finish after its soonest
    legal: Bool[Array, "window processors"]
    task: Int[Array, " window"]  # whose rows these are


def observe(
    problem: SchedulingProblem,
    ahead: Outlook,
    placement: Placement,
    offers: Offers,
    estimate: Float[Array, ""],
    window: int,
    heat: Heat | None = None,
) -> GraphObservation:
    """The features of a state; `offers` and `estimate` are the simulator's of the same state."""
    shown = jnp.where(jnp.any(offers.legal, axis=1), ahead.rank, -1.0)
    _, task = jax.lax.top_k(shown, min(window, shown.shape[0]))
    legal = offers.legal[task]
    ready = jnp.any(legal, axis=1)
    finish = jnp.where(legal, offers.finish[task], 0.0)
    left = jnp.where((placement.processor < 0) & problem.mask, 1.0, 0.0)
    optimistic = ahead.optimistic[task]
    rank = jnp.sum(jnp.where(legal, optimistic, 0.0), axis=1) / jnp.maximum(jnp.sum(legal, axis=1), 1)
    behind = _most(rank, ready) - rank
    later = finish + optimistic - _least(finish + optimistic, legal, axis=1)[:, None]
    priority = jnp.stack([jnp.broadcast_to(behind[:, None], later.shape), later], axis=-1) / ahead.unit
    tasks = _tasks(problem, ahead, placement, task, finish, legal, behind, estimate)
    pairs = _pairs(ahead, offers, task, finish, legal, later, left, estimate)
    return GraphObservation(
        tasks=jnp.where(ready[:, None], tasks, 0.0),
        processors=_processors(ahead, placement, offers, left, heat),
        pairs=jnp.where(legal[..., None], pairs, 0.0),
        context=_context(problem, ahead, tasks, ready, left, estimate, legal.shape[1]),
        priority=jnp.where(legal[..., None], priority, 0.0),
        legal=legal,
        task=task,
    )


def _tasks(
    problem: SchedulingProblem,
    ahead: Outlook,
    placement: Placement,
    task: Array,
    finish: Array,
    legal: Array,
    behind: Array,
    estimate: Array,
) -> Array:
    ready = jnp.any(legal, axis=1)
    rank, below, best = ahead.rank[task], ahead.below[task], ahead.best[task]
    soonest = _least(finish, legal, axis=1)
    times = [
        _most(rank, ready) - rank,
        behind,
        _most(below, ready) - below,
        best,
        estimate - soonest - below,
        soonest - _least(soonest, ready),
    ]
    alone = problem.edges[task].astype(best.dtype) @ (placement.missing == 1).astype(best.dtype)
    slowness = jnp.sum(ahead.slowness[task], axis=1) / jnp.maximum(jnp.sum(legal, axis=1), 1)
    others = [ahead.successors[task] / 4, alone / 4, slowness, (best + below) / ahead.bound]
    return jnp.stack([jnp.arcsinh(time / ahead.unit) for time in times] + others, axis=-1)


def _processors(ahead: Outlook, placement: Placement, offers: Offers, left: Array, heat: Heat | None) -> Array:
    work = left * ahead.best
    share = (work @ ahead.is_best) / jnp.maximum(jnp.sum(work), jnp.finfo(work.dtype).tiny)
    slowness = (left @ ahead.slowness) / jnp.maximum(jnp.sum(left), 1.0)
    rise = jnp.zeros_like(share) if heat is None else placement.rise[: share.shape[0]] / heat.limit
    free = jnp.arcsinh((offers.free - jnp.min(offers.free)) / ahead.unit)
    return jnp.stack([free, slowness, share, jnp.log(slowdown(placement, heat)), rise], axis=-1)


def _pairs(
    ahead: Outlook, offers: Offers, task: Array, finish: Array, legal: Array, later: Array, left: Array, estimate: Array
) -> Array:
    start = jnp.where(legal, offers.start[task], 0.0)
    optimistic = finish + ahead.optimistic[task]
    above = finish + ahead.below[task][:, None] - estimate
    used = ahead.prices[:, None, :] * (finish - offers.free) - ahead.priced[:, task, None]
    area = jnp.max((ahead.prices @ offers.free + ahead.priced @ left)[:, None, None] + used, axis=0) - estimate
    times = [
        finish - _least(finish, legal, axis=1)[:, None],
        later,
        optimistic - _least(optimistic, legal),
        above,
        area,
        jnp.maximum(jnp.maximum(above, area), 0.0),
        start - offers.free,
        start - _least(start, legal),
        finish - _least(finish, legal),
    ]
    return jnp.stack([jnp.arcsinh(time / ahead.unit) for time in times] + [ahead.slowness[task]], axis=-1)


def _context(
    problem: SchedulingProblem, ahead: Outlook, tasks: Array, ready: Array, left: Array, estimate: Array, width: int
) -> Array:
    n_left, n_ready = jnp.sum(left), jnp.sum(jnp.where(ready, 1.0, 0.0))
    slack = jnp.sinh(_least(tasks[:, TASK_FEATURES.index("slack to the estimated makespan")], ready)) * ahead.unit
    entries = [
        n_left / jnp.maximum(jnp.sum(problem.mask), 1),
        jnp.log1p(n_left) / 3,
        jnp.log((n_ready + 0.5) / width),
        1 - slack / estimate,
        ahead.bound / estimate,
        n_ready / jnp.maximum(n_left, 1.0),
    ]
    return jnp.stack(entries)


def _least(values: Array, where: Array, axis: int | None = None) -> Array:
    """Least of the values that count; 0 where none does."""
    found = jnp.min(jnp.where(where, values, jnp.inf), axis=axis)
    return jnp.where(jnp.isfinite(found), found, 0.0)


def _most(values: Array, where: Array) -> Array:
    return -_least(-values, where)
