"""One search from a key to its end, and what it had found when: by evaluations and by seconds.

Methods propose batches; what is compiled for them is made before the clock starts. Genomes beyond the budget do not count.
"""

import time
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from costmodel.studies.mapping_search.bayesian import Bayesian
from costmodel.studies.mapping_search.evolution import Evolution
from costmodel.studies.mapping_search.gradients import GradientDescent
from costmodel.studies.mapping_search.methods import Batch, Method, advance, begin
from costmodel.studies.mapping_search.random_draws import RandomDraws
from costmodel.studies.mapping_search.spaces import SearchSpace
from costmodel.studies.search import MOST, minimize

METHODS: dict[str, Method] = {
    "gradient": GradientDescent(),
    "evolution": Evolution(),
    "bayesian": Bayesian(),
    "random": RandomDraws(),
}
SAME = 1e-6  # relative: equal but for rounding


class History(NamedTuple):
    """Every improvement: after how many evaluations and seconds, and the logarithm of the objective from then on."""

    evaluations: np.ndarray
    seconds: np.ndarray
    best: np.ndarray

    def after(self, axis: str, points: np.ndarray) -> np.ndarray:
        """The best at each of `points` of "evaluations" or "seconds"; infinite before anything was found."""
        known = np.concatenate([[np.inf], self.best])
        return known[np.searchsorted(getattr(self, axis), points * (1 + 1e-9), side="right")]


class Run(NamedTuple):
    """The best genome of one search."""

    genes: np.ndarray
    value: float  # logarithm of the objective; infinite where nothing fits
    evaluations: float
    seconds: float
    history: History


class Budget(NamedTuple):
    """When to stop: after both have been spent, or (`either`) after one; or at a value that cannot be beaten."""

    evaluations: float
    seconds: float
    either: bool = True
    target: float = -np.inf

    def left(self, evaluations: float, seconds: float, best: float) -> bool:
        """Whether to go on."""
        within = (evaluations < self.evaluations, seconds < self.seconds)
        return best > self.target and (all(within) if self.either else any(within))


def run_method(space: SearchSpace, method: Method, key: PRNGKeyArray, budget: Budget) -> Run:
    """Search until the budget is spent; the same key gives the same bits but for where seconds end it."""
    state, _ = begin(method, space, key)
    jax.block_until_ready(advance(method, space, state, key))
    found, spent, seconds, lines = (np.zeros(0), np.inf), 0.0, 0.0, []
    start = time.perf_counter()
    state, batch = begin(method, space, key)
    for turn in range(1, 1 << 30):
        values, totals = _kept(batch, spent, budget)
        better = np.flatnonzero(values < np.minimum.accumulate(np.concatenate([[found[1]], values]))[:-1])
        if len(better):
            found = np.asarray(batch.genes[int(better[-1])]), float(values[better[-1]])
        spent, seconds = spent + float(np.sum(np.asarray(batch.spent, np.float64))), time.perf_counter() - start
        lines += [(totals[i], seconds, values[i]) for i in better]
        if not budget.left(spent, seconds, found[1]) or method.finished(spent / space.layers):
            break
        state, batch = advance(method, space, state, jax.random.fold_in(key, turn))
    history = History(*np.asarray(lines, float).reshape(-1, 3).T)
    return Run(*found, min(spent, budget.evaluations) if budget.either else spent, seconds, history)


def _kept(batch: Batch, spent: float, budget: Budget) -> tuple[np.ndarray, np.ndarray]:
    """Values, infinite beyond the budget, and the evaluations up to each."""
    totals = spent + np.cumsum(np.asarray(batch.spent, np.float64))
    values = np.asarray(batch.values, np.float64)
    return np.where((totals <= budget.evaluations) | (not budget.either), values, np.inf), totals


def run_exhaustive(space: SearchSpace) -> Run:
    """Every genome; ValueError if there are more than `MOST`."""
    if space.total > MOST:
        raise ValueError(f"the space has {space.total:.3g} mappings, at most {MOST} can be tried one by one")
    start = time.perf_counter()
    grid = {str(gene): 1 + np.arange(int(count)) for gene, count in enumerate(space.counts)}
    best = minimize(_value, grid, args=(space,), method="exhaustive", chunk=1024)
    seconds, spent = time.perf_counter() - start, float(space.total * space.layers)
    genes = np.asarray([int(value) - 1 for value in best.point.values()], np.int32)
    return Run(genes, best.value, spent, seconds, History(*np.asarray([[spent], [seconds], [best.value]])))


def _value(point: jax.Array, space: SearchSpace) -> jax.Array:
    """Of a point of the grid, whose values are positions + 1."""
    return space.score(point.astype("int32") - 1).value
