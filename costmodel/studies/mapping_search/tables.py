"""What may be chosen, as tables: factorisations of a size over the levels and orders of loops, each with its neighbours.

A row of factors has eight columns: temporal at the registers, accumulators, scratchpad and memory, then spatial likewise. Which
of them a dimension may use is the dataflow of an array of the Gemmini kind: weights stay in the registers (so only P, Q, N loop
there), C runs across the rows, K across the columns. The factors of a row multiply to the size: every row is a valid tiling.

Neighbours of a row of factors: one prime moved from one place to another. Of an order: two loops swapped.
"""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from costmodel.mapping.loop_nests.accesses import RELEVANT
from costmodel.mapping.loop_nests.mappings import DIMENSIONS

COLUMNS = 8
PLACES = {
    "R": (1, 2, 3),
    "S": (1, 2, 3),
    "P": (0, 1, 2, 3),
    "Q": (0, 1, 2, 3),
    "N": (0, 1, 2, 3),
    "C": (1, 2, 3, 5),
    "K": (1, 2, 3, 6),
}
OUTERMOST, FIRST_SPATIAL = 3, 4
ORDERS = ("all", "stationary")
WIDEST = 1 << 14  # rows of a table


class Choices(NamedTuple):
    """Rows to choose from, and the positions of each one's neighbours (its own position where it has none)."""

    rows: np.ndarray  # (n, 8)
    moves: np.ndarray  # (n, most)
    degree: np.ndarray  # (n,) how many of the moves are real; at least 1


def place_mask() -> np.ndarray:
    """1 where a dimension may have a factor above 1, (7, 8)."""
    mask = np.zeros((len(DIMENSIONS), COLUMNS))
    for row, dimension in enumerate(DIMENSIONS):
        mask[row, list(PLACES[dimension])] = 1
    return mask


@functools.cache
def factor_choices(dimension: str, size: int, side: int) -> Choices:
    """All ways to split `size` over the places of `dimension`, with spatial factors up to `side`; ValueError if too many."""
    places = PLACES[dimension]
    factors = [
        row
        for row in _splits(size, len(places))
        if all(factor <= side for place, factor in zip(places, row, strict=True) if place >= FIRST_SPATIAL)
    ]
    if len(factors) > WIDEST:
        raise ValueError(f"layer: {dimension} = {size} has {len(factors)} tilings, at most {WIDEST} can be listed")
    where = {row: index for index, row in enumerate(factors)}
    rows = np.ones((len(factors), COLUMNS))
    rows[:, list(places)] = factors
    primes = _primes(size)
    return _choices(rows, [[where[r] for r in _moved(row, primes) if r in where] for row in factors])


@functools.cache
def order_choices(active: tuple[int, ...], orders: str) -> Choices:
    """Orders of the loops over the `active` dimensions, the others inside: all, or those that keep one tensor in place."""
    found = list(itertools.permutations(active)) if orders == "all" else _stationary(active)
    where = {order: index for index, order in enumerate(found)}
    rows = np.zeros((len(found), COLUMNS))
    inside = [d for d in range(len(DIMENSIONS)) if d not in active]
    rows[:, : len(DIMENSIONS)] = [np.argsort([*order, *inside]) for order in found]
    if orders == "all":
        return _choices(rows, [[where[s] for s in _swapped(order)] for order in found])
    return _choices(rows, [[other for other in range(len(found)) if other != own] for own in range(len(found))])


def value_choices(values: np.ndarray) -> Choices:
    """Values of a parameter in rising order; the next ones are neighbours."""
    rows = np.zeros((len(values), COLUMNS))
    rows[:, 0] = values
    return _choices(rows, [[j for j in (i - 1, i + 1) if 0 <= j < len(values)] for i in range(len(values))])


def _choices(rows: np.ndarray, neighbours: list[list[int]]) -> Choices:
    most = max(1, max(map(len, neighbours)))
    moves = np.arange(len(rows))[:, None].repeat(most, axis=1)
    for row, near in enumerate(neighbours):
        moves[row, : len(near)] = near
    return Choices(rows, moves, np.asarray([max(1, len(near)) for near in neighbours]))


def _splits(size: int, parts: int) -> list[tuple[int, ...]]:
    """Ordered factorisations of `size` into `parts` factors."""
    if parts == 1:
        return [(size,)]
    return [(d, *rest) for d in _divisors(size) for rest in _splits_cached(size // d, parts - 1)]


_splits_cached = functools.cache(_splits)


def _divisors(size: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(size) + 1) if size % d == 0]
    return sorted({*small, *(size // d for d in small)})


def _primes(size: int) -> list[int]:
    divisors = _divisors(size)[1:]
    return [d for i, d in enumerate(divisors) if all(d % smaller for smaller in divisors[:i])]


def _moved(row: tuple[int, ...], primes: list[int]) -> list[tuple[int, ...]]:
    """Rows with one prime moved from one place to another."""
    found = []
    for (i, a), (j, b) in itertools.permutations(enumerate(row), 2):
        for prime in primes:
            if a % prime == 0:
                new = list(row)
                new[i], new[j] = a // prime, b * prime
                found.append(tuple(new))
    return found


def _swapped(order: tuple[int, ...]) -> list[tuple[int, ...]]:
    found = []
    for i, j in itertools.combinations(range(len(order)), 2):
        new = list(order)
        new[i], new[j] = new[j], new[i]
        found.append(tuple(new))
    return found


def _stationary(active: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Orders with the loops that do not move the weights, the inputs or the outputs innermost (DOSA's three)."""
    orders = (
        (*(d for d in active if d in RELEVANT[tensor]), *(d for d in active if d not in RELEVANT[tensor])) for tensor in "WIO"
    )
    return list(dict.fromkeys(orders))
