"""Running mean and variance of observations, and observations seen through them.

Batches are merged by the parallel form of Welford's recurrence (Chan, Golub and LeVeque, 1979):

    n = n_a + n_b,  d = m_b - m_a,  m = m_a + d n_b / n,  v = (n_a v_a + n_b v_b + d^2 n_a n_b / n) / n

with population variances v. It starts from mean 0 and variance 1 without any weight: a start of even 1e-4 observations
would add its distance from the true mean to the variance, and outweigh it for readings like 318 K +- 0.1 K. What is
counted is the observation that each step ended in: the first ones of episodes, set by the reset and not by the policy,
are left out. Stored transitions stay raw and are normalised with the statistics of the moment they are used, so that old
and new ones are on one scale.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

VARIANCE_FLOOR = 1e-8
LIMIT = 10.0  # standard deviations; what lies beyond is clipped


class Statistics(NamedTuple):
    """Observations seen (a float, so that it cannot overflow), and their mean and variance."""

    seen: Float[Array, "*seeds"]
    mean: Float[Array, "*seeds features"]
    variance: Float[Array, "*seeds features"]


def first_statistics(num_features: int) -> Statistics:
    """Before any observation: mean 0, variance 1."""
    return Statistics(jnp.zeros((), jnp.float32), jnp.zeros(num_features, jnp.float32), jnp.ones(num_features, jnp.float32))


def merge(statistics: Statistics, batch: Float[Array, "batch features"]) -> Statistics:
    """The statistics after a batch of observations more."""
    size = jnp.float32(batch.shape[0])
    count = statistics.seen + size
    delta = jnp.mean(batch, axis=0) - statistics.mean
    old, new = statistics.seen / count, size / count
    variance = old * statistics.variance + new * jnp.var(batch, axis=0) + delta**2 * old * new
    return Statistics(count, statistics.mean + delta * new, variance)


def normalized(statistics: Statistics | None, features: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """`features` in standard deviations from the mean, clipped to 10; unchanged without statistics."""
    if statistics is None:
        return features
    scaled = (features - statistics.mean) / jnp.sqrt(statistics.variance + VARIANCE_FLOOR)
    return jnp.clip(scaled, -LIMIT, LIMIT)
