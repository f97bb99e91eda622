"""Where a policy changes its mind: decisions in visited states, and the same states with one thing changed.

A probe takes states the policy really met, sets one variable (temperature of the chip, deadline, load, residency of the
weights) to a value, leaves everything else, and asks again. The share of each processor against that value shows
what the decision depends on, other things being equal.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from costmodel.weights import JUST_WRITTEN, settle
from rl.envs.routing import RoutingParams, RoutingState, SchedulingEnv
from rl.references.rules import Policy

PROBES: dict[str, tuple[str, list[float]]] = {
    "temperature": ("chip temperature (C)", [25, 35, 45, 55, 65, 75, 85, 95, 105]),
    "deadline": ("deadline (s)", [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]),
    "load": ("backlog of every processor, all awake (s)", [0.0, 0.01, 0.03, 0.1, 0.3, 1.0]),
    "residency": ("weights on the chip (0 absent, 1 there)", [0.0, 1.0]),
}


def visit(
    env: SchedulingEnv, policy: Policy, key: Array, lanes: int = 64, steps: int = 64, params: RoutingParams | None = None
) -> tuple[RoutingState, Array]:
    """States a policy meets, (lanes * steps,) in every leaf, and what it did there."""

    def body(carry, key):
        observations, states = carry
        key_act, key_step = jax.random.split(key)
        actions = jax.vmap(policy)(jax.random.split(key_act, lanes), observations, states)
        after, _ = jax.vmap(env.step_env)(jax.random.split(key_step, lanes), states, actions)
        return (jax.vmap(env.observe)(after), after), (states, actions)

    def run(key):
        key_reset, key_run = jax.random.split(key)
        start = jax.vmap(lambda k: env.reset(k, params))(jax.random.split(key_reset, lanes))
        _, visited = jax.lax.scan(body, start, jax.random.split(key_run, steps))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), visited)

    return jax.jit(run)(key)


def changed(env: SchedulingEnv, state: RoutingState, variable: str, value: Array) -> RoutingState:
    """`state` with one variable of `PROBES` set to `value`."""
    plant = state.platform
    if variable == "temperature":
        index = env.platform.names.index(env.platform.cell_names[0])
        return state._replace(platform=plant._replace(ambient=273.15 + value - plant.theta[index]))
    if variable == "deadline":
        return state._replace(deadline=value)
    if variable == "load":
        full = jnp.full_like(plant.backlog, value)
        return state._replace(platform=plant._replace(backlog=full, idle=jnp.zeros_like(full)))
    cells = {}
    for name, chip in plant.cells.items():
        mine = jax.nn.one_hot(state.network, chip.resident.shape[-1])
        placed = chip._replace(
            resident=jnp.where(mine > 0, value, chip.resident),
            age=jnp.where(mine > 0, 0.0, chip.age + 1),
            lost=chip.lost.restart(mine * (1 - chip.resident) > 0, JUST_WRITTEN),
        )
        cells[name] = settle(placed)
    return state._replace(platform=plant._replace(cells=cells))


def probe(env: SchedulingEnv, policy: Policy, states: RoutingState, key: Array) -> dict[str, Any]:
    """Share of every processor against the value of every probe: {variable: {"label", "values", "shares"}}."""

    def shares(variable: str, value: Array) -> Array:
        def decide(key: Array, state: RoutingState) -> Array:
            asked = changed(env, state, variable, value)
            return jax.nn.one_hot(policy(key, env.observe(asked), asked), env.num_actions)

        count = states.network.shape[0]
        return jnp.mean(jax.vmap(decide)(jax.random.split(key, count), states), axis=0)

    result = {}
    for variable, (label, values) in PROBES.items():
        table = jax.jit(jax.vmap(lambda v, name=variable: shares(name, v)))(jnp.asarray(values, float))
        result[variable] = {
            "label": label,
            "values": values,
            "met": met(env, states, variable),
            "shares": np.asarray(table, np.float64).round(6).tolist(),
        }
    return result


def met(env: SchedulingEnv, states: RoutingState, variable: str) -> list[float]:
    """Between which values nine in ten visited states lie; empty where that says nothing."""
    plant = states.platform
    found = {
        "temperature": plant.temperature[:, env.platform.names.index(env.platform.cell_names[0])] - 273.15,
        "deadline": states.deadline,
        "load": jnp.min(plant.backlog, axis=1),
    }
    if variable not in found:
        return []
    return [float(f"{x:.4g}") for x in np.percentile(np.asarray(found[variable], np.float64), [5, 95])]


def own_heat(env: SchedulingEnv, policy: Policy, key: Array) -> float:
    """How far (K) the decided work itself warms the chip: 99 % of the states of episodes that start cold stay below."""
    cold = env.default_params._replace(warmth=0.0)
    states, _ = visit(env, policy, key, steps=256, params=cold)
    index = env.platform.names.index(env.platform.cell_names[0])
    return float(f"{np.percentile(np.asarray(states.platform.theta[:, index], np.float64), 99):.4g}")


def by_network(env: SchedulingEnv, states: RoutingState, actions: Array) -> dict[str, list[float]]:
    """Share of every processor for each network, over visited states."""
    chosen = np.eye(env.num_actions)[np.asarray(actions)]
    network = np.asarray(states.network)
    return {
        name: chosen[network == i].mean(axis=0).round(6).tolist()
        for i, name in enumerate(env.stream.networks)
        if (network == i).any()
    }
