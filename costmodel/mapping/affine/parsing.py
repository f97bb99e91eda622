"""Affine programs written as Python loops, read without running them.

    for i in range(n):
        for k in range(n):
            for j in range(i + 1):
                C[i, j] += alpha * A[i, k] * A[j, k]

Bounds and subscripts are affine in the enclosing loops and in sizes (names given numbers later); `max` may stand in a start,
`min` in a stop, and `if` takes comparisons of affine expressions joined by `and`. A step is a whole number, or the name of a size
(the width of a tile). Names without subscripts are scalars: they live in registers and move nothing. Reads come in the order of
the text, an assignment's own target after them, then the write. Operations are counted as written: + - * / and sqrt().
"""

import ast
import dataclasses
from collections.abc import Iterable, Iterator, Mapping


@dataclasses.dataclass(frozen=True)
class Affine:
    """A sum of whole multiples of names, and a constant."""

    terms: tuple[tuple[str, int], ...]
    constant: int

    def __add__(self, other: "Affine") -> "Affine":
        return _affine(_sum(self, other, 1), self.constant + other.constant)

    def __sub__(self, other: "Affine") -> "Affine":
        return _affine(_sum(self, other, -1), self.constant - other.constant)

    def times(self, factor: int) -> "Affine":
        """A whole multiple."""
        return _affine({name: factor * c for name, c in self.terms}, factor * self.constant)

    def coefficient(self, name: str) -> int:
        """Of a name; 0 where it does not occur."""
        return dict(self.terms).get(name, 0)

    def value(self, names: Mapping[str, int]) -> int:
        """With all names given."""
        return self.constant + sum(c * names[name] for name, c in self.terms)


def _sum(a: Affine, b: Affine, sign: int) -> dict[str, int]:
    terms = dict(a.terms)
    for name, c in b.terms:
        terms[name] = terms.get(name, 0) + sign * c
    return terms


def _affine(terms: Mapping[str, int], constant: int) -> Affine:
    return Affine(tuple(sorted((name, c) for name, c in terms.items() if c)), constant)


ONE = Affine((), 1)


@dataclasses.dataclass(frozen=True)
class Access:
    """One array element read or written."""

    array: str
    subscripts: tuple[Affine, ...]
    write: bool


@dataclasses.dataclass(frozen=True)
class Statement:
    """Accesses in order, and arithmetic operations."""

    accesses: tuple[Access, ...]
    flops: int


@dataclasses.dataclass(frozen=True)
class Guard:
    """What is done only where all `conditions` are >= 0."""

    conditions: tuple[Affine, ...]
    body: "tuple[Node, ...]"


@dataclasses.dataclass(frozen=True)
class Loop:
    """`name` from the largest of `lower` to the smallest of `upper`, both included; `step` is a number or a size."""

    name: str
    lower: tuple[Affine, ...]
    upper: tuple[Affine, ...]
    step: int | str
    body: "tuple[Node, ...]"


Node = Loop | Guard | Statement


def check_ranks(accesses: Iterable[Access]) -> None:
    """ValueError for an array with different numbers of subscripts."""
    ranks: dict[str, int] = {}
    for access in accesses:
        rank = len(access.subscripts)
        if (known := ranks.setdefault(access.array, rank)) != rank:
            raise ValueError(f"{access.array} has {known} subscripts in one place and {rank} in another")


