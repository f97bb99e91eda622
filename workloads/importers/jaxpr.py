"""Profile a JAX function: from its jaxpr to an operation table, without running it and without allocating anything.

    jaxpr --flatten--> primitives --fusion--> operations --rules, liveness--> OpTable

The table describes the function as a device runs it after compilation: what depends on parameters alone is computed
beforehand, elementwise epilogues are fused, reshapes are free. Each step is a module of this package and says what it
assumes. Primitives without a rule are never counted as free in silence: they are listed in `info.uncounted`.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from workloads.importers.cache import PROFILES, key_of
from workloads.importers.flatten import Flattener, abstract_leaves
from workloads.importers.fusion import Group, group
from workloads.importers.graph import Graph, Node, Value
from workloads.importers.liveness import external, lifetimes
from workloads.importers.products import Product
from workloads.importers.rules import WINDOWS, Cost, cost_of
from workloads.ops import OpInfo, OpKind, OpTable, make_table

PRECEDENCE = (
    OpKind.CONV,
    OpKind.DEPTHWISE,
    OpKind.DENSE,
    OpKind.MATMUL,
    OpKind.OTHER,
    OpKind.REDUCE,
    OpKind.ELEMENTWISE,
    OpKind.MOVE,
)


def profile(
    fn: Callable[..., Any],
    *args: Any,
    weights: Sequence[int] = (),
    strict: bool = False,
    trip_count: int | None = None,
    fuse: bool = True,
    name: str | None = None,
) -> OpTable:
    """The operation table of `fn(*args)`.

    `args` are arrays or `jax.ShapeDtypeStruct`s (any pytrees of them); only shapes and dtypes matter. `weights` are the
    positions of the arguments whose leaves are parameters; arrays that `fn` closes over always are. `trip_count` is how
    often every while loop runs (otherwise its body is counted once and `info.flags` says so). `strict` refuses
    primitives without a rule. `fuse=False` gives one row for every primitive. `name` defaults to the function's.

    Operand widths come from the dtypes; change them with `OpTable.with_bits`. The same computation is analysed once: tables are
    kept by the content of the traced function.

    Raises ValueError if there is no operation on an activation, for a position in `weights` that is not an argument,
    for a trip count below 1, and with `strict` for primitives without a rule.
    """
    label = name or getattr(fn, "__name__", type(fn).__name__)
    positions = _check(args, weights, trip_count)
    closed = jax.make_jaxpr(fn)(*args)
    leaves = list(abstract_leaves(args))
    paths = [(position, path) for position, path, _ in leaves]
    text = closed.pretty_print(name_stack=True, use_color=False)
    key = key_of(text, paths, sorted(positions), strict, trip_count, fuse, label)
    return PROFILES.get(key, lambda: _profile(closed, leaves, positions, trip_count, label, strict, fuse))


def _profile(
    closed: Any, leaves: list[Any], positions: set[int], trip_count: int | None, label: str, strict: bool, fuse: bool
) -> OpTable:
    """The table of a traced function."""
    graph = flat_graph(closed, leaves, positions, trip_count, label)
    uncounted = tuple(sorted(Counter(n.primitive for n in graph.nodes if cost_of(n) is None).items()))
    if strict and uncounted:
        raise ValueError(
            f"{label}: no rule for {', '.join(f'{p} (x{c})' for p, c in uncounted)}; strict=False lists them instead"
        )
    return table_of(graph, group(graph, fuse=fuse), label, uncounted)


def flat_graph(closed: Any, leaves: list[Any], positions: set[int], trip_count: int | None, label: str) -> Graph:
    """The flat graph of a traced function whose arguments at `positions` are parameters; ValueError if nothing is left of it."""
    flattener = Flattener(trip_count)
    graph = flattener.graph
    for position, path, leaf in leaves:
        graph.inputs.append(_argument(flattener, position in positions, f"input {position}{path}", leaf))
    graph.outputs = flattener.body(closed, graph.inputs, (), "")
    for value in graph.outputs:
        value.root.escapes = True
    graph.prune()
    if not graph.nodes:
        raise ValueError(f"{label}: no operation depends on an argument that is not a parameter; there is nothing to profile")
    return graph


def _check(args: Sequence[Any], weights: Sequence[int], trip_count: int | None) -> set[int]:
    for position in weights:
        if not 0 <= position < len(args):
            raise ValueError(f"weights = {position} is outside its range [0, {len(args) - 1}] (positional arguments)")
    if trip_count is not None and trip_count < 1:
        raise ValueError(f"trip_count = {trip_count} is outside its range [1, inf)")
    return set(weights)


def _argument(flattener: Flattener, parameter: bool, label: str, leaf: Any) -> Value:
    aval = jax.typeof(leaf) if not isinstance(leaf, jax.ShapeDtypeStruct) else leaf
    if parameter:
        return flattener.parameter(tuple(aval.shape), aval.dtype, label)
    return Value(tuple(aval.shape), aval.dtype, math.prod(aval.shape), constant=False, label=label)


def table_of(graph: Graph, groups: list[Group], label: str, uncounted: tuple[tuple[str, int], ...]) -> OpTable:
    """One row for each group; `uncounted` are the primitives without a rule, with how often they occur."""
    row_of = {id(node): row for row, own in enumerate(groups) for node in own.nodes}
    alive = lifetimes(graph, groups)
    wanted = {id(v.root) for own in groups for v in external(own)}
    rows = [_row(graph, own, wanted) | {"live": live} for own, live in zip(groups, alive.live, strict=True)]
    edges = {
        (row_of[id(v.root.producer)], row) for row, own in enumerate(groups) for v in external(own) if v.root.producer is not None
    }
    names = _names(groups)
    used = frozenset[int]().union(*(v.sources for node in graph.nodes for v in node.constants))
    info = OpInfo(
        name=label,
        op_names=names,
        edges=tuple(sorted(edges)),
        parameters=sum(graph.leaves[leaf] for leaf in used),
        peak_op=alive.peak,
        peak_tensors=tuple(f"{_tensor_name(v, row_of, names)} {v.shape}" for v in alive.tensors),
        uncounted=uncounted,
        flags=tuple(dict.fromkeys(graph.flags)) + _hoisted_flag(graph),
    )
    return make_table(rows, info)


def _hoisted_flag(graph: Graph) -> tuple[str, ...]:
    folded = [node for node in graph.hoisted if any(v.sources for v in node.inputs)]
    work = sum(cost.work * node.repeat for node in folded if (cost := cost_of(node)))
    return (f"hoisted: {work:.0f} flops on parameters alone are computed once and not counted",) if work else ()


def _row(graph: Graph, own: Group, wanted: set[int]) -> dict[str, Any]:
    """The columns of one operation; `wanted` are the tensors that other operations or the caller read."""
    costs = [cost_of(node) or Cost(OpKind.OTHER) for node in own.nodes]
    repeat = own.nodes[0].repeat
    activations, constants = _reads(own, costs)
    written = [v for n in own.nodes for v in n.results if v.escapes or id(v) in wanted]
    shown = max([v for v, _ in activations] or written or own.nodes[-1].outputs, key=lambda v: v.size, default=None)
    activation_bits = _bits(shown.dtype) if shown is not None else 32.0
    row = {
        "kind": min((cost.kind for cost in costs), key=PRECEDENCE.index),
        "flops": repeat * sum(cost.work for cost in costs),
        "transcendentals": repeat * sum(cost.transcendentals for cost in costs),
        "inputs": repeat * sum(count for _, count in activations),
        "outputs": repeat * sum(v.size for v in written),
        "weights": repeat * sum(count for _, count in constants),
        "activation_bits": activation_bits,
        "weight_bits": _bits(max(constants, key=lambda r: r[1])[0].dtype) if constants else activation_bits,
    }
    products = [cost.product for cost in costs if cost.product is not None]
    return row | (_dimensions(graph, products[0], repeat) if products else {})


def _reads(own: Group, costs: Sequence[Cost]) -> tuple[list[tuple[Value, int]], list[tuple[Value, int]]]:
    """The tensors a group reads with the number of elements of each: activations made elsewhere, and constants."""
    members = {id(n) for n in own.nodes}
    activations: dict[int, tuple[Value, int]] = {}
    constants: dict[int, tuple[Value, int]] = {}
    for node, cost in zip(own.nodes, costs, strict=True):
        counts = cost.reads or tuple(v.stored for v in node.inputs)
        for value, count in zip(node.inputs, counts, strict=True):
            if not value.constant and id(value.root.producer) in members:
                continue
            table, key = (constants if value.constant else activations), id(value.root)
            if count and count >= table.get(key, (value, 0))[1]:
                table[key] = (value, count)
    return list(activations.values()), list(constants.values())


def _dimensions(graph: Graph, product: Product, repeat: int) -> dict[str, Any]:
    """The GEMM view over all repetitions: those that share the weight add rows, the others add groups."""
    matrices = repeat if product.weight is None else graph.runs(product.weight.varying)
    return {
        "m": product.m * (repeat // matrices),
        "n": product.n,
        "k": product.k,
        "groups": product.groups * matrices,
        "macs": product.macs * repeat,
        "macs_valid": product.macs_valid * repeat,
    }


def _bits(dtype: Any) -> float:
    """Storage width of one element (bit); booleans take a byte."""
    for info in (jax.numpy.finfo, jax.numpy.iinfo):
        with contextlib.suppress(ValueError, TypeError):
            return float(info(dtype).bits) * (2 if np.issubdtype(dtype, np.complexfloating) else 1)
    return 8.0 * getattr(dtype, "itemsize", 4)


def _names(groups: Sequence[Group]) -> tuple[str, ...]:
    """One distinct name for every row: the scope it was written in and what it does."""
    scopes = [_scope(own) for own in groups]
    outer = scopes[0][:1]
    if outer and all(scope[:1] == outer for scope in scopes):  # the network's own name says nothing
        scopes = [scope[1:] for scope in scopes]
    names: list[str] = []
    seen: Counter[str] = Counter()
    for own, scope in zip(groups, scopes, strict=True):
        name = "/".join((*scope, _verb(own)))
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return tuple(names)


def _main(own: Group) -> Node:
    return min(own.nodes, key=lambda n: PRECEDENCE.index((cost_of(n) or Cost(OpKind.OTHER)).kind))


def _scope(own: Group) -> tuple[str, ...]:
    return tuple(part for part in _main(own).scope.split("/") if part and "(" not in part)


def _verb(own: Group) -> str:
    if own.normalisation:
        return "softmax" if any(n.primitive in ("exp", "exp2") for n in own.nodes) else "normalise"
    node = _main(own)
    cost = cost_of(node)
    if cost is not None and cost.product is not None:
        return cost.kind.name.lower()
    return "pool" if node.primitive in WINDOWS else node.primitive


def _tensor_name(value: Value, row_of: dict[int, int], names: Sequence[str]) -> str:
    row = row_of.get(id(value.producer))
    return names[row] if row is not None else value.label or "carried"
