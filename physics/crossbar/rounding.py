"""Rounding to the nearest integer, with the slope a gradient should see.

    hard               exact value, slope 0
    straight_through   exact value, slope 1
    soft               floor(x) + (1 + tanh(s (f - 1/2)) / tanh(s / 2)) / 2,  f = x - floor(x), smooth; s: sharpness

Halves are rounded away from zero. The names are those of the cost model's policies.
"""

import jax
import jax.numpy as jnp

from physics.params import unknown_name
from physics.types import Result

POLICIES = ("hard", "straight_through", "soft")


def check_policy(policy: str) -> None:
    """ValueError for an unknown policy."""
    if policy not in POLICIES:
        raise ValueError(unknown_name("rounding", policy, POLICIES))


def nearest(x: Result, policy: str = "hard", sharpness: float = 8.0) -> Result:
    """`x` rounded to the nearest integer, halves away from zero; `sharpness` (1) is used by "soft" only."""
    if policy == "straight_through":
        return _through(x)
    if policy == "soft":
        below = jax.lax.stop_gradient(jnp.floor(x))
        return below + (1 + jnp.tanh(sharpness * (x - below - 0.5)) / jnp.tanh(sharpness / 2)) / 2
    return _away(x)


def _away(x: Result) -> Result:
    return jnp.trunc(x + jnp.copysign(0.5, x))


@jax.custom_jvp
def _through(x: Result) -> Result:
    return _away(x)


@_through.defjvp
def _through_jvp(primals, tangents):
    return _through(primals[0]), tangents[0]
