"""The law of deep Q-learning: exploration, target, loss, one update.

    y = r + gamma (1 - terminated) Q_target(s', argmax_a Q_online(s', a))       (double; else max_a Q_target(s', a))
    L = mean (Q_online(s, a) - y)^2 / 2

s' is the observation the step really ended in. Only a natural end removes the bootstrap; a time limit is a fact about
our clock, not about the future, and keeps it. The loss is the square and not Huber's: a value is a mean of returns, and
an absolute error aims at a median, which overlooks rare failures (on CartPole with these defaults the Huber loss made
the values diverge). Large errors are tamed by the clip of the global norm instead; `reward_scale` brings rewards near 1.
Adam has eps 1e-8.

Sources: Mnih et al., Nature 518 (2015); van Hasselt et al., AAAI 2016 (double); Wang et al., ICML 2016 (dueling).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from rl.agents.dqn_config import DQNConfig
from rl.agents.networks import action_values
from rl.agents.replay import Transition

ADAM_EPS = 1e-8  # optax's default; it only matters where gradients vanish


class Learner(NamedTuple):
    """What an update changes."""

    params: PyTree
    target_params: PyTree
    opt_state: PyTree
    updates: Int[Array, ""]


class UpdateReport(NamedTuple):
    """The loss of one update and the mean value of the actions in its batch, before the update."""

    loss: Float[Array, ""]
    mean_q: Float[Array, ""]


def epsilon_at(config: DQNConfig, env_steps: Int[Array, ""]) -> Float[Array, ""]:
    """The chance of a random action after `env_steps` environment steps; a kink where the descent ends."""
    progress = jnp.minimum(env_steps.astype(jnp.float32) / (config.epsilon_fraction * config.total_steps), 1.0)
    return config.epsilon_start + (config.epsilon_end - config.epsilon_start) * progress


def epsilon_greedy(key: PRNGKeyArray, values: Float[Array, "lanes actions"], epsilon: Float[Array, ""]) -> Int[Array, " lanes"]:
    """The best action of each lane, or with chance `epsilon` any action, uniformly."""
    lanes, actions = values.shape
    chance, choice = jax.random.uniform(key, (2, lanes), dtype=jnp.float32)
    return jnp.where(chance < epsilon, (choice * actions).astype(jnp.int32), jnp.argmax(values, axis=-1).astype(jnp.int32))


def taken_values(values: Float[Array, "batch actions"], action: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """The value of each row's action; a masked sum, whose gradient is cheaper than that of a gather."""
    return jnp.sum(values * jax.nn.one_hot(action, values.shape[-1], dtype=values.dtype), axis=-1)


def td_target(
    reward: Float[Array, " batch"],
    terminated: Bool[Array, " batch"],
    gamma: float,
    next_online: Float[Array, "batch actions"],
    next_target: Float[Array, "batch actions"],
    double: bool,
) -> Float[Array, " batch"]:
    """y = r + gamma (1 - terminated) Q_target(s', a*); a* is the best action of the online values if `double`."""
    best = jnp.argmax(next_online if double else next_target, axis=-1)
    return reward + jnp.where(terminated, 0.0, gamma * taken_values(next_target, best))


def make_optimizer(config: DQNConfig) -> optax.GradientTransformation:
    """Clipping by global norm, then Adam, both on one flat vector; the schedule counts updates."""
    rate = config.learning_rate
    if config.learning_rate_schedule == "linear":
        rate = optax.linear_schedule(config.learning_rate, 0.0, config.total_updates)
    return optax.flatten(optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(rate, eps=ADAM_EPS)))


def refreshed_target(config: DQNConfig, target: PyTree, params: PyTree, updates: Int[Array, ""]) -> PyTree:
    """The target network after update number `updates` (1, 2, ...): copied every so often, or drawn along each time."""
    if config.target_soft_factor is not None:
        return optax.incremental_update(params, target, config.target_soft_factor)
    due = updates % (config.target_update_every or 1) == 0
    return jax.tree.map(lambda new, old: jnp.where(due, new, old), params, target)


def init_learner(network: nn.Module, optimizer: optax.GradientTransformation, key: PRNGKeyArray, num_features: int) -> Learner:
    """Fresh parameters, a target network equal to them, an optimizer that has seen nothing."""
    params = network.init(key, jnp.zeros(num_features, jnp.float32))
    return Learner(params, jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.zeros((), jnp.int32))


def learn(
    config: DQNConfig, network: nn.Module, optimizer: optax.GradientTransformation, learner: Learner, batch: Transition
) -> tuple[Learner, UpdateReport]:
    """One update from a batch of transitions."""
    next_target = action_values(network, learner.target_params, batch.next_features)
    next_online = action_values(network, learner.params, batch.next_features) if config.double else next_target
    target = td_target(batch.reward, batch.terminated, config.gamma, next_online, next_target, config.double)

    def loss_of(params: PyTree) -> tuple[Float[Array, ""], Float[Array, ""]]:
        taken = taken_values(action_values(network, params, batch.features), batch.action)
        return jnp.mean(optax.l2_loss(taken, target)), jnp.mean(taken)

    (loss, mean_q), grads = jax.value_and_grad(loss_of, has_aux=True)(learner.params)
    changes, opt_state = optimizer.update(grads, learner.opt_state, learner.params)
    params = optax.apply_updates(learner.params, changes)
    updates = learner.updates + 1
    target_params = refreshed_target(config, learner.target_params, params, updates)
    return Learner(params, target_params, opt_state, updates), UpdateReport(loss, mean_q)
