"""How little can a kernel move: lower bounds of loads between a fast memory of S elements and a slow one, PolyBench's 30 kernels.

    Q(n; S) = max(inputs, leading(n; S) - made)  where `footprint` > S and kept > S
              inputs                             elsewhere

kept is the least block of data that, held in S, lets all the rest stream past once, where no law in sqrt(S) holds any more: the
square of the smallest side of a kernel's products (half of it for a triangle), the points of a stencil, durbin's vector. made are
results that start from zero and intermediates: their first use needs no load, but the law counts them as inputs.
For stencils with fewer than 5 points a side, where the border outweighs the inside, Q can still exceed what a program loads.

`leading` is the leading term of a proven bound, for sizes well above S: IOLB (Olivry et al., PLDI 2020, arXiv 1911.06664); for
cholesky and syrk the larger bound that an algorithm attains (Beaumont et al., SPAA 2022, arXiv 2202.10217). SOAP (Kwasniewski et
al., SPAA 2021, arXiv 2105.07203) gives larger values for stencils; they are kept as `soap`, not as the bound, because its values
for cholesky and syrk exceed what Beaumont's algorithms attain, those of syr2k, correlation and covariance follow from the same
argument, and a traced durbin loads less than its value. Operations are the leading terms that IOLB counts (2 for each inner
iteration of gemm, where the source text has 3), as remembered from that paper, not read again; inputs are what a program reads
before writing it, lower-order terms left out only where that makes them fewer.
Everything is differentiable in sizes and S but for the maximum and the steps where all or kept fits.
"""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from workloads.kernels import KERNELS, Size
from workloads.names import normalised

Form = Callable[..., Size]


class LowerBound(NamedTuple):
    """What is known about a kernel of one size."""

    loads: Float[Array, "..."]  # elements that any schedule must load
    leading: Float[Array, "..."]  # the leading term alone
    soap: Float[Array, "..."]  # SOAP's leading term; NaN where there is none
    inputs: Float[Array, "..."]  # elements
    footprint: Float[Array, "..."]  # elements
    flops: Float[Array, "..."]

    @property
    def intensity(self) -> Float[Array, "..."]:
        """The most operations for each element loaded."""
        return self.flops / self.loads


class _Row(NamedTuple):
    flops: Form
    inputs: Form
    others: Form  # elements that are no inputs: outputs and temporaries
    leading: Form  # its last argument is S
    soap: Form | None


def _root(x: Size) -> Size:
    return jnp.sqrt(x)


def _cube_root(x: Size) -> Size:
    return jnp.cbrt(x)


_R2, _R3 = 2**0.5, 3**0.5


def _three(ni: Size, nj: Size, nk: Size, nl: Size, nm: Size) -> Size:
    return 2 * (ni * nj * nk + nj * nl * nm + ni * nj * nl)


