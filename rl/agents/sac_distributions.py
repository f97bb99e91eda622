"""The policy of soft actor-critic: a choice, and for the choice made an amount.

    pi(k, x | s) = pi(k | s) prod_d pi(x_d | s, k),     x_d = tanh(u_d),   u_d ~ N(mean_kd, std_kd)
    ln pi(x_d | s, k) = ln N(u_d) - ln (1 - x_d^2),     ln (1 - tanh(u)^2) = 2 (ln 2 - u - softplus(-2 u))

The last form neither overflows nor loses digits where tanh saturates. Amounts are in (-1, 1) here, so that entropies do
not depend on units; `sac_actions` scales them. Purely continuous actions are one choice, whose probability is one and
whose entropy is zero; purely discrete ones are choices with no amount, whose density is the empty product. One law
therefore serves all three. Arrays have the batch as their last axis, as in `networks`.

The logarithm of the standard deviation is brought smoothly between two bounds, hi - softplus(hi - z) and then likewise
from below: the identity in the middle, and unlike with a hard clip its gradient never vanishes for good.

Sources: Haarnoja et al., arXiv 1812.05905, appendix C; Delalleau et al., arXiv 1912.11077 (hybrid).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

LOG_STD_LO, LOG_STD_HI = -10.0, 2.0  # of the amount before tanh; the bounds of Haarnoja's code, tightened below
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class ActionDistribution(NamedTuple):
    """pi(. | s) for a batch of states: log-probabilities of the choices, mean and log std of each choice's amount."""

    log_choice: Float[Array, "choices batch"]
    mean: Float[Array, "choices dims batch"]
    log_std: Float[Array, "choices dims batch"]


def bounded_log_std(raw: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """`raw` brought smoothly into (LOG_STD_LO, LOG_STD_HI)."""
    below = LOG_STD_HI - jax.nn.softplus(LOG_STD_HI - raw)
    return LOG_STD_LO + jax.nn.softplus(below - LOG_STD_LO)


def log_one_minus_tanh_squared(u: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """ln (1 - tanh(u)^2), right for every finite u."""
    return 2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u))


def amount_log_prob(distribution: ActionDistribution, u: Float[Array, "choices dims batch"]) -> Float[Array, "choices batch"]:
    """ln pi(tanh(u) | s, k), summed over the dimensions of the amount; 0 where it has none."""
    standard = (u - distribution.mean) * jnp.exp(-distribution.log_std)
    log_normal = -0.5 * standard**2 - distribution.log_std - HALF_LOG_TWO_PI
    return jnp.sum(log_normal - log_one_minus_tanh_squared(u), axis=-2)


def sample_amount(
    distribution: ActionDistribution, noise: Float[Array, "choices dims batch"]
) -> tuple[Float[Array, "choices dims batch"], Float[Array, "choices batch"]]:
    """The amount of every choice made from standard normal `noise`, differentiably, and ln pi(amount | s, k)."""
    u = distribution.mean + jnp.exp(distribution.log_std) * noise
    log_normal = -0.5 * noise**2 - distribution.log_std - HALF_LOG_TWO_PI
    return jnp.tanh(u), jnp.sum(log_normal - log_one_minus_tanh_squared(u), axis=-2)


def sample_choice(distribution: ActionDistribution, key: PRNGKeyArray) -> Int[Array, " batch"]:
    """One choice per state, with its probability."""
    return jax.random.categorical(key, distribution.log_choice, axis=0).astype(jnp.int32)


def most_likely(distribution: ActionDistribution) -> Int[Array, " batch"]:
    """The likeliest choice of each state, the lowest of equals."""
    return jnp.argmax(distribution.log_choice, axis=0).astype(jnp.int32)


def expected(distribution: ActionDistribution, values: Float[Array, "choices batch"]) -> Float[Array, " batch"]:
    """The exact mean of `values` over the choices."""
    return jnp.sum(jnp.exp(distribution.log_choice) * values, axis=0)


def of_choice(values: Float[Array, "choices *rest batch"], choice: Int[Array, " batch"]) -> Float[Array, "*rest batch"]:
    """The entry of each state's choice; a masked sum, whose gradient is cheaper than that of a gather."""
    mask = jax.nn.one_hot(choice, values.shape[0], axis=0, dtype=values.dtype)
    return jnp.sum(values * mask.reshape(mask.shape[0], *(1,) * (values.ndim - 2), -1), axis=0)
