"""The training program: what it asks of an algorithm and an environment, resuming, batched seeds, several devices."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rl
from rl.agents import registry
from rl.agents.algorithm import Algorithm, UpdateReport, action_space, example_action
from rl.agents.config import TrainingConfig
from rl.agents.presets import acrobot, cartpole, edge_sched_dqn, routing_dqn, routing_sac
from rl.agents.program import make_program
from rl.agents.training import load_agent, train_many
from rl.checkpoints import CheckpointError, load, save
from rl.envs.spaces import Box, Discrete, Hybrid, HybridAction

pytestmark = pytest.mark.single  # computes in float32 whatever the default


class Line:
    """A point on [-1, 1]: action 0 or 1 moves it by -0.1 or 0.1; reward -x^2; natural end at the borders, limit 9 steps."""

    default_params = jnp.float32(0.1)
    num_actions = 2

    def action_space(self, params: Any) -> Discrete:
        return Discrete(2)

    def observation_space(self, params: Any) -> Box:
        return Box(-1.0, 1.0, (2,))

    def observe(self, x: Any) -> Any:
        return {"place": x[None], "square": 100.0 + 5.0 * x[None] ** 2}

    def reset(self, key: Any, params: Any) -> Any:
        x = jax.random.uniform(key, (), jnp.float32, -0.7, 0.7)
        return self.observe(x), (x, jnp.zeros((), jnp.int32))

    def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        x, time = state[0] + jnp.where(action == 1, params, -params), state[1] + 1
        terminated, truncated = jnp.abs(x) > 1.0, time >= 9
        fresh_observation, fresh = self.reset(key, params)
        done = terminated | truncated
        pick = lambda a, b: jax.tree.map(lambda a, b: jnp.where(done, a, b), a, b)  # noqa: E731
        info = {"terminated": terminated, "truncated": truncated, "final_observation": self.observe(x)}
        return pick(fresh_observation, self.observe(x)), pick(fresh, (x, time)), -(x**2), terminated, truncated, info


PLAIN = rl.DQNConfig(
    total_steps=1_600, num_envs=4, train_every=8, buffer_size=800, batch_size=16, learning_starts=200, hidden=(8,), log_every=200
)
FULL = dataclasses.replace(
    PLAIN, n_step=3, noisy=True, prioritized=True, normalize=True, learning_rate_schedule="cosine", target_update_every=None,
    target_soft_factor=0.05, epsilon_start=0.0, epsilon_end=0.0,
)  # fmt: skip


def words(leaf: Any) -> np.ndarray:
    """The bits of a leaf."""
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_same(one: Any, other: Any) -> None:
    """Equal structure, types and bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(words(a), words(b))


class Compiled(NamedTuple):
    """A program with its functions compiled once for all tests, and its state after 200 and 600 of 1600 steps."""

    program: Any
    run: Any
    early: Any
    middle: Any


@pytest.fixture(scope="module")
def full() -> Compiled:
    """The training with every part switched on."""
    program = make_program(Line(), FULL)
    run, start = jax.jit(program.run), jax.jit(program.init)(jax.random.key(5))
    return Compiled(program, run, run(start, 1), run(start, 3))


def test_a_resumed_training_with_every_part_ends_in_the_same_bits(full: Compiled, tmp_path: Path) -> None:
    """Stored in the middle of learning, loaded, run on: the whole state equals that of the uninterrupted run.

    Networks, optimizer, schedules, statistics, replay, priorities, windows, keys, counters. (The uniform replay, and `train`
    itself, are in test_rl_dqn.)
    """
    path = tmp_path / "state.npz"
    save(path, full.middle, {})
    restored = load(path, jax.eval_shape(full.program.init, jax.random.key(0)), {})
    assert_same(full.run(restored, 5), full.run(full.early, 7))


