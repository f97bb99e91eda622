"""Soft actor-critic: the law of one update, for discrete, continuous and hybrid actions alike.

With k the choice, x the amount, and a temperature for either entropy,

    V(s)  = E_{k ~ pi(.|s)} [ min_i Q_i(s, k, x_k) - a_choice ln pi(k|s) - a_amount ln pi(x_k|s, k) ],  x_k ~ pi(.|s, k)
    y     = r + discount V_target(s')                   discount: gamma, but 0 after a natural end
    L_Q   = mean w sum_i (Q_i(s, k, x) - y)^2 / 2       w: importance weights, 1 unless replay is prioritised
    L_pi  = - mean V(s)
    L_a   = mean ln a (H - H_target)                    H_target: choice_entropy ln choices, amount_entropy dims

The expectation over the choices is an exact sum, that over an amount one reparametrised sample per choice. V_target has
the slow critics, the present actor and temperatures. All gradients are taken at the parameters from before the update.
A discrete action is a choice without an amount, a continuous one an amount without a choice: what is then missing is zero
(`sac_distributions`). Where both exist each entropy has its own temperature, because neither makes up for the other. With
n_step > 1 the entropies of the steps between are left out of y.

The gradients of actor and critics are clipped to `max_grad_norm`, each by its own global norm. A temperature is learned
through its logarithm with the slope H - H_target, so that it moves at the same pace whether large or small.

Sources: Haarnoja et al., arXiv 1812.05905; Christodoulou, arXiv 1910.07207 (discrete); Delalleau et al., arXiv
1912.11077 (hybrid).
"""

import math
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from rl.agents.algorithm import ActionSpace, Algorithm, UpdateReport
from rl.agents.config import refuse
from rl.agents.optimizers import ADAM_EPS, learning_rate
from rl.agents.q_learning import epsilon_at
from rl.agents.replay import Transition
from rl.agents.sac_actions import ActionForm, action_form, from_action, to_action
from rl.agents.sac_config import SACConfig
from rl.agents.sac_distributions import ActionDistribution, expected, most_likely, of_choice, sample_amount, sample_choice
from rl.agents.sac_networks import Actor, TwinCritic, twin_values, twin_values_of


class SACParams(NamedTuple):
    """What is learned: the actor, both critics, and ln of the temperatures of choice and amount."""

    actor: PyTree
    critic: PyTree
    log_temperature: Float[Array, "*seeds 2"]


class SACLearner(NamedTuple):
    """What an update changes; the target is that of the critics."""

    params: SACParams
    target_params: PyTree
    opt_state: PyTree
    updates: Int[Array, "*seeds"]


class SoftActorCritic(NamedTuple):
    """The parts that do not change during training."""

    config: SACConfig
    form: ActionForm
    actor: Actor
    critic: TwinCritic
    optimizer: optax.GradientTransformation

    def distribution(self, params: PyTree, columns: Float[Array, "features batch"]) -> ActionDistribution:
        """pi(. | s) of the actor `params`."""
        return cast(ActionDistribution, self.actor.apply(params, columns))


class Prospect(NamedTuple):
    """What an actor may expect of states, judged by critics: V(s), and the mean entropies of choice and amount."""

    value: Float[Array, " batch"]
    entropy: Float[Array, " 2"]


def soft_actor_critic(config: SACConfig, form: ActionForm) -> SoftActorCritic:
    """The networks and the optimizer for actions of `form`."""
    shape = (form.choices, form.dims, config.hidden)
    if config.known_rewards and form.kind == "continuous":
        refuse("known_rewards", True, "false for a continuous action space, which has no rewards of choices")
    critic = TwinCritic(*shape, known_scale=config.reward_scale if config.known_rewards else None)
    adam = optax.flatten(optax.adam(learning_rate(config), eps=ADAM_EPS))
    return SoftActorCritic(config, form, Actor(*shape), critic, adam)


def init_learner(agent: SoftActorCritic, key: PRNGKeyArray, num_features: int) -> SACLearner:
    """Fresh networks, target critics equal to the critics, the initial temperatures, an optimizer that has seen nothing."""
    actor_key, critic_key = jax.random.split(key)
    column, slots = (
        jnp.zeros((num_features, 1), jnp.float32),
        jnp.zeros((agent.form.choices * agent.form.dims, 1, 1), jnp.float32),
    )
    log_temperature = jnp.full(2, math.log(agent.config.initial_temperature), jnp.float32)
    params = SACParams(agent.actor.init(actor_key, column), agent.critic.init(critic_key, column, slots), log_temperature)
    target = jax.tree.map(jnp.copy, params.critic)
    return SACLearner(params, target, agent.optimizer.init(cast(optax.Params, params)), jnp.zeros((), jnp.int32))


