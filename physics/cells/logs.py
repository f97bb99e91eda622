"""Probabilities of rare events, carried as logarithms.

A hazard H is an expected number of failures; the probability of at least one is p = 1 - exp(-H). Retention hazards run
from 1e-60 to 1e+10, outside what float32 can hold, so states and laws use x = ln H:

    ln p = ln(1 - exp(-e^x)),   ln(1 - p) = -e^x,   ln(H1 + H2) = logaddexp(x1, x2)

All functions and their first two derivatives are finite for every finite x.

A float32 ln H that gathers very many increments loses them once each is below 1e-7 |ln H| of H: `LogTotal` keeps them.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from physics.compensated import CompensatedSum
from physics.types import Result, Value

NEVER = -500.0  # ln of a hazard that stands for none; finite, so that its derivatives are
SATURATED = 7.0  # above, e^-H is below the smallest float64
LARGEST = 80.0  # e^80 is still finite in float32


def log_failure_probability(log_hazard: Value) -> Result:
    """ln(1 - exp(-H)) for x = ln H. At most 0, equal to 0 with zero slope above x = 7."""
    x = jnp.minimum(log_hazard, SATURATED)
    rare, frequent = jnp.minimum(x, -15.0), jnp.maximum(x, -15.0)
    hazard = jnp.exp(frequent)
    low, high = jnp.minimum(hazard, 0.7), jnp.maximum(hazard, 0.7)
    exact = jnp.where(hazard < 0.7, jnp.log(-jnp.expm1(-low)), jnp.log1p(-jnp.exp(-high)))
    return jnp.where(x < -15.0, rare - jnp.exp(rare) / 2, exact)


def log_survival(log_hazard: Value) -> Result:
    """ln exp(-H) = -H for x = ln H; constant above x = 80, where nothing survives."""
    return -jnp.exp(jnp.minimum(log_hazard, LARGEST))


def log_sum(first: Value, second: Value) -> Result:
    """ln(H1 + H2) of two logarithms; finite arguments (use `NEVER` for none)."""
    larger = jnp.maximum(first, second)
    return larger + jnp.log1p(jnp.exp(jnp.minimum(first, second) - larger))


def log_amount(amount: Value) -> Result:
    """ln of an amount >= 0 (a time, a number of reads), not below `NEVER`; slope 0 at amount = 0."""
    positive = amount > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, amount, 1.0)), NEVER)


def log_hazard_of(log_probability: Value) -> Result:
    """ln H of the hazard that makes ln p: inverts `log_failure_probability`; ln p is kept below minus the rounding error."""
    y = jnp.asarray(log_probability, float)
    y = jnp.minimum(y, -jnp.finfo(y.dtype).eps)
    rare, frequent = jnp.minimum(y, -15.0), jnp.maximum(y, -15.0)
    p = jnp.exp(jnp.minimum(frequent, -0.5))
    likely = jnp.log(-jnp.expm1(jnp.maximum(frequent, -0.5)))
    hazard = jnp.where(frequent < -0.5, -jnp.log1p(-p), -likely)
    return jnp.where(y < -15.0, rare + jnp.exp(rare) / 2, jnp.log(hazard))


def add_log(total: CompensatedSum, log_increment: Value) -> CompensatedSum:
    """A compensated ln H after adding exp(log_increment) to H: for millions of steps, where `log_sum` would lose them."""
    gain = (log_increment - total.high) - total.low
    larger = gain > 0  # then the sum starts anew from the increment: ln H may rise by thousands without rounding
    base = CompensatedSum(jnp.where(larger, log_increment, total.high), jnp.where(larger, 0.0, total.low))
    return base.add(jnp.log1p(jnp.exp(jnp.where(larger, -gain, gain))))


class LogTotal(eqx.Module):
    """ln of a growing sum, in two floats: no increment is lost until the sum is 1e13 times as large, in float32 too.

    The state of an accumulated hazard: begin with `start()`, `add` the ln of every increment, `restart` where cells are
    rewritten, read `value`. Derivatives are those of ln(e^x + e^y).
    """

    total: CompensatedSum

    @classmethod
    def start(cls, log_value: Value = NEVER) -> "LogTotal":
        """A sum that begins at exp(log_value); by default at none."""
        return cls(CompensatedSum.start(log_value))

    def add(self, log_increment: Value) -> "LogTotal":
        """The sum plus exp(log_increment), elementwise."""
        return LogTotal(add_log(self.total, log_increment))

    def restart(self, where: Bool[Array, "..."] | bool, log_value: Value = NEVER) -> "LogTotal":
        """The sum begun anew at exp(log_value) where `where` is true."""
        high, low = self.total.high, self.total.low
        return LogTotal(CompensatedSum(jnp.where(where, log_value, high), jnp.where(where, 0.0, low)))

    @property
    def value(self) -> Result:
        """ln of the sum, rounded once."""
        return self.total.value
