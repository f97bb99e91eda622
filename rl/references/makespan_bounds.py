"""Lower bounds on the makespan of a task graph: what no schedule can beat.

Processors with the same durations form a group u of n_u. Communication counts for nothing. With w[i, u] the duration:

    critical path   the longest path if every task ran on its fastest processor
    area            the least T into which all work can be split: sum over i of x[i, u] w[i, u] <= n_u T, where x[i, u] >= 0
                    and sum over u of x[i, u] = 1 (by kinds: tasks of equal durations are one variable)
    mixed           a linear program that holds both and is never below them. Task i starts at s[i] and lasts
                    d[i] = sum over u of x[i, u] w[i, u]; whatever lies between two tasks has to run between them:
                        n_u (s[j] - s[i] - d[i]) >= sum over k between i and j of x[k, u] w[k, u]
                    for all i before j and all u, where "before everything" and "after everything" count as tasks too

Sources: the first two are the usual ones; precedence and area in one program as the "mixed bound" of Agullo et al., HCW 2015
("Bridging the gap between performance and bounds of Cholesky factorization"). The areas between pairs are added here: over
the 48 instances of Cholesky, LU and QR with T = 4, 5, 6, 8 on 2+2, 3+1, 4+0 and 0+4 processors `lower_bound` is 8 % above the
larger of critical path and area in the mean, and 27 % at most.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog
from scipy.sparse import coo_array

from rl.references.list_scheduling import Problem, upward_ranks
from workloads.graphs import TaskGraph

ALL_PAIRS = 150  # tasks; beyond, areas only before and after each task, else the program would take minutes
MARGIN = 1e-6  # of the bound: more than the solver's tolerance can have added


def lower_bound(graph: TaskGraph, durations: Any) -> float:
    """The largest of the bounds of this file (s); `durations` (tasks, processors) in s."""
    return max(bound(graph, durations) for bound in (critical_path, area_bound, mixed_bound))


def critical_path(graph: TaskGraph, durations: Any) -> float:
    """Longest path (s) with every task on its fastest processor."""
    problem = Problem(graph, durations)
    return float(upward_ranks(problem, problem.w.min(1)).max())


def area_bound(graph: TaskGraph, durations: Any) -> float:
    """Least time (s) in which the processors can do all work, tasks divisible and without precedence."""
    problem = Problem(graph, durations)
    unit_time = _unit(problem)
    w, size = groups(problem.w / unit_time)
    w, count = np.unique(w, axis=0, return_counts=True)
    kinds, units = w.shape
    work = np.zeros((units, w.size + 1))
    for unit in range(units):
        work[unit, unit:-1:units] = np.where(np.isfinite(w[:, unit]), w[:, unit], 0.0)
    work[:, -1] = -size
    whole = np.zeros((kinds, w.size + 1))
    whole[:, :-1] = np.repeat(np.eye(kinds), units, axis=1)
    return unit_time * _least_time(work, whole, count, w)


def mixed_bound(graph: TaskGraph, durations: Any) -> float:
    """The bound by precedence and areas together (s)."""
    problem = Problem(graph, durations)
    unit_time = _unit(problem)
    w, size = groups(problem.w / unit_time)
    tasks, units = w.shape
    row, column, value = pair_rows(problem, w, size)
    variables = tasks * (units + 1) + 1
    work = coo_array((value, (row, column)), shape=(row.max() + 1, variables)).tocsr()
    of_task = np.repeat(np.arange(tasks), units), np.arange(w.size)
    whole = coo_array((np.ones(w.size), of_task), shape=(tasks, variables)).tocsr()
    return unit_time * _least_time(work, whole, np.ones(tasks), w)


def _unit(problem: Problem) -> float:
    """A time unit in which the durations are of order one, as the solver's absolute tolerances want them."""
    return float(np.max(problem.w, where=np.isfinite(problem.w), initial=0.0)) or 1.0


def groups(w: Float[np.ndarray, "tasks processors"]) -> tuple[Float[np.ndarray, "tasks units"], Int[np.ndarray, " units"]]:
    """Durations on each group of processors that are alike, and the sizes of the groups."""
    return np.unique(w, axis=1, return_counts=True)


def descendants(problem: Problem) -> np.ndarray:
    """reach[i, j]: there is a path from i to j."""
    reach = problem.edges.copy()
    for task in reversed(range(problem.n)):
        reach[task] |= reach[problem.children[task]].any(0)
    return reach


def pair_rows(problem: Problem, w: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values of the inequalities "sum <= 0" of `mixed_bound`; columns: x task by task, then s, then T.

    `w` (tasks, units) in any unit of time, `size` the number of processors of each unit; edges appear once, not per unit.
    """
    tasks, units = w.shape
    first, last = tasks, tasks + 1  # numbers of "before everything" and "after everything"
    reach = np.zeros((tasks + 2, tasks + 2), bool)
    reach[:tasks, :tasks] = descendants(problem)
    reach[first, :tasks] = reach[:last, last] = True
    work = np.where(np.isfinite(w), w, 0)
    parts, rows = [], 0
    for before in range(tasks + 1):
        after = np.flatnonzero(reach[before])
        between = reach[before, :tasks, None] & reach[:tasks, after]
        inside = between.sum(0)
        pairs = (inside > 1) & ((tasks <= ALL_PAIRS) | (before == first) | (after == last))  # 1: its edges say as much
        for unit in range(units):
            kept = pairs | (inside == 0) & (unit == 0) & (before != first)
            row = rows + np.arange(kept.sum())
            k, of = np.nonzero(between[:, kept])
            end = w.size + np.where(after[kept] == last, tasks, after[kept])
            parts += [(row[of], k * units + unit, work[k, unit]), (row, end, np.full(len(row), -size[unit]))]
            if before != first:
                begin = np.append(before * units + np.arange(units), w.size + before)
                length = size[unit] * np.append(work[before], 1)
                parts.append((np.repeat(row, units + 1), np.tile(begin, len(row)), np.tile(length, len(row))))
            rows += len(row)
    row, column, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return row, column, value


def _least_time(work: Any, whole: Any, count: np.ndarray, w: np.ndarray) -> float:
    """Minimise the last variable with work <= 0 and whole = count; x[i, u] is 0 where w[i, u] is infinite."""
    target = np.zeros(work.shape[1])
    target[-1] = 1.0
    high = np.full(work.shape[1], np.inf)
    high[: w.size][~np.isfinite(w.ravel())] = 0.0
    bounds = np.stack([np.zeros(len(high)), high], axis=1)
    result = linprog(target, A_ub=work, b_ub=np.zeros(work.shape[0]), A_eq=whole, b_eq=count, bounds=bounds, method="highs")
    return float(result.fun) * (1 - MARGIN) if result.success else 0.0
