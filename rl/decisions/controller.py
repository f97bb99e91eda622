"""A controller: one decision per request, with its reason, its margin, and what every other target would have cost.

Four rules, in this order:

1. The agent's policy decides, as long as the observation lies in the range it was trained on and its values are finite.
   Otherwise the myopic cost-greedy rule decides: the best reward of this one request.
2. Hysteresis: a network stays where it last ran unless another target is better by more than `hysteresis`.
3. Emergency migration: a target at whose result ln(hazard budget / lost fraction) would be below the limit
   `retention_margin`, or a junction above `temperature`, is left for the best target that keeps both. If none does: for the
   coolest that keeps the first; if none keeps that either, for the one with the largest retention margin.
4. What was decided is remembered for each network; that is all the state there is.

The retention margin is one of accumulated hazard. A bound on the retention time itself, such as tau < 1 ms, would never
act: calibrated HfOx cells come to it at 674 C. Costs of alternatives are those of `costmodel.step`, with the next request
expected after the mean gap, since a controller does not know when it comes. `make_decide` is the whole of it as a pure
function, for `scan`, `vmap` and export; `Controller` compiles it and puts it into words.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from costmodel import Outcome, PlatformState
from costmodel.weights import NO_CELLS
from rl.agents.config import check_integer, check_real, refuse
from rl.decisions.ranges import ObservationRange, ask, check_agent, training_range
from rl.decisions.records import COLUMNS, Context, ControlDecision, ControlLimits
from rl.envs.routing import RoutingParams, RoutingState, SchedulingEnv


class Request(NamedTuple):
    """What asks for a processor: network number `network` of the stream, `deadline` (s), mean time between requests (s)."""

    network: Int[Array, ""] | int
    deadline: Float[Array, ""] | float
    mean_gap: Float[Array, ""] | float


class Verdict(NamedTuple):
    """One decision and what it rests on. A targets, F entries of an observation."""

    target: Int[Array, ""]  # the decision
    preferred: Int[Array, ""]  # before hysteresis and limits
    kept: Int[Array, ""]  # after hysteresis, before limits
    fallback: Bool[Array, ""]  # whether rewards decided instead of the agent's values
    entry: Int[Array, ""]  # the entry farthest outside the training range; -1 if the agent's values are not finite
    observation: Float[Array, " F"]
    values: Float[Array, " A"]
    rewards: Float[Array, " A"]
    outcomes: Outcome  # arrays (A,)


Memory = Int[Array, " networks"]  # the target that each network was last sent to; -1 for none
Decide = Callable[[Memory, RoutingState], tuple[Verdict, Memory]]


def make_decide(
    env: SchedulingEnv,
    agent: Any,
    trained: ObservationRange,
    limits: ControlLimits = ControlLimits(),
    params: RoutingParams | None = None,
) -> Decide:
    """`decide(memory, state) -> (Verdict, memory)`, pure; `state.gap` is not looked at. `limits` may be traced."""
    params = env.default_params if params is None else params
    policy, values = ask(agent)

    def decide(memory: Memory, state: RoutingState) -> tuple[Verdict, Memory]:
        state = state._replace(gap=state.mean_gap)
        observation = env.observe(state)
        found, outcomes, rewards = values(observation), *every_outcome(env, state, params)
        fallback, entry = outside(trained, limits, observation, found)
        scores = jnp.where(fallback, rewards, found)
        scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
        preferred = jnp.where(fallback, jnp.argmax(scores), policy(observation)).astype(jnp.int32)
        kept = hold(limits, scores, preferred, memory[state.network])
        target = migrate(limits, scores, kept, outcomes)
        verdict = Verdict(target, preferred, kept, fallback, entry, observation, found, rewards, outcomes)
        return verdict, memory.at[state.network].set(target)

    return decide


def every_outcome(env: SchedulingEnv, state: RoutingState, params: RoutingParams) -> tuple[Outcome, Float[Array, " A"]]:
    """Outcome and reward of every action."""

    def of(action: Int[Array, ""]) -> tuple[Outcome, Float[Array, ""]]:
        _, outcome = env.outcome(state, action)
        return outcome, env.reward(state, outcome, params)

    return jax.vmap(of)(jnp.arange(env.num_actions))


def outside(
    trained: ObservationRange, limits: ControlLimits, observation: Float[Array, " F"], values: Float[Array, " A"]
) -> tuple[Bool[Array, ""], Int[Array, ""]]:
    """Whether the agent cannot be asked, and the entry that says so (-1: its values are not finite)."""
    excess = trained.excess(observation)
    beyond, finite = jnp.max(excess) > limits.slack, jnp.all(jnp.isfinite(values))
    return beyond | ~finite, jnp.where(beyond, jnp.argmax(excess), -1).astype(jnp.int32)


def hold(limits: ControlLimits, scores: Float[Array, " A"], preferred: Int[Array, ""], last: Int[Array, ""]) -> Int[Array, ""]:
    """The target after hysteresis; `last` is -1 where there is none yet."""
    gain = scores[preferred] - scores[jnp.maximum(last, 0)]
    return jnp.where((last >= 0) & (gain <= limits.hysteresis), last, preferred).astype(jnp.int32)


def migrate(limits: ControlLimits, scores: Float[Array, " A"], kept: Int[Array, ""], outcomes: Outcome) -> Int[Array, ""]:
    """The target after the limits; see the module."""
    sound = outcomes.retention_margin >= limits.retention_margin
    both = sound & (outcomes.peak_temperature <= limits.temperature)
    allowed = jnp.where(jnp.any(both), both, sound | ~jnp.any(sound))
    last_resort = jnp.where(jnp.any(sound), -outcomes.peak_temperature, outcomes.retention_margin)
    rank = jnp.where(jnp.any(both), scores, last_resort)
    rank = jnp.where(allowed & ~jnp.isnan(rank), rank, -jnp.inf)
    return jnp.where(both[kept] | jnp.all(rank == -jnp.inf), kept, jnp.argmax(rank)).astype(jnp.int32)


def no_memory(env: SchedulingEnv) -> Memory:
    """Nothing decided yet."""
    return jnp.full(len(env.stream.networks), -1, jnp.int32)


class Controller:
    """Decides request by request: `decide(state, task)` with reasons, in about the time of one call into JAX.

    `agent` is a trained agent (`TrainResult`, one seed) or any function observation -> values, taken greedily; `trained` is
    the range of its observations (default: `training_range` with key 0); `params` are the rewards that costs are weighed
    by. The only state is `memory`, the last target of each network. Raises ValueError for an agent that does not fit the
    environment or a limit out of its range.
    """

    def __init__(
        self,
        env: SchedulingEnv,
        agent: Any,
        *,
        trained: ObservationRange | None = None,
        limits: ControlLimits = ControlLimits(),
        params: RoutingParams | None = None,
    ) -> None:
        if not hasattr(env.action_space(params), "n"):
            refuse("env.action_space()", env.action_space(params), "a finite set of actions")
        entries = env.observation_names
        check_agent(agent, len(entries), env.num_actions)
        trained = training_range(env, agent, jax.random.key(0), params=params) if trained is None else trained
        trained.check(len(entries))
        self.env, self.agent, self.trained, self.params = env, agent, trained, params
        self.template = env.reset(jax.random.key(0), params)[1]
        self.limits = limits
        self.reset()
        self._run = jax.jit(self._packed)

    @property
    def limits(self) -> ControlLimits:
        """The limits; they may be changed between decisions, which compiles nothing."""
        return self._limits

    @limits.setter
    def limits(self, limits: ControlLimits) -> None:
        check_limits(limits)
        kind = self.template.deadline.dtype
        self._limits, self._limit_array = limits, jnp.asarray(limits, kind)
        as_compared, lo, hi = ControlLimits(*self._limit_array.tolist()), np.asarray(self.trained.lo), np.asarray(self.trained.hi)
        self._context = Context(target_names(self.env), self.env.observation_names, as_compared, lo, hi)

    def request(self, network: str | int, *, deadline: float, mean_gap: float) -> Request:
        """A request for `network` (name or number in the stream), times in s. ValueError for what the platform cannot take."""
        number = network_number(self.env, network)
        for name, value in (("deadline", deadline), ("mean_gap", mean_gap)):
            check_real(f"{name} (s)", value, 0.0, 1e9, open_lo=True)
        kind = self.template.deadline.dtype
        return Request(jnp.asarray(number, jnp.int32), jnp.asarray(deadline, kind), jnp.asarray(mean_gap, kind))

    def decide(self, state: PlatformState | RoutingState, task: Request | None = None) -> ControlDecision:
        """The decision on `task` for a platform in `state`; an environment's own state holds its task already."""
        packed, self.memory = self._run(self.memory, self._limit_array, state, task)
        return ControlDecision(np.asarray(packed).tolist(), self._context)

    @property
    def function(self) -> Decide:
        """`make_decide` with the present limits."""
        return make_decide(self.env, self.agent, self.trained, self.limits, self.params)

    def reset(self) -> None:
        """Forget where networks ran."""
        self.memory: Memory = no_memory(self.env)

    def _packed(self, memory: Memory, limits: Array, state: Any, task: Request | None) -> tuple[Float[Array, " numbers"], Memory]:
        """The verdict as one vector, which is one transfer; `ControlDecision` says what is where."""
        if task is not None:
            state = asked(self.template, state, task)
        verdict, memory = make_decide(self.env, self.agent, self.trained, ControlLimits(*limits), self.params)(memory, state)
        kind = verdict.observation.dtype
        outcomes = verdict.outcomes._asdict() | {"reward": verdict.rewards, "value": verdict.values}
        table = jnp.stack([outcomes[name].astype(kind) for name in COLUMNS], axis=1)
        header = jnp.stack([jnp.asarray(x, kind) for x in verdict[:5]])
        return jnp.concatenate([header, verdict.observation, table.ravel()]), memory


