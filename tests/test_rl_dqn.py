"""Deep Q-learning: the law by hand-computed values, the program by what it records, learning on two toy tasks."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from costmodel import load_platform
from rl.agents.algorithm import action_space
from rl.agents.config import check_integer, check_real
from rl.agents.dqn import Learner, acting_values, init_learner, learn, make_network
from rl.agents.dqn_config import DQNConfig
from rl.agents.networks import DuelingQNetwork, NoisyDense, action_values, dueling_values
from rl.agents.optimizers import make_optimizer
from rl.agents.program import TrainResult, greedy_policy, make_program, make_train
from rl.agents.q_learning import epsilon_at, epsilon_greedy, refreshed_target, td_target
from rl.agents.replay import Transition, empty_transition, unpacked
from rl.agents.training import load_agent, train, train_many
from rl.checkpoints import CheckpointError
from rl.envs.routing import SchedulingEnv
from rl.envs.spaces import Box, Discrete

pytestmark = pytest.mark.single  # computes in float32 whatever the default


class CorridorState(NamedTuple):
    cell: Any
    time: Any


class Corridor:
    """Cells 0 to 4; action 1 steps right, 0 left; reward 1 and the natural end in cell 4, a time limit of 7 steps."""

    def __init__(self, goal_reward: float = 1.0) -> None:
        self.default_params = jnp.float32(goal_reward)
        self.num_actions = 2

    def observation_space(self, params: Any) -> Box:
        return Box(0.0, 1.0, (5,))

    def observe(self, cell: Any) -> Any:
        return jax.nn.one_hot(cell, 5)

    def reset(self, key: Any, params: Any) -> Any:
        cell = jax.random.randint(key, (), 0, 3, dtype=jnp.int32)
        return self.observe(cell), CorridorState(cell, jnp.zeros((), jnp.int32))

    def step(self, key: Any, state: CorridorState, action: Any, params: Any) -> Any:
        cell = jnp.clip(state.cell + jnp.where(action == 1, 1, -1), 0, 4).astype(jnp.int32)
        ended = CorridorState(cell, state.time + 1)
        terminated, truncated = cell == 4, ended.time >= 7
        fresh_observation, fresh = self.reset(key, params)
        done = terminated | truncated
        state = jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, ended)
        observation = jnp.where(done, fresh_observation, self.observe(cell))
        info = {"terminated": terminated, "truncated": truncated, "final_observation": self.observe(cell)}
        return observation, state, jnp.where(terminated, params, 0.0), terminated, truncated, info


class CartPole:
    """The pole on a cart of Barto, Sutton and Anderson (1983) with the constants of Gym's CartPole-v1."""

    default_params = None
    num_actions = 2

    def observation_space(self, params: Any) -> Box:
        return Box(-jnp.inf, jnp.inf, (4,))

    def reset(self, key: Any, params: Any) -> Any:
        body = jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05)
        return body, (body, jnp.zeros((), jnp.int32))

    def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        (x, speed, angle, spin), time = state
        push = jnp.where(action == 1, 10.0, -10.0).astype(jnp.float32)
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        inner = (push + 0.05 * spin**2 * sine) / 1.1
        spin_rate = (9.8 * sine - cosine * inner) / (0.5 * (4.0 / 3.0 - 0.1 * cosine**2 / 1.1))
        speed_rate = inner - 0.05 * spin_rate * cosine / 1.1
        rates = jnp.stack([speed, speed_rate, spin, spin_rate])
        body, time = jnp.stack([x, speed, angle, spin]) + 0.02 * rates, time + 1
        terminated = (jnp.abs(body[0]) > 2.4) | (jnp.abs(body[2]) > 12 * jnp.pi / 180)
        truncated = time >= 500
        fresh = self.reset(key, params)[1]
        state = jax.tree.map(lambda a, b: jnp.where(terminated | truncated, a, b), fresh, (body, time))
        info = {"terminated": terminated, "truncated": truncated, "final_observation": body}
        return state[0], state, jnp.ones((), jnp.float32), terminated, truncated, info


