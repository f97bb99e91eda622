"""Bayesian search: a Gaussian process of the score over what a genome means, and the candidate of highest expected improvement.

    k(a, b) = Matern 5/2 of r,   r^2 = |factors a - factors b|^2 / l_factors^2 + |orders a - orders b|^2 / l_orders^2

Factors (and hardware parameters) enter as logarithms, an order as the place of every loop. Scores are standardised, those far
above the rest cut off. Both lengths are taken from a grid by marginal likelihood before every call, the mean and variance are
exact, and

    improvement = s (u F(u) + f(u)),   u = (best - mean) / s,   F, f the normal distribution

is computed for `candidates` genomes, half of them drawn evenly and half near the best so far. One genome is tried per model. Work
grows with the cube of the number tried, so it ends by itself at `most`: every step costs as much as 1e4 evaluations.
Source: Jones, Schonlau and Welch, J. Global Optimization 13, 1998.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Int, PRNGKeyArray

from costmodel.studies.mapping_search.methods import Batch, repeated, tried
from costmodel.studies.mapping_search.spaces import FACTORS, PER_LAYER, SearchSpace
from costmodel.studies.mapping_search.tables import COLUMNS, place_mask

NOISE = 1e-3  # variance, of standardised scores: what float32 needs
LENGTHS = tuple((a, b) for a in (0.5, 1.0, 2.0) for b in (0.5, 1.5, 4.5))  # of the root of the number of features
HIGHEST = 2.0  # standard deviations above the mean at which scores are cut off


class _Observed(NamedTuple):
    genes: Int[Array, "most genes"]
    ranks: Float[Array, " most"]
    number: Int[Array, ""]


class _Features(NamedTuple):
    factors: Float[Array, "n a"]
    orders: Float[Array, "n b"]


@dataclasses.dataclass(frozen=True)
class Bayesian:
    """Bayesian search; `begun` genomes are drawn evenly first."""

    begun: int = 32
    candidates: int = 1024
    mutations: float = 2.0
    parents: int = 8
    most: int = 384
    rounds: int = 4

    def begin(self, space: SearchSpace, key: PRNGKeyArray) -> tuple[_Observed, Batch]:
        genes = space.draw(key, self.begun)
        score = space.scores(genes)
        room = self.most - self.begun
        state = _Observed(
            jnp.pad(genes, ((0, room), (0, 0))), jnp.pad(score.rank, (0, room), constant_values=jnp.inf), jnp.asarray(self.begun)
        )
        return state, tried(space, genes, score.value)

    def advance(self, space: SearchSpace, state: _Observed, key: PRNGKeyArray) -> tuple[_Observed, Batch]:
        lengths = self._lengths(space, state)
        return repeated(lambda old, k: self._try_one(space, old, lengths, k), state, key, self.rounds)

    def finished(self, evaluations: float) -> bool:
        return evaluations >= self.most

    def _lengths(self, space: SearchSpace, seen: _Observed) -> Array:
        """Of the grid, those that make what was seen most likely."""
        x, y, real = _features(space, seen.genes), _standardised(seen), jnp.arange(self.most) < seen.number

        def likelihood(lengths: Array) -> Array:
            factor = jnp.linalg.cholesky(_covariance(x, real, lengths))
            return -0.5 * y @ cho_solve((factor, True), y) - jnp.sum(jnp.log(jnp.diag(factor)))

        grid = jnp.asarray(LENGTHS)
        return grid[jnp.argmax(jax.lax.map(likelihood, grid))]  # one after the other: see cholesky under vmap

    def _try_one(self, space: SearchSpace, seen: _Observed, lengths: Array, key: PRNGKeyArray) -> tuple[_Observed, Batch]:
        options = self._options(space, seen, key)
        gain = self._improvement(space, seen, lengths, options)
        genes = options[jnp.argmax(gain)][None]
        score = space.scores(genes)
        state = _Observed(
            jax.lax.dynamic_update_slice_in_dim(seen.genes, genes, seen.number, 0),
            jax.lax.dynamic_update_slice_in_dim(seen.ranks, score.rank, seen.number, 0),
            seen.number + 1,
        )
        return state, tried(space, genes, score.value)

    def _options(self, space: SearchSpace, seen: _Observed, key: PRNGKeyArray) -> Array:
        half, width = self.candidates // 2, seen.genes.shape[1]
        u = jax.random.uniform(key, (half, 3 * width + 1))
        best = seen.genes[jnp.argsort(seen.ranks)[: self.parents]]
        parents = best[jnp.floor(u[:, -1] * self.parents).astype(jnp.int32)]
        moved = space.neighbours(u[:, :width], parents)
        near = jnp.where(u[:, width : 2 * width] * width < self.mutations, moved, parents)
        return jnp.concatenate([near, space.choose(u[:, 2 * width : -1])])

    def _improvement(self, space: SearchSpace, seen: _Observed, lengths: Array, options: Array) -> Array:
        """Expected, in standard deviations; none for what was tried already."""
        x, y, real = _features(space, seen.genes), _standardised(seen), jnp.arange(self.most) < seen.number
        factor = jnp.linalg.cholesky(_covariance(x, real, lengths))
        distance = _distance(_features(space, options), x, lengths)
        across = jnp.where(real, _matern(distance), 0.0)
        mean = across @ cho_solve((factor, True), y)
        spread = jnp.sqrt(jnp.maximum(1 - jnp.sum(solve_triangular(factor, across.T, lower=True) ** 2, axis=0), 1e-6))
        u = (jnp.min(jnp.where(real, y, jnp.inf)) - mean) / spread
        known = jnp.min(jnp.where(real, distance, jnp.inf), axis=1) < 1e-5
        return jnp.where(known, -1.0, spread * (u * norm.cdf(u) + norm.pdf(u)))


def _features(space: SearchSpace, genes: Int[Array, "n genes"]) -> _Features:
    """Logarithms of factors and parameters, and places of loops, both of the order of 1 per layer."""
    chosen, own = space.rows[space.kind, genes], space.layers * PER_LAYER
    layers = chosen[:, :own].reshape(-1, space.layers, PER_LAYER, COLUMNS)
    free = np.nonzero(place_mask().ravel())[0]
    factors = jnp.log(layers[:, :, :FACTORS]).reshape(genes.shape[0], space.layers, -1)[:, :, free]
    orders = layers[:, :, FACTORS:, :FACTORS] / FACTORS
    values = jnp.log(jnp.maximum(chosen[:, own:, 0], 1e-30))
    flat = [part.reshape(genes.shape[0], -1) / np.sqrt(space.layers) for part in (factors, orders)]
    return _Features(jnp.concatenate([flat[0], values], axis=1) / 2, flat[1])


def _distance(a: _Features, b: _Features, lengths: Array) -> Float[Array, "n m"]:
    """Squared, in lengths."""

    def squared(p: Array, q: Array) -> Array:
        return jnp.sum(p**2, axis=1)[:, None] + jnp.sum(q**2, axis=1) - 2 * p @ q.T

    total = squared(a.factors, b.factors) / lengths[0] ** 2 + squared(a.orders, b.orders) / lengths[1] ** 2
    return jnp.maximum(total, 0.0)


def _matern(squared: Array) -> Array:
    r = jnp.sqrt(5 * squared + 1e-12)
    return (1 + r + r**2 / 3) * jnp.exp(-r)


def _covariance(x: _Features, real: Array, lengths: Array) -> Float[Array, "most most"]:
    """Of what was seen; the identity in the room that is left."""
    both = real[:, None] & real
    return jnp.where(both, _matern(_distance(x, x, lengths)), 0.0) + jnp.diag(jnp.where(real, NOISE, 1.0))


def _standardised(seen: _Observed) -> Float[Array, " most"]:
    real = jnp.arange(seen.ranks.shape[0]) < seen.number
    ranks = jnp.where(real, seen.ranks, 0.0)
    mean = jnp.sum(ranks) / seen.number
    spread = jnp.sqrt(jnp.sum(jnp.where(real, (ranks - mean) ** 2, 0.0)) / seen.number)
    return jnp.where(real, jnp.minimum((ranks - mean) / jnp.maximum(spread, 1e-6), HIGHEST), 0.0)
