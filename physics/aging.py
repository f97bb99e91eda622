"""Aging of CMOS and package: mean time to failure by mechanism, and the life of a system in which the first one ends it.

    Electromigration     j^-n exp(e_a / kT)                                                            Black
    StressMigration      (T_free - T)^-n exp(e_a / kT)
    DielectricBreakdown  V^-(a - b T) exp((x + y / T + z T) / kT)                                      TDDB, RAMP
    BiasInstability      {-ln(1 - c / A(T)) T exp(d / kT)}^(1/beta),  A(T) = a / (1 + 2 exp(b / kT))   NBTI, RAMP
    ThresholdDrift       NBTI as a shift of the threshold voltage that grows with t^(1/6)              OldSpot
    Cycling              dT^-q exp(e_a / k T_mean)                                                     Coffin-Manson
    Corrosion            RH^-n exp(e_a / kT)                                                           Peck

Absolute constants of these laws mean nothing outside their papers, so all but ThresholdDrift are ratios to the time at
345 K and the reference stress: RAMP's 4000 FIT at 345 K shared by five mechanisms, 1.25e6 h each. Hotter means sooner, for
every law in its whole declared range. Public copies of RAMP disagree about signs: with (a - bT) and b = -0.081 the law
falls with temperature at every voltage of its range, and NBTI needs d = +0.0685 eV to fall at all; the other set is kept
as `signs="published"`.
Sources: RAMP (Srinivasan et al. 2004) through iacanaw/Chronos-RISCV and SST; hplp/oldspot; Peck's constants are
recalled, not verified.

Several mechanisms: the survivals multiply (`log_series_survival`), which are sums in the log domain. Adding up failure
rates, as RAMP does, is right for constant hazards only, and offered as `rule="published"`.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammaln, logsumexp
from jaxtyping import Array, Float

from physics.cells.logs import log_hazard_of
from physics.constants import BOLTZMANN_EV
from physics.params import ParameterTree, param, unknown_name
from physics.types import Result, Value
from physics.validity import Flag, in_bounds, inside

T_REF = 345.0  # K, where RAMP counts its failure rates
LOG_MTTF_REF = 22.227343  # ln s: 1.25e6 h
RAMP = "RAMP 2.0 (Chronos-RISCV reliability.h)"
OLDSPOT = "hplp/oldspot src/failure.cc"
SIGNS = ("physical", "published")
RULES = ("survival", "published")


class AgingLaw(ParameterTree):
    """A mechanism's mean time to failure; it falls with temperature everywhere in `RANGE` (K)."""

    RANGE: ClassVar[tuple[float, float]] = (250.0, 500.0)

    @abc.abstractmethod
    def log_mttf(self, temperature: Value) -> Result:
        """ln of the mean time to failure (s) at constant `temperature` (K) and the law's own stress."""

    def valid(self, temperature: Value) -> Flag:
        """Whether the law holds: `temperature` (K) in `RANGE`, every parameter (a voltage, a current) in its range."""
        return inside(temperature, *self.RANGE) & in_bounds(self)


class RelativeLaw(AgingLaw):
    """A law that is a ratio to the time at 345 K and the reference stress."""

    log_mttf_ref: Float[Array, ""] = param(
        LOG_MTTF_REF, unit="ln s", lo=0.0, hi=60.0, source="RAMP: 800 FIT at 345 K and reference stress, 1.25e6 h"
    )

    @abc.abstractmethod
    def _log_time(self, temperature: Value) -> Result:
        """ln of the time to failure up to a constant, at the law's own stress."""

    @abc.abstractmethod
    def _log_time_ref(self) -> Result:
        """The same at 345 K and the reference stress."""

    def log_mttf(self, temperature: Value) -> Result:
        """ln of the mean time to failure (s) at constant `temperature` (K) and the law's own stress."""
        return self.log_mttf_ref + self._log_time(temperature) - self._log_time_ref()


class Electromigration(RelativeLaw):
    """Black's law. Valid from 250 K to 500 K; defaults of RAMP, `Electromigration.oldspot()` has the other pair."""

    current_density: Float[Array, ""] = param(1.0, unit="1", lo=0.01, hi=100.0, log=True, source="chosen: relative to reference")
    exponent: Float[Array, ""] = param(1.1, unit="1", lo=1.0, hi=3.0, source=RAMP)
    e_a: Float[Array, ""] = param(0.9, unit="eV", lo=0.1, hi=2.0, source=RAMP)

    @classmethod
    def oldspot(cls) -> "Electromigration":
        """OldSpot's parameters: n = 2, 0.8 eV."""
        return cls(exponent=2.0, e_a=0.8)

    def _log_time(self, temperature: Value) -> Result:
        return -self.exponent * jnp.log(self.current_density) + self.e_a / BOLTZMANN_EV / temperature

    def _log_time_ref(self) -> Result:
        return self.e_a / BOLTZMANN_EV / T_REF