SMALL = DQNConfig(
    total_steps=4_000,
    num_envs=4,
    train_every=8,
    buffer_size=2_000,
    batch_size=16,
    learning_starts=200,
    hidden=(16,),
    learning_rate=5e-3,
    gamma=0.9,
    log_every=400,
)


def same(one: Any, other: Any) -> bool:
    """Whether two trees hold the same bits."""
    raw = lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)  # noqa: E731
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(
        raw(a).dtype == raw(b).dtype and np.array_equal(raw(a), raw(b)) for a, b in zip(leaves, others, strict=True)
    )


@pytest.fixture(scope="module")
def corridor_result() -> TrainResult:
    """A corridor agent, trained as one program."""
    return jax.jit(make_train(Corridor(), SMALL))(jax.random.key(3))


# The law.


def test_double_target_is_the_hand_computed_one() -> None:
    """State 1: online prefers action 1, whose target value is 3: 1 + 0.9 * 3 = 3.7; the plain target takes max = 5: 5.5.

    State 2 terminated: only its reward.
    """
    reward, discount = jnp.array([1.0, 2.0]), jnp.array([0.9, 0.0])
    online, target = jnp.array([[0.0, 0.0], [1.0, 1.0]]), jnp.array([[5.0, 5.0], [3.0, 3.0]])  # [action, state]
    np.testing.assert_allclose(td_target(reward, discount, online, target), [3.7, 2.0], rtol=1e-6)
    np.testing.assert_allclose(td_target(reward, discount, target, target), [5.5, 2.0], rtol=1e-6)


def test_a_time_limit_is_stored_with_its_final_observation_and_keeps_the_bootstrap() -> None:
    """With epsilon 1 lanes run into both ends; the stored rows follow the corridor's rule, not the reset."""
    config = dataclasses.replace(SMALL, epsilon_end=1.0, total_steps=400)
    program = make_program(Corridor(), config)
    state = jax.jit(lambda key: program.run(program.init(key), 1))(jax.random.key(0))
    ring = unpacked(state.replay.table[:400], empty_transition(5, jnp.int32(0)))
    cell, following = np.argmax(ring.features, axis=1), np.argmax(ring.next_features, axis=1)
    np.testing.assert_array_equal(following, np.clip(cell + np.where(ring.action == 1, 1, -1), 0, 4))
    np.testing.assert_array_equal(ring.discount, np.where(following == 4, 0, np.float32(0.9)))
    np.testing.assert_array_equal(ring.reward, (following == 4).astype(np.float32))
    starts = np.argmax(np.asarray(ring.features).reshape(-1, 4, 5), axis=2)  # [step, lane]
    ended = np.asarray(ring.discount == 0).reshape(-1, 4)
    jumped = starts[1:] != following.reshape(-1, 4)[:-1]
    assert (jumped & ~ended[:-1]).any()  # truncated: the next row begins elsewhere, and yet the bootstrap stays


def test_an_update_moves_values_towards_the_target_and_terminal_ones_towards_the_reward() -> None:
    """Two states: one terminated with reward 1 (value 1), one not, with reward 0 and the first as successor (0.5 * 1)."""
    config = DQNConfig(hidden=(8,), gamma=0.5, learning_rate=0.01, learning_rate_schedule="constant", target_update_every=1)
    network, optimizer = DuelingQNetwork(2, (8,)), make_optimizer(config)
    features = jnp.eye(2)
    batch = Transition(
        features, jnp.zeros(2, jnp.int32), jnp.array([1.0, 0.0]), features[jnp.array([1, 0])], jnp.array([0.0, 0.5])
    )
    learner = init_learner(network, optimizer, jax.random.key(0), 2)
    # the greedy value of state 0 must be that of action 0, so that the fixed point is exact: push action 1 down
    low = batch._replace(action=jnp.ones(2, jnp.int32), reward=jnp.full(2, -1.0), discount=jnp.zeros(2))
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), batch, low)
    update = lambda _, state: learn(config, network, optimizer, state, both, jnp.ones(4), jax.random.key(0))[0]  # noqa: E731
    learner = jax.lax.fori_loop(0, 2000, update, learner)
    np.testing.assert_allclose(action_values(network, learner.params, features), [[1.0, -1.0], [0.5, -1.0]], atol=1e-3)


