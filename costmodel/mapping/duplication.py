"""How many copies of each layer: extra crossbars spent so that slow layers run on several places at once.

    minimise   sum_i t_i / d_i       subject to   sum_i c_i d_i <= available,   d_i >= 1 integer

t_i: cycles, c_i: crossbars of one copy. Three rules:

    greedy     a copy to the layer that is slowest now (largest t_i / d_i, the first of equals) until its copy no longer fits:
               it minimises the slowest layer, not the sum
    min_sum    the sum, exactly, by dynamic programming over the crossbars
    search     the cross-layer makespan itself, see `search_duplicates`

A layer gets no more copies than `limits` (the columns that strips can be cut into); a layer at its limit is passed over.
Source: CLSA-CIM, Pelke et al., DATE 2024 (the sum); the greedy rule as reported in CIMFlow, Cubero-Cascante et al., TECS 2025.
"""

from collections.abc import Sequence

import numpy as np

from costmodel.mapping.dependencies import DIRECTIONS, LayerGraph


def extra_crossbars(graph: LayerGraph, crossbars: Sequence[int], available: int) -> int:
    """Crossbars left after one copy of each layer; ValueError, naming the largest layer, if `available` is not enough."""
    needed = sum(crossbars)
    if available < needed:
        largest = int(np.argmax(crossbars))
        raise ValueError(
            f"{graph.name} needs {needed} crossbars to hold every layer once, {available} are available; "
            f"its largest layer, {graph.names[largest]}, takes {crossbars[largest]}"
        )
    return available - needed


def copies_limit(graph: LayerGraph, direction: str = "vertical") -> tuple[int, ...]:
    """The most copies of each layer that have something to do; ValueError for an unknown direction."""
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}; known: {', '.join(DIRECTIONS)}")
    if direction == "vertical":
        return tuple(layer.columns for layer in graph.layers)
    if direction == "horizontal":
        return tuple(layer.rows for layer in graph.layers)
    return tuple(layer.rows * layer.columns for layer in graph.layers)


def greedy_duplicates(
    cycles: Sequence[int], crossbars: Sequence[int], extra: int, limits: Sequence[int] | None = None
) -> np.ndarray:
    """Copies (layers,) by the greedy rule for `extra` crossbars beyond one copy each."""
    _check(cycles, crossbars, extra)
    return spend(np.ones(len(crossbars), int), cycles, crossbars, extra, limits)


def spend(
    copies: np.ndarray, cycles: Sequence[int], crossbars: Sequence[int], extra: int, limits: Sequence[int] | None = None
) -> np.ndarray:
    """`copies` (layers,) and what `extra` crossbars add to them by the greedy rule."""
    cost, work, copies = np.asarray(crossbars), np.asarray(cycles, float), copies.copy()
    most = np.full(len(cost), np.iinfo(np.int64).max) if limits is None else np.asarray(limits)
    while True:
        pace = np.where(copies < most, work / copies, -np.inf)
        slowest = int(np.argmax(pace))
        if cost[slowest] > extra or pace[slowest] <= 1:
            return copies
        copies[slowest] += 1
        extra -= cost[slowest]


def min_sum_duplicates(
    cycles: Sequence[int], crossbars: Sequence[int], extra: int, limits: Sequence[int] | None = None
) -> np.ndarray:
    """Copies (layers,) that minimise sum_i t_i / d_i for `extra` crossbars beyond one copy each; exact."""
    _check(cycles, crossbars, extra)
    layers = list(zip(cycles, crossbars, [extra] * len(cycles) if limits is None else [n - 1 for n in limits], strict=True))
    best = [np.zeros(extra + 1)]  # of the layers from the i-th on, by crossbars to spend; the last layer first
    for work, cost, most in reversed(layers):
        best.append(np.min(_choices(work, cost, most, best[-1]), axis=0))
    copies, left = [], extra
    for (work, cost, most), rest in zip(layers, reversed(best[:-1]), strict=True):
        sums = _choices(work, cost, most, rest)[:, left]
        more = int(np.flatnonzero(sums <= sums.min() * (1 + 1e-12))[-1])  # of equal sums, the one that copies early layers
        copies.append(1 + more)
        left -= more * cost
    return np.asarray(copies)


def _choices(work: int, cost: int, most: int, rest: np.ndarray) -> np.ndarray:
    """Sums for every number of further copies of one layer (rows) and of crossbars to spend (columns); `rest`: other layers."""
    spend = len(rest) - 1
    sums = np.full((min(spend // cost, most) + 1, spend + 1), np.inf)
    for more in range(len(sums)):
        sums[more, more * cost :] = rest[: spend + 1 - more * cost] + work / (1 + more)
    return sums


def _check(cycles: Sequence[int], crossbars: Sequence[int], extra: int) -> None:
    if len(cycles) != len(crossbars) or not len(cycles):
        raise ValueError(f"cycles has {len(cycles)} layers and crossbars {len(crossbars)}; both need the same number, at least 1")
    if extra < 0:
        raise ValueError(f"extra = {extra} crossbars is outside its range [0, inf) crossbars")
