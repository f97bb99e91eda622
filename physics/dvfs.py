"""Voltage and frequency: what clock a voltage allows, what power it costs, what aging takes away.

    f_max = f_ref g(V) / g(V_ref),     g(V) = (V - V_th)^alpha / V         alpha-power law (Sakurai and Newton 1990)
    P_dynamic = a C V^2 f              a: activity (0 to 1), C: capacitance switched at a = 1
    P_static  = V I_ref exp(b (T - T_ref))

Valid above the threshold and inside the chip's own range of voltages: a plain voltage outside is a ValueError, a traced one
clears `valid`. At and below threshold f_max is 0 with slope 0. Aging raises V_th, which must lower the clock; a published
script divides by the same factor (the clock it would have needed), kept as `rule="published"`.
Sources: alpha 1.3 and V_th 0.49158 V: hplp/oldspot (PTM 45 nm); b 0.036 /K and T_ref 383.15 K: HotSpot's leakage example.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from physics.params import Citations, ParameterTree, citations, param, unknown_name, with_sources
from physics.types import Result, Value
from physics.validity import Flag, inside, require_inside

RANGE = (200.0, 500.0)  # K, where the leakage law is used
AGING_RULES = ("linear", "alpha_power", "published")
LARGEST_EXPONENT = 60.0  # e^60 is finite in float32, far outside RANGE


class OperatingPoint(NamedTuple):
    """A chip at one voltage, clock and temperature; all of the shape the arguments broadcast to."""

    frequency: Float[Array, "..."]  # Hz
    dynamic_power: Float[Array, "..."]  # W
    static_power: Float[Array, "..."]  # W
    valid: Bool[Array, "..."]  # voltage and temperature in range, clock not above what the voltage allows

    @property
    def power(self) -> Result:
        """Total power (W)."""
        return self.dynamic_power + self.static_power


class VoltageScaling(ParameterTree):
    """One clock domain."""

    threshold: Float[Array, ""] = param(0.49158, unit="V", lo=0.05, hi=2.0, source="hplp/oldspot: PTM 45 nm")
    alpha: Float[Array, ""] = param(1.3, unit="1", lo=1.0, hi=2.0, source="hplp/oldspot; 2 is the long-channel limit")
    voltage_ref: Float[Array, ""] = param(1.0, unit="V", lo=0.1, hi=5.0, source="assumed: nominal voltage")
    frequency_ref: Float[Array, ""] = param(
        1e9, unit="Hz", lo=1e3, hi=1e11, log=True, source="assumed: largest clock at the nominal voltage"
    )
    capacitance: Float[Array, ""] = param(
        1e-9, unit="F", lo=1e-15, hi=1e-3, log=True, source="assumed: 1 W at 1 V, 1 GHz and full activity"
    )
    leakage_current: Float[Array, ""] = param(
        0.1, unit="A", lo=0.0, hi=1e3, source="assumed: a tenth of the dynamic power at the reference temperature"
    )
    leakage_slope: Float[Array, ""] = param(0.036, unit="1/K", lo=0.0, hi=0.1, source="HotSpot example: doubles every 19 K")
    temperature_ref: Float[Array, ""] = param(383.15, unit="K", lo=200.0, hi=700.0, source="HotSpot example")
    voltage_lo: Float[Array, ""] = param(0.6, unit="V", lo=0.05, hi=5.0, source="assumed: near-threshold operation excluded")
    voltage_hi: Float[Array, ""] = param(1.3, unit="V", lo=0.05, hi=5.0, source="assumed: a third above nominal")
    sources: Citations = citations()

    def __check_init__(self) -> None:
        pair = (self.voltage_ref, self.threshold)
        if not any(isinstance(v, Tracer) for v in pair) and np.any(np.asarray(pair[0]) <= np.asarray(pair[1])):
            raise ValueError(f"VoltageScaling.voltage_ref = {np.min(pair[0]):g} V must exceed threshold = {np.max(pair[1]):g} V")

    def max_frequency(self, voltage: Value, threshold_shift: Value = 0.0) -> Result:
        """Largest clock (Hz) at `voltage` (V), with the threshold raised by `threshold_shift` (V); 0 at and below threshold.

        Raises ValueError for a plain voltage outside the chip's range.
        """
        self._require(voltage)
        return self.frequency_ref * self._speed(voltage, threshold_shift) / self._speed(self.voltage_ref, 0.0)

    def aged_frequency(self, voltage: Value, threshold_shift: Value, rule: str = "linear") -> Result:
        """Largest clock (Hz) at `voltage` (V) after aging has raised the threshold by `threshold_shift` (V).

        `rule="linear"`: f (1 - shift / (V - V_th)); `"alpha_power"`: the law with the new threshold; `"published"`: divides
        by the first factor, so that aging makes chips faster. At least 0. ValueError for another rule.
        """
        if rule not in AGING_RULES:
            raise ValueError(unknown_name("rule", rule, AGING_RULES))
        if rule == "alpha_power":
            return self.max_frequency(voltage, threshold_shift)
        overdrive = jnp.maximum(voltage - self.threshold, 1e-3)
        left = jnp.maximum(1 - threshold_shift / overdrive, 0.0)
        fresh = self.max_frequency(voltage)
        return fresh * left if rule == "linear" else fresh / jnp.maximum(left, 1e-3)

    def dynamic_power(self, voltage: Value, frequency: Value, activity: Value = 1.0) -> Result:
        """Switching power (W) at `voltage` (V), clock `frequency` (Hz) and `activity` (0 to 1)."""
        self._require(voltage)
        return activity * self.capacitance * jnp.asarray(voltage, float) ** 2 * frequency

    def static_power(self, voltage: Value, temperature: Value) -> Result:
        """Leakage power (W) at `voltage` (V) and `temperature` (K); finite for every temperature."""
        self._require(voltage)
        exponent = jnp.clip(self.leakage_slope * (temperature - self.temperature_ref), -LARGEST_EXPONENT, LARGEST_EXPONENT)
        return voltage * self.leakage_current * jnp.exp(exponent)

    def energy(self, voltage: Value, temperature: Value, cycles: Value, duration: Value, activity: Value = 1.0) -> Result:
        """Energy (J) of `cycles` clock cycles of work within `duration` (s): a C V^2 per cycle and leakage all the time."""
        return self.dynamic_power(voltage, cycles, activity) + self.static_power(voltage, temperature) * duration

    def operating_point(
        self, voltage: Value, temperature: Value, activity: Value = 1.0, frequency: Value | None = None
    ) -> OperatingPoint:
        """Clock and powers at `voltage` (V) and `temperature` (K); at the largest clock unless `frequency` (Hz) is given."""
        limit = self.max_frequency(voltage)
        clock = limit if frequency is None else jnp.asarray(frequency, float)
        valid = self.valid(voltage, temperature) & inside(clock, 0.0, limit)
        return OperatingPoint(clock, self.dynamic_power(voltage, clock, activity), self.static_power(voltage, temperature), valid)

    def valid(self, voltage: Value, temperature: Value) -> Flag:
        """Whether the laws hold: voltage in the chip's range and above threshold, 200 K to 500 K."""
        voltage_holds = inside(voltage, self.voltage_lo, self.voltage_hi) & (jnp.asarray(voltage) > self.threshold)
        voltage_holds &= self.voltage_ref > self.threshold
        return voltage_holds & inside(temperature, *RANGE)

    def _require(self, voltage: Value) -> None:
        require_inside("voltage", voltage, self.voltage_lo, self.voltage_hi, "V")

    def _speed(self, voltage: Value, shift: Value) -> Result:
        overdrive = voltage - self.threshold - shift
        on = overdrive > 0
        return jnp.where(on, jnp.where(on, overdrive, 1.0) ** self.alpha, 0.0) / voltage


