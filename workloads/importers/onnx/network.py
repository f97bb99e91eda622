"""An ONNX graph as a JAX function.

Nodes are walked in file order. What is known when the file is read (shapes, index arithmetic, the condition of a branch) is
computed with NumPy at once; everything else becomes JAX, so that the result can be profiled, jitted, differentiated and
batched like any other function. Tensors with more than one element of a floating or 8-bit type are parameters: arguments of
the function, which need not be read for a profile.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from workloads.importers.nodes import MOST_NODES, SMALL, Liveness, Op, Tensor, Unsupported, apply_rule, is_parameter, tensor
from workloads.importers.onnx import control, elementwise, layers, shaping
from workloads.importers.onnx.files import DTYPES, Stored, stored
from workloads.importers.onnx.rules import RULES

STANDARD = ("", "ai.onnx")
ROOMS = (control, elementwise, layers, shaping)  # importing them fills RULES


class OnnxNetwork:
    """A graph with its inputs bound to shapes or values.

    `inputs` maps names to shapes and types in order, `parameters` names to the weights. `apply(parameters, *inputs)` is the
    outputs, a tuple; `read_parameters()` reads the numbers that the file holds; `liveness` is that of the last trace.
    """

    def __init__(self, model: Any, folder: Path, bound: Mapping[str, Any]) -> None:
        self.opsets = {entry.domain or "": int(entry.version) for entry in model.opset_import}
        self.graph, self.folder = model.graph, folder
        self.functions = {(f.domain, f.name): f for f in model.functions}
        self.stored = {t.name: stored(t, folder) for t in model.graph.initializer}
        self.parameters = {name: t for name, t in self.stored.items() if is_parameter(t.size, t.dtype)}
        self.values: dict[str, np.ndarray] = {}
        self.inputs: dict[str, jax.ShapeDtypeStruct] = {}
        self.shapes = _declared(model.graph, bound)
        self.liveness = Liveness()
        self._nodes_run = 0
        self._bind(bound)

    def _bind(self, bound: Mapping[str, Any]) -> None:
        entries = {entry.name: entry for entry in self.graph.input if entry.name not in self.stored}
        dims = {d.dim_param for entry in entries.values() for d in entry.type.tensor_type.shape.dim if d.dim_param}
        for name in bound:
            if name not in entries and name not in dims:
                raise ValueError(f"shapes: {name!r} is no input or dimension; inputs: {', '.join(entries)}")
        for name, entry in entries.items():
            given = bound.get(name)
            if isinstance(given, np.ndarray | np.generic):
                self.values[name] = np.asarray(given)
            else:
                self.inputs[name] = _input(entry, given, bound)

    def parameter_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of all parameters."""
        return {name: jax.ShapeDtypeStruct(t.shape, t.dtype) for name, t in self.parameters.items()}

    def read_parameters(self) -> dict[str, jax.Array]:
        """The numbers of all parameters."""
        return {name: jnp.asarray(t.read()) for name, t in self.parameters.items()}

    def apply(self, parameters: Mapping[str, Any], *inputs: Any) -> tuple[Any, ...]:
        """The outputs of the network."""
        self.liveness, self._nodes_run = Liveness(), 0
        env = {name: Tensor(value, value) for name, value in self.values.items()}
        env |= {name: _stored_tensor(t, parameters.get(name)) for name, t in self.stored.items()}
        env |= {name: Tensor(value) for name, value in zip(self.inputs, inputs, strict=True)}
        for name in (*self.values, *self.inputs):
            self.liveness.born(name, 0, env[name].value)
        return tuple(jnp.asarray(t.value) for t in self._run(self.graph, env, top=True))

    def _run(self, graph: Any, env: dict[str, Tensor], top: bool = False) -> list[Tensor]:
        """The outputs of a graph whose inputs are in `env`, to which its tensors are added."""
        for number, node in enumerate(graph.node):
            self._count(top)
            missing = [name for name in node.input if name and name not in env]
            if missing:
                raise Unsupported(
                    f"node {_name(node, number)!r} ({node.op_type}): its input {missing[0]!r} is not made before it"
                )
            env.update(zip(node.output, self._node(node, number, env), strict=False))
            if top:
                self._account(node, number, env)
        absent = [entry.name for entry in graph.output if entry.name not in env]
        if absent:
            raise Unsupported(f"output {absent[0]!r} is made by no node")
        if top:
            self.liveness.last.update({entry.name: len(graph.node) - 1 for entry in graph.output})
        return [env[entry.name] for entry in graph.output]

    def _count(self, top: bool = False) -> None:
        self._nodes_run += not top
        if self._nodes_run > MOST_NODES:
            raise Unsupported(f"more than {MOST_NODES} nodes of bodies and functions are run")

    def _account(self, node: Any, number: int, env: dict[str, Tensor]) -> None:
        self.liveness.last.update(dict.fromkeys((*node.input, *_captured(node)), number))
        for name in node.output:
            if name in env and isinstance(env[name].value, Tracer):
                self.liveness.born(name, number, env[name].value)

    def _node(self, node: Any, number: int, env: dict[str, Tensor]) -> list[Tensor]:
        domain = "" if node.domain in STANDARD else node.domain
        if node.op_type == "Constant" and not domain:
            return [self._constant(node)]
        inputs = [env[name] if name else Tensor(None) for name in node.input]
        if (node.domain, node.op_type) in self.functions:
            return self._function(self.functions[node.domain, node.op_type], node, inputs)
        contents = tuple(t.content for t in inputs)
        known = all(t.value is None or (t.content is not None and t.content.size <= SMALL) for t in inputs)
        op = Op(
            kind=f"{domain}::{node.op_type}" if domain else node.op_type,
            name=_name(node, number),
            attributes={a.name: self._attribute(a) for a in node.attribute},
            version=self.opsets.get(domain, self.opsets.get("", 1)),
            xp=np if known else jnp,
            n_outputs=len(node.output),
            inputs=tuple(c if known else t.value for t, c in zip(inputs, contents, strict=True)),
            contents=contents,
            subgraph=lambda graph, given: self._body(graph, given, env),
        )
        return apply_rule(RULES, op, [self.shapes.get(name) for name in node.output])

    def _constant(self, node: Any) -> Tensor:
        if len(node.attribute) != 1:
            raise Unsupported(f"node {node.name!r} (Constant): it has {len(node.attribute)} attributes, expected 1")
        return tensor(np.asarray(self._attribute(node.attribute[0])))

    def _attribute(self, attribute: Any) -> Any:
        from onnx import AttributeProto, helper

        if attribute.type == AttributeProto.TENSOR:
            return stored(attribute.t, self.folder).read()
        if attribute.type == AttributeProto.GRAPH:
            return attribute.g
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        if isinstance(value, list | tuple) and value and isinstance(value[0], bytes):
            return [v.decode(errors="replace") for v in value]
        return value

    def _body(self, graph: Any, given: Sequence[Any], env: dict[str, Tensor]) -> list[Any]:
        """A body with its own names, which sees those outside."""
        inner = env | {proto.name: tensor(stored(proto, self.folder).read()) for proto in graph.initializer}
        inner |= {entry.name: tensor(value) for entry, value in zip(graph.input, given, strict=True)}
        return [t.value if t.content is None else t.content for t in self._run(graph, inner)]

    def _function(self, function: Any, node: Any, inputs: list[Tensor]) -> list[Tensor]:
        """A function that the file defines, written out where it is called."""
        given = {a.name: a for a in node.attribute}
        env = dict(zip(function.input, inputs, strict=False))
        for number, inner in enumerate(function.node):
            self._count()
            copy = type(inner)()
            copy.CopyFrom(inner)
            for attribute in copy.attribute:
                if attribute.ref_attr_name in given:
                    name = attribute.name
                    attribute.CopyFrom(given[attribute.ref_attr_name])
                    attribute.name = name
            env.update(zip(copy.output, self._node(copy, number, env), strict=False))
        return [env[name] for name in function.output]


