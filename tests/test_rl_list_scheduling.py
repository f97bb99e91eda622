"""List schedulers, lower bounds and the exact reference, against published figures, by hand and against each other."""

import itertools
import math

import jax
import networkx as nx
import numpy as np
import pytest

from rl.references.exact import optimal_schedule
from rl.references.list_scheduling import (
    LIST_SCHEDULERS,
    Problem,
    Schedule,
    best_list_schedule,
    check_schedule,
    heft,
    mct,
    optimistic_costs,
    peft,
    rank_list,
    upward_ranks,
)
from rl.references.makespan_bounds import area_bound, critical_path, lower_bound, mixed_bound
from workloads import Machine, TaskGraph, cholesky, durations, layered_graph, lu, machine, qr, ready_times, task_graph

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

BYTES = 4.0


def of_readys(make, tiles, cpus, gpus, published=False):
    graph = make(tiles, published=published)
    return graph, np.asarray(durations(graph, ready_times(), machine(cpus=cpus, gpus=gpus)))


# Measured on the public code of READYS (2021-11) and its Cholesky files, GPUs first, no noise.
@pytest.mark.parametrize(
    ("cpus", "gpus", "tiles", "expected", "bound"),
    [
        (2, 2, 4, (75, 75, 77, 74), 68),
        (2, 2, 8, (266, 249, 273, 283), 203.7),
        (2, 2, 10, (437, 426, 444, 475), 363),
        (4, 0, 8, (2275, 2289, 2314, 2279), 2129),
        (4, 0, 12, (7230, 7246, 7282, 7220), 7077.5),
        (0, 4, 8, (165, 168, 178, 160), 141),
        (0, 4, 12, (393, 395, 416, 389), 363),
    ],
)
def test_figures_of_readys(cpus, gpus, tiles, expected, bound):
    graph, w = of_readys(cholesky, tiles, cpus, gpus, published=True)
    schedules = heft(graph, w, published=True), peft(graph, w), mct(graph, w), rank_list(graph, w)
    assert tuple(schedule.makespan for schedule in schedules) == expected
    for schedule in schedules:
        check_schedule(schedule, graph, w)
    assert max(critical_path(graph, w), area_bound(graph, w)) == pytest.approx(bound, abs=0.04)


def test_figures_by_node_number():
    graph, w = of_readys(cholesky, 6, 3, 1)
    assert (heft(graph, w, published=True).makespan, mct(graph, w).makespan, peft(graph, w).makespan) == (255, 248, 217)


def topcuoglu():
    """The example of the HEFT paper (figure 2): ten tasks, three processors, communication of the given lengths."""
    table = "14 16 9, 13 19 18, 11 13 19, 13 8 17, 12 13 10, 13 16 9, 7 15 11, 5 11 14, 18 12 20, 21 7 16"
    edges = (
        "1 2 18, 1 3 12, 1 4 9, 1 5 11, 1 6 14, 2 8 19, 2 9 16, 3 7 23, 4 8 27, 4 9 23, 5 9 13, 6 8 15, 7 10 17, 8 10 11, 9 10 13"
    )
    dag = nx.DiGraph()
    dag.add_nodes_from(range(1, 11))
    dag.add_weighted_edges_from([tuple(map(int, edge.split())) for edge in edges.split(",")], weight="data")
    w = np.array([[float(x) for x in row.split()] for row in table.split(",")])
    return task_graph(dag), w, Machine([0, 0, 0], bandwidth=1.0)


def test_example_of_the_heft_paper():
    graph, w, links = topcuoglu()
    problem = Problem(graph, w, links)
    # table 2 of the paper, and its figure 3: schedule length 80
    published = [108.000, 77.000, 80.000, 80.000, 69.000, 63.333, 42.667, 35.667, 44.333, 14.667]
    np.testing.assert_allclose(upward_ranks(problem, w.mean(1)), published, atol=5e-4)
    schedule = heft(graph, w, links)
    check_schedule(schedule, graph, w, links)
    assert schedule.makespan == 80


