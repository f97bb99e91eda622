"""Task graphs: the tiled factorisations, READYS's published variants, graphs from elsewhere, times and links."""

import equinox as eqx
import jax
import networkx as nx
import numpy as np
import pytest

import workloads
from workloads import KernelTimes, Machine, TaskGraph, cholesky, lu, machine, qr, ready_times, task_graph

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

FAMILIES = {"cholesky": cholesky, "lu": lu, "qr": qr}


# What is computed, task by task, written independently of the generators: (kind, indices) in the order of their numbers.
def names(family, tiles):
    listed = []
    for k in range(tiles):
        later = range(k + 1, tiles)
        if family == "cholesky":
            listed += [("potrf", k)] + [("trsm", i, k) for i in later]
            for i in later:
                listed += [("syrk", i, k)] + [("gemm", i, j, k) for j in range(k + 1, i)]
        elif family == "lu":
            listed += [("getrf", k)] + [("fwd", k, j) for j in later] + [("bdiv", i, k) for i in later]
            listed += [("bmod", i, j, k) for i in later for j in later]
        else:
            listed += [("geqrt", k)] + [("ormqr", k, j) for j in later]
            for i in later:
                listed += [("tsqrt", i, k)] + [("tsmqr", i, j, k) for j in later]
    return listed


def textbook_edges(family, tiles):
    """The dependences as the papers on tiled algorithms list them."""
    all_of, edges = set(names(family, tiles)), set()

    def add(source, target):
        if source in all_of and target in all_of:
            edges.add((source, target))

    for i in range(tiles):
        for j in range(tiles):
            for k in range(tiles):
                if family == "cholesky":
                    add(("potrf", k), ("trsm", i, k))
                    add(("trsm", i, k), ("syrk", i, k))
                    add(("trsm", i, k), ("gemm", i, j, k))
                    add(("trsm", j, k), ("gemm", i, j, k))
                    add(("syrk", i, k), ("syrk", i, k + 1) if k + 1 < i else ("potrf", i))
                    add(("gemm", i, j, k), ("gemm", i, j, k + 1) if k + 1 < j else ("trsm", i, j))
                elif family == "lu":
                    add(("getrf", k), ("fwd", k, j))
                    add(("getrf", k), ("bdiv", i, k))
                    add(("fwd", k, j), ("bmod", i, j, k))
                    add(("bdiv", i, k), ("bmod", i, j, k))
                    last, m = k + 1 == min(i, j), min(i, j)
                    end = ("getrf", m) if i == j else ("fwd", i, j) if i < j else ("bdiv", i, j)
                    add(("bmod", i, j, k), end if last else ("bmod", i, j, k + 1))
                else:
                    add(("geqrt", k), ("ormqr", k, j))
                    add(("geqrt", k), ("tsqrt", k + 1, k))
                    add(("tsqrt", i, k), ("tsqrt", i + 1, k))
                    add(("tsqrt", i, k), ("tsmqr", i, j, k))
                    add(("ormqr", k, j), ("tsmqr", k + 1, j, k))
                    add(("tsmqr", i, j, k), ("tsmqr", i + 1, j, k))
                    add(("tsmqr", k + 1, k + 1, k), ("geqrt", k + 1))
                    add(("tsmqr", k + 1, j, k), ("ormqr", k + 1, j))
                    add(("tsmqr", i, k + 1, k), ("tsqrt", i, k + 1))
                    add(("tsmqr", i, j, k), ("tsmqr", i, j, k + 1))
    return edges


