"""Rules that need no training: what a learned scheduler has to beat.

random               any processor
always-<processor>   one processor for everything
threshold            the chip with memory cells while it is cooler than 85 C, else the processor that is coolest
slack-greedy         the largest (deadline - latency) / service time (the seed project's "READYS baseline")
cost-greedy          the best immediate reward, found by trying every processor with `costmodel.step`;
                         it even knows when the next task arrives, which agents do not
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rl.envs.routing import RoutingParams, RoutingState, SchedulingEnv

Policy = Callable[[Array, Float[Array, " entries"], RoutingState], Int[Array, ""]]  # (key, observation, state) -> action

THRESHOLD = 358.15  # K


def baselines(env: SchedulingEnv, params: RoutingParams | None = None) -> dict[str, Policy]:
    """All rules by name, for one environment; `params` (default: the environment's) are the rewards that cost-greedy looks at."""
    params = env.default_params if params is None else params
    fixed = {f"always-{name}": _always(index) for index, name in enumerate(env.platform.names)}
    return {
        "random": _random(env),
        **fixed,
        "threshold": _threshold(env),
        "slack-greedy": _slack_greedy(env),
        "cost-greedy": _cost_greedy(env, params),
    }


def _random(env: SchedulingEnv) -> Policy:
    return lambda key, observation, state: jax.random.randint(key, (), 0, env.num_actions)


def _always(index: int) -> Policy:
    return lambda key, observation, state: jnp.full((), index, jnp.int32)


def _threshold(env: SchedulingEnv) -> Policy:
    names, chips = env.platform.names, env.platform.cell_names

    def policy(key: Array, observation: Array, state: RoutingState) -> Array:
        temperature = state.platform.temperature
        others = jnp.array([1e9 if name in chips else 0.0 for name in names])
        fallback = jnp.argmin(temperature + others)
        if not chips:
            return fallback
        index = names.index(chips[0])
        return jnp.where(temperature[index] < THRESHOLD, index, fallback)

    return policy


def _slack_greedy(env: SchedulingEnv) -> Policy:
    def policy(key: Array, observation: Array, state: RoutingState) -> Array:
        quoted = env.quote(state)
        return jnp.argmax((state.deadline - quoted.latency) / quoted.service)

    return policy


def _cost_greedy(env: SchedulingEnv, params: RoutingParams) -> Policy:
    def policy(key: Array, observation: Array, state: RoutingState) -> Array:
        def reward(action: Array) -> Array:
            return env.reward(state, env.outcome(state, action)[1], params)

        return jnp.argmax(jax.vmap(reward)(jnp.arange(env.num_actions)))

    return policy
