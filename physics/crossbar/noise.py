"""Noise of conductances that cannot be negative: draws, and the moments of a clipped Gaussian.

    x = max(mu + sigma z, 0):   E x = mu Phi(a) + sigma phi(a),   E x^2 = (mu^2 + sigma^2) Phi(a) + mu sigma phi(a)

with a = mu / sigma. The sum of many noisy cells is drawn from the normal distribution with the exact mean and covariance:
the exact distribution where no cell clips, and correct in both moments where some do.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from physics.types import Result

SMALLEST = 1e-30  # a variance that stands for none


def standard_normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: np.dtype | type) -> Float[Array, "..."]:
    """Independent normal numbers; in float32 from `normal_of_bits`, twice as fast as `jax.random.normal`."""
    if dtype != jnp.float32:
        return jax.random.normal(key, shape, dtype)
    return normal_of_bits(jax.random.bits(key, shape, jnp.uint32))


def normal_of_bits(bits: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Normal numbers by the inverse distribution function of 23 random bits: symmetric, within 5.3 sigma."""
    centred = ((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-22 - 1  # exact: never -1 or 1
    return np.float32(np.sqrt(2)) * lax.erf_inv(centred)


def clipped_moments(mean: Result, deviation: Result) -> tuple[Result, Result]:
    """Mean and variance of max(mean + deviation z, 0), element by element."""
    noisy = deviation > 0
    sigma = jnp.where(noisy, deviation, 1.0)
    ratio = jnp.clip(mean / sigma, -10.0, 10.0)  # beyond, both moments are those of a Gaussian
    below, density = jax.scipy.special.ndtr(ratio), jnp.exp(-ratio * ratio / 2) * np.float32(1 / np.sqrt(2 * np.pi))
    first = mean * below + sigma * density
    lost = ratio * density + jax.scipy.special.ndtr(-ratio)  # 1 - E(x - mean)^2 / sigma^2 before the mean is moved
    variance = sigma**2 * (1 - lost + ratio**2 * jax.scipy.special.ndtr(-ratio)) - (first - mean) ** 2
    return jnp.where(noisy, first, jnp.maximum(mean, 0.0)), jnp.where(noisy, jnp.maximum(variance, 0.0), 0.0)


def correlated_normal(key: PRNGKeyArray, covariance: list[list[Array]]) -> list[Array]:
    """Normal numbers with the given covariance (lower triangle of equally shaped arrays); Cholesky, element by element."""
    count, shape, dtype = len(covariance), covariance[0][0].shape, covariance[0][0].dtype
    draws = [standard_normal(k, shape, dtype) for k in jax.random.split(key, count)]
    factor: list[list[Array]] = []
    for i in range(count):
        row: list[Array] = []
        for j in range(i + 1):
            left = covariance[i][j] - sum(
                (row[k] * (factor[j][k] if j < i else row[k]) for k in range(j)), jnp.zeros(shape, dtype)
            )
            row.append(_root(left) if i == j else left * _inverse(factor[j][j]))
        factor.append(row)
    return [sum((row[k] * draws[k] for k in range(len(row))), jnp.zeros(shape, dtype)) for row in factor]


def _root(variance: Array) -> Array:
    """Square root, 0 with zero slope where nothing is left."""
    some = variance > SMALLEST
    return jnp.where(some, jnp.sqrt(jnp.where(some, variance, 1.0)), 0.0)


def _inverse(root: Array) -> Array:
    some = root > 0
    return jnp.where(some, 1 / jnp.where(some, root, 1.0), 0.0)
