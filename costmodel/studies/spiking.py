"""Energy of a spiking network with its data movement, and the fair comparison with a quantised network.

The widespread estimate counts arithmetic alone, 4.6 pJ for a multiply-accumulate and 0.9 pJ for an accumulate (float32, 45 nm):
`arithmetic_energy`. It leaves out what costs more than the sums: weights, states, spikes on the way. Here, for each layer with P
weight-activation pairs per step, I inputs and O outputs of n states each, over T steps at a spike rate r:

                    spiking                                 quantised, b = ceil(log2(T + 1)) bits, sparsity g
    products        A = T r P accumulates                   M = (1 - g) P multiply-accumulates of b x weight bits
    weights         A weight_bits / reuse                   M weight_bits / reuse_quantised
    accumulators    2 A state_bits, the share in_memory     2 M state_bits, the share in_memory
    states          2 T O n state_bits                      2 O state_bits
    neurons         T O (operations)                        O (two additions, one product: requantisation)
    activations     T r I address bits                      min(I b, (1 - g) I (b + address bits))

Every row is in operations or bits; the last four are read from or written to banks, activations also cross the network. A sum of
T binary spikes takes T + 1 values, as b bits do: that is the fair rival (Yan, Bai and Wong). The rival skips zeros too.
All of it is affine in r, so the spike rate below which spikes win is in closed form, `break_even_rate`: differentiable and
vmappable in every parameter. Address events are assumed throughout; above a rate of about 1 / address bits a bitmap is shorter.

Weights dominate, one read for every product, so r ~ (1 - g) / T: 10.1 % for VGG16 at T = 5 and g = 0.5, 8.4 % at 6, 5.0 % at 10.
A network that takes the same values as its rival spikes at least once where that is not zero, so at a rate of at least
(1 - g) / T: spikes win only if hardly any neuron spikes twice. Yan, Bai and Wong (arXiv 2409.08290) say 6.4 % for T from 5 to
10 (v2, v3), 5.7 % at T = 5 (v4), and a sparsity above 93 % at T = 6 (v1). The first lies inside ours; the second is ours for
g = 0.72, or for a rival that reads a weight once for 1.8 products, because it has all its inputs at once (`reuse_quantised`).
Only their abstracts were read, so which of the two it is stays open.

An effective count is scaled by the spike rate once, inside A. Functions here take dense sizes and a rate, or counts, never both
(for published results: `workloads.applied_rates`). Non-smooth: b steps with T (HARD: no slope), the minimum of the last row.

Energies: Horowitz, ISSCC 2014, 45 nm at 0.9 V, as repeated in PMC8934428 Table 3. An addition goes with the bits, a product with
the product of the bits, an access with the square root of the bank; with these, Horowitz's 8-bit product (0.2 pJ) is met within
4 %, his 8-bit addition (0.03 pJ) within 17 %, his 32 KiB and 1 MiB accesses (20, 100 pJ) within 14 % (recalled figures).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.relax import HARD, Relaxation
from physics import ParameterTree, param
from physics.types import Scalar
from workloads import OperationCounts, OpTable, SpikingNetwork

HOROWITZ = "Horowitz, ISSCC 2014, 45 nm at 0.9 V (PMC8934428, Table 3)"
ADD_FLOAT, MULTIPLY_FLOAT = 0.9e-12, 3.7e-12  # J, float32: HOROWITZ
BITS = 24  # b at most: T below 2**24, where float32 is exact
DECAYS = {"IF": 0, "Leaky": 1, "Synaptic": 2, "Lapicque": 2, "Alpha": 3, "AdaptiveLeaky": 3}  # products with constants per update


class EventHardware(ParameterTree):
    """A digital chip with memory beside its adders, one for both networks."""

    add: Float[Array, ""] = param(0.1e-12 / 32, unit="J/bit", lo=0.0, hi=1e-9, log=True, source=HOROWITZ + ": int32")
    multiply: Float[Array, ""] = param(3.1e-12 / 1024, unit="J/bit^2", lo=0.0, hi=1e-9, log=True, source=HOROWITZ + ": int32")
    access: Float[Array, ""] = param(10e-12 / 64, unit="J/bit", lo=0.0, hi=1e-6, log=True, source=HOROWITZ + ": 8 KiB, 64 bit")
    weight_bank: Float[Array, ""] = param(32768.0, unit="B", lo=64.0, hi=1e10, log=True, source="assumed: 32 KiB per core")
    state_bank: Float[Array, ""] = param(8192.0, unit="B", lo=64.0, hi=1e10, log=True, source="assumed: 8 KiB per core")
    spike_bank: Float[Array, ""] = param(8192.0, unit="B", lo=64.0, hi=1e10, log=True, source="assumed: 8 KiB per core")
    hop: Float[Array, ""] = param(0.1e-12, unit="J/bit", lo=0.0, hi=1e-6, log=True, source="assumed: 3 pJ for a 30-bit spike")
    hops: Float[Array, ""] = param(4.0, unit="1", lo=0.0, hi=1e4, source="assumed: a mesh of some 16 cores")
    weight_bits: Float[Array, ""] = param(8.0, unit="bit", lo=1.0, hi=64.0, source="assumed: int8 weights in both networks")
    state_bits: Float[Array, ""] = param(16.0, unit="bit", lo=1.0, hi=64.0, source="assumed: potentials and accumulators")
    in_memory: Float[Array, ""] = param(0.0, unit="1", lo=0.0, hi=1.0, source="assumed: sums of one step stay in registers")
    reuse: Float[Array, ""] = param(1.0, unit="1", lo=1.0, hi=1e6, log=True, source="events come one by one")
    reuse_quantised: Float[Array, ""] = param(1.0, unit="1", lo=1.0, hi=1e6, log=True, source="assumed: the same datapath")

    def bank(self, size: Scalar) -> Float[Array, ""]:
        """Energy (J) of moving one bit in or out of a bank of `size` bytes."""
        return self.access * jnp.sqrt(size / 8192.0)


class LayerSizes(NamedTuple):
    """Layers for one time step (of an ordinary network: for one inference); arrays (layers,)."""

    pairs: Float[Array | np.ndarray, " layers"]
    inputs: Float[Array | np.ndarray, " layers"]
    outputs: Float[Array | np.ndarray, " layers"]
    states: Float[Array | np.ndarray, " layers"]  # of neurons behind the layer, in all
    updates: Float[Array | np.ndarray, " layers"]  # operations of those neurons in one step
    decays: Float[Array | np.ndarray, " layers"]  # of these, products with constants


class EnergyParts(NamedTuple):
    """Energy (J) by layer and cause; arrays (layers,)."""

    products: Float[Array, " layers"]
    weights: Float[Array, " layers"]
    accumulators: Float[Array, " layers"]
    states: Float[Array, " layers"]
    neurons: Float[Array, " layers"]
    activations: Float[Array, " layers"]

    @property
    def total(self) -> Float[Array, ""]:
        """Energy (J) of all."""
        return sum((jnp.sum(part) for part in self), jnp.zeros(()))

    @property
    def arithmetic(self) -> Float[Array, ""]:
        """Energy (J) of products and neurons, without any movement."""
        return jnp.sum(self.products) + jnp.sum(self.neurons)


def layer_sizes(source: SpikingNetwork | OpTable) -> LayerSizes:
    """Sizes of a spiking network, or of an ordinary one whose layers would each be followed by integrate-and-fire neurons.

    Neurons are booked with the weighted layer before them. Raises ValueError where nothing has weights.
    """
    rows = _table_rows(source) if isinstance(source, OpTable) else _network_rows(source)
    if not rows:
        raise ValueError("no layer with weights: there is nothing to compare")
    return LayerSizes(*(np.asarray(column, np.float64) for column in zip(*rows, strict=True)))


def _table_rows(ops: OpTable) -> list[tuple[float, ...]]:
    if np.ndim(ops.kind) != 1:
        raise ValueError(f"ops has columns of shape {np.shape(ops.kind)}; one table is compared, not a batch")
    busy = np.flatnonzero(np.asarray(ops.mask) & (np.asarray(ops.macs) > 0))
    sizes = [(float(ops.macs_valid[i]), float(ops.inputs[i]), float(ops.outputs[i])) for i in busy]
    return [(pairs, i, o, o, 3 * o, 0.0) for pairs, i, o in sizes]  # IF: an addition and a subtractive reset of 2


def _network_rows(network: SpikingNetwork) -> list[tuple[float, ...]]:
    rows: list[list[float]] = []
    weighted = {layer.name: layer for layer in network.weighted}
    populations = {layer.name: layer for layer in network.populations}
    for name in (layer.name for layer in network.layers):
        if layer := weighted.get(name):
            rows.append([float(layer.pairs), float(np.prod(layer.in_shape)), float(layer.size), 0.0, 0.0, 0.0])
        elif (layer := populations.get(name)) and rows:
            rows[-1][3] += layer.size * layer.neuron.n_states
            rows[-1][4] += layer.size * layer.neuron.operations
            rows[-1][5] += layer.size * DECAYS[type(layer.neuron).__name__]
    return [tuple(row) for row in rows]


def quantised_bits(steps: Scalar, policy: Relaxation = HARD) -> Float[Array, ""]:
    """b = ceil(log2(T + 1)): bits of the activations that `steps` (T >= 1) binary time steps stand for; exact below 2**24.

    HARD has no slope; STRAIGHT_THROUGH has that of log2(T + 1); soft is that of `relax.ceil_div`.
    """
    values = jnp.asarray(steps, float) + 1
    exact = jnp.sum(jnp.where(values > 2.0 ** jnp.arange(BITS), 1.0, 0.0))
    if policy.name == "hard":
        return exact
    if policy.name == "soft":
        return relax.ceil_div(jnp.log2(values), 1.0, policy)
    smooth = jnp.log2(values)
    return exact + (smooth - jax.lax.stop_gradient(smooth))  # the bracket is exactly 0


def _address_bits(sizes: LayerSizes) -> Float[Array, " layers"]:
    return jnp.log2(jnp.maximum(jnp.asarray(sizes.inputs, float), 2.0))


def _moved(hardware: EventHardware) -> Float[Array, ""]:
    """Energy (J) of one bit of an activation: across the network, into a bank and out of it."""
    return hardware.hops * hardware.hop + 2 * hardware.bank(hardware.spike_bank)


def spiking_energy(
    hardware: EventHardware,
    sizes: LayerSizes,
    steps: Scalar,
    rate: Float[Array, "..."] | float,
    density: Float[Array, "..."] | float | None = None,
) -> EnergyParts:
    """Energy of one inference of `steps` time steps at a spike `rate` (events per input and step; a number or one per layer).

    `density` is that of the effective operations, where it is known to differ because fan-outs do (default: the rate).
    """
    h, s = hardware, jax.tree.map(lambda x: jnp.asarray(x, float), sizes)
    accumulates = steps * s.pairs * (rate if density is None else density)
    state = 2 * h.state_bits * h.bank(h.state_bank)
    return EnergyParts(
        products=accumulates * h.add * h.state_bits,
        weights=accumulates * h.weight_bits / h.reuse * h.bank(h.weight_bank),
        accumulators=accumulates * state * h.in_memory,
        states=steps * s.states * state,
        neurons=steps * ((s.updates - s.decays) * h.add * h.state_bits + s.decays * h.multiply * h.state_bits**2),
        activations=steps * rate * s.inputs * _address_bits(s) * _moved(h),
    )


def measured_energy(hardware: EventHardware, network: SpikingNetwork, counts: OperationCounts, steps: Scalar) -> EnergyParts:
    """The same from operations counted on real spike trains of `steps` time steps (see `workloads.count_operations`).

    Multiply-accumulates (of layers that met other values than spikes) are priced as accumulates: a lower bound there.
    """
    sizes, found = layer_sizes(network), [counts.layers[layer.name] for layer in network.weighted]
    rate = jnp.asarray([layer.events for layer in found]) / (steps * jnp.asarray(sizes.inputs))
    return spiking_energy(hardware, sizes, steps, rate, jnp.asarray([layer.density for layer in found]))


def quantised_energy(
    hardware: EventHardware,
    sizes: LayerSizes,
    steps: Scalar,
    sparsity: Float[Array, "..."] | float = 0.5,
    policy: Relaxation = HARD,
) -> EnergyParts:
    """Energy of one inference of the rival: the same layers once, with ceil(log2(steps + 1)) bits of activation.

    `sparsity` is the share of zero activations (a number or one per layer; 0.5 is what a rectifier leaves of a symmetric input).
    """
    h, s, bits = hardware, jax.tree.map(lambda x: jnp.asarray(x, float), sizes), quantised_bits(steps, policy)
    products = (1 - sparsity) * s.pairs
    state = 2 * h.state_bits * h.bank(h.state_bank)
    packed = relax.minimum(bits + 0 * s.inputs, (1 - sparsity) * (bits + _address_bits(s)), policy=policy)
    return EnergyParts(
        products=products * (h.multiply * bits * h.weight_bits + h.add * h.state_bits),
        weights=products * h.weight_bits / h.reuse_quantised * h.bank(h.weight_bank),
        accumulators=products * state * h.in_memory,
        states=s.outputs * state,
        neurons=s.outputs * (2 * h.add * h.state_bits + h.multiply * h.state_bits**2),
        activations=s.inputs * packed * _moved(h),
    )


def break_even_rate(
    hardware: EventHardware,
    sizes: LayerSizes,
    steps: Scalar,
    sparsity: Float[Array, "..."] | float = 0.5,
    policy: Relaxation = HARD,
) -> Float[Array, ""]:
    """The spike rate (per input and step, the same in every layer) below which the spiking network takes less energy.

    At or below 0 it never does: its states alone cost more than the whole rival. Above 1 it always does.
    """
    rest, full = (spiking_energy(hardware, sizes, steps, rate).total for rate in (0.0, 1.0))
    return (quantised_energy(hardware, sizes, steps, sparsity, policy).total - rest) / (full - rest)


def arithmetic_energy(macs: Scalar, acs: Scalar, neuron_operations: Scalar = 0.0) -> Float[Array, ""]:
    """The widespread estimate (J): float32 arithmetic alone, an accumulate and a neuron's operation as one addition."""
    return jnp.asarray(macs * (ADD_FLOAT + MULTIPLY_FLOAT) + (acs + neuron_operations) * ADD_FLOAT)
