"""Task graphs: which task must finish before which may start, and what is handed from one to the other.

The tiled factorisations of a matrix of T x T tiles are the standard instances. A task reads and rewrites tiles; task j
waits for task i if j touches a tile that i was the last to write (`_data_flow`). Their sizes:

    cholesky    T (T + 1) (T + 2) / 6    potrf, trsm, syrk, gemm
    lu          T (T + 1) (2T + 1) / 6   getrf, fwd, bdiv, bmod (no pivoting)
    qr          T (T + 1) (2T + 1) / 6   geqrt, ormqr, tsqrt, tsmqr (flat tree)

Cholesky: Buttari et al., Parallel Computing 35 (2009) 38; that paper also has this QR. The numbering of Cholesky and LU is
that of the files of READYS (Grinsztajn et al., CLUSTER 2021; its public code of 2021-11), which come from ggen.

`published=True` gives the graphs that READYS's code runs, faults included, for comparison with its numbers:
- Cholesky and LU: kinds are read in the order in which the file first mentions a node, edges by node number, so some tasks
  have another task's kind (6 of 20 at T = 4, 52 of 120 at T = 8 for Cholesky; 2 of 30 and 30 of 204 for LU);
- QR: no edge from geqrt to ormqr, none down a column from tsqrt to tsqrt or from ormqr and tsmqr to the next tsmqr, and
  the loops of edges from tsmqr into the next step stop one column early, so that even the last geqrt waits for nothing.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from workloads.ops import OpKind, OpTable

TILE_BYTES = 2.0**21  # 512 x 512 doubles; assumed, and without effect on a machine whose links cost nothing
CHOLESKY_KINDS = ("potrf", "syrk", "trsm", "gemm")
LU_KINDS = ("getrf", "bmod", "bdiv", "fwd")
QR_KINDS = ("geqrt", "tsqrt", "ormqr", "tsmqr")

Access = tuple[str, tuple[Hashable, ...], tuple[Hashable, ...]]  # kind, tiles read, tiles read and written


class TaskGraph(eqx.Module):
    """Tasks with their kinds and what they wait for; a pytree of arrays, so it can be jitted, stacked and vmapped.

    Tasks are numbered so that every edge goes from a smaller to a larger number. `data[i, j]` (bytes) is 0 without an edge.
    Tasks with `mask` False are padding: no edges, kind 0, no duration.
    Raises ValueError for shapes that do not agree, an edge that does not go upwards, an unknown kind, or data that is
    negative, infinite or without an edge; concrete values only, traced ones are passed through.
    """

    kind: Int[Array, "*batch tasks"]  # index into `kinds`
    edges: Bool[Array, "*batch tasks tasks"]  # edges[i, j]: i must finish before j may start
    data: Float[Array, "*batch tasks tasks"]  # bytes handed from i to j
    mask: Bool[Array, "*batch tasks"]
    kinds: tuple[str, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True)

    def __init__(
        self, kind: Any, edges: Any, data: Any = None, *, kinds: Sequence[str], name: str = "graph", mask: Any = None
    ) -> None:
        self.kind = jnp.asarray(kind, jnp.int32)
        self.edges = jnp.asarray(edges, bool)
        self.data = jnp.zeros(self.edges.shape) if data is None else jnp.asarray(data, dtype=float)
        self.mask = jnp.ones(self.kind.shape, bool) if mask is None else jnp.asarray(mask, bool)
        self.kinds, self.name = tuple(kinds), name
        _check_graph(self)

    @property
    def n_tasks(self) -> int:
        """Number of tasks, padding included."""
        return self.kind.shape[-1]

    def padded(self, n_tasks: int) -> "TaskGraph":
        """The same graph with masked tasks appended up to `n_tasks`, on the host; ValueError if it already has more."""
        extra = n_tasks - self.n_tasks
        if extra < 0:
            raise ValueError(f"n_tasks = {n_tasks} is below the graph's own {self.n_tasks} tasks")
        row = [(0, 0)] * (self.kind.ndim - 1) + [(0, extra)]
        kind, mask = np.pad(self.kind, row), np.pad(self.mask, row)
        edges, data = np.pad(self.edges, [*row, (0, extra)]), np.pad(self.data, [*row, (0, extra)])
        return TaskGraph(kind, edges, data, kinds=self.kinds, name=self.name, mask=mask)


def stack_graphs(graphs: Sequence[TaskGraph], name: str = "graphs") -> TaskGraph:
    """One batched graph of shape (len(graphs), most tasks), smaller ones padded, over all their kinds; ValueError for none."""
    if not graphs:
        raise ValueError("stack_graphs() needs at least one TaskGraph, got none")
    kinds = tuple(dict.fromkeys(kind for graph in graphs for kind in graph.kinds))
    most = max(graph.n_tasks for graph in graphs)

    def recast(graph: TaskGraph) -> TaskGraph:
        numbers = np.array([kinds.index(kind) for kind in graph.kinds])
        kind = np.where(graph.mask, numbers[np.asarray(graph.kind)], 0)
        return TaskGraph(kind, graph.edges, graph.data, kinds=kinds, name=name, mask=graph.mask).padded(most)

    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *[recast(graph) for graph in graphs])


def cholesky(tiles: int, *, tile_bytes: float = TILE_BYTES, published: bool = False) -> TaskGraph:
    """Tiled Cholesky factorisation of `tiles` x `tiles` tiles, each of `tile_bytes` bytes; `published`: READYS's kinds."""
    _check_tiles(tiles)
    graph = _data_flow(_cholesky_tasks(tiles), CHOLESKY_KINDS, f"cholesky-{tiles}", tile_bytes)
    return _in_file_order(graph) if published else graph


