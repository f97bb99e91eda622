"""Loop nests with affine references, and how many elements a rectangular tile of them touches.

A reference reads A[M x + o] for the iterations x of a tile with sides t. Subscripts that share no loop multiply; of each group of
subscripts that do, with matrix M over the loops involved and its kernel over the integers,

    kernel {0}        every iteration has its own element:          prod t
    kernel spanned    iterations x and x + w share theirs:          prod t - prod max(t - |w|, 0)
      by w
    larger kernels    one subscript, coefficients in rising order:  L <- L t - max(L - c, 0) (t - 1), exact while runs are closed,
                      else it may be under: A[3 i + 5 j + 7 k], t = (5, 6, 2), has 39, not 37; loops with t = 1 are left out

so A[i] has t, A[2 i + k] (a strided window) 2 t_i + t_k - 2 for t_k >= 2, A[i, i] t, A[i + j, j] t_i t_j. Several references to
one array that differ only by constants (a stencil, a halo) touch a union of translates: exact by inclusion and exclusion up to
`MOST` distinct offsets, and for any full box of offsets, else the surrounding box. Translates of subscripts that share loops, and
references with different matrices, are added (an upper bound). All are piecewise polynomials in t, so they have gradients for
real tile sides >= 1.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from costmodel.mapping.affine.parsing import Access, Statement, check_ranks, parse

MOST = 12
Sides = Num[Array | np.ndarray, " loops"] | Sequence[Any]  # one number for each loop
Iterations = Sequence[Array] | Array  # sides of a tile


@dataclasses.dataclass(frozen=True)
class Stream:
    """All references to one array with one matrix (subscripts x loops), at several offsets."""

    array: str
    matrix: tuple[tuple[int, ...], ...]
    offsets: tuple[tuple[int, ...], ...]
    read: bool
    written: bool

    def moves_with(self, loop: int) -> bool:
        """Whether the loop at this position occurs in a subscript."""
        return any(row[loop] for row in self.matrix)

    def elements(self, sides: Iterations) -> Float[Array, "..."]:
        """Distinct elements touched by a tile with these sides, one number or batch for each loop."""
        return _union(self.matrix, self.offsets, sides)


@dataclasses.dataclass(frozen=True)
class Nest:
    """A perfect nest of rectangular loops, outermost first, around statements; hashable. See `make_nest`."""

    loops: tuple[str, ...]
    streams: tuple[Stream, ...]
    flops: int  # operations of one iteration

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names, one for each stream."""
        return tuple(stream.array for stream in self.streams)

    def order(self, names: str | Sequence[str] | None) -> tuple[int, ...]:
        """Positions of the loops in an order given by names (all of them; None: as written). ValueError otherwise."""
        chosen = tuple(names.split() if isinstance(names, str) else names or self.loops)
        if sorted(chosen) != sorted(self.loops):
            raise ValueError(f"order = {' '.join(chosen)} does not name each of the loops {' '.join(self.loops)} once")
        return tuple(self.loops.index(name) for name in chosen)


def make_nest(loops: str | Sequence[str], body: str) -> Nest:
    """A nest from its loops, "i j k", and the statements inside, "C[i, j] += A[i, k] * B[k, j]".

    ValueError for a loop named twice, a statement that is not an assignment, a subscript that is not affine in the loops,
    or an array with different numbers of subscripts.
    """
    names = tuple(loops.split() if isinstance(loops, str) else loops)
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"loops = {' '.join(names)!r}: at least one is needed and none twice")
    statements = parse(body)
    if not statements or not all(isinstance(s, Statement) for s in statements):
        raise ValueError("body: only assignments stand inside a nest, at least one")
    listed = [s for s in statements if isinstance(s, Statement)]
    return Nest(names, _streams(names, [a for s in listed for a in s.accesses]), sum(s.flops for s in listed))


