"""How often every level of an accelerator is read and written under a mapping: exact for whole factors, smooth between them.

A level that keeps a tensor holds the box of it that the loops inside need, L_a = 1 + sum_d coefficient (T_d - 1) along each axis
a of the tensor, and on the next iteration fetches what is new. When loop j (factor n_j) advances and the loops inside it restart,
the box moves by the same D_j every time, so that over the whole run one copy of the level is filled

    F = V + sum_j (n_j - 1) (prod of the factors outside j) (V - prod_a max(L_a - |D_ja|, 0)),      V = prod_a L_a

words. A tensor that loop j does not move (D = 0) adds nothing: stationarity. Overlapping windows of inputs add only their
new rows; and as a factor goes to 1 its effect goes to 0, without the jumps of rules about "the innermost relevant loop".

    one copy's F  x  spatial factors of the tensor's own dimensions  = words sent by the level outside (others are multicast)
    one copy's F  x  all spatial factors                             = words written into the copies
    MACs / spatial factors of the other dimensions                   = words the innermost level gives (or sums it takes)

Sums: of its updates a level reads every one again, to add to it or to send it outside (F), and F less the outputs come back.
Boxes are hulls: a stride larger than the kernel's tile reads the rows between as well, as Timeloop's point sets do; neighbouring
copies do not share the overlap of their windows.

`windows="all"` keeps what is still there after every step, restarts of inner loops included: exactly the formula. Timeloop and
DOSA credit the overlap of windows only where no loop inside restarts, `windows="neighbour"`, the default: never less traffic,
equal but for windows of inputs. It jumps as a factor goes to 1, which "all" does not, so that suits gradient search better.

Kinks: the maximum and |D|, where windows begin to overlap. Source: the loop analysis of Timeloop (Parashar et al., ISPASS 2019)
and DOSA (Hong et al., MICRO 2023), in closed form.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from costmodel.mapping.loop_nests.mappings import DIMENSIONS, LoopMapping
from physics.params import unknown_name

TENSORS = "WIO"
WINDOWS = ("all", "neighbour")
R, S, P, Q, C, K, N = range(7)
RELEVANT = {"W": (R, S, C, K), "I": (R, S, P, Q, C, N), "O": (P, Q, K, N)}
Axis = tuple[tuple[int, Num[Array, ""] | int], ...]  # (dimension, coefficient) pairs
Stride = tuple[Num[Array, ""] | int, Num[Array, ""] | int]


class LoopAccesses(NamedTuple):
    """Words, by level (the innermost first) and tensor (weights, inputs, outputs), over all copies of the level."""

    macs: Float[Array, ""]
    reads: Float[Array, "levels 3"]
    writes: Float[Array, "levels 3"]  # fills from outside
    updates: Float[Array, "levels 3"]  # sums from inside
    tiles: Float[Array, "levels 3"]  # words held by one copy

    @property
    def total(self) -> Float[Array, "*batch levels"]:
        """All accesses of each level."""
        return jnp.sum(self.reads + self.writes + self.updates, axis=-1)


def count_loop_accesses(
    mapping: LoopMapping,
    keeps: tuple[str, ...] = ("W", "O", "WI", "WIO"),
    stride: Stride = (1, 1),
    windows: str = "neighbour",
) -> LoopAccesses:
    """Accesses under one mapping, of an accelerator whose levels keep the tensors named in `keeps` (the innermost first).

    `stride` is along p and q. Differentiable in the factors. Raises ValueError where the last level does not keep all three
    tensors, or the mapping has another number of levels, for a stride below 1 or an unknown `windows`.
    """
    if windows not in WINDOWS:
        raise ValueError(unknown_name("windows", windows, WINDOWS))
    if any(isinstance(step, int | float) and step < 1 for step in stride):
        raise ValueError(f"stride = {stride} is outside its range: at least 1 along p and q")
    depth = mapping.temporal.shape[0]
    if len(keeps) != depth or set("".join(keeps)) != set(TENSORS) or set(keeps[-1]) != set(TENSORS):
        raise ValueError(f"keeps = {keeps}: one entry per level of the mapping ({depth}), the last of them WIO")
    nest = _Nest.of(mapping)
    macs = product(nest.held[-1])
    zero = jnp.zeros(())
    table = {(level, tensor): _Words(zero, zero, zero, zero) for level in range(len(keeps)) for tensor in TENSORS}
    for tensor in TENSORS:
        levels = [level for level, kept in enumerate(keeps) if tensor in kept]
        table |= {
            (level, tensor): words
            for level, words in _words_of(
                nest, tensor, levels, macs, _Boxes(_axes(tensor, stride), RELEVANT[tensor], windows)
            ).items()
        }
    columns = zip(*(table[level, tensor] for level in range(len(keeps)) for tensor in TENSORS), strict=True)
    return LoopAccesses(macs, *(jnp.stack(column).reshape(len(keeps), 3) for column in columns))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def product(x: Array, axis: int | None = None) -> Array:
    """Product of positive numbers; its slope by division, an order of magnitude less arithmetic than without."""
    return jnp.prod(x, axis=axis)


@product.defjvp
def _product_jvp(axis: int | None, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    whole = product(primals[0], axis)
    return whole, whole * jnp.sum(tangents[0] / primals[0], axis=axis)


class _Words(NamedTuple):
    reads: Array
    writes: Array
    updates: Array
    tile: Array


Row = Float[Array, " 7"]


class _Nest(NamedTuple):
    """Factors by level, each a row of the seven dimensions, and of every temporal loop: its step, and what encloses it."""

    temporal: list[Row]
    spatial: list[Row]
    held: list[Row]  # extent of each dimension in one copy of the level
    step: list[Row]  # of the temporal loops
    inside: list[Float[Array, "7 7"]]  # [e, d]: 1 where the loop over d runs inside that over e, in its level
    outer: list[Row]  # product of the temporal factors around each loop, all levels

    @staticmethod
    def of(mapping: LoopMapping) -> "_Nest":
        temporal, spatial = list(jnp.asarray(mapping.temporal, float)), list(jnp.asarray(mapping.spatial, float))
        place = jnp.asarray(mapping.place)
        inside = list((place[:, None, :] > place[:, :, None]).astype(temporal[0].dtype))
        held, step, below = [], [], jnp.ones(7)
        for times, copies in zip(temporal, spatial, strict=True):
            step.append(below * copies)
            below = step[-1] * times
            held.append(below)
        outer, outside = [], jnp.ones(())
        for times, within in zip(reversed(temporal), reversed(inside), strict=True):
            outer.insert(0, outside * product(jnp.where(within > 0, times[:, None], 1.0), 0))
            outside = outside * product(times)
        return _Nest(temporal, spatial, held, step, inside, outer)

    def copies(self, levels: slice, dimensions: tuple[int, ...] = tuple(range(7))) -> Array:
        """Product of the spatial factors of some dimensions over some levels."""
        chosen = _mask(dimensions) > 0
        return functools.reduce(
            jnp.multiply, (product(jnp.where(chosen, row, 1.0)) for row in self.spatial[levels]), jnp.ones(())
        )


class _Boxes(NamedTuple):
    """The axes of a tensor, the dimensions that move it, and which overlaps of its windows are kept."""

    axes: tuple[Axis, ...]
    own: tuple[int, ...]
    windows: str

    def sides(self, held: list[Array]) -> list[Array]:
        """Of the box, along every axis."""
        return [jnp.asarray(1 + sum(factor * (held[d] - 1) for d, factor in axis)) for axis in self.axes]

    def overlap(self, sides: list[Array], moved: dict[int, Row]) -> Row:
        """Words that stay when the box moves along each dimension by `moved`, for every loop."""
        kept = jnp.ones(7)
        for side, axis in zip(sides, self.axes, strict=True):
            kept = kept * jnp.maximum(side - jnp.abs(sum(factor * moved[d] for d, factor in axis)), 0.0)
        return kept


def _mask(dimensions: tuple[int, ...]) -> np.ndarray:
    return np.isin(np.arange(7), dimensions).astype(float)


def _each(row: Row) -> list[Array]:
    """Its seven entries; by `split`, whose slope is one concatenation."""
    return [entry[0] for entry in jnp.split(row, 7)]


def _axes(tensor: str, stride: Stride) -> tuple[Axis, ...]:
    if tensor == "I":
        return ((N, 1),), ((C, 1),), ((P, stride[0]), (R, 1)), ((Q, stride[1]), (S, 1))
    return tuple(((d, 1),) for d in RELEVANT[tensor])


def _words_of(nest: _Nest, tensor: str, levels: list[int], macs: Array, boxes: "_Boxes") -> dict[int, _Words]:
    """Words of one tensor at the levels that keep it, the innermost first."""
    own = boxes.own
    others = tuple(d for d in range(len(DIMENSIONS)) if d not in own)
    whole = product(jnp.where(_mask(own) > 0, nest.held[-1], 1.0))
    found: dict[int, _Words] = {}
    zero, sent = jnp.zeros(()), macs / nest.copies(slice(levels[0] + 1), others)
    for level, outside in zip(levels, [*levels[1:], None], strict=True):
        fills, tile = _fills(nest, boxes, level) if outside is not None else (zero, whole)
        written = fills * nest.copies(slice(level + 1, None))
        if tensor == "O":
            firsts = whole * nest.copies(slice(level + 1, None), others)
            reads, back = (sent, written - firsts) if outside is not None else (sent - firsts, zero)
            found[level] = _Words(reads, back, sent, tile)
        else:
            found[level] = _Words(sent, written, zero, tile)
        if outside is not None:
            sent = fills * nest.copies(slice(level + 1, outside + 1), own) * nest.copies(slice(outside + 1, None))
    return found


def _fills(nest: _Nest, boxes: _Boxes, level: int) -> tuple[Array, Array]:
    """Words fetched into one copy of a level, and the words it holds."""
    sides = boxes.sides(_each(nest.held[level]))
    tile = functools.reduce(jnp.multiply, sides)
    fetched, restarted = tile, jnp.zeros(7)
    for outer in range(level + 1, len(nest.temporal)):
        span = (nest.temporal[outer] - 1) * nest.step[outer]
        before, through, inside = _each(restarted), _each(span), nest.inside[outer]
        back = {d: before[d] + inside[:, d] * through[d] for d in boxes.own}  # by dimension, for every loop
        kept = boxes.overlap(sides, {d: jnp.asarray(_mask((d,))) * nest.step[outer] - back[d] for d in boxes.own})
        if boxes.windows == "neighbour":
            kept = jnp.where((sum(back.values()) > 0) & (kept < tile), 0.0, kept)
        fetched = fetched + jnp.sum((nest.temporal[outer] - 1) * nest.outer[outer] * (tile - kept))
        restarted = restarted + span
    return fetched, tile
