"""What a spiking network costs in operations: dense, effective, and as an operation table.

    dense   pairs of a weight and an activation, every step, whatever their values
    macs    effective: pairs of a non-zero weight and a non-zero activation, at layers that meet other values than -1, 0, 1
    acs     effective: the same at layers that meet only those: nothing to multiply, an accumulation
    updates of neurons, each `neuron_operations(model, reset)` operations; effective: those that changed the potential

These are NeuroBench's rules: bias, pooling and normalisation are not counted, products with zero padding neither, and layers are
classified step by step. Effective operations come from the spikes that ARRIVE at a layer, each counted with its own fan-out.
They are not dense x (1 - activation sparsity): that rate is over all neurons, outputs included and inputs not (for the published
GSC network 0.033, where the true density is 0.113). And they contain the spike rate already: `applied_rates` finds results that
were multiplied by it once more.

Source: NeuroBench 2.3, metrics/workload/synaptic_operations.py and membrane_updates.py.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from workloads.ops import OpInfo, OpKind, OpTable, make_table
from workloads.spiking.layers import Conv, Layer, Maximum, Neurons, Pool, Rectifier, Scale, Weighted
from workloads.spiking.networks import Record, SpikingNetwork

NEURON_BUFFERS = 20  # bytes snntorch keeps for a layer of neurons: beta, threshold, graded factor, and the reset as int64


class LayerOperations(NamedTuple):
    """Counts of one weighted layer for one input (means over a batch); host-side float64, exact."""

    dense: float
    macs: float
    acs: float
    events: float  # non-zero activations that arrived

    @property
    def density(self) -> float:
        """Effective over dense operations."""
        return (self.macs + self.acs) / self.dense


class OperationCounts(NamedTuple):
    """Counts of a whole network for one input (means over a batch)."""

    layers: dict[str, LayerOperations]
    updates: float  # of neurons, every one at every step
    effective_updates: float  # those that changed a potential; all of the first step
    neuron_operations: float
    effective_neuron_operations: float
    activation_sparsity: float  # share of zeros in the neurons' outputs

    @property
    def dense(self) -> float:
        """Dense synaptic operations."""
        return math.fsum(layer.dense for layer in self.layers.values())

    @property
    def macs(self) -> float:
        """Effective multiply-accumulates."""
        return math.fsum(layer.macs for layer in self.layers.values())

    @property
    def acs(self) -> float:
        """Effective accumulates."""
        return math.fsum(layer.acs for layer in self.layers.values())


def dense_operations(network: SpikingNetwork, steps: int) -> int:
    """Dense synaptic operations of `steps` time steps, products with padding left out."""
    return _steps(steps) * sum(layer.pairs for layer in network.weighted)


def network_footprint(network: SpikingNetwork) -> int:
    """Bytes of the network by NeuroBench's rule: float32 weights and biases, and the buffers of snntorch's neurons."""
    return 4 * network.parameters + NEURON_BUFFERS * len(network.populations)


def count_operations(
    network: SpikingNetwork, parameters: Mapping[str, Any], *inputs: Float[Array | np.ndarray, "batch steps ..."]
) -> OperationCounts:
    """Dense and effective operations of running `network` on real spike trains (batch, steps, *shape), means over the batch.

    Runs the network once for every element of the batch and counts on the host. Raises ValueError for an empty batch.
    """
    trains = [np.asarray(x) for x in inputs]
    if any(x.ndim < 2 or 0 in x.shape[:2] for x in trains):
        raise ValueError(f"{network.name}: inputs of shape {trains[0].shape} need a batch and time steps, at least one of each")
    record = record_batch(network, dict(parameters), *trains)
    layers = {
        layer.name: synaptic_operations(layer, parameters[layer.name]["weight"], record.arriving[layer.name])
        for layer in network.weighted
    }
    batch, steps = trains[0].shape[:2]
    changed = {layer.name: _updates(record.potential[layer.name]) for layer in network.populations}
    each = {layer.name: parameters[layer.name].operations for layer in network.populations}
    every = {layer.name: float(steps * layer.size) for layer in network.populations}
    outputs = sum(x.size for x in record.spikes.values())
    silent = sum(x.size - np.count_nonzero(x) for x in record.spikes.values())
    return OperationCounts(
        layers=layers,
        updates=math.fsum(every.values()),
        effective_updates=math.fsum(changed.values()) / batch,
        neuron_operations=math.fsum(every[name] * each[name] for name in each),
        effective_neuron_operations=math.fsum(changed[name] * each[name] for name in each) / batch,
        activation_sparsity=silent / outputs if outputs else 0.0,
    )


@functools.partial(jax.jit, static_argnums=0)
def record_batch(network: SpikingNetwork, parameters: Mapping[str, Any], *inputs: Float[Array | np.ndarray, "..."]) -> Record:
    """`network.record` of every element of a batch; compiled once for a network and its shapes."""
    return jax.vmap(lambda *train: network.record(parameters, *train))(*inputs)


def synaptic_operations(
    layer: Weighted, weight: Float[Array | np.ndarray, "..."], arriving: Float[Array | np.ndarray, "batch steps ..."]
) -> LayerOperations:
    """Operations of one layer for the activations that arrived at it, (batch, steps, *in_shape); means over the batch."""
    fan_out = np.asarray(layer.fan_out(weight), np.float64).ravel()
    values = np.asarray(arriving).reshape(*np.shape(arriving)[:2], -1)
    present = values != 0
    effective = present.astype(np.float64) @ fan_out  # (batch, steps)
    binary = np.all(~present | (np.abs(values) == 1), axis=(0, 2))  # a step's batch is classified as a whole
    batch, steps = values.shape[:2]
    acs, macs = float(effective[:, binary].sum()), float(effective[:, ~binary].sum())
    return LayerOperations(float(steps * layer.pairs), macs / batch, acs / batch, float(present.sum()) / batch)


def _updates(potential: Array) -> float:
    """Updates (batch, steps, ...) that changed a potential; the first step counts whole."""
    values = np.asarray(potential)
    return float(np.count_nonzero(np.diff(values, axis=1)) + values[:, 0].size)


def applied_rates(energy: float, dense: float, energy_per_operation: float, rate: float) -> float:
    """How many times the spike `rate` (in (0, 1)) is contained in a published `energy` (J): 0 dense, 1 right, 2 counted twice.

        ln(energy / (dense x energy_per_operation)) / ln(rate)

    `dense` are the operations of the same network without sparsity. Raises ValueError for a rate outside (0, 1) or numbers
    that are not positive. An example of 2: PMC10242054, Table 3.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate = {rate:g} is outside its range (0, 1)")
    for name, value in (("energy", energy), ("dense", dense), ("energy_per_operation", energy_per_operation)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} = {value:g} is outside its range (0, inf)")
    return math.log(energy / (dense * energy_per_operation)) / math.log(rate)


