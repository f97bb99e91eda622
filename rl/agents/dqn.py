"""Deep Q-networks as an algorithm for the training program: the law of `q_learning` over the networks of `networks`.

With noisy layers, noise is drawn independently for the online network, the target network, the choice of the double
target, and for every lane that acts (Fortunato et al., ICLR 2018); the greedy policy has none.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from rl.agents.algorithm import ActionSpace, Algorithm, UpdateReport
from rl.agents.config import refuse
from rl.agents.dqn_config import DQNConfig
from rl.agents.networks import DuelingQNetwork, action_values, column_values
from rl.agents.optimizers import make_optimizer
from rl.agents.q_learning import epsilon_at, epsilon_greedy, refreshed_target, taken_values, td_target
from rl.agents.replay import Transition


class Learner(NamedTuple):
    """What an update changes."""

    params: PyTree
    target_params: PyTree
    opt_state: PyTree
    updates: Int[Array, "*seeds"]


def make_network(config: DQNConfig, num_actions: int) -> DuelingQNetwork:
    """The network that `config` describes."""
    return DuelingQNetwork(
        num_actions=num_actions,
        hidden=config.hidden,
        dueling=config.dueling,
        noise_scale=config.noise_scale if config.noisy else None,
        known_scale=config.reward_scale if config.known_rewards else None,
    )


def init_learner(network: nn.Module, optimizer: optax.GradientTransformation, key: PRNGKeyArray, num_features: int) -> Learner:
    """Fresh parameters, a target network equal to them, an optimizer that has seen nothing."""
    params = network.init(key, jnp.zeros((num_features, 1), jnp.float32))
    return Learner(params, jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.zeros((), jnp.int32))


def acting_values(
    config: DQNConfig, network: nn.Module, params: PyTree, features: Float[Array, "lanes features"], key: PRNGKeyArray
) -> Float[Array, "lanes actions"]:
    """Action values to act on; with noisy layers, every lane has a draw of its own."""
    if not config.noisy:
        return action_values(network, params, features)
    keys = jax.random.split(key, features.shape[0])
    return jax.vmap(lambda one, key: action_values(network, params, one, key))(features, keys)


def learn(
    config: DQNConfig,
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    learner: Learner,
    batch: Transition,
    weights: Float[Array, " batch"],
    key: PRNGKeyArray,
) -> tuple[Learner, UpdateReport]:
    """One update from a batch of transitions."""
    online, lagging, choosing = jax.random.split(key, 3) if config.noisy else (None, None, None)
    columns, next_columns = batch.features.T, batch.next_features.T
    next_target = column_values(network, learner.target_params, next_columns, lagging)
    selector = column_values(network, learner.params, next_columns, choosing) if config.double else next_target
    target = td_target(batch.reward, batch.discount, selector, next_target)

    def loss_of(params: PyTree) -> tuple[Float[Array, ""], Float[Array, " batch"]]:
        taken = taken_values(column_values(network, params, columns, online), batch.action)
        return jnp.mean(weights * optax.l2_loss(taken, target)), taken

    (loss, taken), grads = jax.value_and_grad(loss_of, has_aux=True)(learner.params)
    changes, opt_state = optimizer.update(grads, learner.opt_state, learner.params)
    params = optax.apply_updates(learner.params, changes)
    updates = learner.updates + 1
    target_params = refreshed_target(config, learner.target_params, params, updates)
    return Learner(params, target_params, opt_state, updates), UpdateReport(loss, jnp.mean(taken), taken - target)


def make_algorithm(config: DQNConfig, space: ActionSpace) -> Algorithm:
    """DQN for a finite set of actions; ValueError for another space."""
    if not hasattr(space.space, "n"):
        refuse("action_space", type(space.space).__name__, "a finite set of choices for DQN")
    network, optimizer = make_network(config, int(space.space.n)), make_optimizer(config)

    def act(learner: Learner, features: Array, key: PRNGKeyArray, env_steps: Array) -> Array:
        noise_key, explore_key = jax.random.split(key) if config.noisy else (key, key)
        values = acting_values(config, network, learner.params, features, noise_key)
        return epsilon_greedy(explore_key, values, epsilon_at(config, env_steps))

    def policy(params: PyTree, features: Array) -> Array:
        """Of equal values the lowest action wins."""
        return jnp.argmax(action_values(network, params, features), axis=-1).astype(jnp.int32)

    return Algorithm(
        init=lambda key, features, action: init_learner(network, optimizer, key, features.shape[-1]),
        act=act,
        update=lambda *arguments: learn(config, network, optimizer, *arguments),
        exploration=lambda env_steps: epsilon_at(config, env_steps),
        policy=policy,
        values=lambda params, features: action_values(network, params, features),
    )