def test_loss_weights_and_errors_of_one_update_are_the_hand_computed_ones() -> None:
    """All weights of the network zero but the head's biases (1, 2): Q = (1, 2) in every state, online and target.

    Taken values 1 and 2; targets 3 + 0.5 * 2 = 4 and 1 (terminated): errors -3 and 1; with weights (1, 0.5) the loss is
    (9 / 2 + 0.5 * 1 / 2) / 2 = 2.375, the mean value 1.5.
    """
    config = DQNConfig(hidden=(3,), dueling=False)
    network, optimizer = make_network(config, 2), make_optimizer(config)
    learner = init_learner(network, optimizer, jax.random.key(0), 2)
    params = jax.tree.map(jnp.zeros_like, learner.params)
    params["params"]["head"]["bias"] = jnp.array([[1.0], [2.0]])
    learner = learner._replace(params=params, target_params=params)
    batch = Transition(jnp.eye(2), jnp.array([0, 1], jnp.int32), jnp.array([3.0, 1.0]), jnp.eye(2), jnp.array([0.5, 0.0]))
    _, report = learn(config, network, optimizer, learner, batch, jnp.array([1.0, 0.5]), jax.random.key(0))
    np.testing.assert_allclose(report.td_error, [-3.0, 1.0])
    np.testing.assert_allclose([report.loss, report.mean_q], [2.375, 1.5])


@pytest.mark.parametrize("double", [False, True])
def test_the_double_switch_decides_who_chooses(double: bool) -> None:
    """Online biases (0, 1), target biases (5, 3): the error of action 0 is 0 - (1 + 0.9 * 3) or 0 - (1 + 0.9 * 5)."""
    config = DQNConfig(hidden=(3,), dueling=False, double=double)
    network, optimizer = make_network(config, 2), make_optimizer(config)
    learner = init_learner(network, optimizer, jax.random.key(0), 1)
    online, target = jax.tree.map(jnp.zeros_like, learner.params), jax.tree.map(jnp.zeros_like, learner.params)
    online["params"]["head"]["bias"], target["params"]["head"]["bias"] = jnp.array([[0.0], [1.0]]), jnp.array([[5.0], [3.0]])
    learner = learner._replace(params=online, target_params=target)
    batch = Transition(jnp.ones((1, 1)), jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.ones((1, 1)), jnp.full(1, 0.9))
    report = learn(config, network, optimizer, learner, batch, jnp.ones(1), jax.random.key(0))[1]
    np.testing.assert_allclose(report.td_error, [-3.7 if double else -5.5], rtol=1e-6)


# Noisy layers.


def test_noise_of_a_layer_has_the_factorised_law(getkey: Any) -> None:
    """With mu = 0 and sigma = s: b = s f(e), E b^2 = s^2 E|e| = s^2 sqrt(2 / pi); W = s f(e) f(e'), E W^2 = s^2 2 / pi."""
    layer = NoisyDense(width=3, noise_scale=0.5)
    params = layer.init(getkey(), jnp.zeros((4, 1)))
    for name in ("kernel", "bias"):
        assert np.abs(params["params"][name]).max() <= 0.5  # 1 / sqrt 4
        np.testing.assert_array_equal(params["params"][f"{name}_sigma"], 0.25)  # 0.5 / sqrt 4
    silent = jax.tree.map(lambda leaf: leaf, params)
    silent["params"] |= {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros((3, 1))}
    keys = jax.random.split(getkey(), 20_000)
    bias = jax.vmap(lambda key: layer.apply(silent, jnp.zeros((4, 1)), key))(keys)
    kernel = jax.vmap(lambda key: layer.apply(silent, jnp.eye(4), key))(keys) - bias
    for change in (bias, kernel):
        np.testing.assert_allclose(np.mean(change, axis=0), 0.0, atol=0.012)  # over 5 standard deviations
    np.testing.assert_allclose(np.mean(bias**2, axis=0), 0.25**2 * np.sqrt(2 / np.pi), rtol=0.04)
    np.testing.assert_allclose(np.mean(kernel**2, axis=0), 0.25**2 * 2 / np.pi, rtol=0.06)


