"""Read disturb of a crossbar's low resistance state: a threshold in time, then a power law.

    p = c1 exp(a |V| / k 300 K),    t_transition = t0 (F (1 - k N^m))^(1/p),    G / G0 = min(1, (t / t_transition)^-p)

t: total time under the read voltage V (number of reads times read time), N: set-reset cycles the cell has seen. Only LRS
cells lose conductance. Written as G / G0 = min(1, F (1 - k N^m) (t / t0)^-p), which needs no number beyond float32.
Published at 300 K only. Heat speeds it up: at T the time counts exp(e_a / k (1 / 300 K - 1 / T)) times, a model assumption.
`form="published"` puts T into p instead, as the expression is printed, by which heat would protect the cells. Valid for
|V| <= 0.4 V, up to which it was used, and N below 1.4e6, where k N^m reaches 1 and nothing is left. Source: CIM-Explorer /
analog-cim-sim (constants resemble a fit to the JART VCM model, unverified). For hazards see `physics.cells.disturb`.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from physics.constants import BOLTZMANN_EV
from physics.params import Param, ParameterTree, check_range, param, unknown_name
from physics.types import Result, Value
from physics.validity import Flag, inside

FIT = "analog-cim-sim, read disturb model"
LARGEST_VOLTAGE = 0.4
VOLTAGE = Param(unit="V", lo=-LARGEST_VOLTAGE, hi=LARGEST_VOLTAGE, log=False, source="largest read voltage of CIM-Explorer")
REFERENCE = 300.0  # K, of the publication
FORMS = ("physical", "published")
EARLIEST = 60.0  # exponents beyond this, long before the transition, would overflow float32
FRESHNESS_LEFT = 1e-6  # where the law ends (k N^m = 1) a logarithm of this stands for nothing


class ReadDisturb(ParameterTree):
    """Loss of LRS conductance by reading."""

    t_0: Float[Array, ""] = param(1.55e-8, unit="s", lo=1e-15, hi=1.0, log=True, source=FIT)
    onset: Float[Array, ""] = param(1.43339, unit="1", lo=1.0, hi=100.0, source=FIT + ": fitting parameter F")
    exponent_0: Float[Array, ""] = param(0.0068, unit="1", lo=1e-4, hi=0.5, log=True, source=FIT + ": c1")
    hop_distance: Float[Array, ""] = param(0.11, unit="eV/V", lo=0.0, hi=2.0, source=FIT + ": a")
    fatigue: Float[Array, ""] = param(0.003, unit="1", lo=0.0, hi=1.0, source=FIT + ": k")
    fatigue_exponent: Float[Array, ""] = param(0.41, unit="1", lo=0.1, hi=2.0, source=FIT + ": m")
    e_a: Float[Array, ""] = param(0.6, unit="eV", lo=0.0, hi=3.0, source="assumed: ion hopping of the Stanford-PKU model")
    form: str = eqx.field(static=True, default="physical")

    def __check_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(unknown_name("form", self.form, FORMS))

    def exponent(self, voltage: Value, temperature: Value = 300.0) -> Result:
        """p at `voltage` (V, sign ignored) and `temperature` (K). ValueError above 0.4 V."""
        check_range("ReadDisturb voltage", voltage, VOLTAGE)
        felt = temperature if self.form == "published" else REFERENCE
        return self.exponent_0 * jnp.exp(self.hop_distance * jnp.abs(voltage) / (BOLTZMANN_EV * felt))

    def log_transition_time(self, voltage: Value, temperature: Value = 300.0, cycles: Value = 0.0) -> Result:
        """ln of the time (s) after which conductance is lost, for a cell with `cycles` set-reset cycles."""
        log_fresh = jnp.log(jnp.maximum(self._freshness(cycles), FRESHNESS_LEFT))
        start = jnp.log(self.t_0) - self._log_haste(temperature)
        return start + (jnp.log(self.onset) + log_fresh) / self.exponent(voltage, temperature)

    def factor(self, time: Value, voltage: Value, temperature: Value = 300.0, cycles: Value = 0.0) -> Result:
        """G / G0 of an LRS cell after `time` (s) under `voltage` (V); 1 up to the transition time, where it has a kink."""
        positive = jnp.asarray(time) > 0
        log_time = jnp.log(jnp.where(positive, time, 1.0)) - jnp.log(self.t_0) + self._log_haste(temperature)
        faded = jnp.exp(jnp.minimum(-self.exponent(voltage, temperature) * log_time, EARLIEST))
        return jnp.where(positive, jnp.minimum(self.onset * self._freshness(cycles) * faded, 1.0), 1.0)

    def valid(self, voltage: Value, cycles: Value = 0.0) -> Flag:
        """Whether the law holds: |V| up to 0.4 V, and a transition not earlier than t0 (fresher than about 7.6e4 cycles)."""
        return inside(jnp.abs(voltage), 0.0, LARGEST_VOLTAGE) & (self.onset * self._freshness(cycles) > 1)

    def _log_haste(self, temperature: Value) -> Result:
        """ln of how much faster than at 300 K time counts."""
        if self.form == "published":
            return jnp.zeros(())
        return self.e_a / BOLTZMANN_EV * (1 / REFERENCE - 1 / jnp.asarray(temperature, float))

    def _freshness(self, cycles: Value) -> Result:
        """1 - k N^m, not below 0; slope 0 at N = 0."""
        used = jnp.asarray(cycles) > 0
        worn = self.fatigue * jnp.where(used, cycles, 1.0) ** self.fatigue_exponent
        return jnp.maximum(1 - jnp.where(used, worn, 0.0), 0.0)
