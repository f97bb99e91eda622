"""Lumped thermal networks of any number of nodes.

    C d theta / dt = -G theta + P

theta: temperature rise above ambient (K); C: heat capacities (J/K); P: power into each node (W). G (W/K) is built from
links between nodes, g_ij (theta_i - theta_j), and from conductances to ambient, so it is always symmetric with
row sums equal to the conductance to ambient: heat flows from hot to cold and nothing else. Every node needs a path
to ambient. Valid while conductivities do not depend on temperature; power is constant inside a step.

All results are exact for the network: see `modal.py` for steps, `spectrum.py` for the modes.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from physics.params import ParameterTree, as_leaf, param
from physics.thermal.factorisations import cholesky, cholesky_solve
from physics.thermal.modal import Bounded, Modes
from physics.thermal.responses import apply
from physics.thermal.spectrum import conductance_matrix, spectrum
from physics.types import Scalar

Links = tuple[tuple[int, int], ...]


class EnergyBalance(eqx.Module):
    """Where the heat of one step went (J): supplied = stored + released."""

    supplied: Float[Array, ""]
    stored: Float[Array, ""]
    released: Float[Array, ""]


def _as_links(links: object) -> Links:
    return tuple((int(i), int(j)) for i, j in links)  # type: ignore[union-attr]


class ThermalNetwork(ParameterTree):
    """N nodes joined by L links.

    `links` are pairs of node indices (static), `conductance` their values (L,), `ambient_conductance` (N,) the path of each
    node to ambient (zero where there is none), `names` the nodes' names (default node0, node1, ...).
    Raises ValueError for wrong shapes or indices, values out of range, and nodes without a path to ambient.
    """

    capacitance: Float[Array, " nodes"] = param(
        unit="J/K", lo=1e-12, hi=1e9, log=True, source="model input: heat capacity of each node"
    )
    conductance: Float[Array, " links"] = param(unit="W/K", lo=0.0, hi=1e9, source="model input: conductance of each link")
    ambient_conductance: Float[Array, " nodes"] = param(
        unit="W/K", lo=0.0, hi=1e9, source="model input: conductance of each node to ambient"
    )
    links: Links = eqx.field(static=True, converter=_as_links, default=())
    names: tuple[str, ...] = eqx.field(static=True, converter=tuple, default=())

    def __post_init__(self) -> None:
        if not self.names:
            self.names = tuple(f"node{i}" for i in range(as_leaf(self.capacitance).size))

    def __check_init__(self) -> None:
        super().__check_init__()  # ranges first: the checks below rely on them
        count = len(self.names)
        wanted = {"capacitance": count, "conductance": len(self.links), "ambient_conductance": count}
        for field, size in wanted.items():
            shape = getattr(self, field).shape
            if shape != (size,):
                raise ValueError(f"ThermalNetwork.{field} has shape {shape}, expected ({size},)")
        for i, j in self.links:
            if not (0 <= i < count and 0 <= j < count and i != j):
                raise ValueError(f"ThermalNetwork.links: ({i}, {j}) does not join two of the nodes 0..{count - 1}")
        stranded = _stranded(self)
        if stranded:
            raise ValueError(f"ThermalNetwork: node {stranded[0]!r} has no path to ambient")

    def matrix(self) -> Float[Array, "nodes nodes"]:
        """G (W/K)."""
        return conductance_matrix(self.conductance, self.ambient_conductance, self.links)

    @partial(jax.jit, inline=True)
    def modes(self) -> Modes:
        """The modal form: compute it once, then step cheaply. Gradients in every parameter pass through it."""
        rates, shapes = spectrum(self.capacitance, self.conductance, self.ambient_conductance, self.links)
        held = lax.stop_gradient(self.capacitance)
        first, second = np.asarray(self.links, dtype=np.int32).reshape(-1, 2).T
        across = shapes[first] - shapes[second]
        stiffness = apply(across.T, self.conductance[:, None] * across)
        stiffness += apply(shapes.T, self.ambient_conductance[:, None] * shapes)
        added_mass = apply(shapes.T, (self.capacitance - held)[:, None] * shapes)
        return Modes(
            rates=rates,
            shapes=shapes,
            projection=shapes.T * held,
            inputs=shapes.T * (held / self.capacitance),
            generator=stiffness - added_mass * rates,
        )

    def step(self, theta: Float[Array, " nodes"], power: Float[Array, " nodes"], dt: Scalar) -> Float[Array, " nodes"]:
        """Temperature rise (K) after `dt` (s) of constant `power` (W); exact. In loops use `modes()` once."""
        return self.modes().step(theta, power, dt)

    def mean(self, theta: Float[Array, " nodes"], power: Float[Array, " nodes"], dt: Scalar) -> Float[Array, " nodes"]:
        """Time average of the temperature rise (K) inside the step; exact."""
        return self.modes().mean(theta, power, dt)

    def maximum(self, theta: Float[Array, " nodes"], power: Float[Array, " nodes"], dt: Scalar, samples: int = 32) -> Bounded:
        """Largest temperature rise (K) inside the step with an error bound; see `Modes.maximum`."""
        return self.modes().maximum(theta, power, dt, samples)

    def rollout(
        self, theta: Float[Array, " nodes"], power: Float[Array, "steps nodes"], dt: Scalar, *, parallel: bool = False
    ) -> Float[Array, "steps nodes"]:
        """Temperature rise (K) after each of many equal steps; see `Modes.rollout`."""
        return self.modes().rollout(theta, power, dt, parallel=parallel)

    @partial(jax.jit, inline=True)
    def steady(self, power: Float[Array, " nodes"]) -> Float[Array, " nodes"]:
        """Temperature rise (K) under `power` (W) for ever: G^-1 P. Cholesky, refined with residuals summed over links."""
        factor = cholesky(lax.stop_gradient(self.matrix()))

        def flow(theta: Array) -> Array:
            return heat_flow(self, theta)

        def solve(_: object, right: Array) -> Array:
            theta = cholesky_solve(factor, right)
            for _repeat in range(2):
                theta = theta + cholesky_solve(factor, right - heat_flow(lax.stop_gradient(self), theta))
            return theta

        return lax.custom_linear_solve(flow, power, solve, symmetric=True)

    def resistance(self) -> Float[Array, "nodes nodes"]:
        """G^-1 (K/W): rise of node i per watt into node j."""
        return jax.vmap(self.steady)(jnp.eye(len(self.names), dtype=self.capacitance.dtype))

    def energy(self, theta: Float[Array, " nodes"], power: Float[Array, " nodes"], dt: Scalar) -> EnergyBalance:
        """Heat (J) supplied, stored and released to ambient in one step."""
        modes = self.modes()
        return EnergyBalance(
            supplied=jnp.sum(power) * dt,
            stored=jnp.sum(self.capacitance * modes.increment(theta, power, dt)),
            released=jnp.sum(self.ambient_conductance * modes.mean(theta, power, dt)) * dt,
        )


def heat_flow(network: ThermalNetwork, theta: Float[Array, " nodes"]) -> Float[Array, " nodes"]:
    """G theta (W), the heat leaving each node, summed link by link: equal and opposite at the two ends."""
    first, second = np.asarray(network.links, dtype=np.int32).reshape(-1, 2).T
    across = network.conductance * (theta[first] - theta[second])
    return (network.ambient_conductance * theta).at[first].add(across).at[second].add(-across)


def _stranded(network: ThermalNetwork) -> list[str]:
    """Names of nodes without a path to ambient; empty when the conductances are traced and cannot be read."""
    leaves = (network.conductance, network.ambient_conductance)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return []
    conductance, ambient = (np.asarray(leaf) for leaf in leaves)
    reached = {i for i in range(len(network.names)) if ambient[i] > 0}
    open_links = [link for link, g in zip(network.links, conductance, strict=True) if g > 0]
    frontier = list(reached)
    while frontier:
        node = frontier.pop()
        for link in open_links:
            if node in link:
                other = link[0] if link[1] == node else link[1]
                if other not in reached:
                    reached.add(other)
                    frontier.append(other)
    return [name for i, name in enumerate(network.names) if i not in reached]