def test_a_layer_without_a_key_has_its_mean_and_with_one_a_rank_one_change(getkey: Any) -> None:
    layer = NoisyDense(width=3, noise_scale=0.5)
    params = layer.init(getkey(), jnp.zeros((4, 1)))
    mean, key = layer.apply(params, jnp.eye(4)), getkey()
    inner = params["params"]
    np.testing.assert_allclose(mean, inner["kernel"] + inner["bias"], rtol=1e-6)
    bias_change = layer.apply(params, jnp.zeros((4, 1)), key) - inner["bias"]
    change = layer.apply(params, jnp.eye(4), key) - mean - bias_change
    assert np.linalg.matrix_rank(np.asarray(change), tol=1e-5) == 1
    noise = jax.random.normal(key, (7,), jnp.float32)
    root = np.sign(noise) * np.sqrt(np.abs(noise))
    np.testing.assert_allclose(change, 0.25 * np.outer(root[:3], root[3:]), atol=1e-6)
    np.testing.assert_allclose(bias_change[:, 0], 0.25 * root[:3], atol=1e-6)


def test_noisy_agents_act_with_noise_of_their_own_in_every_lane_and_are_judged_without(getkey: Any) -> None:
    config = DQNConfig(hidden=(16,), noisy=True, epsilon_start=0.0, epsilon_end=0.0)
    network = make_network(config, 3)
    params = network.init(getkey(), jnp.zeros((2, 1)))
    same_state = jnp.ones((50, 2))
    acted = acting_values(config, network, params, same_state, getkey())
    assert len(np.unique(np.asarray(acted[:, 0]))) == 50
    quiet = acting_values(dataclasses.replace(config, noisy=False), network, params, same_state, getkey())
    np.testing.assert_array_equal(quiet, jnp.broadcast_to(quiet[0], quiet.shape))
    result = jax.jit(make_train(Corridor(), dataclasses.replace(SMALL, noisy=True, epsilon_start=0.0, epsilon_end=0.0)))
    trained = result(jax.random.key(0))
    policy = trained.policy()
    np.testing.assert_array_equal(jax.vmap(policy)(jnp.eye(5)[:4]), 1)
    sigma = trained.params["params"]["head"]["kernel_sigma"]
    assert np.std(np.asarray(sigma)) > 1e-4  # the noise is learned too


def test_the_three_noises_of_an_update_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    config, seen = DQNConfig(hidden=(4,), noisy=True), []
    network, optimizer = make_network(config, 2), make_optimizer(config)
    learner = init_learner(network, optimizer, jax.random.key(0), 2)
    batch = Transition(jnp.eye(2), jnp.zeros(2, jnp.int32), jnp.ones(2), jnp.eye(2), jnp.ones(2))
    import rl.agents.dqn as dqn

    original = dqn.column_values
    record = lambda network, params, columns, key: seen.append(key) or original(network, params, columns, key)  # noqa: E731
    monkeypatch.setattr(dqn, "column_values", record)
    learn(config, network, optimizer, learner, batch, jnp.ones(2), jax.random.key(1))
    assert len({tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in seen}) == 3


def test_target_is_copied_on_time_or_drawn_along() -> None:
    old, new = {"w": jnp.zeros(3)}, {"w": jnp.ones(3)}
    hard = DQNConfig(target_update_every=4)
    for update, expected in ((1, 0.0), (3, 0.0), (4, 1.0), (5, 0.0), (8, 1.0)):
        assert np.all(refreshed_target(hard, old, new, jnp.int32(update))["w"] == expected)
    soft = DQNConfig(target_update_every=None, target_soft_factor=0.25)
    np.testing.assert_allclose(refreshed_target(soft, old, new, jnp.int32(1))["w"], 0.25)