def _stored_tensor(stored_one: Stored, value: Any) -> Tensor:
    """A stored tensor: a parameter's value comes from outside, its content is known beside it if it is short."""
    if value is None:
        return tensor(stored_one.read())
    return Tensor(value, stored_one.read() if stored_one.size <= 64 else None)


def _name(node: Any, number: int) -> str:
    return node.name or (node.output[0] if node.output else "") or f"{node.op_type}_{number}"


def _captured(node: Any) -> list[str]:
    """The names that the bodies of a node read from outside (and some of their own, which do no harm)."""
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    return [name for body in bodies for inner in body.node for name in (*inner.input, *_captured(inner))]


def _declared(graph: Any, bound: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """The tensors whose whole shape the file declares."""
    found = {}
    for entry in (*graph.value_info, *graph.output):
        dims = [_dimension(d, bound) for d in entry.type.tensor_type.shape.dim]
        kind = DTYPES.get(entry.type.tensor_type.elem_type)
        if kind is not None and entry.type.tensor_type.HasField("shape") and all(d is not None for d in dims):
            found[entry.name] = jax.ShapeDtypeStruct(tuple(dims), kind)
    return found


def _dimension(dim: Any, bound: Mapping[str, Any]) -> int | None:
    if dim.dim_param and isinstance(bound.get(dim.dim_param), int):
        return int(bound[dim.dim_param])
    return int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else None


def _input(entry: Any, given: Any, bound: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    """Shape and type of an input: as given, as declared, or 1 for an unknown first (batch) dimension."""
    declared_type = entry.type.tensor_type
    if declared_type.elem_type not in DTYPES:
        raise Unsupported(f"input {entry.name!r}: element type {declared_type.elem_type} is not read")
    declared = [_dimension(d, bound) for d in declared_type.shape.dim]
    dims = list(declared if given is None else (given,) if isinstance(given, int) else given)
    if dims and dims[0] is None:
        dims[0] = 1
    shown = ", ".join(str(d.dim_value if d.HasField("dim_value") else d.dim_param or "?") for d in declared_type.shape.dim)
    if any(d is None for d in dims):
        raise ValueError(f"input {entry.name!r} has shape [{shown}]: say which, as shapes={{{entry.name!r}: (...)}}")
    whole = all(isinstance(d, int) and 0 <= d < 2**31 for d in dims)
    fits = len(dims) == len(declared) and all(
        a in (None, b) or i == 0 for i, (a, b) in enumerate(zip(declared, dims, strict=True))
    )
    if not whole or (declared and not fits):
        raise ValueError(f"shapes[{entry.name!r}] = {tuple(dims)} does not fit the declared [{shown}]")
    return jax.ShapeDtypeStruct(tuple(dims), DTYPES[declared_type.elem_type])
