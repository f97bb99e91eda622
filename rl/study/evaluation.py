"""Playing policies against the same tasks: every policy sees the same episodes, drawn from the same keys.

A rule or the optimum plays once; of a learned scheduler every training run plays, all runs in one program.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rl.agents.program import TrainResult
from rl.envs.routing import RoutingParams, SchedulingEnv
from rl.references.rules import Policy

MOST_EPISODES = 1_000_000
EVALUATION_KEY = 1_000_001  # of the episodes all policies are judged on; training keys are the seeds


class Episodes(NamedTuple):
    """One policy's results; arrays [episodes], or [runs, episodes] of several runs; means per task unless said."""

    score: Array  # sum of rewards, up to the end of the episode
    energy: Array  # J
    latency: Array  # s
    missed: Array  # share of tasks
    failed: Array  # share of tasks
    wear: Array  # chip life per task
    written: Array  # share of tasks that had to write weights
    peak_temperature: Array  # K, hottest junction at the end of a task
    shares: Array  # [..., processors] share of tasks sent to each processor


def evaluate(
    env: SchedulingEnv, policy: Policy, key: Array, episodes: int = 256, params: RoutingParams | None = None
) -> Episodes:
    """Play whole episodes (max_steps tasks each) without learning; jitted. ValueError if `episodes` is out of range."""
    keys = jax.random.split(key, checked(episodes))
    params = env.default_params if params is None else params
    return jax.jit(jax.vmap(lambda k: _play(env, policy, k, params)))(keys)


def evaluate_runs(
    env: SchedulingEnv, agents: Sequence[TrainResult], key: Array, episodes: int = 256, params: RoutingParams | None = None
) -> Episodes:
    """Play the same episodes with every training run of one agent: arrays [runs, episodes]; see `evaluate`.

    The runs must have the same settings. ValueError if there are none.
    """
    if not agents:
        raise ValueError("agents: at least one training run is needed, got 0")
    params = env.default_params if params is None else params
    runs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[agent.policy() for agent in agents])
    keys = jax.random.split(key, checked(episodes))

    def play(act: Any) -> Episodes:
        return jax.vmap(lambda k: _play(env, acting(act), k, params))(keys)

    return jax.jit(jax.vmap(play))(runs)


def evaluate_each(
    env: SchedulingEnv, policies: Mapping[str, Policy], key: Array, episodes: int = 256, params: RoutingParams | None = None
) -> dict[str, Episodes]:
    """Play the same episodes with every policy, one after the other in one program; see `evaluate`.

    Compiling the environment once and not for each policy saves most of the time that few episodes take.
    """
    params = env.default_params if params is None else params
    keys = jax.random.split(key, checked(episodes))
    branches = [lambda *seen, p=policy: jnp.asarray(p(*seen), jnp.int32) for policy in policies.values()]

    def play(number: Array) -> Episodes:
        return jax.vmap(lambda k: _play(env, lambda *seen: jax.lax.switch(number, branches, *seen), k, params))(keys)

    found = jax.jit(lambda numbers: jax.lax.map(play, numbers))(jnp.arange(len(policies)))
    return {name: jax.tree.map(lambda x, i=i: x[i], found) for i, name in enumerate(policies)}


def checked(episodes: int) -> int:
    """The number of episodes, or ValueError."""
    if not 1 <= episodes <= MOST_EPISODES:
        raise ValueError(f"episodes = {episodes} is outside its range [1, {MOST_EPISODES}]")
    return episodes


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


def agent_policy(agent: TrainResult) -> Policy:
    """A trained agent as a policy of (key, observation, state): greedy, without exploration."""
    return acting(agent.policy())


def acting(act: Any) -> Policy:
    """What acts on an observation, as a policy of (key, observation, state)."""
    return lambda key, observation, state: act(observation)


def summarise(episodes: Episodes) -> dict[str, Any]:
    """One policy's episodes in figures: means over runs and episodes, and `scores` [runs, episodes]."""
    means = {
        name: float(np.mean(np.asarray(getattr(episodes, name), np.float64))) for name in episodes._fields if name != "shares"
    }
    shares = np.asarray(episodes.shares, np.float64)
    scores = np.atleast_2d(np.asarray(episodes.score, np.float64))
    return {
        **means,
        "shares": np.mean(shares.reshape(-1, shares.shape[-1]), axis=0).tolist(),
        "scores": [[float(f"{s:.7g}") for s in run] for run in scores],
    }