def lu(tiles: int, *, tile_bytes: float = TILE_BYTES, published: bool = False) -> TaskGraph:
    """Tiled LU factorisation without pivoting, as `cholesky`."""
    _check_tiles(tiles)
    graph = _data_flow(_lu_tasks(tiles), LU_KINDS, f"lu-{tiles}", tile_bytes)
    return _in_file_order(graph) if published else graph


def qr(tiles: int, *, tile_bytes: float = TILE_BYTES, published: bool = False) -> TaskGraph:
    """Tiled QR factorisation (flat tree), as `cholesky`; `published`: READYS's edges, its tasks renumbered to go upwards."""
    _check_tiles(tiles)
    if published:
        return task_graph(_published_qr(tiles, tile_bytes), kinds=QR_KINDS, name=f"qr-{tiles}-published")
    return _data_flow(_qr_tasks(tiles), QR_KINDS, f"qr-{tiles}", tile_bytes)


def task_graph(dag: nx.DiGraph, *, kinds: Sequence[str] | None = None, name: str | None = None) -> TaskGraph:
    """The task graph of a networkx DAG: node attribute `kind` (a name, default "task"), edge attribute `data` (bytes, default 0).

    Tasks are numbered topologically, nodes inserted earlier first; an order of insertion that is topological is kept.
    `kinds` defaults to the kinds in the order of the tasks. Raises ValueError for a cycle, no nodes, or an unknown kind.
    """
    if dag.is_multigraph() or not dag.is_directed() or not len(dag) or not nx.is_directed_acyclic_graph(dag):
        raise ValueError(f"dag = {dag} must be a directed graph of one or more nodes, without cycles or parallel edges")
    position = {node: number for number, node in enumerate(dag)}
    order = list(nx.lexicographical_topological_sort(dag, key=position.__getitem__))
    names = [str(dag.nodes[node].get("kind", "task")) for node in order]
    kinds = tuple(dict.fromkeys(names)) if kinds is None else tuple(kinds)
    if unknown := [kind for kind in names if kind not in kinds]:
        raise ValueError(f"kind = {unknown[0]!r} is unknown; known: {', '.join(kinds)}")
    number = {node: index for index, node in enumerate(order)}
    edges, data = np.zeros((len(order), len(order)), bool), np.zeros((len(order), len(order)))
    for source, target, value in dag.edges(data="data", default=0.0):
        edge = number[source], number[target]
        edges[edge], data[edge] = True, value
    return TaskGraph([kinds.index(kind) for kind in names], edges, data, kinds=kinds, name=name or dag.name or "graph")