class StressMigration(RelativeLaw):
    """Migration under the stress of unequal expansion; stress-free at `temperature_free`, where the law is singular.

    Valid from 250 K to 440 K: nearer to the stress-free temperature life would grow again. The difference is kept above 10 K.
    """

    RANGE: ClassVar[tuple[float, float]] = (250.0, 440.0)
    temperature_free: Float[Array, ""] = param(500.0, unit="K", lo=495.0, hi=800.0, source=f"{RAMP}: metal deposition")
    exponent: Float[Array, ""] = param(2.5, unit="1", lo=0.5, hi=2.5, source=RAMP)
    e_a: Float[Array, ""] = param(0.9, unit="eV", lo=0.9, hi=2.0, source=RAMP)

    def _log_time(self, temperature: Value) -> Result:
        stress = jnp.maximum(self.temperature_free - temperature, 10.0)
        return -self.exponent * jnp.log(stress) + self.e_a / BOLTZMANN_EV / temperature

    def _log_time_ref(self) -> Result:
        return self._log_time(T_REF)


class DielectricBreakdown(RelativeLaw):
    """Time-dependent breakdown of the gate oxide (RAMP). Valid from 250 K to 500 K and 0.8 to 1.5 V (relative to 1 V)."""

    voltage: Float[Array, ""] = param(1.0, unit="V", lo=0.8, hi=1.5, source="chosen: nominal")
    a: Float[Array, ""] = param(78.0, unit="1", lo=20.0, hi=200.0, source=RAMP)
    b: Float[Array, ""] = param(0.081, unit="1/K", lo=0.0, hi=0.085, source=f"{RAMP}: magnitude; above, life rises with T")
    x: Float[Array, ""] = param(0.759, unit="eV", lo=0.7, hi=2.0, source=RAMP)
    y: Float[Array, ""] = param(66.8, unit="eV K", lo=0.0, hi=70.0, source=f"{RAMP}: magnitude")
    z: Float[Array, ""] = param(8.37e-4, unit="eV/K", lo=0.0, hi=1e-2, source=f"{RAMP}: magnitude")
    signs: str = eqx.field(static=True, default="physical")

    def __check_init__(self) -> None:
        _known("signs", self.signs, SIGNS)

    def _log_time(self, temperature: Value) -> Result:
        sign = -1.0 if self.signs == "physical" else 1.0
        steepness = self.a - sign * self.b * temperature
        barrier = self.x + sign * (self.y / temperature + self.z * temperature)
        return -steepness * jnp.log(self.voltage) + barrier / BOLTZMANN_EV / temperature

    def _log_time_ref(self) -> Result:
        sign = -1.0 if self.signs == "physical" else 1.0
        return (self.x + sign * (self.y / T_REF + self.z * T_REF)) / BOLTZMANN_EV / T_REF


class BiasInstability(RelativeLaw):
    """Negative-bias temperature instability (RAMP). Valid from 250 K to 500 K.

    With `signs="published"` life rises with temperature.
    """

    a: Float[Array, ""] = param(1.6328, unit="1", lo=1.0, hi=3.0, source=RAMP)
    b: Float[Array, ""] = param(0.07377, unit="eV", lo=0.0, hi=0.08, source=RAMP)
    c: Float[Array, ""] = param(0.01, unit="1", lo=1e-5, hi=0.02, log=True, source=RAMP)
    d: Float[Array, ""] = param(0.06852, unit="eV", lo=0.05, hi=0.5, source=f"{RAMP}: magnitude")
    beta: Float[Array, ""] = param(0.3, unit="1", lo=0.1, hi=1.0, source=RAMP)
    signs: str = eqx.field(static=True, default="physical")

    def __check_init__(self) -> None:
        _known("signs", self.signs, SIGNS)

    def _log_time(self, temperature: Value) -> Result:
        kt = BOLTZMANN_EV * temperature
        available = self.a / (1 + 2 * jnp.exp(self.b / kt))
        share = jnp.minimum(self.c / available, 0.99)
        d = self.d if self.signs == "physical" else -self.d
        return (jnp.log(-jnp.log1p(-share)) + jnp.log(temperature) + d / kt) / self.beta

    def _log_time_ref(self) -> Result:
        return self._log_time(jnp.asarray(T_REF))