def asked(template: RoutingState, platform: PlatformState, request: Request) -> RoutingState:
    """The environment's state in which `request` waits on `platform`."""
    kind = template.deadline.dtype
    times = {"deadline": request.deadline, "gap": request.mean_gap, "mean_gap": request.mean_gap}
    network = jnp.asarray(request.network, template.network.dtype)
    return template._replace(platform=platform, network=network, **{name: jnp.asarray(x, kind) for name, x in times.items()})


def network_number(env: SchedulingEnv, network: str | int) -> int:
    """Position of a network, given by its name or its position, in the stream; ValueError if it is not there."""
    names = env.stream.networks
    if isinstance(network, str):
        if network not in names:
            refuse("network", network, f"one of {', '.join(names)}")
        return names.index(network)
    check_integer("network", network, least=0)
    if network >= len(names):
        refuse("network", network, f"below {len(names)}")
    return network


def target_names(env: SchedulingEnv) -> tuple[str, ...]:
    """What every action is called."""
    return tuple(env.action_names)


def check_limits(limits: ControlLimits) -> None:
    """ValueError for a limit out of its range."""
    check_real("limits.retention_margin", limits.retention_margin, -NO_CELLS, NO_CELLS)
    check_real("limits.temperature (K)", limits.temperature, 200.0, 1000.0)
    check_real("limits.hysteresis", limits.hysteresis, 0.0, float("inf"))
    check_real("limits.slack", limits.slack, 0.0, float("inf"))
