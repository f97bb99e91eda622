"""Exact steps of a linear thermal network in its natural modes.

    C d theta / dt = -G theta + P            theta: temperature rise above ambient (K), P: power (W)

With shapes B of the modes, z = B^T C theta and q = B^T P, every mode relaxes alone, dz/dt = q - w z, and a step with
constant power is exact for any length: no stability limit, no solver tolerance. Everything is written as an increment,
theta + B (...), so that a short step makes a small error in float32.

Gradients. B is held constant: `Modes` is the network written in one fixed basis, in which a change of the network's
parameters appears as a change of its `generator` L = B^-1 C^-1 G B. Functions of L are differentiated by divided
differences (`responses.py`). So gradients through `network.modes().step(...)` are right with respect to the network's
parameters too, also at repeated rates; and when `Modes` is computed once outside a loop, a step costs three small
matrix-vector products and N exponentials. Second derivatives in the network's own parameters are refused.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from physics.thermal.responses import apply, respond, respond_sequence
from physics.types import Scalar

LOG_CURVATURE = 0.309  # largest |d2 exp(-e^u) / du2|, at e^u = (3 + sqrt 5) / 2


class Bounded(eqx.Module):
    """A value known up to an error: the true one lies in [value, value + error]."""

    value: Float[Array, " nodes"]
    error: Float[Array, " nodes"]


class Modes(eqx.Module):
    """A thermal network in modal form; made by `ThermalNetwork.modes()`. N nodes and N modes."""

    rates: Float[Array, " nodes"]  # w, 1/s, ascending
    shapes: Float[Array, "nodes nodes"]  # theta = shapes @ z
    projection: Float[Array, "nodes nodes"]  # z = projection @ theta
    inputs: Float[Array, "nodes nodes"]  # q = inputs @ power
    generator: Float[Array, "nodes nodes"]  # L; diag(rates), carries derivatives

    @property
    def time_constants(self) -> Float[Array, " nodes"]:
        """1 / rates (s), slowest first."""
        return 1 / self.rates

    def step(self, theta: Float[Array, " nodes"], power: Float[Array, " nodes"], dt: Scalar) -> Float[Array, " nodes"]:
        """Temperature rise (K) after `dt` (s) of constant `power` (W); exact. dt >= 0, finite."""
        return theta + self.increment(theta, power, dt)

    def increment(self, theta: Float[Array, " nodes"], power: Float[Array, " nodes"], dt: Scalar) -> Float[Array, " nodes"]:
        """Change of the temperature rise (K) over `dt` (s).

        Many steps much shorter than the package's time constants are summed best in a `CompensatedSum`: in float32
        a change below 6e-8 of the temperature itself is lost in a plain addition.
        """
        return self._response(1, theta, power, dt)

    def mean(self, theta: Float[Array, " nodes"], power: Float[Array, " nodes"], dt: Scalar) -> Float[Array, " nodes"]:
        """Time average of the temperature rise (K) inside the step; exact."""
        return theta + self._response(2, theta, power, dt)

    def maximum(self, theta: Float[Array, " nodes"], power: Float[Array, " nodes"], dt: Scalar, samples: int = 32) -> Bounded:
        """Largest temperature rise (K) of each node inside the step, ends included, and a bound of the error.

        Sampled at both ends and at instants spaced evenly in ln t from a tenth of the fastest time constant to dt;
        exact where the node's temperature is monotone. Between samples a sum of exponentials sum_k a_k exp(-w_k t) exceeds
        its chord by at most `error` = c sum_k |a_k|, c = max(0.1^2, 0.309 spacing^2) / 8. Non-smooth where two
        samples tie. The error bound is not differentiated.
        """
        dt = jnp.asarray(dt, theta.dtype)
        first = jnp.minimum(0.1 / self.rates[-1], jnp.maximum(dt, jnp.finfo(theta.dtype).tiny))
        spacing = lax.stop_gradient(jnp.log(jnp.maximum(dt / first, 1.0))) / (samples - 1)
        fractions = jnp.exp(-spacing * jnp.arange(samples, dtype=theta.dtype))
        inside = jax.vmap(lambda fraction: self.increment(theta, power, fraction * dt))(fractions)
        value = theta + jnp.maximum(jnp.max(inside, axis=0), 0.0)
        amplitude = apply(jnp.abs(self.shapes), jnp.abs(apply(self.projection, theta) - apply(self.inputs, power) / self.rates))
        return Bounded(value, lax.stop_gradient(jnp.maximum(0.01, LOG_CURVATURE * spacing**2) / 8 * amplitude))

    def rollout(
        self, theta: Float[Array, " nodes"], power: Float[Array, "steps nodes"], dt: Scalar, *, parallel: bool = False
    ) -> Float[Array, "steps nodes"]:
        """Temperature rise (K) after each of many equal steps `dt` (s), `power` (W) constant inside each.

        `parallel=True` uses an associative scan over time (logarithmic depth) instead of a loop; same result.
        """
        dt = jnp.asarray(dt, theta.dtype)
        state, drives = apply(self.projection, theta), apply(power, self.inputs.T)
        if parallel:
            states = respond_sequence(self.rates, self.generator, state, drives, dt)
        else:
            states = lax.scan(lambda z, q: self._advance(z, q, dt), state, drives)[1]
        return apply(states, self.shapes.T)

    def _advance(self, state: Array, drive: Array, dt: Array) -> tuple[Array, Array]:
        after = state + respond(1, self.rates, self.generator, state, drive, dt)
        return after, after

    @partial(jax.jit, static_argnums=1, inline=True)
    def _response(self, order: int, theta: Array, power: Array, dt: Scalar) -> Array:
        state, drive = apply(self.projection, theta), apply(self.inputs, power)
        return apply(self.shapes, respond(order, self.rates, self.generator, state, drive, jnp.asarray(dt, state.dtype)))
