"""Time tiling: stencil sweeps cut into skewed tiles of width W that take all T steps before the next tile begins.

Two arrays of n^d points alternate, radius r; a tile moves by r points in each step, so that what it reads was written by itself
one step before, but for 2 r elements on one side of each axis. With m = n - 2 r points computed along an axis, P = (m - r) / W
cuts of it and c = m + 2 r P, the loads of T steps are, from the smallest memory to the largest,

    below S_0         (2 r + 1) T m^d         d >= 2 only: each row is loaded for every row it is needed in
    below S_1         T c^d                   worse than plain order: each step of a tile reads its window anew
    level j = 1..d    first + (T - 1) (c^(d-j+1) - m^(d-j+1)) m^(j-1)       the halos of the j - 1 innermost axes stay
    from S_(d+1) on   first = 2 n^d - m^d     the whole strip of a tile survives until its neighbour needs it

    S_0 = (2 r + 2) (W + r)^(d-1)                    the rows that one row needs
    S_1 = 2 ((W + 2 r)^d - (2 r)^d [d > 1])          the window of one step and of the next
    S_j = m^(j-2) strip(d - j + 2),  j = 2..d + 1    all that a tile touches, of the axes cut outside
    strip(1) = 4 W + 2 r T,   strip(k) = 2 ((W + 2 r)^k + T ((W + 2 r)^k - (W + r)^k))

Plain order takes T n^d, (2 r + 1) T m^d where S is below (2 r + 2) n^(d-1), and n^d once all fits. For d = 1 the thresholds
2 W + 4 and 4 W + 2 T are those of traced programs to the element; for d = 2 S_1 is, the others are within 20 %, and between two
levels a cache keeps part of the halos. A scratchpad with S_1 moves what level 1 does.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from costmodel import relax
from costmodel.relax import HARD, Relaxation

Number = Num[Array, ""] | float


class TimeTiling(NamedTuple):
    """Elements loaded by `steps` sweeps, tiled in time and in plain order."""

    loads: Float[Array, ""]
    plain: Float[Array, ""]
    thresholds: Float[Array, " levels"]  # S_1 and further, elements of fast memory


def time_tiling(
    extent: Number,
    steps: Number,
    width: Number,
    fast: Number,
    *,
    dimensions: int = 1,
    radius: Number = 1.0,
    policy: Relaxation = HARD,
) -> TimeTiling:
    """Loads of `steps` sweeps over extent^dimensions points in skewed tiles of `width`, with `fast` elements; see the module.

    Differentiable in all but dimensions; HARD: steps at the thresholds. ValueError for dimensions outside 1 to 3 and for concrete
    numbers below 1.
    """
    if dimensions not in (1, 2, 3):
        raise ValueError(f"dimensions = {dimensions} is outside its range [1, 3]")
    for name, value in (("extent", extent), ("steps", steps), ("width", width), ("fast", fast)):
        if isinstance(value, float | int) and not value >= 1:
            raise ValueError(f"{name} = {value:g} is outside its range [1, inf)")
    n, t, w, s, r = (jnp.asarray(x, float) for x in (extent, steps, width, fast, radius))
    d, m = dimensions, jnp.maximum(n - 2 * r, 1.0)
    cut = m + 2 * r * jnp.maximum((m - r) / w, 0.0)
    first, rows = 2 * n**d - m**d, (2 * r + 1) * t * m**d
    levels = [first + (t - 1) * (cut**k - m**k) * m ** (d - k) for k in range(d, 0, -1)]
    thresholds = [2 * ((w + 2 * r) ** d - (2 * r) ** d * (d > 1)), *(m ** (d - k) * _strip(k, w, r, t) for k in range(d, 0, -1))]
    loads, plain = t * cut**d, t * n**d
    if d > 1:
        loads = _step(rows, loads, (2 * r + 2) * (w + r) ** (d - 1), s, policy)
        plain = _step(rows, plain, (2 * r + 2) * n ** (d - 1), s, policy)
    for threshold, level in zip(thresholds, [*levels, first], strict=True):
        loads = _step(loads, level, threshold, s, policy)
    return TimeTiling(loads, _step(plain, n**d, 2 * n**d, s, policy), jnp.stack(thresholds))


def _step(below: Array, above: Array, threshold: Array, fast: Array, policy: Relaxation) -> Array:
    """One value below a threshold of the fast memory, another from it on."""
    fit = relax.fits(threshold, fast, policy)
    return fit * above + (1 - fit) * below


def _strip(m: int, w: Array, r: Array, t: Array) -> Array:
    """Elements that a tile touches in all its steps, along `m` axes."""
    if m == 1:
        return 4 * w + 2 * r * t
    return 2 * ((w + 2 * r) ** m + t * ((w + 2 * r) ** m - (w + r) ** m))
