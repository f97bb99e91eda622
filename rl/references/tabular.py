"""The discretised routing problem as an environment of its own; gymnax 1.0 semantics.

One context of a `RoutingGrid`: nodes instead of platforms, successors drawn with the interpolation weights, deadlines and
gaps from their strata. Its optimum is known exactly (`value_iteration` on `process`), so an agent trained here is compared
with the optimum itself and not with an estimate. Observations are those of `SchedulingEnv` at the node.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rl.envs.routing import RoutingParams
from rl.envs.spaces import Box, Discrete
from rl.references.grids import Context, RoutingGrid
from rl.references.interpolation import Mixture
from rl.references.optimal import deadline_nodes, discretise
from rl.references.value_iteration import DecisionProcess, action_values

TabularPolicy = Any  # (key, observation, state) -> action


class GridState(NamedTuple):
    """A node with the task that waits for a decision."""

    node: Int[Array, ""]
    network: Int[Array, ""]
    deadline: Int[Array, ""]  # number of the stratum
    time: Int[Array, ""]  # tasks decided in this episode


class GridRoutingEnv:
    """The environment of one grid in one context; rewards are fixed by `params`, which also hold the length of episodes."""

    def __init__(self, grid: RoutingGrid, context: Context, params: RoutingParams | None = None) -> None:
        self.grid, self.context = grid, context
        self.default_params = grid.env.default_params if params is None else params
        self.process: DecisionProcess = jax.jit(lambda at: discretise(grid, self.default_params, at))(context)
        self._lives = grid.life_nodes(context.ambient)
        self._deadlines = deadline_nodes(grid.env.stream, grid.nodes.deadlines)

    @property
    def name(self) -> str:
        """Name of the environment."""
        return "tempo-routing-grid"

    @property
    def num_actions(self) -> int:
        """Number of processors."""
        return self.grid.env.num_actions

    def action_space(self, params: RoutingParams | None = None) -> Discrete:
        """One action per processor."""
        return Discrete(self.num_actions)

    def observation_space(self, params: RoutingParams | None = None) -> Box:
        """That of the continuous environment."""
        return self.grid.env.observation_space()

    def reset(self, key: Array, params: RoutingParams | None = None) -> tuple[Float[Array, " entries"], GridState]:
        """A fresh episode, drawn as in the continuous environment and moved to a node: (observation, state)."""
        key_plant, key_node, key_task = jax.random.split(key, 3)
        start = self.grid.env.reset(key_plant, self.default_params)[1].platform
        node = _draw_node(key_node, self.grid.locate(start._replace(ambient=self.context.ambient), self._lives))
        state = GridState(node, *self._draw_task(key_task), jnp.zeros((), jnp.int32))
        return self.observe(state), state

    def step(
        self, key: Array, state: GridState, action: Int[Array, ""], params: RoutingParams | None = None
    ) -> tuple[Float[Array, " entries"], GridState, Float[Array, ""], Bool[Array, ""], Bool[Array, ""], dict[str, Any]]:
        """Decide one task: (observation, state, reward, terminated, truncated, info), with auto-reset."""
        key_node, key_task, key_reset = jax.random.split(key, 3)
        most = (self.default_params if params is None else params).max_steps
        at = (slice(None), state.network, action, state.node)
        node = _draw_node(key_node, Mixture(self.process.successor[at], self.process.weight[at]))
        reward = self.process.reward[state.deadline, state.network, action, state.node]
        ended = GridState(node, *self._draw_task(key_task), state.time + 1)
        terminated, truncated = jnp.zeros((), bool), ended.time >= most
        final, fresh = self.observe(ended), self.reset(key_reset)
        observation, after = jax.tree.map(lambda a, b: jnp.where(truncated, a, b), fresh, (final, ended))
        info = {"terminated": terminated, "truncated": truncated, "final_observation": final}
        return observation, after, reward, terminated, truncated, info

    def observe(self, state: GridState) -> Float[Array, " entries"]:
        """The observation of the continuous environment at this node, with this task."""
        deadline = self._deadlines[state.network, state.deadline]
        full = self.grid.state(self.context, state.node)._replace(network=state.network, deadline=deadline)
        return self.grid.env.observe(full)

    def greedy(self, value: Float[Array, " nodes"], gamma: float = 1.0) -> TabularPolicy:
        """The policy that is best if `value` is what nodes are worth, as a function of (key, observation, state)."""
        best = jnp.argmax(action_values(self.process, value, gamma), axis=2)
        return lambda key, observation, state: best[state.deadline, state.network, state.node]

    def _draw_task(self, key: Array) -> tuple[Int[Array, ""], Int[Array, ""]]:
        key_network, key_deadline = jax.random.split(key)
        network = jax.random.categorical(key_network, jnp.log(self.process.chance))
        return network.astype(jnp.int32), jax.random.randint(key_deadline, (), 0, self.grid.nodes.deadlines, jnp.int32)


def _draw_node(key: Array, mixture: Mixture) -> Int[Array, ""]:
    return mixture.node[jax.random.categorical(key, jnp.log(mixture.weight))]
