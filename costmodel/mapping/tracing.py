"""From a JAX function to its layer graph: the jaxpr is walked once, with maps of places instead of numbers.

An array is followed as a map and the *role* of each of its axes: rows, columns, or none (channels, batch). Two spatial axes are
kept; of a third, and of a batch, every place of the map holds several products. Calls are inlined.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from costmodel.mapping.dependencies import INPUT, Axis, Join, Layer, LayerGraph, Merge, Step, Window
from workloads.catalog import load_deployed
from workloads.importers.flatten import called_body
from workloads.importers.rules import ELEMENTWISE, REDUCTIONS, WINDOWS

ROWS, COLUMNS, NONE = 0, 1, -1
LOOPS = ("scan", "while", "cond", "shard_map")
PRODUCTS = ("conv_general_dilated", "dot_general")


@dataclasses.dataclass(frozen=True)
class Traced:
    """An array that depends on the network's input: its map, its shape and the role of each axis."""

    map: int
    shape: tuple[int, ...]
    roles: tuple[int, ...]

    def axis_of(self, role: int) -> int | None:
        """The array's axis that has a role."""
        return self.roles.index(role) if role in self.roles else None


def layer_graph(
    source: str | Callable[..., Any], *args: Any, weights: Sequence[int] = (0,), name: str | None = None
) -> LayerGraph:
    """The layer graph of a named network (see `workloads.list_networks`) as it is deployed, or of `source(*args)`.

    `args` are arrays or `jax.ShapeDtypeStruct`s; `weights` are the positions of those that are parameters.
    Raises ValueError for an unknown name, for a network without constant weights, and, naming it, for a layer that cannot be
    mapped: a product of two activations, or one inside a loop.
    """
    if isinstance(source, str):
        deployed = load_deployed(source)
        return layer_graph(deployed.apply, deployed.variables, deployed.image, name=source.strip().lower())
    label = name or getattr(source, "__name__", type(source).__name__)
    for position in weights:
        if not 0 <= position < len(args):
            raise ValueError(f"weights = {position} is outside its range [0, {len(args) - 1}] (positional arguments)")
    closed = jax.make_jaxpr(source)(*args)
    values: list[Traced | None] = []
    for position, arg in enumerate(args):
        for leaf in jax.tree.leaves(arg):
            shape = tuple(leaf.shape)
            values.append(None if position in weights else Traced(INPUT, shape, (NONE,) * len(shape)))
    walk = _Walk(label)
    walk.body(closed.jaxpr, values, "")
    return LayerGraph(label, walk.named_steps())