def test_a_checkpoint_holds_everything_that_changes(full: Compiled, tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    save(path, full.middle, {})
    with np.load(path) as file:
        names = set(json.loads(file["header"].tobytes())["leaves"])
    for needed in (
        "iteration", "key", "learner.updates", "learner.params.params.head.kernel_sigma",
        "learner.target_params.params.head.bias", "statistics.mean", "statistics.variance", "replay.table",
        "replay.priorities.nodes", "replay.position", "window.ended", "window.steps.reward", "lanes.episode_return",
        "metrics.loss",
    ):  # fmt: skip
        assert needed in names
    assert any("mu" in name for name in names) and any("count" in name for name in names)  # Adam and its schedule
    assert len(names) == len(jax.tree.leaves(full.middle))


def test_statistics_are_those_of_the_observations_that_steps_ended_in() -> None:
    """With one-step replay the table holds every step: its raw next features (behind two features, action and reward)."""
    config = dataclasses.replace(PLAIN, normalize=True, total_steps=200, learning_starts=200, n_step=1)
    program = make_program(Line(), config)
    state = jax.jit(lambda key: program.run(program.init(key), 1))(jax.random.key(0))
    ended_in = np.asarray(state.replay.table[:200, 4:6], np.float64)
    assert ended_in[:, 1].min() >= 100.0
    np.testing.assert_allclose(state.statistics.seen, 200)  # one per step and none per reset
    np.testing.assert_allclose(state.statistics.mean, ended_in.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state.statistics.variance, ended_in.var(0), rtol=1e-3)


def test_the_policy_sees_observations_through_the_statistics(full: Compiled) -> None:
    result = full.program.result(full.middle)
    x = jnp.float32(0.3)
    z = (jnp.array([0.3, 100.45]) - result.statistics.mean) / jnp.sqrt(result.statistics.variance + 1e-8)
    of_features = registry.make_algorithm(FULL, action_space(Line(), None)).values
    np.testing.assert_allclose(result.values(Line().observe(x)), of_features(result.params, z), rtol=1e-3, atol=1e-4)
    assert int(result.policy()(Line().observe(x))) == int(np.argmax(of_features(result.params, z)))


def test_windows_are_full_before_anything_counts(full: Compiled) -> None:
    """50 steps of 4 lanes with windows of 3: 48 transitions of each lane, the oldest from the very first step."""
    state = full.early
    assert int(state.replay.size) == int(state.replay.position) == 48 * 4
    first = jax.jit(full.program.init)(jax.random.key(5)).lanes.features
    np.testing.assert_array_equal(state.replay.table[:4, :2], first)
    leaves = np.asarray(state.replay.priorities.nodes[2**10 - 1 :])
    assert (leaves[:192] > 0).all() and (leaves[192:] == 0).all()


# Algorithms.


class CountingLearner(NamedTuple):
    params: Any
    target_params: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountingConfig(TrainingConfig):
    """An algorithm that counts its updates and acts with a pair of a choice and an amount."""

    algorithm = "counting"


def counting_algorithm(config: TrainingConfig, space: Any) -> Algorithm:
    """Acts with the number of the environment step; errors are the rewards."""

    def act(learner: Any, features: Any, key: Any, env_steps: Any) -> Any:
        lanes = features.shape[0]
        return HybridAction(jnp.full(lanes, env_steps % 2, jnp.int32), jnp.full(lanes, env_steps, jnp.float32))

    def update(learner: Any, batch: Any, weights: Any, key: Any) -> Any:
        learner = CountingLearner(learner.params + 1, learner.target_params + jnp.sum(batch.action.amount))
        return learner, UpdateReport(jnp.mean(weights), jnp.mean(batch.reward), batch.reward)

    return Algorithm(
        init=lambda key, features, action: CountingLearner(jnp.zeros((), jnp.int32), jnp.sum(action.amount)),
        act=act,
        update=update,
        exploration=lambda env_steps: 0.0,
        policy=lambda params, features: HybridAction(jnp.int32(0), jnp.float32(params)),
        values=lambda params, features: features,
    )


class HybridLine(Line):
    """The line with an amount that is ignored."""

    def action_space(self, params: Any) -> Any:
        return Hybrid(2, 0.0, 1.0)

    def step(self, key: Any, state: Any, action: Any, params: Any) -> Any:
        return super().step(key, state, action.choice, params)


@pytest.mark.parametrize("prioritized", [False, True])
def test_the_program_runs_any_algorithm_with_any_action(monkeypatch: pytest.MonkeyPatch, prioritized: bool) -> None:
    """400 steps in 50 iterations, learning from iteration 24: 26 updates; actions come back from the replay as they went in."""
    entry = registry.Entry(__name__, "CountingConfig", "counting_for_test")
    monkeypatch.setitem(registry.ALGORITHMS, "counting", entry)
    module = type(sys)("counting_for_test")
    module.make_algorithm = counting_algorithm  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "counting_for_test", module)
    config = CountingConfig(
        total_steps=400, num_envs=4, train_every=8, buffer_size=400, batch_size=8, learning_starts=200, hidden=(4,),
        log_every=200, prioritized=prioritized,
    )  # fmt: skip
    result = jax.jit(rl.make_train(HybridLine(), config))(jax.random.key(0))
    assert int(result.params) == config.total_updates == 26
    np.testing.assert_array_equal(result.metrics.updates, [1, 25])
    assert float(result.policy()(Line().observe(jnp.float32(0.0))).amount) == 26.0
    program = make_program(HybridLine(), config)
    table = jax.jit(lambda key: program.run(program.init(key), 2))(jax.random.key(0)).replay.table
    np.testing.assert_array_equal(table[:, 3], np.repeat(np.arange(0, 400, 4), 4))  # amounts: the step, the same in all lanes
    np.testing.assert_array_equal(table[:, 2], 0)


