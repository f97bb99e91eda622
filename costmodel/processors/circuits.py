"""Circuits of a compute-in-memory macro as gates: area, energy per use and delay of each block in closed form.

In units of a two-input gate (delay t, capacitance C, area A at 28 nm); XOR2 = 2.4 t, 1.5 C, 2.4 A; flip-flop = 3 C, 6 A:

    full adder        area 3 A + 2 A_xor,  energy (3 C + 2 C_xor) V^2
    adder, B bits     B full adders; sum of the lowest bit after 2 t_xor; carry out after t_xor + 2 t + 2 t (B - 1)
    tree, N inputs    N (B + 1) - (B + log2 N + 1) full adders; delay (log2 N - 1) 2 t_xor + carry out of B + log2 N - 1 bits
    multiplier        1 bit x B bits: B gates, energy B C / 2 V^2 (the weight does not switch), delay t
    SAR converter     r bits on a line of n cells: area 10^(1.206 - 0.0369 r) 2^r um^2, delay r (0.00653 n + 0.640) ns,
                      energy (100 r + 0.001 4^r) V^2 fJ
    driver            r bits: energy 50 r V^2 fJ

Source: ZigZag-IMC (KU Leuven, df34a6f), whose gate constants were fitted on digital and whose converter constants on analog
chips at 22 and 28 nm, at 0.9 V. Area above r = 12 falls back to 0.5 um^2 per level there; here the law is used throughout.
All blocks are smooth in their parameters.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from physics import ParameterTree, param

ZIGZAG = "ZigZag-IMC df34a6f, imc_model_validation"
STRUCTURE = "structure of the macro"
Scalar = Float[Array, ""]


class Gates(ParameterTree):
    """A technology: one two-input gate, and other cells relative to it."""

    delay: Scalar = param(0.0478e-9, unit="s", lo=1e-13, hi=1e-6, log=True, source=ZIGZAG)
    capacitance: Scalar = param(0.7e-15, unit="F", lo=1e-18, hi=1e-11, log=True, source=ZIGZAG)
    area: Scalar = param(0.614e-12, unit="m2", lo=1e-16, hi=1e-8, log=True, source=ZIGZAG)
    xor_delay: Scalar = param(2.4, unit="1", lo=0.5, hi=10.0, source=ZIGZAG + ", of a gate")
    xor_capacitance: Scalar = param(1.5, unit="1", lo=0.5, hi=10.0, source=ZIGZAG + ", of a gate")
    xor_area: Scalar = param(2.4, unit="1", lo=0.5, hi=10.0, source=ZIGZAG + ", of a gate")
    register_capacitance: Scalar = param(3.0, unit="1", lo=0.5, hi=20.0, source=ZIGZAG + ", of a gate")
    register_area: Scalar = param(6.0, unit="1", lo=0.5, hi=50.0, source=ZIGZAG + ", of a gate")

    @property
    def adder_area(self) -> Scalar:
        """Area (m2) of a full adder."""
        return self.area * (3 + 2 * self.xor_area)

    @property
    def adder_capacitance(self) -> Scalar:
        """Capacitance (F) a full adder switches."""
        return self.capacitance * (3 + 2 * self.xor_capacitance)

    def sum_delay(self) -> Scalar:
        """From an operand to the sum of one bit (s)."""
        return 2 * self.xor_delay * self.delay

    def carry_delay(self, bits: Scalar) -> Scalar:
        """From an operand to the carry out of `bits` bits (s)."""
        return self.delay * (self.xor_delay + 2 + 2 * (bits - 1))


class Block(ParameterTree):
    """`count` equal circuits of a macro. `activity` is the mean number of uses of one of them per cycle.

    Blocks with the same `stage` follow each other within a clock cycle; None is off the critical path. `component` says where
    its energy is reported; `scaled` whether its energy follows the node (converters' is taken as independent of it).
    """

    count: Scalar = param(1.0, unit="1", lo=0.0, hi=1e9, source=STRUCTURE)
    activity: Scalar = param(1.0, unit="1", lo=0.0, hi=1e3, source="assumed: used in every cycle")
    stage: int | None = eqx.field(static=True, default=None)
    component: str = eqx.field(static=True, default="digital")
    scaled: bool = eqx.field(static=True, default=True)

    @abc.abstractmethod
    def unit_area(self, gates: Gates) -> Scalar:
        """Area (m2) of one circuit."""

    @abc.abstractmethod
    def unit_capacitance(self, gates: Gates) -> Scalar:
        """Energy of one use over the square of the supply (F)."""

    def unit_delay(self, gates: Gates) -> Scalar:
        """Delay (s) of one circuit at 0.9 V."""
        return jnp.zeros(())


class Multipliers(Block):
    """One bit by `bits` bits: a row of gates."""

    bits: Scalar = param(1.0, unit="bit", lo=1.0, hi=64.0, source=STRUCTURE)

    def unit_area(self, gates: Gates) -> Scalar:
        return gates.area * self.bits

    def unit_capacitance(self, gates: Gates) -> Scalar:
        return 0.5 * gates.capacitance * self.bits

    def unit_delay(self, gates: Gates) -> Scalar:
        return gates.delay


class AdderTree(Block):
    """Ripple-carry adders that sum `inputs` numbers of `bits` bits; two inputs are one adder."""

    inputs: Scalar = param(2.0, unit="1", lo=2.0, hi=1e5, log=True, source=STRUCTURE)
    bits: Scalar = param(1.0, unit="bit", lo=1.0, hi=64.0, source=STRUCTURE)

    def _adders(self) -> Scalar:
        return self.inputs * (self.bits + 1) - (self.bits + jnp.log2(self.inputs) + 1)

    def unit_area(self, gates: Gates) -> Scalar:
        return gates.adder_area * self._adders()

    def unit_capacitance(self, gates: Gates) -> Scalar:
        return gates.adder_capacitance * self._adders()

    def unit_delay(self, gates: Gates) -> Scalar:
        depth = jnp.log2(self.inputs)
        return (depth - 1) * gates.sum_delay() + gates.carry_delay(self.bits + depth - 1)


class Accumulators(Block):
    """Adders of `bits` bits with their registers; a carry runs through the `carry` highest of them."""

    bits: Scalar = param(16.0, unit="bit", lo=1.0, hi=64.0, source=STRUCTURE)
    carry: Scalar = param(0.0, unit="bit", lo=0.0, hi=64.0, source=STRUCTURE)

    def unit_area(self, gates: Gates) -> Scalar:
        return self.bits * (gates.adder_area + gates.register_area * gates.area)

    def unit_capacitance(self, gates: Gates) -> Scalar:
        return self.bits * (gates.adder_capacitance + gates.register_capacitance * gates.capacitance)

    def unit_delay(self, gates: Gates) -> Scalar:
        return gates.sum_delay() + 2 * gates.delay * self.carry


class Registers(Block):
    """Flip-flops; `count` bits of them."""

    def unit_area(self, gates: Gates) -> Scalar:
        return gates.register_area * gates.area

    def unit_capacitance(self, gates: Gates) -> Scalar:
        return gates.register_capacitance * gates.capacitance


class Lines(Block):
    """Bit lines, word lines and enables: `count` cells of half a gate capacitance each; their area is the memory's."""

    component: str = eqx.field(static=True, default="array")

    def unit_area(self, gates: Gates) -> Scalar:
        return jnp.zeros(())

    def unit_capacitance(self, gates: Gates) -> Scalar:
        return 0.5 * gates.capacitance


class Memory(Block):
    """Cell arrays of known `area` (from CACTI in the source); reading them costs what `Lines` say."""

    cell_area: Scalar = param(1e-9, unit="m2", lo=0.0, hi=1e-3, source="CACTI, as used by " + ZIGZAG)
    component: str = eqx.field(static=True, default="array")

    def unit_area(self, gates: Gates) -> Scalar:
        return self.cell_area

    def unit_capacitance(self, gates: Gates) -> Scalar:
        return jnp.zeros(())


class Converters(Block):
    """SAR analog-to-digital converters of `bits` bits, laid out for `area_bits`, on lines of `cells` cells."""

    bits: Scalar = param(8.0, unit="bit", lo=1.0, hi=14.0, source=STRUCTURE)
    area_bits: Scalar = param(8.0, unit="bit", lo=1.0, hi=14.0, source=STRUCTURE)
    cells: Scalar = param(64.0, unit="1", lo=1.0, hi=8192.0, log=True, source=STRUCTURE)
    area_scale: Scalar = param(1.206, unit="1", lo=-3.0, hi=5.0, source=ZIGZAG + ": log10 of um2 per level")
    area_slope: Scalar = param(0.0369, unit="1/bit", lo=0.0, hi=0.3, source=ZIGZAG)
    delay_cell: Scalar = param(0.00653e-9, unit="s", lo=0.0, hi=1e-9, source=ZIGZAG + ", per bit and cell")
    delay_bit: Scalar = param(0.640e-9, unit="s", lo=1e-12, hi=1e-6, log=True, source=ZIGZAG)
    linear: Scalar = param(100e-15, unit="F", lo=0.0, hi=1e-10, source=ZIGZAG + ", per bit")
    noise: Scalar = param(0.001e-15, unit="F", lo=0.0, hi=1e-14, source=ZIGZAG + ", per 4^bits")
    component: str = eqx.field(static=True, default="adc")
    scaled: bool = eqx.field(static=True, default=False)

    def unit_area(self, gates: Gates) -> Scalar:
        return 1e-12 * jnp.exp(
            jnp.log(10.0) * (self.area_scale - self.area_slope * self.area_bits) + jnp.log(2.0) * self.area_bits
        )

    def unit_capacitance(self, gates: Gates) -> Scalar:
        return self.linear * self.bits + self.noise * jnp.exp2(2 * self.bits)

    def unit_delay(self, gates: Gates) -> Scalar:
        return self.bits * (self.delay_cell * self.cells + self.delay_bit)


class Drivers(Block):
    """Input converters of `bits` bits; area and delay neglected in the source."""

    bits: Scalar = param(1.0, unit="bit", lo=0.0, hi=14.0, source=STRUCTURE)
    linear: Scalar = param(50e-15, unit="F", lo=0.0, hi=1e-10, source=ZIGZAG + ", per bit")
    component: str = eqx.field(static=True, default="dac")
    scaled: bool = eqx.field(static=True, default=False)

    def unit_area(self, gates: Gates) -> Scalar:
        return jnp.zeros(())

    def unit_capacitance(self, gates: Gates) -> Scalar:
        return self.linear * self.bits
