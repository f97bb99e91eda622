"""The shortest schedule of a task graph, by constraint programming: what a heuristic or an agent is measured against.

Each task has a start and, for each group of processors, an optional interval; one interval is chosen. If handing data over
takes no time, processors with the same durations are one group of n_u (a cumulative constraint, free of symmetry); else each
processor is its own group, and of processors that are alike the one with the smaller number gets the smaller first task.
The best list schedule is the first solution. Makespan and starts are narrowed by `makespan_bounds`, whose inequalities
between pairs of tasks are in the model too (Cholesky of 56 tasks on 2 CPU 2 GPU: proved in 5 s, without them not in 20 s).

Solver: CP-SAT of OR-tools, the extra `exact`, which counts in whole steps. If all times are multiples of one power of two,
that is the step and nothing is rounded. Else times are rounded up to steps of 2^-22 of the best list schedule, `Optimum.bound`
is lowered by what that may have added, and a gap of 1e-5 counts as none.
"""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from rl.references.list_scheduling import Problem, Schedule, best_list_schedule
from rl.references.makespan_bounds import groups, lower_bound, pair_rows
from workloads.graphs import TaskGraph
from workloads.kernel_times import Machine

GRID = 2**22  # steps in the makespan
GAP = 1e-5  # relative; of a problem whose times had to be rounded
SECONDS = 40.0


class Optimum(NamedTuple):
    """The best schedule found, whether it is proved to be the shortest, and the best bound from below (s)."""

    schedule: Schedule
    proved: bool
    bound: float

    @property
    def makespan(self) -> float:
        """Of the schedule (s)."""
        return self.schedule.makespan


def optimal_schedule(
    graph: TaskGraph, durations: Any, machine: Machine | None = None, *, seconds: float = SECONDS, workers: int = 1
) -> Optimum:
    """The shortest schedule, or the best found within `seconds`; arguments as in `list_scheduling.heft`.

    With one worker the result is the same every time unless the time limit ends the search. Raises ModuleNotFoundError
    without OR-tools, ValueError for what `heft` refuses, no time, or no workers. Proves most graphs of up to 40 tasks.
    """
    if not seconds > 0 or workers < 1:
        raise ValueError(f"seconds = {seconds:g} s must be positive and workers = {workers} at least 1")
    best, bound = best_list_schedule(graph, durations, machine), lower_bound(graph, durations)
    problem = Problem(graph, durations, machine)
    grid = _Grid(problem, best.makespan)
    if grid.exact:
        bound = grid.step * math.ceil(bound / grid.step - 1e-6)
    if best.makespan * (1 - grid.gap) <= bound:
        return Optimum(best, True, best.makespan)
    cp_model = _cp_model()
    model = _Model(cp_model.CpModel(), problem, grid, best, bound)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds, solver.parameters.num_workers = seconds, workers
    solver.parameters.relative_gap_limit = grid.gap
    solver.parameters.linearization_level = 2  # else the inequalities between pairs are not in its linear relaxation
    status = solver.solve(model.cp)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        best = min(best, _assigned(problem, grid, model, solver, graph.n_tasks), key=lambda schedule: schedule.makespan)
    rounding = 0.0 if grid.exact else 2 * problem.n * grid.step  # each duration and communication of a path by one step
    bound = max(bound, solver.best_objective_bound * grid.step - rounding)
    return Optimum(best, status == cp_model.OPTIMAL, float(min(bound, best.makespan)))


