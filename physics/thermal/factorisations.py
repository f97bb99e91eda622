"""Dense factorisations that may be batched in any program.

jaxlib before 0.11.2 spreads a batched LAPACK call over the threads of XLA's CPU pool and waits for them on one of these threads:
a program that is at as many such calls as it has threads stands still for ever (two on two cores, in `ParallelBatchMap`). So on
a CPU a batch is worked off one matrix after another, as later versions do; elsewhere it is one call.

Nothing here is differentiated: callers hold the matrices constant and give derivatives by implicit rules.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float


def _one_at_a_time(plain: Callable[..., Array]) -> Callable[..., Array]:
    """`plain`, whose batches are loops on a CPU."""
    function = custom_vmap(plain)

    def rule(size: int, batched: list[bool], *args: Array) -> tuple[Array, bool]:
        moving = tuple(arg for arg, moves in zip(args, batched, strict=True) if moves)

        def call(each: Callable[..., Array], *parts: Array) -> Array:
            rest = iter(parts)
            return each(*(next(rest) if moves else arg for arg, moves in zip(args, batched, strict=True)))

        def loop(*stacks: Array) -> Array:
            return lax.map(lambda parts: call(function, *parts), stacks)

        return lax.platform_dependent(*moving, cpu=loop, default=jax.vmap(partial(call, plain))), True

    function.def_vmap(rule)
    return function


@_one_at_a_time
def eigenvectors(symmetric: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """One vector per column, eigenvalues ascending; only the lower triangle is read."""
    return jnp.linalg.eigh(symmetric, symmetrize_input=False)[1]


@_one_at_a_time
def triangle(matrix: Float[Array, "rows n"]) -> Float[Array, "k n"]:
    """R of the QR decomposition."""
    return jnp.linalg.qr(matrix, mode="r")


@_one_at_a_time
def cholesky(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The lower factor of a symmetric positive definite matrix; NaN for others."""
    return lax.linalg.cholesky(matrix, symmetrize_input=False)


@_one_at_a_time
def solve(matrix: Float[Array, "n n"], right: Float[Array, " n"]) -> Float[Array, " n"]:
    """The solution of a general system (LU with pivoting)."""
    return jnp.linalg.solve(matrix, right)


def cholesky_solve(factor: Float[Array, "n n"], right: Float[Array, " n"]) -> Float[Array, " n"]:
    """The solution of the system whose matrix has this Cholesky factor; many right sides of one system are one call."""
    return _solve_columns(factor, right[:, None])[:, 0]


def _plain_solve_columns(factor: Array, right: Array) -> Array:
    half = lax.linalg.triangular_solve(factor, right, left_side=True, lower=True)
    return lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)


_solve_each = _one_at_a_time(_plain_solve_columns)
_solve_columns = custom_vmap(_plain_solve_columns)


@_solve_columns.def_vmap
def _(size: int, batched: list[bool], factor: Array, right: Array) -> tuple[Array, bool]:
    if batched[0]:
        rights = right if batched[1] else jnp.broadcast_to(right, (size, *right.shape))
        return jax.vmap(_solve_each)(factor, rights), True
    columns = jnp.moveaxis(right, 0, 1).reshape(right.shape[1], -1)
    return jnp.moveaxis(_solve_columns(factor, columns).reshape(right.shape[1], size, -1), 1, 0), True