def _streams(loops: tuple[str, ...], accesses: Sequence[Access]) -> tuple[Stream, ...]:
    check_ranks(accesses)
    found: dict[tuple, list[Access]] = {}
    for access in accesses:
        key = access.array, tuple(tuple(row.coefficient(name) for name in loops) for row in access.subscripts)
        for row in access.subscripts:
            if unknown := {name for name, _ in row.terms} - set(loops):
                raise ValueError(f"{access.array}: {min(unknown)} in a subscript is none of the loops {' '.join(loops)}")
        found.setdefault(key, []).append(access)
    return tuple(
        Stream(
            array,
            matrix,
            tuple(sorted({tuple(row.constant for row in a.subscripts) for a in members})),
            any(not a.write for a in members),
            any(a.write for a in members),
        )
        for (array, matrix), members in found.items()
    )


def footprints(nest: Nest, tile: Sides) -> Float[Array, " streams"]:
    """Distinct elements of each of `nest.streams` touched by a tile with sides `tile` (loops,), each >= 1; see the module."""
    sides = as_sides(nest, tile, "tile")
    return jnp.stack([stream.elements(sides) for stream in nest.streams])


def as_sides(nest: Nest, sides: Sides, name: str) -> Float[Array, " loops"]:
    """A float array of one number >= 1 for each loop; ValueError (of concrete numbers only)."""
    if len(sides) != len(nest.loops):
        raise ValueError(f"{name} has {len(sides)} sides, the nest has {len(nest.loops)} loops: {' '.join(nest.loops)}")
    if not isinstance(sides, Array):
        for loop, side in zip(nest.loops, sides, strict=True):
            if isinstance(side, float | int | np.number) and not side >= 1:
                raise ValueError(f"{name} side of {loop} = {side:g} is outside its range [1, inf)")
    return jnp.stack([jnp.asarray(side, float) for side in sides])