def test_target_of_a_learner_lags_until_the_copy() -> None:
    config = DQNConfig(hidden=(4,), target_update_every=3)
    network, optimizer = DuelingQNetwork(2, (4,)), make_optimizer(config)
    learner = init_learner(network, optimizer, jax.random.key(0), 2)
    batch = Transition(jnp.eye(2), jnp.array([0, 1], jnp.int32), jnp.ones(2), jnp.eye(2), jnp.full(2, 0.9))
    first = learner.params
    step = jax.jit(lambda learner: learn(config, network, optimizer, learner, batch, jnp.ones(2), jax.random.key(0))[0])
    for update in range(1, 4):
        learner = step(learner)
        assert same(learner.target_params, first if update < 3 else learner.params)
    assert not same(learner.params, first)


def test_epsilon_falls_linearly_and_then_stays() -> None:
    """From 1 to 0.2 in the first half of 1000 steps: 0.6 after 250, 0.2 from 500 on."""
    config = DQNConfig(total_steps=1000, learning_starts=200, log_every=100, epsilon_end=0.2, epsilon_fraction=0.5)
    found = jax.vmap(lambda step: epsilon_at(config, step))(jnp.array([0, 250, 500, 999]))
    np.testing.assert_allclose(found, [1.0, 0.6, 0.2, 0.2], rtol=1e-6)


def test_exploration_is_greedy_at_zero_and_uniform_at_one(getkey: Any) -> None:
    values = jnp.tile(jnp.array([0.0, 2.0, 1.0]), (30_000, 1))
    assert np.all(epsilon_greedy(getkey(), values, jnp.float32(0.0)) == 1)
    counts = np.bincount(np.asarray(epsilon_greedy(getkey(), values, jnp.float32(1.0))), minlength=3)
    np.testing.assert_allclose(counts / 30_000, 1 / 3, atol=0.012)  # 4.4 standard deviations


def test_dueling_head_has_the_value_as_its_mean(getkey: Any) -> None:
    """V = 2, A = (1, 3): mean A = 2, Q = (1, 3)."""
    np.testing.assert_allclose(dueling_values(jnp.array([[2.0]]), jnp.array([[1.0], [3.0]]))[:, 0], [1.0, 3.0])
    value, advantage = jax.random.normal(getkey(), (1, 1000)), jax.random.normal(getkey(), (5, 1000))
    np.testing.assert_allclose(dueling_values(value, advantage).mean(0), value[0], atol=1e-6)
    np.testing.assert_allclose(dueling_values(value, advantage + 7.0), dueling_values(value, advantage), atol=2e-6)


def test_known_rewards_join_the_values_scaled(getkey: Any) -> None:
    """Q = 0.1 (2, -3) + Q', Q' the same network without: the last two of five features are the rewards of the two actions."""
    plain, knowing = (DuelingQNetwork(2, (8,), known_scale=scale) for scale in (None, 0.1))
    params = plain.init(getkey(), jnp.zeros((5, 1)))
    features = jnp.array([[0.3, -0.2, 1.0, 2.0, -3.0]])
    added = action_values(knowing, params, features) - action_values(plain, params, features)
    np.testing.assert_allclose(added, [[0.2, -0.3]], atol=1e-6)
    assert make_network(DQNConfig(known_rewards=True, reward_scale=0.25), 2).known_scale == 0.25
    assert make_network(DQNConfig(), 2).known_scale is None


def test_learning_rate_falls_with_updates_and_the_gradient_norm_is_clipped() -> None:
    """Constant gradients make Adam's step the rate itself: after u of n updates it is rate (1 - u / n)."""
    config = DQNConfig(total_steps=1000, learning_starts=200, log_every=100, learning_rate=0.1)
    assert config.total_updates == 81  # iterations 19..99 of 10 steps: the first one that has 200 steps behind it, and after
    optimizer = make_optimizer(config)
    grads = {"w": jnp.array([300.0, 400.0])}  # norm 500, clipped to 10: (6, 8)
    state = optimizer.init(grads)
    for update in range(config.total_updates + 1):
        change, state = optimizer.update(grads, state)
        np.testing.assert_allclose(change["w"], -0.1 * (1 - update / 81), rtol=1e-3, atol=1e-8)
    clipped = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(clipped / jnp.linalg.norm(clipped), [0.6, 0.8], rtol=1e-5)
    assert np.linalg.norm(clipped) < 10.0


