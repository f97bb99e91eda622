"""SchedulingEnv: gymnax 1.0 semantics, observations, rewards; nothing about cost is computed outside costmodel.step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import costmodel
import rl
from costmodel.weights import JUST_WRITTEN
from workloads import TaskStream, load


@pytest.fixture(scope="module")
def env():
    return rl.SchedulingEnv(costmodel.load_platform("edge"))


def play(env, key, steps, params=None, action=None):
    """`steps` steps of one environment: stacked results of every step, actions random unless given."""
    key_reset, key_run = jax.random.split(key)
    _, state = env.reset(key_reset, params)

    def body(state, key):
        key_act, key_step = jax.random.split(key)
        chosen = jax.random.randint(key_act, (), 0, env.num_actions) if action is None else jnp.asarray(action)
        observation, after, reward, terminated, truncated, info = env.step(key_step, state, chosen, params)
        return after, (observation, state, after, reward, terminated, truncated, info)

    return jax.jit(lambda s, k: jax.lax.scan(body, s, k)[1])(state, jax.random.split(key_run, steps))


def test_six_values_and_final_observation(env, getkey):
    params = env.default_params._replace(max_steps=5)
    observation, before, after, _reward, terminated, truncated, info = play(env, getkey(), 20, params)
    assert list(np.flatnonzero(truncated)) == [4, 9, 14, 19]  # after the 5th task of every episode
    assert not np.any(terminated)
    assert np.array_equal(info["truncated"], truncated) and np.array_equal(info["terminated"], terminated)
    final, shown = np.asarray(info["final_observation"]), np.asarray(observation)
    ended = np.asarray(truncated)
    assert np.array_equal(final[~ended], shown[~ended])
    assert np.all(np.any(final[ended] != shown[ended], axis=1))  # the next episode is another one
    assert np.array_equal(np.asarray(after.time)[ended], np.zeros(4)) and np.all(np.asarray(after.time)[~ended] > 0)
    assert np.array_equal(np.asarray(before.time), np.arange(20) % 5)


def test_observation_after_a_step_is_that_of_the_returned_state(env, getkey):
    observation, _, after, *_ = play(env, getkey(), 50, env.default_params._replace(max_steps=7))
    assert np.allclose(jax.vmap(env.observe)(after), observation, atol=1e-5)


def test_a_worn_out_chip_terminates_and_is_no_way_out(env, getkey):
    _, state = env.reset(getkey())
    cells = state.platform.cells["pim"]
    worn = cells._replace(wear=type(cells.wear).zero(1.5))
    state = state._replace(platform=state.platform._replace(cells={"pim": worn}))
    _, after, reward, terminated, truncated, _ = env.step(getkey(), state, jnp.asarray(0))
    assert bool(terminated) and not bool(truncated)
    assert float(reward) < -env.default_params.end_of_life_penalty
    assert float(after.platform.cells["pim"].wear.damage) < 1  # a new chip in the next episode


def test_reward_is_the_documented_sum(env, getkey):
    params = env.default_params
    _, before, _, reward, _, _, info = play(env, getkey(), 300)
    o = info["outcome"]
    expected = (
        params.energy_weight * o.energy
        + params.latency_weight * np.minimum(o.latency / before.deadline, 2)
        + params.miss_penalty * o.missed
        + params.failure_penalty * o.failed
        + params.wear_weight * o.wear
    )
    assert np.allclose(reward, -expected, rtol=1e-5)
    assert np.array_equal(np.asarray(o.missed) > 0, np.asarray(o.latency) > np.asarray(before.deadline))


def test_step_is_costmodel_step(env, getkey):
    """The environment adds arrivals and rewards, nothing else."""
    _, state = env.reset(getkey())
    for action in range(env.num_actions):
        decided, outcome = costmodel.step(env.platform, state.platform, env.task(state), costmodel.Decision(jnp.asarray(action)))
        after, _, _, _, _, info = (lambda r: (r[1], *r[:1], *r[2:]))(env.step(getkey(), state, jnp.asarray(action)))
        for ours, theirs in zip(jax.tree.leaves(after.platform), jax.tree.leaves(decided), strict=True):
            assert np.allclose(ours, theirs, rtol=2e-4, atol=1e-4)
        assert np.allclose(info["outcome"].energy, outcome.energy, rtol=1e-4)


def test_observations_are_finite_bounded_and_named(env, getkey):
    observation, *_ = play(env, getkey(), 2000)
    assert observation.shape == (2000, len(env.observation_names)) == (2000, *env.observation_space().shape)
    assert np.all(np.isfinite(observation)) and np.abs(observation).max() < 20
    assert len(set(env.observation_names)) == len(env.observation_names)
    constant = [n for n, s in zip(env.observation_names, np.std(observation, axis=0), strict=True) if s == 0]
    assert constant == ["cpu is awake"] or constant == []  # every other entry carries information


def test_observation_entries_mean_what_they_say(env, getkey):
    _, state = env.reset(getkey())
    named = dict(zip(env.observation_names, np.asarray(env.observe(state)), strict=True))
    network = env.stream.networks[int(state.network)]
    assert [n for n in env.stream.networks if named[f"task is {n}"] == 1] == [network]
    assert named["ln(deadline / 0.1 s)"] == pytest.approx(np.log(float(state.deadline) / 0.1), abs=1e-5)
    quoted = env.quote(state)
    for i, name in enumerate(env.platform.names):
        assert named[f"ln(latency on {name} / deadline)"] == pytest.approx(
            np.log(float(quoted.latency[i]) / float(state.deadline)), abs=1e-4
        )
        kelvin = float(state.platform.ambient + state.platform.theta[i])
        assert named[f"(temperature of {name} - 318.15 K) / 40 K"] == pytest.approx((kelvin - 318.15) / 40, abs=1e-5)
    for i, name in enumerate(env.stream.networks):
        assert named[f"{name} is resident on pim"] == float(state.platform.cells["pim"].resident[i])


def test_episodes_start_with_weights_that_fit(env, getkey):
    _, states = jax.vmap(env.reset)(jax.random.split(getkey(), 500))
    cells = states.platform.cells["pim"]
    filled = np.sum(np.asarray(cells.resident) * np.asarray(cells.memory), axis=1)
    assert np.all(filled <= 1 + 1e-5) and np.all(filled > 0)
    assert np.all(np.asarray(cells.log_hazard) <= np.log(float(env.platform.hazard_budget)) + 1e-5)
    assert np.all(np.asarray(cells.log_hazard) > JUST_WRITTEN)
    ambient = np.asarray(states.platform.ambient)
    params = env.default_params
    assert ambient.min() >= params.ambient_lo and ambient.max() <= params.ambient_hi and np.ptp(ambient) > 60


def test_same_key_same_bits_and_tasks_do_not_depend_on_actions(env, getkey):
    key = getkey()
    first, again, other = play(env, key, 60), play(env, key, 60), play(env, key, 60, action=0)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(first[1].network, other[1].network) and np.array_equal(first[1].gap, other[1].gap)


def test_transitions_are_not_differentiated(env, getkey):
    _, state = env.reset(getkey())

    def reward(deadline):
        return env.step(jax.random.key(0), state._replace(deadline=deadline), jnp.asarray(0))[2]

    assert float(jax.grad(reward)(state.deadline)) == 0.0


def test_params_may_be_batched(env, getkey):
    weights = jnp.array([0.0, 10.0, 100.0])
    _, state = env.reset(getkey())
    rewards = jax.vmap(
        lambda w: env.step(jax.random.key(0), state, jnp.asarray(1), env.default_params._replace(energy_weight=w))[2]
    )(weights)
    assert rewards[0] > rewards[1] > rewards[2]


def test_one_network_stream(getkey):
    small = rl.SchedulingEnv(costmodel.load_platform("edge"), TaskStream(["resnet8"]))
    observation, *_ = play(small, getkey(), 10)
    assert np.all(np.isfinite(observation))
    with pytest.raises(ValueError, match=r"unknown network 'resnet9'; close: resnet8"):
        rl.SchedulingEnv(costmodel.load_platform("edge"), TaskStream(["resnet9"]))


def test_no_processor_is_best_everywhere(env, getkey):
    """The default platform is a real decision: with weights resident and everything idle, each processor wins somewhere."""
    _, states = jax.vmap(env.reset)(jax.random.split(getkey(), 2000))
    wins = jax.jit(jax.vmap(rl.baselines(env)["cost-greedy"]))(
        jax.random.split(getkey(), 2000), jax.vmap(env.observe)(states), states
    )
    shares = np.bincount(np.asarray(wins), minlength=3) / 2000
    assert np.all(shares > 0.01), shares


def test_offers_are_estimates(env):
    for row, name in enumerate(env.stream.networks):
        for column, processor in enumerate(env.platform.names):
            cost = costmodel.estimate(env.platform.processors[processor], load(name))
            assert float(env.offers.latency[row, column]) == pytest.approx(float(cost.latency), rel=1e-6)
            assert float(env.offers.energy[row, column]) == pytest.approx(float(cost.dynamic_energy), rel=1e-6)
