"""Soft actor-critic: its densities by integration, its law by hand and by brute force, learning on tasks of known optimum."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.agents import sac
from rl.agents.program import TrainResult
from rl.agents.q_learning import epsilon_at
from rl.agents.replay import Transition
from rl.agents.sac_actions import ActionForm, action_form, from_action, to_action
from rl.agents.sac_config import SACConfig
from rl.agents.sac_distributions import (
    LOG_STD_HI,
    LOG_STD_LO,
    ActionDistribution,
    amount_log_prob,
    bounded_log_std,
    expected,
    log_one_minus_tanh_squared,
    most_likely,
    of_choice,
    sample_amount,
    sample_choice,
)
from rl.agents.sac_networks import TwinCritic, product, twin_values, twin_values_of
from rl.agents.training import load_agent, train, train_many
from rl.envs.spaces import Box, Discrete, Hybrid, HybridAction

pytestmark = pytest.mark.single  # computes in float32 whatever the default

BONUS = np.array([[0.0, 1.0, 0.2], [0.6, -0.5, 0.9]])  # [job, machine]: what a machine is worth at its best speed
SPEED = np.array([[12.0, 26.0, 20.0], [15.0, 14.0, 12.5]])  # [job, machine]: that speed, of [10, 30]
BEST_MACHINE, BEST_SPEED = (1, 2), (26.0, 12.5)  # by hand: the largest bonus of each row, and the speed beside it
JOBS = jnp.eye(2)


class Workshop:
    """Every episode is one job: which machine, at which speed; reward bonus - ((speed - best speed) / 4)^2."""

    default_params = jnp.float32(4.0)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def action_space(self, params: Any) -> Any:
        return {"hybrid": Hybrid(3, 10.0, 30.0), "discrete": Discrete(3), "continuous": Box(10.0, 30.0, (1,))}[self.kind]

    def observation_space(self, params: Any) -> Box:
        return Box(0.0, 1.0, (2,))

    def reset(self, key: Any, params: Any) -> Any:
        job = jax.random.randint(key, (), 0, 2, dtype=jnp.int32)
        return JOBS[job], job

    def step(self, key: Any, job: Any, action: Any, params: Any) -> Any:
        machine, speed = {  # a machine without a speed runs at its best one; a speed without a machine is for machine 1
            "hybrid": lambda: (action.choice, action.amount),
            "discrete": lambda: (action, jnp.asarray(SPEED)[job, action]),
            "continuous": lambda: (1, action[0]),
        }[self.kind]()
        reward = jnp.asarray(BONUS)[job, machine] - ((speed - jnp.asarray(SPEED)[job, machine]) / params) ** 2
        observation, fresh = self.reset(key, params)
        terminated, truncated = jnp.ones((), bool), jnp.zeros((), bool)
        info = {"terminated": terminated, "truncated": truncated, "final_observation": JOBS[job]}
        return observation, fresh, reward, terminated, truncated, info


SMALL = SACConfig(
    total_steps=6_000,
    num_envs=4,
    train_every=2,
    buffer_size=2_000,
    batch_size=64,
    learning_starts=400,
    hidden=(32,),
    learning_rate=5e-3,
    learning_rate_schedule="linear",
    initial_temperature=0.1,
    amount_entropy=-2.0,
    log_every=600,
)


def same(one: Any, other: Any) -> bool:
    """Whether two trees hold the same bits."""
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(np.array_equal(a, b) for a, b in zip(leaves, others, strict=True))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def random_distribution(key: Any, choices: int, dims: int, batch: int) -> ActionDistribution:
    """Any policy: moderate means, standard deviations between 0.2 and 1.2."""
    a, b, c = jax.random.split(key, 3)
    log_choice = jax.nn.log_softmax(2.0 * jax.random.normal(a, (choices, batch), jnp.float32), axis=0)
    mean = jax.random.normal(b, (choices, dims, batch), jnp.float32)
    log_std = jax.random.uniform(c, (choices, dims, batch), jnp.float32, math.log(0.2), math.log(1.2))
    return ActionDistribution(log_choice, mean, log_std)


def agent_of(form: ActionForm, **settings: Any) -> Any:
    """An agent for `form` with three features."""
    return sac.soft_actor_critic(dataclasses.replace(SMALL, **settings), form)


FORMS = {
    "discrete": ActionForm("discrete", 4),
    "continuous": ActionForm("continuous", 1, (-2.0, 0.0), (2.0, 10.0), (2,)),
    "hybrid": ActionForm("hybrid", 3, (10.0,), (30.0,), ()),
}


@functools.partial(jax.jit, static_argnums=(1, 2))
def random_batch(key: Any, form: ActionForm, size: int = 32) -> Transition:
    """A batch that never ends, discounted by 0.9."""
    keys = jax.random.split(key, 5)
    choice = jax.random.randint(keys[0], (size,), 0, form.choices, jnp.int32)
    amount = jax.random.uniform(keys[1], (form.dims, size), jnp.float32, -0.9, 0.9)
    features, following = jax.random.normal(keys[2], (2, size, 3), jnp.float32)
    reward = jax.random.normal(keys[3], (size,), jnp.float32)
    return Transition(features, to_action(form, choice, amount), reward, following, jnp.full(size, 0.9, jnp.float32))


# densities


def test_the_tanh_correction_is_exact_in_the_middle_and_finite_far_out():
    u = np.linspace(-4, 4, 81)
    # in double precision 1 - tanh^2 still has 12 digits at |u| = 4
    np.testing.assert_allclose(log_one_minus_tanh_squared(jnp.asarray(u, jnp.float32)), np.log(1 - np.tanh(u) ** 2), atol=2e-6)
    # 1 - tanh(u)^2 -> 4 exp(-2 |u|): at 50, ln 4 - 100 = -98.613706
    np.testing.assert_allclose(log_one_minus_tanh_squared(jnp.asarray([-50.0, 50.0], jnp.float32)), -98.613706, rtol=1e-6)
    slope = jax.vmap(jax.grad(log_one_minus_tanh_squared))(jnp.asarray([-500.0, 0.0, 500.0], jnp.float32))
    np.testing.assert_allclose(slope, [2.0, 0.0, -2.0], atol=1e-6)  # d/du = -2 tanh u


def test_the_density_of_amounts_integrates_to_one_over_choices_and_amounts(getkey):
    policy = random_distribution(getkey(), choices=3, dims=1, batch=40)
    u = jnp.linspace(-9.0, 9.0, 4001, dtype=jnp.float32)
    wide = jax.vmap(lambda u: amount_log_prob(policy, jnp.full((3, 1, 40), u)))(u)  # [points, choices, batch]
    x = np.tanh(np.asarray(u, np.float64))
    density = np.exp(np.asarray(wide, np.float64))
    by_choice = np.trapezoid(density * (1 - x**2)[:, None, None], np.asarray(u, np.float64), axis=0)  # dx = (1 - x^2) du
    np.testing.assert_allclose(by_choice, 1.0, atol=2e-4)
    np.testing.assert_allclose(expected(policy, jnp.asarray(by_choice, jnp.float32)), 1.0, atol=2e-4)


def test_densities_of_several_dimensions_multiply(getkey):
    policy = random_distribution(getkey(), choices=2, dims=3, batch=50)
    u = jax.random.normal(getkey(), (2, 3, 50), jnp.float32)
    log_prob = jax.jit(amount_log_prob)
    parts = [policy._replace(mean=policy.mean[:, d : d + 1], log_std=policy.log_std[:, d : d + 1]) for d in range(3)]
    single = [np.asarray(log_prob(part, u[:, d : d + 1])) for d, part in enumerate(parts)]
    np.testing.assert_allclose(log_prob(policy, u), sum(single), rtol=1e-5, atol=1e-5)


def test_sampled_amounts_come_with_their_own_density_and_the_entropy_of_the_integral(getkey):
    policy = random_distribution(getkey(), choices=1, dims=1, batch=1)
    noise = jax.random.normal(getkey(), (1, 1, 200_000), jnp.float32)
    wide = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*leaf.shape[:-1], 200_000)), policy)
    amount, log_density = sample_amount(wide, noise)
    assert float(jnp.max(jnp.abs(amount))) <= 1.0
    u = wide.mean + jnp.exp(wide.log_std) * noise
    np.testing.assert_allclose(log_density, amount_log_prob(wide, u), rtol=1e-4, atol=1e-4)
    grid = jnp.linspace(-9.0, 9.0, 4001, dtype=jnp.float32)
    log_p = np.asarray(jax.vmap(lambda u: amount_log_prob(policy, jnp.full((1, 1, 1), u)))(grid), np.float64).ravel()
    x_slope = 1 - np.tanh(np.asarray(grid, np.float64)) ** 2
    entropy = np.trapezoid(-np.exp(log_p) * log_p * x_slope, np.asarray(grid, np.float64))
    assert float(-jnp.mean(log_density)) == pytest.approx(entropy, abs=0.02)  # 4 standard errors of 2e5 samples


def test_choices_are_drawn_with_their_probabilities(getkey):
    policy = ActionDistribution(
        jnp.log(jnp.tile(jnp.asarray([[0.5], [0.2], [0.3]], jnp.float32), 20_000)), *jnp.zeros((2, 3, 0, 20_000))
    )
    shares = np.bincount(np.asarray(sample_choice(policy, getkey())), minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.5, 0.2, 0.3], atol=0.015)  # 4 standard errors
    assert int(most_likely(policy)[0]) == 0
    np.testing.assert_array_equal(of_choice(jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.asarray([1, 0], jnp.int32)), [3.0, 2.0])


def test_the_log_std_is_bounded_smoothly():
    raw = jnp.linspace(-60.0, 60.0, 1001, dtype=jnp.float32)
    bounded = bounded_log_std(raw)
    assert LOG_STD_LO <= float(bounded.min()) and float(bounded.max()) <= LOG_STD_HI + 1e-5
    assert bool(jnp.all(jnp.diff(bounded) >= 0))
    assert float(bounded_log_std(jnp.float32(-4.0))) == pytest.approx(-4.0, abs=5e-3)  # softplus(6) - 6 = 0.0025, twice
    assert float(jax.grad(bounded_log_std)(jnp.float32(-12.0))) == pytest.approx(0.119, abs=1e-3)  # sigmoid(-2): not zero


# networks


def test_the_critic_of_one_choice_does_not_see_the_amounts_of_others(getkey):
    critic = TwinCritic(choices=3, dims=2, hidden=(8, 8))
    features, amounts = (jax.random.normal(getkey(), shape, jnp.float32) for shape in ((4, 5), (3, 2, 5)))

    @jax.jit
    def probe(key: Any) -> Any:
        params = critic.init(key, jnp.zeros((4, 1), jnp.float32), jnp.zeros((6, 1, 1), jnp.float32))
        slopes = jax.jacrev(lambda amounts: twin_values(critic, params, features, amounts).sum(-1))(amounts)  # [2, 3, 3, 2, 5]
        ones = [twin_values_of(critic, params, features, jnp.full(5, k, jnp.int32), amounts[k]) for k in range(3)]
        return slopes, twin_values(critic, params, features, amounts), jnp.stack(ones, axis=1)

    slopes, values, one_by_one = (np.asarray(found) for found in probe(getkey()))
    own = np.eye(3, dtype=bool)
    assert np.all(slopes[:, ~own] == 0) and np.all(np.abs(slopes[:, own]).sum((-1, -2)) > 0)
    np.testing.assert_allclose(one_by_one, values, rtol=1e-5, atol=1e-6)


def test_known_rewards_join_both_critics_scaled(getkey):
    """Q_i = 0.1 (2, -3) + Q_i', Q_i' the same critics without: the last two features are the rewards of the two choices."""
    plain, knowing = (TwinCritic(2, 0, (8,), known_scale=scale) for scale in (None, 0.1))
    slots = jnp.zeros((0, 1, 1), jnp.float32)
    columns = jnp.array([[0.3], [-0.2], [2.0], [-3.0]])
    params = plain.init(getkey(), columns, slots)
    amounts = jnp.zeros((2, 0, 1), jnp.float32)
    added = twin_values(knowing, params, columns, amounts) - twin_values(plain, params, columns, amounts)
    np.testing.assert_allclose(added[:, :, 0], [[0.2, -0.3]] * 2, atol=1e-6)


def test_known_rewards_need_choices():
    form = ActionForm("continuous", 1, (-1.0,), (1.0,), (1,))
    with pytest.raises(ValueError, match="known_rewards = True must be false for a continuous action space"):
        agent_of(form, known_rewards=True)


def test_random_actions_are_uniform_and_as_frequent_as_told(getkey):
    """With epsilon 0.6 a policy sure of the first of 3 choices takes it with the chance 0.4 + 0.6 / 3 = 0.6."""
    key, batch = getkey(), 20_000
    choice, amount = jnp.zeros(batch, jnp.int32), jnp.full((1, batch), 2.0)  # amounts beyond 1 mark what was not drawn
    choice, amount = (np.asarray(x) for x in sac.stirred(FORMS["hybrid"], choice, amount, key, jnp.float32(0.6)))
    np.testing.assert_allclose(np.bincount(choice) / batch, [0.6, 0.2, 0.2], atol=0.012)  # 3.5 standard deviations
    drawn = amount[0] < 1.5
    assert abs(drawn.mean() - 0.6) < 0.012 and abs(amount[0, drawn].mean()) < 0.02 and np.abs(amount[0, drawn]).max() <= 1
    agent = agent_of(FORMS["discrete"], epsilon_start=0.5, epsilon_end=0.1, epsilon_fraction=0.5, total_steps=4_000)
    assert [round(float(epsilon_at(agent.config, jnp.int32(n))), 6) for n in (0, 1_000, 3_000)] == [0.5, 0.3, 0.1]


@pytest.mark.parametrize("kind", FORMS)
def test_twins_differ_at_the_start_and_targets_equal_them(kind):
    learner = bench(kind).learner
    assert same(learner.params.critic, learner.target_params)
    kernel = learner.params.critic["params"]["hidden_0"]["kernel"]
    assert kernel.shape == (2, 8, 3) and not np.array_equal(kernel[0], kernel[1])
    np.testing.assert_allclose(learner.params.log_temperature, math.log(0.1), rtol=1e-6)


# the law


def test_the_value_of_a_state_is_the_exact_sum_over_choices(getkey):
    policy, batch = random_distribution(getkey(), 4, 1, 30), 30
    values, log_amount = (np.asarray(jax.random.normal(getkey(), (4, batch)), np.float64) for _ in range(2))
    temperature = jnp.asarray([0.3, 0.7], jnp.float32)
    found = sac.prospect(policy, jnp.asarray(log_amount, jnp.float32), jnp.asarray(values, jnp.float32), temperature)
    p = np.exp(np.asarray(policy.log_choice, np.float64))
    value = [
        sum(p[k, b] * (values[k, b] - 0.3 * np.log(p[k, b]) - 0.7 * log_amount[k, b]) for k in range(4)) for b in range(batch)
    ]
    np.testing.assert_allclose(found.value, value, rtol=1e-5, atol=1e-5)
    choice_entropy = np.mean(-np.sum(p * np.log(p), axis=0))
    amount_entropy = np.mean(-np.sum(p * log_amount, axis=0))
    np.testing.assert_allclose(found.entropy, [choice_entropy, amount_entropy], rtol=1e-5)


def test_an_impossible_choice_does_no_harm():
    # probabilities (1, e^-200): the second is 0 in float32, and 0 x ln 0 must stay 0
    policy = ActionDistribution(jnp.asarray([[0.0], [-200.0]], jnp.float32), *jnp.zeros((2, 2, 0, 1), jnp.float32))
    found = sac.prospect(
        policy, jnp.zeros((2, 1), jnp.float32), jnp.asarray([[3.0], [1e6]], jnp.float32), jnp.ones(2, jnp.float32)
    )
    np.testing.assert_array_equal(found.value, [3.0])
    np.testing.assert_array_equal(found.entropy, [0.0, 0.0])


def test_target_entropies_by_hand():
    config = dataclasses.replace(SMALL, choice_entropy=0.5, amount_entropy=-1.0)
    np.testing.assert_allclose(sac.target_entropy(config, FORMS["discrete"]), [0.693147, 0.0], rtol=1e-5)  # 0.5 ln 4
    np.testing.assert_allclose(sac.target_entropy(config, FORMS["continuous"]), [0.0, -2.0], rtol=1e-5)  # ln 1, - 2 dimensions
    np.testing.assert_allclose(sac.target_entropy(config, FORMS["hybrid"]), [0.549306, -1.0], rtol=1e-5)  # 0.5 ln 3


def test_the_smaller_twin_counts(getkey):
    agent, learner = bench("hybrid")[:2]
    columns, noise = jax.random.normal(getkey(), (3, 16), jnp.float32), jax.random.normal(getkey(), (3, 1, 16), jnp.float32)
    weights = learner.params.critic["params"]
    shifted = lambda by: {"params": weights | {"head": weights["head"] | {"bias": jnp.full((2, 3, 1), by, jnp.float32)}}}  # noqa: E731
    rise = jnp.asarray([0.0, 1.0], jnp.float32)[:, None, None]
    second = lambda by: {"params": weights | {"head": weights["head"] | {"bias": by * jnp.broadcast_to(rise, (2, 3, 1))}}}  # noqa: E731
    look = jax.jit(
        lambda critic: sac.look_ahead(agent, learner.params.actor, critic, jnp.zeros(2, jnp.float32), columns, noise).value
    )
    plain, lower, higher = look(shifted(0.0)), look(second(-100.0)), look(second(100.0))
    assert np.all(lower < plain - 50) and np.all(higher >= plain) and np.all(higher < plain + 50)


class Bench(NamedTuple):
    """An agent, its learner at the start, a batch, and its compiled update: (learner, batch, weights, key)."""

    agent: Any
    learner: Any
    batch: Transition
    update: Any
    traces: list[int]


@functools.cache
def bench(kind: str) -> Bench:
    """What the tests of one update share."""
    agent, traces = agent_of(FORMS[kind], hidden=(8,)), []

    def update(*arguments: Any) -> Any:
        traces.append(1)
        return sac.learn(agent, *arguments)

    learner = jax.jit(lambda key: sac.init_learner(agent, key, 3))(jax.random.key(7))
    return Bench(agent, learner, random_batch(jax.random.key(8), FORMS[kind]), jax.jit(update), traces)


ONES = jnp.ones(32, jnp.float32)


@pytest.mark.parametrize("kind", FORMS)
def test_a_natural_end_has_no_future_and_other_ends_do(kind, getkey):
    (agent, learner, batch, update, _), form, key = bench(kind), FORMS[kind], getkey()
    choice, amount = from_action(form, batch.action)
    values = twin_values_of(agent.critic, learner.params.critic, batch.features.T, choice, amount)
    error = lambda batch: update(learner, batch, ONES, key)[1].td_error  # noqa: E731
    ended = error(batch._replace(discount=0 * ONES))
    np.testing.assert_allclose(ended, jnp.mean(values, axis=0) - batch.reward, rtol=1e-4, atol=1e-5)
    noise = jax.random.normal(key, (2, form.choices, form.dims, 32), jnp.float32)[1]
    temperature = jnp.exp(learner.params.log_temperature)
    look = jax.jit(functools.partial(sac.look_ahead, agent))
    ahead = look(learner.params.actor, learner.target_params, temperature, batch.next_features.T, noise)
    np.testing.assert_allclose(ended - error(batch), 0.9 * ahead.value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", FORMS)
def test_temperatures_move_and_unused_ones_rest(kind, getkey):
    _, learner, batch, update, _ = bench(kind)
    move = np.asarray(update(learner, batch, ONES, getkey())[0].params.log_temperature - learner.params.log_temperature)
    used = np.asarray([FORMS[kind].choices > 1, FORMS[kind].dims > 0])
    assert np.all(move[used] < 0)  # a fresh policy is nearly uniform: more entropy than half of ln choices, and than -2
    assert np.all(move[~used] == 0)


def test_a_temperature_rises_where_its_entropy_is_short():
    slope = jax.grad(sac.temperature_loss)(jnp.zeros(2), jnp.asarray([0.3, -0.5]), jnp.asarray([0.5, -1.0]))
    np.testing.assert_allclose(slope, [-0.2, 0.5], atol=1e-6)  # descent raises the first, lowers the second


def test_each_loss_moves_its_own_network_only(getkey):
    _, learner, batch, update, _ = bench("hybrid")
    unweighted, _ = update(learner, batch, 0 * ONES, getkey())  # no critic loss
    assert same(unweighted.params.critic, learner.params.critic) and not same(unweighted.params.actor, learner.params.actor)
    # without a future the critics do not depend on what the actor would do
    ended = batch._replace(discount=0 * ONES)
    one, other = (update(learner, ended, ONES, getkey())[0].params for _ in range(2))
    assert same(one.critic, other.critic) and not same(one.actor, other.actor)


def test_the_critic_loss_by_hand():
    # squares (1, 9) and (4, 0) of the first and the second state; weights 1 and 0.5: (1 (1 + 9) + 0.5 (4 + 0)) / 2 / 2 = 3
    values, target = jnp.asarray([[1.0, 3.0], [3.0, 1.0]]), jnp.asarray([0.0, 1.0])
    assert float(sac.critic_loss(values, target, jnp.asarray([1.0, 0.5]))) == pytest.approx(3.0)


def test_the_target_follows_by_its_factor(getkey):
    _, learner, batch, update, _ = bench("discrete")
    after, _ = update(learner, batch, ONES, getkey())
    factor = SMALL.target_soft_factor
    wanted = jax.tree.map(lambda new, old: factor * new + (1 - factor) * old, after.params.critic, learner.params.critic)
    for found, value in zip(jax.tree.leaves(after.target_params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-7)


def test_changed_numbers_need_no_new_trace(getkey):
    _, learner, _, update, traces = bench("hybrid")
    for _ in range(3):
        learner, _ = update(learner, random_batch(getkey(), FORMS["hybrid"]), ONES, getkey())
    assert len(traces) == 1 and int(learner.updates) == 3


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_the_slopes_of_products_are_those_that_jax_derives(shared, getkey):
    kernel, columns = jax.random.normal(getkey(), (2, 4, 3)), jax.random.normal(getkey(), (3, 6) if shared else (2, 3, 6))
    slope = lambda f: jax.jit(jax.grad(lambda *x: jnp.sum(jnp.sin(f(*x))), argnums=(0, 1)))(kernel, columns)  # noqa: E731
    slopes = slope(product), slope(jnp.matmul)
    for found, wanted in zip(*slopes, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


# actions and settings


@pytest.mark.parametrize("kind", FORMS)
def test_actions_and_back(kind, getkey):
    form = FORMS[kind]
    choice = jax.random.randint(getkey(), (200,), 0, form.choices, jnp.int32)
    amount = jax.random.uniform(getkey(), (form.dims, 200), jnp.float32, -1.0, 1.0)
    back = from_action(form, to_action(form, choice, amount))
    np.testing.assert_array_equal(back[0], choice)
    np.testing.assert_allclose(back[1], amount, atol=1e-6)


def test_bounds_are_met_and_never_passed():
    form = FORMS["continuous"]
    ends = to_action(form, jnp.zeros(2, jnp.int32), jnp.asarray([[-1.0, 1.0], [-1.0, 1.0]], jnp.float32))
    np.testing.assert_array_equal(ends, [[-2.0, 0.0], [2.0, 10.0]])
    hybrid = to_action(FORMS["hybrid"], jnp.asarray([2], jnp.int32), jnp.zeros((1, 1), jnp.float32))
    assert isinstance(hybrid, HybridAction) and hybrid.choice.shape == (1,) and float(hybrid.amount[0]) == 20.0


def test_forms_are_read_from_the_attributes_of_any_space():
    class Foreign(NamedTuple):
        low: float
        high: Any
        shape: tuple[int, ...]

    assert action_form(Discrete(5)) == ActionForm("discrete", 5)
    assert action_form(Hybrid(3, 10.0, 30.0)) == FORMS["hybrid"]
    assert action_form(Foreign(-1.0, np.asarray([1.0, 2.0]), (2,))) == ActionForm("continuous", 1, (-1.0, -1.0), (1.0, 2.0), (2,))


@pytest.mark.parametrize(
    ("space", "text"),
    [(Box(-jnp.inf, 1.0, (1,)), "must be finite"), (Box(1.0, 1.0, (1,)), "low less than high"), (3, "must have `n`")],
)
def test_spaces_that_cannot_be_acted_in_are_refused(space, text):
    with pytest.raises(ValueError, match=text):
        action_form(space)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_soft_factor", 0.0),
        ("target_soft_factor", 1.5),
        ("initial_temperature", 0.0),
        ("choice_entropy", 1.1),
        ("choice_entropy", math.nan),
        ("amount_entropy", 0.7),
        ("epsilon_start", 1.1),
        ("epsilon_fraction", 0.0),
        ("amount_entropy", -math.inf),
        ("hidden", ()),
        ("batch_size", 0),
    ],
)
def test_wrong_settings_are_refused_in_one_line(name, value):
    with pytest.raises(ValueError, match=name) as error:
        dataclasses.replace(SMALL, **{name: value})
    assert "\n" not in str(error.value)


# learning


@pytest.fixture(scope="module")
def discrete() -> TrainResult:
    return train(Workshop("discrete"), SMALL, seed=1)


@pytest.fixture(scope="module")
def hybrids() -> TrainResult:
    """Two seeds in one program."""
    return train_many(Workshop("hybrid"), SMALL, [1, 2])


def test_hybrid_agents_find_the_best_machine_and_its_speed(hybrids):
    for job in range(2):
        action = jax.vmap(lambda agent: agent.policy()(JOBS[job]))(hybrids)  # noqa: B023
        np.testing.assert_array_equal(action.choice, BEST_MACHINE[job])
        np.testing.assert_allclose(action.amount, BEST_SPEED[job], atol=0.8)  # of a range of 20; costs at most 0.04
        values = jax.vmap(lambda agent: agent.values(JOBS[job]))(hybrids)  # noqa: B023
        np.testing.assert_allclose(np.max(values, axis=1), BONUS[job].max(), atol=0.2)
    assert not same(*(jax.tree.map(lambda leaf: leaf[seed], hybrids.params) for seed in range(2)))  # noqa: B023


def test_a_discrete_agent_knows_what_every_choice_is_worth(discrete):
    for job in range(2):
        assert int(discrete.policy()(JOBS[job])) == BEST_MACHINE[job]
        np.testing.assert_allclose(discrete.values(JOBS[job]), BONUS[job], atol=0.1)


def test_a_continuous_agent_has_no_table_of_values():
    agent, learner = bench("continuous")[:2]
    with pytest.raises(ValueError, match="no finite set of choices"):
        sac.choice_values(agent, learner.params, jnp.zeros(3, jnp.float32))


@pytest.mark.slow
def test_a_continuous_agent_finds_the_speed():
    trained = train(Workshop("continuous"), SMALL, seed=1)
    for job, speed in enumerate(SPEED[:, 1]):
        action = trained.policy()(JOBS[job])
        assert action.shape == (1,) and action.dtype == jnp.float32
        assert float(action[0]) == pytest.approx(speed, abs=0.8)


def test_entropies_are_held_at_their_targets(hybrids):
    agent = sac.soft_actor_critic(SMALL, action_form(Hybrid(3, 10.0, 30.0)))
    params = jax.tree.map(lambda leaf: leaf[0], hybrids.params)
    columns = jnp.tile(JOBS.astype(jnp.float32), 500)
    noise = jax.random.normal(jax.random.key(3), (3, 1, 1000), jnp.float32)
    look = jax.jit(functools.partial(sac.look_ahead, agent))
    found = look(params.actor, params.critic, jnp.exp(params.log_temperature), columns, noise).entropy
    np.testing.assert_allclose(found, sac.target_entropy(SMALL, agent.form), atol=0.25)


@pytest.mark.slow
def test_an_interrupted_training_ends_in_the_same_bits(discrete, tmp_path):
    class Interrupt(Exception):
        pass

    def stop(done: int, total: int, row: Any) -> None:
        raise Interrupt

    env, path = Workshop("discrete"), tmp_path / "agent.npz"
    with pytest.raises(Interrupt):
        train(env, SMALL, seed=1, checkpoint=path, chunk_steps=3_000, checkpoint_seconds=0.0, progress=stop)
    assert same(train(env, SMALL, seed=1, checkpoint=path), discrete)
    loaded = load_agent(path, env)
    assert same(loaded.policy()(JOBS[0]), discrete.policy()(JOBS[0])) and loaded.config == SMALL
