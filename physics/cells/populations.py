"""Populations: what share of many unequal cells is lost.

Cells differ. If the ln of a cell's retention time is normal with standard deviation s around that of the median cell,

    P = E_z[ 1 - exp(-H_50 exp(-s z)) ],   z ~ Normal(0, 1),   H_50: hazard of the median cell

`NormalBarrier`: Delta ~ Normal(mu, spread mu), so s = spread Delta(T), and it changes along a temperature trace.
`LognormalTime`: tau lognormal, s = sigma at every temperature.
The expectation is a smoothed step, on which Gauss-Hermite rules converge badly (8 % off with 32 points at mu 70, s 7);
the trapezoid rule on 801 points, 10 standard deviations around the largest term, converges exponentially
(relative error exp(-395 / s): below 1e-5 up to s = 30) and is summed in logarithms.

Published closed forms are kept as `form="published"`: P = H_50 exp(s^2 / 2) for barriers, that is Delta_eff = mu - s^2 / 2,
which holds only while s^2 < mu - ln(t / tau_0) (at mu 60, s 6 and ten years it is 180 times too large), and
P = Phi((ln t - ln tau_50) / sigma) for lognormal times, which leaves out that the loss of each cell is itself random.

Wear: the share of failed cells at accumulated damage D is Weibull, 1 - exp(-D^shape) with D = 1 at 63.2 %, or lognormal,
Phi(ln D / sigma) with D = 1 at the median.
Sources: spread of Delta 9.6 to 14.3 %: 16 kbit junction array, "bi-directional data flipping model" (2014).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import log_ndtr, logsumexp, ndtri
from jaxtyping import Array, Float

from physics.cells.logs import log_amount, log_failure_probability, log_hazard_of
from physics.cells.retention import Retention, ThermalStability
from physics.params import ParameterTree, param, unknown_name
from physics.types import Result, Scalar, Value
from physics.validity import Flag

LARGEST_STABILITY = 1000.0  # far above every memory cell

HALF_WIDTH = 10.0  # standard deviations
POINTS = 801
STEP = 2 * HALF_WIDTH / (POINTS - 1)
FORMS = ("exact", "published")


def log_mixed_failure(log_hazard: Value, sigma: Value) -> Result:
    """ln of the share of lost cells whose ln H is normal around `log_hazard` with deviation `sigma`; elementwise.

    With sigma = 0 all cells are alike. Reliable up to sigma = 30.
    """
    log_hazard, sigma = jnp.broadcast_arrays(jnp.asarray(log_hazard, float), jnp.asarray(sigma, float))
    return _expectation(lambda z: log_hazard[..., None] - sigma[..., None] * z, log_hazard, sigma)


def _expectation(log_hazard_at: Callable[[Array], Array], median: Array, sigma: Array) -> Array:
    """ln E_z[1 - exp(-H(z))]: trapezoid in z around the largest term, whose place need not be exact and has no slope."""
    peak = jnp.clip(-median / jnp.maximum(sigma, 1e-6), 0.0, sigma)
    z = lax.stop_gradient(-peak)[..., None] + jnp.linspace(-HALF_WIDTH, HALF_WIDTH, POINTS)
    density = -(z**2) / 2 + jnp.log(STEP / jnp.sqrt(2 * jnp.pi))
    return jnp.minimum(logsumexp(density + log_failure_probability(log_hazard_at(z)), axis=-1), 0.0)


class NormalBarrier(ParameterTree):
    """Junctions whose stability factors are normal with a standard deviation of `spread` times the mean."""

    stability: ThermalStability
    spread: Float[Array, ""] = param(
        0.096, unit="1", lo=0.0, hi=0.3, source="16 kbit p-MTJ array, sigma(Delta)/Delta 9.6 to 14.3 % (2014): the smaller"
    )

    def valid(self, temperature: Value, duration: Value, form: str = "exact") -> Flag:
        """Whether the law, and for `form="published"` the closed form, hold at `temperature` (K) after `duration` (s)."""
        room = self.stability.log_time(temperature) - log_amount(duration)
        sigma = self._sigma(temperature)
        limit = sigma**2 < room if form == "published" else sigma <= 30.0
        return self.stability.valid(temperature) & limit

    def effective_stability(self, temperature: Value) -> Result:
        """Delta_eff = mu - s^2 / 2 at `temperature` (K): the published closed form; see `valid(..., form="published")`."""
        return self.stability.delta(temperature) - self._sigma(temperature) ** 2 / 2

    def log_error_rate(self, temperature: Value, duration: Value, form: str = "exact") -> Result:
        """ln of the bit error rate after `duration` (s) at `temperature` (K); ValueError for an unknown `form`."""
        median = self.stability.log_hazard(temperature, duration)
        if form == "published":
            return jnp.minimum(median + self._sigma(temperature) ** 2 / 2, 0.0)
        _known(form)
        return log_mixed_failure(median, self._sigma(temperature))

    def log_error_rate_of_trace(self, temperatures: Float[Array, " points"], durations: Float[Array, " points"]) -> Result:
        """ln of the bit error rate after a trace of `durations` (s) at `temperatures` (K); exact for every junction."""
        median = self.stability.log_hazard(temperatures, durations)
        hottest = jnp.argmax(median)

        def log_hazard_at(z: Array) -> Array:
            return logsumexp(median[:, None] - self._sigma(temperatures)[:, None] * z, axis=0)

        return _expectation(log_hazard_at, logsumexp(median), self._sigma(temperatures[hottest]))

    def required_stability(self, temperature: Scalar, duration: Scalar, error_rate: Scalar) -> Result:
        """Mean Delta at `temperature` (K) for a bit error rate of `error_rate` after `duration` (s) with this spread.

        Solved by bisection with one Newton step, which carries the derivatives. Infinite where more than 1000 were needed:
        the weakest cells of a wide spread then stay below the requirement whatever the mean.
        """
        target, start = jnp.log(error_rate), jnp.log(duration) - jnp.log(self.stability.tau_0)

        def excess(mean: Value) -> Array:
            return log_mixed_failure(start - mean, self.spread * mean) - target

        def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = (low + high) / 2
            more = excess(middle) > 0
            return jnp.where(more, middle, low), jnp.where(more, high, middle)

        low = jnp.zeros_like(target + start + self.spread)
        low, high = lax.fori_loop(0, 40, halve, lax.stop_gradient((low, low + LARGEST_STABILITY)))
        found = lax.stop_gradient((low + high) / 2)
        slope = lax.stop_gradient((excess(found * 1.001) - excess(found * 0.999)) / (0.002 * found))
        return jnp.where(excess(LARGEST_STABILITY) > 0, jnp.inf, found - excess(found) / slope)

    def _sigma(self, temperature: Value) -> Result:
        return self.spread * self.stability.delta(temperature)


class LognormalTime(ParameterTree):
    """Cells whose retention times are lognormal around those of `law`, the median cell."""

    law: Retention
    sigma: Float[Array, ""] = param(0.5, unit="1", lo=0.0, hi=10.0, source="assumed: no published value for these stacks")

    def valid(self, temperature: Value) -> Flag:
        """Whether the law holds at `temperature` (K)."""
        return self.law.valid(temperature)

    def log_error_rate(self, temperature: Value, duration: Value, form: str = "exact") -> Result:
        """ln of the share of cells lost after `duration` (s) at `temperature` (K).

        `form="published"`: Phi((ln t - ln tau_50) / sigma). ValueError for another form.
        """
        return self._share(self.law.log_hazard(temperature, duration), form)

    def log_error_rate_of_trace(
        self, temperatures: Float[Array, " points"], durations: Float[Array, " points"], form: str = "exact"
    ) -> Result:
        """ln of the share of cells lost after a trace of `durations` (s) at `temperatures` (K)."""
        return self._share(self.law.log_hazard_of_trace(temperatures, durations), form)

    def _share(self, median: Result, form: str) -> Result:
        if form == "published":
            return log_ndtr(median / jnp.maximum(self.sigma, 1e-3))
        _known(form)
        return log_mixed_failure(median, self.sigma)


class WeibullLives(ParameterTree):
    """Share of failed cells 1 - exp(-D^shape)."""

    shape: Float[Array, ""] = param(2.0, unit="1", lo=0.2, hi=20.0, source="assumed: Weibull slope of the population")

    def log_failed(self, log_damage: Value) -> Result:
        """ln of the share of failed cells at ln D."""
        return log_failure_probability(self.shape * log_damage)

    def log_damage(self, share: Value) -> Result:
        """ln D at which `share` (0 to 1) of the cells have failed."""
        return log_hazard_of(jnp.log(share)) / self.shape


class LognormalLives(ParameterTree):
    """Share of failed cells Phi(ln D / sigma)."""

    sigma: Float[Array, ""] = param(
        0.64, unit="1", lo=0.02, hi=7.0, source="assumed: same variance of ln N as a Weibull slope of 2"
    )

    def log_failed(self, log_damage: Value) -> Result:
        """ln of the share of failed cells at ln D."""
        return log_ndtr(jnp.asarray(log_damage / self.sigma, float))

    def log_damage(self, share: Value) -> Result:
        """ln D at which `share` (0 to 1) of the cells have failed."""
        return self.sigma * ndtri(jnp.asarray(share, float))


def _known(form: str) -> None:
    if form not in FORMS:
        raise ValueError(unknown_name("form", form, FORMS))
