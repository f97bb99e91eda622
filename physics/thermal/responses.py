"""Response of decoupled modes to a constant drive, with the derivative of a matrix function.

A network in a fixed basis obeys dz/dt = drive - L z, where L = diag(w) at the present parameters. Over a time t

    z(t) = z(0) + t phi_1(t L) (drive - L z(0)),       phi_1(x) = (1 - exp(-x)) / x,
    mean = z(0) + t phi_2(t L) (drive - L z(0)),       phi_2(x) = (x - 1 + exp(-x)) / x^2,

exactly. The value needs the diagonal only. The derivative with respect to L must count that a change of parameters
also couples the modes: for f(L) with L diagonal,

    d f(L)_ij = f[w_i, w_j] dL_ij,      f[a, b] = (f(a) - f(b)) / (a - b),  f[a, a] = f'(a)

(Daleckii and Krein 1965; Higham, Functions of Matrices, 2008, theorem 3.11). It is finite and right where
eigenvectors are not differentiable, that is at repeated rates. `generator` carries dL; its value is not used.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
FACTORIALS = np.cumprod([1.0, *range(1, 20)])
TERMS = 16


def phi(order: int, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """phi_1 or phi_2 at x >= 0 to working precision; phi_1(0) = 1, phi_2(0) = 1/2."""
    near, far = jnp.where(x < 1.0, x, 0.0), jnp.where(x < 1.0, 1.0, x)
    series = jnp.zeros_like(x)
    for n in reversed(range(TERMS)):
        series = 1 / FACTORIALS[n + order] - near * series
    closed = -jnp.expm1(-far) / far
    closed = closed if order == 1 else (1 - closed) / far
    return jnp.where(x < 1.0, series, closed)


def phi_slope(order: int, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Derivative of phi_1 or phi_2 at x >= 0 to working precision."""
    near, far = jnp.where(x < 1.0, x, 0.0), jnp.where(x < 1.0, 1.0, x)
    series = jnp.zeros_like(x)
    for n in reversed(range(1, TERMS)):
        series = -n / FACTORIALS[n + order] - near * series
    decay = jnp.exp(-far)
    closed = (far * decay + jnp.expm1(-far)) / far**2
    closed = closed if order == 1 else -(far - 2 + decay * (far + 2)) / far**3
    return jnp.where(x < 1.0, series, closed)


def divided_difference(order: int, a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """(phi(a) - phi(b)) / (a - b), at equal arguments the slope; close arguments use the mean slope between them."""
    low, gap = jnp.minimum(a, b), jnp.abs(a - b)
    close = gap < jnp.maximum(1.0, low / 2)
    narrow = jnp.where(close, gap, 0.0)
    inside = low[..., None] + narrow[..., None] * ((NODES + 1) / 2).astype(low.dtype)
    mean_slope = jnp.sum(phi_slope(order, inside) * (WEIGHTS / 2).astype(low.dtype), axis=-1)
    return jnp.where(close, mean_slope, (phi(order, low + gap) - phi(order, low)) / jnp.where(close, 1.0, gap))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def respond(
    order: int,
    rates: Float[Array, " nodes"],
    generator: Float[Array, "nodes nodes"],
    state: Float[Array, " nodes"],
    drive: Float[Array, " nodes"],
    dt: Float[Array, ""],
) -> Float[Array, " nodes"]:
    """dt phi_order(dt L) (drive - L state): the change of the state over dt (order 1), or of its mean (order 2).

    Differentiable in all but `rates`: any order in state, drive and dt; once in `generator` (NotImplementedError beyond).
    """
    del generator
    return dt * phi(order, rates * dt) * (drive - rates * state)


@respond.defjvp
def _respond_jvp(order: int, primals: Any, tangents: Any) -> tuple[Any, Any]:
    rates, generator, state, drive, dt = primals
    _, d_generator, d_state, d_drive, d_dt = tangents
    out = respond(order, rates, generator, state, drive, dt)
    linear = respond(order, rates, generator, d_state, d_drive, dt)
    rates = first_order_only(rates, generator)
    fast = drive - rates * state
    x = rates * dt
    coupling = dt * dt * divided_difference(order, *jnp.broadcast_arrays(x[:, None], x[None, :])) * d_generator
    coupled = apply(coupling, fast) - dt * phi(order, x) * apply(d_generator, state)
    later = (jnp.exp(-x) if order == 1 else phi(2, x) + x * phi_slope(2, x)) * fast * d_dt
    return out, linear + coupled + later


@jax.custom_jvp
def respond_sequence(
    rates: Float[Array, " nodes"],
    generator: Float[Array, "nodes nodes"],
    state: Float[Array, " nodes"],
    drives: Float[Array, "steps nodes"],
    dt: Float[Array, ""],
) -> Float[Array, "steps nodes"]:
    """States after each of many equal steps, computed in parallel over time; differentiable like `respond`."""
    del generator
    x = rates * dt
    return _recurrence(x, state, dt * phi(1, x) * drives)


@respond_sequence.defjvp
def _respond_sequence_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    rates, generator, state, drives, dt = primals
    _, d_generator, d_state, d_drives, d_dt = tangents
    out = respond_sequence(rates, generator, state, drives, dt)
    rates = first_order_only(rates, generator)
    x = rates * dt
    before = jnp.concatenate([state[None], out[:-1]])
    fast = drives - rates * before
    coupling = dt * dt * divided_difference(1, *jnp.broadcast_arrays(x[:, None], x[None, :])) * d_generator
    coupled = apply(fast, coupling.T) - dt * phi(1, x) * apply(before, d_generator.T)
    kick = dt * phi(1, x) * d_drives + coupled + jnp.exp(-x) * fast * d_dt
    return out, _recurrence(x, d_state, kick)


def _recurrence(x: Array, state: Array, kicks: Array) -> Array:
    """All states of s <- exp(-x) s + kick, by an associative scan that adds exponents instead of multiplying decays."""

    def join(early: tuple[Array, Array], late: tuple[Array, Array]) -> tuple[Array, Array]:
        return early[0] + late[0], early[1] * jnp.exp(-late[0]) + late[1]

    total, kicked = lax.associative_scan(join, (jnp.broadcast_to(x, kicks.shape), kicks))
    return jnp.exp(-total) * state + kicked


def apply(matrix: Array, vector: Array) -> Array:
    """Matrix product in full precision on every backend (accelerators round float32 inputs by default)."""
    return jnp.matmul(matrix, vector, precision=lax.Precision.HIGHEST)


@jax.custom_jvp
def first_order_only(rates: Float[Array, " nodes"], generator: Float[Array, "nodes nodes"]) -> Float[Array, " nodes"]:
    """`rates`; refuses to be differentiated with respect to `generator`, where it would be silently incomplete."""
    del generator
    return rates


def _refuse_second_order(primals: Any, tangents: Any) -> tuple[Any, Any]:
    if not isinstance(tangents[1], SymbolicZero):
        raise NotImplementedError(
            "second derivatives with respect to a thermal network's own parameters are not available; "
            "use TwoNode (closed form), or differentiate a gradient numerically"
        )
    return primals[0], jnp.zeros_like(primals[0])


first_order_only.defjvp(_refuse_second_order, symbolic_zeros=True)
