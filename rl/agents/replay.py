"""Uniform experience replay: a ring of transitions, written in place, read at random.

Every lane adds one transition per step, so a write is one contiguous block of `lanes` rows at a position that follows
from the count of rows written; XLA then updates the ring in place inside a loop, without scatter and without copying.
A transition carries the observation it really ended in (not the first one of the next episode) and whether the
episode *terminated* there: those two decide the bootstrap, a time limit does not. Reading draws rows with replacement,
each present row with the same probability up to 2^-32 * capacity. Source: Lin, Machine Learning 8 (1992); Mnih et
al., Nature 518 (2015).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt


class Transition(NamedTuple):
    """One step of one lane, or a batch of them: features before, action, scaled reward, features after, natural end."""

    features: Float[Array, "*batch features"]
    action: Int[Array, "*batch"]
    reward: Float[Array, "*batch"]
    next_features: Float[Array, "*batch features"]
    terminated: Bool[Array, "*batch"]


def empty_ring(capacity: int, num_features: int) -> Transition:
    """A ring of `capacity` rows of zeros."""
    return Transition(
        features=jnp.zeros((capacity, num_features), jnp.float32),
        action=jnp.zeros(capacity, jnp.int32),
        reward=jnp.zeros(capacity, jnp.float32),
        next_features=jnp.zeros((capacity, num_features), jnp.float32),
        terminated=jnp.zeros(capacity, bool),
    )


def add_rows(ring: Transition, rows: Transition, written: Int[Array, ""]) -> Transition:
    """Write `rows` after the `written` rows before them; the capacity must be a multiple of the number of rows."""
    capacity = ring.reward.shape[0]
    return jax.tree.map(lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, written % capacity, 0), ring, rows)


def scaled_integers(bits: UInt[Array, " n"], bound: Int[Array, ""]) -> Int[Array, " n"]:
    """floor(bits * bound / 2^32) for 32-bit words and bound < 2^31, in 32-bit arithmetic: even, without a division."""
    bound = bound.astype(jnp.uint32)
    high, low = bits >> 16, bits & 0xFFFF
    bound_high, bound_low = bound >> 16, bound & 0xFFFF
    carry = ((low * bound_low) >> 16) + (high * bound_low & 0xFFFF) + (low * bound_high & 0xFFFF)
    product = high * bound_high + (high * bound_low >> 16) + (low * bound_high >> 16) + (carry >> 16)
    return product.astype(jnp.int32)


def sample_rows(ring: Transition, key: PRNGKeyArray, count: int, written: Int[Array, ""]) -> Transition:
    """`count` rows, uniformly with replacement, of those present after `written` rows (at least one) were added."""
    present = jnp.minimum(written, ring.reward.shape[0])
    index = scaled_integers(jax.random.bits(key, (count,), jnp.uint32), present)
    return jax.tree.map(lambda leaf: leaf.at[index].get(mode="promise_in_bounds"), ring)
