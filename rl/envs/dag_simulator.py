"""Placing the tasks of a graph on processors, one decision at a time: the plant of the task-graph environment.

A decision names a ready task i and a processor p, which runs it after everything that it was given before:

    arrival_ip = max over predecessors j of finish_j + latency_qp + data_ji / bandwidth_qp,    q the processor of j
    start_ip   = max(free_p, arrival_ip, clock),    finish_ip = start_ip + slowdown_p d_ip

*Planning*: a task is ready as soon as its predecessors are placed, and the clock stays at 0. Every optimal schedule can be
reached: place its tasks in the order of their starts.
*Live*: a task is ready when its predecessors have finished by the clock. If the processor named is busy, the decision is to
wait: the clock moves to the next finish, and all is open again. True durations show when a task has finished, so noise cannot
be foreseen. As in READYS (Grinsztajn et al., CLUSTER 2021), whose "pass" is a wait.
Heat (live only): the processors share one package, whose network is stepped exactly from finish to finish. A task that starts
at a junction rise above `limit` takes 1 + slope (rise - limit) times its duration, to its end.

    estimate = max(  max over placed i of   finish_i + below_i,
                     max over ready i of    min_p finish_ip + below_i,
                     max over prices w of   sum_p w_p free_p + sum over the others of min_p w_p d_ip  )

is a lower bound of the makespan that never falls from decision to decision (without noise), and ends as the makespan.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from physics import Modes
from rl.envs.dag_problems import Outlook, SchedulingProblem


class Heat(eqx.Module):
    """Processors on one package, and how they throttle; `modes` are those of a network whose first nodes they are."""

    modes: Modes
    active: Float[Array, " processors"]  # W, while a task runs or waits for its data
    idle: Float[Array, " processors"]  # W
    limit: Float[Array, ""]  # K above ambient
    slope: Float[Array, ""]  # 1/K


class Placement(NamedTuple):
    """Where the tasks are so far; processor -1 and times 0 for those not placed."""

    processor: Int[Array, " tasks"]
    start: Float[Array, " tasks"]  # s
    finish: Float[Array, " tasks"]  # s, as it turns out
    expected: Float[Array, " tasks"]  # s, as it looked when it was placed
    missing: Int[Array, " tasks"]  # predecessors not placed
    released: Float[Array, " tasks"]  # s, latest finish of the predecessors placed so far
    arrival: Float[Array, "tasks processors"]  # s, when their data are at hand on a processor
    free: Float[Array, " processors"]  # s, finish of the last task
    clock: Float[Array, ""]  # s
    rise: Float[Array, " nodes"]  # K above ambient; empty without heat


class Offers(NamedTuple):
    """What each task on each processor would take, as far as can be known."""

    legal: Bool[Array, "tasks processors"]  # ready, and the processor can run it
    start: Float[Array, "tasks processors"]  # s
    finish: Float[Array, "tasks processors"]  # s
    free: Float[Array, " processors"]  # s


def start_placement(problem: SchedulingProblem, heat: Heat | None = None) -> Placement:
    """Nothing placed, everything idle, at ambient temperature."""
    like = problem.durations
    column, idle = jnp.zeros(like.shape[0], like.dtype), jnp.zeros(like.shape[1], like.dtype)
    return Placement(
        processor=jnp.full(like.shape[0], -1, jnp.int32),
        start=column,
        finish=column,
        expected=column,
        missing=jnp.sum(problem.edges, axis=0, dtype=jnp.int32),
        released=column,
        arrival=jnp.zeros(like.shape, like.dtype),
        free=idle,
        clock=jnp.zeros((), like.dtype),
        rise=jnp.zeros(0 if heat is None else heat.modes.rates.shape[0], like.dtype),
    )


def is_done(problem: SchedulingProblem, placement: Placement) -> Bool[Array, ""]:
    """Whether every task is placed."""
    return jnp.all((placement.processor >= 0) | ~problem.mask)


def makespan(placement: Placement) -> Float[Array, ""]:
    """Latest finish of the tasks placed so far (s)."""
    return jnp.max(placement.finish)


def slowdown(placement: Placement, heat: Heat | None) -> Float[Array, " processors"]:
    """How many times its duration a task takes that starts now, at least 1; without heat exactly 1."""
    if heat is None:
        return jnp.ones_like(placement.free)
    return 1 + heat.slope * jnp.maximum(placement.rise[: placement.free.shape[0]] - heat.limit, 0.0)


def make_offers(problem: SchedulingProblem, placement: Placement, *, live: bool = False, heat: Heat | None = None) -> Offers:
    """Every ready task on every processor."""
    ready = (placement.processor < 0) & (placement.missing == 0) & problem.mask
    free = placement.free
    if live:
        ready &= placement.released <= placement.clock
        free = jnp.maximum(_known_free(placement), placement.clock)
    start = jnp.maximum(free, placement.arrival)
    finish = start + problem.durations * slowdown(placement, heat)
    return Offers(ready[:, None] & jnp.isfinite(problem.durations), start, finish, free)


def decide(
    problem: SchedulingProblem,
    placement: Placement,
    task: Int[Array, ""],
    processor: Int[Array, ""],
    durations: Float[Array, "tasks processors"] | None = None,
    *,
    live: bool = False,
    heat: Heat | None = None,
) -> Placement:
    """One decision; `durations` are the true ones (s; default: those of the problem).

    A task that is not ready, or cannot run there, is not placed; live, that too is a wait. Nothing changes when all is placed.
    """
    ready = (placement.processor[task] < 0) & (placement.missing[task] == 0) & problem.mask[task]
    ready &= jnp.isfinite(problem.durations[task, processor])
    otherwise = placement
    if live:
        ready &= (placement.released[task] <= placement.clock) & (placement.free[processor] <= placement.clock)
        otherwise = _select(is_done(problem, placement), placement, wait(placement, heat))
    true = problem.durations if durations is None else durations
    return _select(ready, place(problem, placement, task, processor, true, heat), otherwise)


def place(
    problem: SchedulingProblem,
    placement: Placement,
    task: Int[Array, ""],
    processor: Int[Array, ""],
    durations: Float[Array, "tasks processors"],
    heat: Heat | None = None,
) -> Placement:
    """The task behind what the processor has, unchecked; `durations` are the true ones (s)."""
    slower = slowdown(placement, heat)[processor]
    start = jnp.maximum(jnp.maximum(placement.free[processor], placement.arrival[task, processor]), placement.clock)
    finish = start + durations[task, processor] * slower
    after = problem.edges[task]
    handed = problem.latency[processor] + problem.data[task][:, None] * problem.per_byte[processor]
    return placement._replace(
        processor=placement.processor.at[task].set(processor.astype(jnp.int32)),
        start=placement.start.at[task].set(start),
        finish=placement.finish.at[task].set(finish),
        expected=placement.expected.at[task].set(start + problem.durations[task, processor] * slower),
        missing=placement.missing - after,
        released=jnp.where(after, jnp.maximum(placement.released, finish), placement.released),
        arrival=jnp.where(after[:, None], jnp.maximum(placement.arrival, finish + handed), placement.arrival),
        free=placement.free.at[processor].set(finish),
    )


def wait(placement: Placement, heat: Heat | None = None) -> Placement:
    """Let time pass until the next task finishes; none where nothing runs."""
    busy = placement.free > placement.clock
    coming = jnp.min(jnp.where(busy, placement.free, jnp.inf))
    clock = jnp.where(jnp.any(busy), coming, placement.clock)
    if heat is None:
        return placement._replace(clock=clock)
    power = jnp.zeros_like(placement.rise).at[: busy.shape[0]].set(jnp.where(busy, heat.active, heat.idle))
    return placement._replace(clock=clock, rise=heat.modes.step(placement.rise, power, clock - placement.clock))


def estimate_makespan(
    problem: SchedulingProblem, ahead: Outlook, placement: Placement, offers: Offers, *, live: bool = False
) -> Float[Array, ""]:
    """What the makespan (s) will at least be, as far as known; see the module. The makespan itself when all is placed."""
    placed = placement.processor >= 0
    finish = _known_finish(placement) if live else placement.finish
    path = jnp.max(jnp.where(placed, finish + ahead.below, 0.0))
    ready = jnp.any(offers.legal, axis=1)  # and not those whose predecessors still run: their arrival is not known yet
    to_come = jnp.max(jnp.where(ready, jnp.min(offers.finish, axis=1) + ahead.below, 0.0))
    area = jnp.max(ahead.prices @ offers.free + ahead.priced @ jnp.where(placed, 0.0, 1.0))
    return jnp.where(is_done(problem, placement), makespan(placement), jnp.maximum(jnp.maximum(path, to_come), area))


def _known_finish(placement: Placement) -> Array:
    """Finish of what has finished; of what runs, as expected, but not before the clock."""
    late = jnp.maximum(placement.expected, placement.clock)
    return jnp.where(placement.finish <= placement.clock, placement.finish, late)


def _known_free(placement: Placement) -> Array:
    """When each processor is expected to be idle: after its last task."""
    on = placement.processor[:, None] == jnp.arange(placement.free.shape[0])
    return jnp.max(jnp.where(on, _known_finish(placement)[:, None], 0.0), axis=0)


def _select(condition: Array, yes: Placement, no: Placement) -> Placement:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
