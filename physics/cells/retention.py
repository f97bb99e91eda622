"""Retention: how long a cell keeps its state.

    Retention          ln tau(T) = ln tau_ref + e_a / k (1/T - 1/T_ref)          one thermally activated process
    ThermalStability   ln tau(T) = ln tau_0 + Delta_ref (T_ref / T)^exponent      magnetic barrier, tau_0 = 1 ns

tau: mean time to loss of one cell (s), T: cell temperature (K), e_a: activation energy (eV). Parametrised at a reference
temperature, because prefactor and activation energy are strongly anti-correlated in fits. Loss is first order, so under
a varying temperature the hazard H = integral of dt / tau(T) is the exact state variable; p = 1 - exp(-H).
Valid from 200 K to 700 K. Sources: Arrhenius; Neel and Brown for the magnetic barrier (constant barrier: exponent 1; the
barrier of real junctions falls somewhat faster).

When is a cell in danger? A published rule migrates data when tau falls below 1 ms. No non-volatile cell gets there
(HfOx would need 670 C), so it is kept as the option `rule="published"`; the default asks whether H stays inside a budget.

Many cells: the share of cells lost, the bit error rate, is p when all cells are alike; when they differ see `populations.py`.
"""

import abc

import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from physics.cells.logs import log_amount, log_failure_probability, log_hazard_of, log_sum
from physics.constants import BOLTZMANN_EV
from physics.params import ParameterTree, as_leaf, param, unknown_name
from physics.types import Result, Value
from physics.validity import Flag, inside

PUBLISHED_THRESHOLD = 1e-3  # s
HOTTEST = 2000.0  # K, reported where no temperature would exhaust the budget
RANGE = (200.0, 700.0)  # K, where the laws hold
RULES = ("budget", "published")


class RetentionLaw(ParameterTree):
    """What every retention law offers; laws define `log_time` and `temperature_at`."""

    @abc.abstractmethod
    def log_time(self, temperature: Value) -> Result:
        """Natural logarithm of the retention time tau (s) at `temperature` (K)."""

    @abc.abstractmethod
    def temperature_at(self, log_time: Value) -> Result:
        """Temperature (K) at which ln tau (s) equals `log_time`; at most 2000 K, with zero slope there."""

    def log_hazard_rate(self, temperature: Value) -> Result:
        """ln(1 / tau) (ln 1/s) at `temperature` (K)."""
        return -self.log_time(temperature)

    def log_hazard(self, temperature: Value, duration: Value) -> Result:
        """ln H gathered in `duration` (s) at constant `temperature` (K); -500 and below mean none."""
        return log_amount(duration) + self.log_hazard_rate(temperature)

    def accumulate(self, log_hazard: Value, temperature: Value, duration: Value) -> Result:
        """ln H after a further `duration` (s) at `temperature` (K).

        In float32 an increment below 1e-7 |ln H| of H is lost; for very many steps keep a `LogTotal` and `add` to it.
        """
        return log_sum(log_hazard, self.log_hazard(temperature, duration))

    def temperature_budget(self, duration: Value, budget: Value = 1.0) -> Result:
        """Temperature (K) at which the hazard of `duration` (s) equals `budget`: closed form, smooth.

        With budget 1 and ten years this is the usual "ten-year temperature".
        """
        return self.temperature_at(jnp.log(duration) - jnp.log(budget))

    def margin(
        self,
        temperature: Value,
        duration: Value,
        budget: Value = 1e-6,
        rule: str = "budget",
    ) -> Result:
        """Kelvins left before the data must be moved or refreshed; negative means now.

        `rule="budget"`: until the hazard of `duration` (s) exceeds `budget`. `rule="published"`: until tau < 1 ms.
        ValueError for another rule.
        """
        if rule == "budget":
            return self.temperature_budget(duration, budget) - temperature
        if rule == "published":
            return self.temperature_at(jnp.log(jnp.asarray(PUBLISHED_THRESHOLD))) - temperature
        raise ValueError(unknown_name("rule", rule, RULES))

    def valid(self, temperature: Value) -> Flag:
        """Whether the law holds at `temperature` (K): 200 K to 700 K."""
        return inside(temperature, *RANGE)

    def log_error_rate(self, temperature: Value, duration: Value) -> Result:
        """ln of the share of cells lost (bit error rate) after `duration` (s) at constant `temperature` (K), all cells alike."""
        return log_failure_probability(self.log_hazard(temperature, duration))

    def log_hazard_of_trace(self, temperatures: Float[Array, " points"], durations: Float[Array, " points"]) -> Result:
        """ln H gathered along a trace: `durations` (s) at constant `temperatures` (K). One sum, no loss of small parts."""
        return logsumexp(self.log_hazard(temperatures, durations))

    def log_hazard_of_ramp(self, first: Value, last: Value, duration: Value) -> Result:
        """ln H gathered while the temperature goes from `first` to `last` (K) evenly in `duration` (s).

        Takes ln tau as linear in time in each half: the error is below 0.5 % for ramps up to 5 % of the temperature.
        """
        low, middle, high = (self.log_hazard_rate(t) for t in (first, (first + last) / 2, last))
        halves = [(x + y) / 2 + _log_sinhc((y - x) / 2) for x, y in ((low, middle), (middle, high))]
        return log_amount(duration) + log_sum(*halves) - jnp.log(2.0)

    def log_refresh_interval(self, temperature: Value, budget: Value = 1e-6) -> Result:
        """ln of the longest time (s) between rewrites at `temperature` (K) that keeps the hazard of each within `budget`."""
        return self.log_time(temperature) + jnp.log(budget)

    def log_margin(
        self, log_hazard: Value, temperature: Value, duration: Value, budget: Value = 1e-6, rule: str = "budget"
    ) -> Result:
        """What is left before a task of `duration` (s) at `temperature` (K) needs its data refreshed or migrated first.

        `rule="budget"`: ln of budget over (the hazard so far, `log_hazard`, plus that of the task); negative means now.
        `rule="published"`: ln(tau / 1 ms), whatever has been gathered. ValueError for another rule.
        """
        if rule == "budget":
            return jnp.log(budget) - self.accumulate(log_hazard, temperature, duration)
        if rule == "published":
            return self.log_time(temperature) - jnp.log(jnp.asarray(PUBLISHED_THRESHOLD))
        raise ValueError(unknown_name("rule", rule, RULES))


