"""Evolutionary search: tournaments, crossover of genes, mutation to a neighbour; the best of parents and children live on.

A child takes each gene from either of two parents (each the best of `tournament` drawn ones). Then every gene moves, with a
chance of `mutations` per genome, to a neighbour: a prime goes from one level to another, two loops are swapped, a parameter takes
its next value; and with a smaller chance (`redraws`) it is drawn anew. Infeasible genomes are ranked by how much they lack.
Of genomes that cost exactly the same one lives on, which keeps a population apart. After `patience` generations without a better
one the population is drawn anew, so the method never ends in a local optimum for good.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from costmodel.studies.mapping_search.methods import Batch, repeated, tried
from costmodel.studies.mapping_search.spaces import SearchSpace


class _Population(NamedTuple):
    genes: Int[Array, "population genes"]  # the best first
    ranks: Float[Array, " population"]
    waited: Int[Array, ""]  # generations without a better one


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Evolutionary search; chances are expected numbers of genes per child."""

    population: int = 32
    tournament: int = 3
    crossover: float = 0.7
    mutations: float = 1.5
    redraws: float = 0.3
    patience: int = 60
    rounds: int = 16

    def begin(self, space: SearchSpace, key: PRNGKeyArray) -> tuple[_Population, Batch]:
        genes = space.draw(key, self.population)
        score = space.scores(genes)
        return _sorted(genes, score.rank, jnp.asarray(0)), tried(space, genes, score.value)

    def advance(self, space: SearchSpace, state: _Population, key: PRNGKeyArray) -> tuple[_Population, Batch]:
        return repeated(lambda old, k: self._generation(space, old, k), state, key, self.rounds)

    def finished(self, evaluations: float) -> bool:
        return False

    def _generation(self, space: SearchSpace, old: _Population, key: PRNGKeyArray) -> tuple[_Population, Batch]:
        n, width = old.genes.shape
        u = jax.random.uniform(key, (n, 4 * width + 2 * self.tournament + 1))  # one draw: every one is a program of its own
        renew = old.waited >= self.patience
        drawn = space.choose(u[:, :width])
        genes = jnp.where(renew, drawn, self._children(space, old.genes, drawn, u[:, width:]))
        score = space.scores(genes)
        ranks = jnp.where(renew, jnp.inf, old.ranks)
        best = _sorted(jnp.concatenate([old.genes, genes]), jnp.concatenate([ranks, score.rank]), old.waited)
        waited = jnp.where(best.ranks[0] < ranks[0], 0, old.waited + 1)
        cut = _Population(best.genes[: self.population], best.ranks[: self.population], waited)
        return cut, tried(space, genes, score.value)

    def _children(self, space: SearchSpace, old: Array, drawn: Array, u: Array) -> Array:
        """Of the last generation, the best first, by the chances `u`; redrawn genes are those of `drawn`."""
        n, width = old.shape
        either, move, near, contest = jnp.split(u, (width, 2 * width, 3 * width), axis=1)
        entrants = jnp.floor(contest[:, 1:] * n).astype(jnp.int32).reshape(n, 2, self.tournament)
        parents = old[jnp.min(entrants, axis=2)]
        crossed = (either < 0.5) & (contest[:, :1] < self.crossover)
        child = jnp.where(crossed, parents[:, 1], parents[:, 0])
        child = jnp.where(move * width < self.mutations, space.neighbours(near, child), child)
        return jnp.where((1 - move) * width < self.redraws, drawn, child)


def _sorted(genes: Array, ranks: Array, waited: Array) -> _Population:
    """The best first; those that cost the same as another go to the end."""
    order = jnp.argsort(ranks)
    genes, ranks = genes[order], ranks[order]
    same = jnp.concatenate([jnp.zeros(1, bool), ranks[1:] == ranks[:-1]])
    order = jnp.argsort(jnp.where(same, jnp.inf, ranks))
    return _Population(genes[order], jnp.where(same, jnp.inf, ranks)[order], waited)
