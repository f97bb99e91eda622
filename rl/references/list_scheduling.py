"""List scheduling of a task graph on different processors: MCT, HEFT, PEFT and a rank list, without noise.

With w[i, p] the duration, c[i, j, p, q] the communication, and a bar for the mean over the processors (over all pairs of
different ones for c):

    upward rank       r[i]    = w̄[i] + max over successors j of (c̄[i, j] + r[j])
    optimistic cost   O[i, p] = max over j of min over q of (O[j, q] + w[j, q] + (c̄[i, j] if p != q else 0))

    mct         each task as soon as its predecessors finish, onto the processor that finishes it first, after all that was
                put there before
    heft        tasks by falling r, each onto the processor that finishes it first, into an idle gap where one is long enough
    peft        ready tasks by falling mean of O, each onto the processor of least finish + O[i, p], into gaps as heft
    rank_list   in time: whenever a task finishes, the ready tasks by falling r of the fastest durations; one starts if the
                processor that would finish it first is idle, else it waits and reserves nothing

Ties: the smaller task number, the smaller processor number. `heft(published=True)` does as the library inside READYS's code,
the larger task number and only gaps that are longer than the task. With it and the `published` graphs these four give every
figure that our measurements of that code hold.
Sources: Topcuoglu, Hariri, Wu, IEEE TPDS 13 (2002) 260 (HEFT); Arabnejad, Barbosa, IEEE TPDS 25 (2014) 682 (PEFT).
"""

import bisect
import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from workloads.graphs import TaskGraph
from workloads.kernel_times import Machine

TOLERANCE = 1e-5  # of the makespan: rounding of times in float32


class Schedule(NamedTuple):
    """Where and when each task runs (s); padding has processor -1 and runs from 0 to 0."""

    processor: Int[Array | np.ndarray, " tasks"]
    start: Float[Array | np.ndarray, " tasks"]
    finish: Float[Array | np.ndarray, " tasks"]

    @property
    def makespan(self) -> float:
        """Time at which the last task finishes (s)."""
        return float(np.max(self.finish))


class Problem:
    """What a scheduler reads, in float64 and without padding: durations `w` (tasks, processors), parents, children, links.

    Raises ValueError for durations whose shape does not fit, that are negative or NaN, or a task that runs nowhere.
    """

    def __init__(self, graph: TaskGraph, durations: Any, machine: Machine | None = None) -> None:
        self.tasks = np.flatnonzero(np.asarray(graph.mask))
        self.edges = np.asarray(graph.edges)[np.ix_(self.tasks, self.tasks)]
        self.data = np.asarray(graph.data, float)[np.ix_(self.tasks, self.tasks)]
        self.w = _checked_durations(durations, graph.n_tasks, machine)[self.tasks]
        self.n, self.n_processors = self.w.shape
        self.parents = [np.flatnonzero(column) for column in self.edges.T]
        self.children = [np.flatnonzero(row) for row in self.edges]
        apart = ~np.eye(self.n_processors, dtype=bool)
        none = np.zeros(apart.shape)
        self.latency = none if machine is None else np.where(apart, np.asarray(machine.latency, float), 0.0)
        self.per_byte = none if machine is None else np.where(apart, 1.0 / np.asarray(machine.bandwidth, float), 0.0)
        self.free = not (self.latency.any() or (self.per_byte.any() and self.data.any()))  # handing over takes no time
        pairs = max(1, int(apart.sum()))
        self.mean_latency, self.mean_per_byte = self.latency.sum() / pairs, self.per_byte.sum() / pairs

    def mean_communication(self, task: int) -> np.ndarray:
        """c̄ from `task` to each of its children."""
        return self.mean_latency + self.data[task, self.children[task]] * self.mean_per_byte

    def arrival(self, task: int, processor: np.ndarray, finish: np.ndarray) -> np.ndarray:
        """When the data of all parents is there, for each processor on which `task` could run."""
        parents = self.parents[task]
        if not len(parents):
            return np.zeros(self.n_processors)
        if self.free:
            return np.full(self.n_processors, finish[parents].max())
        source = processor[parents]
        handed = self.latency[source] + self.data[parents, task, None] * self.per_byte[source]
        return (finish[parents, None] + handed).max(0)

    def schedule(self, processor: np.ndarray, start: np.ndarray, n_tasks: int) -> Schedule:
        """The result for all `n_tasks` tasks, padding included."""
        full = Schedule(np.full(n_tasks, -1), np.zeros(n_tasks), np.zeros(n_tasks))
        full.processor[self.tasks], full.start[self.tasks] = processor, start
        full.finish[self.tasks] = start + self.w[np.arange(self.n), processor]
        return full


