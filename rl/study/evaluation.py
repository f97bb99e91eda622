"""Playing policies against the same tasks: every policy sees the same episodes, drawn from the same keys."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rl.agents.dqn import TrainResult
from rl.envs.routing import RoutingParams, SchedulingEnv
from rl.references.rules import Policy

MOST_EPISODES = 1_000_000
EVALUATION_KEY = 1_000_001  # of the episodes all policies are judged on; training keys are the seeds


class Episodes(NamedTuple):
    """One policy's results; arrays (episodes,), means per task unless said."""

    score: Array  # sum of rewards, up to the end of the episode
    energy: Array  # J
    latency: Array  # s
    missed: Array  # share of tasks
    failed: Array  # share of tasks
    wear: Array  # chip life per task
    written: Array  # share of tasks that had to write weights
    peak_temperature: Array  # K, hottest junction at the end of a task
    shares: Array  # (episodes, processors) share of tasks sent to each processor


def evaluate(
    env: SchedulingEnv, policy: Policy, key: Array, episodes: int = 256, params: RoutingParams | None = None
) -> Episodes:
    """Play whole episodes (max_steps tasks each) without learning; jitted. ValueError if `episodes` is out of range."""
    if not 1 <= episodes <= MOST_EPISODES:
        raise ValueError(f"episodes = {episodes} is outside its range [1, {MOST_EPISODES}]")
    params = env.default_params if params is None else params
    return jax.jit(jax.vmap(lambda k: _play(env, policy, k, params)))(jax.random.split(key, episodes))


def _play(env: SchedulingEnv, policy: Policy, key: Array, params: RoutingParams) -> Episodes:
    key_reset, key_run = jax.random.split(key)

    def body(carry, key):
        observation, state, live = carry
        key_act, key_step = jax.random.split(key)
        action = policy(key_act, observation, state)
        after, outcome = env.step_env(key_step, state, action)
        worn_out = env.worn_out(after.platform)
        reward = env.reward(state, outcome, params) - params.end_of_life_penalty * worn_out
        row = (live * reward, outcome, jax.nn.one_hot(action, env.num_actions))
        return (env.observe(after), after, live * (1.0 - worn_out)), row

    observation, state = env.reset(key_reset, params)
    keys = jax.random.split(key_run, int(params.max_steps))
    _, (rewards, outcomes, actions) = jax.lax.scan(body, (observation, state, jnp.ones(())), keys)
    return Episodes(
        score=jnp.sum(rewards),
        energy=jnp.mean(outcomes.energy),
        latency=jnp.mean(outcomes.latency),
        missed=jnp.mean(outcomes.missed),
        failed=jnp.mean(outcomes.failed),
        wear=jnp.mean(outcomes.wear),
        written=jnp.mean(outcomes.written),
        peak_temperature=jnp.max(outcomes.peak_temperature),
        shares=jnp.mean(actions, axis=0),
    )


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half of `values`, the robust average of Agarwal et al., NeurIPS 2021."""
    ordered = np.sort(np.asarray(values, np.float64).ravel())
    cut = int(np.floor(0.25 * ordered.size))
    return float(np.mean(ordered[cut : ordered.size - cut]))


def bootstrap_interval(values: np.ndarray, seed: int = 0, draws: int = 2000, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the interquartile mean of `values`."""
    values = np.asarray(values, np.float64).ravel()
    rng = np.random.default_rng(seed)
    samples = np.sort(values[rng.integers(0, values.size, (draws, values.size))], axis=1)
    cut = int(np.floor(0.25 * values.size))
    means = samples[:, cut : values.size - cut].mean(axis=1)
    tail = 100 * (1 - level) / 2
    lo, hi = np.percentile(means, [tail, 100 - tail])
    return float(lo), float(hi)


def agent_policy(agent: TrainResult) -> Policy:
    """A trained agent as a policy of (key, observation, state): greedy, without exploration."""
    act = agent.policy()
    return lambda key, observation, state: act(observation)


def summarise(episodes: Episodes) -> dict[str, Any]:
    """One policy's episodes in figures: the interquartile mean of the score with its interval, means of the rest."""
    score = np.asarray(episodes.score, np.float64)
    means = {
        name: float(np.mean(np.asarray(getattr(episodes, name), np.float64))) for name in episodes._fields if name != "shares"
    }
    return {
        **means,
        "score_iqm": interquartile_mean(score),
        "score_interval": list(bootstrap_interval(score)),
        "scores": [float(f"{s:.7g}") for s in score],
        "shares": np.mean(np.asarray(episodes.shares, np.float64), axis=0).tolist(),
    }