def test_optimistic_costs_by_hand():
    # 0 -> 1 with 3 bytes at 1 byte/s; task 1 lasts 5 s or 1 s. From processor 0: min(5, 1 + 3) = 4, from 1: min(5 + 3, 1) = 1
    dag = nx.DiGraph()
    dag.add_edge(0, 1, data=3.0)
    problem = Problem(task_graph(dag), [[2.0, 2.0], [5.0, 1.0]], Machine([0, 1], bandwidth=1.0))
    np.testing.assert_array_equal(optimistic_costs(problem), [[4, 1], [0, 0]])
    # mean durations 2 and 3, mean communication 3
    np.testing.assert_array_equal(upward_ranks(problem, problem.w.mean(1)), [2 + 3 + 3, 3])


def test_insertion_uses_a_gap_that_just_fits_and_published_does_not():
    # 0 (2 s on processor 0) -> 1 (9 s on processor 1) -> 2 (10 s on processor 0); 3 lasts 9 s on processor 0 only.
    dag = nx.DiGraph([(0, 1), (1, 2)])
    dag.add_node(3)
    inf = math.inf
    graph, w = task_graph(dag), [[2, inf], [inf, 9], [10, inf], [9, inf]]
    # processor 0: task 0 in 0..2, task 2 in 11..21, and between them 9 s idle
    assert heft(graph, w).start.tolist() == [0, 2, 11, 2]
    assert heft(graph, w, published=True).start.tolist() == [0, 2, 11, 21]


def test_mct_and_rank_list_by_hand():
    # 0 and 1 are ready at once; processor 0 does them in 1 s and 4 s, processor 1 in 3 s and 6 s. Then 2 after 1.
    dag = nx.DiGraph()
    dag.add_nodes_from([0, 1, 2])
    dag.add_edge(1, 2)
    graph, w = task_graph(dag).padded(4), np.array([[1, 3], [4, 6], [1, 1], [0, 0]], float)
    # mct: 0 on 0 (0..1); 1 there as well (1..5, against 0..6); 2 on 0 (5..6)
    schedule = mct(graph, w)
    assert schedule.processor.tolist() == [0, 0, 0, -1] and schedule.finish.tolist() == [1, 5, 6, 0]
    # rank list: 1 has rank 5, so it goes first (0 on 0..4); 0 would finish at 3 on processor 1, at 5 on 0: it takes 1
    schedule = rank_list(graph, w)
    assert schedule.processor.tolist() == [1, 0, 0, -1] and schedule.finish.tolist() == [3, 4, 5, 0]


def random_problem(seed, most=4):
    """A small layered graph on two to four processors of random speeds, with or without communication."""
    rng = np.random.default_rng(seed)
    graph = layered_graph(jax.random.key(seed), int(rng.integers(2, 5)), most, data_bytes=BYTES)
    n = int(rng.integers(2, 5))
    w = rng.integers(1, 20, (graph.n_tasks, n)).astype(float)
    if seed % 3 == 0:
        w[:, 1] = w[:, 0]  # two processors that are alike
    links = Machine(np.arange(n), bandwidth=BYTES / rng.integers(1, 8), latency=0.5) if seed % 2 else None
    return graph, w, links


@pytest.mark.parametrize("name", LIST_SCHEDULERS)
def test_schedules_are_valid_and_scale_with_time(name):
    scheduler = LIST_SCHEDULERS[name]
    for seed in range(60):
        graph, w, links = random_problem(seed, 8)
        schedule = scheduler(graph, w, links)
        check_schedule(schedule, graph, w, links)
        assert schedule.makespan >= lower_bound(graph, w)
        padded = scheduler(graph.padded(graph.n_tasks + 3), np.pad(w, [(0, 3), (0, 0)]), links)
        np.testing.assert_array_equal(padded.start[:-3], schedule.start)
        assert (np.asarray(padded.processor)[-3:] == -1).all()
        if links is not None:  # four times slower everywhere, a power of two so that ties stay ties
            slower = Machine(links.unit_kind, links.bandwidth / 4, links.latency * 4)
            np.testing.assert_array_equal(scheduler(graph, w * 4, slower).finish, schedule.finish * 4)


