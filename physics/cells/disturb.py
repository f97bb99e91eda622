"""Read disturb: what reading does to the stored state. Hazards add up linearly over reads, in the log domain.

Magnetic cells: a read current lowers the barrier,

    ln h = ln(t_read / tau_0) - Delta(T) ramp(1 - |I| / I_c0)                  Delta: see ThermalStability

valid below the critical current I_c0; without current it is the retention hazard of the pulse. At and above I_c0 the
barrier is gone and the hazard saturates at t_read / tau_0: `ramp(x)` is x above 0.005, 0 below -0.005 and quadratic between.
Source: the precessional/thermal model used by Cheshmikhani et al., arXiv 2201.02855.

Resistive cells: ions hop in the direction of the field,

    ln h = ln(t_read rate_ref) - e_a / k (1/T - 1/T_ref) + ln[ sinh(V / V_0(T)) / sinh(V_ref / V_0(T_ref)) ]

with V_0(T) = V_0 T / T_ref, which vanishes at V = 0. Form: Stanford-PKU compact model as in MemTorch, where
V_0 = t_ox k T / (gamma a_0 q). No universal rate exists: the default is an assumption consistent with 1e9 reads without
loss of a level (CEA-Leti 2025).
Valid from 200 K to 700 K.

How far a level fades under reading: `ReadDisturb` in `physics.crossbar`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from physics.cells.logs import NEVER
from physics.cells.retention import ThermalStability
from physics.constants import BOLTZMANN_EV
from physics.params import ParameterTree, param
from physics.types import Result, Value
from physics.validity import Flag, inside

RAMP_HALF_WIDTH = 0.005
RANGE = (200.0, 700.0)  # K, where the laws hold


class MagneticDisturb(ParameterTree):
    """Read disturb of a magnetic tunnel junction; the barrier is that of its `ThermalStability`."""

    critical_current: Float[Array, ""] = param(
        60e-6, unit="A", lo=1e-7, hi=1e-2, log=True, source="assumed: 3/4 of the write current of NVSim's STT-RAM sample cell"
    )

    def log_hazard(
        self,
        stability: ThermalStability,
        temperature: Value,
        current: Value,
        duration: Value,
    ) -> Result:
        """ln of the hazard of one read with `current` (A, sign ignored) for `duration` (s, > 0) at `temperature` (K)."""
        barrier = stability.delta(temperature) * _ramp(1 - jnp.abs(current) / self.critical_current)
        return jnp.log(duration) - jnp.log(stability.tau_0) - barrier

    def valid(self, temperature: Value, current: Value) -> Flag:
        """Whether the law holds at `temperature` (K) and `current` (A): 200 K to 700 K, below the critical current."""
        return inside(temperature, *RANGE) & inside(jnp.abs(current), 0.0, self.critical_current)


class ResistiveDisturb(ParameterTree):
    """Read disturb of a resistive cell by field-driven ion hopping."""

    log_rate_ref: Float[Array, ""] = param(
        -6.9078, unit="ln 1/s", lo=-80.0, hi=40.0, source="assumed: 1e9 reads of 10 ns at 0.4 V, 300 K give a hazard of 0.01"
    )
    e_a: Float[Array, ""] = param(0.6, unit="eV", lo=0.0, hi=3.0, source="Stanford-PKU model, default in MemTorch")
    voltage_scale: Float[Array, ""] = param(
        0.0776, unit="V", lo=0.005, hi=2.0, log=True, source="Stanford-PKU: t_ox 12 nm, a_0 0.25 nm, gamma 16 at 300 K"
    )
    voltage_ref: Float[Array, ""] = param(0.4, unit="V", lo=0.01, hi=5.0, log=True, source="read voltage of NVSim's RRAM cell")
    temperature_ref: Float[Array, ""] = param(300.0, unit="K", lo=200.0, hi=700.0, source="chosen")

    def log_hazard(self, temperature: Value, voltage: Value, duration: Value) -> Result:
        """ln of the hazard of one read at `voltage` (V, sign ignored) for `duration` (s, > 0) at `temperature` (K).

        Non-smooth at V = 0, where it is -500 (no disturb) with zero slope.
        """
        nearness = (self.temperature_ref - temperature) / (temperature * self.temperature_ref)
        scale = self.voltage_scale * temperature / self.temperature_ref
        field = _log_sinh(jnp.abs(voltage) / scale) - _log_sinh(self.voltage_ref / self.voltage_scale)
        return jnp.log(duration) + self.log_rate_ref - self.e_a / BOLTZMANN_EV * nearness + field

    def valid(self, temperature: Value) -> Flag:
        """Whether the law holds at `temperature` (K): 200 K to 700 K."""
        return inside(temperature, *RANGE)


def _ramp(x: Array) -> Array:
    """max(x, 0), rounded off with a quadratic between -0.005 and 0.005; continuous slope."""
    inside = jnp.clip(x, -RAMP_HALF_WIDTH, RAMP_HALF_WIDTH)
    return jnp.where(x > RAMP_HALF_WIDTH, x, (inside + RAMP_HALF_WIDTH) ** 2 / (4 * RAMP_HALF_WIDTH))


def _log_sinh(x: Array) -> Array:
    """ln sinh x for x >= 0, `NEVER` at 0."""
    positive = x > 0
    safe = jnp.where(positive, x, 1.0)
    return jnp.where(positive, safe + jnp.log(-jnp.expm1(-2 * safe) / 2), NEVER)