def test_spaces_are_compared_by_what_they_say() -> None:
    assert action_space(Line(), None) == action_space(Line(), None)
    assert action_space(Line(), None) != action_space(HybridLine(), None)
    hash(action_space(HybridLine(), None))
    example = example_action(action_space(HybridLine(), None))
    assert example.choice.dtype == jnp.int32 and example.amount.dtype == jnp.float32


def test_dqn_refuses_actions_it_cannot_rank() -> None:
    with pytest.raises(ValueError, match="action_space = 'Hybrid' must be a finite set of choices"):
        rl.make_train(HybridLine(), PLAIN)


def test_an_unknown_algorithm_in_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    save(tmp_path / "x.npz", {"x": jnp.zeros(1)}, {"algorithm": "alchemy", "config": {"hidden": [1]}, "seed": 0})
    with pytest.raises(CheckpointError, match=r"algorithm = 'alchemy' must be one of dqn, sac"):
        load_agent(tmp_path / "x.npz", Line())


# Many seeds.


def test_learning_stays_a_branch_when_seeds_are_batched() -> None:
    """The predicate of the one conditional of a batched training is a scalar: a select would run the updates in the warm-up."""
    jaxpr = jax.make_jaxpr(jax.vmap(rl.make_train(Line(), PLAIN)))(jax.random.split(jax.random.key(0), 3))
    found = list(conditionals(jaxpr.jaxpr))
    assert len(found) == 1 and found[0].invars[0].aval.shape == ()


def conditionals(jaxpr: Any) -> Any:
    """All cond equations inside a jaxpr."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            yield equation
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from conditionals(inner)


TWO_DEVICES = """
import sys; sys.path.insert(0, {folder!r})
import jax, numpy as np
from test_rl_program import Line, PLAIN
from rl.agents.training import train_many
assert jax.device_count() == 2
many = train_many(Line(), PLAIN, [3, 4, 5])
assert many.metrics.loss.shape[0] == 3
alone = train_many(Line(), PLAIN, [3, 4], devices=jax.devices()[:1])
for spread, together in zip(jax.tree.leaves(many), jax.tree.leaves(alone), strict=True):
    np.testing.assert_allclose(np.asarray(spread)[:2], together, rtol=1e-5, atol=1e-6)
assert not np.array_equal(many.metrics.loss[1], many.metrics.loss[2])
print("equal")
"""


def test_seeds_on_two_devices_are_those_of_one(tmp_path: Path) -> None:
    """Three seeds on two devices, the fourth place unused: the first two equal one device with the same two (rounding aside)."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu", "TEMPO_SHAPE_CHECKS": "0"}
    script = TWO_DEVICES.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | flags, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "equal", done.stderr[-2000:]


# Presets.


def test_the_ablation_has_none_of_the_parts() -> None:
    config = edge_sched_dqn(total_steps=10_000)
    assert config.total_steps == 10_000 and config.n_step == 1
    assert not (config.double or config.dueling or config.prioritized or config.noisy or config.normalize)


def test_presets_are_for_a_hundred_thousand_steps_and_can_be_changed() -> None:
    for preset in (cartpole, acrobot):
        assert preset().total_steps == 100_000
        assert preset(total_steps=50_000).total_steps == 50_000


@pytest.mark.parametrize("preset", [routing_dqn, routing_sac])
def test_routing_presets_know_rewards_and_look_far_ahead(preset: Any) -> None:
    assert preset().known_rewards and preset().gamma > 0.99
    assert preset(total_steps=50_000, gamma=0.9).gamma == 0.9


@pytest.mark.slow
def test_the_cartpole_preset_learns_in_a_small_version() -> None:
    """A quarter of the steps on gymnax's CartPole-v1: greedy episodes return over 150 (random: about 22)."""
    gymnax = pytest.importorskip("gymnax")
    env, params = gymnax.make("CartPole-v1")
    agent = train_many(env, cartpole(total_steps=25_000, log_every=5_000), [0, 1], params=params)
    last = np.asarray(agent.metrics.episode_return)[:, -1]
    assert last.max() > 150.0
