"""What a scheduler looks at: attributions to the entries of an observation, maps of its decisions, gaps between its values.

Explained is how much better one target is than another, g(x) = Q(x, target) - Q(x, other): the sign of g is the decision.

    gradient x input        (x_i - b_i) dg/dx_i at x: what the slope at this observation says
    integrated gradients    (x_i - b_i) times the mean of dg/dx_i on the straight line from a baseline b to x

The second adds up to g(x) - g(b), completely; the first only where g is linear between the two. A baseline is what "nothing
unusual" means, best the mean observation of training. The mean is taken by the midpoint rule; a network of rectified
linear units has a slope made of steps, so its error falls as 1 / points, and `residual` says what is left of it.
Source: Sundararajan et al., "Axiomatic attribution for deep networks", ICML 2017.

An attribution explains the agent and not the world: entries that always change together share their merit arbitrarily.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from physics import LogTotal
from rl.agents.config import check_integer, refuse
from rl.decisions.controller import Controller, Request, asked, network_number, no_memory, target_names
from rl.decisions.ranges import ask
from rl.envs.routing import RoutingState, SchedulingEnv

if TYPE_CHECKING:
    import xarray

POINTS = 256  # of the midpoint rule
LOADS = {"rate": ("1/s", "mean rate of requests"), "queue": ("s", "work queued on every processor")}
NEUTRAL_GAP, NEUTRAL_DEADLINE = 0.3, 0.1  # s, about the middle of the default stream's ranges on a logarithmic scale
NEUTRAL_RESERVE = 4.0  # ln(hazard budget / lost fraction), the middle of what episodes begin with


class Attributions(NamedTuple):
    """Why `target` and not `against`; arrays (F,), one entry per entry of the observation."""

    target: Int[Array, ""]
    against: Int[Array, ""]
    gap: Float[Array, ""]  # Q(target) - Q(against) at the observation, in units of the reward
    baseline_gap: Float[Array, ""]  # the same at the baseline
    gradient: Float[Array, " F"]  # of the gap
    gradient_input: Float[Array, " F"]
    integrated: Float[Array, " F"]

    @property
    def residual(self) -> Float[Array, ""]:
        """What the integrated gradients miss of gap - baseline_gap: the error of the quadrature."""
        return self.gap - self.baseline_gap - jnp.sum(self.integrated)


def attributions(
    agent: Any,
    observation: Float[Array, " F"],
    baseline: Float[Array, " F"] | None = None,
    *,
    target: int | None = None,
    against: int | None = None,
    points: int = POINTS,
) -> Attributions:
    """Attribution of the lead of one target over another to every entry of ONE observation.

    `baseline` (default: zeros) is best `ObservationRange.mean`; `target` the agent's choice by default, `against` the
    best other one. Traceable. ValueError for a single target, two equal ones, or one out of range.
    """
    check_integer("points", points)
    policy, values = ask(agent)
    start = jnp.zeros_like(observation) if baseline is None else jnp.asarray(baseline, observation.dtype)
    found = values(observation)
    if len(found) < 2 or (target is not None and target == against):
        refuse("against", against, f"another target than {target}, of at least two")
    chosen = policy(observation) if target is None else checked("target", target, len(found))
    other = runner_up(found, chosen) if against is None else checked("against", against, len(found))
    return _attributions(values, observation, start, chosen, other, points)


def checked(name: str, target: int, count: int) -> Int[Array, ""]:
    """A target's number as an array; ValueError if there is no such target."""
    check_integer(name, target, least=0)
    if target >= count:
        refuse(name, target, f"below {count}")
    return jnp.asarray(target, jnp.int32)


def runner_up(values: Float[Array, " A"], chosen: Int[Array, ""]) -> Int[Array, ""]:
    """The best of the other actions."""
    return jnp.argmax(jnp.where(jnp.arange(values.shape[0]) == chosen, -jnp.inf, values)).astype(jnp.int32)


def _attributions(values: Any, observation: Array, start: Array, target: Array, against: Array, points: int) -> Attributions:
    def gap(x: Float[Array, " F"]) -> Float[Array, ""]:
        found = values(x)
        return found[target] - found[against]

    def slope_at(share: Float[Array, ""]) -> Float[Array, " F"]:
        return jax.grad(gap)(start + share * (observation - start))

    middles = (jnp.arange(points, dtype=observation.dtype) + 0.5) / points
    mean_slope = jnp.mean(jax.vmap(slope_at)(middles), axis=0)
    away, slope = observation - start, jax.grad(gap)(observation)
    return Attributions(target, against, gap(observation), gap(start), slope, away * slope, away * mean_slope)


class ValueGaps(NamedTuple):
    """Over many observations: what the agent takes, and how much better its value is than the best other one; (N,)."""

    target: Int[Array, " N"]
    gap: Float[Array, " N"]  # in units of the reward; negative where an actor and its critics disagree


