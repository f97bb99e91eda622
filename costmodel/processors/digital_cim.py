"""Digital compute-in-memory: bit-serial columns of full adders, and macros described block by block as gates.

Bit-serial column (Colonnade, Kim et al., JSSC 2021): a weight of w bits takes w + log2(rows) columns of full adders, so that
floor(columns / (w + log2 rows)) weights lie in a row; with n registers in a column the carry runs

    t = input bits (w + log2 rows + rows / n + margin) t_full_adder,      E = E_cell rows columns input bits (V / V_ref)^e

Macro of gates (`GateMacro`; blocks in `circuits.py`): digital adder-tree macros and SRAM macros with converters alike.

    t = ceil(input bits / bits per cycle) repeats max over stages ( sum of the delays of the blocks in it )
    E = ceil(input bits / bits per cycle) repeats sum over blocks ( count activity C ) V^2

Source: ZigZag-IMC (KU Leuven, df34a6f). Non-smooth points: ceilings, floors and the slowest stage, by the relaxation policy.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.mapping.crossbars import PLAIN, Encoding, Grid
from costmodel.processors.circuits import (
    Accumulators,
    AdderTree,
    Block,
    Gates,
    Memory,
    Multipliers,
)
from costmodel.processors.macros import GEOMETRY, Macro, MacroEnergy
from costmodel.relax import Relaxation
from physics import param

Scalar = Float[Array, ""]
COLONNADE = "Colonnade, Kim et al., JSSC 2021"
CIMLOOP = "mit-emze/cimloop d6e1390"


class BitSerialMacro(Macro):
    """Columns of full adders between the memory cells; the defaults are Colonnade at 0.8 V."""

    rows: Scalar = param(128.0, unit="1", lo=2, hi=8192, log=True, source=COLONNADE)
    columns: Scalar = param(128.0, unit="1", lo=1, hi=8192, log=True, source=COLONNADE)
    registers: Scalar = param(16.0, unit="1", lo=1, hi=8192, log=True, source=COLONNADE + ": pipeline registers of a column")
    adder_time: Scalar = param(
        0.39711e-9,
        unit="s",
        lo=1e-13,
        hi=1e-6,
        log=True,
        source=f"calibrated on the 8-bit rates of {COLONNADE} ({CIMLOOP}: 0.4 ns)",
    )
    margin: Scalar = param(2.0, unit="1", lo=0.0, hi=100.0, source=f"{CIMLOOP}: full-adder delays beside the carry")
    supply: Scalar = param(0.8, unit="V", lo=0.1, hi=5.0, log=True, source=COLONNADE)
    supply_ref: Scalar = param(0.8, unit="V", lo=0.1, hi=5.0, log=True, source=COLONNADE)
    energy_cell: Scalar = param(
        9.1379e-15, unit="J", lo=0.0, hi=1e-9, source=f"calibrated on the 8-bit products of {COLONNADE}: 1.17 pJ at 0.8 V"
    )
    energy_exponent: Scalar = param(
        2.0, unit="1", lo=0.0, hi=8.0, source="C V^2; Colonnade's falls faster, as V^4.8 from 0.8 to 0.6 V"
    )
    area_cell: Scalar = param(1e-11, unit="m2", lo=0.0, hi=1e-6, source="assumed: 65 nm cell with full adder")

    def held(self, relaxation: Relaxation = relax.HARD) -> Grid:
        width = self._width()
        outputs = jnp.maximum(relax.floor_div(self.columns, width, relaxation), 1.0)
        return Grid(self.rows, outputs, width)

    def geometry(self) -> tuple[Scalar, Scalar, Scalar, Encoding]:
        """As of every macro; no column at all where not even one weight fits."""
        return self.rows, relax.floor_div(self.columns, self._width()), self.weight_bits, PLAIN

    def _width(self) -> Scalar:
        return self.weight_bits + jnp.log2(self.rows)

    def product_time(self, relaxation: Relaxation = relax.HARD) -> Scalar:
        return self.input_bits * (self._width() + self.rows / self.registers + self.margin) * self.adder_time

    def product_energy(self, relaxation: Relaxation = relax.HARD) -> MacroEnergy:
        zero = jnp.zeros(())
        scale = (self.supply / self.supply_ref) ** self.energy_exponent
        digital = scale * self.energy_cell * self.rows * self.columns * self.input_bits
        return MacroEnergy(zero, zero, zero, digital, zero)

    def area(self) -> dict[str, Scalar]:
        return {"array": self.area_cell * self.rows * self.columns}


class GateMacro(Macro):
    """A macro as a list of blocks of gates. One instance is one bank."""

    inputs: Scalar = param(32.0, unit="1", lo=1, hi=8192, log=True, source=GEOMETRY)
    outputs: Scalar = param(8.0, unit="1", lo=1, hi=8192, log=True, source=GEOMETRY)
    bits_per_cycle: Scalar = param(1.0, unit="bit", lo=1, hi=16, source=GEOMETRY)
    supply: Scalar = param(0.9, unit="V", lo=0.1, hi=5.0, log=True, source="ZigZag-IMC: fitted at 0.9 V")
    repeats: Scalar = param(1.0, unit="1", lo=1, hi=64, source="assumed: every block is used once a cycle")
    node: Scalar = param(1.0, unit="1", lo=0.05, hi=5.0, log=True, source="linear feature size over 28 nm")
    gates: Gates = eqx.field(default_factory=Gates)
    blocks: tuple[Block, ...] = ()

    def held(self, relaxation: Relaxation = relax.HARD) -> Grid:
        return Grid(self.inputs, self.outputs, self.weight_bits)

    def cycles(self, relaxation: Relaxation = relax.HARD) -> Scalar:
        """Clock cycles of one product."""
        return relax.ceil_div(self.input_bits, self.bits_per_cycle, relaxation)

    def clock_time(self, relaxation: Relaxation = relax.HARD) -> Scalar:
        """Shortest clock cycle (s)."""
        stages: dict[int, Scalar] = {}
        for block in self.blocks:
            if block.stage is not None:
                stages[block.stage] = stages.get(block.stage, jnp.zeros(())) + block.unit_delay(self.gates)
        return self.repeats * relax.maximum(jnp.zeros(()), *stages.values(), policy=relaxation)

    def product_time(self, relaxation: Relaxation = relax.HARD) -> Scalar:
        return self.cycles(relaxation) * self.clock_time(relaxation)

    def product_energy(self, relaxation: Relaxation = relax.HARD) -> MacroEnergy:
        parts = dict.fromkeys(MacroEnergy._fields, jnp.zeros(()))
        uses = self.cycles(relaxation) * self.repeats * self.supply**2
        for block in self.blocks:
            switched = block.count * block.activity * block.unit_capacitance(self.gates)
            parts[block.component] = parts[block.component] + uses * switched * (self.node if block.scaled else 1.0)
        return MacroEnergy(**parts)

    def area(self) -> dict[str, Scalar]:
        parts: dict[str, Scalar] = {}
        for block in self.blocks:
            own = self.node * block.count * block.unit_area(self.gates)
            parts[block.component] = parts.get(block.component, jnp.zeros(())) + own
        return parts


def adder_tree_macro(inputs: int, outputs: int, weight_bits: int, input_bits: int, bits_per_cycle: int = 1, **more) -> GateMacro:
    """A digital macro of a 6T array, one-bit multipliers, ripple-carry adder trees and accumulators (ZigZag-IMC's general form).

    `inputs` is a power of two; half of the inputs toggle and half of the weight bits are set (the source's assumption).
    The cell area, 0.35 um2, is assumed. `more` are further fields of `GateMacro`. ValueError if `inputs` is not a power of two.
    """
    depth = inputs.bit_length() - 1
    if inputs < 2 or inputs != 1 << depth:
        raise ValueError(f"inputs = {inputs} of an adder tree is not a power of two")
    total = weight_bits + input_bits + depth
    summed = weight_bits + depth + (bits_per_cycle if bits_per_cycle > 1 else 0)
    blocks: list[Block] = [
        Memory(cell_area=0.35e-12 * inputs * outputs * weight_bits),
        Multipliers(count=inputs * outputs * bits_per_cycle, bits=weight_bits, activity=0.25, stage=0, component="array"),
        AdderTree(count=outputs * bits_per_cycle, inputs=inputs, bits=weight_bits, activity=0.25, stage=0),
        Accumulators(count=outputs, bits=total, carry=max(total - summed, 0), stage=0),
    ]
    if bits_per_cycle > 1:
        blocks.append(AdderTree(count=outputs, inputs=bits_per_cycle, bits=weight_bits + depth, activity=0.25, stage=0))
    widths = dict(weight_bits=weight_bits, input_bits=input_bits, bits_per_cycle=bits_per_cycle)
    return GateMacro(inputs=inputs, outputs=outputs, blocks=tuple(blocks), **widths, **more)
