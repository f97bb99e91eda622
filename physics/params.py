"""Parameters as labelled leaves: every number of the hardware has a unit, a range and a source.

A model is an `equinox.Module` that derives from `ParameterTree`; its numeric fields are made by `param()`.
Sweeps, gradients, calibration and bound checks all work on that tree by dotted label
(`"device.retention.e_a"`), so nothing needs a second description of the hardware.

Leaves are converted to strongly typed arrays in the constructor, so that different Python numbers never
retrace a jitted function. Ranges are checked in the constructor and in `replace()`, outside jit only:
a traced value cannot be checked and is passed through.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class Param:
    """What is known about one parameter: its unit, closed range [lo, hi], natural scale and origin."""

    unit: str
    lo: float
    hi: float
    log: bool
    source: str


class LabelledParam(NamedTuple):
    """One parameter of a tree: its dotted label, its description and its present value."""

    label: str
    param: Param
    value: Any


def as_leaf(value: Any) -> Any:
    """A strongly typed float array of `value`; None and non-numbers are refused."""
    if value is None or isinstance(value, str):
        raise ValueError(f"a parameter must be a number, got {value!r}")
    try:
        return jnp.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"a parameter must be a number, got {value!r}") from None


def param(default: Any = dataclasses.MISSING, *, unit: str, lo: float, hi: float, source: str, log: bool = False) -> Any:
    """A numeric field of a `ParameterTree`.

    `lo` and `hi` are the closed range in `unit`; `log=True` says that ratios, not differences, are natural
    (it is the scale for sweeps and calibration). `source` is a citation, or "assumed: why".
    """
    info = Param(unit=unit, lo=lo, hi=hi, log=log, source=source)
    extra = {} if default is dataclasses.MISSING else {"default": default}
    return eqx.field(converter=as_leaf, metadata={"param": info}, **extra)


def check_range(name: str, value: Any, info: Param) -> None:
    """Raise ValueError with field, value, unit and range if `value` is concrete and not inside [lo, hi]."""
    if isinstance(value, Tracer) or not isinstance(value, jax.Array | np.ndarray | float | int):
        return
    array = np.asarray(value, dtype=np.float64)
    low, high = info.lo - 1e-6 * abs(info.lo), info.hi + 1e-6 * abs(info.hi)  # room for rounding to float32
    bad = ~((array >= low) & (array <= high) & np.isfinite(array))
    if bad.any():
        worst = array[bad].flat[0]
        unit = "" if info.unit == "1" else f" {info.unit}"
        raise ValueError(f"{name} = {worst:g}{unit} is outside its range [{info.lo:g}, {info.hi:g}]{unit}")


class Citations(tuple[tuple[str, str], ...]):
    """(label, source) pairs of a named device's own numbers, for a static field.

    Documentation, not structure: any two compare equal, so that devices which differ in nothing else can be stacked into
    one batch and share one compiled program (whose results then carry the citations of the first).
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Citations)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(Citations)


def citations() -> Any:
    """The static field `sources` of a class whose instances may be named devices."""
    return eqx.field(static=True, converter=Citations, default=Citations())


if TYPE_CHECKING:

    class _Module:
        """What a type checker sees of `eqx.Module`: fields become arrays, but the constructor takes any numbers."""

        __dataclass_fields__: ClassVar[dict[str, Any]]

        def __init__(self, *values: Any, **named: Any) -> None: ...

else:
    _Module = eqx.Module


class ParameterTree(_Module):
    """Base of every model with physical parameters; refuses values outside their range when constructed."""

    def __check_init__(self) -> None:
        for field in dataclasses.fields(self):
            info = field.metadata.get("param")
            if info is not None:
                check_range(f"{type(self).__name__}.{field.name}", getattr(self, field.name), info)


def parameters(tree: Any) -> tuple[LabelledParam, ...]:
    """All parameters of `tree` (modules, dicts, lists and tuples are entered), in leaf order.

    A module with a static field `sources`, pairs of (label, citation), says where its own numbers come from where that
    differs from its class's defaults: the named devices do.
    """
    return tuple(_walk(tree, "", {}))