def value_gaps(agent: Any, observations: Float[Array, "N F"]) -> ValueGaps:
    """The margin of every decision; jitted."""
    policy, values = ask(agent)

    def of(observation: Float[Array, " F"]) -> ValueGaps:
        found, chosen = values(observation), policy(observation)
        return ValueGaps(chosen, found[chosen] - found[runner_up(found, chosen)])

    return jax.jit(jax.vmap(of))(observations)


def reference_state(
    env: SchedulingEnv,
    network: str | int,
    *,
    deadline: float = NEUTRAL_DEADLINE,
    mean_gap: float = NEUTRAL_GAP,
    reserve: float = NEUTRAL_RESERVE,
    resident: bool = True,
) -> RoutingState:
    """A request for `network` on an idle platform at 45 C, its weights alone on every chip, or none.

    `reserve` is ln(hazard budget / lost fraction) of all weights; `deadline` and `mean_gap` in s.
    """
    names, number = env.stream.networks, network_number(env, network)
    template = env.reset(jax.random.key(0))[1]
    platform = env.platform.initial_state(workloads=len(names))
    hazard = LogTotal.start(jnp.full(len(names), jnp.log(env.platform.hazard_budget) - reserve))
    mine = jnp.where(jnp.arange(len(names)) == number, float(resident), 0.0)
    memory = {name: env.offers.memory[:, env.platform.names.index(name)] for name in platform.cells}
    cells = {name: chip._replace(resident=mine, memory=memory[name], lost=hazard) for name, chip in platform.cells.items()}
    return asked(template, platform._replace(cells=cells), Request(number, deadline, mean_gap))


def decision_map(
    controller: Controller,
    network: str | int,
    temperatures: Sequence[float],
    loads: Sequence[float],
    *,
    load: str = "rate",
    state: RoutingState | None = None,
) -> "xarray.Dataset":
    """Where `controller`, without memory, sends `network`, over the temperature of the package (K) and the load.

    The load is the mean rate of requests (1/s), or with "queue" the work queued on every processor (s), all of them
    awake. Everything else is as in `state` (default: `reference_state`). Variables over (temperature, load): `target`
    (position in the coordinate `option`), `gap` of the scores to the best other target, `retention_margin` of the target,
    `fallback`, `migrated`; `values` and `rewards` of every option. ValueError for an axis that is no range of such numbers.
    """
    import xarray

    env = controller.env
    state = reference_state(env, network) if state is None else state
    if load not in LOADS:
        refuse("load", load, f"one of {', '.join(LOADS)}")
    axes = checked_axis("temperatures", temperatures, True), checked_axis("loads", loads, load == "rate")
    kind = state.deadline.dtype
    over = jax.vmap(jax.vmap(lambda t, value: at(controller, changed(state, load, t, value)), (None, 0)), (0, None))
    found = jax.tree.map(np.asarray, jax.jit(over)(*(jnp.asarray(axis, kind) for axis in axes)))
    plane = ("temperature", "load")
    return xarray.Dataset(
        {name: ((*plane, "option") if array.ndim == 3 else plane, array) for name, array in found.items()},
        {
            "temperature": ("temperature", axes[0], {"units": "K"}),
            "load": ("load", axes[1], dict(zip(("units", "long_name"), LOADS[load], strict=True))),
            "option": ("option", list(target_names(env))),
        },
        {"network": env.stream.networks[int(state.network)], "deadline": float(state.deadline)},
    )


def checked_axis(name: str, values: Sequence[float], positive: bool) -> np.ndarray:
    """An axis of a map; ValueError unless it is a sequence of finite numbers, not negative, or `positive`."""
    axis = np.asarray(values, float)
    if axis.ndim != 1 or not len(axis) or not np.isfinite(axis).all() or (axis < 0).any() or (positive and (axis == 0).any()):
        refuse(name, axis.tolist(), f"a sequence of finite numbers {'above' if positive else 'of at least'} 0")
    return axis


def changed(state: RoutingState, load: str, temperature: Float[Array, ""], value: Float[Array, ""]) -> RoutingState:
    """`state` at one temperature (K, of the hottest junction) and load."""
    platform = state.platform
    platform = platform._replace(ambient=temperature - jnp.max(platform.theta[: len(platform.backlog)]))
    if load == "rate":
        return state._replace(platform=platform, gap=1 / value, mean_gap=1 / value)
    backlog = jnp.full_like(platform.backlog, value)
    return state._replace(platform=platform._replace(backlog=backlog, idle=jnp.zeros_like(backlog)))


def at(controller: Controller, state: RoutingState) -> dict[str, Array]:
    """The decision in one state."""
    verdict, _ = controller.function(no_memory(controller.env), state)
    scores = jnp.where(verdict.fallback, verdict.rewards, verdict.values)
    return {
        "target": verdict.target,
        "gap": scores[verdict.target] - scores[runner_up(scores, verdict.target)],
        "values": verdict.values,
        "rewards": verdict.rewards,
        "retention_margin": verdict.outcomes.retention_margin[verdict.target],
        "fallback": verdict.fallback,
        "migrated": verdict.target != verdict.kept,
    }