def target_entropy(config: SACConfig, form: ActionForm) -> Float[Array, " 2"]:
    """The entropies that the temperatures hold, of choice and amount (nats)."""
    return jnp.asarray([config.choice_entropy * math.log(form.choices), config.amount_entropy * form.dims], jnp.float32)


def prospect(
    distribution: ActionDistribution,
    log_amount: Float[Array, "choices batch"],
    values: Float[Array, "choices batch"],
    temperature: Float[Array, " 2"],
) -> Prospect:
    """V = E_k [Q_k - a_choice ln pi(k) - a_amount ln pi(x_k | k)] from the values and log-densities of sampled amounts."""
    log_choice = distribution.log_choice
    value = expected(distribution, values - temperature[0] * log_choice - temperature[1] * log_amount)
    information = jnp.stack([expected(distribution, log_choice), expected(distribution, log_amount)])
    return Prospect(value, -jnp.mean(information, axis=-1))


def look_ahead(
    agent: SoftActorCritic,
    actor: PyTree,
    critic: PyTree,
    temperature: Float[Array, " 2"],
    columns: Float[Array, "features batch"],
    noise: Float[Array, "choices dims batch"],
) -> Prospect:
    """The prospect of `actor` in the states `columns`, by the smaller of the two values of `critic`."""
    distribution = agent.distribution(actor, columns)
    amounts, log_amount = sample_amount(distribution, noise)
    values = jnp.minimum(*twin_values(agent.critic, critic, columns, amounts))
    return prospect(distribution, log_amount, values, temperature)


def critic_loss(
    values: Float[Array, "2 batch"], target: Float[Array, " batch"], weights: Float[Array, " batch"]
) -> Float[Array, ""]:
    """Mean over the batch of the weighted half squares of both critics."""
    return 0.5 * jnp.mean(weights * jnp.sum((values - target) ** 2, axis=0))


def temperature_loss(
    log_temperature: Float[Array, " 2"], entropy: Float[Array, " 2"], target: Float[Array, " 2"]
) -> Float[Array, ""]:
    """Falls with a rising temperature where the entropy is below its target; the entropy is taken as given."""
    return jnp.sum(log_temperature * (jax.lax.stop_gradient(entropy) - target))


def learn(
    agent: SoftActorCritic, learner: SACLearner, batch: Transition, weights: Float[Array, " batch"], key: PRNGKeyArray
) -> tuple[SACLearner, UpdateReport]:
    """One update from a batch of transitions."""
    config, form, old = agent.config, agent.form, learner.params
    columns, temperature = batch.features.T, jnp.exp(old.log_temperature)
    choice, amount = from_action(form, batch.action)
    now, later = jax.random.normal(key, (2, form.choices, form.dims, columns.shape[-1]), jnp.float32)
    ahead = look_ahead(agent, old.actor, learner.target_params, temperature, batch.next_features.T, later)
    target = batch.reward + batch.discount * ahead.value

    def loss_of(params: SACParams) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, "2 batch"]]]:
        values = twin_values_of(agent.critic, params.critic, columns, choice, amount)
        loss = critic_loss(values, target, weights)
        here = look_ahead(agent, params.actor, jax.lax.stop_gradient(params.critic), temperature, columns, now)
        tempering = temperature_loss(params.log_temperature, here.entropy, target_entropy(config, form))
        return loss - jnp.mean(here.value) + tempering, (loss, values)

    grads, (loss, values) = jax.grad(loss_of, has_aux=True)(old)
    params, opt_state = descended(agent, learner, grads)
    target_params = optax.incremental_update(params.critic, learner.target_params, config.target_soft_factor)
    report = UpdateReport(loss, jnp.mean(values), jnp.mean(values, axis=0) - target)
    return SACLearner(params, target_params, opt_state, learner.updates + 1), report


