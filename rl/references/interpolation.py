"""Between the nodes of a lattice: a point as a mixture of the corners of its simplex.

Kuhn's triangulation divides every cell of a lattice with d axes into d! simplices. Starting from the lowest corner the
coordinates are raised to the next node one by one, the largest fraction first; the d + 1 corners met carry the weights
1 - f_1, f_1 - f_2, ..., f_d of the sorted fractions f. Not negative, sum 1, exact for linear functions: read as
probabilities they make a discretised problem a Markov decision process of its own. Multilinear weights would need 2^d.
Sources: Kuhn, IBM J. Res. Dev. 4, 1960; Munos and Moore, Machine Learning 49, 2002.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Mixture(NamedTuple):
    """A point as a convex mixture of lattice nodes."""

    node: Int[Array, "*batch corners"]
    weight: Float[Array, "*batch corners"]


def position(value: Float[Array, "..."], nodes: Float[Array, "... nodes"]) -> Float[Array, "..."]:
    """Coordinate of `value` on rising `nodes`: 0 at the first and below, n - 1 at the last and above, linear between."""
    if nodes.shape[-1] == 1:
        return jnp.zeros_like(value)
    return jnp.sum(jnp.clip((value[..., None] - nodes[..., :-1]) / jnp.diff(nodes), 0.0, 1.0), axis=-1)


def mix(
    coordinates: Float[Array, " axes"], sizes: Int[Array, " axes"], strides: Int[Array, " axes"], offset: Int[Array, ""]
) -> Mixture:
    """Corners and weights of one point; coordinates in [0, size - 1], sizes of at least 2, node = offset + digits . strides.

    An axis of stride 0 is ignored: all its nodes are one.
    """
    low = jnp.clip(jnp.floor(coordinates), 0, sizes - 2)
    part = jnp.clip(coordinates - low, 0.0, 1.0)
    axis = jnp.arange(part.shape[0])
    larger, first = part[:, None] > part[None, :], axis[:, None] < axis[None, :]
    rank = jnp.sum(larger | ((part[:, None] == part[None, :]) & first), axis=0)
    falling = jnp.sum(jnp.where(rank[None, :] == axis[:, None], part[None, :], 0.0), axis=1)
    weight = -jnp.diff(falling, prepend=1.0, append=0.0)
    raised = rank[None, :] < jnp.arange(part.shape[0] + 1)[:, None]
    lowest = offset + jnp.sum(low.astype(strides.dtype) * strides)
    return Mixture(lowest + jnp.sum(jnp.where(raised, strides, 0), axis=1, dtype=strides.dtype), weight)
