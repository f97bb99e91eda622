"""Crossbar chip: analog matrix-vector products inside resistive memory, bit-serial inputs, bit-sliced weights.

Geometry: `elements` processing elements x `units` computing units x `arrays` memristor arrays of rows x cols cells.
A weight of `weight_bits` takes S = ceil(weight_bits / bits_per_cell) cells of a row, so one array holds F = floor(cols / S)
filters. An operation seen as a GEMM (M, N, K, groups) occupies

    tiles = ceil(K / rows) ceil(N / F) groups            arrays; small groups share one array block-diagonally

and every array does M matrix-vector products of ceil(input_bits / dac_bits) cycles each. Timing (Liao, Chen, King,
"Extending Auto-scheduler to Support Performance Evaluation with Timing Model"):

    cycles = batches ceil(input_bits / dac_bits) + pipeline
    physical   batches = ceil( tiles M / arrays in scope )                          (default)
    literal    batches = ceil( (K / used rows) (N / used filters) M groups / arrays of one PE )      as printed

`scope` says which arrays work on one operation: "chip" and "pe" copy the weights into all of them (the source's
assumption); "layer" uses only the arrays that hold the operation's weights once, so batches = M. 16 + 6 cycles is
ISAAC's 22-stage pipeline. Memory, programming and wear count one copy. Weights that are not resident, or do not fit, are
written first: row after row, `write_arrays` arrays of the network at once, `write_pulses` program-and-verify pulses per cell.

    P_peak = units x unit powers + elements x element powers + standby;  `leakage_fraction` of all but standby is leakage

An array at work draws its share of unit and element; an operation without matrix products draws the digital power.

Non-smooth points: every ceil and floor and the maximum go through the relaxation policy. Valid for K, N, M >= 1.
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.cost import Bound, Conditions, OpCost
from costmodel.mapping.crossbars import check_mappable, missing_share, place
from costmodel.processors.base import Processor, as_arrays, masked, other_operations
from costmodel.relax import Relaxation
from physics import Cell, load_device, param
from workloads import OpTable

ISAAC = "ISAAC, Shafiee et al., ISCA 2016"
ROLL_UP = ISAAC + "; component table, closes to 24.08 mW per unit"
TILE = ISAAC + "; tile table, closes to 329.8 mW per tile"
ASSUMED = "assumed: no published value"
NEURRAM = "NeuRRAM, Wan et al., Nature 2022: mean number of write-verify pulses"

COMPONENTS = {
    "adc": "power_adc", "dac": "power_dac", "sample and hold": "power_sample_hold", "crossbars": "power_crossbar",
    "shift and add": "power_shift_add", "input register": "power_input_register", "output register": "power_output_register",
}  # fmt: skip
ELEMENT_COMPONENTS = {"buffer": "power_buffer", "bus": "power_bus", "router": "power_router", "digital": "power_digital"}


class CrossbarChip(Processor):
    """A chip of memristor crossbars; the defaults are ISAAC-CE. Powers are those of one unit or element at full activity."""

    elements: Float[Array, ""] = param(168.0, unit="1", lo=1, hi=1e5, log=True, source=ISAAC)
    units: Float[Array, ""] = param(12.0, unit="1", lo=1, hi=1e4, log=True, source=ISAAC)
    arrays: Float[Array, ""] = param(8.0, unit="1", lo=1, hi=1e4, log=True, source=ISAAC)
    rows: Float[Array, ""] = param(128.0, unit="1", lo=2, hi=8192, log=True, source=ISAAC)
    cols: Float[Array, ""] = param(128.0, unit="1", lo=2, hi=8192, log=True, source=ISAAC)
    bits_per_cell: Float[Array, ""] = param(2.0, unit="bit", lo=1, hi=8, source=ISAAC)
    weight_bits: Float[Array, ""] = param(16.0, unit="bit", lo=1, hi=32, source=ISAAC)
    input_bits: Float[Array, ""] = param(16.0, unit="bit", lo=1, hi=32, source=ISAAC)
    dac_bits: Float[Array, ""] = param(1.0, unit="bit", lo=1, hi=16, source=ISAAC)
    cycle_time: Float[Array, ""] = param(100e-9, unit="s", lo=1e-10, hi=1e-3, log=True, source=ISAAC)
    pipeline: Float[Array, ""] = param(6.0, unit="cycle", lo=0, hi=1000, source="Liao et al.: total = batches cycles + 6")
    digital_rate: Float[Array, ""] = param(
        3.4e11, unit="op/s", lo=1e3, hi=1e16, log=True, source="assumed: 2 ops per ns and tile"
    )
    buffer_bandwidth: Float[Array, ""] = param(
        3.4e12, unit="B/s", lo=1e3, hi=1e16, log=True, source="assumed: 2 kB per cycle and tile"
    )
    power_adc: Float[Array, ""] = param(16e-3, unit="W", lo=0, hi=10, log=True, source=ROLL_UP)
    power_dac: Float[Array, ""] = param(4e-3, unit="W", lo=0, hi=10, log=True, source=ROLL_UP)
    power_sample_hold: Float[Array, ""] = param(0.01e-3, unit="W", lo=0, hi=10, log=True, source=ROLL_UP)
    power_crossbar: Float[Array, ""] = param(2.4e-3, unit="W", lo=0, hi=10, log=True, source=ROLL_UP)
    power_shift_add: Float[Array, ""] = param(0.2e-3, unit="W", lo=0, hi=10, log=True, source=ROLL_UP)
    power_input_register: Float[Array, ""] = param(1.24e-3, unit="W", lo=0, hi=10, log=True, source=ROLL_UP)
    power_output_register: Float[Array, ""] = param(0.23e-3, unit="W", lo=0, hi=10, log=True, source=ROLL_UP)
    power_buffer: Float[Array, ""] = param(20.7e-3, unit="W", lo=0, hi=10, log=True, source=TILE)
    power_bus: Float[Array, ""] = param(7e-3, unit="W", lo=0, hi=10, log=True, source=TILE)
    power_router: Float[Array, ""] = param(10.5e-3, unit="W", lo=0, hi=10, log=True, source=TILE + "; 42 mW shared by 4")
    power_digital: Float[Array, ""] = param(
        2.65e-3,
        unit="W",
        lo=0,
        hi=10,
        log=True,
        source=TILE + "; sigmoid 0.52 + shift-add 0.05 + max-pool 0.4 + register 1.68 mW",
    )
    standby_power: Float[Array, ""] = param(10.4, unit="W", lo=0, hi=1e3, log=True, source=ISAAC + "; HyperTransport links")
    leakage_fraction: Float[Array, ""] = param(
        0.1, unit="1", lo=0, hi=1, source="PUMA simulator constants: ADC leakage 0.2 of 2.0 mW"
    )
    write_pulses: Float[Array, ""] = param(8.52, unit="1", lo=1, hi=1e4, log=True, source=NEURRAM)
    verify_time: Float[Array, ""] = param(100e-9, unit="s", lo=0, hi=1e-2, log=True, source="assumed: one array read per pulse")
    write_arrays: Float[Array, ""] = param(168.0, unit="1", lo=1, hi=1e6, log=True, source="assumed: one write driver per tile")
    cell: Cell = eqx.field(default_factory=lambda: load_device("hfox_reram"))
    timing: Literal["physical", "literal"] = eqx.field(static=True, default="physical")
    scope: Literal["chip", "pe", "layer"] = eqx.field(static=True, default="chip")

    def __check_init__(self) -> None:
        for name, value, known in (
            ("timing", self.timing, ("physical", "literal")),
            ("scope", self.scope, ("chip", "pe", "layer")),
        ):
            if value not in known:
                raise ValueError(f"CrossbarChip.{name} = {value!r} is not one of {', '.join(known)}")

    @property
    def n_arrays(self) -> Float[Array, ""]:
        """Arrays on the chip."""
        return self.elements * self.units * self.arrays

    def array_power(self) -> Float[Array, ""]:
        """Power (W) of one array at full activity with its share of unit and element, leakage included."""
        unit = sum(getattr(self, name) for name in COMPONENTS.values())
        element = sum(getattr(self, name) for name in ELEMENT_COMPONENTS.values())
        return unit / self.arrays + element / (self.arrays * self.units)

    def peak_power(self) -> dict[str, Float[Array, ""]]:
        """Power (W) of every component of the whole chip at full activity, and their "total"."""
        units = self.elements * self.units
        parts = {name: getattr(self, field) * units for name, field in COMPONENTS.items()}
        parts |= {name: getattr(self, field) * self.elements for name, field in ELEMENT_COMPONENTS.items()}
        parts["standby"] = self.standby_power
        return parts | {"total": sum(parts.values(), jnp.zeros(()))}

    def phases(self, relaxation: Relaxation = relax.HARD) -> Float[Array, ""]:
        """Cycles of one matrix-vector product: input bits over DAC bits, rounded up."""
        return relax.ceil_div(self.input_bits, self.dac_bits, relaxation)

    def filters_per_array(self, relaxation: Relaxation = relax.HARD) -> Float[Array, ""]:
        """Filters (output channels) that fit side by side in one array, at least 1."""
        slices = relax.ceil_div(self.weight_bits, self.bits_per_cell, relaxation)
        return jnp.maximum(relax.floor_div(self.cols, slices, relaxation), 1.0)

    def peak_rate(self, conditions: Conditions = Conditions()) -> Float[Array, ""]:
        """Highest MAC rate (1/s): every cell of every array busy in every cycle."""
        per_product = self.n_arrays * self.rows * self.filters_per_array()
        return per_product * conditions.frequency / (self.phases() * self.cycle_time)

    def peak_bandwidth(self, conditions: Conditions = Conditions()) -> Float[Array, ""]:
        """That of the buffer (B/s) at the given clock."""
        return self.buffer_bandwidth * conditions.frequency

    def reference_static_power(self, conditions: Conditions) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Leakage of all arrays with their periphery; links are always on."""
        return self.leakage_fraction * self.array_power() * self.n_arrays, self.standby_power

    def tiles(self, ops: OpTable, relaxation: Relaxation = relax.HARD) -> Float[Array, " ops"]:
        """Arrays needed to hold each operation's weights once (a float); 0 for operations without matrix products."""
        return place(ops, self.rows, self.filters_per_array(relaxation), relaxation).tiles

    def batches(self, ops: OpTable, relaxation: Relaxation = relax.HARD) -> Float[Array, " ops"]:
        """Sequential rounds of matrix-vector products of each operation."""
        t, in_pe = as_arrays(ops), self.units * self.arrays
        if self.timing == "literal":
            used_rows, used_filters = jnp.minimum(t.k, self.rows), jnp.minimum(t.n, self.filters_per_array(relaxation))
            products = (t.k / used_rows) * (t.n / used_filters) * t.m * t.groups
            return jnp.where(t.macs > 0, relax.ceil_div(products, in_pe, relaxation), 0.0)
        tiles = self.tiles(t, relaxation)
        if self.scope == "layer":
            return jnp.where(tiles > 0, t.m * relax.maximum(jnp.ones_like(tiles), tiles / self.n_arrays, policy=relaxation), 0.0)
        available = in_pe * self.elements if self.scope == "chip" else in_pe
        return relax.ceil_div(tiles * t.m, available, relaxation)

    def op_costs(self, ops: OpTable, conditions: Conditions, relaxation: Relaxation) -> OpCost:
        """Cost of every row; see the module for the law. ValueError, outside jit, if a weight is wider than the array."""
        check_mappable(ops, rows=self.rows, columns=self.cols, weight_bits=self.weight_bits, bits_per_cell=self.bits_per_cell)
        t, f, v = as_arrays(ops), conditions.frequency, conditions.voltage
        tiles, phases = self.tiles(t, relaxation), self.phases(relaxation)
        memory = tiles / self.n_arrays
        cycles = self.batches(t, relaxation) * phases + jnp.where(tiles > 0, self.pipeline, 0.0)
        digital = other_operations(ops) / (self.digital_rate * f)
        compute = cycles * self.cycle_time / f + digital
        moved = masked((t.inputs + t.outputs) * (self.input_bits / 8), t)
        transfer = moved / (self.buffer_bandwidth * f)
        missing = missing_share(t, jnp.sum(memory), conditions.resident, relaxation)
        write_latency, write_energy = self._programming(t, missing, tiles, relaxation)
        latency = masked(relax.maximum(compute, transfer, policy=relaxation), t) + write_latency
        analog = self.array_power() * tiles * t.m * phases * self.cycle_time
        energy = (
            (1 - self.leakage_fraction) * v**2 * jnp.where(tiles > 0, analog, self.power_digital * self.elements * digital * f)
        )
        bound = jnp.where(
            write_latency > 0.5 * latency, Bound.PROGRAMMING, jnp.where(transfer > compute, Bound.MEMORY, Bound.COMPUTE)
        )
        rounds = t.m if self.scope == "layer" else self.batches(t, relaxation)
        reads = jnp.where(tiles > 0, rounds * phases, 0.0)
        return OpCost(latency, masked(energy, t), write_latency, write_energy, moved, bound, memory, missing * memory, reads)

    def _programming(
        self, t: OpTable, missing: Array, tiles: Array, relaxation: Relaxation
    ) -> tuple[Float[Array, " ops"], Float[Array, " ops"]]:
        """Latency and energy of writing the missing weights; all write drivers are shared by the whole network."""
        slices = relax.ceil_div(self.weight_bits, self.bits_per_cell, relaxation)
        row_time = self.write_pulses * (self.cell.write_time + self.verify_time)
        latency = missing * tiles * self.rows * row_time / self.write_arrays
        cells = jnp.where(tiles > 0, t.k * t.n * t.groups * slices, 0.0)
        return latency, missing * cells * self.write_pulses * self.cell.write_energy
