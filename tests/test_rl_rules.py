"""Baselines and evaluation: rules do what their names say, policies meet the same tasks, statistics are right."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import costmodel
import rl
from rl.study.evaluation import agent_policy, evaluate_each, evaluate_runs, summarise

pytestmark = pytest.mark.single  # computes in float32 whatever the default


@pytest.fixture(scope="module")
def env():
    return rl.SchedulingEnv(costmodel.load_platform("edge"))


@pytest.fixture(scope="module")
def states(env):
    return jax.vmap(env.reset)(jax.random.split(jax.random.key(3), 256))


def decide(env, states, name):
    observations, state = states
    return np.asarray(jax.jit(jax.vmap(rl.baselines(env)[name]))(jax.random.split(jax.random.key(0), 256), observations, state))


def test_fixed_and_random_rules(env, states):
    for index, name in enumerate(env.platform.names):
        assert set(decide(env, states, f"always-{name}")) == {index}
    counts = np.bincount(decide(env, states, "random"), minlength=3)
    assert counts.sum() == 256 and counts.min() > 40  # 85 expected, standard deviation 7.5


def test_threshold_leaves_the_chip_when_it_is_hot(env, states):
    chosen, hot = decide(env, states, "threshold"), np.asarray(states[1].platform.temperature[:, 2]) >= 358.15
    assert 0 < hot.sum() < 256
    assert np.all((chosen == 2) == ~hot)


def test_slack_greedy_by_hand(env, states):
    quoted = jax.vmap(env.quote)(states[1])
    slack = (np.asarray(states[1].deadline)[:, None] - np.asarray(quoted.latency)) / np.asarray(quoted.service)
    assert np.array_equal(decide(env, states, "slack-greedy"), np.argmax(slack, axis=1))


def test_cost_greedy_takes_the_best_immediate_reward(env, states):
    rewards = np.stack(
        [
            np.asarray(jax.vmap(lambda s, a=a: env.reward(s, env.outcome(s, jnp.asarray(a))[1], env.default_params))(states[1]))
            for a in range(3)
        ],
        axis=1,
    )
    chosen = decide(env, states, "cost-greedy")
    assert np.allclose(rewards[np.arange(256), chosen], rewards.max(axis=1), rtol=1e-5, atol=1e-6)


def test_evaluation_is_reproducible(env):
    """The same key gives the same bits, another key other episodes. (Tasks do not depend on actions: see the environment.)"""
    params = env.default_params._replace(max_steps=16)
    rules = rl.baselines(env, params)
    first = rl.evaluate(env, rules["always-cpu"], jax.random.key(1), 8, params)
    again = rl.evaluate(env, rules["always-cpu"], jax.random.key(1), 8, params)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.allclose(first.shares, [[1, 0, 0]] * 8)
    other = rl.evaluate(env, rules["always-cpu"], jax.random.key(2), 8, params)
    assert not np.array_equal(first.score, other.score)


def test_evaluation_equals_playing_the_environment(env):
    """The score is the sum of the documented rewards of the same steps, played one by one."""
    params = env.default_params._replace(max_steps=12)
    policy = rl.baselines(env, params)["cost-greedy"]
    found = rl.evaluate(env, policy, jax.random.key(9), 2, params)
    advance = jax.jit(env.step_env)
    for lane, lane_key in enumerate(jax.random.split(jax.random.key(9), 2)):
        key_reset, key_run = jax.random.split(lane_key)
        observation, state = env.reset(key_reset, params)
        score = 0.0
        for step_key in jax.random.split(key_run, 12):
            key_act, key_step = jax.random.split(step_key)
            after, outcome = advance(key_step, state, policy(key_act, observation, state))
            score += float(env.reward(state, outcome, params))
            observation, state = env.observe(after), after
        assert float(found.score[lane]) == pytest.approx(score, rel=1e-3)


def test_policies_in_one_program_play_as_each_alone(env):
    params = env.default_params._replace(max_steps=12)
    rules = rl.baselines(env, params)
    rules = {name: rules[name] for name in ("cost-greedy", "random")}
    together = evaluate_each(env, rules, jax.random.key(9), 3, params)
    assert list(together) == list(rules)
    for name, policy in rules.items():
        alone = rl.evaluate(env, policy, jax.random.key(9), 3, params)
        assert np.allclose(alone.score, together[name].score, rtol=1e-4) and np.allclose(alone.shares, together[name].shares)


def test_runs_of_one_agent_play_the_same_episodes(env):
    """All runs in one program give what each gives alone, on the episodes that rules play."""
    params = env.default_params._replace(max_steps=12)
    config = rl.DQNConfig(total_steps=100, batch_size=16, buffer_size=100, learning_starts=50, hidden=(8,), log_every=100)
    agents = [rl.train(env, config, seed=seed) for seed in (0, 1)]
    together = evaluate_runs(env, agents, jax.random.key(5), 3, params)
    assert together.score.shape == (2, 3) and together.shares.shape == (2, 3, 3)
    for agent, score in zip(agents, together.score, strict=True):
        alone = rl.evaluate(env, agent_policy(agent), jax.random.key(5), 3, params)
        assert np.allclose(alone.score, score, rtol=1e-4)
    figures = summarise(together)
    assert np.shape(figures["scores"]) == (2, 3) and sum(figures["shares"]) == pytest.approx(1)
    with pytest.raises(ValueError, match="agents: at least one training run is needed, got 0"):
        evaluate_runs(env, [], jax.random.key(0))


def test_evaluate_refuses_no_episodes(env):
    with pytest.raises(ValueError, match="episodes = 0 is outside its range"):
        rl.evaluate(env, rl.baselines(env)["random"], jax.random.key(0), 0)
