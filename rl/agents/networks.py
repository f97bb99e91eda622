"""Action values from observations: a multilayer perceptron, with or without the dueling head.

    Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a')

The mean is subtracted because only the sum of V and A is ever observed: without it a constant could wander between
the two. Source: Wang et al., "Dueling network architectures for deep reinforcement learning", ICML 2016, equation 9.
Value and advantages come out of one matrix product of width 1 + number of actions, which is the same function as two
separate heads and cheaper. Rectified linear units between layers; weights start LeCun-normal, biases at zero.
"""

from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def dueling_values(value: Float[Array, "*batch 1"], advantage: Float[Array, "*batch actions"]) -> Float[Array, "*batch actions"]:
    """Q = V + A - mean of A over the actions."""
    return value + advantage - jnp.mean(advantage, axis=-1, keepdims=True)


class DuelingQNetwork(nn.Module):
    """Q(s, .) of a feature vector; `dueling=False` gives the plain head of the same depth.

    `hidden` are the widths of the layers between input and head.
    """

    num_actions: int
    hidden: tuple[int, ...] = (120, 84)
    dueling: bool = True

    @nn.compact
    def __call__(self, features: Float[Array, "*batch features"]) -> Float[Array, "*batch actions"]:
        """Action values, one per action."""
        for width in self.hidden:
            features = jax.nn.relu(nn.Dense(width)(features))
        if not self.dueling:
            return nn.Dense(self.num_actions, name="action_values")(features)
        heads = nn.Dense(1 + self.num_actions, name="value_and_advantages")(features)
        return dueling_values(heads[..., :1], heads[..., 1:])


def action_values(
    network: nn.Module, params: PyTree, features: Float[Array, "*batch features"]
) -> Float[Array, "*batch actions"]:
    """Q(s, .) of `network` with the variables `params`."""
    return cast(jax.Array, network.apply(params, features))
