"""The best tile of every matrix product of an operation table for a managed fast memory, and the traffic it leaves.

A product is M x K times K x N for each group. One operand's p x q tile stays while segments of the other two stream past it:

    stays   buffer (elements)        A (m x k)           B (k x n)           C (m x n)
    C       p q + p + q              m k ceil(n / q)     k n ceil(m / p)     stored once
    B       p q + p + q (k x n)      m k ceil(n / q)     once                stored ceil(k / p), read again one time less
    A       p q + p + q (m x k)      once                k n ceil(m / p)     stored ceil(k / q), read again one time less

For each p of a fine geometric grid the largest q that fits is taken, then the best of all; everything counts in bytes of its own
width. A convolution reads each input R = M K groups / inputs times (its sliding windows overlap); the scratchpad holds an input
once, so A and its segments shrink by R. The bound is the larger of the compulsory bytes and

    2 MACs sqrt(e_A e_B e_C / (R S)) - 2 S        S bytes of fast memory, e element sizes

Sources: Smith et al. 2019 (arXiv 1702.02017) for products, Chen et al., HPCA 2020, for R.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from costmodel import relax
from costmodel.processors.base import as_arrays
from workloads import OpKind, OpTable

SIDES = 128  # values of p tried for each operand that stays
PRODUCTS = (OpKind.CONV, OpKind.DEPTHWISE, OpKind.DENSE, OpKind.MATMUL)


class TiledTraffic(NamedTuple):
    """Best tiles of a table; arrays (..., ops) unless said otherwise."""

    tile: Float[Array, "*batch ops 3"]  # rows m, outputs n and products k held or streamed at once
    bytes_loaded: Float[Array, "*batch ops"]
    bytes_stored: Float[Array, "*batch ops"]
    bound: Float[Array, "*batch ops"]  # lower bound of bytes_moved for any schedule of this fast memory
    flops: Float[Array, "*batch ops"]

    @property
    def bytes_moved(self) -> Float[Array, "*batch ops"]:
        """Between the slow and the fast memory."""
        return self.bytes_loaded + self.bytes_stored

    @property
    def intensity(self) -> Float[Array, "*batch ops"]:
        """Operations for each byte moved (0 where nothing moves)."""
        return jnp.where(self.bytes_moved > 0, self.flops / jnp.maximum(self.bytes_moved, 1e-30), 0.0)


class _Product(NamedTuple):
    """One row's sizes and element sizes (bytes)."""

    m: Array
    n: Array
    k: Array
    groups: Array
    reuse: Array
    e_a: Array
    e_b: Array
    e_c: Array


def best_tiles(ops: OpTable, fast: Num[Array, ""] | float) -> TiledTraffic:
    """Tile and traffic of every row of `ops` for `fast` bytes (>= 16) of managed memory; see the module.

    Rows that are no products move inputs, outputs and weights once. Each row is alone: nothing stays from one to the next.
    Works under jit and vmap, in ops and fast. ValueError for fewer than 16 bytes.
    """
    if isinstance(fast, int | float) and not fast >= 16:
        raise ValueError(f"fast = {fast:g} bytes is outside its range [16, inf) bytes")
    return _best_tiles(ops.without_info(), jnp.asarray(fast, float))


@jax.jit
def _best_tiles(ops: OpTable, fast: Array) -> TiledTraffic:
    t = as_arrays(ops)
    over_rows = jax.vmap(lambda row: _row(row, fast))
    columns = (t.kind, t.m, t.n, t.k, t.groups, t.macs, t.flops, t.inputs, t.outputs, t.weights)
    flat = over_rows((*columns, t.activation_bits, t.weight_bits, jnp.asarray(t.mask)))
    return TiledTraffic(*flat)


def _row(row: tuple, fast: Array) -> tuple[Array, ...]:
    kind, m, n, k, groups, macs, flops, inputs, outputs, weights, a_bits, w_bits, mask = row
    m, n, k, groups = (jnp.asarray(x, float) for x in (m, n, k, groups))
    e_act, e_w = a_bits / 8, w_bits / 8
    is_product = jnp.isin(kind, jnp.asarray(PRODUCTS)) & (macs > 0)
    both = kind == OpKind.MATMUL
    rows_read = m * k * groups
    own = jnp.where(both, jnp.maximum(inputs - k * n * groups, 0.0), inputs)
    reuse = jnp.maximum(rows_read / jnp.maximum(own, 1.0), 1.0)
    product = _Product(m, n, k, groups, reuse, e_act, jnp.where(both, e_act, e_w), e_act)
    tile, loaded, stored = _search(product, fast)
    extra = jnp.maximum(own - rows_read, 0.0) * e_act + jnp.where(both, 0.0, jnp.maximum(weights - k * n * groups, 0.0)) * e_w
    once = inputs * e_act + weights * e_w
    loaded = jnp.where(is_product, loaded + extra, once)
    stored = jnp.where(is_product, stored, outputs * e_act)
    bound = jnp.where(is_product, jnp.maximum(_bound(product, fast), 0.0) + extra, once + stored)
    zero = mask.astype(loaded.dtype)
    return jnp.where(is_product, tile, 1.0), loaded * zero, stored * zero, bound * zero, flops * zero


def _bound(x: _Product, fast: Array) -> Array:
    compulsory = x.groups * (x.m * x.k / x.reuse * x.e_a + x.k * x.n * x.e_b + x.m * x.n * x.e_c)
    each = 2 * x.m * x.n * x.k * jnp.sqrt(x.e_a * x.e_b * x.e_c / (x.reuse * fast)) - 2 * fast
    return jnp.maximum(compulsory, x.groups * each)


def _search(x: _Product, fast: Array) -> tuple[Array, Array, Array]:
    """The best tile (3,), bytes loaded and stored of all groups."""
    e_a = x.e_a / x.reuse
    a, b, c = x.m * x.k * e_a, x.k * x.n * x.e_b, x.m * x.n * x.e_c
    one = jnp.ones(SIDES)

    def fill(rows: Array, columns: Array, e_held: Array, e_p: Array, e_q: Array) -> tuple[Array, Array]:
        p = _grid(rows)
        room = relax.floor_div(jnp.maximum(fast - p * e_p, 0.0), p * e_held + e_q)
        return p, jnp.clip(room, 1.0, columns)

    p, q = fill(x.m, x.n, x.e_c, e_a, x.e_b)  # C stays
    c_stays = jnp.stack([p, q, one], -1), a * _count(x.n, q) + b * _count(x.m, p), c * one
    p, q = fill(x.k, x.n, x.e_b, e_a, x.e_c)  # B stays
    turns = _count(x.k, p)
    b_stays = jnp.stack([one, q, p], -1), a * _count(x.n, q) + b + c * (turns - 1), c * turns
    p, q = fill(x.m, x.k, e_a, x.e_c, x.e_b)  # A stays: C streams along its rows, B along its columns
    turns = _count(x.k, q)
    a_stays = jnp.stack([p, one, q], -1), b * _count(x.m, p) + a + c * (turns - 1), c * turns
    tile, loaded, stored = (jnp.concatenate(parts) for parts in zip(c_stays, b_stays, a_stays, strict=True))
    best = jnp.argmin(loaded + stored)
    return tile[best], x.groups * loaded[best], x.groups * stored[best]


def _grid(most: Array) -> Array:
    """`SIDES` whole numbers from 1 to `most`, evenly spaced in logarithm."""
    return jnp.clip(jnp.round(jnp.exp(jnp.linspace(0.0, 1.0, SIDES) * jnp.log(most))), 1.0, most)


def _count(n: Array, k: Array) -> Array:
    return relax.ceil_div(n, k)