def mct(graph: TaskGraph, durations: Any, machine: Machine | None = None) -> Schedule:
    """Minimum completion time. `durations` (tasks, processors) in s; without a machine, handing data over takes no time."""
    problem = Problem(graph, durations, machine)
    queues = _Queues(problem)
    for time, task in _as_ready(problem, queues.finish):
        queues.append(task, *queues.first_to_finish(task, time))
    return problem.schedule(queues.processor, queues.start, graph.n_tasks)


def heft(graph: TaskGraph, durations: Any, machine: Machine | None = None, *, published: bool = False) -> Schedule:
    """Heterogeneous earliest finish time, as `mct`; `published`: the ties and gaps of the library in READYS's code."""
    problem = Problem(graph, durations, machine)
    rank = upward_ranks(problem, _mean_durations(problem))
    sign = -1 if published else 1
    order = sorted(range(problem.n), key=lambda task: (-rank[task], sign * task))
    return _insert(problem, order, np.zeros(problem.w.shape), graph.n_tasks, longer=published)


def peft(graph: TaskGraph, durations: Any, machine: Machine | None = None) -> Schedule:
    """Predict earliest finish time, as `mct`."""
    problem = Problem(graph, durations, machine)
    cost = optimistic_costs(problem)
    return _insert(problem, _by_priority(problem, cost.mean(1)), cost, graph.n_tasks)


def rank_list(graph: TaskGraph, durations: Any, machine: Machine | None = None) -> Schedule:
    """List scheduling in time by upward ranks of the fastest durations, as `mct`."""
    problem = Problem(graph, durations, machine)
    rank = upward_ranks(problem, problem.w.min(1))
    queues, waiting = _Queues(problem), [len(parents) for parents in problem.parents]
    ready = [(-rank[task], task) for task in range(problem.n) if not waiting[task]]
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        left = []
        for entry in sorted(ready):
            chosen, began = queues.first_to_finish(entry[1], now)
            if queues.free_at[chosen] > now:
                left.append(entry)
            else:
                queues.append(entry[1], chosen, began)
                heapq.heappush(running, (queues.finish[entry[1]], entry[1]))
        now = running[0][0]
        while running and running[0][0] == now:
            left += [(-rank[task], task) for task in _released(problem, heapq.heappop(running)[1], waiting)]
        ready = left
    return problem.schedule(queues.processor, queues.start, graph.n_tasks)


LIST_SCHEDULERS: dict[str, Callable[..., Schedule]] = {"mct": mct, "heft": heft, "peft": peft, "rank-list": rank_list}


def best_list_schedule(graph: TaskGraph, durations: Any, machine: Machine | None = None) -> Schedule:
    """The shortest of the schedules of `LIST_SCHEDULERS`; the earlier name wins a tie."""
    return min((scheduler(graph, durations, machine) for scheduler in LIST_SCHEDULERS.values()), key=lambda s: s.makespan)


def check_schedule(schedule: Schedule, graph: TaskGraph, durations: Any, machine: Machine | None = None) -> None:
    """Raise ValueError, naming the tasks, if durations, precedence with communication, or one task at a time are violated.

    Times may be off by 1e-5 of the makespan.
    """
    problem = Problem(graph, durations, machine)
    processor, start, finish = (np.asarray(field)[problem.tasks] for field in schedule)
    slack = TOLERANCE * max(schedule.makespan, np.finfo(float).tiny)
    if (processor < 0).any() or (processor >= problem.n_processors).any():
        raise ValueError(f"processor = {processor.tolist()} is outside its range [0, {problem.n_processors - 1}]")
    expected = start + problem.w[np.arange(problem.n), processor]
    if not ((np.abs(finish - expected) <= slack) & (start >= -slack)).all():
        task = int(np.argmax(~((np.abs(finish - expected) <= slack) & (start >= -slack))))
        raise ValueError(f"task {problem.tasks[task]} runs from {start[task]:g} to {finish[task]:g} s, not for its duration")
    for task in range(problem.n):
        if start[task] < problem.arrival(task, processor, finish)[processor[task]] - slack:
            raise ValueError(f"task {problem.tasks[task]} starts at {start[task]:g} s, before its predecessors' data is there")
    order = np.lexsort((finish, start, processor))
    same = processor[order[1:]] == processor[order[:-1]]
    overlap = same & (start[order[1:]] < finish[order[:-1]] - slack)
    if overlap.any():
        first, second = problem.tasks[order[int(np.argmax(overlap)) :][:2]]
        raise ValueError(f"tasks {first} and {second} overlap on processor {schedule.processor[first]}")


def upward_ranks(problem: Problem, durations: Float[np.ndarray, " tasks"]) -> Float[np.ndarray, " tasks"]:
    """Longest way from the start of each task to the end (s), with one duration for each task and mean communication."""
    rank = np.array(durations, float)
    for task in reversed(range(problem.n)):
        if len(children := problem.children[task]):
            rank[task] += (problem.mean_communication(task) + rank[children]).max()
    return rank


