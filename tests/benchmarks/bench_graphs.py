"""List schedulers against the shortest schedules of the tiled factorisations, T = 2..5, and how long each takes.

For each machine: heuristic / optimum, mean and worst, over the instances whose optimum is proved within SECONDS, how many
those are, and over the others heuristic / best bound. Needs the extra `exact`. The exact solver gets one worker.
"""

import time

import numpy as np
from timing import best, one_core, report

from rl.references.exact import optimal_schedule
from rl.references.list_scheduling import LIST_SCHEDULERS, check_schedule
from rl.references.makespan_bounds import area_bound, critical_path, lower_bound
from workloads import cholesky, durations, lu, machine, qr, ready_times

SECONDS = 20.0
MACHINES = {"2 CPU 2 GPU": (2, 2), "3 CPU 1 GPU": (3, 1), "4 CPU": (4, 0), "4 GPU": (0, 4)}


def instances(cpus, gpus):
    for make in (cholesky, lu, qr):
        for tiles in range(2, 6):
            graph = make(tiles)
            yield graph, np.asarray(durations(graph, ready_times(), machine(cpus=cpus, gpus=gpus)))


def compare(name, cpus, gpus):
    proved, others, open_gaps, weakest, took = [], [], [], [], 0.0
    for graph, w in instances(cpus, gpus):
        start = time.perf_counter()
        optimum = optimal_schedule(graph, w, seconds=SECONDS)
        took += time.perf_counter() - start
        check_schedule(optimum.schedule, graph, w)
        spans = [scheduler(graph, w).makespan for scheduler in LIST_SCHEDULERS.values()]
        if optimum.proved:
            proved.append(np.array(spans) / optimum.makespan)
            weakest.append([bound(graph, w) / optimum.makespan for bound in (critical_path, area_bound, lower_bound)])
        else:
            others.append(np.array(spans) / optimum.bound)
            open_gaps.append(f"{graph.name}: {optimum.makespan:g}, bound {optimum.bound:g}")
    mean, worst = np.mean(proved, 0), np.max(proved, 0)
    figures = {label: f"{m:.3f} ({x:.3f})" for label, m, x in zip(LIST_SCHEDULERS, mean, worst, strict=True)}
    least = dict(zip(("path", "area", "lower_bound"), np.min(weakest, 0).tolist(), strict=True))
    report(f"list / optimum, {name}", proved=len(proved), **figures, **{f"worst {k}": v for k, v in least.items()}, seconds=took)
    if others:
        over = dict(zip(LIST_SCHEDULERS, np.mean(others, 0).tolist(), strict=True))
        report(f"list / bound, {name}, not proved", instances=open_gaps, **over)


def main() -> None:
    one_core()
    for name, (cpus, gpus) in MACHINES.items():
        compare(name, cpus, gpus)
    graph = cholesky(8)
    w = np.asarray(durations(graph, ready_times(), machine(cpus=2, gpus=2)))
    milliseconds = {label: 1e3 * best(lambda: scheduler(graph, w), 3) for label, scheduler in LIST_SCHEDULERS.items()}
    report("one schedule, Cholesky of 120 tasks, ms", **milliseconds, lower_bound=1e3 * best(lambda: lower_bound(graph, w), 3))


if __name__ == "__main__":
    main()