def ops_graph(ops: OpTable) -> TaskGraph:
    """The task graph of an unbatched operation table: one task per row, kinds those of `OpKind` in lower case.

    An edge carries the producer's output (bytes). Raises ValueError for a table without `info` or with rows out of order.
    """
    if ops.info is None:
        raise ValueError("ops has no info, so its edges are unknown; tables of profile() and load() have them")
    edges, data = np.zeros((ops.n_ops, ops.n_ops), bool), np.zeros((ops.n_ops, ops.n_ops))
    for edge in ops.info.edges:
        edges[edge], data[edge] = True, float(ops.bytes_out[edge[0]])
    kinds = tuple(kind.name.lower() for kind in OpKind)
    return TaskGraph(ops.kind, edges, data, kinds=kinds, name=ops.info.name, mask=ops.mask)


def layered_graph(
    key: PRNGKeyArray,
    layers: int,
    width: int,
    *,
    kinds: Sequence[str] = CHOLESKY_KINDS,
    density: float = 0.3,
    data_bytes: float = TILE_BYTES,
) -> TaskGraph:
    """A random graph of `layers` layers with 1..`width` tasks each, kinds drawn evenly.

    Each pair of tasks in neighbouring layers is an edge with probability `density`, and every task beyond the first layer
    has at least one edge from the layer before it. The same key gives the same graph.
    """
    for label, value in (("layers", layers), ("width", width)):
        if value < 1:
            raise ValueError(f"{label} = {value} must be at least 1")
    if not 0 <= density <= 1:
        raise ValueError(f"density = {density:g} is outside its range [0, 1]")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))  # on the host: every graph has another shape
    layer = np.repeat(np.arange(layers), rng.integers(1, width + 1, layers))
    n = len(layer)
    after = layer[None, :] == layer[:, None] + 1
    draws = np.where(after, rng.random((n, n)), -1.0)
    parent = after & (draws == draws.max(0))  # one of the layer before, evenly
    edges = parent | (after & (rng.random((n, n)) < density))
    kind = rng.integers(0, len(kinds), n)
    return TaskGraph(kind, edges, np.where(edges, data_bytes, 0.0), kinds=kinds, name=f"layered-{layers}x{width}")


def _cholesky_tasks(tiles: int) -> Iterator[Access]:
    for k in range(tiles):
        yield "potrf", (), ((k, k),)
        for i in range(k + 1, tiles):
            yield "trsm", ((k, k),), ((i, k),)
        for i in range(k + 1, tiles):
            yield "syrk", ((i, k),), ((i, i),)
            for j in range(k + 1, i):
                yield "gemm", ((i, k), (j, k)), ((i, j),)


def _lu_tasks(tiles: int) -> Iterator[Access]:
    for k in range(tiles):
        yield "getrf", (), ((k, k),)
        for j in range(k + 1, tiles):
            yield "fwd", ((k, k),), ((k, j),)
        for i in range(k + 1, tiles):
            yield "bdiv", ((k, k),), ((i, k),)
        for i in range(k + 1, tiles):
            for j in range(k + 1, tiles):
                yield "bmod", ((i, k), (k, j)), ((i, j),)


def _qr_tasks(tiles: int) -> Iterator[Access]:
    """The reflectors of a diagonal tile, ("v", k), are apart from the triangle above them: tsqrt rewrites only the latter."""
    for k in range(tiles):
        yield "geqrt", (), ((k, k), ("v", k))
        for j in range(k + 1, tiles):
            yield "ormqr", (("v", k),), ((k, j),)
        for i in range(k + 1, tiles):
            yield "tsqrt", (), ((k, k), (i, k))
            for j in range(k + 1, tiles):
                yield "tsmqr", ((i, k),), ((k, j), (i, j))


