"""SchedulingEnv: gymnax 1.0 semantics, observations, rewards; nothing about cost is computed outside costmodel.step."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import costmodel
import rl
from costmodel.weights import JUST_WRITTEN
from rl.envs.foresight import foreseen, foreseen_names
from rl.envs.resets import restart_where
from workloads import Burst, TaskStream, load

pytestmark = pytest.mark.single  # what it computes with is tested in both precisions where it lives


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


# What can be switched on ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clocked():
    """The edge platform with a clock domain for two of three processors, and a limit it can pass."""
    clocks = {"cpu": costmodel.load_clock("stm32l4r5"), "gpu": costmodel.load_clock("edge-gpu")}
    limit = costmodel.ThermalLimit(temperature=310.0, width=50.0, critical=372.0)
    return dataclasses.replace(costmodel.load_platform("edge"), clocks=clocks, limit=limit)


@pytest.fixture(scope="module")
def full(clocked):
    """Everything on: levels, refreshing, bursts, changing surroundings, limits."""
    stream = TaskStream({"kws": "ds-cnn", "ad": "fc-autoencoder"}, burst=Burst())
    trace = rl.AmbientTrace([0.0, 100.0, 250.0], [300.0, 365.0, 300.0])
    return rl.SchedulingEnv(clocked, stream, levels=(0.5, 1.0, 0.75), refresh=True, ambient=trace)


def test_actions_name_processor_level_and_refresh(clocked, full):
    assert full.levels == (1.0, 0.75, 0.5) and full.num_actions == 18 == full.action_space().n
    assert full.action_names[:4] == ("cpu", "gpu", "pim", "cpu at 0.75")
    assert full.action_names[-1] == "pim at 0.5 after refreshing pim"
    for action, (processor, speed, refresh) in {0: (0, 1.0, -1), 4: (1, 0.75, -1), 8: (2, 0.5, -1), 10: (1, 1.0, 2)}.items():
        decision = full.decision(jnp.asarray(action))
        assert (int(decision.processor), float(decision.speed), int(decision.refresh)) == (processor, speed, refresh)
    slow = rl.SchedulingEnv(clocked, levels=(0.5,))
    assert slow.action_names == ("cpu at 0.5", "gpu at 0.5", "pim at 0.5")


def test_continuous_clocks_span_each_processors_own_range(clocked):
    env = rl.SchedulingEnv(clocked, levels="continuous")
    assert isinstance(env.action_space(), rl.Hybrid) and env.num_actions == 3
    for choice, slowest in ((0, 26 / 120), (1, 0.25), (2, 1.0)):
        for amount, share in ((-1.0, 0.0), (0.0, 0.5), (1.0, 1.0), (9.0, 1.0)):
            decision = env.decision(rl.HybridAction(jnp.asarray(choice), jnp.asarray(amount)))
            assert float(decision.speed) == pytest.approx(slowest + share * (1 - slowest), rel=1e-5)
        assert float(env.decision(jnp.asarray(choice)).speed) == 1.0  # rules without an amount play too


def test_the_default_environment_has_none_of_it(env, clocked, getkey):
    decision = env.decision(jnp.asarray(1))
    assert decision.speed is None and decision.refresh is None
    _, state = env.reset(getkey())
    assert state.bursting is None and state.clock is None and state.platform.voltage is None
    assert env.action_names == env.platform.names == tuple(rl.SchedulingEnv(clocked).action_names)


def test_everything_on_plays_and_observes(full, getkey):
    observation, before, after, reward, terminated, _, info = play(full, getkey(), 600)
    assert observation.shape == (600, len(full.observation_names)) and len(set(full.observation_names)) == observation.shape[1]
    assert np.all(np.isfinite(observation)) and np.abs(observation).max() < 20 and np.all(np.isfinite(reward))
    named = dict(zip(full.observation_names, np.asarray(observation).T, strict=True))
    for entry in ("task came in a burst", "share of the time that the clock of gpu runs"):
        assert np.ptp(named[entry]) > 0, entry
    cells = after.platform.cells["pim"]
    in_use = np.sum(np.asarray(cells.resident * cells.memory), axis=1)
    np.testing.assert_allclose(named["share of pim that a refresh would write"], in_use, rtol=1e-5)
    # a slower clock takes longer and less energy, where there are clocks
    for name in ("cpu", "gpu"):
        assert np.all(
            named[f"ln(latency on {name} at 0.5 of its clock / deadline)"] >= named[f"ln(latency on {name} / deadline)"]
        )
        assert np.all(named[f"ln(energy on {name} at 0.5 of its clock / 10 mJ)"] <= named[f"ln(energy on {name} / 10 mJ)"] + 1e-6)
    assert "ln(latency on pim at 0.5 of its clock / deadline)" not in named
    # the second of (this task, the next one) becomes the first
    going = ~np.asarray(terminated) & ~np.asarray(info["truncated"])
    assert np.array_equal(np.asarray(after.bursting)[going, 0], np.asarray(before.bursting)[going, 1])
    # surroundings follow the trace while an episode lasts
    clock = np.asarray(after.clock.value, np.float64)
    expected = np.interp(clock % 250.0, [0.0, 100.0, 250.0], [300.0, 365.0, 300.0])
    np.testing.assert_allclose(after.platform.ambient, expected, atol=0.01)


@pytest.mark.slow
def test_rules_play_with_every_action(full, clocked, getkey):
    for env in (full, rl.SchedulingEnv(clocked, levels="continuous")):
        observation, state = env.reset(getkey())
        for policy in rl.baselines(env).values():
            after, outcome = env.step_env(getkey(), state, policy(getkey(), observation, state))
            assert np.isfinite(float(outcome.energy)) and int(after.time) == 1


def test_a_critically_hot_platform_ends_the_episode(clocked, getkey):
    env = rl.SchedulingEnv(clocked)
    _, state = env.reset(getkey())
    hot = state._replace(platform=state.platform._replace(ambient=jnp.asarray(373.0)))
    _, _, reward, terminated, _, info = env.step(getkey(), hot, jnp.asarray(0))
    assert bool(terminated) and float(info["outcome"].tripped) == 1 and float(reward) < -env.default_params.end_of_life_penalty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(levels="fine"), "levels = 'fine' must be numbers in (0, 1] or 'continuous'"),
        (dict(levels=(0.5, 0.5)), "levels = (0.5, 0.5) must be different numbers in (0, 1]"),
        (dict(levels=(0.0, 1.0)), "levels = (0.0, 1.0) must be different numbers in (0, 1]"),
        (dict(levels=()), "levels = () must be different numbers in (0, 1]"),
    ],
)
def test_options_that_mean_nothing_are_refused(clocked, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rl.SchedulingEnv(clocked, **options)


def test_options_that_do_not_fit_the_platform_are_refused(env):
    with pytest.raises(ValueError, match="levels need a platform with clock domains"):
        rl.SchedulingEnv(env.platform, levels=(0.5, 1.0))
    with pytest.raises(ValueError, match="must be two lists of the same length"):
        rl.AmbientTrace([0.0], [300.0])
    with pytest.raises(ValueError, match="must start at 0 s, ascend and be finite"):
        rl.AmbientTrace([0.0, 5.0, 3.0], [300.0, 310.0, 300.0])
    with pytest.raises(ValueError, match=r"100 to 300 K leave the range \[200, 500\] K"):
        rl.AmbientTrace([0.0, 5.0], [300.0, 100.0])


def test_a_day_is_coldest_and_warmest_where_it_says():
    day = rl.AmbientTrace.day(288.0, 308.0, coldest_at=5 * 3600.0, points=97)
    assert float(day.at(jnp.asarray(5 * 3600.0))) == pytest.approx(288.0, abs=1e-3)
    assert float(day.at(jnp.asarray(17 * 3600.0))) == pytest.approx(308.0, abs=1e-3)
    assert float(day.at(jnp.asarray(86400.0 + 11 * 3600.0))) == pytest.approx(298.0, abs=0.05)  # the next day, half-way
    assert float(rl.AmbientTrace([0.0, 2.0, 4.0], [300.0, 310.0, 304.0]).at(jnp.asarray(5.0))) == pytest.approx(305.0, abs=1e-3)


# Auto-reset -----------------------------------------------------------------------------------------------------------


def conditions(jaxpr, found=()):
    """The shapes of the predicates of all conditions in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            found += (equation.invars[0].aval.shape,)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                found = conditions(getattr(inner, "jaxpr", inner), found)
    return found


