"""Routing a stream of inference tasks over the processors of a platform; gymnax 1.0 semantics.

One step is one task: the action names the processor that shall run it, `costmodel.step` books it and lets time pass until the
next arrival. Nothing about cost, heat or reliability is computed here.

    reward = - energy_weight energy - latency_weight min(latency / deadline, 2) - miss_penalty missed
             - failure_penalty failed - wear_weight wear - end_of_life_penalty terminated

Every episode draws an ambient temperature, a mean gap between tasks, an initial warmth and an age of the weights on chip.
It is truncated after `max_steps` tasks and terminated when a chip has used up its life (with the default ranges that takes
millions of tasks and does not happen) or a platform with a `limit` reaches its critical temperature. Transitions are not
differentiated: observations and states are stop-gradiented (use `costmodel.step` for gradients).

What else can be switched on; absent parts cost nothing:

    levels=(0.5, 0.75, 1.0)   the clock is chosen too, on a platform with clock domains: Discrete(processors x levels)
    levels="continuous"       Hybrid(processors, -1, 1): the amount spans each processor's own range of clocks
    refresh=True              choices are multiplied by (nothing, chip, chip, ...): rewrite that chip's weights before the task
    ambient=AmbientTrace(...) surroundings change in the course of an episode, which begins anywhere in the trace
    TaskStream(burst=...)     tasks come in bursts
    Platform(limit=...)       hot processors are throttled
    foresight=True            the observation tells what the model knows beforehand: the runs that weights are good for, and
                              as its last entries the reward of every action, were the next task to come after the mean gap

A choice is processor + P (level + K refresh). Levels count from the fastest, so that the choices 0 to P - 1 always mean a
processor at the fastest level without a refresh: rules that know processors only play in every variant.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from costmodel import Decision, Offer, Outcome, Platform, PlatformState, Quote, Task, make_offers, quote, step
from costmodel.weights import CellState, settle
from physics import CompensatedSum, LogTotal, Wear
from rl.envs.ambients import AmbientTrace
from rl.envs.foresight import foreseen, foreseen_names
from rl.envs.resets import restart_where
from rl.envs.spaces import Box, Discrete, Hybrid, HybridAction
from workloads import TaskStream, default_stream, draw, draw_mean_gap, draw_phase

LN_TINY = -5.0  # margins are clipped to [LN_TINY, LN_LARGE] before they are scaled
LN_LARGE = 25.0
NEXT_EPISODE = 2**31 - 1  # folded into a step's key: far beyond the counters that draw the step's own task


class RoutingParams(NamedTuple):
    """The weights of the reward and the ranges episodes are drawn from; every entry may be batched."""

    energy_weight: float = 10.0  # 1/J: 100 mJ cost as much as a missed deadline
    latency_weight: float = 0.1  # per deadline's worth of latency
    miss_penalty: float = 1.0
    failure_penalty: float = 1.0  # retention lost before the result: the seed project's -1
    wear_weight: float = 1e6  # per chip life: rewriting a whole chip of 1e6 cycles costs as much as a missed deadline
    ambient_lo: float = 298.15  # K
    ambient_hi: float = 368.15  # K
    end_of_life_penalty: float = 256.0  # a worn-out or overheated platform ends the episode, which must not be a way out
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
    bursting: Float[Array, " 2"] | None = None  # 1 where this task, and the next one, come in a burst
    clock: CompensatedSum | None = None  # s, position in the ambient trace


class SchedulingEnv:
    """The environment of one platform and one task stream.

    Actions are indices into `platform.names`, or what `levels` and `refresh` make of them (see the module); `decision` says what
    an action means, `action_names` in words. The observation is a vector of `len(observation_names)` entries, each log-scaled
    or of order one; `observation_names` says what every entry is. ValueError if a stream names an unknown network, or for
    options that do not fit the platform.
    """

    def __init__(
        self,
        platform: Platform,
        stream: TaskStream | None = None,
        *,
        levels: Sequence[float] | str | None = None,
        refresh: bool = False,
        ambient: AmbientTrace | None = None,
        foresight: bool = False,
    ) -> None:
        if not isinstance(platform, Platform):
            raise ValueError(f"platform must be a Platform (see costmodel.list_platforms()), got {type(platform).__name__}")
        self.platform = platform
        self.stream = default_stream() if stream is None else stream
        self.continuous = levels == "continuous"
        self.levels = _check_levels(platform, levels)
        if refresh and not platform.cell_names:
            raise ValueError("refresh = True needs a platform with a chip that keeps weights in memory cells")
        self.refreshed = (None, *platform.cell_names) if refresh else (None,)
        self.ambient = ambient
        self.foresight = foresight
        self.offers: Offer = make_offers(platform, self.stream.tables())
        self.modes = platform.package.network().modes()
        self.default_params = RoutingParams()

    @property
    def name(self) -> str:
        """Name of the environment."""
        return "tempo-routing"

    @property
    def num_actions(self) -> int:
        """Number of actions; with continuous clocks, of choices."""
        return len(self.action_names)

    @property
    def action_names(self) -> tuple[str, ...]:
        """What every action, or choice, means: "gpu", "gpu at 0.5", "gpu at 0.5 after refreshing pim"."""
        clocks = [""] + [f" at {level:g}" for level in self.levels[1:]]
        first = "" if self.levels[0] == 1 else f" at {self.levels[0]:g}"
        befores = ["" if chip is None else f" after refreshing {chip}" for chip in self.refreshed]
        return tuple(f"{p}{c or first}{b}" for b in befores for c in clocks for p in self.platform.names)

    def action_space(self, params: RoutingParams | None = None) -> Discrete | Hybrid:
        """One action per processor, level and refresh; with continuous clocks a choice and an amount."""
        return Hybrid(self.num_actions) if self.continuous else Discrete(self.num_actions)

    def observation_space(self, params: RoutingParams | None = None) -> Box:
        """A vector of about order one."""
        return Box(-20.0, 20.0, (len(self.observation_names),))

    def decision(self, action: Int[Array, ""] | HybridAction) -> Decision:
        """What an action means. With continuous clocks a plain choice means the fastest clock. Out of range: the nearest."""
        choice, amount = action if isinstance(action, tuple) else (action, None)
        choice = jnp.clip(jnp.asarray(choice), 0, self.num_actions - 1)
        count, speeds = len(self.platform.names), len(self.levels)
        processor = choice % count
        speed = refresh = None
        if self.continuous:
            lowest = self._slowest()[processor]
            share = jnp.ones(()) if amount is None else (jnp.clip(amount, -1.0, 1.0) + 1) / 2
            speed = lowest + (1 - lowest) * share
        elif self.levels != (1.0,):
            speed = jnp.asarray(self.levels)[choice // count % speeds]
        if len(self.refreshed) > 1:
            chips = [-1 if chip is None else self.platform.names.index(chip) for chip in self.refreshed]
            refresh = jnp.asarray(chips, jnp.int32)[choice // (count * speeds)]
        return Decision(processor, speed, refresh)

    def _slowest(self) -> Float[Array, " processors"]:
        domains = self.platform.clocks
        return jnp.stack([domains[n].slowest if n in domains else jnp.ones(()) for n in self.platform.names])

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
        clocked = [p for p in names if p in self.platform.clocks]
        for label, _ in self._slower():
            entries += [f"ln(latency on {p} at {label} / deadline)" for p in clocked]
            entries += [f"ln(energy on {p} at {label} / 10 mJ)" for p in clocked]
        if self.platform.limit is not None:
            entries += [f"share of the time that the clock of {p} runs" for p in names]
        entries += [f"share of {chip} that a refresh would write" for chip in self.refreshed if chip is not None]
        if self.stream.burst is not None:
            entries += ["task came in a burst"]
        if self.foresight:
            entries += foreseen_names(self.platform, networks)
            entries += [f"reward of {action} before a mean gap" for action in self.action_names]
        return tuple(entries)

    def _slower(self) -> list[tuple[str, Any]]:
        """Clocks beside the fastest that an agent is told the costs of: all other levels, or the ends of continuous ranges."""
        if self.continuous:
            return [("its slowest clock", self._slowest())]
        return [(f"{level:g} of its clock", level) for level in self.levels[1:]]

    def task(self, state: RoutingState) -> Task:
        """The task that waits for a decision."""
        offer = jax.tree.map(lambda column: column[state.network], self.offers)
        return Task(offer, state.network, state.deadline, state.gap)

    def quote(self, state: RoutingState, speed: Float[Array, "..."] | float | None = None) -> Quote:
        """What the waiting task would take on every processor; by default at the fastest level."""
        fastest = None if self.continuous or self.levels[0] == 1 else self.levels[0]
        return quote(self.platform, state.platform, self.task(state), fastest if speed is None else speed)

    def outcome(self, state: RoutingState, action: Int[Array, ""] | HybridAction) -> tuple[PlatformState, Outcome]:
        """What would follow from `action`; the platform at the next arrival and the outcome of the task."""
        return step(self.platform, state.platform, self.task(state), self.decision(action), self.modes)

    def reward(self, state: RoutingState, outcome: Outcome, params: RoutingParams) -> Float[Array, ""]:
        """The reward of one outcome, without an ending; see the module."""
        return -(
            params.energy_weight * outcome.energy
            + params.latency_weight * jnp.minimum(outcome.latency / state.deadline, 2.0)
            + params.miss_penalty * outcome.missed
            + params.failure_penalty * outcome.failed
            + params.wear_weight * outcome.wear
        )

    def expected_rewards(self, state: RoutingState, params: RoutingParams | None = None) -> Float[Array, " actions"]:
        """The reward of every action (of a hybrid one at the fastest clock), were the next task to come after the mean gap."""
        params, typical = self.default_params if params is None else params, state._replace(gap=state.mean_gap)
        price = lambda action: self.reward(typical, self.outcome(typical, action)[1], params)  # noqa: E731
        return jax.vmap(price)(jnp.arange(self.num_actions))

    def reset(self, key: Array, params: RoutingParams | None = None) -> tuple[Float[Array, " entries"], RoutingState]:
        """A fresh episode: (observation, state)."""
        state = self._draw_episode(key, self.default_params if params is None else params)
        return self.observe(state, params), state

    def step(
        self, key: Array, state: RoutingState, action: Int[Array, ""] | HybridAction, params: RoutingParams | None = None
    ) -> tuple[Float[Array, " entries"], RoutingState, Float[Array, ""], Array, Array, dict[str, Any]]:
        """Decide one task: (observation, state, reward, terminated, truncated, info), with auto-reset.

        After the last task of an episode, observation and state are those of the next one; `info["final_observation"]` is the
        ended one's. `info` also has the step's `Outcome`.
        """
        params = self.default_params if params is None else params
        ended, outcome = self.step_env(key, state, action)
        terminated = self.worn_out(ended.platform)
        reward = self.reward(state, outcome, params) - params.end_of_life_penalty * terminated
        truncated = ended.time >= params.max_steps
        final = self.observe(ended, params)
        (key, params), current = jax.lax.stop_gradient(((key, params), (final, ended)))
        observation, after = restart_where(terminated | truncated, current, self._restart, key, params)
        info = {"terminated": terminated, "truncated": truncated, "final_observation": final, "outcome": outcome}
        return jax.lax.stop_gradient((observation, after, reward, terminated, truncated, info))

    def _restart(self, key: Array, params: RoutingParams) -> tuple[Float[Array, " entries"], RoutingState]:
        return self.reset(jax.random.fold_in(key, NEXT_EPISODE), params)

    def step_env(self, key: Array, state: RoutingState, action: Int[Array, ""] | HybridAction) -> tuple[RoutingState, Outcome]:
        """One task without reward, ending or reset."""
        platform, outcome = self.outcome(state, action)
        came = None if state.bursting is None else state.bursting[1]
        drawn = draw(self.stream, key, state.mean_gap, came)
        after = RoutingState(platform, drawn.network, drawn.deadline, drawn.gap, state.mean_gap, state.time + 1)
        if came is not None and drawn.bursting is not None:
            after = after._replace(bursting=jnp.stack([came, drawn.bursting]))
        if self.ambient is not None and state.clock is not None:
            clock = state.clock.add(state.gap)
            after = after._replace(clock=clock, platform=platform.with_ambient(self.ambient.at(clock.value)))
        return after, outcome

    def observe(self, state: RoutingState, params: RoutingParams | None = None) -> Float[Array, " entries"]:
        """The observation of a state, entries as in `observation_names`; `params` matter with foresight only."""
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
        return jnp.concatenate(parts + self._observe_extras(state, quoted, params))

    def _observe_extras(self, state: RoutingState, quoted: Quote, params: RoutingParams | None) -> list[Array]:
        """The entries of whatever is switched on."""
        parts = []
        clocked = [i for i, name in enumerate(self.platform.names) if name in self.platform.clocks]
        for _, speed in self._slower():
            slower, which = self.quote(state, speed), jnp.asarray(clocked)
            parts += [jnp.log(slower.latency[which] / state.deadline), jnp.log(slower.energy[which] / 1e-2 + 1e-6)]
        if self.platform.limit is not None:
            parts.append(quoted.pace)
        for chip in self.refreshed[1:]:
            cells = state.platform.cells[chip or ""]
            parts.append(jnp.sum(cells.resident * cells.memory)[None])
        if state.bursting is not None:
            parts.append(state.bursting[:1])
        if self.foresight:
            parts += [foreseen(self.platform, self.offers, state.platform), self.expected_rewards(state, params)]
        return parts

    def _observe_cells(self, name: str, cells: CellState, temperature: Array) -> list[Array]:
        budget = jnp.log(self.platform.hazard_budget)
        margin = jnp.clip(budget - cells.log_hazard, LN_TINY, LN_LARGE) / 10
        to_budget = budget - self.platform.chip(name).cell.retention.log_hazard_rate(temperature)
        return [cells.resident, margin, jnp.log1p(cells.age), jnp.clip(to_budget, LN_TINY, LN_LARGE)[None] / 10]

    def worn_out(self, platform: PlatformState) -> Array:
        """Whether a platform has come to its natural end: a chip has used up its life, or a junction is critically hot."""
        worn = [cells.wear.damage >= 1.0 for cells in platform.cells.values()]
        if self.platform.limit is not None:
            worn.append(self.platform.limit.tripped(jnp.max(platform.temperature)) > 0)
        return jnp.any(jnp.stack(worn)) if worn else jnp.zeros((), bool)

    def _draw_episode(self, key: Array, params: RoutingParams) -> RoutingState:
        key_task, key_gap, key_plant, key_cells, key_phase = jax.random.split(key, 5)
        mean_gap = draw_mean_gap(self.stream, key_gap)
        phase = draw_phase(self.stream, key_phase)
        network, deadline, gap, later = draw(self.stream, key_task, mean_gap, phase)
        draws = jax.random.uniform(key_plant, (2,))
        plant = self.platform.initial_state(workloads=len(self.stream.networks))
        ambient = params.ambient_lo + (params.ambient_hi - params.ambient_lo) * draws[0]
        clock = None
        if self.ambient is not None:
            clock = CompensatedSum.start(self.ambient.period * draws[0])
            ambient = self.ambient.at(clock.value)
        plant = plant._replace(
            ambient=ambient,
            theta=jnp.full_like(plant.theta, params.warmth * draws[1]),
            cells={name: self._draw_cells(key_cells, name, params) for name in self.platform.cell_names},
        )
        bursting = None if phase is None or later is None else jnp.stack([phase, later])
        return RoutingState(plant, network, deadline, gap, mean_gap, jnp.zeros((), jnp.int32), bursting, clock)

    def _draw_cells(self, key: Array, name: str, params: RoutingParams) -> CellState:
        """Weights left by an earlier owner: a random set that fits, of random staleness, on a chip of random age."""
        count = len(self.stream.networks)
        draws = jax.random.uniform(jax.random.fold_in(key, self.platform.names.index(name)), (2 * count + 1,))
        memory = self.offers.memory[:, self.platform.names.index(name)]
        hazard = jnp.log(self.platform.hazard_budget) - params.staleness * draws[count : 2 * count]
        cells = CellState(jnp.ones(count), memory, 10 * draws[:count], LogTotal.start(hazard), Wear.zero(0.5 * draws[-1]))
        return settle(cells)


def _check_levels(platform: Platform, levels: Sequence[float] | str | None) -> tuple[float, ...]:
    """Discrete levels, fastest first; (1.0,) where the clock is not chosen or is continuous."""
    if levels is None:
        return (1.0,)
    if not platform.clocks:
        raise ValueError("levels need a platform with clock domains (Platform.clocks, see costmodel.load_clock)")
    if isinstance(levels, str):
        if levels != "continuous":
            raise ValueError(f"levels = {levels!r} must be numbers in (0, 1] or 'continuous'")
        return (1.0,)
    found = tuple(sorted((float(level) for level in levels), reverse=True))
    if not found or len(set(found)) != len(found) or not all(0 < level <= 1 for level in found):
        raise ValueError(f"levels = {tuple(levels)} must be different numbers in (0, 1]")
    return found