_ROWS: dict[str, _Row] = {
    "2mm": _Row(
        lambda ni, nj, nk, nl: 2 * ni * nj * (nk + nl),
        lambda ni, nj, nk, nl: ni * nk + nk * nj + nj * nl + ni * nl,
        lambda ni, nj, nk, nl: ni * nj,
        lambda ni, nj, nk, nl, s: 2 * ni * nj * (nk + nl) / _root(s),
        lambda ni, nj, nk, nl, s: 2 * ni * nj * (nk + nl) / _root(s),
    ),
    "3mm": _Row(
        _three,
        lambda ni, nj, nk, nl, nm: ni * nk + nk * nj + nj * nm + nm * nl,
        lambda ni, nj, nk, nl, nm: ni * nj + nj * nl + ni * nl,
        lambda ni, nj, nk, nl, nm, s: _three(ni, nj, nk, nl, nm) / _root(s),
        lambda ni, nj, nk, nl, nm, s: 2 * nj * (ni * nk + ni * nl + nl * nm) / _root(s),
    ),
    "adi": _Row(lambda n, t: 30 * n**2 * t, lambda n, t: n * (n - 2), lambda n, t: 3 * n**2, lambda n, t, s: n**2 * t, None),
    "atax": _Row(
        lambda m, n: 4 * m * n, lambda m, n: m * n, lambda m, n: m + 2 * n, lambda m, n, s: m * n, lambda m, n, s: m * n
    ),
    "bicg": _Row(
        lambda m, n: 4 * m * n, lambda m, n: m * n, lambda m, n: 2 * (m + n), lambda m, n, s: m * n, lambda m, n, s: m * n
    ),
    "cholesky": _Row(
        lambda n: n**3 / 3,
        lambda n: n**2 / 2,
        lambda n: n / 2,
        lambda n, s: n**3 / (3 * _R2 * _root(s)),
        lambda n, s: n**3 / (3 * _root(s)),
    ),
    "correlation": _Row(
        lambda m, n: m**2 * n,
        lambda m, n: m * n,
        lambda m, n: m**2 + 2 * m,
        lambda m, n, s: m**2 * n / (2 * _root(s)),
        lambda m, n, s: m**2 * n / _root(s),
    ),
    "covariance": _Row(
        lambda m, n: m**2 * n,
        lambda m, n: m * n,
        lambda m, n: m**2 + m,
        lambda m, n, s: m**2 * n / (2 * _root(s)),
        lambda m, n, s: m**2 * n / _root(s),
    ),
    "deriche": _Row(
        lambda w, h: 32 * h * w,
        lambda w, h: h * w,
        lambda w, h: 3 * h * w,
        lambda w, h, s: h * w,
        lambda w, h, s: 3 * h * w,
    ),
    "doitgen": _Row(
        lambda nq, nr, np: 2 * nq * nr * np**2,
        lambda nq, nr, np: nq * nr * np,
        lambda nq, nr, np: np**2 + np,
        lambda nq, nr, np, s: 2 * nq * nr * np**2 / _root(s),
        lambda nq, nr, np, s: 2 * nq * nr * np**2 / _root(s),
    ),
    "durbin": _Row(lambda n: 2 * n**2, lambda n: n, lambda n: 2 * n, lambda n, s: n**2 / 2, lambda n, s: 3 * n**2 / 2),
    "fdtd-2d": _Row(
        lambda nx, ny, t: 11 * nx * ny * t,
        lambda nx, ny, t: 3 * nx * ny - ny - 1 + t,
        lambda nx, ny, t: ny,
        lambda nx, ny, t, s: nx * ny * t / (2 * _R2 * _root(s)),
        lambda nx, ny, t, s: 2 * _R3 * nx * ny * t / _root(s),
    ),
    "floyd-warshall": _Row(
        lambda n: 2 * n**3, lambda n: n**2, lambda n: 0 * n, lambda n, s: n**3 / _root(s), lambda n, s: 2 * n**3 / _root(s)
    ),
    "gemm": _Row(
        lambda ni, nj, nk: 2 * ni * nj * nk,
        lambda ni, nj, nk: ni * nj + nj * nk + ni * nk,
        lambda ni, nj, nk: 0 * ni,
        lambda ni, nj, nk, s: 2 * ni * nj * nk / _root(s),
        lambda ni, nj, nk, s: 2 * ni * nj * nk / _root(s),
    ),
    "gemver": _Row(lambda n: 10 * n**2, lambda n: n**2, lambda n: 8 * n, lambda n, s: n**2, lambda n, s: n**2),
    "gesummv": _Row(lambda n: 4 * n**2, lambda n: 2 * n**2, lambda n: 3 * n, lambda n, s: 2 * n**2, lambda n, s: 2 * n**2),
    "gramschmidt": _Row(
        lambda m, n: 2 * m * n**2,
        lambda m, n: m * n,
        lambda m, n: m * n + n**2 / 2,
        lambda m, n, s: m * n**2 / _root(s),
        lambda m, n, s: m * n**2 / _root(s),
    ),
    "heat-3d": _Row(
        lambda n, t: 30 * n**3 * t,
        lambda n, t: n**3,
        lambda n, t: n**3,
        lambda n, t, s: 9 * 3 ** (1 / 3) * n**3 * t / (16 * _cube_root(s)),
        lambda n, t, s: 6 * n**3 * t / _cube_root(s),
    ),
    "jacobi-1d": _Row(
        lambda n, t: 6 * n * t, lambda n, t: n, lambda n, t: n, lambda n, t, s: n * t / (4 * s), lambda n, t, s: 2 * n * t / s
    ),
    "jacobi-2d": _Row(
        lambda n, t: 10 * n**2 * t,
        lambda n, t: n**2,
        lambda n, t: n**2,
        lambda n, t, s: 2 * n**2 * t / (3 * _R3 * _root(s)),
        lambda n, t, s: 4 * n**2 * t / _root(s),
    ),
    "lu": _Row(
        lambda n: 2 * n**3 / 3,
        lambda n: n**2,
        lambda n: 0 * n,
        lambda n, s: 2 * n**3 / (3 * _root(s)),
        lambda n, s: 2 * n**3 / (3 * _root(s)),
    ),
    "ludcmp": _Row(
        lambda n: 2 * n**3 / 3,
        lambda n: n**2,
        lambda n: 3 * n,
        lambda n, s: 2 * n**3 / (3 * _root(s)),
        lambda n, s: 2 * n**3 / (3 * _root(s)),
    ),
    "mvt": _Row(lambda n: 4 * n**2, lambda n: n**2, lambda n: 4 * n, lambda n, s: n**2, lambda n, s: n**2),
    "nussinov": _Row(
        lambda n: n**3 / 3,
        lambda n: n**2 / 2,
        lambda n: n,
        lambda n, s: n**3 / (6 * _root(s)),
        lambda n, s: n**3 / (3 * _root(s)),
    ),
    "seidel-2d": _Row(
        lambda n, t: 9 * n**2 * t,
        lambda n, t: n**2,
        lambda n, t: 0 * n,
        lambda n, t, s: 2 * n**2 * t / (3 * _R3 * _root(s)),
        lambda n, t, s: 4 * n**2 * t / _root(s),
    ),
    "symm": _Row(
        lambda m, n: 2 * m**2 * n,
        lambda m, n: m**2 / 2 + 2 * m * n,
        lambda m, n: m / 2,
        lambda m, n, s: 2 * m**2 * n / _root(s),
        lambda m, n, s: _R2 * m**2 * n / _root(s),
    ),
    "syr2k": _Row(
        lambda m, n: 2 * m * n**2,
        lambda m, n: n**2 / 2 + 2 * m * n,
        lambda m, n: n / 2,
        lambda m, n, s: m * n**2 / _root(s),
        lambda m, n, s: 2 * m * n**2 / _root(s),
    ),
    "syrk": _Row(
        lambda m, n: m * n**2,
        lambda m, n: n**2 / 2 + m * n,
        lambda m, n: n / 2,
        lambda m, n, s: m * n**2 / (_R2 * _root(s)),
        lambda m, n, s: m * n**2 / _root(s),
    ),
    "trisolv": _Row(lambda n: n**2, lambda n: n**2 / 2, lambda n: 2 * n, lambda n, s: n**2 / 2, lambda n, s: n**2 / 2),
    "trmm": _Row(
        lambda m, n: m**2 * n,
        lambda m, n: m * (m - 1) / 2 + m * n,
        lambda m, n: 0 * n,
        lambda m, n, s: m**2 * n / _root(s),
        lambda m, n, s: m**2 * n / _root(s),
    ),
}