def optimistic_costs(problem: Problem) -> Float[np.ndarray, "tasks processors"]:
    """PEFT's table: the least time (s) from the end of a task on a processor to the end, were all processors always free."""
    cost = np.zeros(problem.w.shape)
    for task in reversed(range(problem.n)):
        if len(children := problem.children[task]):
            stay = cost[children] + problem.w[children]
            leave = stay.min(1, keepdims=True) + problem.mean_communication(task)[:, None]
            cost[task] = np.minimum(stay, leave).max(0)
    return cost


class _Queues:
    """Processors that run tasks in the order in which they are appended."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.free_at = problem, np.zeros(problem.n_processors)
        self.processor, self.start, self.finish = np.zeros(problem.n, int), np.zeros(problem.n), np.zeros(problem.n)

    def first_to_finish(self, task: int, now: float) -> tuple[int, float]:
        """The processor that would finish `task` first, and when it would start it."""
        arrival = self.problem.arrival(task, self.processor, self.finish)
        began = np.maximum(np.maximum(self.free_at, now), arrival)
        chosen = int(np.argmin(began + self.problem.w[task]))
        return chosen, float(began[chosen])

    def append(self, task: int, processor: int, start: float) -> None:
        self.processor[task], self.start[task] = processor, start
        self.finish[task] = self.free_at[processor] = start + self.problem.w[task, processor]


def _insert(problem: Problem, order: Iterable[int], bias: np.ndarray, n_tasks: int, longer: bool = False) -> Schedule:
    """Tasks in `order`, each where finish + bias is least, into the first gap that holds it (`longer`: holds it strictly)."""
    processor, start, finish = np.zeros(problem.n, int), np.zeros(problem.n), np.zeros(problem.n)
    busy: list[list[tuple[float, float]]] = [[] for _ in range(problem.n_processors)]
    for task in order:
        arrival, w = problem.arrival(task, processor, finish), problem.w[task]
        began = np.array([_first_gap(*slot, longer) for slot in zip(busy, arrival, w, strict=True)])
        chosen = int(np.argmin(began + w + bias[task]))
        processor[task], start[task], finish[task] = chosen, began[chosen], began[chosen] + w[chosen]
        bisect.insort(busy[chosen], (start[task], finish[task]))
    return problem.schedule(processor, start, n_tasks)


def _first_gap(busy: list[tuple[float, float]], arrival: float, duration: float, longer: bool) -> float:
    """Earliest start not before `arrival` between or after the intervals of `busy`, which are sorted and do not overlap."""
    began = arrival
    for start, finish in busy[bisect.bisect_left(busy, arrival, key=lambda interval: interval[1]) :]:
        if began + duration < start or (not longer and began + duration == start):
            return began
        began = max(began, finish)
    return began


def _by_priority(problem: Problem, priority: np.ndarray) -> Iterator[int]:
    """Tasks in an order that respects the edges: always the ready one of highest priority."""
    waiting = [len(parents) for parents in problem.parents]
    ready = [(-priority[task], task) for task in range(problem.n) if not waiting[task]]
    heapq.heapify(ready)
    while ready:
        _, task = heapq.heappop(ready)
        yield task
        for child in _released(problem, task, waiting):
            heapq.heappush(ready, (-priority[child], child))


def _as_ready(problem: Problem, finish: np.ndarray) -> Iterator[tuple[float, int]]:
    """(time, task) in the order in which tasks become ready; the caller sets `finish[task]` before it asks for the next."""
    waiting = [len(parents) for parents in problem.parents]
    events = [(0.0, task) for task in range(problem.n) if not waiting[task]]
    while events:
        time, task = heapq.heappop(events)
        yield time, task
        for child in _released(problem, task, waiting):
            heapq.heappush(events, (finish[problem.parents[child]].max(), child))


def _released(problem: Problem, task: int, waiting: list[int]) -> Iterator[int]:
    """Children for which `task` was the last parent; counts down `waiting`."""
    for child in problem.children[task].tolist():
        waiting[child] -= 1
        if not waiting[child]:
            yield child


def _mean_durations(problem: Problem) -> np.ndarray:
    """w̄, over the processors on which a task runs at all."""
    runs = np.isfinite(problem.w)
    return np.where(runs, problem.w, 0.0).sum(1) / runs.sum(1)


def _checked_durations(durations: Any, n_tasks: int, machine: Machine | None) -> np.ndarray:
    w = np.asarray(durations, float)
    wide = w.shape[-1] if machine is None else machine.n_processors
    if w.ndim != 2 or w.shape != (n_tasks, wide) or not wide:
        raise ValueError(f"durations has shape {w.shape}; expected ({n_tasks} tasks, {wide or 'processors'})")
    if not (w >= 0).all() or not np.isfinite(w.min(1)).all():
        raise ValueError("durations (s) must not be negative or NaN, and each task must run on one processor at least")
    return w