def descended(agent: SoftActorCritic, learner: SACLearner, grads: SACParams) -> tuple[SACParams, PyTree]:
    """Parameters and optimizer state after a step against `grads`, those of each network clipped by their own norm."""
    limit, params = agent.config.max_grad_norm, cast(optax.Params, learner.params)
    grads = SACParams(clipped(grads.actor, limit), clipped(grads.critic, limit), grads.log_temperature)
    changes, opt_state = agent.optimizer.update(cast(optax.Updates, grads), learner.opt_state, params)
    return cast(SACParams, optax.apply_updates(params, changes)), opt_state


def clipped(slopes: PyTree, limit: float | None) -> PyTree:
    """`slopes` scaled down to the global norm `limit`, if there is one."""
    return slopes if limit is None else optax.clip_by_global_norm(limit).update(slopes, optax.EmptyState(), None)[0]


def explore(
    agent: SoftActorCritic,
    learner: SACLearner,
    features: Float[Array, "lanes features"],
    key: PRNGKeyArray,
    env_steps: Int[Array, ""] | int = 0,
) -> PyTree:
    """One action per lane, drawn from the policy, or with the chance epsilon from all actions, uniformly."""
    config, (choice_key, amount_key) = agent.config, jax.random.split(key)
    distribution = agent.distribution(learner.params.actor, features.T)
    amounts, _ = sample_amount(distribution, jax.random.normal(amount_key, distribution.mean.shape, jnp.float32))
    choice = sample_choice(distribution, choice_key)
    amount = of_choice(amounts, choice)
    if config.epsilon_start > 0 or config.epsilon_end > 0:
        epsilon = epsilon_at(config, jnp.asarray(env_steps))
        choice, amount = stirred(agent.form, choice, amount, jax.random.fold_in(key, 0), epsilon)
    return to_action(agent.form, choice, amount)


def stirred(
    form: ActionForm,
    choice: Int[Array, " batch"],
    amount: Float[Array, "dims batch"],
    key: PRNGKeyArray,
    epsilon: Float[Array, ""],
) -> tuple[Int[Array, " batch"], Float[Array, "dims batch"]]:
    """Choice and amount of each lane, or with chance `epsilon` any, uniformly."""
    chance_key, choice_key, amount_key = jax.random.split(key, 3)
    random = jax.random.uniform(chance_key, choice.shape, jnp.float32) < epsilon
    any_choice = jax.random.randint(choice_key, choice.shape, 0, form.choices, jnp.int32)
    any_amount = jax.random.uniform(amount_key, amount.shape, jnp.float32, -1.0, 1.0)
    return jnp.where(random, any_choice, choice), jnp.where(random, any_amount, amount)


def greedy(agent: SoftActorCritic, params: SACParams, features: Float[Array, " features"]) -> PyTree:
    """The likeliest choice and the middle of its amount, tanh(mean), for ONE state; of equal choices the lowest wins."""
    distribution = agent.distribution(params.actor, features[:, None])
    choice = most_likely(distribution)
    action = to_action(agent.form, choice, of_choice(jnp.tanh(distribution.mean), choice))
    return jax.tree.map(lambda leaf: leaf[0], action)


def choice_values(agent: SoftActorCritic, params: SACParams, features: Float[Array, " features"]) -> Float[Array, " choices"]:
    """The smaller value of every choice, at the middle of its amount, for ONE state; ValueError if there are no choices."""
    if agent.form.kind == "continuous":
        raise ValueError("values: a continuous action space has no finite set of choices to value; need 'discrete' or 'hybrid'")
    columns = features[:, None]
    amounts = jnp.tanh(agent.distribution(params.actor, columns).mean)
    return jnp.minimum(*twin_values(agent.critic, params.critic, columns, amounts))[:, 0]


def make_algorithm(config: SACConfig, space: ActionSpace) -> Algorithm:
    """Soft actor-critic for the actions of `space`; ValueError for a space that is none of the three kinds."""
    agent = soft_actor_critic(config, action_form(space.space))
    return Algorithm(
        init=lambda key, features, action: init_learner(agent, key, features.shape[-1]),
        act=lambda *arguments: explore(agent, *arguments),
        update=lambda *arguments: learn(agent, *arguments),
        exploration=lambda env_steps: epsilon_at(config, jnp.asarray(env_steps)),
        policy=lambda params, features: greedy(agent, params, features),
        values=lambda params, features: choice_values(agent, params, features),
    )
