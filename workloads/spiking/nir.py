"""NIR files: spiking networks as other tools export them (Pedersen et al., Nature Communications 2024), in HDF5.

    net = read_nir("net.nir", dt=1e-4)
    spikes = net.apply(net.read_parameters(), train)          # (steps, *shape of the input)
    workloads.load("net.nir", steps=100)                      # its operation table

NIR describes neurons in continuous time, with a step `dt` (s) that is not in the file: snntorch writes for 1e-4 s (the default
here), spyx for 1; see `workloads.spiking.nir_neurons`. The file does not say how a spike resets either:
NIR's own rule (`semantics="nir"`, back to `v_reset` in the same step) is the default; a network trained under another one is read
with `semantics` and `reset` of that library. With `semantics="spyx"` gains are 1 and drives 0, as spyx's own reader has it: it
writes beta for r. Nested graphs are unfolded. Operation counts depend on none of these choices.

Files are untrusted, see `workloads.spiking.hdf5`; whatever is wrong with one is a single ValueError that names it.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workloads.importers.cache import PROFILES, key_of
from workloads.ops import OpTable
from workloads.spiking.hdf5 import MOST_DEPTH, MOST_NODES, Fields, read_bytes, read_tree
from workloads.spiking.layers import (
    Conv,
    Delay,
    Dense,
    Flatten,
    Layer,
    Pool,
    Scale,
    Shape,
    conv_output,
)
from workloads.spiking.networks import Edge, SpikingNetwork, execution_order
from workloads.spiking.nir_neurons import population, population_shape, threshold
from workloads.spiking.operations import spiking_table

MOST_ELEMENTS = 2**40  # of an activation
MOST_DELAY = 10_000  # steps
# what a damaged file can make h5py, NumPy or a rule raise while it is walked
DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    OSError,
    RuntimeError,
)
STATEFUL = {"I", "IF", "LI", "LIF", "CubaLI", "CubaLIF", "Delay", "Threshold"}


@dataclasses.dataclass(frozen=True, eq=False)
class NirNetwork(SpikingNetwork):
    """A `SpikingNetwork` with the weights of its file."""

    stored: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def read_parameters(self) -> dict[str, Any]:
        """What `apply` takes: the weights in the file by layer, and the neurons."""
        neurons = {layer.name: layer.neuron for layer in self.populations}
        return {**{name: dict(own) for name, own in self.stored.items()}, **neurons}


def read_nir(
    path: str | os.PathLike[str],
    shapes: Mapping[str, Any] | None = None,
    *,
    dt: float = 1e-4,
    semantics: str = "nir",
    reset: str = "zero",
) -> NirNetwork:
    """The network in a NIR file; `dt` (s) is the time step, `semantics` and `reset` those of its neurons.

    `shapes` gives, by name, the shape of an input where the file has none or another is wanted. Raises ValueError with one line
    where the file cannot be read, is damaged, or holds something these networks do not have.
    """
    path = Path(path)
    if not 0 < dt < math.inf:
        raise ValueError(f"dt = {dt:g} s is outside its range (0, inf) s")
    rules = {"semantics": semantics, "reset": reset}
    return _one_line(path, lambda: build_network(path.stem, read_tree(path, "node"), dict(shapes or {}), dt, rules))


def profile_nir(
    path: str | os.PathLike[str],
    shapes: Mapping[str, Any] | None = None,
    *,
    steps: int = 1,
    dt: float = 1e-4,
    name: str | None = None,
) -> OpTable:
    """The dense table of `steps` time steps of the network in a NIR file (see `spiking_table`); cached by content.

    Raises what `read_nir` raises, and ValueError for less than one step.
    """
    path = Path(path)
    label = name or path.stem

    def make() -> OpTable:
        return spiking_table(dataclasses.replace(read_nir(path, shapes, dt=dt), name=label), steps)

    bound = sorted((key, np.shape(v), np.asarray(v).tolist()) for key, v in (shapes or {}).items())
    return PROFILES.get(key_of(_one_line(path, lambda: read_bytes(path)), path.suffix, bound, steps, dt, label), make)


def _one_line(path: Path, read: Callable[[], Any]) -> Any:
    """`read()`, with every complaint in one line that names the file."""
    try:
        with np.errstate(all="ignore"):  # numbers beyond float32 become infinite, which is looked for
            return read()
    except DAMAGE as error:
        text = " ".join(str(error).split()) or type(error).__name__
        text = text if len(text) <= 300 else f"{text[:297]}..."
        raise ValueError(f"{path}: {text}") from None


def build_network(name: str, tree: Fields, shapes: Mapping[str, Any], dt: float, rules: dict[str, str]) -> NirNetwork:
    """The network of a file's content; `rules` are the fields `semantics` and `reset` of its neurons. Raises ValueError."""
    nodes, edges = _unfold(tree, "", 0)
    if len(nodes) > MOST_NODES or not nodes:
        raise ValueError(f"{len(nodes)} nodes, outside the range [1, {MOST_NODES}]")
    if unknown := set(shapes) - {key for key, own in nodes.items() if own["type"] == "Input"}:
        raise ValueError(f"shapes names {sorted(unknown)[0]!r}, which is no input")
    order, marked = execution_order(list(nodes), edges, {key for key, own in nodes.items() if own["type"] in STATEFUL})
    inputs = [key for key, own in nodes.items() if own["type"] == "Input" and not any(e.target == key for e in marked)]
    layers: dict[str, Layer] = {}
    stored: dict[str, Any] = {}
    for key in order:
        arriving = _arriving(key, marked, layers, key in inputs)
        make = MAKERS.get(nodes[key]["type"])
        if make is None:
            raise ValueError(f"node {key!r}: type {nodes[key]['type']!r} is not read; known: {', '.join(MAKERS)}")
        fields = nodes[key] | ({"shape": np.asarray(shapes[key])} if key in shapes else {})
        layers[key] = _make(make, key, fields, arriving, dt, rules)
        stored |= _weights(layers[key], fields)
    _check_loops(marked, layers)
    outputs = [key for key, own in nodes.items() if own["type"] == "Output" and not any(e.source == key for e in marked)]
    if not inputs or not outputs:
        raise ValueError("it has no input or no output")
    return NirNetwork(name, tuple(layers.values()), tuple(marked), tuple(inputs), tuple(outputs), stored)


