"""Which transformations keep the order of dependent accesses: tiling a band of loops, fusing two nests. For all sizes at once.

Two accesses of one element depend on each other if one of them writes. With loops l_1 ... l_k of a band (or their skewed
coordinates, such as i + s), and all dependences that no loop around the band carries already,

    tiling is legal    iff no distance (later - earlier) has a negative component in the band
    fusion is legal    iff no access of the second nest depends on one of the first at a larger turn of the fused loop

Dependences are by element, so a value that is only overwritten counts too; sums are not reordered. Sizes stay symbols. Exact in
whole numbers by the isl library (islpy, the optional extra `polyhedral`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from costmodel.mapping.affine.parsing import Affine, parse_affine_text
from costmodel.mapping.affine.programs import AffineProgram, Placed, common_loops


class Legality(NamedTuple):
    """Whether a transformation is legal; else the array and one distance (by coordinate) that it breaks."""

    legal: bool
    array: str | None = None
    distance: tuple[int, ...] | None = None

    def __bool__(self) -> bool:
        return self.legal


def check_tiling(program: AffineProgram, band: Sequence[str], at_least: Mapping[str, int] | None = None) -> Legality:
    """Whether the loops of `band` may be tiled (and interchanged) together.

    `band` names loops or skewed coordinates, such as ("s", "i + s"); accesses that are not inside all of its loops take no part.
    `at_least`: smallest value of a size, 1 unless given. ValueError for a loop that no access is in, or loops with steps;
    ImportError without islpy.
    """
    coordinates = [parse_affine_text(text) for text in band]
    names = {name for form in coordinates for name, _ in form.terms}
    inside = [p for p in program.placed if names <= {loop.name for loop in p.loops}]
    if not inside or not names:
        raise ValueError(f"band = {', '.join(band)}: no access is inside all of these loops")
    for array, pair in _pairs(inside):
        earlier, later = pair
        outer = min(next(q for q, loop in enumerate(p.loops) if loop.name in names) for p in pair)
        if common_loops(earlier, later) <= outer:
            continue
        found = _broken(program, earlier, later, coordinates, outer, at_least or {})
        if found is not None:
            return Legality(False, array, found)
    return Legality(True)


def check_fusion(program: AffineProgram, first: int = 0, second: int = 1, at_least: Mapping[str, int] | None = None) -> Legality:
    """Whether the outermost loops of the nests number `first` and `second` of a program may be fused, turn by turn.

    What stands between them must depend on neither. ValueError if they do not follow in this order; ImportError without islpy.
    """
    if not 0 <= first < second < len(program.body):
        raise ValueError(f"nests {first} and {second}: the program has {len(program.body)}, and they must be in order")
    one = [p for p in program.placed if p.places[0] == first]
    two = [p for p in program.placed if p.places[0] == second]
    for p in (*one, *two):
        if not p.loops:
            raise ValueError(f"{p.access.array}: an access outside all loops cannot be fused")
    for earlier in one:
        for later in two:
            if _depend(earlier, later):
                found = _broken(program, earlier, later, None, 0, at_least or {})
                if found is not None:
                    return Legality(False, earlier.access.array, found)
    return Legality(True)


def _depend(a: Placed, b: Placed) -> bool:
    return a.access.array == b.access.array and (a.access.write or b.access.write)


def _pairs(placed: Sequence[Placed]) -> Iterator[tuple[str, tuple[Placed, Placed]]]:
    for earlier in placed:
        for later in placed:
            if _depend(earlier, later):
                yield earlier.access.array, (earlier, later)


def _broken(
    program: AffineProgram,
    earlier: Placed,
    later: Placed,
    coordinates: list[Affine] | None,
    outer: int,
    at_least: Mapping[str, int],
) -> tuple[int, ...] | None:
    """A distance with a negative component between dependent iterations of two accesses; the first `outer` loops are equal.

    Without coordinates the accesses are in different nests, and the distance is that of their outermost loops.
    """
    import islpy as isl

    sizes = program.sizes
    source = {loop.name: f"v{q}" for q, loop in enumerate(earlier.loops)}
    sink = {loop.name: f"w{q}" for q, loop in enumerate(later.loops)}
    facts = [f"{size} >= {at_least.get(size, 1)}" for size in sizes]
    facts += [*_domain(earlier, source), *_domain(later, sink)]
    facts += [
        f"{_write(a, source)} = {_write(b, sink)}"
        for a, b in zip(earlier.access.subscripts, later.access.subscripts, strict=True)
    ]
    if coordinates is None:
        gaps, order = [f"{_turn(later, 0, 'w')} - ({_turn(earlier, 0, 'v')})"], ["true"]
    else:
        facts += [f"v{q} = w{q}" for q in range(outer)]
        gaps = [f"({_write(form, sink)}) - ({_write(form, source)})" for form in coordinates]
        order = list(_orders(earlier, later, outer))
    distance = ", ".join(f"d{k}" for k in range(len(gaps)))
    facts += [f"d{k} = {gap}" for k, gap in enumerate(gaps)]
    inner = ", ".join((*source.values(), *sink.values()))
    negative = " or ".join(f"d{k} < 0" for k in range(len(gaps)))
    for condition in order:
        text = (
            f"[{', '.join(sizes)}] -> {{ [{distance}] : exists {inner} : {' and '.join((*facts, condition))} and ({negative}) }}"
        )
        found = isl.Set(text)
        if not found.is_empty():
            point = found.sample_point()
            return tuple(_number(point.get_coordinate_val(isl.dim_type.set, k)) for k in range(len(gaps)))
    return None


def _number(value) -> int:
    return int(value.to_python())


def _turn(p: Placed, q: int, letter: str) -> str:
    """The turn of a loop in the order of execution."""
    return f"{letter}{q}" if p.loops[q].step != -1 else f"-{letter}{q}"


def _orders(earlier: Placed, later: Placed, outer: int) -> Iterator[str]:
    """Conditions, one of which holds where the earlier access comes first, with the first `outer` loops equal."""
    shared = common_loops(earlier, later)
    for q in range(outer, shared):
        equal = [f"v{i} = w{i}" for i in range(outer, q)]
        yield " and ".join([*equal, f"{_turn(earlier, q, 'v')} < {_turn(later, q, 'w')}"])
    if earlier.places[shared:] < later.places[shared:]:
        yield " and ".join([f"v{i} = w{i}" for i in range(outer, shared)] or ["true"])


def _domain(p: Placed, names: Mapping[str, str]) -> Iterator[str]:
    for loop in p.loops:
        if loop.step not in (1, -1):
            raise ValueError(f"loop {loop.name} has steps of {loop.step}; legality is asked of programs that are not tiled yet")
        yield from (f"{_write(low, names)} <= {names[loop.name]}" for low in loop.lower)
        yield from (f"{names[loop.name]} <= {_write(high, names)}" for high in loop.upper)
    yield from (f"{_write(guard, names)} >= 0" for guard in p.guards)


def _write(form: Affine, names: Mapping[str, str]) -> str:
    return " + ".join([*(f"{c} {names.get(name, name)}" for name, c in form.terms), str(form.constant)])
