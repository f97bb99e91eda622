"""Uniform experience replay: flashbax's item buffer over transitions.

A transition carries the observation it really ended in (not the first one of the next episode) and whether the
episode *terminated* there: those two decide the bootstrap, a time limit does not. Every lane adds one transition per
step; the oldest are overwritten. Source: Lin, Machine Learning 8 (1992); Mnih et al., Nature 518 (2015).
"""

from typing import Any, NamedTuple

import flashbax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rl.agents.dqn_config import DQNConfig


class Transition(NamedTuple):
    """One step of one lane, or a batch of them: features before, action, scaled reward, features after, natural end."""

    features: Float[Array, "*batch features"]
    action: Int[Array, "*batch"]
    reward: Float[Array, "*batch"]
    next_features: Float[Array, "*batch features"]
    terminated: Bool[Array, "*batch"]


def make_replay(config: DQNConfig) -> Any:
    """The buffer of a training: `init(transition)`, `add(state, transitions)`, `sample(state, key).experience`."""
    return flashbax.make_item_buffer(
        max_length=config.buffer_size, min_length=1, sample_batch_size=config.batch_size, add_batches=True
    )


def empty_transition(num_features: int) -> Transition:
    """One transition of zeros, the shape of all."""
    zeros = jnp.zeros(num_features, jnp.float32)
    return Transition(zeros, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), zeros, jnp.zeros((), bool))
