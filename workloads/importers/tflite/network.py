"""A TFLite graph as a JAX function.

The same walk as for ONNX: what is known when the file is read is computed at once, the rest becomes JAX. Stored tensors that
are weights are parameters. Variables of streaming networks are turned inside out: each one read is an input more, each one
assigned an output more, so that the function stays pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from workloads.importers.nodes import MOST_NODES, SMALL, Liveness, Op, Tensor, Unsupported, apply_rule, is_parameter, tensor
from workloads.importers.tflite import elementwise, layers, shaping
from workloads.importers.tflite.files import Edge, Graph, Step
from workloads.importers.tflite.rules import RULES

ROOMS = (elementwise, layers, shaping)  # importing them fills RULES


class TfliteNetwork:
    """The main graph of a file with its inputs bound to shapes.

    `inputs` maps names to shapes and types in order, variables last. `apply(parameters, *inputs)` is the outputs, then the
    assigned variables, a tuple; `read_parameters()` reads the numbers that the file holds.
    """

    def __init__(self, graphs: Sequence[Graph], bound: Mapping[str, Any]) -> None:
        self.graphs, self.main = graphs, graphs[0]
        self.parameters = {
            f"{g}:{i}": edge
            for g, graph in enumerate(graphs)
            for i, edge in enumerate(graph.edges)
            if edge.data is not None and is_parameter(int(np.prod(edge.shape)), edge.dtype)
        }
        self.variables = _variables(self.main)
        names = [self.main.edges[i].name for i in self.main.inputs]
        for name in bound:
            if name not in names:
                raise ValueError(f"shapes: {name!r} is no input; inputs: {', '.join(names)}")
        self.inputs = {self.main.edges[i].name: _input(self.main.edges[i], bound) for i in self.main.inputs}
        self.inputs |= {f"variable {h}": jax.ShapeDtypeStruct(e.shape, e.dtype) for h, e in self.variables.items()}
        self.liveness = Liveness()
        self._steps_run = 0

    def parameter_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of all parameters."""
        return {key: jax.ShapeDtypeStruct(edge.shape, edge.dtype) for key, edge in self.parameters.items()}

    def read_parameters(self) -> dict[str, jax.Array]:
        """The numbers of all parameters; ValueError for sparse ones, whose layout is not read."""
        for edge in self.parameters.values():
            if edge.sparsity is not None:
                raise ValueError(f"tensor {edge.name!r} is stored sparse: it can be profiled but not run")
        return {key: jnp.asarray(edge.data) for key, edge in self.parameters.items()}

    def apply(self, parameters: Mapping[str, Any], *inputs: Any) -> tuple[Any, ...]:
        """The outputs of the network, then its variables."""
        self.liveness, self._steps_run = Liveness(), 0
        count = len(self.main.inputs)
        self._state = dict(zip(self.variables, inputs[count:], strict=True))
        env = self._stored(0, parameters) | {i: Tensor(v) for i, v in zip(self.main.inputs, inputs[:count], strict=True)}
        for i in self.main.inputs:
            self.liveness.born(i, 0, env[i].value)
        results = self._run(0, env, parameters, top=True)
        return (*(jnp.asarray(t.value) for t in results), *(jnp.asarray(v) for v in self._state.values()))

    def _stored(self, number: int, parameters: Mapping[str, Any]) -> dict[int, Tensor]:
        found = {-1: Tensor(None)}
        for i, edge in enumerate(self.graphs[number].edges):
            if edge.data is not None:
                value = parameters.get(f"{number}:{i}")
                short = edge.data if edge.data.size <= 64 and edge.sparsity is None else None
                found[i] = tensor(edge.data) if value is None else Tensor(value, short)
        return found

    def _run(self, number: int, env: dict[int, Tensor], parameters: Mapping[str, Any], top: bool = False) -> list[Tensor]:
        graph = self.graphs[number]
        for place, step in enumerate(graph.steps):
            self._steps_run += not top
            if self._steps_run > MOST_NODES:
                raise Unsupported(f"more than {MOST_NODES} operators of bodies are run")
            missing = [graph.edges[i].name for i in step.inputs if i not in env]
            if missing:
                raise Unsupported(f"operator {place} ({step.kind}): its input {missing[0]!r} is not made before it")
            results = self._step(graph, step, place, env, parameters)
            env.update(zip(step.outputs, results, strict=False))
            if top:
                self._account(step, place, env)
        absent = [graph.edges[i].name for i in graph.outputs if i not in env]
        if absent:
            raise Unsupported(f"output {absent[0]!r} is made by no operator")
        if top:
            self.liveness.last.update(dict.fromkeys(graph.outputs, len(graph.steps) - 1))
        return [env[i] for i in graph.outputs]

    def _account(self, step: Step, place: int, env: dict[int, Tensor]) -> None:
        self.liveness.last.update(dict.fromkeys(step.inputs, place))
        for i in step.outputs:
            if i in env and isinstance(env[i].value, Tracer):
                self.liveness.born(i, place, env[i].value)

    def _step(self, graph: Graph, step: Step, place: int, env: dict[int, Tensor], parameters: Mapping[str, Any]) -> list[Tensor]:
        if step.kind in ("VAR_HANDLE", "CALL_ONCE"):
            return [tensor(np.asarray(_handle(step)))] if step.kind == "VAR_HANDLE" else []
        if step.kind == "READ_VARIABLE":
            return [Tensor(self._state[str(env[step.inputs[0]].content)])]
        if step.kind == "ASSIGN_VARIABLE":
            self._state[str(env[step.inputs[0]].content)] = env[step.inputs[1]].value
            return []
        inputs = [env[i] for i in step.inputs]
        contents = tuple(t.content for t in inputs)
        known = all(t.value is None or (t.content is not None and t.content.size <= SMALL) for t in inputs)
        op = Op(
            kind=step.kind,
            name=(graph.edges[step.outputs[0]].name if step.outputs else "") or f"{step.kind.lower()}_{place}",
            attributes={
                "step": step,
                "inputs": [graph.edges[i] if i >= 0 else None for i in step.inputs],
                "outputs": [graph.edges[i] for i in step.outputs],
            },
            version=1,
            xp=np if known else jnp,
            n_outputs=len(step.outputs),
            inputs=tuple(c if known else t.value for t, c in zip(inputs, contents, strict=True)),
            contents=contents,
            subgraph=lambda number, given: self._body(number, given, parameters),
        )
        declared = [jax.ShapeDtypeStruct(graph.edges[i].shape, graph.edges[i].dtype) for i in step.outputs]
        return apply_rule(RULES, op, declared)

    def _body(self, number: int, given: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        if not 0 <= number < len(self.graphs):
            raise Unsupported(f"graph {number} is outside its range [0, {len(self.graphs) - 1}]")
        env = self._stored(number, parameters) | {i: tensor(v) for i, v in zip(self.graphs[number].inputs, given, strict=True)}
        return [t.value for t in self._run(number, env, parameters)]


def _handle(step: Step) -> str:
    name = step.option("SharedName", b"")
    return (name or b"").decode(errors="replace")


def _variables(graph: Graph) -> dict[str, Edge]:
    """The variables that a graph reads, with the edge that shows each one's shape."""
    handles = {step.outputs[0]: _handle(step) for step in graph.steps if step.kind == "VAR_HANDLE" and step.outputs}
    reads = [step for step in graph.steps if step.kind == "READ_VARIABLE" and step.inputs and step.outputs]
    return {handles[s.inputs[0]]: graph.edges[s.outputs[0]] for s in reads if s.inputs[0] in handles}


def _input(edge: Edge, bound: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    given = bound.get(edge.name, edge.shape)
    shape = (given,) if isinstance(given, int) else tuple(given)
    if len(shape) != len(edge.shape) or any(not isinstance(d, int) or d < 1 for d in shape):
        raise ValueError(f"shapes[{edge.name!r}] = {shape} does not fit the declared {list(edge.shape)}")
    return jax.ShapeDtypeStruct(shape, edge.dtype)