def test_a_batch_draws_new_episodes_only_where_one_has_ended(env, getkey):
    # one condition with a scalar predicate, whatever the number of batch axes: not a selection between two drawn branches
    _, state = env.reset(getkey())
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, 3, *x.shape)), state)
    keys = jax.random.split(getkey(), (2, 3))
    program = jax.make_jaxpr(jax.vmap(jax.vmap(lambda k, s: env.step(k, s, jnp.asarray(0)))))(keys, batch)
    assert conditions(program.jaxpr) == ((),)


def test_episodes_that_end_at_different_times_are_what_they_are_alone(env, getkey):
    params = env.default_params._replace(max_steps=4)
    keys = jax.random.split(getkey(), 6)
    _, states = jax.vmap(lambda k: env.reset(k, params))(keys)
    states = states._replace(time=jnp.arange(6, dtype=jnp.int32))
    step = jax.jit(lambda k, s: env.step(k, s, jnp.asarray(1), params))
    together = jax.jit(jax.vmap(lambda k, s: env.step(k, s, jnp.asarray(1), params)))(keys, states)
    assert np.array_equal(together[4], [False, False, False, True, True, True])
    for i in range(6):
        alone = step(keys[i], jax.tree.map(lambda x, i=i: x[i], states))
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-5, atol=1e-5)


