"""The loops of one operation and the axes of its tensors that follow them, by the primitive that decides how it can be cut.

Products follow their operands' axes, windows and convolutions slide over them, reductions and normalisations keep theirs whole;
everything else is one loop over elements. See `workloads.nests`.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from workloads.importers.fusion import Group
from workloads.importers.graph import Node, Value
from workloads.importers.rules import REDUCTIONS, WINDOWS

MOST_LOOPS = 4
WHOLE = -1  # an axis that follows no loop


class AxisUse(NamedTuple):
    """One axis of a tensor: min(extent, scale tile + offset) elements, `tile` that of loop `loop` (WHOLE: the extent)."""

    extent: int
    loop: int = WHOLE
    scale: float = 1.0
    offset: float = 0.0


def main_node(own: Group) -> Node:
    """The node that decides how a group can be cut."""
    for wanted in (("conv_general_dilated", "dot_general"), WINDOWS, REDUCTIONS, ("transpose",)):
        found = [n for n in own.nodes if n.primitive in wanted]
        if found:
            return found[0]
    return max(own.nodes, key=lambda n: max((v.size for v in n.results), default=0))


Axes = tuple[AxisUse, ...]
Found = tuple[tuple[int, ...], dict[int, Axes], Callable[[Value], Axes]]


def loops_of(own: Group, main: Node, written: Sequence[Value]) -> Found:
    """Extents of the loops, the axes of the tensors whose place is known, and a rule for the others."""
    if own.normalisation:
        return _rows(own)
    rules = {"conv_general_dilated": _convolution, "dot_general": _product, "transpose": _transposition}
    rule = rules.get(main.primitive) or (
        _window if main.primitive in WINDOWS else _reduction if main.primitive in REDUCTIONS else None
    )
    shape = main.outputs[0].shape
    if rule is None:
        size = max((v.stored for v in [*written, *main.outputs]), default=1)
        return _named((size,), {}, lambda v: _line(v, size))
    extents, known = rule(main)
    return _named(extents, known, lambda v: _like(v, shape, main.outputs[0].size))


def _named(extents: tuple[int, ...], known: dict[int, Axes], fallback: Callable[[Value], Axes]) -> Found:
    """Keeps the loops of more than one iteration, the largest if there are too many; the others run whole."""
    kept = sorted(sorted((d for d, e in enumerate(extents) if e > 1), key=lambda d: -extents[d])[:MOST_LOOPS])
    place = {d: i for i, d in enumerate(kept)}

    def renamed(axes: Axes) -> Axes:
        new = [u._replace(loop=place.get(u.loop, WHOLE)) for u in axes]
        merged = [u for u in new if u.extent > 1] or [AxisUse(1)]
        return tuple(merged)

    return (
        tuple(extents[d] for d in kept) or (1,),
        {key: renamed(axes) for key, axes in known.items()},
        lambda v: renamed(fallback(v)),
    )


def _line(value: Value, size: int) -> Axes:
    """The only axis of a tensor in a nest over `size` elements."""
    return (AxisUse(value.stored, 0),) if value.stored == size else (AxisUse(max(value.stored, 1)),)


def _like(value: Value, shape: tuple[int, ...], size: int) -> Axes:
    """A tensor beside the operands of the main node: like the result if it is of its size, by axes if it is broadcast to it."""
    if value.stored == size:
        return tuple(AxisUse(e, d) for d, e in enumerate(shape))
    own = [e for e in value.root.shape if e > 1]
    tail = [d for d, e in enumerate(shape) if e > 1][-len(own) :] if own else []
    if value.stored == math.prod(own) and [shape[d] for d in tail] == own:
        return tuple(AxisUse(shape[d], d) for d in tail)
    return (AxisUse(max(value.stored, 1)),)


def _transposition(node: Node) -> tuple[tuple[int, ...], dict[int, Axes]]:
    shape = node.outputs[0].shape
    into = {axis: d for d, axis in enumerate(node.params["permutation"])}
    read = tuple(AxisUse(e, into[a]) for a, e in enumerate(node.inputs[0].shape))
    return shape, {id(node.inputs[0].root): read, id(node.outputs[0]): tuple(AxisUse(e, d) for d, e in enumerate(shape))}


def _convolution(node: Node) -> tuple[tuple[int, ...], dict[int, Axes]]:
    image, kernel, result = node.inputs[0], node.inputs[1], node.outputs[0]
    spec, p = node.params["dimension_numbers"], node.params
    batch, feature = spec.out_spec[0], spec.out_spec[1]
    own = [AxisUse(e) for e in image.shape]
    taps = [AxisUse(e) for e in kernel.shape]
    windows = zip(
        spec.lhs_spec[2:],
        spec.rhs_spec[2:],
        spec.out_spec[2:],
        p["window_strides"],
        p["lhs_dilation"],
        p["rhs_dilation"],
        strict=True,
    )
    for i, j, o, stride, spread, dilation in windows:
        reach = (kernel.shape[j] - 1) * dilation + 1
        own[i] = AxisUse(image.shape[i], o, stride / spread, (reach - stride + spread - 1) / spread)
    features = result.shape[feature]
    channel, rows = image.shape[spec.lhs_spec[1]], image.shape[spec.lhs_spec[0]]
    if p["feature_group_count"] > 1:
        n, width = features // p["feature_group_count"], channel // p["feature_group_count"]
        own[spec.lhs_spec[1]] = AxisUse(channel, feature, width / n, width * (n - 1) / n)
    if p["batch_group_count"] == 1:
        own[spec.lhs_spec[0]] = AxisUse(rows, batch)
    elif result.shape[batch] == 1:
        own[spec.lhs_spec[0]] = AxisUse(rows, feature, rows / features, 1 - rows / features if rows < features else 0.0)
    taps[spec.rhs_spec[0]] = AxisUse(features, feature)
    known = {id(image.root): tuple(own)}
    known.setdefault(id(kernel.root), tuple(taps))
    known[id(result)] = tuple(AxisUse(e, d) for d, e in enumerate(result.shape))
    return result.shape, known


def _product(node: Node) -> tuple[tuple[int, ...], dict[int, Axes]]:
    result, (contracted, batched) = node.outputs[0], node.params["dimension_numbers"]
    loop, known = len(batched[0]), {}
    for side in (0, 1):
        operand = node.inputs[side]
        axes = [AxisUse(e) for e in operand.shape]
        for d, axis in enumerate(batched[side]):
            axes[axis] = AxisUse(operand.shape[axis], d)
        for axis in range(len(operand.shape)):
            if axis not in contracted[side] and axis not in batched[side]:
                axes[axis] = AxisUse(operand.shape[axis], loop)
                loop += 1
        known.setdefault(id(operand.root), tuple(axes))
    known[id(result)] = tuple(AxisUse(e, d) for d, e in enumerate(result.shape))
    return result.shape, known


def _window(node: Node) -> tuple[tuple[int, ...], dict[int, Axes]]:
    image, result, p = node.inputs[0], node.outputs[0], node.params
    fields = ("window_dimensions", "window_strides", "window_dilation", "base_dilation")
    axes = tuple(
        AxisUse(e, d, stride / spread, ((kernel - 1) * dilation + 1 - stride + spread - 1) / spread)
        for d, (e, kernel, stride, dilation, spread) in enumerate(zip(image.shape, *(p[f] for f in fields), strict=True))
    )
    return result.shape, {id(image.root): axes, id(result): tuple(AxisUse(e, d) for d, e in enumerate(result.shape))}


def _reduction(node: Node) -> tuple[tuple[int, ...], dict[int, Axes]]:
    operand, result = node.inputs[0], node.outputs[0]
    gone = node.params["axes"] if "axes" in node.params else node.params["dimensions"]
    kept = [a for a in range(len(operand.shape)) if a not in gone]
    axes = tuple(AxisUse(e, kept.index(a)) if a in kept else AxisUse(e) for a, e in enumerate(operand.shape))
    return result.shape or (1,), {
        id(operand.root): axes,
        id(result): tuple(AxisUse(e, d) for d, e in enumerate(result.shape)) or (AxisUse(1),),
    }


def _rows(own: Group) -> Found:
    """Rows that are reduced whole: softmax, layer normalisation; the loop is over what is left."""
    node = next(n for n in own.nodes if n.primitive in REDUCTIONS)
    operand = node.activations[0] if node.activations else node.inputs[0]
    gone = set(node.params["axes"] if "axes" in node.params else node.params["dimensions"])
    rows = math.prod(e for a, e in enumerate(operand.shape) if a not in gone)
    inner = operand.size // max(rows, 1)
    last = len(operand.shape) - 1 in gone

    def axes(value: Value) -> Axes:
        if value.stored == operand.size:
            return (AxisUse(rows, 0), AxisUse(inner)) if last else (AxisUse(inner), AxisUse(rows, 0))
        return _line(value, rows)

    return _named((rows,), {}, axes)
