"""Programs with numbers: every access of a parsed program as a row of arrays; new sizes are new numbers, not new code.

Each access has its enclosing loops (at most `MOST_LOOPS`), the region of iterations in which it runs, and its subscripts.
Regions are held as difference bounds, v_a - v_b <= M[a, b] over the loops and a constant 0, closed under shortest paths: the
largest and smallest value of any loop, given some of the others, are then one step away and exact in whole numbers (Dill 1989).
Bounds and subscripts must be differences, such as i <= j + 1 or A[k - i - 1, j]; sums as in a convolution's window are not.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from costmodel.mapping.affine.parsing import Access, Affine, Guard, Loop, Node, Statement, check_ranks, parse

MOST_LOOPS = 6
RANK = 3  # subscripts
FAR = 1 << 28  # no bound
WORD = 1 << 30  # times are two words below this


class Accesses(NamedTuple):
    """All accesses of a program with numbers, in groups of one array; R accesses, nodes are `depth` loops and a constant 0."""

    region: np.ndarray  # (R, nodes, nodes) closed difference bounds
    upward: np.ndarray  # (R, depth) whether a loop counts up
    step: np.ndarray  # (R, depth)
    start: np.ndarray  # (R, depth) a value that the loop takes, for steps
    plus: np.ndarray  # (R, RANK) node with coefficient 1 of each subscript
    minus: np.ndarray  # (R, RANK) node with coefficient -1
    offset: np.ndarray  # (R, RANK)
    array: np.ndarray  # (R,) number of the array
    write: np.ndarray  # (R,)
    shared: np.ndarray  # (R, R) loops in common
    before: np.ndarray  # (R, R) whether the column's access comes first in the same iteration of the shared loops
    weight: np.ndarray  # (R, 2, depth) of a loop's turn in the two words of a time
    text: np.ndarray  # (R, 2) of the place in the text
    low: np.ndarray  # (arrays, RANK) smallest subscripts
    extent: np.ndarray  # (arrays, RANK) of the box around all subscripts


@dataclasses.dataclass(frozen=True)
class Placed:
    """An access with everything around it."""

    access: Access
    loops: tuple[Loop, ...]
    guards: tuple[Affine, ...]
    places: tuple[int, ...]  # position in the text at each depth, and within the statement


@dataclasses.dataclass(frozen=True)
class AffineProgram:
    """A program of affine loops; `AffineProgram.read(text)`. Hashable."""

    body: tuple[Node, ...]

    def __post_init__(self) -> None:
        check_ranks(p.access for p in self.placed)
        for p in self.placed:
            names = [loop.name for loop in p.loops]
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"loop {twice[0]} is inside another loop of this name")

    @classmethod
    def read(cls, text: str) -> "AffineProgram":
        """From the text of Python loops, see `parsing`; ValueError with line number for what cannot be read.

        ValueError too for an array with different numbers of subscripts, and for a loop inside one of the same name.
        """
        return cls(parse(text))

    @property
    def placed(self) -> tuple[Placed, ...]:
        """All accesses, in the order of the text."""
        return tuple(_placed(self.body))

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names that numbers must be given for."""
        placed = self.placed
        own = {loop.name for p in placed for loop in p.loops}
        used: set[str] = set()
        for p in placed:
            forms = [*p.access.subscripts, *p.guards, *(b for loop in p.loops for b in (*loop.lower, *loop.upper))]
            used |= {name for form in forms for name, _ in form.terms}
            used |= {loop.step for loop in p.loops if isinstance(loop.step, str)}
        return tuple(sorted(used - own))

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays, in alphabetical order."""
        return tuple(sorted({p.access.array for p in self.placed}))

    def bind(self, sizes: Mapping[str, int | float]) -> Accesses:
        """All accesses with numbers for the sizes.

        ValueError for a missing or unknown size, one that is not a whole number, more than `MOST_LOOPS` loops or `RANK`
        subscripts, a bound or subscript that is not a difference, an empty program, or one too long for the times to be told
        apart (about 10^18 iterations).
        """
        if set(sizes) != set(self.sizes):
            raise ValueError(f"the program has the sizes {', '.join(self.sizes)}; given: {', '.join(sizes) or 'none'}")
        for name, value in sizes.items():
            if value != value // 1:
                raise ValueError(f"{name} = {value:g} is not a whole number")
        whole = {name: int(value) for name, value in sizes.items()}
        placed = sorted(self.placed, key=lambda p: p.access.array)
        if not placed:
            raise ValueError("the program touches no array element")
        depth = max(len(p.loops) for p in placed)
        rows = [(p, _region(p, whole, depth)) for p in placed]
        rows = [(p, region) for p, region in rows if (np.diag(region) >= 0).all()]
        if not rows:
            raise ValueError("the program touches no array element with these sizes")
        return _tabulate(rows, whole)


def _flat(body: tuple[Node, ...], guards: tuple[Affine, ...]) -> Iterator[tuple[tuple[Affine, ...], Loop | Statement]]:
    """Loops and statements with the guards around them: a guard is no loop and has no place of its own."""
    for node in body:
        if isinstance(node, Guard):
            yield from _flat(node.body, (*guards, *node.conditions))
        else:
            yield guards, node


def _placed(
    body: tuple[Node, ...], loops: tuple[Loop, ...] = (), guards: tuple[Affine, ...] = (), places: tuple[int, ...] = ()
) -> Iterator[Placed]:
    for place, (conditions, node) in enumerate(_flat(body, guards)):
        if isinstance(node, Loop):
            yield from _placed(node.body, (*loops, node), conditions, (*places, place))
        else:
            for rank, access in enumerate(node.accesses):
                yield Placed(access, loops, conditions, (*places, place, rank))


def _bound(form: Affine, names: tuple[str, ...], sizes: Mapping[str, int], depth: int, what: str) -> tuple[int, int, int]:
    """Nodes with coefficients 1 and -1, and the constant of an affine form."""
    constant = form.constant + sum(c * sizes[name] for name, c in form.terms if name not in names)
    loops = [(name, c) for name, c in form.terms if name in names]
    plus = [names.index(name) for name, c in loops if c == 1]
    minus = [names.index(name) for name, c in loops if c == -1]
    if len(plus) > 1 or len(minus) > 1 or len(plus) + len(minus) != len(loops):
        raise ValueError(f"{what} {_text(form)} is not a difference of two loops")
    return (plus or [depth])[0], (minus or [depth])[0], constant


def _text(form: Affine) -> str:
    return " + ".join([*(f"{c} {name}" for name, c in form.terms), str(form.constant)])


def _region(p: Placed, sizes: Mapping[str, int], depth: int) -> np.ndarray:
    names = tuple(loop.name for loop in p.loops)
    if len(names) > MOST_LOOPS or len(p.access.subscripts) > RANK:
        raise ValueError(
            f"{p.access.array}: {len(names)} loops and {len(p.access.subscripts)} subscripts; at most {MOST_LOOPS} and {RANK}"
        )
    m = np.full((depth + 1, depth + 1), FAR, np.int64)
    np.fill_diagonal(m, 0)
    m[len(names) : depth, depth] = m[depth, len(names) : depth] = 0
    forms = [*p.guards]
    for loop in p.loops:
        own = Affine(((loop.name, 1),), 0)
        forms += [own - low for low in loop.lower] + [high - own for high in loop.upper]
    for form in forms:  # plus - minus + constant >= 0
        plus, minus, constant = _bound(form, names, sizes, depth, "bound")
        m[minus, plus] = min(m[minus, plus], constant)
    for k in range(depth + 1):
        m = np.minimum(m, m[:, k, None] + m[None, k, :])
    return np.clip(m, -FAR, FAR)


def _tabulate(rows: list[tuple[Placed, np.ndarray]], sizes: Mapping[str, int]) -> Accesses:
    count, arrays, depth = len(rows), sorted({p.access.array for p, _ in rows}), len(rows[0][1]) - 1
    region = np.stack([m for _, m in rows])
    upward, step, start = np.ones((count, depth), bool), np.ones((count, depth), int), np.zeros((count, depth), int)
    ends = np.full((2, count, RANK), depth)
    offset = np.zeros((count, RANK), int)
    for r, (p, _) in enumerate(rows):
        names = tuple(loop.name for loop in p.loops)
        for q, loop in enumerate(p.loops):
            upward[r, q] = loop.step != -1
            step[r, q] = 1 if loop.step == -1 else sizes[loop.step] if isinstance(loop.step, str) else loop.step
            if step[r, q] > 1:
                start[r, q] = _constant_start(loop, sizes)
        for d, form in enumerate(p.access.subscripts):
            ends[0, r, d], ends[1, r, d], offset[r, d] = _bound(form, names, sizes, depth, "subscript")
    if (step < 1).any():
        raise ValueError(f"step = {step.min()} is outside its range [1, inf)")
    weight, text = _times(rows, region)
    array = np.asarray([arrays.index(p.access.array) for p, _ in rows])
    each = np.arange(count)[:, None]
    plus, minus = ends
    highest, lowest = region[each, plus, minus] + offset, offset - region[each, minus, plus]
    low = np.stack([lowest[array == a].min(0) for a in range(len(arrays))])
    high = np.stack([highest[array == a].max(0) for a in range(len(arrays))])
    shared, before = _pairs(rows)
    write = np.asarray([p.access.write for p, _ in rows])
    return Accesses(
        region, upward, step, start, ends[0], ends[1], offset, array, write, shared, before, weight, text, low, high - low + 1
    )


def _constant_start(loop: Loop, sizes: Mapping[str, int]) -> int:
    first, *more = loop.lower
    if more or any(name not in sizes for name, _ in first.terms):
        raise ValueError(f"loop {loop.name} has steps, so its start must be a single number")
    return first.value(sizes)


def common_loops(one: Placed, other: Placed) -> int:
    """How many loops, from the outermost, two accesses share."""
    depth = 0
    while (
        depth < min(len(one.loops), len(other.loops))
        and one.places[: depth + 1] == other.places[: depth + 1]
        and one.loops[depth] is other.loops[depth]
    ):
        depth += 1
    return depth


def _pairs(rows: list[tuple[Placed, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    count = len(rows)
    shared, before = np.zeros((count, count), int), np.zeros((count, count), bool)
    for r, (own, _) in enumerate(rows):
        for s, (other, _) in enumerate(rows):
            depth = common_loops(own, other)
            shared[r, s], before[r, s] = depth, other.places[depth:] < own.places[depth:]
    return shared, before


def _times(rows: list[tuple[Placed, np.ndarray]], region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights that turn places in the text and loop turns, in the order of execution, into two words."""
    depth = region.shape[1] - 1
    loops = 0 <= region[:, :depth, depth] + region[:, depth, :depth]
    widths = np.where(loops, region[:, :depth, depth] + region[:, depth, :depth] + 1, 1).max(0)
    places = [{p.places[q] for p, _ in rows if q < len(p.places)} for q in range(depth + 2)]
    ranks = [{place: i for i, place in enumerate(sorted(found))} for found in places]
    radices = [r for q in range(depth) for r in (max(len(ranks[q]), 1), int(widths[q]))]
    radices += [max(len(ranks[depth]), 1), max(len(ranks[depth + 1]), 1)]
    word, scale, scales = 1, 1, [(0, 0)] * len(radices)
    for i in reversed(range(len(radices))):
        if scale * radices[i] > WORD:
            word, scale = word - 1, 1
            if word < 0 or radices[i] > WORD:
                raise ValueError("the program has too many iterations for its times to be told apart (about 10^18)")
        scales[i] = (word, scale)
        scale *= radices[i]
    weight, text = np.zeros((len(rows), 2, depth), int), np.zeros((len(rows), 2), int)
    for r, (p, _) in enumerate(rows):
        for q, place in enumerate(p.places):
            w, scale = scales[2 * q if q <= depth else 2 * depth + 1]
            text[r, w] += scale * ranks[q][place]
        for q, loop in enumerate(p.loops):
            w, scale = scales[2 * q + 1]
            sign = -1 if loop.step == -1 else 1
            weight[r, w, q] = sign * scale
            text[r, w] -= sign * scale * _common_first(rows, region, loop, q)
    return weight, text


def _common_first(rows: list[tuple[Placed, np.ndarray]], region: np.ndarray, loop: Loop, q: int) -> int:
    """Where a loop begins for any of the accesses in it."""
    inside = [r for r, (p, _) in enumerate(rows) if q < len(p.loops) and p.loops[q] is loop]
    if loop.step == -1:
        return max(int(region[r, q, -1]) for r in inside)
    return min(-int(region[r, -1, q]) for r in inside)
