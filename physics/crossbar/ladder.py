"""IR drop along a bit line: the conductance seen by its sense amplifier.

Row r joins the line with the conductance c_r of its cell if it is driven, and with nothing if it floats; neighbouring rows
are joined by wires of resistance w, the last one leads to the amplifier, a virtual ground. From the far end to the near one,

    g -> g + c_r,    g -> g / (1 + w g)

exact as long as all driven rows have the same voltage and the word lines have no resistance. Each row is a Moebius map, so
with g = n / d it is linear, n -> n + c d, d -> d + w n, and rows can also be combined pairwise in a tree of 2 x 2 matrices.
Published for the same circuit, with < 0.15 % from SPICE: arXiv 2505.07490.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from physics.params import unknown_name
from physics.types import Scalar

METHODS = ("scan", "tree")
GROUP = 4  # rows between two divisions, which keep n and d from growing beyond (1 + w c)^4
CHUNK = 64  # inputs at a time: what is carried from row to row stays in the cache


def column_conductance(
    conductance: Float[Array, "rows columns"],
    drives: Float[Array, "batch rows"],
    wire: Scalar,
    trailing: int = 0,
    method: str = "scan",
) -> Float[Array, "batch columns"]:
    """Conductance from every column's amplifier to the driven rows (unit of `conductance`).

    `drives` are 0 or 1 (no gradient), `wire` the resistance of a segment (1 / unit of `conductance`), row 0 is farthest from
    the amplifier, `trailing` counts unused rows next to it. `method`: "scan" goes row by row and has its own reverse-mode
    gradient (no forward mode); "tree" combines rows pairwise, in depth log rows and more memory, for accelerators.
    ValueError for another method.
    """
    if method not in METHODS:
        raise ValueError(unknown_name("method", method, METHODS))
    drives, wire = lax.stop_gradient(drives), jnp.asarray(wire, conductance.dtype)
    near = _tree(conductance, drives, wire) if method == "tree" else _padded_scan(conductance, drives, wire)
    return near / (1 + trailing * wire * near)


def _tree(c: Array, v: Array, wire: Array) -> Array:
    """Product of the rows' [[1, c], [w, 1 + w c]] over (n, d), scaled to keep its last entry 1; far rows act first."""
    b = v[:, :, None] * c
    f = 1 + wire * b
    a, b, e = 1 / f, b / f, wire / f
    while a.shape[1] > 1:
        if a.shape[1] % 2:
            a, b, e = (jnp.pad(x, ((0, 0), (0, 1), (0, 0)), constant_values=one) for x, one in ((a, 1), (b, 0), (e, 0)))
        (far_a, far_b, far_e), (near_a, near_b, near_e) = ([x[:, start::2] for x in (a, b, e)] for start in (0, 1))
        f = near_e * far_b + 1
        a, b, e = (near_a * far_a + near_b * far_e) / f, (near_a * far_b + near_b) / f, (near_e * far_a + far_e) / f
    return b[:, 0]


def _padded_scan(c: Array, v: Array, wire: Array) -> Array:
    """Rows without conductance at the far end and inputs that drive nothing fill the last group and chunk."""
    batch, chunk = v.shape[0], min(CHUNK, v.shape[0])
    far = -c.shape[0] % GROUP
    c, v = jnp.pad(c, ((far, 0), (0, 0))), jnp.pad(v, ((0, -batch % chunk), (far, 0)))
    grouped = v.reshape(-1, chunk, c.shape[0] // GROUP, GROUP).transpose(0, 2, 1, 3)  # chunks, groups, inputs, rows
    near = _scan(c.reshape(-1, GROUP, c.shape[1]), grouped, wire)
    return near.reshape(-1, c.shape[1])[:batch]


@jax.custom_vjp
def _scan(c: Array, v: Array, wire: Array) -> Array:
    return lax.map(lambda chunk: _chunk(c, chunk, wire, keep=False)[0], v)


def _chunk(c: Array, v: Array, wire: Array, keep: bool) -> tuple[Array, Any]:
    """Conductance at the near end and, if `keep`, before every group."""

    def step(g: Array, x: tuple[Array, Array, Array]) -> tuple[Array, Array | None]:
        near = _apart(x[0], lambda: jnp.divide(*_rows(g, x[1], x[2], wire)[-1]), lambda: g)
        return near, g if keep else None

    start = jnp.zeros((v.shape[1], c.shape[2]), c.dtype)
    return lax.scan(step, start, (jnp.arange(c.shape[0]), c, v))


def _apart(index: Array, compute, otherwise):
    """`compute()`, compiled apart from the slicing around it: XLA for CPUs does not vectorise a loop that contains both."""
    return lax.cond(index >= 0, compute, otherwise)


def _rows(g: Array, c: Array, v: Array, wire: Array) -> list[tuple[Array, Array]]:
    """(n, d) before the first row of a group, and after each row."""
    states = [(g, jnp.ones_like(g))]
    for row in range(c.shape[0]):
        n, d = states[-1]
        n = n + (v[:, row, None] * c[row]) * d
        states.append((n, d + wire * n))
    return states


def _forward(c: Array, v: Array, wire: Array):
    return _scan(c, v, wire), (c, v, wire)


def _backward(saved: tuple[Array, Array, Array], slope: Array) -> tuple[Array, Array, Array]:
    """By reciprocity: dg/dc is the square of the cell's voltage, d / d_near; -dg/dw the sum of the segments' squared currents."""
    c, v, wire = saved

    def chunk(total: tuple[Array, Array], x: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        drives, slope = x
        _, before = _chunk(c, drives, wire, keep=True)

        def step(carry: tuple[Array, Array], x: tuple[Array, ...]):
            index, cells, drive, g = x
            carry = _apart(index, lambda: _through_group(*carry, _rows(g, cells, drive, wire)), lambda: carry)
            far = carry[0]
            squares = _apart(
                index,
                lambda: [far] + [far * d * d for _, d in _rows(g, cells, drive, wire)[1:-1]],
                lambda: [far] * GROUP,
            )
            return carry, jnp.stack([drive[:, row] @ squares[row] for row in range(GROUP)])

        (_, currents), cells = lax.scan(
            step, (slope, jnp.zeros_like(slope)), (jnp.arange(c.shape[0]), c, drives, before), reverse=True
        )
        return (total[0] + cells, total[1] - currents.sum()), None

    (cells, wires), _ = lax.scan(chunk, (jnp.zeros_like(c), jnp.zeros_like(wire)), (v, slope))
    return cells, jnp.zeros_like(v), wires


def _through_group(slope: Array, currents: Array, states: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The slope with respect to the conductance before a group, and the squared currents of its segments added."""
    far = slope / states[-1][1] ** 2
    return far, currents + far * sum((n * n for n, _ in states[1:]), jnp.zeros_like(far))


_scan.defvjp(_forward, _backward)
