"""The optimum of the routing problem: what scheduling is worth when the model of the platform is known.

Within an episode ambient temperature and mean gap are constant. For a set of such contexts the problem is discretised on a
`RoutingGrid`: rewards and successors of every node, network, action and gap come from `SchedulingEnv.outcome`, which is
`costmodel.step`; successors between nodes become mixtures of nodes. Deadlines (log-uniform) and gaps (exponential) are
integrated over equally probable strata, the gap after the decision: no reference here knows when the next task arrives,
agents do not either.

    horizon   backward induction over the tasks of an episode: the best possible score of the discretised problem
    gamma     value iteration of the discounted problem without an end, with its certificate

The policy looks one task ahead with the true state in the continuous environment and reads the value of what follows off the
tables. Its score is one that can be reached; the values are estimates of the best one, with a grid error that refinement
shows (`extrapolate`). Wear that ends a chip's life within the episode is left out.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from costmodel import Outcome
from rl.envs.routing import RoutingParams, RoutingState, SchedulingEnv
from rl.references.grids import Context, GridNodes, RoutingGrid
from rl.references.interpolation import Mixture, mix, position
from rl.references.rules import Policy
from rl.references.value_iteration import DecisionProcess, induce_backward, iterate_values
from workloads import TaskStream

KEPT = 16  # horizons kept of a backward induction, closer together near the end


def gap_nodes(count: int) -> Float[Array, " count"]:
    """Means of the `count` equally probable strata of the exponential distribution of mean 1."""
    edges = -np.log1p(-np.arange(count) / count)
    above = np.append((edges + 1) * np.exp(-edges), 0.0)  # integral of x exp(-x) from each edge on
    return jnp.asarray(-count * np.diff(above), float)


def deadline_nodes(stream: TaskStream, count: int) -> Float[Array, "networks count"]:
    """Medians (s) of the `count` equally probable strata of every network's deadline."""
    share = (jnp.arange(count) + 0.5) / count
    return stream.deadline_lo[:, None] * (stream.deadline_hi / stream.deadline_lo)[:, None] ** share


def discretise(grid: RoutingGrid, params: RoutingParams, context: Context) -> DecisionProcess:
    """The finite decision process of one context (scalars): `costmodel.step` at every node, network, action and gap."""
    env, count = grid.env, grid.nodes.gaps
    lives, gaps = grid.life_nodes(context.ambient), gap_nodes(count) * context.mean_gap
    deadlines = deadline_nodes(env.stream, grid.nodes.deadlines)

    def row(state: RoutingState, network: Array, action: Array) -> tuple[Array, Array, Array]:
        def after(gap: Array) -> tuple[Mixture, Outcome]:
            plant, outcome = env.outcome(state._replace(network=network, gap=gap, deadline=jnp.ones(())), action)
            return grid.locate(plant, lives), outcome

        mixture, outcomes = jax.vmap(after)(gaps)
        mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), outcomes)
        rewards = jax.vmap(lambda deadline: _reward_by(env, params, state, mean, deadline))(deadlines[network])
        return rewards, mixture.node.reshape(-1), mixture.weight.reshape(-1) / count

    by_state = jax.vmap(row, (0, None, None), -1)
    by_action = jax.vmap(by_state, (None, None, 0), -2)
    by_network = jax.vmap(by_action, (None, 0, None), -3)
    table = by_network(grid.states(context), jnp.arange(grid.networks), jnp.arange(env.num_actions))
    return DecisionProcess(*table, env.stream.weights / jnp.sum(env.stream.weights))


def _reward_by(env: SchedulingEnv, params: RoutingParams, state: RoutingState, outcome: Outcome, deadline: Array) -> Array:
    """The reward had the task been due by `deadline`: nothing but being late depends on it."""
    late = outcome._replace(missed=jnp.where(outcome.latency > deadline, 1.0, 0.0))
    return env.reward(state._replace(deadline=deadline), late, params)