def _walk(node: Any, prefix: str, sources: Mapping[str, str]) -> Iterator[LabelledParam]:
    own = getattr(node, "sources", ()) if isinstance(node, ParameterTree) else ()
    sources = {**{f"{prefix}{label}": source for label, source in own}, **sources}
    for name, child, info in _children(node):
        label = f"{prefix}{name}"
        if info is not None:
            yield LabelledParam(label, dataclasses.replace(info, source=sources.get(label, info.source)), child)
        else:
            yield from _walk(child, f"{label}.", sources)


def _children(node: Any) -> Iterator[tuple[str, Any, Param | None]]:
    if isinstance(node, eqx.Module):
        for field in dataclasses.fields(node):
            if not field.metadata.get("static", False):
                yield field.name, getattr(node, field.name), field.metadata.get("param")
    elif isinstance(node, Mapping):
        for key in sorted(node):
            yield str(key), node[key], None
    elif isinstance(node, list | tuple):
        for index, child in enumerate(node):
            yield str(index), child, None


def labels(tree: Any) -> tuple[str, ...]:
    """Dotted names of all parameters of `tree`, in leaf order."""
    return tuple(p.label for p in parameters(tree))


def bounds(tree: Any) -> dict[str, tuple[float, float]]:
    """The closed range of every parameter, by label, in the parameter's own unit."""
    return {p.label: (p.param.lo, p.param.hi) for p in parameters(tree)}


def values(tree: Any) -> dict[str, Any]:
    """The present value of every parameter, by label."""
    return {p.label: p.value for p in parameters(tree)}


def lookup(tree: Any, label: str) -> LabelledParam:
    """The parameter called `label`; ValueError with close matches if there is none."""
    table = {p.label: p for p in parameters(tree)}
    if label not in table:
        raise ValueError(unknown_name("parameter", label, table))
    return table[label]


def replace(tree: Tree, changes: Mapping[str, Any]) -> Tree:
    """`tree` with the parameters named in `changes` set to new values.

    Concrete values are checked against their range; arrays (a batch for `jax.vmap`) and traced values are allowed.
    Raises ValueError for an unknown label or a value outside its range.
    """
    for label, value in changes.items():
        found = lookup(tree, label)
        leaf = as_leaf(value)
        check_range(label, leaf, found.param)
        tree = eqx.tree_at(lambda t, path=label: _get(t, path), tree, leaf)
    return tree


def with_sources(tree: Tree, numbers: Mapping[str, tuple[float, str]]) -> Tree:
    """A named device: `tree`, which has a static field `sources`, with (value, source) set for every label in `numbers`."""
    changed = replace(tree, {label: value for label, (value, _) in numbers.items()})
    sources = Citations((label, source) for label, (_, source) in numbers.items())
    return cast(Tree, dataclasses.replace(cast(Any, changed), sources=sources))


def _get(tree: Any, label: str) -> Any:
    node = tree
    for part in label.split("."):
        if isinstance(node, Mapping):
            node = node[part]
        elif isinstance(node, list | tuple):
            node = node[int(part)]
        else:
            node = getattr(node, part)
    return node


def unknown_name(what: str, name: str, known: Any) -> str:
    """One line for an unknown name, with close matches if there are any."""
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=3, cutoff=0.4)
    hint = f"close: {', '.join(close)}" if close else f"known: {', '.join(sorted(map(str, known)))}"
    return f"unknown {what} {name!r}; {hint}"


class Description(tuple[LabelledParam, ...]):
    """The rows of `describe()`; prints as a table of label, value, unit, range and source."""

    def __str__(self) -> str:
        rows = [("parameter", "value", "unit", "range", "source")]
        for p in self:
            value = np.asarray(p.value)
            shown = f"{value:.6g}" if value.ndim == 0 else f"array{value.shape}"
            rows.append((p.label, shown, p.param.unit, f"[{p.param.lo:g}, {p.param.hi:g}]", p.param.source))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row[:4], widths, strict=True)) + "  " + row[4] for row in rows)

    __repr__ = __str__


def describe(tree: Any) -> Description:
    """A printable table of every parameter of `tree` with value, unit, range and source."""
    return Description(parameters(tree))