def _union(matrix: tuple, offsets: tuple, sides: Iterations) -> Array:
    """Elements of the union of a tile's image moved by each of the offsets."""
    if len(offsets) == 1:
        return _image(matrix, sides)
    steps = tuple(math.gcd(*row) or 1 for row in matrix)
    classes: dict[tuple, list[tuple]] = {}
    for offset in offsets:  # offsets that no multiple of the step joins meet nowhere
        apart = tuple(o % s if any(row) else o for o, s, row in zip(offset, steps, matrix, strict=True))
        classes.setdefault(apart, []).append(tuple(o // s for o, s in zip(offset, steps, strict=True)))
    coupled = any(len(rows) > 1 for rows in _components(matrix))
    if coupled or all(len(members) == 1 for members in classes.values()):
        return len(offsets) * _image(matrix, sides)
    runs = [_image((row,), sides) for row in matrix]
    return sum((_translates(tuple(members), runs) for members in classes.values()), jnp.zeros(()))


def _translates(offsets: tuple[tuple[int, ...], ...], runs: list[Array]) -> Array:
    """Union of translates of a box with sides `runs`."""
    axes = [sorted(set(axis)) for axis in zip(*offsets, strict=True)]
    if math.prod(map(len, axes)) == len(offsets) or len(offsets) > MOST:
        full = len(offsets) <= MOST or math.prod(map(len, axes)) == len(offsets)
        sides = [
            run + sum(jnp.minimum(b - a, run) for a, b in itertools.pairwise(axis)) if full else run + (axis[-1] - axis[0])
            for run, axis in zip(runs, axes, strict=True)
        ]
        return functools.reduce(jnp.multiply, sides)
    terms = []
    for spread, sign in _overlaps(offsets):
        terms.append(sign * functools.reduce(jnp.multiply, [jnp.maximum(r - s, 0) for r, s in zip(runs, spread, strict=True)]))
    return sum(terms, jnp.zeros(()))


@functools.lru_cache
def _overlaps(offsets: tuple[tuple[int, ...], ...]) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Spreads of all subsets of offsets with their signed number: the intersections of inclusion and exclusion."""
    signs: dict[tuple[int, ...], int] = {}
    for size in range(1, len(offsets) + 1):
        for chosen in itertools.combinations(offsets, size):
            spread = tuple(max(axis) - min(axis) for axis in zip(*chosen, strict=True))
            signs[spread] = signs.get(spread, 0) + (1 if size % 2 else -1)
    return tuple((spread, sign) for spread, sign in signs.items() if sign)


def _image(matrix: tuple[tuple[int, ...], ...], sides: Iterations) -> Array:
    """Distinct values of M x over the tile."""
    return functools.reduce(jnp.multiply, [_joined(rows, sides) for rows in _components(matrix)], jnp.ones(()))


def _components(matrix: tuple[tuple[int, ...], ...]) -> list[list[tuple[int, ...]]]:
    """Subscripts that share loops, together."""
    groups: list[tuple[set[int], list[tuple[int, ...]]]] = []
    for row in matrix:
        used = {i for i, c in enumerate(row) if c}
        joined = [g for g in groups if g[0] & used]
        groups = [g for g in groups if not g[0] & used]
        groups.append((used.union(*(g[0] for g in joined)), [r for g in joined for r in g[1]] + [row]))
    return [rows for used, rows in groups if used]


def _joined(rows: Sequence[tuple[int, ...]], sides: Iterations) -> Array:
    used = [i for i in range(len(rows[0])) if any(row[i] for row in rows)]
    t = [sides[i] for i in used]
    kernel = _kernel(tuple(tuple(row[i] for i in used) for row in rows))
    every = functools.reduce(jnp.multiply, t)
    if not kernel:
        return every
    if len(kernel) == 1:
        again = functools.reduce(jnp.multiply, [jnp.maximum(s - abs(w), 0) for s, w in zip(t, kernel[0], strict=True)])
        return every - again
    if len(rows) > 1:
        return jnp.minimum(every, functools.reduce(jnp.multiply, [_joined((row,), sides) for row in rows]))
    count = _run([rows[0][i] for i in used], t)
    for i in used:  # a loop that does not turn takes no part, nor in the common factor
        rest = tuple(0 if q == i else c for q, c in enumerate(rows[0]))
        turns = jnp.clip(sides[i] - 1, 0.0, 1.0)
        count = turns * count + (1 - turns) * _joined((rest,), sides)
    return count


def _run(coefficients: list[int], sides: list[Array]) -> Array:
    """Distinct sums of multiples of three or more coefficients; see the module."""
    unit = math.gcd(*coefficients)
    pairs = sorted(zip((abs(c) // unit for c in coefficients), sides, strict=True), key=lambda pair: pair[0])
    length = pairs[0][1]
    for c, t in pairs[1:]:
        length = length * t - jnp.maximum(length - c, 0) * (t - 1)
    return length


@functools.lru_cache
def _kernel(rows: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """A basis of whole-number vectors w with M w = 0, each without a common factor (rational elimination)."""
    from fractions import Fraction

    m = [[Fraction(x) for x in row] for row in rows]
    width, pivots = len(rows[0]), []
    for column in range(width):
        found = next((r for r in range(len(pivots), len(m)) if m[r][column]), None)
        if found is None:
            continue
        top = len(pivots)
        m[top], m[found] = m[found], m[top]
        m[top] = [x / m[top][column] for x in m[top]]
        for r in range(len(m)):
            if r != top:
                m[r] = [x - m[r][column] * y for x, y in zip(m[r], m[top], strict=True)]
        pivots.append(column)
    basis = []
    for free in (c for c in range(width) if c not in pivots):
        vector = [Fraction(0)] * width
        vector[free] = Fraction(1)
        for r, column in enumerate(pivots):
            vector[column] = -m[r][free]
        scale = math.lcm(*(x.denominator for x in vector))
        whole = [int(x * scale) for x in vector]
        basis.append(tuple(x // math.gcd(*whole) for x in whole))
    return tuple(basis)
