"""A flat graph of a jaxpr: values, nodes and loops, with every call inlined.

A jaxpr nests (jit, custom derivatives, checkpoints, scans, branches); a device runs a list. Flattening inlines the
calls, keeps a loop's body once with the number of times it runs, and tells two sorts of values apart:

    constants    parameters, closed-over arrays and whatever is computed from them alone (folded weights, a broadcast bias);
    activations  everything that depends on an argument that is not a parameter.

Views (reshape, squeeze, broadcast, ...) are not nodes: they are other names of the same storage, their `root`.
"""

import dataclasses
import math
from typing import Any

Region = tuple[int, ...]  # the loops around a node, outermost first


@dataclasses.dataclass(eq=False)
class Value:
    """One tensor, or one view of it. `stored` is the number of distinct elements seen through the view."""

    shape: tuple[int, ...]
    dtype: Any
    stored: int
    constant: bool
    region: Region = ()
    sources: frozenset[int] = frozenset()  # the parameters a constant is computed from
    varying: frozenset[int] = frozenset()  # the loops in which a constant changes
    base: "Value | None" = None
    producer: "Node | None" = None
    label: str = ""
    escapes: bool = False  # on a root: leaves its region (a result of the function or of a loop's body)
    since: int | None = None  # on a root: the loop at whose start it is allocated, if that is before its producer

    @property
    def root(self) -> "Value":
        """The tensor whose storage this is."""
        return self if self.base is None else self.base

    @property
    def size(self) -> int:
        """Number of elements of the shape."""
        return math.prod(self.shape)


@dataclasses.dataclass(eq=False)
class Node:
    """One primitive; `repeat` is how often it runs because of the loops around it."""

    primitive: str
    params: dict[str, Any]
    inputs: list[Value]
    outputs: list[Value]
    region: Region
    repeat: int
    scope: str

    @property
    def activations(self) -> list[Value]:
        """The operands that are not constants."""
        return [v for v in self.inputs if not v.constant]

    @property
    def results(self) -> list[Value]:
        """The outputs, without the buffers in which a loop collects them."""
        return [v for v in self.outputs if v.since is None]

    @property
    def constants(self) -> list[Value]:
        """The operands that are constants and are stored somewhere."""
        return [v for v in self.inputs if v.constant and v.stored]


@dataclasses.dataclass
class Graph:
    """The flat form of a function: nodes on activations in order of execution, and what was set aside."""

    nodes: list[Node] = dataclasses.field(default_factory=list)
    hoisted: list[Node] = dataclasses.field(default_factory=list)  # on constants only: computed once, before the device runs
    inputs: list[Value] = dataclasses.field(default_factory=list)
    outputs: list[Value] = dataclasses.field(default_factory=list)
    loops: dict[int, int] = dataclasses.field(default_factory=dict)  # times each loop runs
    carried: list[tuple[int, Value]] = dataclasses.field(default_factory=list)  # (loop, value needed at its end)
    leaves: dict[int, int] = dataclasses.field(default_factory=dict)  # elements of each parameter
    flags: list[str] = dataclasses.field(default_factory=list)

    def prune(self) -> None:
        """Drop nodes whose results nothing uses (what a compiler calls dead code)."""
        needed = {id(v.root) for v in self.outputs} | {id(v.root) for _, v in self.carried}
        kept = []
        for node in reversed(self.nodes):
            if not node.outputs or any(id(v.root) in needed for v in node.outputs):
                kept.append(node)
                needed |= {id(v.root) for v in node.inputs}
        self.nodes = kept[::-1]

    def runs(self, loops: frozenset[int]) -> int:
        """How many different values a constant takes that changes in `loops`."""
        return math.prod(self.loops[i] for i in loops)


def view(
    of: Value, *, shape: tuple[int, ...], dtype: Any = None, stored: int | None = None, region: Region | None = None
) -> Value:
    """Another name of the storage of `of`."""
    return Value(
        shape=shape,
        dtype=of.dtype if dtype is None else dtype,
        stored=min(of.stored, math.prod(shape)) if stored is None else stored,
        constant=of.constant,
        region=of.region if region is None else region,
        sources=of.sources,
        varying=of.varying,
        base=of.root,
        producer=of.producer,
        label=of.label,
    )
