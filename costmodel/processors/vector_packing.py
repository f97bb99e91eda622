"""What surrounds the kernel of a packed matrix product: packing and unpacking, and the traffic of caches and memory.

Packing copies an operand into tiles. Neighbours in the source move as one unit: a vector where the tile's innermost
dimension is contiguous (right operand with K0 = 1, result), K0 values where it is not (a transposition). A unit takes a load and
a store (`move_instructions`: more in a routine that is not vectorised) and its share `loop_instructions` / u of a loop
over u; starting a loop takes `tile_instructions`, and `row_instructions` for every row that a transposing loop reads.
A last group of fewer than K0 values counts as a whole one (real code takes longer over it: short K are undercounted).

A cache of C bytes holds a block of one operand in half of it and streams the other past each block; the better of the two orders:

    traffic = min( A + B min(Mt, ceil(A / (C/2))),  B + A min(Nt, ceil(B / (C/2))) )

Copies beyond the cache are written to memory and read back. Where the operands are not packed, a step along K touches another
row: where rows are far apart another page, and the translation misses if the operand has more pages than the buffer entries.

Every operand and result moves between memory and caches once; beyond that the traffic above. Non-smooth points: ceilings,
minima and maxima, by the relaxation policy. Traffic: two of the loops of Goto and van de Geijn, ACM TOMS 2008.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.processors.vector_kernels import Column, Scalar, Step, Tiling, VectorUnit
from costmodel.relax import Relaxation

PAGE = 4096.0  # B
UNROLLED = 8.0  # rows moved by one pass of a packing loop that transposes


class Moves(NamedTuple):
    """Units that a packing or unpacking loop moves, and the instructions it executes. All (n_ops,)."""

    units: Column
    instructions: Column


def _moves(
    elements: Column, run: Column, bits: float, each_pass: Column, loops: Column, unit: VectorUnit, policy: Relaxation,
    rows: Column | float = 0.0,
) -> Moves:  # fmt: skip
    units = elements * bits / relax.minimum(run * bits, unit.vector_bits, policy)
    each = unit.move_instructions + unit.loop_instructions / each_pass
    return Moves(units, units * each + loops * (unit.tile_instructions + rows * unit.row_instructions))


def pack_lhs(unit: VectorUnit, tiles: Tiling, policy: Relaxation = relax.HARD) -> Moves:
    """Moves that pack the left operand, row-major M x K."""
    run = jnp.broadcast_to(tiles.k0, tiles.m0.shape)
    return _moves(tiles.lhs, run, unit.data_type.bits, tiles.m0, tiles.m_tiles, unit, policy, tiles.m0)


def pack_rhs(unit: VectorUnit, tiles: Tiling, step: Step, policy: Relaxation = relax.HARD) -> Moves:
    """Moves that pack the right operand: K x N by whole rows where K0 = 1, else N x K by K0 neighbours."""
    t = unit.data_type
    if t.depth == 1.0:
        return _moves(tiles.rhs, tiles.n0, t.bits, step.rhs_loads, tiles.n_tiles, unit, policy)
    run, passes = jnp.broadcast_to(tiles.k0, tiles.n0.shape), jnp.full_like(tiles.n0, UNROLLED)
    return _moves(tiles.rhs, run, t.bits, passes, tiles.n_tiles * tiles.n0 / UNROLLED, unit, policy, UNROLLED)


def unpack(unit: VectorUnit, tiles: Tiling, step: Step, policy: Relaxation = relax.HARD) -> Moves:
    """Moves that bring the tiles of sums into a row-major result."""
    bits, loops = unit.data_type.sum_bits, tiles.m_tiles * tiles.n_tiles
    return _moves(tiles.sums, tiles.n0, bits, step.rhs_row, loops, unit, policy)


def move_cycles(unit: VectorUnit, moves: Moves, policy: Relaxation = relax.HARD) -> Column:
    """Cycles of a packing loop: every unit a load and a store. Any shape."""
    loads, stores = moves.units / unit.load_ports, moves.units / unit.store_ports
    return relax.maximum(loads, stores, moves.instructions / unit.issue_width, policy=policy)


def traffic(
    lhs: Column, rhs: Column, tiles: Tiling, capacity: Float[Array, " caches"], policy: Relaxation = relax.HARD
) -> Float[Array, "caches *ops"]:
    """Bytes of both operands (each `lhs`, `rhs` bytes) that enter caches of `capacity` bytes during one product."""
    held, streamed = jnp.stack([lhs, rhs]), jnp.stack([rhs, lhs])
    half = capacity.reshape(-1, *(1,) * held.ndim) / 2
    blocks = relax.maximum(1.0, relax.ceil_div(held, half, policy), policy=policy)
    orders = held + streamed * relax.minimum(jnp.stack([tiles.m_tiles, tiles.n_tiles]), blocks, policy)
    return relax.minimum(orders[:, 0], orders[:, 1], policy)


def beyond(size: Column, capacity: Scalar, policy: Relaxation = relax.HARD) -> Column:
    """Bytes of copies that a cache of `capacity` bytes does not keep."""
    return relax.maximum(size, capacity, policy=policy) - capacity


def translation_misses(depth: Column, row_bytes: Column, entries: Scalar, policy: Relaxation = relax.HARD) -> Column:
    """Misses of the translation buffer per row of an unpacked operand of `depth` rows, `row_bytes` apart (B)."""
    pages = relax.maximum(depth * row_bytes / PAGE, 1.0, policy=policy)
    new_page = relax.minimum(row_bytes / PAGE, 1.0, policy)
    return new_page * beyond(pages, entries, policy) / pages
