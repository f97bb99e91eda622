"""No scheduler can score more: an upper bound on every single episode of the routing problem.

The bound knows all tasks of an episode in advance and drops what couples them, except two things that cost most:

    lingering   a processor that must be asleep (since the last arrival it had time for all work it could have been given,
                and to doze off) is woken, and stays awake for its run and `linger`, or up to the next arrival
    writing     k runs of a network on a chip take at least ceil(k r - f) writings (r: share of the hazard budget that the
                reads of one run use up, f: life left at the start), and one if its weights are not there; k is chosen best

No queue, no limit of the chip's memory, no retention loss with time, everything as cool as the surroundings; a run on
weights that are lost costs the failure penalty. Valid where leakage, read disturb and wear grow with temperature (as in
every cell of the library), tasks do not depend on actions, and no chip wears out. With several chips only the writings of
the first are counted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from costmodel import Conditions, Outcome
from rl.envs.routing import RoutingParams, RoutingState, SchedulingEnv

ROUNDING = 1e-3  # of a life: the hazard is compared in float32


class _Tasks(NamedTuple):
    """The tasks of one episode; arrays (T, ...)."""

    state: RoutingState
    outcome: Outcome  # only the shape matters: the quantities a reward looks at are replaced


def score_bounds(
    env: SchedulingEnv, key: PRNGKeyArray, episodes: int = 256, params: RoutingParams | None = None
) -> Float[Array, " episodes"]:
    """Upper bounds on the scores of the episodes that `rl.evaluate` plays with `key`. ValueError if `episodes` < 1."""
    if episodes < 1:
        raise ValueError(f"episodes = {episodes} is below 1")
    params = env.default_params if params is None else params
    return jax.jit(jax.vmap(lambda k: _bound(env, params, _play(env, params, k))))(jax.random.split(key, episodes))


def _play(env: SchedulingEnv, params: RoutingParams, key: Array) -> _Tasks:
    """The tasks of one episode, found by playing it; what is decided does not change them."""
    key_reset, key_run = jax.random.split(key)

    def body(state: RoutingState, key: Array) -> tuple[RoutingState, _Tasks]:
        after, outcome = env.step_env(jax.random.split(key)[1], state, jnp.zeros((), jnp.int32))
        return after, _Tasks(state, outcome)

    state = env.reset(key_reset, params)[1]
    return jax.lax.scan(body, state, jax.random.split(key_run, int(params.max_steps)))[1]


def _bound(env: SchedulingEnv, params: RoutingParams, tasks: _Tasks) -> Array:
    rewards = _best_rewards(env, params, tasks)
    if not env.platform.cell_names:
        return jnp.sum(jnp.max(rewards, axis=1))
    chip = env.platform.names.index(env.platform.cell_names[0])
    others = jnp.max(rewards.at[:, chip].set(-jnp.inf), axis=1)
    instead = jnp.maximum(others, rewards[:, chip] - params.failure_penalty)
    gains = jnp.maximum(rewards[:, chip] - instead, 0.0)
    kept = [_kept_gain(env, params, tasks, gains, chip, network) for network in range(len(env.stream.networks))]
    return jnp.sum(instead) + sum(kept, start=jnp.zeros(()))


def _best_rewards(env: SchedulingEnv, params: RoutingParams, tasks: _Tasks) -> Float[Array, "tasks processors"]:
    """The reward of every task on every processor, at its best."""
    offer, ambient, gap = (
        jax.tree.map(lambda x: x[tasks.state.network], env.offers),
        tasks.state.platform.ambient[0],
        tasks.state.gap,
    )
    columns, sleeping = [], jnp.zeros(())
    for p, name in enumerate(env.platform.names):
        processor = env.platform.processors[name]
        asleep = _surely_asleep(env, tasks, offer.latency[:, p] + offer.write_latency[:, p], p)
        static = processor.static_power(Conditions(temperature=ambient))
        sleeping = sleeping + static * processor.sleep_fraction
        latency = offer.latency[:, p] + asleep * processor.wake_time
        awake = static * (1 - processor.sleep_fraction) * jnp.minimum(latency + processor.linger, gap)
        columns.append((latency, offer.energy[:, p] + asleep * processor.wake_energy + awake))

    def reward(latency: Array, energy: Array) -> Array:
        outcome = tasks.outcome._replace(
            latency=latency,
            energy=energy + sleeping * gap,
            missed=jnp.where(latency > tasks.state.deadline, 1.0, 0.0),
            failed=jnp.zeros_like(latency),
            wear=jnp.zeros_like(latency),
        )
        return jax.vmap(lambda s, o: env.reward(s, o, params))(tasks.state, outcome)

    return jnp.stack([reward(*column) for column in columns], axis=1)


def _surely_asleep(env: SchedulingEnv, tasks: _Tasks, longest: Array, p: int) -> Float[Array, " tasks"]:
    """1 where processor `p` sleeps at an arrival even if it was given every task before, with writing and waking."""
    processor, gap = env.platform.processors[env.platform.names[p]], tasks.state.gap

    def body(backlog: Array, task: tuple[Array, Array]) -> tuple[Array, Array]:
        work = backlog + task[0] + processor.wake_time
        return jnp.maximum(work - task[1], 0.0), task[1] - work > processor.linger

    _, dozed = jax.lax.scan(body, jnp.zeros(()), (longest, gap))
    first = tasks.state.platform.idle[:1, p] > processor.linger
    return jnp.where(jnp.concatenate([first, dozed[:-1]]), 1.0, 0.0)


def _kept_gain(env: SchedulingEnv, params: RoutingParams, tasks: _Tasks, gains: Array, chip: int, network: int) -> Array:
    """The most that one network can gain on the chip in an episode, writings paid."""
    name = env.platform.names[chip]
    cell, budget = env.platform.chip(name).cell, jnp.log(env.platform.hazard_budget)
    start = jax.tree.map(lambda x: x[0], tasks.state.platform)
    offer = jax.tree.map(lambda x: x[network, chip], env.offers)
    wear = offer.memory * cell.endurance.damage(cell.write_temperature(start.ambient))
    price = params.wear_weight * wear + params.energy_weight * offer.write_energy
    run = jnp.exp(cell.log_loss(start.ambient, jnp.zeros(()), offer.reads) - budget)
    cells = start.cells[name]
    life = 1 - jnp.exp(cells.log_hazard[network] - budget)
    there = (cells.resident[network] > 0) & (life > 0)
    count = jnp.arange(1, gains.shape[0] + 1)
    worn = jnp.ceil(count * run - jnp.where(there, life, 0.0) - ROUNDING)
    writings = jnp.maximum(worn, jnp.where(there, 0.0, 1.0))
    earned = jnp.cumsum(-jnp.sort(jnp.where(tasks.state.network == network, -gains, 0.0)))
    return jnp.maximum(jnp.max(earned - jnp.maximum(writings, 0.0) * price), 0.0)