class ThresholdDrift(AgingLaw):
    """NBTI as a growing threshold voltage (OldSpot's form of Joshi et al., IRPS 2012): interface traps and hole traps.

        shift = 2.7e-14 V duty' (5.5e12 v^4.5 exp(-0.08 eV / kT) t^(1/6) + 8e11 v^4.5 exp(-0.03 eV / kT))

    v: overdrive V - V_th (V), held at its fresh value; duty' = (d / (1 + sqrt((1 - d) / 2)))^(1/6), d: share of time under
    bias. Failed when the clock of the alpha-power law has slowed by `delay`. Times are the law's own, not relative to RAMP's.
    Valid from 250 K to 500 K, 0.7 to 1.3 V.
    """

    voltage: Float[Array, ""] = param(1.0, unit="V", lo=0.7, hi=1.3, source="assumed: nominal")
    threshold: Float[Array, ""] = param(0.49158, unit="V", lo=0.2, hi=0.6, source=f"{OLDSPOT}: PTM 45 nm")
    alpha: Float[Array, ""] = param(1.3, unit="1", lo=1.0, hi=2.0, source=OLDSPOT)
    duty: Float[Array, ""] = param(0.5, unit="1", lo=0.01, hi=1.0, source="assumed: half of the time under bias")
    delay: Float[Array, ""] = param(0.05, unit="1", lo=0.01, hi=0.5, source=f"{OLDSPOT}: 5 % slower")

    def log_mttf(self, temperature: Value) -> Result:
        """ln of the time (s) to the limit of the delay at constant `temperature` (K).

        Hole traps, which are there from the start, count for 95 % of the limit at most, so that the time stays positive.
        """
        interface, holes = self._traps(temperature)
        limit = self.limit()
        return 6 * (jnp.log(jnp.maximum(limit - holes, 0.05 * limit)) - jnp.log(interface))

    def threshold_shift(self, temperature: Value, duration: Value) -> Result:
        """Shift (V) of the threshold after `duration` (s, > 0) at `temperature` (K)."""
        interface, holes = self._traps(temperature)
        return interface * jnp.exp(jnp.log(duration) / 6) + holes

    def limit(self) -> Result:
        """Shift (V) at which the clock has slowed by `delay`."""
        return (self.voltage - self.threshold) * -jnp.expm1(-jnp.log1p(self.delay) / self.alpha)

    def _traps(self, temperature: Value) -> tuple[Array, Array]:
        """Shift (V) by interface traps after 1 s, and by hole traps."""
        duty = (self.duty / (1 + jnp.sqrt((1 - jnp.minimum(self.duty, 1 - 1e-6)) / 2))) ** (1 / 6)
        scale = 2.7e-14 * duty * (self.voltage - self.threshold) ** 4.5
        kt = BOLTZMANN_EV * temperature
        return scale * 5.5e12 * jnp.exp(-0.08 / kt), scale * 8e11 * jnp.exp(-0.03 / kt)


class Cycling(RelativeLaw):
    """Fatigue of package and solder by temperature cycles (Coffin-Manson, with Arrhenius' factor if e_a > 0).

    `log_mttf(T)` counts one cycle per day between `ambient` and T, as RAMP does: valid from 1 K above ambient to 500 K.
    """

    exponent: Float[Array, ""] = param(2.35, unit="1", lo=1.0, hi=9.0, source=f"{RAMP}: doubling the swing costs 5.1 times")
    e_a: Float[Array, ""] = param(0.0, unit="eV", lo=0.0, hi=1.0, source="assumed 0: RAMP has no such factor")
    ambient: Float[Array, ""] = param(318.15, unit="K", lo=230.0, hi=340.0, source=f"{RAMP}: 45 C")
    RANGE: ClassVar[tuple[float, float]] = (231.0, 500.0)

    def log_cycles(self, swing: Value, mean_temperature: Value) -> Result:
        """ln of the number of cycles of `swing` (K, taken as at least 1 K) around `mean_temperature` (K) to failure."""
        days = self.log_mttf_ref - jnp.log(jnp.asarray(86400.0))
        return days + self._fatigue(swing, mean_temperature) - self._log_time_ref()

    def valid(self, temperature: Value) -> Flag:
        """Whether the law holds: from 1 K above ambient to 500 K, every parameter in its range."""
        return super().valid(temperature) & (jnp.asarray(temperature) >= self.ambient + 1.0)

    def _log_time(self, temperature: Value) -> Result:
        return self._fatigue(temperature - self.ambient, (temperature + self.ambient) / 2)

    def _log_time_ref(self) -> Result:
        return self._log_time(jnp.asarray(T_REF))

    def _fatigue(self, swing: Value, mean: Value) -> Result:
        return -self.exponent * jnp.log(jnp.maximum(swing, 1.0)) + self.e_a / BOLTZMANN_EV / mean