class _Grid:
    """Durations of each group in whole steps (-1: does not run), sizes of the groups, group of each processor; the step (s)."""

    def __init__(self, problem: Problem, makespan: float) -> None:
        source, target = np.nonzero(problem.edges)
        handed = problem.latency + problem.data[source, target][:, None, None] * problem.per_byte
        times = np.append(problem.w[np.isfinite(problem.w)], handed)
        powers = [step for step in 2.0 ** np.arange(0, -23, -1) if makespan < GRID * step and not (times % step).any()]
        self.exact, self.step = bool(powers), powers[0] if powers else makespan / GRID
        self.gap = 0.0 if self.exact else GAP
        w, self.size = groups(problem.w)
        self.group = (problem.w[:, :, None] == w[:, None, :]).all(0).argmax(1)
        if not problem.free:
            w, self.size, self.group = problem.w, np.ones(problem.n_processors, int), np.arange(problem.n_processors)
        self.w = np.where(np.isfinite(w), self.steps(np.where(np.isfinite(w), w, 0.0)), -1)

    def steps(self, times: np.ndarray) -> np.ndarray:
        """Whole steps, rounded up but for the rounding of floating-point numbers."""
        return np.ceil(times / self.step - 1e-9).astype(int)


class _Model:
    """Variables and constraints: on[task][group], start[task] and the makespan, in steps."""

    def __init__(self, cp: Any, problem: Problem, grid: _Grid, best: Schedule, bound: float) -> None:
        self.cp, self.problem, self.grid = cp, problem, grid
        self.alike = [] if problem.free else _alike(problem)
        processor = _relabelled(np.asarray(best.processor)[problem.tasks], self.alike)
        order = np.lexsort((np.arange(problem.n), np.asarray(best.start)[problem.tasks]))
        start = _left_shift(problem, grid.w[:, grid.group], lambda i, j: grid.steps(_handed(problem, i, j)), processor, order)
        chosen = grid.group[processor]
        self._add_variables(int((start + grid.w[np.arange(problem.n), chosen]).max()), bound)
        for task in range(problem.n):
            cp.add_hint(self.start[task], int(start[task]))
            for group, x in enumerate(self.on[task]):
                cp.add_hint(x, bool(chosen[task] == group))
        self._add_groups()
        self._add_pairs()
        if not problem.free:
            self._add_communication()
            self._add_symmetry()
        cp.minimize(self.makespan)

    def _add_variables(self, longest: int, bound: float) -> None:
        problem, w = self.problem, self.grid.w
        fastest = np.where(w < 0, w.max() + 1, w).min(1)
        head, tail = np.zeros(problem.n, int), fastest.copy()
        for task in range(problem.n):
            parents = problem.parents[task]
            head[task] = (head[parents] + fastest[parents]).max(initial=0)
        for task in reversed(range(problem.n)):
            tail[task] += tail[problem.children[task]].max(initial=0)
        least = min(longest, math.ceil(bound / self.grid.step - 1e-6))
        self.makespan = self.cp.new_int_var(least, longest, "makespan")
        self.start = [self.cp.new_int_var(int(a), longest - int(b), "") for a, b in zip(head, tail, strict=True)]
        self.on = [[self.cp.new_bool_var("") for _ in row] for row in w]

    def _add_groups(self) -> None:
        for task, row in enumerate(self.on):
            self.cp.add_exactly_one(row)
            for group in np.flatnonzero(self.grid.w[task] < 0):
                self.cp.add(row[group] == 0)
        for group, size in enumerate(self.grid.size.tolist()):
            steps = np.maximum(self.grid.w[:, group], 0).tolist()
            intervals = [
                self.cp.new_optional_fixed_size_interval_var(self.start[task], length, self.on[task][group], "")
                for task, length in enumerate(steps)
            ]
            if size == 1:
                self.cp.add_no_overlap(intervals)
            else:
                self.cp.add_cumulative(intervals, [1] * len(intervals), size)

    def _add_pairs(self) -> None:
        """Precedence, and the areas between pairs of tasks."""
        variables = [x for row in self.on for x in row] + self.start + [self.makespan]
        row, column, value = pair_rows(self.problem, np.maximum(self.grid.w, 0), self.grid.size)
        order = np.argsort(row, kind="stable")
        for entries in np.split(order, np.flatnonzero(np.diff(row[order])) + 1):
            self.cp.add(sum(int(value[e]) * variables[column[e]] for e in entries) <= 0)

    def _add_communication(self) -> None:
        for i, j in np.argwhere(self.problem.edges).tolist():
            handed = self.grid.steps(_handed(self.problem, i, j))
            for p, q in np.argwhere(handed).tolist():
                end = self.start[i] + int(self.grid.w[i, p]) + int(handed[p, q])
                self.cp.add(self.start[j] >= end).only_enforce_if(self.on[i][p], self.on[j][q])

    def _add_symmetry(self) -> None:
        """Of two processors that are alike, a task may run on the second only if one with a smaller number ran on the first."""
        for first, second in self.alike:
            for task, row in enumerate(self.on):
                self.cp.add_bool_or([row[second].negated(), *(earlier[first] for earlier in self.on[:task])])


