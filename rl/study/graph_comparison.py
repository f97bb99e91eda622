"""Schedulers of task graphs in one table: makespans over the best known reference, per machine and over all.

The reference of an instance is the optimum where it is proved, else the best known bound from below; `proved` says which. A
ratio over a bound is at least the ratio over the optimum, so what is not proved can only make a scheduler look worse. List
schedulers have one ratio for each instance. Learned schedulers come in seeds: their mean ratio over instances is
taken seed by seed, then as interquartile mean with a bootstrap interval over seeds; `worst` is the worst of all seeds.
"learned, best of N" runs N more schedules of each graph and keeps the shortest, which list schedulers do not.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from rl.agents.graph_policy import GraphScheduler
from rl.envs.dag_problems import scheduling_problem, stack_problems
from rl.envs.dag_simulator import makespan
from rl.references.list_scheduling import LIST_SCHEDULERS
from rl.study.statistics import bootstrap_interval, interquartile_mean
from workloads import Machine, TaskGraph, cholesky, durations, layered_graph, lu, machine, qr, ready_times
from workloads.graphs import TILE_BYTES


class GraphInstance(NamedTuple):
    """One graph on one machine, with the reference its schedules are measured against."""

    graph: TaskGraph
    machine: Machine
    durations: Float[Array, "tasks processors"]  # s
    group: str  # the row of the table it counts for
    reference: float  # s
    proved: bool


class GraphScore(NamedTuple):
    """One scheduler on one group of instances: makespan over reference."""

    scheduler: str
    group: str
    mean: float  # over instances; of learned schedulers the interquartile mean over seeds
    interval: tuple[float, float]  # 95 % bootstrap over seeds; both ends the mean where there is one seed or none
    worst: float
    ratios: Float[np.ndarray, "seeds instances"]


def reference_of(graph: TaskGraph, times: Any, where: Machine, seconds: float = 40.0) -> tuple[float, bool]:
    """(reference in s, whether it is the proved optimum); a bound where OR-tools is missing or `seconds` are too few."""
    try:
        from rl.references.exact import optimal_schedule

        found = optimal_schedule(graph, times, where, seconds=seconds)
    except ModuleNotFoundError:
        from rl.references.makespan_bounds import lower_bound

        return lower_bound(graph, times), False
    return (found.makespan, True) if found.proved else (found.bound, False)


def tiled_instances(seconds: float = 40.0, largest: int = 40) -> list[GraphInstance]:
    """Cholesky, LU and QR of 2 tiles a side up to `largest` tasks, READYS's times, on 2 + 2 and 3 + 1 CPUs and GPUs.

    `seconds` is the limit of the exact solver for each instance, here and below.
    """
    graphs = [make(tiles) for make in (cholesky, lu, qr) for tiles in range(2, 9)]
    return _on_machines([graph for graph in graphs if graph.n_tasks <= largest], np.inf, seconds)


def communicating_instances(seconds: float = 40.0, hop: float = 8.0) -> list[GraphInstance]:
    """Cholesky of 3 to 5 tiles a side, LU and QR of 3, where handing a tile to another processor takes `hop`."""
    return _on_machines([cholesky(3), cholesky(4), cholesky(5), lu(3), qr(3)], TILE_BYTES / hop, seconds)


def random_instances(seconds: float = 40.0, count: int = 6) -> list[GraphInstance]:
    """Random graphs of 5 to 7 layers of up to 6 tasks, with kinds of Cholesky; training draws from other keys."""
    keys = jax.random.split(jax.random.key(2**31 + 1), count)
    return _on_machines([layered_graph(key, 5 + i % 3, 6) for i, key in enumerate(keys)], np.inf, seconds)


def _on_machines(graphs: Sequence[TaskGraph], bandwidth: float, seconds: float) -> list[GraphInstance]:
    found = []
    for cpus, gpus in ((2, 2), (3, 1)):
        where = machine(cpus=cpus, gpus=gpus, bandwidth=bandwidth)
        for graph in graphs:
            times = durations(graph, ready_times(), where)
            reference, proved = reference_of(graph, times, where, seconds)
            found.append(GraphInstance(graph, where, times, f"{cpus} CPU {gpus} GPU", reference, proved))
    return found


def learned_makespans(
    schedulers: Sequence[GraphScheduler], instances: Sequence[GraphInstance], samples: int = 0, seed: int = 0
) -> Float[np.ndarray, "seeds instances"]:
    """Makespans (s) of each scheduler on each instance, in one program; machines must have the same number of processors."""
    problems = stack_problems([scheduling_problem(i.graph, i.durations, i.machine) for i in instances])
    hidden, window = schedulers[0].hidden, schedulers[0].window

    def one(params: Any, problem: Any) -> Array:
        scheduler = GraphScheduler(params, hidden, window)
        key = jax.random.key(seed)
        return makespan(scheduler.place_best(problem, key, samples) if samples else scheduler.place(problem))

    every = jax.jit(lambda params: jax.lax.map(lambda problem: one(params, problem), problems))
    return np.stack([np.asarray(every(scheduler.params), float) for scheduler in schedulers])


def compare_graph_schedulers(
    schedulers: Sequence[GraphScheduler], instances: Sequence[GraphInstance], samples: int = 0
) -> list[GraphScore]:
    """Scores of the list schedulers, the learned one and, with `samples`, its best of that many, by group and over all."""
    reference = np.array([instance.reference for instance in instances])
    makespans = {
        name: np.array([[schedule(i.graph, i.durations, i.machine).makespan for i in instances]])
        for name, schedule in LIST_SCHEDULERS.items()
    }
    if schedulers:
        makespans["learned"] = learned_makespans(schedulers, instances)
    if schedulers and samples:
        makespans[f"learned, best of {samples}"] = learned_makespans(schedulers, instances, samples)
    groups = {instance.group: np.array([i.group == instance.group for i in instances]) for instance in instances}
    groups |= {"all": np.ones(len(instances), bool)} if len(groups) > 1 else {}
    return [
        _score(name, group, (lengths / reference)[:, member])
        for group, member in groups.items()
        for name, lengths in makespans.items()
    ]


def comparison_lines(scores: Sequence[GraphScore]) -> list[str]:
    """The table as text, one line for each score."""
    lines = [f"{'group':14s} {'scheduler':22s} {'mean':>7s} {'95 % interval':>17s} {'worst':>7s} {'seeds':>5s}"]
    for score in scores:
        between = f"{score.interval[0]:.4f} to {score.interval[1]:.4f}" if len(score.ratios) > 1 else "-"
        row = f"{score.group:14s} {score.scheduler:22s} {score.mean:7.4f} {between:>17s} {score.worst:7.3f}"
        lines.append(f"{row} {len(score.ratios):5d}")
    return lines


def _score(name: str, group: str, ratios: np.ndarray) -> GraphScore:
    means = ratios.mean(axis=1)
    mean = interquartile_mean(means)
    interval = bootstrap_interval(means) if len(means) > 1 else (mean, mean)
    return GraphScore(name, group, mean, interval, float(ratios.max()), ratios)
