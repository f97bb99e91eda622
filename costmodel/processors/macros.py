"""Compute-in-memory macros: what one array with its converters and logic takes for one matrix-vector product.

A macro holds I x F weights and answers three questions: the time of a product, its energy by component, its area by
component. `AnalogMacro` is the law below; digital macros and macros made of gates are in `digital_cim.py`.

    serial inputs   phases n = ceil(input bits / driver bits), or the passes of the encoding, one read each:    pulses = n
    pulsed inputs   b = max(1, input bits - 1) magnitude bits, in one phase, or in two (ceil b/2, floor b/2) if b > split_above;
                    a phase of p bits takes 2^p - 1 pulses and skips the converter steps of the phases before it

    t = max( (V_ref / V)^alpha ( pulses t_pulse + steps t_step columns / converters + n t_phase + t_overhead ), t_min )

or the larger of reading and converting instead of their sum, if these overlap. Energy per product, each times (V / V_ref)^e:

    array    E_cell rows columns pulses          dac    E_row rows planes   (planes = n or b)
    adc      (E_step steps + E_noise 4^r n) columns       digital   E_output columns n       control   E_fixed

Sources of the law: NeuRRAM (Wan et al., Nature 2022) and its CiMLoop configuration (mit-emze/cimloop d6e1390) for pulses
and supply scaling, ISAAC (ISCA 2016) for serial inputs. Non-smooth: the ceilings, the overlap and the floor t_min.
"""

import abc
from typing import Literal, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.mapping.crossbars import PLAIN, Encoding, Grid, grid
from costmodel.relax import Relaxation
from physics import ParameterTree, param
from physics.params import Citations, citations

Scalar = Float[Array, ""]
ASSUMED = "assumed: no published value"
GEOMETRY = "geometry of the macro"


class MacroEnergy(NamedTuple):
    """Energy (J) of one product of a full array, by component (scalars)."""

    array: Scalar  # cells, bit lines, multipliers
    dac: Scalar  # word lines and input drivers
    adc: Scalar
    digital: Scalar  # adders, accumulators, registers
    control: Scalar

    @property
    def total(self) -> Scalar:
        """Sum of the components (J)."""
        return self.array + self.dac + self.adc + self.digital + self.control


class Macro(ParameterTree):
    """One array with everything that works beside it; subclasses give `held`, `product_time`, `product_energy` and `area`."""

    weight_bits: Scalar = param(8.0, unit="bit", lo=1, hi=32, source=GEOMETRY)
    input_bits: Scalar = param(8.0, unit="bit", lo=1, hi=32, source=GEOMETRY)
    depth: Scalar = param(1.0, unit="1", lo=1, hi=1024, log=True, source=GEOMETRY + ": weights stored per multiplying place")
    leakage_power: Scalar = param(0.0, unit="W", lo=0.0, hi=10.0, source="assumed: included in the published power")
    sources: Citations = citations()

    @abc.abstractmethod
    def held(self, relaxation: Relaxation = relax.HARD) -> Grid:
        """Inputs and outputs of one product, and cells of a weight."""

    @abc.abstractmethod
    def product_time(self, relaxation: Relaxation = relax.HARD) -> Scalar:
        """Time (s) of one product with all its input bits."""

    @abc.abstractmethod
    def product_energy(self, relaxation: Relaxation = relax.HARD) -> MacroEnergy:
        """Energy (J) of one product of a full array, leakage left out."""

    @abc.abstractmethod
    def area(self) -> dict[str, Scalar]:
        """Area (m2) by component."""

    def geometry(self) -> tuple[Scalar, Scalar, Scalar, Encoding]:
        """Rows, columns, bits per cell and encoding of the array, as `mapping.crossbars.check_mappable` wants them."""
        held = self.held()
        return held.inputs, held.outputs, self.weight_bits, PLAIN

    def rate(self, relaxation: Relaxation = relax.HARD) -> Scalar:
        """Multiply-accumulates per second of a full array."""
        held = self.held(relaxation)
        return held.inputs * held.outputs / self.product_time(relaxation)

    def efficiency(self, relaxation: Relaxation = relax.HARD) -> Scalar:
        """Operations per joule of a full array, two to a multiply-accumulate, leakage included."""
        held, time = self.held(relaxation), self.product_time(relaxation)
        energy = self.product_energy(relaxation).total + self.leakage_power * time
        return 2 * held.inputs * held.outputs / energy