def _least(*sides: Size) -> Size:
    """Elements of a square with the smallest of these sides."""
    return functools.reduce(jnp.minimum, sides) ** 2


# A law that only says that the inputs are loaded once needs no entry.
_KEPT: dict[str, Form] = {
    "2mm": _least,
    "3mm": _least,
    "adi": lambda n, t: n**2,
    "cholesky": lambda n: n**2 / 2,
    "correlation": _least,
    "covariance": _least,
    "doitgen": lambda nq, nr, np: _least(nq * nr, np),
    "durbin": lambda n: n,
    "fdtd-2d": lambda nx, ny, t: _least(nx, ny),
    "floyd-warshall": _least,
    "gemm": _least,
    "gramschmidt": _least,
    "heat-3d": lambda n, t: n**3,
    "jacobi-1d": lambda n, t: n,
    "jacobi-2d": lambda n, t: n**2,
    "lu": _least,
    "ludcmp": _least,
    "nussinov": lambda n: n**2 / 2,
    "seidel-2d": lambda n, t: n**2,
    "symm": lambda m, n: jnp.minimum(m**2 / 2, n**2),
    "syr2k": lambda m, n: jnp.minimum(m**2, n**2 / 2),
    "syrk": lambda m, n: jnp.minimum(m**2, n**2 / 2),
    "trmm": lambda m, n: jnp.minimum(m**2 / 2, n**2),
}
_MADE: dict[str, Form] = {  # an intermediate counts twice: as a result and as an operand
    "2mm": lambda ni, nj, nk, nl: 2 * ni * nj,
    "3mm": lambda ni, nj, nk, nl, nm: 2 * ni * nj + 2 * nj * nl + ni * nl,
    "correlation": lambda m, n: m**2 / 2 + m * n,
    "covariance": lambda m, n: m**2 / 2 + m * n,
    "doitgen": lambda nq, nr, np: nq * nr * np,
    "gramschmidt": lambda m, n: n**2 / 2 + m * n,
}