# The program.


def test_one_program_chunks_and_a_resumed_run_are_the_same_bits(corridor_result: TrainResult, tmp_path: Any) -> None:
    """Interrupted after chunk 2 of 10, resumed in chunks of another size: every leaf equals the single program's."""

    class Interrupt(Exception):
        pass

    def interrupt(done: int, total: int, row: Any) -> None:
        if done == 800:
            raise Interrupt

    path = tmp_path / "agent.npz"
    with pytest.raises(Interrupt):
        train(Corridor(), SMALL, 3, interrupt, path, chunk_steps=400, checkpoint_seconds=0.0)
    calls = []
    resumed = train(Corridor(), SMALL, 3, lambda *call: calls.append(call), path, chunk_steps=1200)
    assert [call[:2] for call in calls] == [(2000, 4000), (3200, 4000), (4000, 4000)]
    assert calls[-1][2].env_steps == 4000 and isinstance(calls[-1][2].loss, float)
    chunked = train(Corridor(), SMALL, 3, chunk_steps=800)
    assert same(resumed, corridor_result) and same(chunked, corridor_result)
    assert same(train(Corridor(), SMALL, 3, checkpoint=path), corridor_result)  # already complete
    assert same(load_agent(path, Corridor(goal_reward=2.0)), corridor_result)
    with pytest.raises(CheckpointError, match="environment_digest"):
        train(Corridor(goal_reward=2.0), SMALL, 3, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"meta\.seed is 3, expected 4"):
        train(Corridor(), SMALL, 4, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"meta\.config\.gamma is 0\.9, expected 0\.5"):
        train(Corridor(), dataclasses.replace(SMALL, gamma=0.5), 3, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"meta\.environment is "):
        load_agent(path, CartPole())


@pytest.mark.slow
def test_one_program_and_chunks_are_the_same_bits_on_the_scheduling_environment() -> None:
    """Its state has entries that never change: known to the compiler at the start, they once made it round differently."""
    env = SchedulingEnv(load_platform("edge"))
    config = DQNConfig(total_steps=3_000, log_every=500)
    assert same(jax.jit(make_train(env, config))(jax.random.key(0)), train(env, config, 0, chunk_steps=1000))


def test_seeds_in_one_batch_are_the_single_runs(corridor_result: TrainResult) -> None:
    """Batched matrix products round differently, so returns before learning agree exactly and the rest by outcome."""
    many = train_many(Corridor(), SMALL, [3, 5])
    assert many.metrics.loss.shape == (2, SMALL.rows)
    assert same(jax.tree.map(lambda table: table[0], many.metrics.episodes[:, :1]), corridor_result.metrics.episodes[:1])
    np.testing.assert_allclose(many.metrics.episode_return[:, -1], 1.0, atol=0.1)
    assert not np.array_equal(many.metrics.loss[0], many.metrics.loss[1])


def test_one_trace_for_changed_seeds() -> None:
    program = jax.jit(make_train(Corridor(), dataclasses.replace(SMALL, total_steps=400)))
    for seed in range(3):
        program(jax.random.key(seed))
    assert program._cache_size() == 1


def test_metrics_count_what_happened(corridor_result: TrainResult) -> None:
    metrics = corridor_result.metrics
    assert all(np.isfinite(column).all() for column in metrics)
    np.testing.assert_array_equal(metrics.env_steps, np.arange(400, 4001, 400))
    assert metrics.updates.sum() == SMALL.total_updates == 476  # iterations 24..499 of 8 steps
    np.testing.assert_array_equal(metrics.updates[1:], 50)
    lengths = np.asarray(metrics.episode_length) * np.asarray(metrics.episodes)
    assert 4000 - 4 * 7 <= lengths.sum() <= 4000  # all steps but those of the four unfinished episodes
    assert np.all(metrics.episode_length <= 7)