def test_restarting_takes_unbatched_arguments_and_any_tree():
    def fresh(scale, offset):
        return {"a": scale * jnp.ones(2), "b": offset}

    current = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(3)}
    done = jnp.asarray([True, False, True])
    found = jax.vmap(lambda d, c, o: restart_where(d, c, fresh, jnp.asarray(2.0), o))(done, current, jnp.arange(3.0))
    np.testing.assert_array_equal(found["a"], [[2, 2], [0, 0], [2, 2]])
    np.testing.assert_array_equal(found["b"], [0, 0, 2])


# Spaces ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreseeing():
    return rl.SchedulingEnv(costmodel.load_platform("edge"), foresight=True)


def test_foresight_appends_entries_and_changes_nothing_else(env, foreseeing, getkey):
    key = getkey()
    (plain, plain_state), (more, state) = (jax.jit(each.reset)(key) for each in (env, foreseeing))
    extra = foreseeing.observation_names[len(plain) :]
    assert foreseeing.observation_names[: len(plain)] == env.observation_names and len(set(extra)) == len(extra) == 12
    assert np.allclose(more[: len(plain)], plain, rtol=1e-5, atol=1e-5) and more.shape == (len(foreseeing.observation_names),)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(plain_state), strict=True):
        assert np.allclose(ours, theirs, rtol=1e-6)


def test_foreseen_rewards_are_those_of_a_step_with_the_mean_gap(foreseeing, getkey):
    """The last entries are what `step` pays, of any reward weights, where the next task happens to come after the mean gap."""
    params = foreseeing.default_params._replace(energy_weight=3.0, miss_penalty=0.5)
    actions = jnp.arange(foreseeing.num_actions)

    def episode(key):
        _, state = foreseeing.reset(key, params)
        queue = jnp.array([0.0, 0.0, 0.05])  # s of work that waits for the chip
        state = state._replace(gap=state.mean_gap, platform=state.platform._replace(backlog=queue))
        pay = jax.vmap(lambda action: foreseeing.step(key, state, action, params)[2])
        return foreseeing.observe(state, params), pay(actions)

    observations, paid = jax.jit(jax.vmap(episode))(jax.random.split(getkey(), 2000))
    assert np.all(np.isfinite(observations)) and np.abs(observations).max() < 20
    assert np.allclose(observations[:, -foreseeing.num_actions :], paid, rtol=1e-4, atol=1e-5)
    assert np.std(paid, axis=0).min() > 0.05


def test_runs_left_are_counted_by_hand(foreseeing):
    """Half of the budget left and runs that cost e^-7 of it: 0.5 e^7 = 548.3 runs, ln 549.3 / 5 = 1.2617."""
    platform = foreseeing.platform
    state = platform.initial_state(workloads=4)
    chip, budget = platform.chip("pim"), float(jnp.log(platform.hazard_budget))
    cells = state.cells["pim"]
    half = cells.lost.restart(jnp.ones(4, bool), budget + np.log(0.5))
    cells = cells._replace(resident=jnp.array([1.0, 0.0, 1.0, 1.0]), lost=half)
    now = state._replace(cells={"pim": cells}, idle=jnp.array([0.0, 0.025, 0.0]))
    rate = float(chip.cell.log_loss(now.temperature[2], 0.0, 1.0))  # of one read
    reads = foreseeing.offers.reads.at[3, 2].set(np.exp(budget - 7.0 - rate))
    named = dict(
        zip(
            foreseen_names(platform, foreseeing.stream.networks),
            foreseen(platform, foreseeing.offers._replace(reads=reads), now),
            strict=True,
        )
    )
    assert named["ln(1 + runs left of resnet8 on pim) / 5"] == pytest.approx(1.2617, abs=2e-3)
    assert named["share of the hazard budget left of resnet8 on pim"] == pytest.approx(0.5, abs=1e-4)
    assert named["ln(1 + runs left of mobilenet-v1-0.25 on pim) / 5"] == 0  # not on the chip
    assert named["share of its linger left to gpu"] == pytest.approx(0.75, abs=1e-5)  # 25 ms of 100 ms are over


def test_hybrid_actions(getkey):
    space = rl.Hybrid(3, -0.5, 2.0)
    actions = jax.vmap(space.sample)(jax.random.split(getkey(), 500))
    assert set(np.unique(actions.choice)) == {0, 1, 2}
    assert float(actions.amount.min()) >= -0.5 and float(actions.amount.max()) <= 2.0 and np.ptp(actions.amount) > 2
    assert bool(space.contains(space.sample(getkey()))) and space.shape == ((), ())
    for choice, amount in ((3, 0.0), (0, 2.1), (-1, 0.0), (0, float("nan"))):
        assert not bool(space.contains(rl.HybridAction(jnp.asarray(choice), jnp.asarray(amount))))
    assert not bool(space.contains(jnp.asarray(1)))
    for arguments, message in (
        ((0,), "choices = 0"),
        ((2, 1.0, 0.0), "finite and ordered"),
        ((2, 0.0, np.inf), "finite and ordered"),
    ):
        with pytest.raises(ValueError, match=message):
            rl.Hybrid(*arguments)