def check_single_rate(energy: float, dense: float, energy_per_operation: float, rate: float) -> None:
    """ValueError if a published `energy` contains the spike rate more than once; arguments as for `applied_rates`."""
    times = applied_rates(energy, dense, energy_per_operation, rate)
    if times > 1.5:
        right = dense * rate * energy_per_operation
        raise ValueError(f"energy = {energy:.4g} J contains the spike rate {rate:g} {times:.2f} times; once it is {right:.4g} J")


def spiking_table(network: SpikingNetwork, steps: int, counts: OperationCounts | None = None) -> OpTable:
    """The operation table of `steps` time steps, one row for every layer, run step after step.

    Without `counts` it is what a processor without events executes: dense products, all steps as rows of one matrix product, the
    weights read in every step. With `counts` (of `count_operations`, for the same number of steps) it is what an event-driven one
    executes: an accumulate is one flop and no MAC, every effective operation reads its weight, and a layer's inputs are its
    events. Neurons read the arriving current and their state and write spikes and state, in both. Elements are 32 bits wide.
    Raises ValueError for less than one step.
    """
    _steps(steps)
    if counts is not None and set(counts.layers) != {layer.name for layer in network.weighted}:
        raise ValueError(f"{network.name}: the counts are those of another network")
    shown = [layer for layer in network.layers if not _free(layer)]
    states = sum(layer.size * layer.neuron.n_states for layer in network.populations)
    rows, live = [], []
    for layer in shown:
        found = counts.layers.get(layer.name) if counts is not None else None
        rows.append(_row(layer, steps, found))
        live.append(states + math.prod(layer.in_shape) + layer.size)
    peak = int(np.argmax(live))
    info = OpInfo(
        name=network.name,
        op_names=tuple(layer.name for layer in shown),
        edges=_edges(network, shown),
        parameters=network.parameters,
        peak_op=peak,
        peak_tensors=_alive(network, shown[peak]),
        flags=(f"{steps} time step{'s' if steps > 1 else ''}", *(() if counts is None else ("event-driven",))),
    )
    return make_table([row | {"live": value} for row, value in zip(rows, live, strict=True)], info)


