"""Read disturb of a crossbar's low resistance state: a threshold in time, then a power law.

    p = c1 exp(a |V| / kT),    t_transition = t0 (F (1 - k N^m))^(1/p),    G / G0 = min(1, (t / t_transition)^-p)

t: total time under the read voltage V (number of reads times read time), N: set-reset cycles the cell has seen. Only LRS
cells lose conductance. Written as G / G0 = min(1, F (1 - k N^m) (t / t0)^-p), which needs no number beyond float32.
Published at 300 K; p(T) is the published expression with the cell's temperature, an extrapolation. Valid for |V| <= 0.4 V,
up to which it was used, and N below 1.4e6, where k N^m reaches 1 and nothing is left. Source: CIM-Explorer / analog-cim-sim
(constants resemble a fit to the JART VCM model, unverified). For hazards of reading see `physics.cells.disturb`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from physics.constants import BOLTZMANN_EV
from physics.params import Param, ParameterTree, check_range, param
from physics.types import Result, Value

FIT = "analog-cim-sim, read disturb model"
LARGEST_VOLTAGE = 0.4
VOLTAGE = Param(unit="V", lo=-LARGEST_VOLTAGE, hi=LARGEST_VOLTAGE, log=False, source="largest read voltage of CIM-Explorer")
FRESHNESS_LEFT = 1e-6  # where the law ends (k N^m = 1) a logarithm of this stands for nothing


class ReadDisturb(ParameterTree):
    """Loss of LRS conductance by reading."""

    t_0: Float[Array, ""] = param(1.55e-8, unit="s", lo=1e-15, hi=1.0, log=True, source=FIT)
    onset: Float[Array, ""] = param(1.43339, unit="1", lo=1.0, hi=100.0, source=FIT + ": fitting parameter F")
    exponent_0: Float[Array, ""] = param(0.0068, unit="1", lo=1e-4, hi=0.5, log=True, source=FIT + ": c1")
    hop_distance: Float[Array, ""] = param(0.11, unit="eV/V", lo=0.0, hi=2.0, source=FIT + ": a")
    fatigue: Float[Array, ""] = param(0.003, unit="1", lo=0.0, hi=1.0, source=FIT + ": k")
    fatigue_exponent: Float[Array, ""] = param(0.41, unit="1", lo=0.1, hi=2.0, source=FIT + ": m")

    def exponent(self, voltage: Value, temperature: Value = 300.0) -> Result:
        """p at `voltage` (V, sign ignored) and `temperature` (K). ValueError above 0.4 V."""
        check_range("ReadDisturb voltage", voltage, VOLTAGE)
        return self.exponent_0 * jnp.exp(self.hop_distance * jnp.abs(voltage) / (BOLTZMANN_EV * temperature))

    def log_transition_time(self, voltage: Value, temperature: Value = 300.0, cycles: Value = 0.0) -> Result:
        """ln of the time (s) after which conductance is lost, for a cell with `cycles` set-reset cycles."""
        log_fresh = jnp.log(jnp.maximum(self._freshness(cycles), FRESHNESS_LEFT))
        return jnp.log(self.t_0) + (jnp.log(self.onset) + log_fresh) / self.exponent(voltage, temperature)

    def factor(self, time: Value, voltage: Value, temperature: Value = 300.0, cycles: Value = 0.0) -> Result:
        """G / G0 of an LRS cell after `time` (s) under `voltage` (V); 1 up to the transition time, where it has a kink."""
        positive = jnp.asarray(time) > 0
        log_time = jnp.log(jnp.where(positive, time, 1.0)) - jnp.log(self.t_0)
        left = self.onset * self._freshness(cycles) * jnp.exp(-self.exponent(voltage, temperature) * log_time)
        return jnp.where(positive, jnp.minimum(left, 1.0), 1.0)

    def _freshness(self, cycles: Value) -> Result:
        """1 - k N^m, not below 0; slope 0 at N = 0."""
        used = jnp.asarray(cycles) > 0
        worn = self.fatigue * jnp.where(used, cycles, 1.0) ** self.fatigue_exponent
        return jnp.maximum(1 - jnp.where(used, worn, 0.0), 0.0)
