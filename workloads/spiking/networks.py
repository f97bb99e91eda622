"""Spiking networks: a graph of layers, run step by step.

    net = spiking_mlp((20, 256, 35), Leaky(beta=0.9))
    spikes = net.apply(net.initial_parameters(key), train)        # (steps, 20) -> (steps, 35)

Edges into one layer add up. A loop must pass through neurons: what they put out inside it arrives one step later (the recurrence
of snntorch's RLeaky and spyx's RLIF). `apply` is one `lax.scan`, pure and differentiable through the neurons' surrogates; a batch
is the caller's `jax.vmap`. All counts of a network are those of one input of `steps` time steps.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import networkx as nx
from jaxtyping import Array, Float, PRNGKeyArray

from workloads.spiking.layers import Dense, Layer, Neurons, Stateful, Weighted
from workloads.spiking.neurons import Leaky, Neuron


class Edge(NamedTuple):
    """`source` feeds `target`, at once or (inside a loop) one step later."""

    source: str
    target: str
    delayed: bool = False


class Record(NamedTuple):
    """What happened in a run, by layer; arrays (steps, *shape)."""

    arriving: dict[str, Float[Array, "..."]]  # at weighted layers: the activations their weights meet
    spikes: dict[str, Float[Array, "..."]]  # out of neurons
    potential: dict[str, Float[Array, "..."]]  # of neurons, after each step


@dataclasses.dataclass(frozen=True, eq=False)
class SpikingNetwork:
    """Layers in order of execution, the edges between them, and the names of those that take the input and give the output."""

    name: str
    layers: tuple[Layer, ...]
    edges: tuple[Edge, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def weighted(self) -> tuple[Weighted, ...]:
        """The layers with synapses."""
        return tuple(layer for layer in self.layers if isinstance(layer, Weighted))

    @property
    def populations(self) -> tuple[Neurons, ...]:
        """The layers of neurons."""
        return tuple(layer for layer in self.layers if isinstance(layer, Neurons))

    @property
    def n_neurons(self) -> int:
        """Neurons of all populations."""
        return sum(layer.size for layer in self.populations)

    @property
    def parameters(self) -> int:
        """Weights and biases, without the neurons' own numbers."""
        return sum(math.prod(shape) for layer in self.layers for shape in layer.parameter_shapes().values())

    def layer(self, name: str) -> Layer:
        """The layer called `name`; ValueError if there is none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ValueError(f"{self.name}: unknown layer {name!r}; known: {', '.join(layer.name for layer in self.layers)}")

    def parameter_shapes(self) -> dict[str, Any]:
        """What `apply` takes as parameters, as shapes: weights by layer, and a `Neuron` for every population."""
        return jax.eval_shape(lambda key: self.initial_parameters(key), jax.random.key(0))

    def initial_parameters(self, key: PRNGKeyArray) -> dict[str, Any]:
        """Random weights (uniform, +-1/sqrt(fan in), as torch initialises) and the neurons as they were given."""
        own: dict[str, Any] = {layer.name: layer.neuron for layer in self.populations}
        for layer, k in zip(self.layers, jax.random.split(key, len(self.layers)), strict=True):
            shapes = layer.parameter_shapes()
            if shapes:
                fan_in = math.prod(shapes.get("weight", (1, 1))[1:])
                keys = jax.random.split(k, len(shapes))
                scale = 1 / math.sqrt(max(fan_in, 1))
                own[layer.name] = {
                    name: jax.random.uniform(k, shape, jnp.result_type(float), -scale, scale)
                    for k, (name, shape) in zip(keys, shapes.items(), strict=True)
                }
        return own

    def apply(self, parameters: Mapping[str, Any], *inputs: Float[Array, "..."]) -> Any:
        """Outputs (steps, *shape) for inputs (steps, *shape), one each; a tuple if the network has several outputs."""
        found = self._scan(parameters, inputs, record=False)[0]
        return found[0] if len(found) == 1 else found

    def record(self, parameters: Mapping[str, Any], *inputs: Float[Array, "..."]) -> Record:
        """What arrived at the weights, and the spikes and potentials of the neurons, in every step."""
        return self._scan(parameters, inputs, record=True)[1]

    def _scan(self, parameters: Mapping[str, Any], inputs: Sequence[Array], record: bool) -> Any:
        if len(inputs) != len(self.inputs):
            raise ValueError(f"{self.name}: {len(inputs)} inputs given, it has {len(self.inputs)}")
        for name, value in zip(self.inputs, inputs, strict=True):
            expected = self.layer(name).shape
            if value.ndim != len(expected) + 1 or value.shape[1:] != expected:
                raise ValueError(f"{self.name}: input {name!r} has shape {value.shape}, expected (steps, {expected})")
        parameters = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), dict(parameters))
        states = {layer.name: layer.initial(parameters.get(layer.name)) for layer in self.layers if isinstance(layer, Stateful)}
        late = {edge.source for edge in self.edges if edge.delayed}
        past = {name: jnp.zeros(self.layer(name).shape, jnp.result_type(float)) for name in sorted(late)}
        given = tuple(jnp.asarray(value, float) for value in inputs)
        return jax.lax.scan(lambda carry, x: self._step(parameters, carry, x, record), (states, past), given)[1]

    def _step(self, parameters: Mapping[str, Any], carry: Any, given: Sequence[Array], record: bool) -> Any:
        states, past = carry
        feeding: dict[str, list[Edge]] = {layer.name: [] for layer in self.layers}
        for edge in self.edges:
            feeding[edge.target].append(edge)
        values: dict[str, Any] = dict(zip(self.inputs, given, strict=True))
        after, arriving, spikes, potential = dict(states), {}, {}, {}
        for layer in self.layers:
            if layer.name in values:
                continue
            x = _sum([past[e.source] if e.delayed else values[e.source] for e in feeding[layer.name]])
            with jax.named_scope(layer.name.replace("(", "_").replace(")", "_")):
                if isinstance(layer, Stateful):
                    after[layer.name], y = layer.step(parameters.get(layer.name), states[layer.name], x)
                else:
                    y = layer(parameters.get(layer.name), x)
            values[layer.name] = y
            if record and isinstance(layer, Weighted):
                arriving[layer.name] = x
            if record and isinstance(layer, Neurons):
                spikes[layer.name], potential[layer.name] = y, after[layer.name][-1]
        return (after, {name: values[name] for name in past}), (
            tuple(values[name] for name in self.outputs),
            Record(arriving, spikes, potential),
        )


def _sum(arriving: Sequence[Array]) -> Array:
    total = arriving[0]
    for value in arriving[1:]:
        total = total + value
    return total


def execution_order(names: Sequence[str], edges: Sequence[tuple[str, str]], stateful: set[str]) -> tuple[list[str], list[Edge]]:
    """Names in an order in which everything that arrives at once has been computed, and the edges with their delays.

    Inside a loop (a strongly connected component), what stateful layers put out arrives one step later. Raises ValueError for an
    edge to an unknown name, an edge given twice, or a loop without neurons.
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(names)
    for source, target in edges:
        if source not in graph or target not in graph:
            raise ValueError(f"an edge joins {source!r} and {target!r}, of which one does not exist")
        if graph.has_edge(source, target):
            raise ValueError(f"the edge from {source!r} to {target!r} is given twice")
        graph.add_edge(source, target)
    component = {name: i for i, own in enumerate(nx.strongly_connected_components(graph)) for name in own}
    marked = [Edge(a, b, component[a] == component[b] and a in stateful) for a, b in edges]
    at_once = nx.DiGraph()
    at_once.add_nodes_from(names)
    at_once.add_edges_from((e.source, e.target) for e in marked if not e.delayed)
    place = {name: i for i, name in enumerate(names)}
    try:
        return list(nx.lexicographical_topological_sort(at_once, key=place.__getitem__)), marked
    except nx.NetworkXUnfeasible:
        loop = sorted({name for cycle in nx.simple_cycles(at_once, length_bound=len(names)) for name in cycle})[:3]
        raise ValueError(f"a loop without neurons: {', '.join(loop)}") from None


def chain(name: str, layers: Sequence[Layer]) -> SpikingNetwork:
    """A network without branches; the first layer takes the input."""
    edges = tuple(Edge(a.name, b.name) for a, b in itertools.pairwise(layers))
    for a, b in itertools.pairwise(layers):
        if a.shape != b.in_shape:
            raise ValueError(f"{name}: layer {b.name!r} reads {b.in_shape}, but {a.name!r} puts out {a.shape}")
    return SpikingNetwork(name, tuple(layers), edges, (layers[0].name,), (layers[-1].name,))


def spiking_mlp(widths: Sequence[int], neuron: Neuron = Leaky(), bias: bool = True, name: str = "spiking-mlp") -> SpikingNetwork:
    """Dense layers of the given widths, the first being the input, each followed by `neuron`.

    Raises ValueError for fewer than two widths or one below 1.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths = {tuple(widths)}: at least two, each at least 1")
    layers: list[Layer] = [Layer("input", (widths[0],), (widths[0],))]
    for i, (k, n) in enumerate(itertools.pairwise(widths), 1):
        layers += [Dense(f"dense{i}", (k,), (n,), bias), Neurons(f"neurons{i}", (n,), (n,), neuron=neuron)]
    return chain(name, layers)