def syntiant_ndp9120() -> VoltageScaling:
    """Syntiant NDP9120 as measured in MLPerf Tiny v1.0: 30.7 MHz at 0.9 V, 98.7 MHz at 1.1 V.

    The threshold follows from the two clocks, the leakage from the energies of three networks at both voltages (0.78, 0.79
    and 0.80 mA); the switched capacitance is that of visual wake words. No temperature was varied.
    """
    results = "fit to MLPerf Tiny v1.0 results of the NDP9120 at 0.9 V and 1.1 V"
    numbers = {
        "threshold": (0.79278, f"{results}: clock ratio 3.215 with alpha 1.3"),
        "voltage_ref": (1.1, "MLPerf Tiny v1.0 result"),
        "frequency_ref": (98.7e6, "MLPerf Tiny v1.0 result"),
        "capacitance": (2.014e-10, f"{results}: visual wake words, 77.35 uJ per V^2 in 384.1e3 cycles"),
        "leakage_current": (0.7925e-3, f"{results}: mean over three networks"),
        "leakage_slope": (0.0, "assumed 0: one temperature only"),
        "voltage_lo": (0.9, "MLPerf Tiny v1.0 result: the two voltages measured"),
        "voltage_hi": (1.1, "MLPerf Tiny v1.0 result: the two voltages measured"),
    }
    return with_sources(VoltageScaling(), numbers)