def _alive(network: SpikingNetwork, layer: Layer) -> tuple[str, ...]:
    """The tensors alive while `layer` runs, largest first."""
    found = [(own.size * own.neuron.n_states, f"state of {own.name} {own.shape}") for own in network.populations]
    found += [(math.prod(layer.in_shape), f"into {layer.name} {layer.in_shape}"), (layer.size, f"{layer.name} {layer.shape}")]
    return tuple(text for _, text in sorted(found, key=lambda pair: -pair[0]))


def _steps(steps: int) -> int:
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps < 2**31:
        raise ValueError(f"steps = {steps!r} is outside its range [1, {2**31 - 1}]")
    return steps


def _free(layer: Layer) -> bool:
    """Layers that only name or rearrange what is there."""
    return not isinstance(layer, Weighted | Neurons | Pool | Maximum | Rectifier | Scale)


def _row(layer: Layer, steps: int, found: LayerOperations | None) -> dict[str, Any]:
    n_in, n_out = math.prod(layer.in_shape), layer.size
    row: dict[str, Any] = {"kind": OpKind.ELEMENTWISE, "inputs": steps * n_in, "outputs": steps * n_out}
    if isinstance(layer, Weighted):
        return row | _synapses(layer, steps, found)
    if isinstance(layer, Neurons):
        state = layer.neuron.n_states * n_out
        row |= {"flops": steps * n_out * layer.neuron.operations}
        return row | {"inputs": steps * (n_in + state), "outputs": steps * (n_out + state)}
    if isinstance(layer, Pool | Maximum):
        window = math.prod(layer.kernel) if isinstance(layer, Pool) else 4
        return row | {"kind": OpKind.REDUCE, "flops": steps * n_out * (window - 1)}
    return row | {"flops": steps * n_out, "weights": steps * n_out if isinstance(layer, Scale) else 0}


def _synapses(layer: Weighted, steps: int, found: LayerOperations | None) -> dict[str, Any]:
    m, n, k, groups = layer.gemm
    bias, held = steps * layer.size * layer.bias, sum(math.prod(s) for s in layer.parameter_shapes().values())
    kind = OpKind.DENSE
    if isinstance(layer, Conv):
        kind = OpKind.DEPTHWISE if layer.groups > 1 and layer.groups == layer.in_shape[0] else OpKind.CONV
    shape = {"kind": kind, "m": m * steps, "n": n, "k": k, "groups": groups}
    if found is None:
        macs = steps * layer.padded
        return shape | {"macs": macs, "macs_valid": steps * layer.pairs, "flops": 2 * macs + bias, "weights": steps * held}
    work = {"macs": found.macs, "macs_valid": found.macs, "flops": 2 * found.macs + found.acs + bias}
    return shape | work | {"inputs": found.events, "weights": found.macs + found.acs + bias}


def _edges(network: SpikingNetwork, shown: list[Layer]) -> tuple[tuple[int, int], ...]:
    """Edges between rows, through the layers that have none; those that arrive a step later are left out."""
    row = {layer.name: i for i, layer in enumerate(shown)}
    sources: dict[str, set[int]] = {}
    for layer in network.layers:
        own = [e.source for e in network.edges if e.target == layer.name and not e.delayed]
        sources[layer.name] = set().union(*({row[s]} if s in row else sources[s] for s in own))
    return tuple(sorted((source, row[layer.name]) for layer in shown for source in sources[layer.name]))
