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

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel.mapping.loop_nests.mappings import DIMENSIONS, LoopMapping
from physics.params import unknown_name

TENSORS = "WIO"
WINDOWS = ("all", "neighbour")
R, S, P, Q, C, K, N = range(7)
RELEVANT = {"W": (R, S, C, K), "I": (R, S, P, Q, C, N), "O": (P, Q, K, N)}
Axis = tuple[tuple[int, int], ...]  # (dimension, coefficient) pairs


class LoopAccesses(NamedTuple):
    """Words, by level (the innermost first) and tensor (weights, inputs, outputs), over all copies of the level."""

    macs: Float[Array, ""]
    reads: Float[Array, "levels 3"]
    writes: Float[Array, "levels 3"]  # fills from outside
    updates: Float[Array, "levels 3"]  # sums from inside
    tiles: Float[Array, "levels 3"]  # words held by one copy

    @property
    def total(self) -> Float[Array, " levels"]:
        """All accesses of each level."""
        return jnp.sum(self.reads + self.writes + self.updates, axis=-1)


def count_loop_accesses(
    mapping: LoopMapping,
    keeps: tuple[str, ...] = ("W", "O", "WI", "WIO"),
    stride: tuple[int, int] = (1, 1),
    windows: str = "neighbour",
) -> LoopAccesses:
    """Accesses under one mapping, of an accelerator whose levels keep the tensors named in `keeps` (the innermost first).

    `stride` is along p and q. Differentiable in the factors. Raises ValueError where the last level does not keep all three
    tensors, or the mapping has another number of levels, or for an unknown `windows`.
    """
    if windows not in WINDOWS:
        raise ValueError(unknown_name("windows", windows, WINDOWS))
    if set(keeps[-1]) != set(TENSORS) or len(keeps) != mapping.temporal.shape[0]:
        raise ValueError(
            f"keeps = {keeps}: one entry per level of the mapping ({mapping.temporal.shape[0]}), the last of them WIO"
        )
    nest = _Nest.of(mapping)
    macs = jnp.prod(nest.temporal) * jnp.prod(nest.spatial)
    zero = jnp.zeros(())
    table = {(level, tensor): _Words(zero, zero, zero, zero) for level in range(len(keeps)) for tensor in TENSORS}
    for tensor in TENSORS:
        levels = [level for level, kept in enumerate(keeps) if tensor in kept]
        table |= {
            (level, tensor): words
            for level, words in _words_of(nest, tensor, levels, macs, _Boxes(_axes(tensor, stride), windows)).items()
        }
    columns = zip(*(table[level, tensor] for level in range(len(keeps)) for tensor in TENSORS), strict=True)
    return LoopAccesses(macs, *(jnp.stack(column).reshape(len(keeps), 3) for column in columns))


class _Words(NamedTuple):
    reads: Array
    writes: Array
    updates: Array
    tile: Array


class _Nest(NamedTuple):
    """Factors as rows of arrays, and of every temporal loop: its step, and what encloses it within its level."""

    temporal: Float[Array, "levels 7"]
    spatial: Float[Array, "levels 7"]
    below: Float[Array, "levels 7"]  # extent of each dimension inside the level's own loops
    step: Float[Array, "levels 7"]  # of the temporal loops
    inside: Float[Array, "levels 7 7"]  # [l, e, d]: 1 where the loop over d runs inside that over e, in level l
    outer: Float[Array, "levels 7"]  # product of the temporal factors around each loop, all levels

    @staticmethod
    def of(mapping: LoopMapping) -> "_Nest":
        temporal, spatial = jnp.asarray(mapping.temporal, float), jnp.asarray(mapping.spatial, float)
        place = jnp.asarray(mapping.place)
        extents = jnp.cumprod(temporal * spatial, axis=0)
        below = jnp.concatenate([jnp.ones((1, 7)), extents[:-1]])
        inside = place[:, None, :] > place[:, :, None]
        around = jnp.prod(jnp.where(inside, temporal[:, :, None], 1.0), axis=1)
        level = jnp.prod(temporal, axis=1)
        outside = jnp.concatenate([jnp.cumprod(level[::-1])[::-1][1:], jnp.ones(1)])
        return _Nest(temporal, spatial, below, below * spatial, inside.astype(temporal.dtype), around * outside[:, None])


