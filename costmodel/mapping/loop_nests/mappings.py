"""A mapping: how the loops of one layer are tiled over the levels of an accelerator, in which order, and what runs side by side.

The layer is  outputs[n, k, p, q] += inputs[n, c, stride p + r, stride q + s] * weights[k, c, r, s].  Every level, from the
innermost (0) to the memory outside, has for each of the seven dimensions a temporal factor (iterations one after the other), a
spatial factor (copies of the next level inwards) and a place in the order of its loops. The factors of a dimension multiply to
its size; the loops of an outer level enclose those of an inner one, and a level's spatial loops lie inside its temporal ones.

In text, outer levels and outer loops first, X for spatial, factors of 1 left out, in brackets what the level keeps:

    L3[WIO] K48 - L2[WI] K16X - L1[O] C48 P16 C16X - L0[W] P8

the notation of Timeloop (Parashar et al., ISPASS 2019) and of DOSA's data. A mapping is a pytree; batches are `jax.vmap`'s.
Factors may be real numbers of at least 1, the relaxation that gradient search works on.
"""

import re
from collections.abc import Mapping as Sizes
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

DIMENSIONS = "RSPQCKN"
LEVEL = re.compile(r"L(\d+)\[([WIO]+)\]\s*(.*)")
LOOP = re.compile(r"([RSPQCKN])(\d+)(X?)")
Table = Num[Array | np.ndarray, "levels 7"]


class LoopMapping(NamedTuple):
    """One mapping. Rows are levels, the innermost first; columns the dimensions R, S, P, Q, C, K, N."""

    temporal: Table  # factors
    spatial: Table  # factors
    place: Table  # of each dimension's temporal loop in its level, 0 the outermost; a permutation of 0..6 per row


def parse_loop_mapping(text: str) -> LoopMapping:
    """A mapping from its text; ValueError naming the part that cannot be read.

    Loops that are left out (factor 1) go to the inside, where they do nothing.
    """
    rows = []
    for part in (piece.strip() for piece in text.split(" - ")):
        found = LEVEL.fullmatch(part)
        if not found or LOOP.sub("", found[3]).strip() or any(int(factor) < 1 for _, factor, _ in LOOP.findall(found[3])):
            raise ValueError(f"mapping: cannot read {part!r}; a level reads 'L1[O] C48 P16 C16X', dimensions {DIMENSIONS}")
        rows.append((int(found[1]), LOOP.findall(found[3])))
    if [level for level, _ in rows] != list(range(len(rows) - 1, -1, -1)):
        raise ValueError(f"mapping: levels {[level for level, _ in rows]} must count down to 0")
    tables = [_row(loops) for _, loops in reversed(rows)]
    return LoopMapping(*(np.stack(column) for column in zip(*tables, strict=True)))


def format_loop_mapping(mapping: LoopMapping, keeps: tuple[str, ...] = ("W", "O", "WI", "WIO")) -> str:
    """The text of a mapping of whole factors."""
    temporal, spatial, place = (np.asarray(table) for table in mapping)
    parts = []
    for level in reversed(range(temporal.shape[0])):
        loops = [f"{DIMENSIONS[d]}{temporal[level, d]:g}" for d in np.argsort(place[level]) if temporal[level, d] != 1]
        loops += [f"{DIMENSIONS[d]}{spatial[level, d]:g}X" for d in range(7) if spatial[level, d] != 1]
        parts.append(f"L{level}[{keeps[level]}] {' '.join(loops) or 'N1'}")
    return " - ".join(parts)


def complete_loop_mapping(mapping: LoopMapping, sizes: Sizes[str, float] | Float[Array, " 7"]) -> LoopMapping:
    """The mapping with the outermost temporal factors set to what is left of `sizes` (by dimension, or in the order R..N).

    At least 1 is left: where the inner factors exceed a size, the layer is computed larger than it is. ValueError for an unknown
    dimension.
    """
    if isinstance(sizes, Sizes):
        if unknown := sorted(set(sizes) - set(DIMENSIONS)):
            raise ValueError(f"sizes: unknown dimension {unknown[0]!r}; known: {', '.join(DIMENSIONS)}")
        sizes = jnp.asarray([float(sizes.get(name, 1)) for name in DIMENSIONS])
    temporal, spatial = jnp.asarray(mapping.temporal, float), jnp.asarray(mapping.spatial, float)
    inner = jnp.prod(temporal[:-1], axis=0) * jnp.prod(spatial, axis=0)
    left = jnp.maximum(jnp.asarray(sizes) / inner, 1.0)
    return LoopMapping(jnp.concatenate([temporal[:-1], left[None]]), spatial, mapping.place)


def _row(loops: list[tuple[str, str, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    temporal, spatial = np.ones(7), np.ones(7)
    order = []
    for name, factor, across in loops:
        index = DIMENSIONS.index(name)
        (spatial if across else temporal)[index] *= int(factor)
        if not across:
            if index in order:
                raise ValueError(f"mapping: {name} occurs twice in one level")
            order.append(index)
    order += [index for index in range(7) if index not in order]
    return temporal, spatial, np.argsort(order)
