"""The law of deep Q-learning: exploration, target, the lag of the target network.

    y = r + gamma^m (1 - terminated) Q_target(s', argmax_a Q_online(s', a))       (double; else max_a Q_target(s', a))
    L = mean w (Q_online(s, a) - y)^2 / 2

r sums m rewards (m = 1 unless n-step returns are asked for), s' is the observation the last of these steps really ended
in, w undoes a preference of the replay and is 1 without one. Only a natural end removes the bootstrap; a time limit is a
fact about our clock, not about the future, and keeps it. The loss is the square and not Huber's: a value is a mean of
returns, and an absolute error aims at a median, which overlooks rare failures (on CartPole with these defaults the Huber
loss made the values diverge). Large errors are tamed by the clip of the global norm instead; `reward_scale` brings
rewards near 1.

Sources: Mnih et al., Nature 518 (2015); van Hasselt et al., AAAI 2016 (double); Wang et al., ICML 2016 (dueling).
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from rl.agents.dqn_config import DQNConfig
from rl.agents.sac_config import SACConfig


def epsilon_at(config: DQNConfig | SACConfig, env_steps: Int[Array, ""]) -> Float[Array, ""]:
    """The chance of a random action after `env_steps` environment steps; a kink where the descent ends."""
    progress = jnp.minimum(env_steps.astype(jnp.float32) / (config.epsilon_fraction * config.total_steps), 1.0)
    return config.epsilon_start + (config.epsilon_end - config.epsilon_start) * progress


def epsilon_greedy(key: PRNGKeyArray, values: Float[Array, "lanes actions"], epsilon: Float[Array, ""]) -> Int[Array, " lanes"]:
    """The best action of each lane, or with chance `epsilon` any action, uniformly."""
    lanes, actions = values.shape
    chance, choice = jax.random.uniform(key, (2, lanes), dtype=jnp.float32)
    return jnp.where(chance < epsilon, (choice * actions).astype(jnp.int32), jnp.argmax(values, axis=-1).astype(jnp.int32))


def taken_values(values: Float[Array, "actions batch"], action: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """The value of each column's action; a masked sum, whose gradient is cheaper than that of a gather."""
    return jnp.sum(values * jax.nn.one_hot(action, values.shape[0], dtype=values.dtype, axis=0), axis=0)


def td_target(
    reward: Float[Array, " batch"],
    discount: Float[Array, " batch"],
    next_selector: Float[Array, "actions batch"],
    next_target: Float[Array, "actions batch"],
) -> Float[Array, " batch"]:
    """y = r + discount Q_target(s', a*), a* the best action of `next_selector`: online values for the double target."""
    return reward + discount * taken_values(next_target, jnp.argmax(next_selector, axis=0))


def refreshed_target(config: DQNConfig, target: PyTree, params: PyTree, updates: Int[Array, ""]) -> PyTree:
    """The target network after update number `updates` (1, 2, ...): copied every so often, or drawn along each time."""
    if config.target_soft_factor is not None:
        return optax.incremental_update(params, target, config.target_soft_factor)
    due = updates % (config.target_update_every or 1) == 0
    return jax.tree.map(lambda new, old: jnp.where(due, new, old), params, target)