def test_a_shorter_last_row_and_rows_without_updates_or_episodes_are_valid() -> None:
    """250 steps in rows of 100 of a task without an end before 500; learning begins with step 150."""
    config = DQNConfig(
        total_steps=250, learning_starts=150, log_every=100, hidden=(4,), buffer_size=200, epsilon_end=0.5, batch_size=8
    )
    table = jax.jit(make_train(Endless(), config))(jax.random.key(0)).metrics
    np.testing.assert_array_equal(table.env_steps, [100, 200, 250])
    np.testing.assert_array_equal(table.updates, [0, 6, 5])
    np.testing.assert_array_equal(table.episodes, 0)
    np.testing.assert_array_equal(table.episode_return, 0.0)
    np.testing.assert_allclose(table.epsilon[-1], 0.5)
    assert table.loss[0] == 0.0 and table.loss[1] > 0.0


class Endless(Corridor):
    """A corridor whose ends are never reached; its observation is a 2 x 2 array of integers."""

    def observation_space(self, params: Any) -> Box:
        return Box(0, 9, (2, 2))

    def reset(self, key: Any, params: Any) -> Any:
        return jnp.zeros((2, 2), jnp.int32), jnp.zeros((), jnp.int32)

    def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        observation, no = jnp.full((2, 2), action, jnp.int32), jnp.zeros((), bool)
        info = {"terminated": no, "truncated": no, "final_observation": observation}
        return observation, state + 1, action.astype(float), no, no, info


@pytest.mark.parametrize(("train_every", "num_envs", "updates"), [(20, 5, 16), (5, 20, 64), (10, 10, 31)])
def test_lanes_and_updates_need_not_keep_step(train_every: int, num_envs: int, updates: int) -> None:
    """400 steps, learning from 100: 16 iterations of 20 steps; 16 iterations of 4 updates; 31 iterations of 10 steps."""
    config = DQNConfig(
        total_steps=400, num_envs=num_envs, train_every=train_every, learning_starts=100, batch_size=8, buffer_size=100,
        log_every=400, hidden=(4,), learning_rate_schedule="constant",
    )  # fmt: skip
    program = make_program(Corridor(), config)
    state = jax.jit(lambda key: program.run(program.init(key), 1))(jax.random.key(0))
    assert int(state.learner.updates) == int(state.metrics.updates[0]) == config.total_updates == updates
    assert int(state.iteration) == config.total_iterations
    assert isinstance(state.learner, Learner)


def test_the_policy_is_greedy_a_pytree_and_agrees_with_the_network(corridor_result: TrainResult) -> None:
    policy = corridor_result.policy()
    actions = jax.jit(lambda policy, states: jax.vmap(policy)(states))(policy, jnp.eye(5)[:4])
    assert actions.dtype == jnp.int32
    np.testing.assert_array_equal(actions, 1)  # to the goal
    values = jax.vmap(corridor_result.values)(jnp.eye(5)[:4])
    np.testing.assert_array_equal(np.argmax(values, axis=1), actions)
    np.testing.assert_allclose(values[3, 1], 1.0, atol=0.05)  # one step before the reward of 1
    space = action_space(Corridor(), None)
    assert greedy_policy(SMALL, space) is greedy_policy(SMALL, action_space(Corridor(), None))  # traced once
    untrained = jax.tree.map(jnp.zeros_like, corridor_result.params)
    assert greedy_policy(SMALL, space)(untrained, None, jnp.zeros(5)) == 0  # a tie


def test_reward_scale_changes_what_is_learned_and_not_what_is_reported() -> None:
    config = dataclasses.replace(SMALL, total_steps=400)
    plain, scaled = (
        jax.jit(make_train(Corridor(), c))(jax.random.key(0)).metrics
        for c in (config, dataclasses.replace(config, reward_scale=10.0))
    )
    np.testing.assert_array_equal(plain.episode_return <= 1.0, True)
    assert scaled.episode_return[0] <= 1.0 and scaled.loss[0] > 10 * plain.loss[0]


def test_learns_to_balance_the_pole() -> None:
    """60,000 steps: the last tenth returns over 150 on average; a random policy returns about 22 (measured, 1000 episodes)."""
    config = DQNConfig(total_steps=60_000)
    metrics = jax.jit(make_train(CartPole(), config))(jax.random.key(0)).metrics
    assert metrics.episode_return[0] < 30.0
    last = slice(-3, None)
    assert np.average(metrics.episode_return[last], weights=metrics.episodes[last]) > 150.0