def _data_flow(tasks: Iterable[Access], kinds: tuple[str, ...], name: str, tile_bytes: float) -> TaskGraph:
    """Each task waits for the last writer of every tile it touches; no tile here is rewritten while others still read it."""
    listed = list(tasks)
    data = np.zeros((len(listed), len(listed)))
    writer: dict[Hashable, int] = {}
    for task, (_, reads, writes) in enumerate(listed):
        for tile in (*reads, *writes):
            if tile in writer:
                data[writer[tile], task] += 1
        writer.update(dict.fromkeys(writes, task))
    numbers = [kinds.index(kind) for kind, _, _ in listed]
    return TaskGraph(numbers, data > 0, data * tile_bytes, kinds=kinds, name=name)


def _in_file_order(graph: TaskGraph) -> TaskGraph:
    """Task n has the kind of the n-th node mentioned in a list of edges that is sorted by (source, target)."""
    _, targets = np.nonzero(np.asarray(graph.edges))
    mentioned = list(dict.fromkeys([0, *targets.tolist()]))
    kind = np.asarray(graph.kind)[mentioned]
    return TaskGraph(kind, graph.edges, graph.data, kinds=graph.kinds, name=f"{graph.name}-published", mask=graph.mask)


def _published_qr(tiles: int, tile_bytes: float) -> nx.DiGraph:
    """READYS's QR: its nodes in its order, its edges in its seven groups, of which the last three stop one column early."""
    dag = nx.DiGraph()
    last = tiles - 1
    below = [(k, i) for k in range(last) for i in range(k + 1, tiles)]
    inner = [(k, i, j) for k, i in below for j in range(k + 1, tiles)]
    dag.add_nodes_from([("geqrt", k) for k in range(tiles)])
    dag.add_nodes_from([(kind, k, i) for kind in ("tsqrt", "ormqr") for k, i in below])
    dag.add_nodes_from([("tsmqr", *kij) for kij in inner])
    for node in dag:
        dag.nodes[node]["kind"] = node[0]
    edges: list[tuple[Any, Any]] = [(("geqrt", k), ("tsqrt", k, i)) for k, i in below]
    edges += [(("tsqrt", k, i), ("tsmqr", k, i, j)) for k, i, j in inner]
    edges += [(("ormqr", k, j), ("tsmqr", k, i, j)) for k, i, j in inner]
    edges += [(("tsmqr", k, i, j), ("tsmqr", k + 1, i, j)) for k, i, j in inner if min(i, j) > k + 1]
    for k in range(last - 1):
        edges += [(("tsmqr", k, k + 1, j), ("ormqr", k + 1, j)) for j in range(k + 2, tiles - 1)]
        edges += [(("tsmqr", k, i, k + 1), ("tsqrt", k + 1, i)) for i in range(k + 2, tiles - 1)]
        edges.append((("tsmqr", k, k + 1, k + 1), ("geqrt", k + 1)))
    dag.add_edges_from(edges, data=tile_bytes)
    return dag


def _check_tiles(tiles: int) -> None:
    if tiles < 1:
        raise ValueError(f"tiles = {tiles} must be at least 1")


def _check_graph(graph: TaskGraph) -> None:
    n, square = graph.kind.shape, (*graph.kind.shape, *graph.kind.shape[-1:])
    if graph.edges.shape != square or graph.data.shape != square or graph.mask.shape != n or not n or not n[-1]:
        shapes = ", ".join(f"{label} {getattr(graph, label).shape}" for label in ("kind", "edges", "data", "mask"))
        raise ValueError(f"shapes {shapes}; expected (tasks), (tasks, tasks), (tasks, tasks), (tasks) with one task or more")
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(graph)):
        return
    kind, edges, data = np.asarray(graph.kind), np.asarray(graph.edges), np.asarray(graph.data)
    mask = np.asarray(graph.mask)
    if (np.tril(edges) | edges & ~(mask[..., :, None] & mask[..., None, :])).any():
        raise ValueError("edges must go from a smaller to a larger task number, and not touch masked tasks")
    if kind.min() < 0 or kind.max() >= len(graph.kinds):
        raise ValueError(f"kind in [{kind.min()}, {kind.max()}] is outside its range [0, {len(graph.kinds) - 1}]")
    if not (np.isfinite(data) & (data >= 0) & (edges | (data == 0))).all():
        raise ValueError("data (bytes) must be finite, not negative, and 0 where there is no edge")