def test_bounds_in_closed_form():
    graph, w = of_readys(cholesky, 8, 2, 2)
    # T potrf + (T - 1) (trsm + syrk) on the GPU
    assert critical_path(graph, w) == 8 * 11 + 7 * (8 + 2) == 158
    # 4 CPUs: 8 potrf, 28 trsm, 28 syrk, 56 gemm, all work by four
    assert area_bound(*of_readys(cholesky, 8, 4, 0)) == pytest.approx((8 * 18 + 28 * 52 + 28 * 57 + 56 * 95) / 4, rel=2e-6)
    # a chain on two processors: critical path; independent tasks: area
    assert mixed_bound(task_graph(nx.path_graph(4, nx.DiGraph)), np.full((4, 2), 3.0)) == pytest.approx(12, rel=2e-6)
    lone = nx.DiGraph()
    lone.add_nodes_from(range(6))
    assert mixed_bound(task_graph(lone), np.full((6, 4), 2.0)) == pytest.approx(3, rel=2e-6)
    # a fork-join of 1 + 4 + 1 tasks of 1 s on two processors: 1 + 4/2 + 1, where path and area say 3
    fork = nx.DiGraph([(0, i) for i in range(1, 5)] + [(i, 5) for i in range(1, 5)])
    assert mixed_bound(task_graph(fork), np.ones((6, 2))) == pytest.approx(4, rel=2e-6)


def test_the_mixed_bound_is_never_below_the_others():
    for seed in range(30):
        graph, w, _ = random_problem(seed, 8)
        others = max(critical_path(graph, w), area_bound(graph, w))
        assert mixed_bound(graph, w) >= others * (1 - 3e-6)
        assert mixed_bound(graph, 1e-9 * w) == pytest.approx(1e-9 * mixed_bound(graph, w), rel=1e-5)


def exhaustive(graph, w, links):
    """The optimum of a tiny problem: every order of starting times, every processor."""
    problem = Problem(graph, w, links)
    tail = upward_ranks(Problem(graph, w), problem.w.min(1))
    best = best_list_schedule(graph, w, links).makespan
    processor, finish = np.zeros(problem.n, int), np.zeros(problem.n)

    def search(done, free_at):
        nonlocal best
        if len(done) == problem.n:
            best = min(best, finish.max())
            return
        for task in range(problem.n):
            if task in done or not done.issuperset(problem.parents[task].tolist()):
                continue
            arrival = problem.arrival(task, processor, finish)
            for p in range(problem.n_processors):
                start = max(free_at[p], arrival[p])
                if start + tail[task] - problem.w[task].min() + problem.w[task, p] >= best - 1e-9:
                    continue
                processor[task], finish[task] = p, start + problem.w[task, p]
                search(done | {task}, (*free_at[:p], finish[task], *free_at[p + 1 :]))
                finish[task] = 0.0

    search(frozenset(), (0.0,) * problem.n_processors)
    return best


def tiny_problem(seed):
    """Seven tasks with any edges, two processors of unrelated speeds, or three of which two are alike."""
    rng = np.random.default_rng(seed)
    edges = np.triu(rng.random((7, 7)) < 0.25, 1)
    w = rng.integers(1, 20, (7, 2)) * (0.37 if seed % 5 == 0 else 1.0)  # sometimes off every grid
    if seed % 3 == 0:
        w = np.append(w, w[:, :1], axis=1)
    graph = TaskGraph(np.zeros(7), edges, edges * rng.integers(1, 9, (7, 7)), kinds=("task",))
    return graph, w, Machine(np.arange(w.shape[1]), bandwidth=1.5, latency=0.5) if seed % 2 else None


def test_exact_equals_exhaustive_on_tiny_graphs():
    pytest.importorskip("ortools")
    better = 0
    for seed in range(24):
        graph, w, links = tiny_problem(seed)
        optimum, best = exhaustive(graph, w, links), best_list_schedule(graph, w, links).makespan
        found = optimal_schedule(graph, w, links)
        check_schedule(found.schedule, graph, w, links)
        assert found.proved and found.makespan == pytest.approx(optimum, rel=2e-5)
        assert lower_bound(graph, w) <= found.bound * (1 + 1e-9) <= optimum * (1 + 2e-9)
        better += optimum < best * (1 - 1e-4)
    assert better >= 3  # the list schedules are not all optimal, or nothing would be compared