def _unfold(graph: Fields, prefix: str, depth: int) -> tuple[dict[str, Fields], list[tuple[str, str]]]:
    """Nodes and edges of a graph with the graphs inside it put in their place."""
    if graph.get("type") != "NIRGraph" or not isinstance(graph.get("nodes"), dict) or "edges" not in graph:
        raise ValueError(f"{prefix or 'the root'} is not a NIR graph with nodes and edges")
    if depth > MOST_DEPTH:
        raise ValueError(f"graphs nested deeper than {MOST_DEPTH}")
    nodes: dict[str, Fields] = {}
    edges: list[tuple[str, str]] = []
    entry: dict[str, str] = {}
    leave: dict[str, str] = {}
    for key, own in graph["nodes"].items():
        if not isinstance(own, dict) or not isinstance(own.get("type"), str):
            raise ValueError(f"node {prefix + key!r} has no type")
        if own["type"] != "NIRGraph":
            nodes[prefix + key] = own
            continue
        inner, joined = _unfold(own, f"{prefix}{key}.", depth + 1)
        nodes |= inner
        edges += joined
        entry[key], leave[key] = _port(key, own, "Input", prefix), _port(key, own, "Output", prefix)
    pairs = np.asarray(graph["edges"], object)
    if pairs.size and (pairs.ndim != 2 or pairs.shape[1] != 2):
        raise ValueError(f"edges of shape {pairs.shape}, expected (n, 2)")
    for source, target in pairs.reshape(-1, 2):
        edges.append((leave.get(source, prefix + str(source)), entry.get(target, prefix + str(target))))
    return nodes, list(dict.fromkeys(edges))


def _port(key: str, graph: Fields, kind: str, prefix: str) -> str:
    found = [name for name, own in graph["nodes"].items() if own["type"] == kind]
    if len(found) != 1:
        raise ValueError(f"graph {prefix + key!r} inside the graph has {len(found)} nodes of type {kind}; one is read")
    return f"{prefix}{key}.{found[0]}"