class Retention(RetentionLaw):
    """Loss of a stored level by one thermally activated process (Arrhenius)."""

    log_tau_ref: Float[Array, ""] = param(
        24.3622, unit="ln s", lo=-30.0, hi=200.0, source="fit to HfOx bake times, see hfox_reram()"
    )
    e_a: Float[Array, ""] = param(1.5588, unit="eV", lo=0.1, hi=4.0, source="fit to HfOx bake times, see hfox_reram()")
    temperature_ref: Float[Array, ""] = param(
        358.15, unit="K", lo=200.0, hi=700.0, source="chosen: 85 C, the usual operating limit"
    )

    @classmethod
    def from_prefactor(cls, log10_tau_0: float, e_a: float, temperature_ref: float = 358.15) -> "Retention":
        """From the prefactor, as log10 of seconds, and the activation energy (eV)."""
        log_tau = log10_tau_0 * jnp.log(10.0) + e_a / (BOLTZMANN_EV * temperature_ref)
        return cls(log_tau_ref=log_tau, e_a=as_leaf(e_a), temperature_ref=as_leaf(temperature_ref))

    def log_time(self, temperature: Value) -> Result:
        """Natural logarithm of the retention time tau (s) at `temperature` (K)."""
        nearness = (self.temperature_ref - temperature) / (temperature * self.temperature_ref)
        return self.log_tau_ref + self.e_a / BOLTZMANN_EV * nearness

    def temperature_at(self, log_time: Value) -> Result:
        """Temperature (K) at which ln tau (s) equals `log_time`; at most 2000 K, with zero slope there."""
        slowdown = BOLTZMANN_EV * self.temperature_ref / self.e_a * (log_time - self.log_tau_ref)
        return self.temperature_ref / jnp.maximum(1 + slowdown, self.temperature_ref / HOTTEST)


class ThermalStability(RetentionLaw):
    """Loss of a magnetic bit over its energy barrier, Delta = E_b / kT."""

    delta_ref: Float[Array, ""] = param(
        72.3, unit="1", lo=1.0, hi=300.0, source="bit error rate 1e-6 in ten years at 125 C, constant barrier"
    )
    temperature_ref: Float[Array, ""] = param(298.15, unit="K", lo=200.0, hi=700.0, source="chosen: 25 C")
    tau_0: Float[Array, ""] = param(1e-9, unit="s", lo=1e-12, hi=1e-7, log=True, source="attempt time, convention")
    exponent: Float[Array, ""] = param(1.0, unit="1", lo=0.5, hi=4.0, source="constant barrier; larger if it falls with T")

    def delta(self, temperature: Value) -> Result:
        """Thermal stability factor Delta at `temperature` (K)."""
        return self.delta_ref * (self.temperature_ref / temperature) ** self.exponent

    def log_time(self, temperature: Value) -> Result:
        """Natural logarithm of the retention time tau (s) at `temperature` (K)."""
        return jnp.log(self.tau_0) + self.delta(temperature)

    def temperature_at(self, log_time: Value) -> Result:
        """Temperature (K) at which ln tau (s) equals `log_time`; at most 2000 K, with zero slope there."""
        coldest_delta = self.delta_ref * (self.temperature_ref / HOTTEST) ** self.exponent
        needed = jnp.maximum(log_time - jnp.log(self.tau_0), coldest_delta)
        return self.temperature_ref * (self.delta_ref / needed) ** (1 / self.exponent)


def required_stability(duration: Value, error_rate: Value, tau_0: Value = 1e-9, cells: Value = 1.0) -> Result:
    """Stability factor Delta that a junction needs at its temperature: ln(t / tau_0) - ln H, all cells alike.

    `duration` (s), `error_rate`: probability in (0, 1) that one of `cells` cells is lost, `tau_0` (s). Ten years at 1e-6
    need 54.1. For a population see `NormalBarrier.required_stability`.
    """
    return jnp.log(duration) - jnp.log(tau_0) + jnp.log(cells) - log_hazard_of(jnp.log(error_rate))


def _log_sinhc(x: Array) -> Array:
    """ln(sinh x / x), even, 0 at 0; the series is right to 4e-10 where it is used."""
    size = jnp.abs(x)
    small = size < 0.1
    safe = jnp.where(small, 1.0, size)
    exact = safe + jnp.log(-jnp.expm1(-2 * safe) / 2) - jnp.log(safe)
    return jnp.where(small, x**2 / 6 - x**4 / 180, exact)