@dataclasses.dataclass(frozen=True, eq=False)
class RoutingOptimum:
    """Optimal values at the nodes of every context, for the horizons in `horizons` (one entry, 0, where gamma < 1)."""

    grid: RoutingGrid
    params: RoutingParams
    values: Float[Array, "horizons ambients gaps nodes"]
    horizons: tuple[int, ...]
    gamma: float
    error: Float[Array, "ambients gaps"]  # certificate of the discretised problem; 0 of a backward induction

    def value(self, state: RoutingState, horizon: Float[Array, ""] | float | None = None) -> Float[Array, ""]:
        """Optimal return from a state whose task is not known yet, over the next `horizon` tasks (default: an episode)."""
        horizon = self.params.max_steps if horizon is None else horizon
        context = self.grid.context_of(state)
        nodes = self.grid.nodes
        places = [
            (position(jnp.asarray(horizon, float), jnp.array(self.horizons, float)), len(self.horizons)),
            (position(context.ambient, jnp.array(nodes.ambient)), len(nodes.ambient)),
            (position(jnp.log(context.mean_gap), jnp.log(jnp.array(nodes.mean_gap))), len(nodes.mean_gap)),
        ]
        return self._between(state, places)

    def _between(self, state: RoutingState, places: list[tuple[Array, int]]) -> Array:
        """Multilinear in horizon and context; within a context as a mixture of its own nodes."""
        corners = [_neighbours(coordinate, size) for coordinate, size in places]
        total = jnp.zeros(())
        for ambient, ambient_weight in corners[1]:
            lives = self.grid.life_nodes(jnp.array(self.grid.nodes.ambient)[ambient])
            nodes = self.grid.locate(state.platform, lives)
            for horizon, horizon_weight in corners[0]:
                for gap, gap_weight in corners[2]:
                    there = jnp.sum(nodes.weight * self.values[horizon, ambient, gap, nodes.node])
                    total += horizon_weight * ambient_weight * gap_weight * there
        return total

    def action_values(self, state: RoutingState) -> Float[Array, " actions"]:
        """Return of every action for the waiting task and of optimal decisions after it; blind to the task's own gap."""
        env = self.grid.env
        left = jnp.asarray(self.params.max_steps - state.time - 1, float)

        def after(action: Array, gap: Array) -> Array:
            plant, outcome = env.outcome(state._replace(gap=gap), action)
            reward = env.reward(state, outcome, self.params)
            return reward + self.gamma * self.value(state._replace(platform=plant), left)

        gaps = gap_nodes(self.grid.nodes.gaps) * state.mean_gap
        return jax.vmap(lambda action: jnp.mean(jax.vmap(lambda gap: after(action, gap))(gaps)))(jnp.arange(env.num_actions))

    def policy(self) -> Policy:
        """The best action by `action_values`, to be played with `rl.evaluate` beside agents and rules."""
        return lambda key, observation, state: jnp.argmax(self.action_values(state))


def _neighbours(coordinate: Array, size: int) -> list[tuple[Array, Array]]:
    """The nodes below and above a coordinate, with their weights."""
    both = mix(coordinate[None], jnp.array([size]), jnp.array([1]), jnp.array(0)) if size > 1 else None
    return [(jnp.array(0), jnp.ones(()))] if both is None else [(both.node[k], both.weight[k]) for k in range(2)]


def solve_routing(
    env: SchedulingEnv,
    params: RoutingParams | None = None,
    nodes: GridNodes | None = None,
    *,
    gamma: float = 1.0,
    tolerance: float = 1e-2,
    tracked: tuple[str, ...] | None = None,
) -> RoutingOptimum:
    """The optimum of `env` on a grid: of episodes of `params.max_steps` tasks, or of the discounted problem if gamma < 1.

    `tolerance` (the unit of rewards) is the certified error at which discounted sweeps end. `tracked` names the networks
    whose life on the chip is followed, default `worth_keeping`. ValueError for a gamma or tolerance out of range, and
    for what a `RoutingGrid` cannot hold.
    """
    for name, number, most in (("gamma", gamma, 1.0), ("tolerance", tolerance, float("inf"))):
        if not 0 < number <= most:
            raise ValueError(f"{name} = {number:g} is outside its range (0, {most:g}]")
    params = env.default_params if params is None else params
    grid = RoutingGrid(env, nodes, worth_keeping(env, params) if tracked is None else tracked)
    horizons = kept_horizons(int(params.max_steps)) if gamma == 1 else (0,)
    solve = jax.jit(partial(_solve_context, grid, params, horizons, gamma, tolerance))
    rows = [[solve(Context(*map(jnp.asarray, at))) for at in [(a, g) for g in grid.nodes.mean_gap]] for a in grid.nodes.ambient]
    values = jnp.stack([jnp.stack([value for value, _ in row], axis=1) for row in rows], axis=1)
    return RoutingOptimum(grid, params, values, horizons, gamma, jnp.array([[error for _, error in row] for row in rows]))


def _solve_context(
    grid: RoutingGrid, params: RoutingParams, horizons: tuple[int, ...], gamma: float, tolerance: float, context: Context
) -> tuple[Array, Array]:
    process = discretise(grid, params, context)
    if gamma == 1:
        return induce_backward(process, horizons), jnp.zeros(())
    solution = iterate_values(process, gamma, tolerance)
    return solution.value[None], solution.error


