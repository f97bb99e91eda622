"""Copies of layers chosen for the cross-layer makespan itself, with a bound that says how far from the best they can be.

More copies than a strip direction has columns (rows) leave each place to wait for the fewest others, so with every other layer at
that limit the makespan B_i(d) is a lower bound for any choice that gives layer i d copies. Hence, for a threshold T, a choice
faster than T needs at least m_i(T) = min{d : B_i(d) <= T} copies of every layer, and

    bound = the smallest T whose copies m(T) can be afforded

No choice is faster. Candidates are the greedy rule, the minimum sum and m(T) of every affordable T (which raises all layers
that limit T at once, where single steps find a plateau), then the best one is improved by steps (one more copy of a layer, paid
for by copies of another) until none helps. At last all choices that could still be faster, B_i(d_i) < T for every layer, are
tried if there are few enough: the result is then the best there is. Batches of candidates are evaluated by one vmapped program.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from costmodel.mapping.dependencies import LayerGraph
from costmodel.mapping.duplication import copies_limit, greedy_duplicates, min_sum_duplicates, spend
from costmodel.mapping.schedule import PIXELS, Sets, cross_layer

BATCH = 32  # candidates of one call: a fixed shape, so that one program serves all


class Search(NamedTuple):
    """The best copies (layers,) found, their makespan, and the lower bound for any copies (cycles both)."""

    duplicates: np.ndarray
    makespan: float
    bound: float
    evaluated: int  # schedules computed

    @property
    def proven(self) -> bool:
        """Whether nothing can be faster."""
        return self.makespan <= self.bound


def makespans(graph: LayerGraph, duplicates: np.ndarray, sets: Sets = PIXELS, direction: str = "vertical") -> np.ndarray:
    """Cross-layer makespans (candidates,) in cycles of copies (candidates, layers)."""
    evaluate = jax.vmap(lambda copies: cross_layer(graph, copies, sets=sets, direction=direction).makespan)
    padded = np.concatenate([duplicates, np.repeat(duplicates[-1:], -len(duplicates) % BATCH, axis=0)])
    found = [np.asarray(evaluate(padded[i : i + BATCH])) for i in range(0, len(padded), BATCH)]
    return np.concatenate(found)[: len(duplicates)]


def search_duplicates(
    graph: LayerGraph,
    crossbars: Sequence[int],
    extra: int,
    *,
    sets: Sets = PIXELS,
    direction: str = "vertical",
    rounds: int = 20,
    exhaustive: int = 4096,
) -> Search:
    """Copies for `extra` crossbars beyond one copy of each layer (`crossbars` each); see the module.

    At most `rounds` steps of improvement, and at most `exhaustive` choices at last.
    Raises ValueError for a negative `extra` or a wrong number of layers.
    """
    limits = copies_limit(graph, direction)
    starts = [rule(graph.cycles, crossbars, extra, limits) for rule in (greedy_duplicates, min_sum_duplicates)]
    lowest = _lowest(graph, crossbars, extra, limits, sets, direction)
    bound, thresholds = _thresholds(lowest, crossbars, extra)
    evaluated = sum(map(len, lowest))
    starts += [spend(c, graph.cycles, crossbars, extra - _cost(c, crossbars), limits) for c in thresholds]
    candidates = np.unique(np.stack(starts), axis=0)
    best, fastest = None, np.inf
    for _ in range(1 + rounds):
        if not len(candidates):
            break
        found = makespans(graph, candidates, sets, direction)
        evaluated += len(candidates)
        if found.min() >= fastest:
            break
        best, fastest = candidates[np.argmin(found)], float(found.min())
        if fastest <= bound:
            break
        candidates = _steps(best, crossbars, extra, limits)
    assert best is not None
    rest = _faster(lowest, crossbars, extra, fastest, exhaustive) if fastest > bound else None
    if rest is not None:
        found = makespans(graph, rest, sets, direction) if len(rest) else np.asarray([np.inf])
        evaluated += len(rest)
        if found.min() < fastest:
            best, fastest = rest[np.argmin(found)], float(found.min())
        bound = fastest
    return Search(best, fastest, bound, evaluated)


def _cost(copies: np.ndarray, crossbars: Sequence[int]) -> int:
    return int(np.sum((copies - 1) * np.asarray(crossbars)))


def _lowest(
    graph: LayerGraph, crossbars: Sequence[int], extra: int, limits: Sequence[int], sets: Sets, direction: str
) -> list[np.ndarray]:
    """B_i(d) of every layer for d = 1, 2, ... as many copies as can be afforded."""
    most = [1 + min(extra // cost, limit - 1) for cost, limit in zip(crossbars, limits, strict=True)]
    freed = np.tile(np.asarray(limits), (sum(most), 1))
    freed[np.arange(sum(most)), np.repeat(np.arange(len(most)), most)] = np.concatenate([np.arange(1, n + 1) for n in most])
    return np.split(makespans(graph, freed, sets, direction), np.cumsum(most)[:-1])


def _thresholds(lowest: list[np.ndarray], crossbars: Sequence[int], extra: int) -> tuple[float, list[np.ndarray]]:
    """The bound, and the copies m(T) of every T that can be afforded."""
    affordable, bound = [], np.inf
    for threshold in np.unique(np.concatenate(lowest))[::-1]:
        enough = [np.flatnonzero(b <= threshold) for b in lowest]
        if not all(map(len, enough)):
            break
        copies = np.asarray([1 + first[0] for first in enough])
        if _cost(copies, crossbars) > extra:
            break
        bound = float(threshold)
        affordable.append(copies)
    return bound, affordable


def _faster(lowest: list[np.ndarray], crossbars: Sequence[int], extra: int, than: float, most: int) -> np.ndarray | None:
    """All choices (n, layers) that could be faster than a makespan; None if there are more than `most`."""
    allowed = [np.flatnonzero(b < than) for b in lowest]  # further copies
    if not all(map(len, allowed)):
        return np.empty((0, len(lowest)), int)
    least = [int(more[0]) * cost for more, cost in zip(allowed, crossbars, strict=True)]
    choices, spent = np.zeros((1, 0), int), np.zeros(1, int)
    for i, more in enumerate(allowed):
        total = spent[:, None] + more * crossbars[i]
        before, chosen = np.nonzero(total + sum(least[i + 1 :]) <= extra)
        if len(before) > most:
            return None
        choices, spent = np.column_stack([choices[before], 1 + more[chosen]]), total[before, chosen]
    return choices


def _steps(copies: np.ndarray, crossbars: Sequence[int], extra: int, limits: Sequence[int]) -> np.ndarray:
    """All choices (n, layers) with one more copy of a layer, paid for by copies of another where it cannot be afforded."""
    left, steps = extra - _cost(copies, crossbars), []
    for j in map(int, np.flatnonzero(copies < np.asarray(limits))):
        more = copies.copy()
        more[j] += 1
        missing = crossbars[j] - left
        if missing <= 0:
            steps.append(more)
            continue
        for i in map(int, np.flatnonzero(copies > 1)):
            fewer = -(-missing // crossbars[i])
            if i != j and fewer < copies[i]:
                step = more.copy()
                step[i] -= fewer
                steps.append(step)
    return np.stack(steps) if steps else np.empty((0, len(copies)), int)