# Proved by CP-SAT; 102, 93 and 33 also by a plain model without the inequalities between pairs. Else change detectors.
@pytest.mark.parametrize(
    ("make", "tiles", "cpus", "gpus", "optimum"),
    [(cholesky, 5, 3, 1, 139), (cholesky, 5, 2, 2, 102), (cholesky, 5, 4, 0, 656), (lu, 4, 2, 2, 93), (qr, 4, 3, 1, 33)],
)
def test_optima_of_the_factorisations(make, tiles, cpus, gpus, optimum):
    pytest.importorskip("ortools")
    graph, w = of_readys(make, tiles, cpus, gpus)
    found = optimal_schedule(graph, w, seconds=300)
    check_schedule(found.schedule, graph, w)
    assert found == (found.schedule, True, optimum) and found.makespan == optimum


@pytest.mark.slow
def test_optimum_of_56_tasks():
    pytest.importorskip("ortools")
    graph, w = of_readys(cholesky, 6, 3, 1)
    found = optimal_schedule(graph, w, seconds=600)
    assert found.proved and found.makespan == 193


def test_a_schedule_that_meets_the_bound_needs_no_solver(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ortools.sat.python", None)
    graph, w = of_readys(cholesky, 4, 0, 4)
    assert optimal_schedule(graph, w)[1:] == (True, 74)
    with pytest.raises(ModuleNotFoundError, match=r"tempo-pim\[exact\]"):
        optimal_schedule(*of_readys(cholesky, 4, 3, 1))


def test_little_time_gives_the_best_list_schedule_at_least():
    pytest.importorskip("ortools")
    graph, w = of_readys(lu, 5, 3, 1)
    found = optimal_schedule(graph, w, seconds=1e-3)
    check_schedule(found.schedule, graph, w)
    assert not found.proved and lower_bound(graph, w) <= found.bound < found.makespan <= best_list_schedule(graph, w).makespan


def test_check_schedule_finds_every_fault():
    graph, w, links = topcuoglu()
    good = heft(graph, w, links)
    for field, task, value, message in (
        ("processor", 3, 7, r"outside its range \[0, 2\]"),
        ("processor", 0, 0, "not for its duration"),
        ("start", 0, -1.0, "not for its duration"),
    ):
        column = np.array(getattr(good, field))
        column[task] = value
        with pytest.raises(ValueError, match=message):
            check_schedule(good._replace(**{field: column}), graph, w, links)
    shifted = good._replace(start=np.array(good.start), finish=np.array(good.finish))
    shifted.start[9] -= 1
    shifted.finish[9] -= 1
    with pytest.raises(ValueError, match="task 9 starts at 72 s, before"):
        check_schedule(shifted, graph, w, links)
    lone = nx.DiGraph()
    lone.add_nodes_from([0, 1])
    with pytest.raises(ValueError, match="tasks 0 and 1 overlap on processor 0"):
        check_schedule(Schedule(np.zeros(2, int), np.array([0.0, 1.0]), np.array([2.0, 3.0])), task_graph(lone), [[2.0], [2.0]])


@pytest.mark.parametrize(
    ("w", "message"),
    [
        (np.ones(4), r"durations has shape \(4,\)"),
        (np.ones((3, 2)), r"expected \(4 tasks, 2\)"),
        (np.full((4, 2), -1.0), "must not be negative"),
        (np.full((4, 2), math.inf), "run on one processor"),
        (np.full((4, 2), math.nan), "NaN"),
    ],
)
def test_bad_durations(w, message):
    for scheduler, graph in itertools.product(LIST_SCHEDULERS.values(), [cholesky(2)]):
        with pytest.raises(ValueError, match=message):
            scheduler(graph, w, machine(cpus=1, gpus=1) if w.shape == (3, 2) else None)


def test_bad_limits():
    graph, w = of_readys(cholesky, 2, 1, 1)
    for options in ({"seconds": 0.0}, {"workers": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            optimal_schedule(graph, w, **options)