# Settings.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_steps": 0}, r"total_steps = 0 must be an integer in \[1, 2147483647\]"),
        ({"total_steps": 10_005}, r"total_steps = 10005 must be a multiple of max\(train_every, num_envs\) = 10"),
        ({"num_envs": 7}, "train_every = 10 must be a multiple or a divisor of num_envs = 7"),
        ({"log_every": 15}, r"log_every = 15 must be a multiple of max\(train_every, num_envs\) = 10"),
        ({"buffer_size": 1001}, "buffer_size = 1001 must be a multiple of num_envs = 10"),
        ({"buffer_size": 100}, "batch_size = 128 must be at most buffer_size = 100"),
        ({"learning_starts": 100}, r"learning_starts = 100 must be in \[batch_size, total_steps\] = \[128, 200000\]"),
        ({"target_soft_factor": 0.01}, "target_update_every = 50 and target_soft_factor = 0.01: exactly one must be set"),
        ({"target_update_every": None}, "exactly one must be set"),
        ({"target_update_every": None, "target_soft_factor": 0.0}, r"target_soft_factor = 0.0 must be a number in \(0, 1\]"),
        ({"known_rewards": True, "normalize": True}, "known_rewards = True must be false where normalize = True"),
        ({"learning_rate": float("nan")}, r"learning_rate = nan must be a number in \(0, inf\)"),
        ({"gamma": 1.1}, r"gamma = 1.1 must be a number in \[0, 1\]"),
        ({"epsilon_fraction": 0.0}, r"epsilon_fraction = 0.0 must be a number in \(0, 1\]"),
        ({"hidden": (64, 0)}, "hidden = 0 must be an integer"),
        ({"max_grad_norm": float("inf")}, r"max_grad_norm = inf must be a number in \(0, inf\)"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        DQNConfig(**changes)
    assert "\n" not in str(caught.value)


def test_a_setting_of_the_wrong_type_is_refused() -> None:
    """Tested on the checks: the annotations themselves are enforced while testing."""
    for wrong in (2.5, True, "10", None):
        with pytest.raises(ValueError, match=r"total_steps = .* must be an integer in \[1, 2147483647\]"):
            check_integer("total_steps", wrong)
    with pytest.raises(ValueError, match=r"gamma = '1' must be a number in \[0, 1\]"):
        check_real("gamma", "1", 0.0, 1.0)


def test_wrong_arguments_of_training_are_refused() -> None:
    with pytest.raises(ValueError, match="chunk_steps = 500 must be a multiple of log_every = 400"):
        train(Corridor(), SMALL, chunk_steps=500)
    with pytest.raises(ValueError, match="seed = -1 must be an integer in"):
        train(Corridor(), SMALL, seed=-1)
    with pytest.raises(ValueError, match="seeds = "):
        train_many(Corridor(), SMALL, [])


# Spaces.


def test_spaces_hold_what_they_draw(getkey: Any) -> None:
    box = Box(jnp.array([0.0, -jnp.inf, 2.0, -jnp.inf]), jnp.array([1.0, jnp.inf, jnp.inf, -3.0]), (4,))
    drawn = jax.vmap(box.sample)(jax.random.split(getkey(), 1000))
    assert jax.vmap(box.contains)(drawn).all() and drawn.shape == (1000, 4)
    assert not box.contains(jnp.array([0.5, 0.0, 1.9, -4.0])) and not box.contains(jnp.full(4, jnp.nan)) and not box.contains(0.5)
    choice = Discrete(3)
    drawn = jax.vmap(choice.sample)(jax.random.split(getkey(), 300))
    assert jax.vmap(choice.contains)(drawn).all() and set(np.asarray(drawn)) == {0, 1, 2}
    assert not choice.contains(3) and not choice.contains(-1) and not choice.contains(1.0)


@pytest.mark.parametrize("make", [lambda: Discrete(0), lambda: Box(1.0, 0.0), lambda: Box(jnp.zeros(3), 1.0, (2,))])
def test_wrong_spaces_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must|does not fit"):
        make()