class Drive(NamedTuple):
    """How the inputs of one product reach the rows (scalars)."""

    phases: Scalar
    planes: Scalar  # switching events of a row
    pulses: Scalar  # read pulses
    steps: Scalar  # converter steps of one column


class AnalogMacro(Macro):
    """A crossbar with converters; the defaults are an ISAAC array (cells of 2 bit, 8-bit converter) with 8-bit operands."""

    rows: Scalar = param(128.0, unit="1", lo=2, hi=8192, log=True, source=GEOMETRY)
    columns: Scalar = param(128.0, unit="1", lo=1, hi=8192, log=True, source=GEOMETRY)
    bits_per_cell: Scalar = param(2.0, unit="bit", lo=1, hi=16, source=GEOMETRY)
    driver_bits: Scalar = param(1.0, unit="bit", lo=1, hi=16, source=GEOMETRY)
    converter_bits: Scalar = param(8.0, unit="bit", lo=1, hi=14, source=GEOMETRY)
    converters: Scalar = param(1.0, unit="1", lo=1, hi=8192, log=True, source=GEOMETRY)
    polarities: Scalar = param(1.0, unit="1", lo=1, hi=8, source=GEOMETRY + ": times everything is repeated for signs")
    split_above: Scalar = param(3.0, unit="bit", lo=1, hi=32, source="NeuRRAM: longer inputs come in two phases")
    pulse_time: Scalar = param(100e-9, unit="s", lo=0.0, hi=1e-3, source="ISAAC, ISCA 2016: one read")
    step_time: Scalar = param(100e-9 / 1024, unit="s", lo=0.0, hi=1e-3, source="ISAAC: 128 conversions of 8 bit in 100 ns")
    phase_time: Scalar = param(0.0, unit="s", lo=0.0, hi=1e-3, source="assumed: no pause")
    overhead: Scalar = param(0.0, unit="s", lo=0.0, hi=1e-3, source="assumed: none")
    least_time: Scalar = param(0.0, unit="s", lo=0.0, hi=1e-3, source="assumed: none")
    supply: Scalar = param(1.0, unit="V", lo=0.1, hi=5.0, log=True, source=ASSUMED)
    supply_ref: Scalar = param(1.0, unit="V", lo=0.1, hi=5.0, log=True, source=ASSUMED)
    time_exponent: Scalar = param(0.0, unit="1", lo=0.0, hi=6.0, source="assumed: clock does not follow the supply")
    energy_exponent: Scalar = param(2.0, unit="1", lo=0.0, hi=6.0, source="C V^2")
    energy_cell: Scalar = param(3e-15, unit="J", lo=0.0, hi=1e-9, source=ASSUMED + "; per cell and pulse")
    energy_row: Scalar = param(0.1e-12, unit="J", lo=0.0, hi=1e-6, source=ASSUMED + "; per row and plane")
    energy_step: Scalar = param(0.2e-12, unit="J", lo=0.0, hi=1e-6, source=ASSUMED + "; per converter step")
    energy_noise: Scalar = param(0.0, unit="J", lo=0.0, hi=1e-12, source="assumed: small; per conversion and 4^bits")
    energy_output: Scalar = param(0.1e-12, unit="J", lo=0.0, hi=1e-6, source=ASSUMED + "; per column and phase")
    energy_fixed: Scalar = param(0.0, unit="J", lo=0.0, hi=1e-3, source="assumed: none; per product")
    area_cell: Scalar = param(25e-12 / 16384, unit="m2", lo=0.0, hi=1e-8, source="PUMA simulator a206f75: 25 um2 for 128 x 128")
    area_row: Scalar = param(0.166e-12, unit="m2", lo=0.0, hi=1e-7, source="ISAAC: 1-bit driver")
    area_level: Scalar = param(1200e-12 / 256, unit="m2", lo=0.0, hi=1e-7, source="ISAAC: 8-bit converter, over its 256 levels")
    area_logic: Scalar = param(0.0, unit="m2", lo=0.0, hi=1e-3, source="assumed: none")
    drive: Literal["serial", "pulsed"] = eqx.field(static=True, default="serial")
    overlap: bool = eqx.field(static=True, default=True)
    encoding: Encoding = eqx.field(static=True, default=PLAIN)

    def __check_init__(self) -> None:
        if self.drive not in ("serial", "pulsed"):
            raise ValueError(f"AnalogMacro.drive = {self.drive!r} is not one of serial, pulsed")

    def held(self, relaxation: Relaxation = relax.HARD) -> Grid:
        return grid(self.rows, self.columns, self.weight_bits, self.bits_per_cell, self.encoding, relaxation)

    def geometry(self) -> tuple[Scalar, Scalar, Scalar, Encoding]:
        return self.rows, self.columns, self.bits_per_cell, self.encoding

    def driven(self, relaxation: Relaxation = relax.HARD) -> Drive:
        """Phases, planes, pulses and converter steps of one product."""
        if self.drive == "serial":
            n = relax.ceil_div(self.input_bits, self.driver_bits, relaxation)
            if self.encoding.cycles is not None:
                n = jnp.full((), float(self.encoding.cycles))
            return Drive(*(self.polarities * x for x in (n, n, n, n * self.converter_bits)))
        bits = jnp.maximum(self.input_bits - 1, 1.0)
        two = jnp.where(bits > self.split_above, 1.0, 0.0)
        high = jnp.where(two > 0, relax.ceil_div(bits, 2.0, relaxation), bits)
        pulses = jnp.exp2(high) + jnp.exp2(bits - high) - 2
        steps = self.converter_bits + two * jnp.maximum(self.converter_bits - high, 0.0)
        return Drive(*(self.polarities * x for x in (1 + two, bits, pulses, steps)))

    def product_time(self, relaxation: Relaxation = relax.HARD) -> Scalar:
        d = self.driven(relaxation)
        read = d.pulses * self.pulse_time + d.phases * self.phase_time
        convert = d.steps * self.step_time * (self.columns / self.converters)
        busy = relax.maximum(read, convert, policy=relaxation) if self.overlap else read + convert
        slower = (self.supply_ref / self.supply) ** self.time_exponent
        return relax.maximum(slower * (busy + self.overhead), self.least_time, policy=relaxation)

    def product_energy(self, relaxation: Relaxation = relax.HARD) -> MacroEnergy:
        d, scale = self.driven(relaxation), (self.supply / self.supply_ref) ** self.energy_exponent
        conversion = self.energy_step * d.steps + self.energy_noise * jnp.exp2(2 * self.converter_bits) * d.phases
        return MacroEnergy(
            array=scale * self.energy_cell * self.rows * self.columns * d.pulses,
            dac=scale * self.energy_row * self.rows * d.planes,
            adc=scale * conversion * self.columns,
            digital=scale * self.energy_output * self.columns * d.phases,
            control=scale * self.energy_fixed,
        )

    def area(self) -> dict[str, Scalar]:
        return {
            "array": self.area_cell * self.rows * self.columns * self.depth,
            "dac": self.area_row * self.rows,
            "adc": self.area_level * jnp.exp2(self.converter_bits) * self.converters,
            "digital": self.area_logic,
        }
