"""A chip of compute-in-memory macros: macros in units, units in tiles with a buffer, tiles on a network, memory outside.

Layers are laid onto macros by `mapping.crossbars`. With n macros on the chip, t the time of one product and A the arrays a
layer takes, for M products each

    compute   rounds t + fill + vector operations / rate;   rounds = ceil(A M / n)   (scope "chip": weights copied everywhere)
                                                            rounds = M max(1, A / n) (scope "layer": weights kept once)
    buffer    inputs of every product (M K groups), outputs, and twice the partial sums that leave a tile, over its bandwidth
    network   inputs and outputs times the hops of the way, and those partial sums, over the tiles' bandwidth
    memory    weights that are written, and the share of activations beyond the buffers, over the memory's bandwidth

(partial sums inside a tile are added on their way), and the layer takes the longest of the four, after its missing weights
were written row by row. Energy is the macros' (rows and columns in use; unused converters are idle), each byte's at every
level, the vector operations', writing, and what leaks: macros and tiles with temperature and supply, the standby power of
the links always. `energy_parts` gives all of it by layer. Switching energies go with the square of the supply, those of the
memory outside do not.

Non-smooth points: ceilings, floors and the longest of four, by the relaxation policy. Valid for M, N, K >= 1.
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.cost import Bound, Conditions, OpCost
from costmodel.mapping.crossbars import Placement, check_mappable, missing_share, place
from costmodel.processors.base import Processor, as_arrays, masked, other_operations
from costmodel.processors.macros import AnalogMacro, Macro
from costmodel.relax import Relaxation
from physics import param
from workloads import OpKind, OpTable

Scalar = Float[Array, ""]
Ops = Float[Array, " ops"]
GEOMETRY = "geometry of the chip"
ASSUMED = "assumed: no published value"
OPEN_TOOLS = "public constants of a differentiable fusion model (FADiff): SRAM 5 pJ/B, DRAM 640 pJ/B"


class MacroChip(Processor):
    """`tiles` x `units` x `macros` equal macros with buffers, network and memory."""

    macro: Macro = eqx.field(default_factory=AnalogMacro)
    tiles: Scalar = param(1.0, unit="1", lo=1, hi=1e5, log=True, source=GEOMETRY)
    units: Scalar = param(1.0, unit="1", lo=1, hi=1e4, log=True, source=GEOMETRY + ": units in a tile")
    macros: Scalar = param(1.0, unit="1", lo=1, hi=1e4, log=True, source=GEOMETRY + ": macros in a unit")
    fill_time: Scalar = param(0.0, unit="s", lo=0.0, hi=1.0, source="assumed: no pipeline to fill")
    vector_rate: Scalar = param(2e9, unit="op/s", lo=1e3, hi=1e14, log=True, source="assumed: 2 operations per ns and tile")
    vector_energy: Scalar = param(1e-12, unit="J/op", lo=0.0, hi=1e-6, source=ASSUMED)
    buffer_size: Scalar = param(65536.0, unit="B", lo=1.0, hi=1e12, log=True, source="ISAAC, ISCA 2016: 64 kB per tile")
    buffer_bandwidth: Scalar = param(20e9, unit="B/s", lo=1e3, hi=1e14, log=True, source="assumed: 20 B/ns per tile")
    buffer_energy: Scalar = param(5e-12, unit="J/B", lo=0.0, hi=1e-6, source=OPEN_TOOLS)
    network_bandwidth: Scalar = param(4e9, unit="B/s", lo=1e3, hi=1e14, log=True, source="assumed: 4 B/ns per tile")
    network_energy: Scalar = param(1e-12, unit="J/B", lo=0.0, hi=1e-6, source="assumed; per hop")
    hops: Scalar = param(1.0, unit="1", lo=0.0, hi=1e3, source="assumed: layers are neighbours")
    memory_bandwidth: Scalar = param(25.6e9, unit="B/s", lo=1e3, hi=1e14, log=True, source="assumed: one LPDDR4 channel")
    memory_energy: Scalar = param(640e-12, unit="J/B", lo=0.0, hi=1e-6, source=OPEN_TOOLS)
    partial_bytes: Scalar = param(3.0, unit="B", lo=0.0, hi=16.0, source="assumed: 24-bit partial sums")
    tile_leakage: Scalar = param(0.0, unit="W", lo=0.0, hi=1e3, source="assumed: included in the macros'")
    standby_power: Scalar = param(0.0, unit="W", lo=0.0, hi=1e4, source="assumed: no links")
    row_write_time: Scalar = param(10e-9, unit="s", lo=0.0, hi=1e-1, source="assumed: one cycle per row, verified")
    cell_write_energy: Scalar = param(1e-15, unit="J", lo=0.0, hi=1e-6, source="assumed: SRAM; per cell, all pulses")
    written_at_once: Scalar = param(1.0, unit="1", lo=1, hi=1e6, log=True, source="assumed: one write port; arrays at a time")
    area_buffer: Scalar = param(0.083e-6, unit="m2", lo=0.0, hi=1e-2, source="ISAAC: 64 kB eDRAM per tile")
    area_network: Scalar = param(0.12775e-6, unit="m2", lo=0.0, hi=1e-2, source="ISAAC: bus 0.09 and a quarter router, per tile")
    area_vector: Scalar = param(0.0041e-6, unit="m2", lo=0.0, hi=1e-2, source="ISAAC: sigmoid, pool, adders, register per tile")
    area_chip: Scalar = param(0.0, unit="m2", lo=0.0, hi=1.0, source="assumed: no links")
    scope: Literal["chip", "layer"] = eqx.field(static=True, default="chip")
    dynamic: Literal["reprogram", "refuse"] = eqx.field(static=True, default="reprogram")

    def __check_init__(self) -> None:
        for name, known in (("scope", ("chip", "layer")), ("dynamic", ("reprogram", "refuse"))):
            if getattr(self, name) not in known:
                raise ValueError(f"MacroChip.{name} = {getattr(self, name)!r} is not one of {', '.join(known)}")

    @property
    def n_macros(self) -> Scalar:
        """Macros on the chip."""
        return self.tiles * self.units * self.macros

    def check_mapping(self, ops: OpTable) -> None:
        """Raise ValueError, naming layer and limit, if `ops` cannot be laid onto the macros; call it before jit."""
        rows, columns, bits, encoding = self.macro.geometry()
        check_mappable(
            ops, rows=rows, columns=columns, weight_bits=self.macro.weight_bits, bits_per_cell=bits, encoding=encoding,
            dynamic=self.dynamic == "reprogram",
        )  # fmt: skip

    def placement(self, ops: OpTable, relaxation: Relaxation = relax.HARD) -> Placement:
        """Arrays and utilisation of every layer."""
        held = self.macro.held(relaxation)
        return place(ops, held.inputs, held.outputs, relaxation)

    def peak_rate(self, conditions: Conditions = Conditions()) -> Scalar:
        """Highest MAC rate (1/s)."""
        return self.n_macros * self.macro.rate() * conditions.frequency

    def peak_bandwidth(self, conditions: Conditions = Conditions()) -> Scalar:
        """Those of buffers, network (B/s, at the given clock) and memory together: bytes of all three are counted."""
        return self.tiles * (self.buffer_bandwidth + self.network_bandwidth) * conditions.frequency + self.memory_bandwidth

    def reference_static_power(self, conditions: Conditions) -> tuple[Scalar, Scalar]:
        return self.n_macros * self.macro.leakage_power + self.tiles * self.tile_leakage, self.standby_power

    def peak_power(self) -> dict[str, Scalar]:
        """Power (W) by component with every macro and vector unit at work, inputs and outputs passing buffer and network."""
        products = self.n_macros / self.macro.product_time()
        parts = {name: energy * products for name, energy in self.macro.product_energy()._asdict().items()}
        held = self.macro.held()
        traffic = products * (held.inputs + held.outputs) * self.macro.input_bits / 8
        leakage, standby = self.reference_static_power(Conditions())
        parts |= {
            "buffer": self.buffer_energy * traffic,
            "network": self.network_energy * self.hops * traffic,
            "vector": self.vector_energy * self.vector_rate * self.tiles,
            "leakage": leakage,
            "standby": standby,
        }
        return parts | {"total": sum(parts.values(), jnp.zeros(()))}

    def area(self) -> dict[str, Scalar]:
        """Area (m2) by component, and the "total"."""
        parts = {name: own * self.n_macros for name, own in self.macro.area().items()}
        per_tile = {"buffer": self.area_buffer, "network": self.area_network, "vector": self.area_vector}
        parts |= {name: own * self.tiles for name, own in per_tile.items()} | {"chip": self.area_chip}
        return parts | {"total": sum(parts.values(), jnp.zeros(()))}

    def _bytes(self, t: OpTable, p: Placement, missing: Ops, relaxation: Relaxation) -> tuple[Ops, Ops, Ops]:
        """Bytes through buffer, network and memory."""
        width = self.macro.input_bits / 8
        busy, passing = p.tiles > 0, (t.inputs + t.outputs) * width
        fed = jnp.where(busy, t.m * t.k * t.groups, t.inputs) * width
        crossing = jnp.maximum(relax.ceil_div(p.row_tiles, self.units * self.macros, relaxation) - 1, 0.0)
        partial = crossing * (t.m * t.n) * t.groups * self.partial_bytes
        beyond = jnp.maximum(1 - self.buffer_size * self.tiles / jnp.maximum(t.live * width, 1.0), 0.0)
        constant = jnp.where(t.kind == OpKind.MATMUL, 0.0, missing * p.weights * self.macro.weight_bits / 8)
        buffer, network = fed + t.outputs * width + 2 * partial, passing * self.hops + partial
        return (
            masked(jnp.asarray(buffer), t),
            masked(jnp.asarray(network), t),
            masked(jnp.asarray(beyond * passing + constant), t),
        )

    def _rounds(self, t: OpTable, p: Placement, relaxation: Relaxation) -> Ops:
        if self.scope == "chip":
            return relax.ceil_div(p.tiles * t.m, self.n_macros, relaxation)
        turns = relax.maximum(jnp.ones_like(p.tiles), p.tiles / self.n_macros, policy=relaxation)
        return jnp.where(p.tiles > 0, t.m * turns, 0.0)

    def _missing(self, t: OpTable, p: Placement, conditions: Conditions, relaxation: Relaxation) -> tuple[Ops, Ops]:
        """Memory needed by each layer, over the chip's, and the share of its weights that this run writes."""
        memory = p.tiles / (self.n_macros * self.macro.depth)
        return memory, missing_share(t, jnp.sum(memory), conditions.resident, relaxation)

    def op_costs(self, ops: OpTable, conditions: Conditions, relaxation: Relaxation) -> OpCost:
        """Cost of every row; see the module for the law. ValueError for layers that cannot be mapped, outside jit."""
        self.check_mapping(ops)
        t, f = as_arrays(ops), conditions.frequency
        p = self.placement(t, relaxation)
        memory, missing = self._missing(t, p, conditions, relaxation)
        rounds = self._rounds(t, p, relaxation)
        analog = rounds * self.macro.product_time(relaxation) + jnp.where(p.tiles > 0, self.fill_time, 0.0)
        per_tile = 1 / (self.tiles * f)  # reciprocals once per chip, not once per layer
        compute = analog * (1 / f) + other_operations(t) * (per_tile / self.vector_rate)
        buffer, network, outside = self._bytes(t, p, missing, relaxation)
        waits = (
            buffer * (per_tile / self.buffer_bandwidth),
            network * (per_tile / self.network_bandwidth),
            outside * (1 / self.memory_bandwidth),
        )
        moving = jnp.maximum(jnp.maximum(waits[0], waits[1]), waits[2])
        busy = relax.maximum(compute, *waits, policy=relaxation)
        held = self.macro.held(relaxation)
        write_latency = missing * p.tiles * held.inputs * self.row_write_time / self.written_at_once
        write_energy = missing * p.weights * held.cells * self.cell_write_energy
        latency = masked(busy, t) + write_latency
        energy = sum(self._dynamic(t, p, missing, conditions, relaxation).values(), jnp.zeros_like(latency))
        bound = jnp.where(
            write_latency > 0.5 * latency, Bound.PROGRAMMING, jnp.where(moving > compute, Bound.MEMORY, Bound.COMPUTE)
        )
        reads = jnp.where(p.tiles > 0, rounds * self.macro.input_bits, 0.0)
        moved = buffer + network + outside
        return OpCost(latency, energy, write_latency, write_energy, moved, bound, memory, missing * memory, reads)

    def _dynamic(self, t: OpTable, p: Placement, missing: Ops, conditions: Conditions, relaxation: Relaxation) -> dict[str, Ops]:
        """Switching energy (J) of every layer by component."""
        product, square = self.macro.product_energy(relaxation), jnp.asarray(conditions.voltage, float) ** 2
        products = square * p.tiles * t.m
        buffer, network, outside = self._bytes(t, p, missing, relaxation)
        return {
            "array": products * p.row_share * p.column_share * product.array,
            "dac": products * p.row_share * product.dac,
            "adc": products * p.column_share * product.adc,
            "digital": products * p.column_share * product.digital,
            "control": products * product.control,
            "buffer": square * buffer * self.buffer_energy,
            "network": square * network * self.network_energy,
            "memory": outside * self.memory_energy,
            "vector": masked(square * (other_operations(t) + p.partial_sums) * self.vector_energy, t),
        }

    def energy_parts(
        self, ops: OpTable, conditions: Conditions = Conditions(), relaxation: Relaxation = relax.HARD
    ) -> dict[str, Ops]:
        """Dynamic energy (J) of every layer by component; they add up to `dynamic_energy` of the cost."""
        t = as_arrays(ops)
        p = self.placement(t, relaxation)
        return self._dynamic(t, p, self._missing(t, p, conditions, relaxation)[1], conditions, relaxation)
