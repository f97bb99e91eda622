"""Leakage that grows with temperature: electro-thermal equilibrium, and how far it is from running away.

    G theta = P + P_leak(T_ambient + theta),      P_leak,i = A_i density exp(slope (T_i - T_ref))

The equilibrium is stable while G - diag(dP_leak/dT) is positive definite; its smallest eigenvalue (W/K) is the margin to
runaway and reaches zero at the fold, beyond which there is no equilibrium at all. For one node of resistance R
T = T_0 - W(-slope R P_leak(T_0)) / slope with T_0 = T_a + R P and Lambert's W; it exists up to
slope R P_leak(T_0) = 1/e, where T = T_0 + 1/slope.

Newton's iteration from the temperatures without leakage rises monotonically to the lower, stable equilibrium whenever there
is one (the leakage is convex and the matrix an M-matrix: Ortega and Rheinboldt, 1970, theorem 13.3.4). Runaway is a
flag of the result; temperatures then are those of leakage held at 1000 K, cut off there. Transients use the
exponential trapezoidal rule (Cox and Matthews, J. Comput. Phys. 176, 2002, ETD2RK): exact but for the change of
leakage inside a step. Valid below 1000 K; the law is a fit around its reference temperature.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from physics.params import ParameterTree, param
from physics.thermal.factorisations import cholesky, cholesky_solve, eigenvectors, solve
from physics.thermal.networks import ThermalNetwork, heat_flow
from physics.types import Result, Scalar, Value

HOTTEST = 1000.0  # K; nothing is claimed above
LARGEST_EXPONENT = 50.0  # what follows stays finite in float32, far beyond runaway
MAX_ITERATIONS = 60  # Newton halves its error per iteration at the fold and squares it elsewhere


class Leakage(ParameterTree):
    """Leakage power per area, exponential in temperature; held above 1000 K."""

    density: Float[Array, ""] = param(
        1.5e4, unit="W/m2", lo=0.0, hi=1e8, source="HotSpot 7, default leakage model of the block solver, at 383.15 K"
    )
    slope: Float[Array, ""] = param(
        0.036, unit="1/K", lo=0.0, hi=0.2, source="HotSpot 7, default leakage model of the block solver"
    )
    temperature_ref: Float[Array, ""] = param(383.15, unit="K", lo=200.0, hi=700.0, source="HotSpot 7, default leakage model")

    def power(self, temperature: Value, area: Value) -> Result:
        """Leakage (W) of `area` (m2) at `temperature` (K); constant, with zero slope, above 1000 K and e^50 times the density."""
        return area * self.density * jnp.exp(self._exponent(temperature))

    def power_slope(self, temperature: Value, area: Value) -> Result:
        """d power / dT (W/K); 0 where the power is held."""
        free = (temperature < HOTTEST) & (self._exponent(temperature) < LARGEST_EXPONENT)
        return jnp.where(free, self.slope * self.power(temperature, area), 0.0)

    def _exponent(self, temperature: Value) -> Result:
        return jnp.minimum(self.slope * (jnp.minimum(temperature, HOTTEST) - self.temperature_ref), LARGEST_EXPONENT)


class LeakyState(NamedTuple):
    """An equilibrium. Where `runaway` is true there is none below 1000 K: temperatures are cut off, derivatives zero."""

    theta: Float[Array, " nodes"]  # K above ambient
    leakage: Float[Array, " nodes"]  # W
    margin: Float[Array, ""]  # W/K, smallest eigenvalue of G - diag(dP_leak/dT); negative or zero at runaway
    runaway: Bool[Array, ""]


class LeakyNetwork(ParameterTree):
    """A network whose nodes leak: `area` (m2) is the leaking area of every node, zero outside the die."""

    network: ThermalNetwork
    leakage: Leakage
    area: Float[Array, " nodes"] = param(unit="m2", lo=0.0, hi=10.0, source="model input: leaking area of each node")
    ambient: Float[Array, ""] = param(318.15, unit="K", lo=150.0, hi=500.0, source="HotSpot, example1 configuration")

    def __check_init__(self) -> None:
        super().__check_init__()
        nodes = len(self.network.names)
        if self.area.shape != (nodes,):
            raise ValueError(f"LeakyNetwork.area has shape {self.area.shape}, expected ({nodes},), one per node")

    @partial(jax.jit, inline=True)
    def steady(self, power: Float[Array, " nodes"]) -> LeakyState:
        """The stable equilibrium under `power` (W, without leakage); derivatives are implicit, in everything."""
        found, runaway = lax.stop_gradient(self)._newton(lax.stop_gradient(power))
        alive = jnp.where(runaway, 0.0, 1.0)

        def excess(theta: Array) -> Array:
            return heat_flow(self.network, theta) - power - alive * self.leakage_power(theta)

        start = jnp.where(runaway, self.network.steady(power), found)
        theta = lax.custom_root(excess, lax.stop_gradient(start), lambda _, guess: guess, _solve_dense)
        cut = lax.stop_gradient(self._cut_off(power))
        theta = jnp.where(runaway, cut, theta)
        margin = self._margin(theta)
        return LeakyState(theta, self.leakage_power(theta), jnp.where(runaway, jnp.minimum(margin, 0.0), margin), runaway)

    @partial(jax.jit, static_argnames="substeps", inline=True)
    def rollout(
        self, theta: Float[Array, " nodes"], power: Float[Array, "steps nodes"], dt: Scalar, substeps: int = 1
    ) -> Float[Array, "steps nodes"]:
        """Temperature rise (K) after each of many equal intervals `dt` (s), `power` (W, without leakage) constant inside each.

        Each is divided into `substeps`; the error falls with the square of their length over the time in which leakage
        changes. Finite always: above 1000 K leakage grows no further.
        """
        modes = self.network.modes()
        small = jnp.asarray(dt, theta.dtype) / substeps
        still = jnp.zeros_like(theta)

        def substep(now: Array, drive: Array) -> Array:
            leak = self.leakage_power(now)
            guess = modes.step(now, drive + leak, small)
            return guess + modes.mean(still, self.leakage_power(guess) - leak, small)

        def interval(now: Array, drive: Array) -> tuple[Array, Array]:
            after = lax.scan(lambda t, _: (substep(t, drive), None), now, length=substeps)[0]
            return after, after

        return lax.scan(interval, theta, power)[1]

    def leakage_power(self, theta: Float[Array, " nodes"]) -> Float[Array, " nodes"]:
        """Leakage (W) of every node at a rise of `theta` (K)."""
        return self.leakage.power(self.ambient + theta, self.area)

    def _slope(self, theta: Array) -> Array:
        """dP_leak/dT (W/K) of every node."""
        return self.leakage.power_slope(self.ambient + theta, self.area)

    def _newton(self, power: Array) -> tuple[Array, Array]:
        """Temperature rise (K) at equilibrium, and whether there is none."""
        matrix = self.network.matrix()
        tolerance = 8 * jnp.finfo(power.dtype).eps

        def iterate(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            theta, _, _, count = carry
            factor = cholesky(matrix - jnp.diag(self._slope(theta)))
            excess = heat_flow(self.network, theta) - power - self.leakage_power(theta)
            move = cholesky_solve(factor, -excess)
            after = theta + move
            lost = ~jnp.all(jnp.isfinite(after)) | (jnp.max(after) + self.ambient >= HOTTEST)
            return jnp.where(lost, theta, after), lost, jnp.max(jnp.abs(move)) / jnp.max(jnp.abs(after)), count + 1

        def unfinished(carry: tuple[Array, Array, Array, Array]) -> Array:
            _, lost, change, count = carry
            return ~lost & (change > tolerance) & (count < MAX_ITERATIONS)

        start = self.network.steady(power)
        first = (start, jnp.max(start) + self.ambient >= HOTTEST, jnp.ones((), power.dtype), jnp.zeros((), jnp.int32))
        theta, lost, _, _ = lax.while_loop(unfinished, iterate, first)
        return theta, lost

    def _cut_off(self, power: Array) -> Array:
        """Finite temperatures for a case without equilibrium: leakage as at 1000 K, nothing hotter than that."""
        hottest = jnp.full_like(power, HOTTEST) - self.ambient
        return jnp.minimum(self.network.steady(power + self.leakage_power(hottest)), hottest)

    def _margin(self, theta: Array) -> Array:
        """Smallest eigenvalue (W/K) as the energy of its vector, summed over links: accurate in float32, differentiable."""
        slope = self._slope(theta)
        vector = eigenvectors(lax.stop_gradient(self.network.matrix() - jnp.diag(slope)))[:, 0]
        return jnp.sum(vector * heat_flow(self.network, vector)) - jnp.sum(slope * vector**2)


def _solve_dense(operator: Callable[[Array], Array], right: Array) -> Array:
    """The tangent at an equilibrium; the operator, conductances less slopes of leakage, is symmetric."""
    matrix = lax.stop_gradient(jax.vmap(operator)(jnp.eye(right.shape[0], dtype=right.dtype)))
    return lax.custom_linear_solve(operator, right, lambda _, b: solve(matrix, b), symmetric=True)