class _Walk:
    """Appends the steps of a jaxpr; None stands for a value that depends on parameters alone."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.steps: list[Step] = []
        self.scopes: list[tuple[str, ...]] = []  # of the base layers

    def named_steps(self) -> tuple[Step, ...]:
        """The steps with distinct names for the layers: the scope they were written in, without the network's own."""
        scopes = self.scopes
        outer = scopes[0][:1] if scopes else ()
        if outer and len(scopes) > 1 and all(scope[:1] == outer for scope in scopes):
            scopes = [scope[1:] for scope in scopes]
        seen: Counter[str] = Counter()
        names = []
        for scope in scopes:
            base = "/".join(part for part in scope if part != "linear") or "layer"
            seen[base] += 1
            names.append(base if seen[base] == 1 else f"{base}-{seen[base]}")
        fresh = iter(names)
        return tuple(dataclasses.replace(s, name=next(fresh)) if isinstance(s, Layer) else s for s in self.steps)

    # -- the walk

    def body(self, jaxpr: Any, args: Sequence[Traced | None], scope: str) -> list[Traced | None]:
        """The results of an open jaxpr called with `args`."""
        env: dict[Any, Traced | None] = dict(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Traced | None:
            return None if isinstance(atom, core.Literal) else env.get(atom)

        for eqn in jaxpr.eqns:
            inputs = [read(atom) for atom in eqn.invars]
            inner = "/".join(part for part in (scope, str(eqn.source_info.name_stack)) if part)
            env.update(zip(eqn.outvars, self._equation(eqn, inputs, inner), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn: Any, inputs: list[Traced | None], scope: str) -> list[Traced | None]:
        shapes = [tuple(getattr(v.aval, "shape", ())) for v in eqn.outvars]
        active = [v for v in inputs if v is not None]
        if not active:
            return [None] * len(shapes)
        name = eqn.primitive.name
        if name in LOOPS:
            return self._opaque(eqn, active, shapes, scope)
        body = called_body(eqn)
        if body is not None:
            return self.body(getattr(body, "jaxpr", body), inputs, scope)
        if name in PRODUCTS:
            return [self._product(eqn, inputs, shapes[0], scope)]
        if all(v.map == INPUT for v in active):
            return [Traced(INPUT, shape, (NONE,) * len(shape)) for shape in shapes]
        if name in ELEMENTWISE or name in ("copy", "stop_gradient", "optimization_barrier", "select_n", "clamp"):
            return [self._merge(active, shapes[0])]
        rule = RULES.get(name)
        if rule is not None and inputs[0] is not None:
            results = rule(self, eqn, inputs, shapes)
            return results if isinstance(results, list) else [results]
        return [self._all_of(active, shape) for shape in shapes]

    def _opaque(self, eqn: Any, active: list[Traced], shapes: list[tuple[int, ...]], scope: str) -> list[Traced | None]:
        """A loop or branch: its results wait for all of its operands."""
        if any(name in str(eqn.params) for name in PRODUCTS):
            raise ValueError(
                f"{self.label}: layer {_last(scope) or eqn.primitive.name} is inside a {eqn.primitive.name} and cannot be mapped "
                "onto crossbars; the limit is one static copy of each layer, so unroll it"
            )
        return [self._all_of(active, shape) for shape in shapes]

    # -- maps

    def append(self, step: Step) -> int:
        """The index of a new step."""
        self.steps.append(step)
        return len(self.steps) - 1

    def size(self, index: int) -> tuple[int, int]:
        """Rows and columns of a map."""
        return (1, 1) if index == INPUT else self.steps[index].size

    def window(self, index: int, axes: dict[int, Axis]) -> int:
        """The map `index` read through a window along some roles."""
        kept = [Axis(size) for size in self.size(index)]
        if index == INPUT or all(axis.trivial for axis in axes.values()):
            return index
        row, column = (axes.get(role, kept[role]) for role in (ROWS, COLUMNS))
        return self.append(Window(index, row, column))

    def collapse(self, value: Traced, axes: Sequence[int]) -> Traced:
        """`value` where every place along the array's `axes` waits for all of them; they lose their role."""
        roles = [value.roles[axis] for axis in axes if value.roles[axis] != NONE]
        index = self.window(value.map, {role: Axis(1, kernel=self.size(value.map)[role]) for role in roles})
        return Traced(index, value.shape, tuple(NONE if role in roles else role for role in value.roles))

    def _all_of(self, values: Sequence[Traced], shape: tuple[int, ...]) -> Traced:
        collapsed = [self.collapse(v, range(len(v.shape))) for v in values]
        return Traced(self._merged([v.map for v in collapsed]), shape, (NONE,) * len(shape))

    def _merged(self, maps: Sequence[int]) -> int:
        distinct = tuple(sorted({index for index in maps if index != INPUT}))
        if len(distinct) < 2:
            return distinct[0] if distinct else INPUT
        sizes = [self.size(index) for index in distinct]
        return self.append(Merge(distinct, (max(s[0] for s in sizes), max(s[1] for s in sizes))))

    def _merge(self, values: Sequence[Traced], shape: tuple[int, ...]) -> Traced:
        values = [self._like(v, shape) for v in values if v.map != INPUT]
        roles = [max(v.roles[axis] for v in values) for axis in range(len(shape))]
        used = [role for role in roles if role != NONE]
        fits = all(r in (NONE, role) for v in values for r, role in zip(v.roles, roles, strict=True))
        if not fits or len(set(used)) < len(used):
            return self._all_of(values, shape)
        return Traced(self._merged([v.map for v in values]), shape, tuple(roles))

    def _like(self, value: Traced, shape: tuple[int, ...]) -> Traced:
        """`value` with as many axes as `shape`: a scalar has no place."""
        return value if len(value.shape) == len(shape) else self._all_of([value], shape)

    # -- base layers

    def _product(self, eqn: Any, inputs: list[Traced | None], shape: tuple[int, ...], scope: str) -> Traced:
        name = _last(scope) or eqn.primitive.name
        if all(v is not None for v in inputs[:2]):
            raise ValueError(
                f"{self.label}: layer {name} multiplies two activations and cannot be mapped onto crossbars; "
                "the limit is one activation, its weights must be constant"
            )
        if eqn.primitive.name == "dot_general":
            value, layer, roles = self._dense(eqn, inputs, shape)
        elif inputs[0] is None:
            raise ValueError(f"{self.label}: layer {name} has an activation as its kernel and cannot be mapped onto crossbars")
        else:
            value, layer, roles = self._convolution(eqn, inputs[0], shape)
        self.scopes.append(tuple(part for part in scope.split("/") if part and "(" not in part))
        return Traced(self.append(dataclasses.replace(layer, source=value)), shape, roles)

    def _convolution(self, eqn: Any, image: Traced, shape: tuple[int, ...]) -> tuple[int, Layer, tuple[int, ...]]:
        p, kernel = eqn.params, eqn.invars[1].aval.shape
        spec = p["dimension_numbers"]
        places, outputs, taps = spec.lhs_spec[2:], spec.out_spec[2:], spec.rhs_spec[2:]
        wanted = {axis: role for role, axis in enumerate(places[:2])}
        strange = [axis for axis, role in enumerate(image.roles) if role != NONE and wanted.get(axis, NONE) != role]
        image = self.collapse(image, strange)
        axes = {
            role: Axis(
                shape[outputs[role]], kernel[taps[role]], p["window_strides"][role],
                p["padding"][role][0], p["padding"][role][1], p["rhs_dilation"][role], p["lhs_dilation"][role],
            )
            for axis, role in wanted.items()
            if image.roles[axis] == role
        }  # fmt: skip
        groups = p["feature_group_count"] * p["batch_group_count"]
        sizes = [shape[axis] for axis in outputs[:2]] + [1, 1]
        layer = Layer(
            "", INPUT, sizes[0], sizes[1],
            k=math.prod(kernel[axis] for axis in (*taps, spec.rhs_spec[1])), n=kernel[spec.rhs_spec[0]] // groups, groups=groups,
            repeat=shape[spec.out_spec[0]] * math.prod(shape[axis] for axis in outputs[2:]),
        )  # fmt: skip
        roles = [NONE] * len(shape)
        for role, axis in enumerate(outputs[:2]):
            roles[axis] = role
        return self.window(image.map, axes), layer, tuple(roles)

    def _dense(self, eqn: Any, inputs: list[Traced | None], shape: tuple[int, ...]) -> tuple[int, Layer, tuple[int, ...]]:
        contracted, batched = eqn.params["dimension_numbers"]
        side = 0 if inputs[0] is not None else 1
        value, weight = inputs[side], eqn.invars[1 - side].aval.shape
        assert value is not None
        value = self.collapse(value, (*contracted[side], *batched[side]))
        free = [axis for axis in range(len(value.shape)) if axis not in (*contracted[side], *batched[side])]
        roles = {axis: value.roles[axis] for axis in free}
        if all(role == NONE for role in roles.values()):
            roles |= {axis: role for role, axis in enumerate([a for a in free if value.shape[a] > 1][:2])}
        sizes = {role: value.shape[axis] for axis, role in roles.items() if role != NONE}
        n_weight = math.prod(s for i, s in enumerate(weight) if i not in (*contracted[1 - side], *batched[1 - side]))
        layer = Layer(
            "", INPUT, sizes.get(ROWS, 1), sizes.get(COLUMNS, 1),
            k=math.prod(value.shape[axis] for axis in contracted[side]), n=n_weight,
            groups=math.prod(value.shape[axis] for axis in batched[side]),
            repeat=math.prod(value.shape[axis] for axis in free if roles[axis] == NONE),
        )  # fmt: skip
        own = [roles[axis] for axis in free]
        others = [NONE] * (len(shape) - len(batched[side]) - len(free))
        order = own + others if side == 0 else others + own
        return value.map, layer, tuple([NONE] * len(batched[side]) + order)


def _last(scope: str) -> str:
    return "/".join([part for part in scope.split("/") if part and "(" not in part][1:])


# -- primitives that move places


def _broadcast(walk: _Walk, eqn: Any, inputs: Any, shapes: Any) -> Traced:
    value, shape = inputs[0], shapes[0]
    roles, axes = [NONE] * len(shape), {}
    for axis, out in enumerate(eqn.params["broadcast_dimensions"]):
        roles[out] = value.roles[axis]
        if roles[out] != NONE and value.shape[axis] != shape[out]:
            axes[roles[out]] = Axis(shape[out], repeat=shape[out])
    return Traced(walk.window(value.map, axes), shape, tuple(roles))


def _transpose(walk: _Walk, eqn: Any, inputs: Any, shapes: Any) -> Traced:
    return Traced(inputs[0].map, shapes[0], tuple(inputs[0].roles[axis] for axis in eqn.params["permutation"]))


def _squeeze(walk: _Walk, eqn: Any, inputs: Any, shapes: Any) -> Traced:
    value, gone = inputs[0], {axis % len(inputs[0].shape) for axis in eqn.params["dimensions"]}
    return Traced(value.map, shapes[0], tuple(role for axis, role in enumerate(value.roles) if axis not in gone))


def _reshape(walk: _Walk, eqn: Any, inputs: Any, shapes: Any) -> Traced:
    value, shape = inputs[0], shapes[0]
    if eqn.params.get("dimensions") is not None or math.prod(shape) == 0:
        return walk._all_of([value], shape)
    roles, axes = [NONE] * len(shape), {}
    for ins, outs in _factors(value.shape, shape):
        held = [axis for axis in ins if value.roles[axis] != NONE]
        if not held:
            continue
        role, outputs, rest = value.roles[held[0]], len(outs), math.prod(value.shape[axis] for axis in ins[1:])
        if held == ins[:1] and outputs == 1:  # what follows the places is written between them
            roles[outs[0]] = role
            axes[role] = Axis(shape[outs[0]], repeat=rest)
        elif held == ins and len(ins) == 1:  # blocks of places
            roles[outs[0]], block = role, math.prod(shape[axis] for axis in outs[1:])
            axes[role] = Axis(shape[outs[0]], kernel=block, stride=block)
        else:
            axes |= {value.roles[axis]: Axis(1, kernel=value.shape[axis]) for axis in held}
    return Traced(walk.window(value.map, axes), shape, tuple(roles))


def _factors(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest groups of axes of equal size before and after a reshape; axes of size 1 belong to none."""
    left, right = [a for a, s in enumerate(before) if s != 1], [a for a, s in enumerate(after) if s != 1]
    groups = []
    while left:
        ins, outs = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(before[i] for i in ins)) != (b := math.prod(after[o] for o in outs)):
            (ins if a < b else outs).append((left if a < b else right).pop(0))
        groups.append((ins, outs))
    return groups


def _slice(walk: _Walk, eqn: Any, inputs: Any, shapes: Any) -> Traced:
    value, p = inputs[0], eqn.params
    strides = p["strides"] or (1,) * len(value.shape)
    cuts = zip(value.roles, value.shape, shapes[0], p["start_indices"], strides, strict=True)
    axes = {
        role: Axis(out, stride=stride, low=-start, high=start + (out - 1) * stride + 1 - size)
        for role, size, out, start, stride in cuts
        if role != NONE
    }
    return Traced(walk.window(value.map, axes), shapes[0], value.roles)


def _split(walk: _Walk, eqn: Any, inputs: Any, shapes: Any) -> list[Traced]:
    value, axis, start, parts = inputs[0], eqn.params["axis"], 0, []
    for shape in shapes:
        end, role = start + shape[axis], value.roles[axis]
        axes = {} if role == NONE else {role: Axis(shape[axis], low=-start, high=end - value.shape[axis])}
        parts.append(Traced(walk.window(value.map, axes), shape, value.roles))
        start = end
    return parts


def _pad(walk: _Walk, eqn: Any, inputs: Any, shapes: Any) -> Traced:
    value = inputs[0]
    padding = zip(value.roles, shapes[0], eqn.params["padding_config"], strict=True)
    axes = {role: Axis(out, low=low, high=high, spread=inner + 1) for role, out, (low, high, inner) in padding if role != NONE}
    return Traced(walk.window(value.map, axes), shapes[0], value.roles)


def _pool(walk: _Walk, eqn: Any, inputs: Any, shapes: Any) -> Traced:
    value, p = inputs[0], eqn.params
    fields = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    axes = {
        role: Axis(out, kernel, stride, low, high, dilation, spread)
        for role, out, kernel, stride, (low, high), spread, dilation in zip(
            value.roles, shapes[0], *(p[field] for field in fields), strict=True
        )
        if role != NONE
    }
    return Traced(walk.window(value.map, axes), shapes[0], value.roles)


def _reduce(walk: _Walk, eqn: Any, inputs: Any, shapes: Any) -> list[Traced]:
    gone = eqn.params["axes"] if "axes" in eqn.params else eqn.params["dimensions"]
    value = walk.collapse(inputs[0], gone)
    roles = tuple(role for axis, role in enumerate(value.roles) if axis not in gone)
    return [Traced(value.map, shape, roles) for shape in shapes]


def _concatenate(walk: _Walk, eqn: Any, inputs: Any, shapes: Any) -> Traced:
    axis, shape = eqn.params["dimension"], shapes[0]
    values = [v for v in inputs if v is not None]
    role = max(v.roles[axis] for v in values)
    if role == NONE:
        return walk._merge([dataclasses.replace(v, shape=shape) for v in values], shape)
    whole = len(values) == len(inputs) and all(v.map != INPUT and v.roles == values[0].roles for v in values)
    other = {walk.size(v.map)[1 - role] for v in values}
    if not whole or len(other) > 1:
        return walk._all_of(values, shape)
    size = (shape[axis], *other) if role == ROWS else (*other, shape[axis])
    return Traced(walk.append(Join(tuple(v.map for v in values), role, size)), shape, values[0].roles)


RULES: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "pad": _pad,
    **dict.fromkeys(WINDOWS, _pool),
    **dict.fromkeys(REDUCTIONS, _reduce),
    "concatenate": _concatenate,
}
