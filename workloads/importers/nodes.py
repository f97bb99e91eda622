"""What the importers of graph files share: nodes, the tensors between them, and the rules that turn a node into JAX.

A graph file is a list of nodes. Each kind of node has a rule: a function of an `Op` (its attributes, the array module to use)
and of the node's inputs, `None` where an optional one is left out. `op.xp` is NumPy where the content of every input is known
when the file is read (shapes, indices, scales: such nodes are computed at once and cost nothing at run time), else `jax.numpy`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive

Rule = Callable[..., Any]
SMALL = 65_536  # elements up to which the content of a tensor is followed
MOST_NODES = 20_000  # nodes of bodies and functions that are run while tracing
MOST_ELEMENTS = 2**24  # of a tensor that is made while the file is read
LARGEST_KERNEL = 2**16  # taps along one dimension


class Unsupported(ValueError):
    """Something in the file that these importers do not read."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What flows along an edge: the value to compute with, and its content where that is known."""

    value: Any
    content: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Op:
    """One node as its rule sees it."""

    kind: str
    name: str
    attributes: dict[str, Any]
    version: int  # of the operator set
    xp: Any
    n_outputs: int
    inputs: tuple[Any, ...] = ()
    contents: tuple[np.ndarray | None, ...] = ()  # what is known of each input
    subgraph: Callable[..., Any] | None = None  # run(body, inputs), for control flow

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default` where the node has none."""
        return self.attributes.get(name, default)


class Rules(dict[str, Rule]):
    """Rules by kind of node."""

    def rule(self, *kinds: str) -> Callable[[Rule], Rule]:
        """Register the rule of one or more kinds; ValueError where one has a rule already."""

        def register(function: Rule) -> Rule:
            for kind in kinds:
                if kind in self:
                    raise ValueError(f"operator {kind!r} has two rules")
                self[kind] = function
            return function

        return register


def content(op: Op, value: Any) -> np.ndarray | None:
    """The numbers of an input where they are known."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    return next((c for v, c in zip(op.inputs, op.contents, strict=True) if v is value), None)


def concrete(op: Op, value: Any, what: str) -> np.ndarray:
    """The numbers of an input that must be known; Unsupported, with the node's name, where it depends on the data."""
    found = content(op, value)
    if found is None:
        raise Unsupported(f"node {op.name!r} ({op.kind}): its {what} depends on the data; give the values that decide it")
    return found


def bounded(op: Op, elements: int) -> None:
    """Refuse to make a tensor of more than `MOST_ELEMENTS` while the file is read."""
    if op.xp is np and elements > MOST_ELEMENTS:
        raise Unsupported(f"node {op.name!r} ({op.kind}): {elements} elements from constants alone, more than {MOST_ELEMENTS}")


def check_kernel(op: Op, kernel: Sequence[int]) -> None:
    """Refuse windows beyond `LARGEST_KERNEL` taps along a dimension."""
    if any(not 0 < k <= LARGEST_KERNEL for k in kernel):
        raise Unsupported(f"node {op.name!r} ({op.kind}): kernel {tuple(kernel)} is outside its range [1, {LARGEST_KERNEL}]")


def integers(op: Op, value: Any, what: str) -> tuple[int, ...]:
    """A known one-dimensional input as Python integers."""
    return tuple(int(v) for v in np.ravel(concrete(op, value, what)))


def tensor(value: Any) -> Tensor:
    """A result of a rule; its content is known if it was computed with NumPy."""
    known = isinstance(value, np.ndarray | np.generic | bool | int | float)
    return Tensor(np.asarray(value), np.asarray(value)) if known else Tensor(value)


def is_parameter(size: int, dtype: Any) -> bool:
    """Whether a stored tensor is a weight rather than part of the program: floating or 8 bits wide, not a scalar."""
    return size > 1 and (jnp.issubdtype(dtype, jnp.floating) or (np.dtype(dtype).itemsize == 1 and dtype != np.bool_))


def apply_rule(rules: Rules, op: Op, declared: list[Any]) -> list[Tensor]:
    """The outputs of one node; one without a rule stays as an uncounted primitive of the `declared` shapes."""
    if op.kind in rules:
        with jax.named_scope(op.name.replace("(", "_").replace(")", "_").strip("/") or "node"):
            found = rules[op.kind](op, *op.inputs)
        return [tensor(value) for value in (found if isinstance(found, tuple | list) else (found,))]
    if not declared or any(shape is None for shape in declared):
        raise Unsupported(f"node {op.name!r}: operator {op.kind!r} is not read, and the file does not say what shape it makes")
    shapes = tuple((d.shape, jax.dtypes.canonicalize_dtype(d.dtype)) for d in declared)
    return [tensor(v) for v in _unknown(op.kind).bind(*[jnp.asarray(v) for v in op.inputs if v is not None], shapes=shapes)]


def _unknown(kind: str) -> Primitive:
    primitive = Primitive(kind)
    primitive.multiple_results = True
    primitive.def_abstract_eval(lambda *_, shapes: [ShapedArray(*shape) for shape in shapes])
    return primitive


@dataclasses.dataclass
class Liveness:
    """Bytes of the tensors that nodes make, and the last node that reads each: for the peak in file order."""

    sizes: dict[Any, tuple[int, int]] = dataclasses.field(default_factory=dict)  # tensor: (node, bytes)
    last: dict[Any, int] = dataclasses.field(default_factory=dict)

    def born(self, name: Any, node: int, value: Any) -> None:
        """Node number `node` makes the tensor `name`."""
        self.sizes[name] = (node, math.prod(value.shape) * np.dtype(value.dtype).itemsize)

    def peak(self) -> int:
        """The largest number of bytes alive at one node; every output counts as storage of its own."""
        change = np.zeros(max([node for node, _ in self.sizes.values()] + list(self.last.values()), default=0) + 2)
        for name, (born, size) in self.sizes.items():
            change[born] += size
            change[self.last.get(name, born) + 1] -= size
        return int(np.max(np.cumsum(change), initial=0))
