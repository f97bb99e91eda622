"""Gradient search: factors relaxed to real numbers, Adam on their logarithms, rounding to valid tilings, exact rescoring.

After DOSA (Hong et al., MICRO 2023). A restart is a mapping of whole factors. One round of it:

    1  `steps` of Adam on the logarithms x of all factors but the outermost, which is what is left of the size. The objective is
       the logarithm of the relaxed cost plus that of a penalty on what exceeds the array or a buffer. x stays in [0, ln size];
       where factors multiply to more than the size all are scaled back.
    2  each dimension is rounded to the nearest row of its table of tilings in the logarithms, which is always a valid tiling.
       With it come `candidates` - 1 variants, a few genes of each moved to a neighbour: a prime to another level, or two loops
       swapped. Orders have no slope here: they are tried.
    3  the exact model on all candidates; the best of them and of the mapping before is where the next round starts.

After `patience` rounds without a better one a restart begins anew from the best of `candidates` random mappings. Hardware
parameters are relaxed and rounded in the same way. All restarts run side by side in one program. Windows of inputs are counted
as "all" in the relaxed model, which does not jump where a factor goes to 1.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from costmodel.mapping.loop_nests.mappings import LoopMapping
from costmodel.relax import soft
from costmodel.studies.mapping_search.methods import GRADIENT, Batch, repeated, tried
from costmodel.studies.mapping_search.spaces import FACTORS, PER_LAYER, SearchSpace
from costmodel.studies.mapping_search.tables import COLUMNS, FIRST_SPATIAL, OUTERMOST, place_mask
from costmodel.studies.search import penalty
from physics import replace

BETAS = (0.9, 0.99)  # of Adam
TINY = 1e-8


class _Relaxed(NamedTuple):
    """A genome with real factors and parameters; logarithms."""

    factors: Float[Array, "layers 7 8"]
    values: Float[Array, " free"]


class _Restarts(NamedTuple):
    genes: Int[Array, "restarts genes"]
    ranks: Float[Array, " restarts"]
    waited: Int[Array, " restarts"]  # rounds without a better one


@dataclasses.dataclass(frozen=True)
class GradientDescent:
    """Gradient search over relaxed mappings."""

    restarts: int = 2
    steps: int = 20
    candidates: int = 64
    rate: float = 0.2
    mutations: float = 2.0  # expected genes of a candidate that are moved
    redrawn: float = 0.1  # of as many, drawn anew
    kick: float = 4.0  # expected genes moved before a descent that has been made before
    patience: int = 20
    sharpness: float = 4.0  # of the maximum over the levels' cycles
    rounds: int = 4

    def begin(self, space: SearchSpace, key: PRNGKeyArray) -> tuple[_Restarts, Batch]:
        genes = space.draw(key, self.restarts * self.candidates)
        score = space.scores(genes)
        found, ranks = self._best(genes, score.rank)
        return _Restarts(found, ranks, jnp.zeros(self.restarts, jnp.int32)), tried(space, genes, score.value)

    def advance(self, space: SearchSpace, state: _Restarts, key: PRNGKeyArray) -> tuple[_Restarts, Batch]:
        return repeated(lambda old, k: self._round(space, old, k), state, key, self.rounds)

    def finished(self, evaluations: float) -> bool:
        return False

    def _round(self, space: SearchSpace, old: _Restarts, key: PRNGKeyArray) -> tuple[_Restarts, Batch]:
        renew = old.waited >= self.patience
        u = jax.random.uniform(key, (4, self.restarts, self.candidates + 1, space.kind.shape[0]))
        drawn = space.choose(u[0])
        still = jnp.broadcast_to(old.genes[:, None], drawn.shape)
        chance = jnp.where((jnp.arange(self.candidates + 1) == 0)[:, None], self.kick, self.mutations) / drawn.shape[-1]
        start = jnp.where((old.waited > 0)[:, None], self._moved(space, still, drawn, u[1:], chance)[:, 0], old.genes)
        end = jax.vmap(lambda genes: _nearest(space, genes, self._descend(space, genes)))(start)
        middle = jnp.where((jnp.arange(self.candidates + 1) % 2 == 0)[:, None], still, end[:, None])
        moved = self._moved(space, middle, drawn, u[1:], chance)
        genes, drawn = moved.at[:, 1].set(end)[:, 1:], drawn[:, 1:]
        genes = jnp.where(renew[:, None, None], drawn, genes).reshape(-1, genes.shape[-1])
        score = space.scores(genes)
        best, ranks = self._best(genes, score.rank)
        better = renew | (ranks < old.ranks)
        state = _Restarts(
            jnp.where(better[:, None], best, old.genes),
            jnp.where(better, ranks, old.ranks),
            jnp.where(better, 0, old.waited + 1),
        )
        spent = GRADIENT * self.steps * self.restarts * space.layers
        return state, tried(space, genes, score.value, spent)

    def _best(self, genes: Array, ranks: Array) -> tuple[Array, Array]:
        """Of the candidates of every restart."""
        genes, ranks = genes.reshape(self.restarts, self.candidates, -1), ranks.reshape(self.restarts, -1)
        winner = jnp.argmin(ranks, axis=1)
        return jnp.take_along_axis(genes, winner[:, None, None], 1)[:, 0], jnp.min(ranks, axis=1)

    def _descend(self, space: SearchSpace, genes: Array) -> _Relaxed:
        """Where Adam goes from a genome, orders kept."""
        places, start = space.places(genes), _relaxed(space, genes)
        slope = jax.grad(lambda x: self._loss(space, x, places))

        def step(state: tuple[_Relaxed, _Relaxed, _Relaxed], count: Array) -> tuple[tuple[_Relaxed, _Relaxed, _Relaxed], None]:
            x, mean, square = state
            g = jax.tree.map(jnp.nan_to_num, slope(x))
            mean = jax.tree.map(lambda m, s: BETAS[0] * m + (1 - BETAS[0]) * s, mean, g)
            square = jax.tree.map(lambda v, s: BETAS[1] * v + (1 - BETAS[1]) * s**2, square, g)
            size = self.rate * jnp.sqrt(1 - BETAS[1] ** count) / (1 - BETAS[0] ** count)
            x = jax.tree.map(lambda a, m, v: a - size * m / (jnp.sqrt(v) + TINY), x, mean, square)
            return (_inside(space, x), mean, square), None

        zero = jax.tree.map(jnp.zeros_like, start)
        return jax.lax.scan(step, (start, zero, zero), 1.0 + jnp.arange(self.steps))[0][0]

    def _loss(self, space: SearchSpace, x: _Relaxed, places: Array) -> Array:
        """Logarithm of the relaxed objective with the penalty."""
        factors = jnp.swapaxes(jnp.exp(_completed(space, x.factors)), 1, 2)
        mappings = LoopMapping(factors[:, :FIRST_SPATIAL], factors[:, FIRST_SPATIAL:], places)
        chosen = dict(zip(space.free, jnp.exp(x.values), strict=True))
        largest = {label: allowed[-1] for label, allowed in zip(space.fits, space.fitted, strict=True)}
        accelerator = dataclasses.replace(replace(space.accelerator, chosen | largest), windows="all")
        costs = space.price(accelerator, mappings, soft(self.sharpness))[1]
        return space.log_objective(costs) + jnp.log(penalty(jnp.max(costs.excess), jnp.asarray(1.0)))

    def _moved(self, space: SearchSpace, genes: Array, drawn: Array, u: Array, chance: Array) -> Array:
        """Genomes with some genes moved to a neighbour, once or twice, and fewer as in `drawn`."""
        genes = jnp.where(u[0] < chance, space.neighbours(u[1], genes), genes)
        genes = jnp.where(u[0] < chance / 2, space.neighbours(u[2], genes), genes)
        return jnp.where(1 - u[0] < self.redrawn * chance, drawn, genes)


def _relaxed(space: SearchSpace, genes: Array) -> _Relaxed:
    chosen = jnp.log(jnp.maximum(space.rows[space.kind, genes], TINY))
    own = space.layers * PER_LAYER
    return _Relaxed(chosen[:own].reshape(space.layers, PER_LAYER, COLUMNS)[:, :FACTORS], chosen[own:, 0])


def _completed(space: SearchSpace, factors: Array) -> Array:
    """The outermost temporal factor set to what is left."""
    inner = jnp.sum(factors, axis=-1) - factors[..., OUTERMOST]
    return factors.at[..., OUTERMOST].set(jnp.maximum(jnp.log(space.sizes) - inner, 0.0))


def _inside(space: SearchSpace, x: _Relaxed) -> _Relaxed:
    """Factors of at least 1 whose product is at most the size, parameters within what is allowed."""
    mask, whole = jnp.asarray(place_mask()).at[:, OUTERMOST].set(0), jnp.log(space.sizes)
    inner = jnp.maximum(x.factors, 0.0) * mask
    inner = inner * jnp.minimum(1.0, whole / jnp.maximum(jnp.sum(inner, axis=-1), 1e-6))[..., None]
    kinds = space.kind[space.layers * PER_LAYER :]
    low, high = (jnp.log(jnp.maximum(space.rows[kinds, end, 0], TINY)) for end in (0, -1))
    return _Relaxed(inner, jnp.clip(x.values, low, high))


def _nearest(space: SearchSpace, genes: Array, x: _Relaxed) -> Array:
    """The genome nearest in the logarithms, with the orders of `genes`."""
    own = space.layers * PER_LAYER
    kinds = space.kind[:own].reshape(space.layers, PER_LAYER)[:, :FACTORS]
    rows = jnp.log(space.rows[kinds, : space.factor_width])
    distance = jnp.sum(rows**2, axis=-1) - 2 * jnp.einsum("ldc,ldwc->ldw", _completed(space, x.factors), rows)
    tilings = jnp.argmin(distance, axis=-1).astype(genes.dtype)
    mixed = genes[:own].reshape(space.layers, PER_LAYER).at[:, :FACTORS].set(tilings)
    values = jnp.log(jnp.maximum(space.rows[space.kind[own:], :, 0], TINY))
    nearest = jnp.argmin(jnp.abs(values - x.values[:, None]), axis=1).astype(genes.dtype)
    return jnp.concatenate([mixed.ravel(), nearest])
