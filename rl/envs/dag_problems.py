"""One scheduling problem: a task graph with its durations on every processor of a machine, and what can be known beforehand.

With mean_i the mean and best_i the least duration d_ip of task i over the processors that can run it, and comm_ij the mean time
to hand its data to task j on another processor, j running over the successors of i:

    rank_i  = mean_i + max_j (comm_ij + rank_j)                          upward rank of HEFT
    oct_ip  = max_j min_q (oct_jq + d_jq + comm_ij [p != q])             optimistic cost of PEFT
    below_i = max_j (best_j + below_j)                                   shortest path after task i
    area(w) = sum_i min_p w_p d_ip,    w_p >= 0, sum_p w_p = 1           no schedule is shorter, whatever the prices w

`area` is the dual of the linear program that spreads the work over the processors; w_p is the price of busy time. The
prices tried are powers of the processors' mean speeds. Everything here is a pure function of arrays that can be jitted and
vmapped, so problems can be drawn on the device; `rl.references.list_scheduling` is its counterpart for one graph on the host.
Sources: Topcuoglu et al., IEEE TPDS 13 (2002) 260; Arabnejad and Barbosa, IEEE TPDS 25 (2014) 682.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from workloads import Machine, TaskGraph

PRICE_EXPONENTS = (0.0, 0.3, 0.6, 0.8, 1.0, 1.25, 1.6, 2.5)


class SchedulingProblem(NamedTuple):
    """Arrays of one problem; padded tasks have `mask` False, no edges, and durations of 0."""

    durations: Float[Array, "*batch tasks processors"]  # s; infinite where a processor cannot run a task
    edges: Bool[Array, "*batch tasks tasks"]  # edges[i, j]: i before j, i < j
    data: Float[Array, "*batch tasks tasks"]  # bytes handed from i to j
    mask: Bool[Array, "*batch tasks"]
    per_byte: Float[Array, "*batch processors processors"]  # s/byte from p to q, 0 where p = q
    latency: Float[Array, "*batch processors processors"]  # s from p to q, 0 where p = q


class Outlook(NamedTuple):
    """What a problem tells before anything is placed; see the module. Entries of padded tasks are 0."""

    rank: Float[Array, " tasks"]  # s
    optimistic: Float[Array, "tasks processors"]  # s
    below: Float[Array, " tasks"]  # s
    best: Float[Array, " tasks"]  # s
    successors: Float[Array, " tasks"]
    slowness: Float[Array, "tasks processors"]  # ln(duration / best), 0 where a processor cannot run a task
    is_best: Float[Array, "tasks processors"]  # 1 where a processor is among the fastest for a task
    prices: Float[Array, "prices processors"]
    priced: Float[Array, "prices tasks"]  # s, each task's least priced time
    bound: Float[Array, ""]  # s, the larger of longest path and area: no schedule is shorter
    unit: Float[Array, ""]  # s, bound x processors / tasks: the mean time a processor has for a task


def scheduling_problem(
    graph: TaskGraph, durations: Any, machine: Machine | None = None, *, n_tasks: int | None = None
) -> SchedulingProblem:
    """The problem of running `graph`, padded to `n_tasks`; without a machine, handing data over takes no time.

    `durations` (tasks, processors) in s, as of `workloads.durations`. Raises ValueError where they are not positive (infinite:
    cannot run), have the wrong shape, or leave a task without a processor, and for `n_tasks` below those of the graph.
    """
    graph = graph if n_tasks in (None, graph.n_tasks) else graph.padded(n_tasks)
    times = np.asarray(durations, float)
    if times.ndim != 2 or times.shape[0] > graph.n_tasks or (machine and times.shape[1] != machine.n_processors):
        raise ValueError(f"durations has shape {times.shape}; expected ({graph.n_tasks} tasks, processors)")
    times = np.pad(times, ((0, graph.n_tasks - times.shape[0]), (0, 0)))
    real = times[np.asarray(graph.mask)]
    if not (real > 0).all() or not np.isfinite(real).any(axis=1).all():
        raise ValueError("durations (s) must be positive, infinite where a processor cannot run a task, finite once per task")
    width = times.shape[1]
    apart = ~np.eye(width, dtype=bool)
    per_byte, latency = np.zeros((2, width, width))
    if machine is not None:
        per_byte = np.where(apart, 1 / np.asarray(machine.bandwidth, float), 0.0)
        latency = np.where(apart, np.asarray(machine.latency, float), 0.0)
    return SchedulingProblem(
        jnp.asarray(times, float), graph.edges, graph.data, graph.mask, jnp.asarray(per_byte, float), jnp.asarray(latency, float)
    )


def pad_problem(problem: SchedulingProblem, n_tasks: int) -> SchedulingProblem:
    """The same problem with masked tasks appended up to `n_tasks`; ValueError if it already has more."""
    extra = n_tasks - problem.mask.shape[-1]
    if extra < 0:
        raise ValueError(f"n_tasks = {n_tasks} is below the problem's own {problem.mask.shape[-1]} tasks")
    if extra == 0:
        return problem
    square = ((0, extra), (0, extra))
    return problem._replace(
        durations=jnp.pad(problem.durations, ((0, extra), (0, 0))),
        edges=jnp.pad(problem.edges, square),
        data=jnp.pad(problem.data, square),
        mask=jnp.pad(problem.mask, (0, extra)),
    )


def stack_problems(problems: Sequence[SchedulingProblem]) -> SchedulingProblem:
    """One batched problem, all padded to the largest; ValueError for none or for different numbers of processors."""
    widths = sorted({problem.latency.shape[-1] for problem in problems})
    if len(widths) != 1:
        raise ValueError(f"problems must be one or more with the same number of processors, got {widths or 'none'}")
    most = max(problem.mask.shape[-1] for problem in problems)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[pad_problem(problem, most) for problem in problems])


def outlook(problem: SchedulingProblem) -> Outlook:
    """Ranks and bounds of a problem; see the module."""
    able = jnp.isfinite(problem.durations) & problem.mask[:, None]
    mean = jnp.sum(jnp.where(able, problem.durations, 0.0), axis=1) / jnp.maximum(jnp.sum(able, axis=1), 1)
    best = jnp.min(problem.durations, axis=1)
    slowness = jnp.log(jnp.where(able, problem.durations / jnp.where(able, best[:, None], 1.0), 1.0))
    speed = -jnp.sum(slowness, axis=0) / jnp.maximum(jnp.sum(able, axis=0), 1)
    prices = jax.nn.softmax(jnp.asarray(PRICE_EXPONENTS, best.dtype)[:, None] * speed, axis=1)
    priced = jnp.min(prices[:, None, :] * problem.durations, axis=2)
    rank, optimistic, below = _from_the_end(problem, mean, best)
    bound = jnp.maximum(jnp.max(best + below), jnp.max(jnp.sum(priced, axis=1)))
    return Outlook(
        rank=rank,
        optimistic=optimistic,
        below=below,
        best=best,
        successors=jnp.sum(problem.edges, axis=1).astype(best.dtype),
        slowness=slowness,
        is_best=jnp.where(able & (problem.durations <= best[:, None]), 1.0, 0.0).astype(best.dtype),
        prices=prices,
        priced=priced,
        bound=bound,
        unit=bound * problem.durations.shape[1] / jnp.maximum(jnp.sum(problem.mask), 1),
    )


def _from_the_end(problem: SchedulingProblem, mean: Array, best: Array) -> tuple[Array, Array, Array]:
    """Rank, optimistic cost and path below, by recursion over successors, last task first."""
    count, width = problem.durations.shape
    elsewhere = 1.0 - jnp.eye(width, dtype=mean.dtype)
    links = max(width * (width - 1), 1)
    per_byte, latency = jnp.sum(problem.per_byte) / links, jnp.sum(problem.latency) / links

    def visit(step: Any, tables: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        rank, optimistic, below = tables
        task = count - 1 - step
        after = problem.edges[task]
        handed = jnp.where(after, latency + per_byte * problem.data[task], 0.0)
        ahead = (optimistic + problem.durations)[:, None, :] + handed[:, None, None] * elsewhere  # successor, p, q
        towards = jnp.where(after[:, None], jnp.min(ahead, axis=2), 0.0)
        return (
            rank.at[task].set(mean[task] + jnp.max(jnp.where(after, handed + rank, 0.0))),
            optimistic.at[task].set(jnp.max(towards, axis=0)),
            below.at[task].set(jnp.max(jnp.where(after, best + below, 0.0))),
        )

    column, table = jnp.zeros(count, mean.dtype), jnp.zeros((count, width), mean.dtype)
    return jax.lax.fori_loop(0, count, visit, (column, table, column))
