"""Probabilities of rare events, carried as logarithms.

A hazard H is an expected number of failures; the probability of at least one is p = 1 - exp(-H). Retention hazards run
from 1e-60 to 1e+10, outside what float32 can hold, so states and laws use x = ln H:

    ln p = ln(1 - exp(-e^x)),   ln(1 - p) = -e^x,   ln(H1 + H2) = logaddexp(x1, x2)

All functions and their first two derivatives are finite for every finite x.
"""

import jax.numpy as jnp

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


def add_log(total: CompensatedSum, log_increment: Value) -> CompensatedSum:
    """A compensated ln H after adding exp(log_increment) to H: for millions of steps, where `log_sum` would lose them."""
    x = total.value
    gain = log_increment - x
    return total.add(jnp.maximum(gain, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(gain))))