class Corrosion(RelativeLaw):
    """Corrosion by humidity (Peck). Valid from 270 K to 400 K and 10 to 100 % relative humidity."""

    RANGE: ClassVar[tuple[float, float]] = (270.0, 400.0)
    humidity: Float[Array, ""] = param(0.5, unit="1", lo=0.1, hi=1.0, source="assumed: half of saturation, the reference")
    exponent: Float[Array, ""] = param(2.7, unit="1", lo=1.0, hi=5.0, source="Peck 1986, recalled")
    e_a: Float[Array, ""] = param(0.79, unit="eV", lo=0.1, hi=2.0, source="Peck 1986, recalled")

    def _log_time(self, temperature: Value) -> Result:
        return -self.exponent * jnp.log(self.humidity / 0.5) + self.e_a / BOLTZMANN_EV / temperature

    def _log_time_ref(self) -> Result:
        return self.e_a / BOLTZMANN_EV / T_REF


def soft_swing(temperatures: Float[Array, " points"], sharpness: Value = 1.0) -> Result:
    """Range (K) of a window of a temperature trace, smooth: log-sum-exp maximum minus minimum, exact for large sharpness (1/K).

    Counting half cycles exactly (rainflow) has no derivative. Below the exact range by at most 2 ln(points) / sharpness,
    at least 0.
    """
    centre = jnp.mean(temperatures)
    rise = sharpness * (temperatures - centre)
    count = jnp.log(jnp.asarray(float(temperatures.shape[0])))
    return (logsumexp(rise) + logsumexp(-rise) - 2 * count) / sharpness


def log_series_survival(log_time: Value, log_mttfs: Float[Array, " mechanisms"], shapes: Float[Array, " mechanisms"]) -> Result:
    """ln of the probability that no mechanism has ended the system at ln t (s); each Weibull with its mean and `shape`."""
    return -jnp.exp(jnp.minimum(_log_series_hazard(log_time, log_mttfs, shapes), 80.0))


def log_series_quantile(share: Value, log_mttfs: Float[Array, " mechanisms"], shapes: Float[Array, " mechanisms"]) -> Result:
    """ln of the time (s) at which a `share` (0 to 1) of such systems has failed."""
    target = log_hazard_of(jnp.log(share))
    single = (target + shapes * _log_scales(log_mttfs, shapes)) / shapes
    start = lax.stop_gradient(jnp.min(single))  # one mechanism alone: later than all together, so Newton never overshoots

    def newton(_: Any, log_time: Array) -> Array:
        weights = shapes * (log_time - _log_scales(log_mttfs, shapes))
        slope = jnp.sum(shapes * jnp.exp(weights - logsumexp(weights)))
        return log_time - (logsumexp(weights) - target) / slope

    found = lax.fori_loop(0, 30, lambda i, u: lax.stop_gradient(newton(i, u)), start)
    return newton(0, found)


def log_series_mttf(
    log_mttfs: Float[Array, " mechanisms"], shapes: Float[Array, " mechanisms"], rule: str = "survival"
) -> Result:
    """ln of the mean time to failure (s) of a system that its first mechanism ends.

    `rule="survival"`: the integral of the product of survivals, by 1,201 trapezoids in ln t (shapes from 0.5 to 20).
    `rule="published"`: sum of failure rates, right if every shape is 1. ValueError for another rule.
    """
    _known("rule", rule, RULES)
    if rule == "published":
        return -logsumexp(-log_mttfs)
    first = lax.stop_gradient(jnp.min(log_mttfs))
    grid = first + jnp.linspace(-24.0, 8.0, 1201)
    survival = -jnp.exp(jnp.minimum(jax.vmap(lambda u: _log_series_hazard(u, log_mttfs, shapes))(grid), 80.0))
    return logsumexp(survival + (grid - first)) + first + jnp.log(32.0 / 1200)


def _log_scales(log_mttfs: Array, shapes: Array) -> Array:
    """ln of Weibull's characteristic lives (s) from the means."""
    return log_mttfs - gammaln(1 + 1 / shapes)


def _log_series_hazard(log_time: Value, log_mttfs: Array, shapes: Array) -> Array:
    return logsumexp(shapes * (log_time - _log_scales(log_mttfs, shapes)))


def _known(what: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(unknown_name(what, name, names))
