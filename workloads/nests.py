"""Loop nests: which part of each tensor an operation touches when only a tile of its result is computed.

Each operation of a traced function (a row of its OpTable) is a nest of loops over the axes of its result, at most four, the
reductions inside. A tile of t_d iterations of loop d needs, of an axis of extent e that follows this loop,

    min(e, scale t_d + offset)       elements; the whole axis where it follows none

so a product reads a stripe of each operand, a window of kernel K, stride s and dilation r has scale s and offset
(K - 1) r + 1 - s (the halo), a transposed one scale s / spread. At the edge of an image padding counts as if it were read.
Reductions are never cut: a tile holds all it needs for its results, as in Deeploy; a softmax or a normalisation keeps whole rows.

What has no structure of its own (elementwise work, moves) is one loop over its elements; operands of another size, such as a
bias, are held whole. Operands with equal numbers of elements follow the loop.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from workloads.catalog import load_deployed
from workloads.importers.flatten import abstract_leaves
from workloads.importers.fusion import Group, group
from workloads.importers.graph import Graph, Node, Value
from workloads.importers.jaxpr import flat_graph, table_of
from workloads.importers.rules import Cost, cost_of
from workloads.loop_axes import AxisUse, loops_of, main_node
from workloads.ops import OpKind, OpTable

NAMES = {  # ONNX's names of primitives
    "max": "Relu", "gt": "ReluMask", "add": "Add", "add_any": "Add", "mul": "Mul", "sub": "Sub", "div": "Div", "pad": "Pad",
    "transpose": "Transpose", "reduce_sum": "ReduceSum", "reduce_window_sum": "AveragePool", "reduce_window_max": "MaxPool",
    "rev": "Reverse", "concatenate": "Concat", "exp": "Exp", "tanh": "Tanh", "logistic": "Sigmoid",
}  # fmt: skip


class Access(NamedTuple):
    """One tensor that a nest reads or writes: its position in `Program.tensors`, and its axes from the slowest to the fastest."""

    tensor: int
    write: bool
    axes: tuple[AxisUse, ...]


class LoopNest(NamedTuple):
    """One operation: loops from the outermost inwards, what it touches, and its work.

    `operator` is what the operation is called (Conv, Gemm, ConvGradW, SGD, ...), `phase` the part of the computation it is in
    (forward, loss, loss_grad, backward, accumulate, update; empty outside training). `repeat`: how often it runs.
    """

    name: str
    operator: str
    phase: str
    extents: tuple[int, ...]
    accesses: tuple[Access, ...]
    macs: float
    operations: float  # beside the products
    depthwise: bool = False
    repeat: int = 1


class TensorInfo(NamedTuple):
    """One tensor: its size, what it is (input, weight, activation or output), and the rows between which it lives.

    `alias`: the tensor whose storage it takes, for what is updated in place.
    """

    name: str
    elements: int
    bits: float
    role: str
    first: int
    last: int
    alias: int | None = None

    @property
    def bytes(self) -> float:
        """Size in bytes."""
        return self.elements * self.bits / 8

    @property
    def scalar(self) -> bool:
        """Whether it has at most one element."""
        return self.elements <= 1


class Program(NamedTuple):
    """A traced function as its operation table, the nest of every row, and its tensors."""

    name: str
    ops: OpTable
    nests: tuple[LoopNest, ...]
    tensors: tuple[TensorInfo, ...]


Namer = Callable[[Group, Node], tuple[str, str]]  # a group and its main node to operator and phase


def trace_program(
    fn: Callable[..., Any],
    *args: Any,
    weights: Sequence[int] = (),
    name: str | None = None,
    namer: Namer | None = None,
    in_place: Sequence[str] = (),
) -> Program:
    """The program of `fn(*args)`: arguments as for `profile`, of which those at `weights` are parameters.

    `namer` calls an operation by operator and phase. What an operation in one of the phases `in_place` makes takes the storage of
    the operand of its size that is an argument. Raises ValueError as `profile` does.
    """
    label = name or getattr(fn, "__name__", type(fn).__name__)
    graph = flat_graph(jax.make_jaxpr(fn)(*args), list(abstract_leaves(args)), set(weights), None, label)
    groups = group(graph, fuse=True)
    table = table_of(graph, groups, label, ())
    assert table.info is not None
    return _Builder(graph, groups, table, namer or inference_name, set(in_place)).program(label)


def load_program(name: str) -> Program:
    """The program of a network of the catalog as it is deployed (name or alias); ValueError if it is unknown."""
    deployed = load_deployed(name)
    return trace_program(deployed.apply, deployed.variables, deployed.image, weights=(0,), name=name)


class _Builder:
    """Collects the tensors of a graph while its groups become nests."""

    def __init__(self, graph: Graph, groups: list[Group], table: OpTable, namer: Namer, in_place: set[str]) -> None:
        self.graph, self.groups, self.table, self.namer, self.in_place = graph, groups, table, namer, in_place
        self.index: dict[object, int] = {}
        self.values: list[Value] = []
        self.first: list[int] = []
        self.last: list[int] = []
        self.alias: dict[int, int] = {}
        self.wanted = {
            id(v.root) for own in groups for n in own.nodes for v in n.activations if id(v.root.producer) not in _ids(own)
        }

    def program(self, name: str) -> Program:
        nests = tuple(self._nest(row, own) for row, own in enumerate(self.groups))
        end, results = len(nests) - 1, {id(v.root) for v in self.graph.outputs}
        tensors = []
        for i, value in enumerate(self.values):
            role = (
                "weight" if value.constant else "output" if id(value) in results else "activation" if value.producer else "input"
            )
            first = self.first[i] if role in ("activation", "output") else 0
            last = end if role in ("output", "weight") else self.last[i]
            label = value.label or f"{self._maker(value)}.{i}"
            tensors.append(TensorInfo(label, max(value.stored, 1), _bits(value), role, first, last, self.alias.get(i)))
        return Program(name, self.table, nests, tuple(tensors))

    def _maker(self, value: Value) -> str:
        info = self.table.info
        rows = [row for row, own in enumerate(self.groups) if any(value.producer is n for n in own.nodes)]
        return info.op_names[rows[0]] if info is not None and rows else "constant"

    def _tensor(self, value: Value, row: int) -> int:
        root = value.root
        key = self._key(root)
        if key not in self.index:
            self.index[key] = len(self.values)
            self.values.append(root)
            self.first.append(row)
            self.last.append(row)
        at = self.index[key]
        self.last[at] = max(self.last[at], row)
        return at

    def _key(self, root: Value) -> object:
        """What tells tensors apart: a parameter in another layout (transposed for the backward pass) is the same tensor."""
        leaf = next(iter(root.sources)) if len(root.sources) == 1 else None
        return ("parameter", leaf) if root.constant and leaf is not None and self.graph.leaves[leaf] == root.stored else id(root)

    def _nest(self, row: int, own: Group) -> LoopNest:
        main, inside = main_node(own), _ids(own)
        read: dict[int, Value] = {}
        for node in own.nodes:
            for value in node.inputs:
                if value.stored and id(value.root.producer) not in inside:
                    read.setdefault(id(value.root), value)
        written = [v for n in own.nodes for v in n.results if v.escapes or id(v) in self.wanted]
        extents, known, fallback = loops_of(own, main, written)
        accesses = [Access(self._tensor(v, row), False, known.get(key) or fallback(v)) for key, v in read.items()]
        accesses += [Access(self._tensor(v, row), True, known.get(id(v)) or fallback(v)) for v in written]
        operator, phase = self.namer(own, main)
        if phase in self.in_place:
            self._alias(accesses)
        t, name = self.table, self.table.info.op_names[row] if self.table.info else str(row)
        work = float(t.flops[row] - 2 * t.macs[row] + t.transcendentals[row])
        repeat = own.nodes[0].repeat
        depthwise = main.primitive == "conv_general_dilated" and _groups(main) > 1
        return LoopNest(
            name,
            operator,
            phase,
            extents,
            tuple(accesses),
            float(t.macs[row]) / repeat,
            max(work, 0.0) / repeat,
            depthwise,
            repeat,
        )

    def _alias(self, accesses: Sequence[Access]) -> None:
        for written in (a for a in accesses if a.write):
            for own in (a for a in accesses if not a.write):
                before, after = self.values[own.tensor], self.values[written.tensor]
                if before.producer is None and before.stored == after.stored and own.tensor not in self.alias.values():
                    self.alias[written.tensor] = own.tensor
                    break


def inference_name(own: Group, main: Node) -> tuple[str, str]:
    """Operator of one operation outside training, after ONNX's names."""
    kind = (cost_of(main) or Cost(OpKind.OTHER)).kind
    if own.normalisation:
        return "Softmax" if any(n.primitive in ("exp", "exp2") for n in own.nodes) else "Normalization", ""
    by_kind = {OpKind.CONV: "Conv", OpKind.DEPTHWISE: "Conv", OpKind.DENSE: "Gemm"}
    if kind == OpKind.MATMUL:  # of two activations
        matrix = len(main.outputs[0].shape) < 3
        return "Conv" if main.primitive == "conv_general_dilated" else "Gemm" if matrix else "MatMul", ""
    return by_kind.get(kind) or NAMES.get(main.primitive, main.primitive), ""


def _ids(own: Group) -> set[int]:
    return {id(n) for n in own.nodes}


def _groups(node: Node) -> int:
    return int(node.params["feature_group_count"] * node.params["batch_group_count"])


def _bits(value: Value) -> float:
    return 8.0 * getattr(value.dtype, "itemsize", 4)
