"""Value iteration for a finite decision process whose task arrives after the state is known.

    V(s) = sum_n p_n mean_d max_a { R(s, n, d, a) + gamma sum_k w_k(s, n, a) V(i_k(s, n, a)) }

s: node, n: kind of task, d: its deadline (equally probable quadrature nodes), a: action, k: successor nodes. The task is
not part of the state: it is drawn anew for every step, so the table has one entry for each node only.

The operator T on the right is a gamma-contraction in the maximum norm. From the residual of the last sweep,
e = max |T V - V|, follows the certificate |T V - V*| <= gamma e / (1 - gamma), for this finite process. With gamma = 1 and
h sweeps from zero, V_h is the exact optimum of the next h tasks (backward induction).
Sources: Bellman 1957; Puterman, Markov Decision Processes, 1994, section 6.3.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class DecisionProcess(NamedTuple):
    """A finite process; nodes on the last axis (S), W kinds of tasks, A actions, D deadlines, K successors.

    `weight` sums to 1 over K.
    """

    reward: Float[Array, "D W A S"]
    successor: Int[Array, "K W A S"]
    weight: Float[Array, "K W A S"]
    chance: Float[Array, " W"]  # of each kind of task


class Solution(NamedTuple):
    """The result of value iteration."""

    value: Float[Array, " S"]
    sweeps: Int[Array, ""]
    residual: Float[Array, ""]  # of the last sweep, maximum norm
    error: Float[Array, ""]  # certificate: |value - V*| is at most this


def expected_value(process: DecisionProcess, value: Float[Array, " S"]) -> Float[Array, "W A S"]:
    """Mean value of the successors, of every task and action."""
    total = jnp.zeros(process.weight.shape[1:], value.dtype)
    for k in range(process.weight.shape[0]):  # one gather each: several times faster than one gather of all and a sum
        total += process.weight[k] * value.at[process.successor[k]].get(mode="promise_in_bounds")
    return total


def action_values(
    process: DecisionProcess, value: Float[Array, " S"], gamma: Float[Array, ""] | float
) -> Float[Array, "D W A S"]:
    """Reward plus discounted value of the successors."""
    return process.reward + gamma * expected_value(process, value)


def sweep(process: DecisionProcess, value: Float[Array, " S"], gamma: Float[Array, ""] | float) -> Float[Array, " S"]:
    """One application of the Bellman operator; kinks where the best action changes."""
    best = jnp.mean(jnp.max(action_values(process, value, gamma), axis=2), axis=0)
    return jnp.sum(process.chance[:, None] * best, axis=0)


@partial(jax.jit, static_argnames="most_sweeps")
def iterate_values(
    process: DecisionProcess,
    gamma: Float[Array, ""] | float,
    tolerance: Float[Array, ""] | float = 1e-4,
    most_sweeps: int = 10_000,
    start: Float[Array, " S"] | None = None,
) -> Solution:
    """Sweeps until the certified error is at most `tolerance` (the unit of rewards), or `most_sweeps` are done."""
    first = jnp.zeros(process.reward.shape[-1], process.reward.dtype) if start is None else start
    factor = gamma / (1 - gamma)

    def body(carry: Solution) -> Solution:
        value = sweep(process, carry.value, gamma)
        residual = jnp.max(jnp.abs(value - carry.value))
        return Solution(value, carry.sweeps + 1, residual, factor * residual)

    far = jnp.asarray(jnp.inf, first.dtype)
    begin = Solution(first, jnp.zeros((), jnp.int32), far, far)
    return jax.lax.while_loop(lambda c: (c.error > tolerance) & (c.sweeps < most_sweeps), body, begin)


@partial(jax.jit, static_argnames="kept")
def induce_backward(process: DecisionProcess, kept: tuple[int, ...]) -> Float[Array, "kept S"]:
    """Optimal undiscounted return of the next h tasks for every h in `kept` (rising, from 0 on)."""
    zero = jnp.zeros(process.reward.shape[-1], process.reward.dtype)

    def section(value: Array, ends: Array) -> tuple[Array, Array]:
        value = jax.lax.fori_loop(ends[0], ends[1], lambda _, v: sweep(process, v, 1.0), value)
        return value, value

    return jax.lax.scan(section, zero, jnp.stack([jnp.array((0, *kept[:-1])), jnp.array(kept)], axis=1))[1]