def _arriving(key: str, edges: list[Edge], layers: dict[str, Layer], is_input: bool) -> Shape | None:
    """The shape that reaches a node at once; None where all of it arrives later."""
    sources = [edge for edge in edges if edge.target == key]
    if not sources and not is_input:
        raise ValueError(f"nothing feeds node {key!r}")
    found = {layers[edge.source].shape for edge in sources if not edge.delayed}
    if len(found) > 1:
        raise ValueError(f"node {key!r} is fed shapes that differ: {sorted(found)}")
    return next(iter(found), None)


def _check_loops(edges: list[Edge], layers: dict[str, Layer]) -> None:
    for edge in edges:
        if layers[edge.source].shape != layers[edge.target].in_shape:
            reads, given = layers[edge.target].in_shape, layers[edge.source].shape
            raise ValueError(f"node {edge.target!r} reads {reads}, but {edge.source!r} puts out {given}")


def _make(make: Any, key: str, fields: Fields, arriving: Shape | None, dt: float, rules: dict[str, str]) -> Layer:
    try:
        layer = make(key, fields, arriving, dt, rules)
    except KeyError as error:
        raise ValueError(f"node {key!r} ({fields['type']}): it has no {error.args[0]!r}") from None
    except ValueError as error:
        raise ValueError(f"node {key!r} ({fields['type']}): {error}") from None
    if any(d < 1 for d in layer.shape) or math.prod(layer.shape) > MOST_ELEMENTS:
        raise ValueError(f"node {key!r} ({fields['type']}): it would put out shape {layer.shape}")
    return layer


def _has_bias(fields: Fields) -> bool:
    """Whether a layer has a bias; one that is zero everywhere is how exporters say that there is none."""
    return "bias" in fields and bool(np.any(np.asarray(fields["bias"]) != 0))


def _weights(layer: Layer, fields: Fields) -> dict[str, Any]:
    """The numbers of a layer by name, in its shapes; ValueError where a shape is another."""
    own = {}
    for name, shape in layer.parameter_shapes().items():
        values = np.asarray(fields[name], np.float32)
        if values.shape != shape:
            raise ValueError(f"node {layer.name!r}: {name} has shape {values.shape}, expected {shape}")
        own[name] = values
    return {layer.name: own} if own else {}


def _integers(fields: Fields, name: str, rank: int | None, lo: int, hi: int = 2**31 - 1) -> Shape:
    """A field of `rank` whole numbers; one stands for all."""
    values = np.ravel(np.asarray(fields[name], np.float64))
    if rank is not None and values.size == 1:
        values = np.repeat(values, rank)
    if rank is not None and values.size != rank:
        raise ValueError(f"{name} has {values.size} entries, expected {rank}")
    if not np.all((values >= lo) & (values <= hi) & (values == np.floor(values))):
        raise ValueError(f"{name} = {values.tolist()[:4]} is not made of whole numbers in [{lo}, {hi}]")
    return tuple(int(v) for v in values)


def _needed(arriving: Shape | None) -> Shape:
    if arriving is None:
        raise ValueError("the shape of what it reads is unknown")
    return arriving


def _through(key: str, fields: Fields, arriving: Shape | None, dt: float, rules: dict[str, str]) -> Layer:
    """Input and Output."""
    if arriving is None:
        found = np.ravel(np.asarray(fields.get("shape", ())))
        if not found.size:
            raise ValueError(f"its shape is unknown; give shapes={{{key!r}: (...)}}")
        arriving = _integers({"shape": found}, "shape", None, 1)
    return Layer(key, arriving, arriving)


def _dense(key: str, fields: Fields, arriving: Shape | None, dt: float, rules: dict[str, str]) -> Layer:
    """Affine and Linear."""
    weight = np.shape(fields["weight"])
    if len(weight) < 2:
        raise ValueError(f"weight has shape {weight}, expected at least two dimensions")
    reads = (*weight[:-2], weight[-1])
    if arriving is not None and arriving != reads:
        raise ValueError(f"its weight {weight} reads {reads}, but {arriving} arrives")
    return Dense(key, reads, (*weight[:-2], weight[-2]), _has_bias(fields))