def parse(text: str) -> tuple[Node, ...]:
    """The loops and statements of a program; ValueError with line number for anything that is not affine."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from None
    return tuple(node for line in tree.body for node in _node(line))


def parse_affine(expression: ast.expr) -> Affine:
    """An affine expression; ValueError otherwise."""
    match expression:
        case ast.Name(id=name):
            return Affine(((name, 1),), 0)
        case ast.Constant(value=int(number)):
            return Affine((), number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return parse_affine(operand).times(-1)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return parse_affine(left) + parse_affine(right)
        case ast.BinOp(op=ast.Sub(), left=left, right=right):
            return parse_affine(left) - parse_affine(right)
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            a, b = parse_affine(left), parse_affine(right)
            if not a.terms:
                return b.times(a.constant)
            if not b.terms:
                return a.times(b.constant)
    raise _refused(expression, f"{ast.unparse(expression)} is not affine")


def parse_affine_text(text: str) -> Affine:
    """An affine expression from its text; ValueError otherwise."""
    try:
        return parse_affine(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{text!r}: {error.msg}") from None


def _refused(node: ast.AST, why: str) -> ValueError:
    return ValueError(f"line {getattr(node, 'lineno', 0)}: {why}")


def _node(line: ast.stmt) -> Iterator[Node]:
    match line:
        case ast.For(target=ast.Name(id=name), iter=ast.Call(func=ast.Name(id="range"), args=args), body=body, orelse=[]):
            yield _loop(line, name, args, tuple(n for part in body for n in _node(part)))
        case ast.If(test=test, body=body, orelse=orelse):
            if orelse:
                raise _refused(line, "an else is not read; write a second if")
            yield Guard(tuple(_conditions(test)), tuple(n for part in body for n in _node(part)))
        case ast.Assign(targets=[target], value=value):
            yield _statement(target, value, None)
        case ast.AugAssign(target=target, value=value):
            yield _statement(target, value, target)
        case ast.Expr(value=ast.Constant()) | ast.Pass():
            return
        case _:
            raise _refused(line, f"{ast.unparse(line).splitlines()[0]} is neither a loop over range() nor an assignment")


def _loop(line: ast.AST, name: str, args: list[ast.expr], body: tuple[Node, ...]) -> Loop:
    if not 1 <= len(args) <= 3:
        raise _refused(line, f"range() takes 1 to 3 values, not {len(args)}")
    start, stop = (None, args[0]) if len(args) == 1 else (args[0], args[1])
    step: int | str = 1
    if len(args) == 3:
        written = args[2]
        step = written.id if isinstance(written, ast.Name) else parse_affine(written).constant
    first = (Affine((), 0),) if start is None else _bound(start, "min" if step == -1 else "max")
    if step == -1:
        return Loop(name, tuple(b + ONE for b in _bound(stop, "max")), first, -1, body)
    if isinstance(step, int) and step < 1:
        raise _refused(line, f"step = {step} is neither -1 nor at least 1")
    return Loop(name, first, tuple(b - ONE for b in _bound(stop, "min")), step, body)


def _bound(expression: ast.expr, joined: str) -> tuple[Affine, ...]:
    match expression:
        case ast.Call(func=ast.Name(id=name), args=args) if name == joined:
            return tuple(b for part in args for b in _bound(part, joined))
    return (parse_affine(expression),)


def _conditions(test: ast.expr) -> Iterator[Affine]:
    match test:
        case ast.BoolOp(op=ast.And(), values=values):
            for value in values:
                yield from _conditions(value)
            return
        case ast.Compare(left=left, ops=[comparison], comparators=[right]):
            gap = parse_affine(right) - parse_affine(left)
            match comparison:
                case ast.LtE():
                    yield gap
                case ast.Lt():
                    yield gap - ONE
                case ast.GtE():
                    yield gap.times(-1)
                case ast.Gt():
                    yield gap.times(-1) - ONE
                case ast.Eq():
                    yield gap
                    yield gap.times(-1)
                case _:
                    raise _refused(test, f"{ast.unparse(test)} is not one of < <= > >= ==")
            return
    raise _refused(test, f"{ast.unparse(test)} is not a comparison")


def _statement(target: ast.expr, value: ast.expr, also_read: ast.expr | None) -> Statement:
    reads = [*_reads(value), *(() if also_read is None else _reads(also_read))]
    writes = [Access(a.array, a.subscripts, True) for a in _reads(target)]
    return Statement((*reads, *writes), _operations(value) + (also_read is not None))


def _operations(expression: ast.expr) -> int:
    """Arithmetic operations, those of subscripts left out."""
    if isinstance(expression, ast.Subscript):
        return 0
    root = isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name) and expression.func.id == "sqrt"
    inner = sum(_operations(child) for child in ast.iter_child_nodes(expression) if isinstance(child, ast.expr))
    return inner + (isinstance(expression, ast.BinOp) or root)


def _reads(expression: ast.expr) -> Iterator[Access]:
    match expression:
        case ast.Subscript(value=ast.Name(id=array), slice=index):
            parts = index.elts if isinstance(index, ast.Tuple) else [index]
            yield Access(array, tuple(parse_affine(part) for part in parts), False)
        case _:
            for child in ast.iter_child_nodes(expression):
                if isinstance(child, ast.expr):
                    yield from _reads(child)
