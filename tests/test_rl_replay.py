"""Replay, priorities, windows of n steps and running statistics, each against a plain computation of the same."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flashbax.buffers import sum_tree

from rl.agents import replay
from rl.agents.dqn_config import DQNConfig
from rl.agents.normalization import first_statistics, merge, normalized
from rl.agents.program import importance_exponent
from rl.agents.replay import Transition, add, draw, empty_ring, empty_transition, importance_weights, mark, packed, unpacked
from rl.agents.windows import empty_window, n_step_transition, slide

pytestmark = pytest.mark.single  # computes in float32 whatever the default

UNIFORM = DQNConfig(buffer_size=8, num_envs=2, batch_size=8, learning_starts=8, train_every=2)
PRIORITIZED = dataclasses.replace(UNIFORM, prioritized=True, priority_exponent=0.5, priority_floor=0.01)


class Pair(NamedTuple):
    choice: Any
    amount: Any


def numbered(numbers: Any) -> Transition:
    """Transitions that carry a number in every field."""
    values = jnp.asarray(numbers, jnp.float32)
    return Transition(values[:, None], values.astype(jnp.int32), values, values[:, None], values)


EXAMPLE = empty_transition(1, jnp.int32(0))


def filled(config: DQNConfig, count: int) -> Any:
    """A ring after transitions 0 to count - 1."""
    ring, put = empty_ring(config, EXAMPLE), jax.jit(add)
    for start in range(0, count, config.num_envs):
        ring = put(ring, numbered(range(start, start + config.num_envs)))
    return ring


def drawn_counts(ring: Any, config: DQNConfig, key: Any, batches: int) -> np.ndarray:
    """How often each number is drawn."""
    take = lambda key: draw(ring, key, config, EXAMPLE, jnp.float32(1.0)).batch.reward  # noqa: E731
    return np.bincount(np.asarray(jax.jit(jax.vmap(take))(jax.random.split(key, batches))).ravel().astype(int))


def test_rows_hold_a_transition_of_any_action_exactly(getkey: Any) -> None:
    normal = lambda *shape: jax.random.normal(getkey(), shape, jnp.float32)  # noqa: E731
    batch = Transition(normal(2, 3), Pair(jnp.array([3, 2**24 - 1], jnp.int32), normal(2, 2)), normal(2), normal(2, 3), normal(2))
    example = empty_transition(3, Pair(jnp.int32(0), jnp.zeros(2, jnp.float32)))
    rows = packed(batch)
    assert rows.shape == (2, 3 + 1 + 2 + 1 + 3 + 1) and rows.dtype == jnp.float32
    for found, given in zip(jax.tree.leaves(unpacked(rows, example)), jax.tree.leaves(batch), strict=True):
        assert found.dtype == given.dtype
        np.testing.assert_array_equal(found, given)


def test_the_ring_overwrites_the_oldest_and_draws_every_present_row(getkey: Any) -> None:
    counts = drawn_counts(filled(UNIFORM, 6), UNIFORM, getkey(), 750)
    assert counts.size == 6 and abs(counts - 1000).max() < 130  # 6000 draws of 6 rows: 4.5 standard deviations
    counts = drawn_counts(filled(UNIFORM, 12), UNIFORM, getkey(), 750)
    assert counts[:4].sum() == 0 and abs(counts[4:] - 750).max() < 120  # 8 rows remain, numbers 4 to 11


def test_rows_that_do_not_count_give_way_to_the_next(getkey: Any) -> None:
    for config in (UNIFORM, PRIORITIZED):
        ring = add(empty_ring(config, EXAMPLE), numbered([7, 7]), False)
        assert ring.size == 0 and ring.position == 0
        ring = add(ring, numbered([1, 2]), True)
        assert ring.size == 2 and drawn_counts(ring, config, getkey(), 50).tolist()[0] == 0
        assert set(np.flatnonzero(drawn_counts(ring, config, getkey(), 50))) == {1, 2}


def test_draws_follow_the_priorities_and_weights_undo_them(getkey: Any) -> None:
    """Errors 0, +-1, ..., +-7 with floor 0.01: p = sqrt(|error| + 0.01); weights (8 P)^-1 over their largest."""
    errors = jnp.array([0.0, 1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0])
    ring = filled(PRIORITIZED, 8)
    ring = ring._replace(priorities=mark(ring.priorities, jnp.arange(8, dtype=jnp.int32), errors, PRIORITIZED))
    expected = np.sqrt(np.abs(np.asarray(errors)) + 0.01)
    expected /= expected.sum()
    counts = drawn_counts(ring, PRIORITIZED, getkey(), 4000)
    spread = np.sqrt(32_000 * expected * (1 - expected))  # of independent draws; stratified ones spread less
    assert (abs(counts - 32_000 * expected) < 4.5 * spread).all()
    for beta in (0.4, 1.0):
        found = draw(ring, getkey(), PRIORITIZED, EXAMPLE, jnp.float32(beta))
        np.testing.assert_array_equal(found.rows, found.batch.reward)
        weights = (8 * expected[np.asarray(found.rows)]) ** -beta
        np.testing.assert_allclose(found.weights, weights / weights.max(), rtol=1e-5)


def test_new_transitions_get_the_largest_priority_so_far() -> None:
    ring = filled(PRIORITIZED, 4)
    leaves = lambda ring: np.asarray(ring.priorities.nodes[7:])  # noqa: E731 - a tree over 8 leaves has 7 nodes above them
    np.testing.assert_array_equal(leaves(ring), [1, 1, 1, 1, 0, 0, 0, 0])
    marked = mark(ring.priorities, jnp.array([0, 1], jnp.int32), jnp.array([8.99, 0.24]), PRIORITIZED)
    np.testing.assert_allclose(leaves(ring._replace(priorities=marked)), [3, 0.5, 1, 1, 0, 0, 0, 0], rtol=1e-6)
    later = add(ring._replace(priorities=marked), numbered([4, 5]))
    np.testing.assert_allclose(leaves(later), [3, 0.5, 1, 1, 3, 3, 0, 0], rtol=1e-6)
    twice = mark(later.priorities, jnp.array([2, 2], jnp.int32), jnp.array([0.0, 3.99]), PRIORITIZED)
    np.testing.assert_allclose(twice.nodes[0], 3 + 0.5 + 2 + 1 + 3 + 3, rtol=1e-6)


def test_both_ways_of_writing_priorities_agree(monkeypatch: pytest.MonkeyPatch, getkey: Any) -> None:
    ring = filled(PRIORITIZED, 8)
    rows, errors = jnp.array([3, 5, 3, 0], jnp.int32), jnp.array([1.0, 2.0, 3.0, 4.0])
    one_by_one = mark(ring.priorities, rows, errors, PRIORITIZED)
    monkeypatch.setattr(replay.jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(mark(ring.priorities, rows, errors, PRIORITIZED).nodes, one_by_one.nodes, rtol=1e-5)


def test_many_priorities_stay_right_over_many_writes(getkey: Any) -> None:
    """The root against the sum of the leaves after 200 writes of 64 that span nine decades; no unwritten leaf is drawn."""
    config = dataclasses.replace(PRIORITIZED, buffer_size=2**17, batch_size=64, learning_starts=64, priority_exponent=1.0)
    ring = empty_ring(config, EXAMPLE)
    present = jnp.arange(2**16, dtype=jnp.int32)
    ring = ring._replace(
        size=jnp.int32(2**16), priorities=sum_tree.set_batch_bincount(ring.priorities, present, jnp.ones(2**16, jnp.float32))
    )

    def step(priorities: Any, key: Any) -> Any:
        where, what = jax.random.split(key)
        rows = jax.random.randint(where, (64,), 0, 2**16, jnp.int32)
        return mark(priorities, rows, 10.0 ** jax.random.uniform(what, (64,), jnp.float32, -6, 3), config), None

    priorities, _ = jax.jit(lambda tree, keys: jax.lax.scan(step, tree, keys))(ring.priorities, jax.random.split(getkey(), 200))
    leaves = np.asarray(priorities.nodes[2**17 - 1 :], np.float64)
    np.testing.assert_allclose(float(priorities.nodes[0]), leaves.sum(), rtol=1e-4)
    ring = ring._replace(priorities=priorities)
    rows = jax.jit(jax.vmap(lambda key: draw(ring, key, config, EXAMPLE, jnp.float32(1.0)).rows))(jax.random.split(getkey(), 500))
    assert (leaves[np.asarray(rows)] > 0).all()


def test_importance_exponent_reaches_one_at_the_last_update() -> None:
    """1000 steps, learning from 200 in steps of 10: 81 updates, numbers 0 to 80; half way 0.4 + 0.6 / 2."""
    config = DQNConfig(total_steps=1000, learning_starts=200, log_every=100, prioritized=True)
    found = jax.vmap(lambda update: importance_exponent(config, update))(jnp.array([0, 40, 80]))
    np.testing.assert_allclose(found, [0.4, 0.7, 1.0], rtol=1e-6)
    np.testing.assert_allclose(importance_weights(jnp.array([0.5, 0.125]), jnp.int32(4), jnp.float32(0.0)), 1.0)


# Returns of n steps.


def brute_force(rewards: Any, terminated: Any, truncated: Any, start: int, n_step: int, gamma: float) -> tuple[float, int, float]:
    """Return, last step and bootstrap factor of one lane from `start`, written as the definition reads."""
    total, factor = 0.0, 1.0
    for step in range(start, start + n_step):
        total += factor * rewards[step]
        factor *= gamma
        if terminated[step]:
            return total, step, 0.0
        if truncated[step]:
            return total, step, factor
    return total, start + n_step - 1, factor


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
def test_n_step_returns_equal_a_computation_episode_by_episode(n_step: int) -> None:
    """400 steps of 6 lanes with frequent ends of both kinds; every step's return is handed on, n - 1 steps later."""
    rng, steps, lanes, gamma = np.random.default_rng(n_step), 400, 6, 0.9
    rewards = rng.normal(size=(steps, lanes)).astype(np.float32)
    terminated, truncated = rng.random((2, steps, lanes)) < 0.15
    discount = np.where(terminated, 0.0, gamma).astype(np.float32)
    before, after = np.arange(steps * lanes, dtype=np.float32).reshape(2, steps // 2, lanes).reshape(steps, lanes), None
    after = before + 0.5
    rows = Transition(before[..., None], np.ones((steps, lanes), np.int32), rewards, after[..., None], discount)

    def step(window: Any, now: Any) -> Any:
        window = slide(window, *now)
        return window, n_step_transition(window, gamma)

    window = empty_window(n_step, lanes, EXAMPLE)
    rows = jax.tree.map(jnp.asarray, (rows, terminated | truncated))
    _, found = jax.jit(lambda window, rows: jax.lax.scan(step, window, rows))(window, rows)
    for start in range(steps - n_step + 1):
        for lane in range(lanes):
            at = (start + n_step - 1, lane)
            total, last, factor = brute_force(rewards[:, lane], terminated[:, lane], truncated[:, lane], start, n_step, gamma)
            np.testing.assert_allclose(found.reward[at], total, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(found.discount[at], factor, rtol=1e-6)
            assert found.features[at] == before[start, lane] and found.next_features[at] == after[last, lane]


def test_a_time_limit_keeps_its_bootstrap_and_nothing_crosses_the_reset() -> None:
    """Three rewards 1, 2, 4 with gamma 0.5; the second step is truncated: 1 + 0.5 * 2 = 2, factor 0.25, its final features."""
    window = empty_window(3, 1, EXAMPLE)
    for number, (reward, ended) in enumerate([(1.0, False), (2.0, True), (4.0, False)]):
        row = Transition(
            jnp.full((1, 1), float(number)), jnp.array([number], jnp.int32), jnp.array([reward]),
            jnp.full((1, 1), number + 10.0), jnp.array([0.5]),
        )  # fmt: skip
        window = slide(window, row, jnp.array([ended]))
    found = n_step_transition(window, 0.5)
    assert (float(found.reward[0]), float(found.discount[0]), float(found.next_features[0, 0])) == (2.0, 0.25, 11.0)
    assert found.action[0] == 0 and found.features[0, 0] == 0


# Statistics.


def test_merged_statistics_are_those_of_all_observations(getkey: Any) -> None:
    """500 batches of 10 with means from 0.01 to 10,000: numpy's mean and variance in double precision."""
    scale = jnp.array([1.0, 1e-3, 30.0])
    data = jax.random.normal(getkey(), (500, 10, 3), jnp.float32) * scale + jnp.array([0.01, 5.0, 1e4], jnp.float32)
    final, _ = jax.jit(lambda data: jax.lax.scan(lambda s, batch: (merge(s, batch), None), first_statistics(3), data))(
        data.astype(jnp.float32)
    )
    exact = np.asarray(data, np.float64).reshape(-1, 3)
    np.testing.assert_allclose(final.seen, 5000, rtol=1e-5)
    np.testing.assert_allclose(final.mean, exact.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(final.variance, exact.var(0), rtol=2e-2)  # 1e4 +- 30: float32 holds 1e4 to 1e-3
    z = normalized(final, jnp.asarray(exact, jnp.float32))
    np.testing.assert_allclose(np.std(z, axis=0), 1.0, rtol=0.02)


def test_one_batch_decides_over_the_start_and_outliers_are_clipped() -> None:
    """(2, 4): mean 3, variance 1."""
    found = merge(first_statistics(1), jnp.array([[2.0], [4.0]], jnp.float32))
    np.testing.assert_allclose([found.mean[0], found.variance[0]], [3.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(
        normalized(found, jnp.array([4.0, 1e6, -1e6], jnp.float32)[:, None])[:, 0], [1, 10, -10], rtol=1e-3
    )
    same = jnp.ones(3, jnp.float32)
    assert normalized(None, same) is same