class _Boxes(NamedTuple):
    """The axes of a tensor, and which overlaps of its windows are kept."""

    axes: tuple[Axis, ...]
    windows: str

    def overlap(self, sides: list[Array], moved: Array) -> Array:
        """Words that stay when the box moves by `moved` [loop, dimension], for every loop."""
        kept = jnp.ones(7)
        for side, axis in zip(sides, self.axes, strict=True):
            shift = sum(factor * moved[:, d] for d, factor in axis)
            kept = kept * jnp.maximum(side - jnp.abs(shift), 0.0)
        return kept


def _axes(tensor: str, stride: tuple[int, int]) -> tuple[Axis, ...]:
    if tensor == "I":
        return ((N, 1),), ((C, 1),), ((P, stride[0]), (R, 1)), ((Q, stride[1]), (S, 1))
    return tuple(((d, 1),) for d in RELEVANT[tensor])


def _words_of(nest: _Nest, tensor: str, levels: list[int], macs: Array, boxes: "_Boxes") -> dict[int, _Words]:
    """Words of one tensor at the levels that keep it, the innermost first."""
    own = list(RELEVANT[tensor])
    others = [d for d in range(len(DIMENSIONS)) if d not in own]
    whole = jnp.prod(jnp.prod(nest.temporal * nest.spatial, axis=0)[jnp.asarray(own)])
    found: dict[int, _Words] = {}
    zero, sent = jnp.zeros(()), macs / _copies(nest.spatial[: levels[0] + 1], others)
    for level, outside in zip(levels, [*levels[1:], None], strict=True):
        fills, tile = _fills(nest, boxes, level) if outside is not None else (zero, whole)
        written = fills * _copies(nest.spatial[level + 1 :])
        if tensor == "O":
            firsts = whole * _copies(nest.spatial[level + 1 :], others)
            reads, back = (sent, written - firsts) if outside is not None else (sent - firsts, zero)
            found[level] = _Words(reads, back, sent, tile)
        else:
            found[level] = _Words(sent, written, zero, tile)
        if outside is not None:
            sent = fills * _copies(nest.spatial[level + 1 : outside + 1], own) * _copies(nest.spatial[outside + 1 :])
    return found


def _copies(spatial: Array, dimensions: list[int] | None = None) -> Array:
    """Product of spatial factors, of some dimensions or all."""
    return jnp.prod(spatial if dimensions is None else spatial[:, jnp.asarray(dimensions)])


def _fills(nest: _Nest, boxes: _Boxes, level: int) -> tuple[Array, Array]:
    """Words fetched into one copy of a level, and the words it holds."""
    held = nest.below[level] * nest.temporal[level] * nest.spatial[level]
    sides = [jnp.asarray(1 + sum(factor * (held[d] - 1) for d, factor in axis)) for axis in boxes.axes]
    tile = jnp.prod(jnp.stack(sides))
    fetched, restarted = tile, jnp.zeros(7)
    for outer in range(level + 1, nest.temporal.shape[0]):
        span = (nest.temporal[outer] - 1) * nest.step[outer]
        back = restarted + nest.inside[outer] * span  # [loop, dimension]
        kept = boxes.overlap(sides, jnp.diag(nest.step[outer]) - back)
        if boxes.windows == "neighbour":
            own = jnp.asarray(sorted({d for axis in boxes.axes for d, _ in axis}))
            kept = jnp.where((jnp.sum(back[:, own], axis=1) > 0) & (kept < tile), 0.0, kept)
        fetched = fetched + jnp.sum((nest.temporal[outer] - 1) * nest.outer[outer] * (tile - kept))
        restarted = restarted + span
    return fetched, tile