def kept_horizons(longest: int) -> tuple[int, ...]:
    """About 16 horizons from 0 to `longest` tasks, between which values are interpolated; evenly in the square root."""
    return tuple(sorted({round(longest * (k / KEPT) ** 2) for k in range(KEPT + 1)}))


def worth_keeping(env: SchedulingEnv, params: RoutingParams | None = None) -> tuple[str, ...]:
    """Networks whose weights earn more in an episode on the chip than writing them costs, at medium ambient and load.

    The rest may lie on the chip, but hardly anybody would write them: their life need not be followed.
    """
    params = env.default_params if params is None else params
    if not env.platform.cell_names:
        return ()
    grid = RoutingGrid(env, GridNodes(life=4))
    context = Context(jnp.asarray((params.ambient_lo + params.ambient_hi) / 2), jnp.sqrt(env.stream.gap_lo * env.stream.gap_hi))
    chip, chances = env.platform.names.index(env.platform.cell_names[0]), env.stream.weights / jnp.sum(env.stream.weights)

    rewards = jax.jit(jax.vmap(partial(_mean_rewards, grid, params, context)))(*_alone_on_chip(grid))
    kept, absent = np.asarray(rewards)[: grid.networks], np.asarray(rewards)[grid.networks :]
    others = np.delete(absent, chip, axis=1).max(axis=1, initial=-np.inf)
    gain = np.maximum(kept.max(axis=1) - others, 0.0) * np.asarray(chances) * int(params.max_steps)
    return tuple(name for n, name in enumerate(env.stream.networks) if gain[n] > kept[n, chip] - absent[n, chip])


def _alone_on_chip(grid: RoutingGrid) -> tuple[Array, Array]:
    """Nodes of an idle platform, and networks: each network alone and fresh on the chip, then each with an empty chip."""
    idle = np.all(grid.digits[:, 1 : 1 + len(grid.queued)] == 0, axis=1)
    orders = [grid.orders.index((n,) if (n,) in grid.orders else ()) for n in range(grid.networks)] + [0] * grid.networks
    nodes = [np.flatnonzero(idle & (grid.order_of == order))[-1] for order in orders]  # the last: asleep, and fresh
    return jnp.array(nodes), jnp.tile(jnp.arange(grid.networks), 2)


def _mean_rewards(grid: RoutingGrid, params: RoutingParams, context: Context, node: Array, network: Array) -> Array:
    """Immediate reward of every action for one network at one node, mean over deadlines."""
    env = grid.env
    state = grid.state(context, node)._replace(network=network, gap=context.mean_gap)

    def reward(action: Array) -> Array:
        outcome = env.outcome(state._replace(deadline=jnp.ones(())), action)[1]
        deadlines = deadline_nodes(env.stream, grid.nodes.deadlines)[network]
        return jnp.mean(jax.vmap(lambda deadline: _reward_by(env, params, state, outcome, deadline))(deadlines))

    return jax.vmap(reward)(jnp.arange(env.num_actions))


class Refinement(NamedTuple):
    """Two solutions of one problem, compared; means over the starts of episodes."""

    coarse: float
    fine: float
    estimate: float  # of the value on an infinitely fine grid
    error: float  # |fine - estimate|


def starts(env: SchedulingEnv, key: PRNGKeyArray, episodes: int, params: RoutingParams | None = None) -> RoutingState:
    """First states (episodes, ...) of the episodes that `rl.evaluate` plays with `key`."""
    return jax.jit(jax.vmap(lambda k: env.reset(jax.random.split(k)[0], params)[1]))(jax.random.split(key, episodes))


def predicted_scores(optimum: RoutingOptimum, states: RoutingState) -> Float[Array, " episodes"]:
    """Optimal value at the starts of episodes, by interpolation: what the grid says an optimal policy scores."""
    return jax.jit(jax.vmap(optimum.value))(states)


def extrapolate(coarse: RoutingOptimum, fine: RoutingOptimum, states: RoutingState, ratio: float = 2.0) -> Refinement:
    """Richardson's estimate from two grids whose spacings differ by `ratio` (> 1), of an error that falls like the spacing.

    First order, because the value has kinks. ValueError for a ratio that is not above 1.
    """
    if not ratio > 1:
        raise ValueError(f"ratio = {ratio:g} must be above 1")
    low, high = (float(jnp.mean(predicted_scores(optimum, states))) for optimum in (coarse, fine))
    estimate = high + (high - low) / (ratio - 1)
    return Refinement(low, high, estimate, abs(high - estimate))