def _conv(key: str, fields: Fields, arriving: Shape | None, dt: float, rules: dict[str, str]) -> Layer:
    """Conv1d and Conv2d."""
    rank = int(fields["type"][4])
    weight = np.shape(fields["weight"])
    if len(weight) != rank + 2 or 0 in weight:
        raise ValueError(f"weight has shape {weight}, expected {rank + 2} dimensions")
    (groups,) = _integers(fields, "groups", 1, 1)
    if arriving is None and "input_shape" in fields:
        arriving = (weight[1] * groups, *_integers(fields, "input_shape", rank, 1))
    reads, kernel = _needed(arriving), weight[2:]
    if len(reads) != rank + 1 or reads[0] != weight[1] * groups or weight[0] % groups:
        raise ValueError(f"weight {weight} in {groups} groups does not go with what arrives, {reads}")
    stride, dilation = _integers(fields, "stride", rank, 1), _integers(fields, "dilation", rank, 1)
    padding = _padding(fields["padding"], fields, reads[1:], kernel, stride, dilation)
    taken = zip(reads[1:], kernel, stride, padding, dilation, strict=True)
    space = tuple(conv_output(i, k, s, p, d) for i, k, s, p, d in taken)
    return Conv(key, reads, (weight[0], *space), _has_bias(fields), kernel, stride, padding, dilation, groups)


def _padding(
    padding: Any, fields: Fields, space: Shape, kernel: Shape, stride: Shape, dilation: Shape
) -> tuple[tuple[int, int], ...]:
    """Pairs from NIR's padding: whole numbers, "valid", or "same" (as many outputs as inputs; the odd zero last)."""
    if isinstance(padding, str):
        if padding not in ("same", "valid") or (padding == "same" and any(s != 1 for s in stride)):
            raise ValueError(f"padding = {padding!r} with stride {stride} is not read; known: 'same' with stride 1, 'valid'")
        whole = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        return tuple((w // 2, w - w // 2) for w in whole)
    return tuple((p, p) for p in _integers(fields, "padding", len(space), 0))


def _pool(key: str, fields: Fields, arriving: Shape | None, dt: float, rules: dict[str, str]) -> Layer:
    """SumPool2d and AvgPool2d."""
    reads = _needed(arriving)
    if len(reads) < 2:
        raise ValueError(f"{reads} arrives, expected two dimensions of space")
    kernel, stride = _integers(fields, "kernel_size", 2, 1), _integers(fields, "stride", 2, 1)
    padding = tuple((p, p) for p in _integers(fields, "padding", 2, 0))
    space = tuple(conv_output(i, k, s, p, 1) for i, k, s, p in zip(reads[-2:], kernel, stride, padding, strict=True))
    return Pool(key, reads, (*reads[:-2], *space), kernel, stride, padding, fields["type"] == "AvgPool2d")


def _flatten(key: str, fields: Fields, arriving: Shape | None, dt: float, rules: dict[str, str]) -> Layer:
    """Dimensions start_dim to end_dim become one."""
    reads = _needed(arriving)
    start, end = (int(np.ravel(fields[name])[0]) for name in ("start_dim", "end_dim"))
    start, end = (d + len(reads) if d < 0 else d for d in (start, end))
    end = min(end, len(reads) - 1)
    if not 0 <= start <= end:
        raise ValueError(f"start_dim = {start} and end_dim = {end} do not go with what arrives, {reads}")
    return Flatten(key, reads, (*reads[:start], math.prod(reads[start : end + 1]), *reads[end + 1 :]))


def _scale(key: str, fields: Fields, arriving: Shape | None, dt: float, rules: dict[str, str]) -> Layer:
    shape = np.shape(fields["scale"])
    return Scale(key, shape, shape)


def _delay(key: str, fields: Fields, arriving: Shape | None, dt: float, rules: dict[str, str]) -> Layer:
    shape = population_shape(np.shape(fields["delay"]), arriving)
    steps = np.broadcast_to(np.rint(np.asarray(fields["delay"], np.float64) / dt), shape)
    if not np.all((steps >= 0) & (steps <= MOST_DELAY)):
        raise ValueError(f"delay is outside its range [0, {MOST_DELAY}] steps of {dt:g} s")
    return Delay(key, shape, shape, steps.astype(np.int32))


MAKERS = {
    **dict.fromkeys(("Input", "Output"), _through),
    **dict.fromkeys(("Affine", "Linear"), _dense),
    **dict.fromkeys(("Conv1d", "Conv2d"), _conv),
    **dict.fromkeys(("SumPool2d", "AvgPool2d"), _pool),
    **dict.fromkeys(("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF"), population),
    "Flatten": _flatten,
    "Scale": _scale,
    "Delay": _delay,
    "Threshold": threshold,
}
