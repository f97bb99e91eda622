"""Natural modes of a thermal network, accurate in float32 too.

    G b_k = w_k C b_k,   B^T C B = I,   B^T G B = diag(w)

C is the diagonal of heat capacities, G the conductance matrix, w_k the rate (1/s) and b_k the shape of mode k.
Rates of one package span six decades, and a plain eigenvalue solver loses the slow ones in float32: their absolute
error is that of the fastest. Here G is never formed where it matters: it is used as a sum of squares over links,

    b^T G b = sum_links g_ij (b_i - b_j)^2 + sum_i g_ambient,i b_i^2,

and a plain decomposition is polished by one-sided Jacobi rotations on those square roots, which gives every rate to
almost full *relative* precision; the triangle of a QR decomposition stands for the square roots, because its errors are
relative to each column too. Sources: Hestenes (1958); Demmel and Veselic, SIAM J. Matrix Anal. Appl. 13 (1992).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from physics.thermal.factorisations import eigenvectors, triangle

MAX_SWEEPS = 15


class Spectrum(NamedTuple):
    """Rates in ascending order and the mass-normalised shapes, one mode per column."""

    rates: Float[Array, " nodes"]  # 1/s
    shapes: Float[Array, "nodes nodes"]  # (K/J)^(1/2)


@partial(jax.jit, static_argnames="links")
def spectrum(
    capacitance: Float[Array, " nodes"],
    conductance: Float[Array, " links"],
    ambient_conductance: Float[Array, " nodes"],
    links: tuple[tuple[int, int], ...],
) -> Spectrum:
    """Modes of the network with heat capacities (J/K), link and ambient conductances (W/K).

    Held constant under differentiation: eigenvectors of repeated rates have no derivative. See `modal.py` for the
    functions of the network that do.
    """
    held = lax.stop_gradient((capacitance, conductance, ambient_conductance))
    root = jnp.sqrt(held[0])
    start = _plain_basis(*held, links)

    def strain(basis: Array) -> Array:
        """Square root of the energy form: rows are links and ambient paths, columns are modes."""
        shapes = basis / root[:, None]
        first, second = _endpoints(links)
        across = jnp.sqrt(held[1])[:, None] * (shapes[first] - shapes[second])
        return jnp.concatenate([across, jnp.sqrt(held[2])[:, None] * shapes])

    basis = _orthonormalise(start)
    basis = _orthonormalise(_rotate_until_diagonal(basis, triangle(strain(basis))))
    rates = jnp.sum(jnp.square(strain(basis)), axis=0)
    order = jnp.argsort(rates)
    return Spectrum(rates[order], (basis / root[:, None])[:, order])


def conductance_matrix(
    conductance: Float[Array, " links"], ambient_conductance: Float[Array, " nodes"], links: tuple[tuple[int, int], ...]
) -> Float[Array, "nodes nodes"]:
    """G (W/K): symmetric, off-diagonal -g_ij, row sums equal to the conductance to ambient."""
    first, second = _endpoints(links)
    matrix = jnp.diag(ambient_conductance)
    matrix = matrix.at[first, first].add(conductance).at[second, second].add(conductance)
    return matrix.at[first, second].add(-conductance).at[second, first].add(-conductance)


def _endpoints(links: tuple[tuple[int, int], ...]) -> np.ndarray:
    return np.asarray(links, dtype=np.int32).reshape(-1, 2).T


def _plain_basis(capacitance: Array, conductance: Array, ambient_conductance: Array, links: tuple[tuple[int, int], ...]) -> Array:
    scale = 1 / jnp.sqrt(capacitance)
    symmetric = scale[:, None] * conductance_matrix(conductance, ambient_conductance, links) * scale[None, :]
    return eigenvectors(symmetric)


def _orthonormalise(basis: Array) -> Array:
    """One Newton-Schulz step: removes rounding from an almost orthonormal basis without disturbing its small entries."""
    overlap = jnp.matmul(basis.T, basis, precision=lax.Precision.HIGHEST) - jnp.eye(basis.shape[0], dtype=basis.dtype)
    return basis - jnp.matmul(basis, overlap, precision=lax.Precision.HIGHEST) / 2


def _rotate_until_diagonal(basis: Array, strain: Array) -> Array:
    """One-sided Jacobi: rotate pairs of columns until those of `strain` are orthogonal to working precision."""
    size = basis.shape[0]
    if size < 2:
        return basis
    schedule = jnp.asarray(_round_robin(size))
    tolerance = 4 * float(jnp.finfo(basis.dtype).eps)
    last = 0.1 * tolerance**0.5  # convergence is quadratic: overlaps below this are gone after the sweep that met them

    def stage(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        columns, worst = carry  # one per row, so that a pair lies together in memory
        i, j = schedule[k, :, 0], schedule[k, :, 1]
        a, b = columns[i], columns[j]
        cosine, sine, overlap = _rotation(a[:, size:], b[:, size:], tolerance)
        columns = columns.at[i].set(cosine * a - sine * b, unique_indices=True)
        columns = columns.at[j].set(sine * a + cosine * b, unique_indices=True)
        return columns, jnp.maximum(worst, jnp.max(overlap))

    def sweep(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        columns, _, count = carry
        columns, worst = lax.fori_loop(0, schedule.shape[0], stage, (columns, jnp.zeros((), basis.dtype)))
        return columns, worst, count + 1

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        return (carry[1] > last) & (carry[2] < MAX_SWEEPS)

    columns = jnp.concatenate([basis.T, strain.T], axis=1)
    columns, _, _ = lax.while_loop(unfinished, sweep, (columns, jnp.ones((), basis.dtype), jnp.zeros((), jnp.int32)))
    return columns[:, :size].T


def _rotation(a: Array, b: Array, tolerance: float) -> tuple[Array, Array, Array]:
    """Cosine, sine (pairs, 1) and present overlap of the rotations that make each row of `a` orthogonal to that of `b`."""
    aa, bb, ab = jnp.sum(a * a, axis=1), jnp.sum(b * b, axis=1), jnp.sum(a * b, axis=1)
    overlap = jnp.abs(ab) / jnp.maximum(jnp.sqrt(aa) * jnp.sqrt(bb), jnp.finfo(a.dtype).tiny)
    small = overlap <= tolerance
    zeta = (bb - aa) / jnp.where(small, 1.0, 2 * ab)
    tangent = jnp.where(zeta >= 0, 1.0, -1.0) / (jnp.abs(zeta) + jnp.sqrt(1 + zeta * zeta))
    tangent = jnp.where(small, 0.0, tangent)
    cosine = 1 / jnp.sqrt(1 + tangent * tangent)
    return cosine[:, None], (tangent * cosine)[:, None], overlap


def _round_robin(size: int) -> np.ndarray:
    """Pairings of a tournament: (stages, pairs, 2), every pair of columns exactly once, disjoint inside a stage."""
    players = list(range(size)) + ([-1] if size % 2 else [])
    stages = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        stages.append([(min(p), max(p)) for p in zip(players[:half], players[: half - 1 : -1], strict=True) if min(p) >= 0])
        players = [players[0], players[-1], *players[1:-1]]
    return np.asarray(stages, dtype=np.int32).reshape(len(stages), size // 2, 2)
