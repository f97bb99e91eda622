"""Routing a stream of inference tasks over the processors of a platform; gymnax 1.0 semantics.

One step is one task: the action names the processor that shall run it, `costmodel.step` books it and lets time pass until the
next arrival. Nothing about cost, heat or reliability is computed here.

    reward = - energy_weight energy - latency_weight min(latency / deadline, 2) - miss_penalty missed
             - failure_penalty failed - wear_weight wear - end_of_life_penalty terminated

Every episode draws an ambient temperature, a mean gap between tasks, an initial warmth and an age of the weights on chip.
It is truncated after `max_steps` tasks and terminated when a chip has used up its life (with the default ranges that takes
millions of tasks and does not happen). Transitions are not
differentiated: observations and states are stop-gradiented (use `costmodel.step` for gradients).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from costmodel import Decision, Offer, Outcome, Platform, PlatformState, Quote, Task, make_offers, quote, step
from costmodel.weights import CellState, settle
from physics import LogTotal, Wear
from rl.envs.spaces import Box, Discrete
from workloads import TaskStream, default_stream, draw, draw_mean_gap, load

LN_TINY = -5.0  # margins are clipped to [LN_TINY, LN_LARGE] before they are scaled
LN_LARGE = 25.0


class RoutingParams(NamedTuple):
    """The weights of the reward and the ranges episodes are drawn from; every entry may be batched."""

    energy_weight: float = 10.0  # 1/J: 100 mJ cost as much as a missed deadline
    latency_weight: float = 0.1  # per deadline's worth of latency
    miss_penalty: float = 1.0
    failure_penalty: float = 1.0  # retention lost before the result: the seed project's -1
    wear_weight: float = 1e6  # per chip life: rewriting a whole chip of 1e6 cycles costs as much as a missed deadline
    ambient_lo: float = 298.15  # K
    ambient_hi: float = 368.15  # K
    end_of_life_penalty: float = 256.0  # a worn-out chip ends the episode, and must not be a way out of it
    warmth: float = 15.0  # K, largest initial temperature rise of the package
    staleness: float = 8.0  # weights start with a lost fraction down to exp(-staleness) of the hazard budget
    max_steps: int = 256  # tasks per episode


class RoutingState(NamedTuple):
    """A platform with the task that waits for a decision."""

    platform: PlatformState
    network: Int[Array, ""]
    deadline: Float[Array, ""]  # s
    gap: Float[Array, ""]  # s to the next arrival
    mean_gap: Float[Array, ""]  # s, of this episode
    time: Int[Array, ""]  # tasks decided in this episode


class SchedulingEnv:
    """The environment of one platform and one task stream.

    Actions are indices into `platform.names`. The observation is a vector of `len(observation_names)` entries, each log-scaled or
    of order one; `observation_names` says what every entry is. ValueError if a stream names an unknown network.
    """

    def __init__(self, platform: Platform, stream: TaskStream | None = None) -> None:
        if not isinstance(platform, Platform):
            raise ValueError(f"platform must be a Platform (see costmodel.list_platforms()), got {type(platform).__name__}")
        self.platform = platform
        self.stream = default_stream() if stream is None else stream
        self.offers: Offer = make_offers(platform, [load(name) for name in self.stream.networks])
        self.modes = platform.package.network().modes()
        self.default_params = RoutingParams()

    @property
    def name(self) -> str:
        """Name of the environment."""
        return "tempo-routing"

    @property
    def num_actions(self) -> int:
        """Number of processors."""
        return len(self.platform.names)

    def action_space(self, params: RoutingParams | None = None) -> Discrete:
        """One action per processor."""
        return Discrete(self.num_actions)

    def observation_space(self, params: RoutingParams | None = None) -> Box:
        """A vector of about order one."""
        return Box(-20.0, 20.0, (len(self.observation_names),))

    @property
    def observation_names(self) -> tuple[str, ...]:
        """What each entry of the observation is, in order."""
        networks, names = self.stream.networks, self.platform.names
        entries = [f"task is {n}" for n in networks] + ["ln(deadline / 0.1 s)", "ln(mean gap / 0.3 s)"]
        entries += [f"ln(latency on {p} / deadline)" for p in names] + [f"ln(energy on {p} / 10 mJ)" for p in names]
        entries += [f"ln(1 + backlog of {p} / 10 ms)" for p in names] + [f"{p} is awake" for p in names]
        entries += [f"(temperature of {p} - 318.15 K) / 40 K" for p in names]
        for chip in self.platform.cell_names:
            entries += [f"{n} is resident on {chip}" for n in networks]
            entries += [f"ln(hazard budget / lost fraction) / 10 of {n} on {chip}" for n in networks]
            entries += [f"ln(1 + runs since {n} was used on {chip})" for n in networks]
            entries += [f"ln(time to the hazard budget on {chip} now / 1 s) / 10"]
            entries += [f"ln(hazard budget / lost fraction) / 10 at the result on {chip}"]
        return tuple(entries)

    def task(self, state: RoutingState) -> Task:
        """The task that waits for a decision."""
        offer = jax.tree.map(lambda column: column[state.network], self.offers)
        return Task(offer, state.network, state.deadline, state.gap)

    def quote(self, state: RoutingState) -> Quote:
        """What the waiting task would take on every processor."""
        return quote(self.platform, state.platform, self.task(state))

    def outcome(self, state: RoutingState, action: Int[Array, ""]) -> tuple[PlatformState, Outcome]:
        """What would follow from `action`; the platform at the next arrival and the outcome of the task."""
        return step(self.platform, state.platform, self.task(state), Decision(action), self.modes)

    def reward(self, state: RoutingState, outcome: Outcome, params: RoutingParams) -> Float[Array, ""]:
        """The reward of one outcome, without an ending; see the module."""
        return -(
            params.energy_weight * outcome.energy
            + params.latency_weight * jnp.minimum(outcome.latency / state.deadline, 2.0)
            + params.miss_penalty * outcome.missed
            + params.failure_penalty * outcome.failed
            + params.wear_weight * outcome.wear
        )

    def reset(self, key: Array, params: RoutingParams | None = None) -> tuple[Float[Array, " entries"], RoutingState]:
        """A fresh episode: (observation, state)."""
        state = self._draw_episode(key, self.default_params if params is None else params)
        return self.observe(state), state

    def step(
        self, key: Array, state: RoutingState, action: Int[Array, ""], params: RoutingParams | None = None
    ) -> tuple[Float[Array, " entries"], RoutingState, Float[Array, ""], Array, Array, dict[str, Any]]:
        """Decide one task: (observation, state, reward, terminated, truncated, info), with auto-reset.

        After the last task of an episode, observation and state are those of the next one; `info["final_observation"]` is the
        ended one's. `info` also has the step's `Outcome`.
        """
        params = self.default_params if params is None else params
        key_step, key_reset = jax.random.split(key)
        ended, outcome = self.step_env(key_step, state, action)
        terminated = self.worn_out(ended.platform)
        reward = self.reward(state, outcome, params) - params.end_of_life_penalty * terminated
        truncated = ended.time >= params.max_steps
        final = self.observe(ended)
        fresh = self._draw_episode(key_reset, params)
        done = terminated | truncated
        after = jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, ended)
        observation = jnp.where(done, self.observe(fresh), final)
        info = {"terminated": terminated, "truncated": truncated, "final_observation": final, "outcome": outcome}
        return jax.lax.stop_gradient((observation, after, reward, terminated, truncated, info))

    def step_env(self, key: Array, state: RoutingState, action: Int[Array, ""]) -> tuple[RoutingState, Outcome]:
        """One task without reward, ending or reset."""
        platform, outcome = self.outcome(state, action)
        network, deadline, gap = draw(self.stream, key, state.mean_gap)
        return RoutingState(platform, network, deadline, gap, state.mean_gap, state.time + 1), outcome

    def observe(self, state: RoutingState) -> Float[Array, " entries"]:
        """The observation of a state, entries as in `observation_names`."""
        quoted, now = self.quote(state), state.platform
        linger = jnp.stack([self.platform.processors[name].linger for name in self.platform.names])
        parts = [
            jax.nn.one_hot(state.network, len(self.stream.networks)),
            jnp.log(state.deadline / 0.1)[None],
            jnp.log(state.mean_gap / 0.3)[None],
            jnp.log(quoted.latency / state.deadline),
            jnp.log(quoted.energy / 1e-2 + 1e-6),
            jnp.log1p(now.backlog / 1e-2),
            jnp.where(now.idle > linger, 0.0, 1.0),
            (now.temperature - 318.15) / 40.0,
        ]
        for name in self.platform.cell_names:
            index = self.platform.names.index(name)
            parts += self._observe_cells(name, now.cells[name], now.temperature[index])
            parts.append(jnp.clip(quoted.margin[index], LN_TINY, LN_LARGE)[None] / 10)
        return jnp.concatenate(parts)

    def _observe_cells(self, name: str, cells: CellState, temperature: Array) -> list[Array]:
        budget = jnp.log(self.platform.hazard_budget)
        margin = jnp.clip(budget - cells.log_hazard, LN_TINY, LN_LARGE) / 10
        to_budget = budget - self.platform.chip(name).cell.retention.log_hazard_rate(temperature)
        return [cells.resident, margin, jnp.log1p(cells.age), jnp.clip(to_budget, LN_TINY, LN_LARGE)[None] / 10]

    def worn_out(self, platform: PlatformState) -> Array:
        """Whether a chip has used up its life: the natural end of an episode."""
        worn = [cells.wear.damage >= 1.0 for cells in platform.cells.values()]
        return jnp.any(jnp.stack(worn)) if worn else jnp.zeros((), bool)

    def _draw_episode(self, key: Array, params: RoutingParams) -> RoutingState:
        key_task, key_gap, key_plant, key_cells = jax.random.split(key, 4)
        mean_gap = draw_mean_gap(self.stream, key_gap)
        network, deadline, gap = draw(self.stream, key_task, mean_gap)
        draws = jax.random.uniform(key_plant, (2,))
        plant = self.platform.initial_state(workloads=len(self.stream.networks))
        plant = plant._replace(
            ambient=params.ambient_lo + (params.ambient_hi - params.ambient_lo) * draws[0],
            theta=jnp.full_like(plant.theta, params.warmth * draws[1]),
            cells={name: self._draw_cells(key_cells, name, params) for name in self.platform.cell_names},
        )
        return RoutingState(plant, network, deadline, gap, mean_gap, jnp.zeros((), jnp.int32))

    def _draw_cells(self, key: Array, name: str, params: RoutingParams) -> CellState:
        """Weights left by an earlier owner: a random set that fits, of random staleness, on a chip of random age."""
        count = len(self.stream.networks)
        draws = jax.random.uniform(jax.random.fold_in(key, self.platform.names.index(name)), (2 * count + 1,))
        memory = self.offers.memory[:, self.platform.names.index(name)]
        hazard = jnp.log(self.platform.hazard_budget) - params.staleness * draws[count : 2 * count]
        cells = CellState(jnp.ones(count), memory, 10 * draws[:count], LogTotal.start(hazard), Wear.zero(0.5 * draws[-1]))
        return settle(cells)