def _alike(problem: Problem) -> list[tuple[int, int]]:
    """Pairs of processors that can be exchanged without any other change; each is paired with the next of its class."""
    pairs = []
    for first in range(problem.n_processors):
        for second in range(first + 1, problem.n_processors):
            swap = np.arange(problem.n_processors)
            swap[[first, second]] = second, first
            links = (problem.latency, problem.per_byte)
            if (problem.w[:, swap] == problem.w).all() and all((x[np.ix_(swap, swap)] == x).all() for x in links):
                pairs.append((first, second))
                break
    return pairs


def _relabelled(processor: np.ndarray, alike: list[tuple[int, int]]) -> np.ndarray:
    """The same assignment with processors that are alike exchanged so that smaller ones have smaller first tasks."""
    processor = processor.copy()
    for _ in alike:  # as often as there are neighbours, as in sorting by exchange
        for first, second in alike:
            a, b = processor == first, processor == second
            if b.any() and (not a.any() or b.argmax() < a.argmax()):
                processor[a], processor[b] = second, first
    return processor


def _handed(problem: Problem, source: int, target: int) -> np.ndarray:
    """Time (s) to hand over what `target` needs of `source`, for each two processors."""
    return problem.latency + problem.data[source, target] * problem.per_byte


def _left_shift(
    problem: Problem, w: np.ndarray, handed: Callable[[int, int], np.ndarray], processor: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """Earliest starts for given processors, tasks in `order` on each of them; the unit is that of `w` and `handed`."""
    finish, start, free_at = np.zeros(problem.n, w.dtype), np.zeros(problem.n, w.dtype), np.zeros(w.shape[1], w.dtype)
    for task in order.tolist():
        p = processor[task]
        arrivals = [finish[k] + handed(k, task)[processor[k], p] for k in problem.parents[task].tolist()]
        start[task] = max(free_at[p], max(arrivals, default=0))
        finish[task] = free_at[p] = start[task] + w[task, p]
    return start


def _assigned(problem: Problem, grid: _Grid, model: _Model, solver: Any, n_tasks: int) -> Schedule:
    """The solver's solution with a processor for each task of a group, and its starts in exact times."""
    group = np.array([[solver.boolean_value(x) for x in row] for row in model.on]).argmax(1)
    start = np.array([solver.value(s) for s in model.start])
    order = np.lexsort((np.arange(problem.n), start))
    processor, free_at = np.zeros(problem.n, int), np.zeros(problem.n_processors, int)
    for task in order:
        mine = np.flatnonzero((grid.group == group[task]) & (free_at <= start[task]))
        processor[task] = mine[0]
        free_at[mine[0]] = start[task] + grid.w[task, group[task]]
    starts = _left_shift(problem, problem.w, lambda i, j: _handed(problem, i, j), processor, order)
    return problem.schedule(processor, starts, n_tasks)


def _cp_model() -> ModuleType:
    try:
        from ortools.sat.python import cp_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('the exact reference needs OR-tools: pip install "tempo-pim[exact]"') from error
    return cp_model