def list_bounds() -> tuple[str, ...]:
    """Names of the kernels that have a bound."""
    return tuple(_ROWS)


def bound_sizes(kernel: str) -> tuple[str, ...]:
    """Names of a kernel's sizes, such as ni, nj, nk; ValueError for an unknown kernel."""
    return tuple(inspect.signature(_ROWS[_find(kernel)].flops).parameters)


def io_lower_bound(kernel: str, fast: Size = 32_768.0, **sizes: Size) -> LowerBound:
    """Loads that no schedule of a PolyBench kernel avoids with `fast` elements of fast memory; see the module.

    `kernel` in any case, with the aliases of the complexity library ("potrf"); sizes are those of `bound_sizes(kernel)`.
    ValueError with close matches for an unknown kernel, for a missing or unknown size, and for plain numbers below 1.
    """
    name = _find(kernel)
    row, names = _ROWS[name], bound_sizes(kernel)
    if set(sizes) != set(names):
        raise ValueError(f"{name} has the sizes {', '.join(names)}; given: {', '.join(sizes) or 'none'}")
    for field, value in (("fast", fast), *sizes.items()):
        if isinstance(value, int | float) and not value >= 1:
            raise ValueError(f"{field} = {value:g} is outside its range [1, inf)")
    n = {key: jnp.asarray(sizes[key], float) for key in names}
    s = jnp.asarray(fast, float)
    inputs, leading = row.inputs(**n), row.leading(**n, s=s)
    footprint = inputs + row.others(**n)
    kept = _KEPT[name](*n.values()) if name in _KEPT else jnp.inf
    made = _MADE[name](*n.values()) if name in _MADE else 0.0
    loads = jnp.where((footprint <= s) | (kept <= s), inputs, jnp.maximum(inputs, leading - made))
    soap = row.soap(**n, s=s) if row.soap else jnp.full_like(loads, jnp.nan)
    return LowerBound(*(jnp.asarray(x) for x in (loads, leading, soap, inputs, footprint, row.flops(**n))))


def _find(kernel: str) -> str:
    names = {normalised(name): name for name in _ROWS}
    for known in KERNELS:
        spellings = [normalised(spelling) for spelling in (known.name, *known.aliases)]
        if shared := [names[s] for s in spellings if s in names]:
            names |= dict.fromkeys(spellings, shared[0])
    key = normalised(kernel)
    if key not in names:
        close = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
        hint = f"close: {', '.join(dict.fromkeys(names[c] for c in close))}" if close else f"known: {', '.join(_ROWS)}"
        raise ValueError(f"no lower bound for {kernel!r}; {hint}")
    return names[key]