def kinds_of(graph):
    return [graph.kinds[kind] for kind in np.asarray(graph.kind)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tiles", [1, 2, 3, 5, 8])
def test_edges_are_those_of_the_papers(family, tiles):
    graph, named = FAMILIES[family](tiles), names(family, tiles)
    found = {(named[i], named[j]) for i, j in zip(*np.nonzero(graph.edges), strict=True)}
    assert kinds_of(graph) == [name[0] for name in named]
    assert found == textbook_edges(family, tiles)
    formula = (tiles + 2) if family == "cholesky" else (2 * tiles + 1)
    assert graph.n_tasks == tiles * (tiles + 1) * formula // 6


def run_tiled(family, matrix, order, tiles):
    """Execute the tasks in `order` on 2 x 2 tiles and return the factor: L, LU in one matrix, or R."""
    a = {(i, j): matrix[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].copy() for i in range(tiles) for j in range(tiles)}
    q, named = {}, names(family, tiles)
    for task in order:
        kind, *index = named[task]
        if kind == "potrf":
            a[*index, *index] = np.linalg.cholesky(a[*index, *index])
        elif kind == "trsm":
            i, k = index
            a[i, k] = np.linalg.solve(a[k, k], a[i, k].T).T
        elif kind == "syrk":
            i, k = index
            a[i, i] = a[i, i] - a[i, k] @ a[i, k].T
        elif kind == "gemm":
            i, j, k = index
            a[i, j] = a[i, j] - a[i, k] @ a[j, k].T
        elif kind == "getrf":  # 2 x 2 without pivoting
            t = a[*index, *index]
            t[1, 0] /= t[0, 0]
            t[1, 1] -= t[1, 0] * t[0, 1]
        elif kind == "fwd":
            k, j = index
            a[k, j] = np.linalg.solve(np.tril(a[k, k], -1) + np.eye(2), a[k, j])
        elif kind == "bdiv":
            i, k = index
            a[i, k] = np.linalg.solve(np.triu(a[k, k]).T, a[i, k].T).T
        elif kind == "bmod":
            i, j, k = index
            a[i, j] = a[i, j] - a[i, k] @ a[k, j]
        elif kind == "geqrt":
            k = index[0]
            q[k, k], a[k, k] = np.linalg.qr(a[k, k])
        elif kind == "ormqr":
            k, j = index
            a[k, j] = q[k, k].T @ a[k, j]
        elif kind == "tsqrt":
            i, k = index
            q[i, k], r = np.linalg.qr(np.vstack([a[k, k], a[i, k]]), mode="complete")
            a[k, k], a[i, k] = r[:2], r[2:]
        else:
            i, j, k = index
            both = q[i, k].T @ np.vstack([a[k, j], a[i, j]])
            a[k, j], a[i, j] = both[:2], both[2:]
    return np.block([[a[i, j] for j in range(tiles)] for i in range(tiles)])


def random_order(edges, rng):
    """A random order of all tasks that respects the edges."""
    waiting, order = edges.sum(0), []
    ready = list(np.flatnonzero(waiting == 0))
    while ready:
        task = ready.pop(rng.integers(len(ready)))
        order.append(task)
        for child in np.flatnonzero(edges[task]):
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    return order


@pytest.mark.parametrize("family", FAMILIES)
def test_any_order_that_respects_the_edges_computes_the_factorisation(family):
    tiles, rng = 4, np.random.default_rng(0)
    square = rng.normal(size=(8, 8))
    matrix = square @ square.T + 8 * np.eye(8)  # symmetric positive definite: all three factorisations exist
    edges = np.asarray(FAMILIES[family](tiles).edges)
    for _ in range(20):
        factor = run_tiled(family, matrix, random_order(edges, rng), tiles)
        if family == "cholesky":
            np.testing.assert_allclose(np.tril(factor), np.linalg.cholesky(matrix), atol=1e-10)
        elif family == "lu":
            np.testing.assert_allclose((np.tril(factor, -1) + np.eye(8)) @ np.triu(factor), matrix, atol=1e-10)
        else:
            np.testing.assert_allclose(np.abs(factor), np.abs(np.linalg.qr(matrix)[1]), atol=1e-10)  # R up to signs


def test_published_cholesky_has_the_kinds_of_the_file():
    # READYS's graphs/cholesky_4.txt, nodes in the order of the file: 0 1 2 3 4 6 8 5 9 7 10 13 11 14 12 15 16 18 17 19
    in_file = "potrf trsm trsm trsm syrk gemm gemm syrk gemm syrk potrf syrk trsm syrk trsm gemm potrf syrk trsm potrf"
    graph = cholesky(4, published=True)
    assert kinds_of(graph) == in_file.split()
    assert bool((graph.edges == cholesky(4).edges).all()) and graph.name == "cholesky-4-published"


def test_published_kinds_are_wrong_as_often_as_measured():
    # facts measured on the files of the public repository, T = 4, 6, ..., 14 and 4, 8
    def wrong(make, tiles):
        return int((make(tiles).kind != make(tiles, published=True).kind).sum())

    assert [wrong(cholesky, tiles) for tiles in (4, 6, 8, 10, 12, 14)] == [6, 25, 52, 91, 139, 203]
    assert [wrong(lu, tiles) for tiles in (4, 8)] == [2, 30]


def test_published_qr_lacks_what_it_lacks():
    graph = qr(4, published=True)
    kinds = np.array(kinds_of(graph))
    pairs = {(str(kinds[i]), str(kinds[j])) for i, j in zip(*np.nonzero(graph.edges), strict=True)}
    assert ("geqrt", "ormqr") not in pairs and ("tsqrt", "tsqrt") not in pairs
    # 6 to tsqrt, 14 from tsqrt and 14 from ormqr to tsmqr, 5 to the next tsmqr, 1 + 1 to the next panel, 2 to geqrt
    assert int(graph.edges.sum()) == 6 + 14 + 14 + 5 + 1 + 1 + 2
    alone = ~np.asarray(graph.edges).any(0) & (kinds == "geqrt")
    assert alone.sum() == 2  # the first, rightly, and the last


def test_data_is_one_tile_for_each_tile_handed_over():
    graph, named = qr(3, tile_bytes=10.0), names("qr", 3)
    data = np.asarray(graph.data)
    handed = {(named[i], named[j]): float(data[i, j]) for i, j in zip(*np.nonzero(graph.edges), strict=True)}
    assert handed[("geqrt", 0), ("ormqr", 0, 1)] == 10.0 and set(handed.values()) == {10.0}
    assert (data[~np.asarray(graph.edges)] == 0).all()


def test_padding_and_stacking():
    small, large = cholesky(2), lu(3)
    padded = small.padded(9)
    assert padded.n_tasks == 9 and int(padded.mask.sum()) == 4 and int(padded.edges.sum()) == int(small.edges.sum())
    both = workloads.stack_graphs([small, large])
    assert both.kind.shape == (2, 14) and both.kinds == (*small.kinds, *large.kinds)
    assert [both.kinds[kind] for kind in np.asarray(both.kind)[1]] == kinds_of(large)
    table = ready_times()
    m = machine(cpus=1, gpus=1)
    batched = jax.vmap(lambda graph: workloads.durations(graph, table, m))(both)
    np.testing.assert_array_equal(batched[1], workloads.durations(large, ready_times("lu"), m))
    np.testing.assert_array_equal(batched[0, 4:], 0.0)
    with pytest.raises(ValueError, match="below the graph's own 4 tasks"):
        small.padded(3)
    with pytest.raises(ValueError, match="at least one"):
        workloads.stack_graphs([])


def test_networkx_round_trip():
    dag = nx.DiGraph(name="fork")
    dag.add_node("late", kind="b")
    dag.add_node("first", kind="a")
    dag.add_edge("first", "late", data=7.0)
    dag.add_edge("first", "plain")
    graph = task_graph(dag)
    # topological, earlier inserted first: first, late, plain
    assert graph.kinds == ("a", "b", "task") and graph.name == "fork"
    np.testing.assert_array_equal(graph.kind, [0, 1, 2])
    np.testing.assert_array_equal(graph.data, [[0, 7, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(graph.edges, [[0, 1, 1], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_topological_order_of_insertion_is_kept(family):
    graph = FAMILIES[family](4)
    dag = nx.DiGraph()
    dag.add_nodes_from((i, {"kind": kind}) for i, kind in enumerate(kinds_of(graph)))
    data = np.asarray(graph.data)
    dag.add_edges_from((int(i), int(j), {"data": float(data[i, j])}) for i, j in np.argwhere(graph.edges)[::-1])
    again = task_graph(dag, kinds=graph.kinds, name=graph.name)
    assert bool(eqx.tree_equal(graph, again))


def test_any_profiled_network_is_a_task_graph():
    ops = workloads.load("resnet8")
    graph = workloads.ops_graph(ops)
    assert graph.n_tasks == ops.n_ops and ops.info is not None and int(graph.edges.sum()) == len(set(ops.info.edges))
    i, j = ops.info.edges[0]
    assert float(graph.data[i, j]) == float(ops.bytes_out[i])
    with pytest.raises(ValueError, match="no info"):
        workloads.ops_graph(ops.without_info())


def test_layered_graphs():
    for seed in range(10):
        graph = workloads.layered_graph(jax.random.key(seed), 5, 4)
        again = workloads.layered_graph(jax.random.key(seed), 5, 4)
        assert bool(eqx.tree_equal(graph, again)) and 5 <= graph.n_tasks <= 20
        depth, edges = np.zeros(graph.n_tasks, int), np.asarray(graph.edges)
        for j in range(graph.n_tasks):
            parents = np.flatnonzero(edges[:, j])
            assert len(set(depth[parents])) <= 1  # all in the layer before
            depth[j] = depth[parents].max(initial=-1) + 1
        assert set(depth) == set(range(5)) and (np.diff(depth) >= 0).all()
    with pytest.raises(ValueError, match="layers = 0"):
        workloads.layered_graph(jax.random.key(0), 0, 4)
    with pytest.raises(ValueError, match=r"density = 1.5 is outside its range \[0, 1\]"):
        workloads.layered_graph(jax.random.key(0), 2, 4, density=1.5)


def test_durations_and_communication():
    graph, m = cholesky(2, tile_bytes=100.0), machine(cpus=1, gpus=1, bandwidth=50.0, latency=0.25)
    # GPU first; potrf 11/18, trsm 8/52, syrk 2/57, potrf 11/18
    np.testing.assert_array_equal(workloads.durations(graph, ready_times("cholesky"), m), [[11, 18], [8, 52], [2, 57], [11, 18]])
    cost = workloads.communication(graph, m)
    # 0.25 s + 100 bytes / 50 bytes/s between the two, nothing on one and the same or without an edge
    np.testing.assert_array_equal(cost[0, 1], [[0, 2.25], [2.25, 0]])
    np.testing.assert_array_equal(cost[0, 3], 0.0)
    assert float(workloads.transfer(m, 100.0, 0, 1)) == 2.25 and float(workloads.transfer(m, 100.0, 1, 1)) == 0.0
    np.testing.assert_array_equal(workloads.communication(graph, machine(cpus=1, gpus=1)), 0.0)


def test_durations_are_linear_in_the_times_and_traced_once():
    graph, m, traces = cholesky(4), machine(cpus=2, gpus=2), []

    @eqx.filter_jit
    def total(times, links):
        traces.append(1)
        return workloads.durations(graph, times, links).sum() + workloads.communication(graph, links).sum()

    table = ready_times("cholesky")
    slope = eqx.filter_grad(total)(table, m).times
    # 4 potrf, 6 syrk, 6 trsm, 4 gemm, each on two processors of either kind
    np.testing.assert_array_equal(slope, [[8, 8], [12, 12], [12, 12], [8, 8]])
    total(table, m)
    total(KernelTimes(table.times * 2, table.kinds), machine(cpus=2, gpus=2, bandwidth=1e9, latency=1e-6))
    assert len(traces) == 1


def test_tables_of_readys():
    assert ready_times().kinds == tuple(kind for name in FAMILIES for kind in ready_times(name).kinds)
    for name, make in FAMILIES.items():
        assert set(make(3).kinds) == set(ready_times(name).kinds)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cholesky(0), "tiles = 0 must be at least 1"),
        (lambda: TaskGraph([0], [[True]], kinds=("a",)), "smaller to a larger"),
        (lambda: TaskGraph([0, 0], [[0, 1], [0, 0]], kinds=("a",), mask=[True, False]), "masked"),
        (lambda: TaskGraph([2], [[0]], kinds=("a",)), r"kind in \[2, 2\] is outside its range \[0, 0\]"),
        (lambda: TaskGraph([0, 0], [[0, 1]], kinds=("a",)), "shapes"),
        (lambda: TaskGraph([0, 0], np.zeros((2, 2)), [[0, 1], [0, 0]], kinds=("a",)), "where there is no edge"),
        (lambda: task_graph(nx.DiGraph([(0, 1), (1, 0)])), "without cycles"),
        (lambda: task_graph(nx.DiGraph([(0, 1)]), kinds=("a",)), "kind = 'task' is unknown"),
        (lambda: ready_times("fft"), "unknown table of times 'fft'"),
        (lambda: KernelTimes([[1.0]], ("a",)), r"times has shape \(1, 1\)"),
        (lambda: KernelTimes([[1.0, 0.0]], ("a",)), "must be positive"),
        (lambda: machine(), "one or more processors"),
        (lambda: machine(cpus=-1, gpus=2), "cpus = -1 must not be negative"),
        (lambda: Machine([0, 0], bandwidth=0.0), "bandwidth"),
        (lambda: Machine([0, 0], latency=[1.0]), "latency has shape"),
        (lambda: Machine([0, 0], latency=-1.0), "latency"),
        (lambda: workloads.durations(lu(2), ready_times("qr"), machine(cpus=1)), "kind 'getrf' has no times"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
