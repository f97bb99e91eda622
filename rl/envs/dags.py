"""Scheduling a task graph on different processors; gymnax 1.0 semantics.

An episode is one problem of a stack, drawn evenly: a graph with its durations on every processor. A decision puts one of the
ready tasks on a processor (`dag_simulator.py` has the rules, planning and live), until all are placed:

    reward = (estimate before - estimate after) / bound

where `estimate` is the makespan as it must at least be, and `bound` the problem's lower bound. Rewards add up to
(first estimate - makespan) / bound: the loss against the bound, each part of it at the decision that caused it.

Live, durations may be noisy: d' = max(d exp(spread N) + max(sigma N', floor), d / 10), where N, N' are standard normal; the
second part with `sigma` above 0 for the GPUs only is READYS's noise. Transitions are not differentiated: stop_gradient.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rl.envs.dag_features import (
    CONTEXT_FEATURES,
    PAIR_FEATURES,
    PROCESSOR_FEATURES,
    TASK_FEATURES,
    GraphObservation,
    observe,
)
from rl.envs.dag_problems import Outlook, SchedulingProblem, outlook, stack_problems
from rl.envs.dag_simulator import (
    Heat,
    Placement,
    decide,
    estimate_makespan,
    is_done,
    make_offers,
    makespan,
    start_placement,
)
from rl.envs.spaces import Discrete


class GraphParams(NamedTuple):
    """Noise of the durations (live only); numbers, or one for each processor."""

    sigma: Any = 0.0  # s, of the added normal
    floor: Any = -2.0  # s, the least that is added
    spread: Any = 0.0  # of the logarithm


class GraphState(NamedTuple):
    """A placement with the problem it belongs to, and what the observation of it showed."""

    problem: Int[Array, ""]  # number in the stack
    placement: Placement
    durations: Float[Array, "tasks processors"]  # s, as they will turn out
    estimate: Float[Array, ""]  # s
    shown: Int[Array, " window"]  # the tasks of the observation's rows
    legal: Bool[Array, "window processors"]
    time: Int[Array, ""]  # decisions taken


class GraphSchedulingEnv:
    """The environment of a stack of problems, padded to one size.

    Action a is the pair of row a // processors of the observation and processor a % processors. An action that is not legal is
    taken as the first that is (live: as a wait where none is). ValueError for heat without `live`, or a window below 1.
    """

    def __init__(
        self,
        problems: SchedulingProblem | Sequence[SchedulingProblem],
        *,
        live: bool = False,
        heat: Heat | None = None,
        window: int = 12,
    ) -> None:
        if heat is not None and not live:
            raise ValueError("heat needs live=True: a plan is made before time passes")
        if window < 1:
            raise ValueError(f"window = {window} tasks must be at least 1")
        stacked = problems if isinstance(problems, SchedulingProblem) else stack_problems(problems)
        self.problems = jax.tree.map(lambda x: x[None], stacked) if stacked.mask.ndim == 1 else stacked
        if heat is not None and heat.active.shape != self.problems.latency.shape[-1:]:
            raise ValueError(f"heat is of {heat.active.size} processors, the problems of {self.problems.latency.shape[-1]}")
        self.live, self.heat, self.window = live, heat, min(window, self.problems.mask.shape[-1])
        self.outlooks: Outlook = jax.jit(jax.vmap(outlook))(self.problems)
        self.default_params = GraphParams()

    @property
    def name(self) -> str:
        """Name of the environment."""
        return "tempo-task-graphs"

    @property
    def num_actions(self) -> int:
        """Rows of the observation times processors."""
        return self.window * self.problems.latency.shape[-1]

    @property
    def max_steps(self) -> int:
        """Most decisions of an episode: one for each task and, live, one wait for each finish."""
        return self.problems.mask.shape[-1] * (2 if self.live else 1)

    @property
    def observation_names(self) -> dict[str, tuple[str, ...]]:
        """What the last axis of each part of the observation is."""
        return {
            "tasks": TASK_FEATURES,
            "processors": PROCESSOR_FEATURES,
            "pairs": PAIR_FEATURES,
            "context": CONTEXT_FEATURES,
        }

    def action_space(self, params: GraphParams | None = None) -> Discrete:
        """Pairs of a row and a processor."""
        return Discrete(self.num_actions)

    def reset(self, key: Array, params: GraphParams | None = None) -> tuple[GraphObservation, GraphState]:
        """A fresh episode: (observation, state)."""
        key_problem, key_noise = jax.random.split(key)
        number = jax.random.randint(key_problem, (), 0, self.problems.mask.shape[0], dtype=jnp.int32)
        durations = self._of(number)[0].durations
        if self.live:
            durations = draw_durations(key_noise, durations, self.default_params if params is None else params)
        placement = start_placement(self._of(number)[0], self.heat)
        return self._seen(number, placement, durations, jnp.zeros((), jnp.int32))

    def step(
        self, key: Array, state: GraphState, action: Int[Array, ""], params: GraphParams | None = None
    ) -> tuple[GraphObservation, GraphState, Float[Array, ""], Array, Array, dict[str, Any]]:
        """Decide once: (observation, state, reward, terminated, truncated, info), with auto-reset after the last task.

        `info` has the `makespan` so far (s), whether the action was `legal`, and `final_observation`, the ended episode's.
        """
        problem, ahead = self._of(state.problem)
        width = state.legal.shape[1]
        legal = state.legal.reshape(-1)
        taken = jnp.where(legal[action], action, jnp.argmax(legal))
        placement = self._decide(problem, state, state.shown[taken // width], taken % width)
        final, ended = self._seen(state.problem, placement, state.durations, state.time + 1)
        terminated = is_done(problem, placement)
        first, fresh = self.reset(key, params)
        observation, after = jax.tree.map(lambda a, b: jnp.where(terminated, a, b), (first, fresh), (final, ended))
        reward = (state.estimate - ended.estimate) / ahead.bound
        truncated = jnp.zeros((), bool)
        info = {"terminated": terminated, "truncated": truncated, "final_observation": final}
        info |= {"makespan": makespan(placement), "legal": legal[action]}
        return jax.lax.stop_gradient((observation, after, reward, terminated, truncated, info))

    def _decide(self, problem: SchedulingProblem, state: GraphState, task: Array, processor: Array) -> Placement:
        return decide(problem, state.placement, task, processor, state.durations, live=self.live, heat=self.heat)

    def _of(self, number: Array) -> tuple[SchedulingProblem, Outlook]:
        return jax.tree.map(lambda x: x[number], (self.problems, self.outlooks))

    def _seen(self, number: Array, placement: Placement, durations: Array, time: Array) -> tuple[GraphObservation, GraphState]:
        problem, ahead = self._of(number)
        observation, estimate = look(problem, ahead, placement, self.window, live=self.live, heat=self.heat)
        return observation, GraphState(number, placement, durations, estimate, observation.task, observation.legal, time)


def look(
    problem: SchedulingProblem,
    ahead: Outlook,
    placement: Placement,
    window: int,
    *,
    live: bool = False,
    heat: Heat | None = None,
) -> tuple[GraphObservation, Float[Array, ""]]:
    """Observation of a placement and the estimate of its makespan (s)."""
    offers = make_offers(problem, placement, live=live, heat=heat)
    estimate = estimate_makespan(problem, ahead, placement, offers, live=live)
    return observe(problem, ahead, placement, offers, estimate, window, heat), estimate


def draw_durations(
    key: Array, durations: Float[Array, "tasks processors"], noise: GraphParams
) -> Float[Array, "tasks processors"]:
    """Durations (s) as they may turn out; see the module."""
    key_added, key_spread = jax.random.split(key)
    added = jnp.maximum(noise.sigma * jax.random.normal(key_added, durations.shape, durations.dtype), noise.floor)
    factor = jnp.exp(noise.spread * jax.random.normal(key_spread, durations.shape, durations.dtype))
    return jnp.maximum(durations * factor + added, durations / 10)
