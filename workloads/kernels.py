"""The complexity library: how work, traffic, depth and memory of named kernels grow with their size, in closed form.

    work       W(n)     arithmetic operations
    traffic    Q(n; S)  elements that must move between a fast memory of S elements and a slow one: max(compulsory, leading term
                        of the lower bound); what fits in S moves once
    depth      D(n)     longest chain of dependent operations, with reductions as trees
    footprint  F(n)     elements of input, output and what has to be kept

All are smooth in every argument but for that maximum, so that their gradients are scaling exponents: d ln W / d ln n is 3 for a
matrix product. Every form names its source; leading terms hold for sizes well above S. Sizes are real numbers >= 1.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from workloads.names import find

Size = Float[Array, ""] | float


class Complexity(NamedTuple):
    """What a kernel of one size costs."""

    work: Float[Array, "..."]  # operations
    traffic: Float[Array, "..."]  # elements between fast and slow memory
    depth: Float[Array, "..."]  # operations on the longest chain
    footprint: Float[Array, "..."]  # elements

    @property
    def intensity(self) -> Float[Array, "..."]:
        """Operations for each element moved."""
        return self.work / self.traffic


class Kernel(NamedTuple):
    """One row of the library: `cost(fast, **sizes)` with its sizes' names and the default of each."""

    name: str
    aliases: tuple[str, ...]
    cost: Callable[..., Complexity]
    source: str

    @property
    def sizes(self) -> dict[str, float]:
        """Names of the sizes, with the values taken where none is given (NaN: given, or derived from the others)."""
        found = list(inspect.signature(self.cost).parameters.values())[1:]
        return {p.name: float("nan") if p.default in (p.empty, None) else float(p.default) for p in found}


def _log2(n: Size) -> Float[Array, "..."]:
    return jnp.log2(jnp.maximum(jnp.asarray(n, float), 2.0))


def _moved(compulsory: Size, bound: Size, footprint: Size, fast: Size) -> Float[Array, "..."]:
    """Compulsory traffic where everything fits, else at least the bound."""
    return jnp.where(jnp.asarray(footprint) <= fast, compulsory, jnp.maximum(jnp.asarray(compulsory, float), bound))


def _cost(fast: Size, work: Size, compulsory: Size, bound: Size, depth: Size, footprint: Size) -> Complexity:
    moved = _moved(compulsory, bound, footprint, fast)
    return Complexity(*(jnp.asarray(v, float) for v in (work, moved, depth, footprint)))


# Dense linear algebra


def gemm(fast: Size, n: Size, m: Size | None = None, k: Size | None = None) -> Complexity:
    """C = A B, m x k times k x n (square where m and k are left out)."""
    m, k = n if m is None else m, n if k is None else k
    all_three = m * k + k * n + m * n
    return _cost(fast, 2 * m * n * k, all_three, 2 * m * n * k / jnp.sqrt(fast), 1 + _log2(k), all_three)


def gemv(fast: Size, n: Size, m: Size | None = None) -> Complexity:
    """y = A x, m x n."""
    m = n if m is None else m
    return _cost(fast, 2 * m * n, m * n + m + n, m * n, 1 + _log2(n), m * n + m + n)


def lu(fast: Size, n: Size) -> Complexity:
    """LU factorisation."""
    return _cost(fast, 2 * n**3 / 3, 2 * n**2, 2 * n**3 / (3 * jnp.sqrt(fast)), 3 * n, n**2)


def cholesky(fast: Size, n: Size) -> Complexity:
    """Cholesky factorisation; the bound is attained."""
    return _cost(fast, n**3 / 3, n**2, n**3 / (3 * jnp.sqrt(2.0) * jnp.sqrt(fast)), 3 * n, n**2 / 2)


def syrk(fast: Size, n: Size, m: Size | None = None) -> Complexity:
    """C = A A^T, n x m; the bound is attained."""
    m = n if m is None else m
    return _cost(fast, n**2 * m, n * m + n**2 / 2, n**2 * m / jnp.sqrt(2.0 * fast), 1 + _log2(m), n * m + n**2 / 2)


def qr(fast: Size, n: Size, m: Size | None = None) -> Complexity:
    """Householder QR of m x n, m >= n."""
    m = n if m is None else m
    work = 2 * n**2 * (m - n / 3)
    return _cost(fast, work, 2 * m * n, work / jnp.sqrt(fast), 2 * n * (1 + _log2(m)), m * n)


# Sparse, spectral, structured


def spmv(fast: Size, nnz: Size, n: Size | None = None, reuse: Size = 1.0) -> Complexity:
    """y = A x in compressed rows; indices count as elements; `reuse` in [0, 1] is how often x is found in fast memory."""
    n = nnz / 10 if n is None else n
    x = n + (1 - reuse) * (nnz - n)
    streamed = 2 * nnz + 2 * n + x
    return _cost(fast, 2 * nnz, streamed, streamed, 1 + _log2(nnz / n), 2 * nnz + 3 * n)


def fft(fast: Size, n: Size) -> Complexity:
    """Complex fast Fourier transform; real elements, two to a point."""
    bound = 2 * n * _log2(n) / _log2(fast)
    return _cost(fast, 5 * n * _log2(n), 4 * n, 2 * bound, 2 * _log2(n), 2 * n)


def stencil(fast: Size, n: Size, d: Size = 2.0, steps: Size = 1.0, points: Size | None = None) -> Complexity:
    """`steps` sweeps of a star stencil over n^d points, tiled in time."""
    points = 2 * d + 1 if points is None else points
    cells = jnp.asarray(n, float) ** d
    traffic = 2 * cells * jnp.maximum(1.0, steps / (4 * jnp.asarray(fast, float) ** (1 / d)))
    return _cost(fast, 2 * points * cells * steps, 2 * cells, traffic, steps * (1 + _log2(points)), 2 * cells)


def convolution(
    fast: Size, n: Size, channels: Size = 64.0, filters: Size = 64.0, kernel: Size = 3.0, stride: Size = 1.0, batch: Size = 1.0
) -> Complexity:
    """A convolution of n x n images."""
    out = (n / stride) ** 2
    macs = batch * out * filters * channels * kernel**2
    tensors = batch * n**2 * channels + filters * channels * kernel**2 + batch * out * filters
    reuse = kernel**2 / stride**2
    return _cost(fast, 2 * macs, tensors, 2 * macs / jnp.sqrt(reuse * fast), 1 + _log2(channels * kernel**2), tensors)


# Particles, order, clusters


def nbody(fast: Size, n: Size) -> Complexity:
    """All pairs of n bodies, 20 operations each; 4 elements to a body, 3 to a force."""
    return _cost(fast, 20 * n**2, 7 * n, 4 * n**2 / fast, 10 + _log2(n), 7 * n)


def sort(fast: Size, n: Size, block: Size = 16.0) -> Complexity:
    """Comparisons of a merge sort with blocks of `block` elements."""
    passes = jnp.maximum(jnp.log(jnp.maximum(n / block, 2.0)) / jnp.log(jnp.maximum(fast / block, 2.0)), 1.0)
    return _cost(fast, n * _log2(n), 2 * n, 2 * n * passes, _log2(n) ** 2, n)


def kmeans(fast: Size, n: Size, k: Size = 16.0, d: Size = 16.0) -> Complexity:
    """One iteration over n points in d dimensions and k clusters."""
    streamed = n * d + k * d
    bound = n * d * jnp.maximum(1.0, k * d / fast)
    return _cost(fast, 3 * n * k * d + n * d, streamed, bound, 2 + _log2(d) + _log2(k) + _log2(n), streamed + n)


# Attention and sequences


def attention(fast: Size, n: Size, d: Size = 64.0, fused: Size = 1.0) -> Complexity:
    """One head over n positions; `fused` 1 keeps scores in fast memory, 0 writes and reads them."""
    apart, together = 4 * n * d + 4 * n**2, 4 * n * d + n**2 * d**2 / fast
    bound = fused * together + (1 - fused) * apart
    return _cost(fast, 4 * n**2 * d + 5 * n**2, 4 * n * d, bound, 3 + _log2(d) + 2 * _log2(n), 4 * n * d + (1 - fused) * n**2)


def graph_sweep(fast: Size, edges: Size, vertices: Size | None = None) -> Complexity:
    """One sweep over a graph's edges (breadth-first search, PageRank)."""
    vertices = edges / 16 if vertices is None else vertices
    moved = 2 * edges + vertices
    return _cost(fast, 2 * edges, moved, moved, 1 + _log2(edges / vertices), edges + 2 * vertices)


def alignment(fast: Size, n: Size, m: Size | None = None) -> Complexity:
    """Local alignment of two sequences by dynamic programming (Smith-Waterman)."""
    m = n if m is None else m
    return _cost(fast, 5 * n * m, n + m, n * m / fast, n + m, n + m)


def folding(fast: Size, n: Size) -> Complexity:
    """Folding of a sequence by dynamic programming over intervals (Nussinov)."""
    return _cost(fast, n**3 / 3, n**2, n**3 / (6 * jnp.sqrt(fast)), n * (1 + _log2(n)), n**2 / 2)


def monte_carlo(fast: Size, n: Size, operations: Size = 100.0) -> Complexity:
    """n independent samples of `operations` operations, then their mean."""
    return _cost(fast, operations * n, 2.0, 2.0, operations + _log2(n), 2.0)


def spiking_layer(fast: Size, n: Size, steps: Size = 100.0, fan_out: Size = 100.0, rate: Size = 0.05) -> Complexity:
    """n leaky neurons for `steps` steps, each spike to `fan_out` others."""
    spikes = n * steps * rate
    streamed = n * fan_out + n * steps * rate * fan_out
    return _cost(
        fast, 4 * n * steps + 2 * fan_out * spikes, n * fan_out + n, streamed + 2 * n * steps, 4 * steps, n * fan_out + n
    )


GOLUB = "Golub and Van Loan, Matrix Computations, 4th ed."
KERNELS = (
    Kernel("gemm", ("matmul", "matrix multiplication", "dense"), gemm, "Smith et al. 2019 (arXiv 1702.02017): 2mnk/sqrt(S)"),
    Kernel("gemv", ("matvec", "matrix vector"), gemv, "every entry of A is read once"),
    Kernel("lu", ("lu decomposition", "getrf"), lu, "Kwasniewski et al. 2021 (arXiv 2010.05975): 2n^3/(3 sqrt S)"),
    Kernel("cholesky", ("potrf",), cholesky, "Beaumont et al., SPAA 2022 (arXiv 2202.10217), attained"),
    Kernel("syrk", ("rank-k update",), syrk, "Beaumont et al., SPAA 2022 (arXiv 2202.10217), attained"),
    Kernel("qr", ("geqrf",), qr, f"work: {GOLUB}; traffic: Ballard et al. 2011, constant 1 assumed"),
    Kernel("spmv", ("sparse matrix vector", "csr"), spmv, "streams of compressed rows; Williams et al. 2009"),
    Kernel("fft", ("fourier", "fast fourier transform"), fft, "nominal 5 n log2 n; Hong and Kung 1981, constant 2 assumed"),
    Kernel("stencil", ("jacobi", "structured grid"), stencil, "tiling in time with tiles of S^(1/d); constant 4 assumed"),
    Kernel("convolution", ("conv", "conv2d"), convolution, "Chen et al., HPCA 2020: 2 MACs / sqrt(R S)"),
    Kernel("n-body", ("nbody", "particles"), nbody, "20 operations a pair: Nyland et al. 2007"),
    Kernel("sort", ("sorting", "mergesort"), sort, "Aggarwal and Vitter 1988"),
    Kernel("k-means", ("kmeans", "clustering"), kmeans, "one pass over points, centroids in fast memory"),
    Kernel("attention", ("self-attention", "flash attention"), attention, "Dao et al. 2022 (arXiv 2205.14135)"),
    Kernel("graph sweep", ("bfs", "pagerank", "graph traversal"), graph_sweep, "every edge is read once"),
    Kernel("alignment", ("smith-waterman", "needleman-wunsch"), alignment, "wavefront of n + m"),
    Kernel("folding", ("nussinov",), folding, "Olivry et al., PLDI 2020 (arXiv 1911.06664): n^3/(6 sqrt S)"),
    Kernel("monte carlo", ("monte-carlo", "sampling"), monte_carlo, "independent samples"),
    Kernel("spiking layer", ("snn", "lif", "spiking"), spiking_layer, "4 operations a leaky neuron: NeuroBench"),
)


def list_kernels() -> tuple[str, ...]:
    """Names of all kernels, without aliases."""
    return tuple(kernel.name for kernel in KERNELS)


def find_kernel(name: str) -> Kernel:
    """The kernel called `name` (name or alias, in any case); ValueError with close matches if there is none."""
    return find(name, KERNELS, "kernel")


def complexity(name: str, *, fast: Size = 32_768.0, **sizes: Size) -> Complexity:
    """Work, traffic, depth and footprint of the kernel called `name`; `fast` are the elements of fast memory (>= 2).

    Sizes are those of `find_kernel(name).sizes`. Differentiable in all of them. ValueError for an unknown kernel or size, for one
    that is missing, and for a plain number below 1 (`fast`: below 2).
    """
    kernel = find_kernel(name)
    for given in sizes:
        if given not in kernel.sizes:
            raise ValueError(f"{kernel.name} has no size {given!r}; its sizes: {', '.join(kernel.sizes)}")
    missing = [
        n for n, p in list(inspect.signature(kernel.cost).parameters.items())[1:] if p.default is p.empty and n not in sizes
    ]
    if missing:
        raise ValueError(f"{kernel.name} needs the size {missing[0]!r}")
    shares = ("reuse", "fused", "rate")
    for field, value, least in (("fast", fast, 2), *((f, v, 0 if f in shares else 1) for f, v in sizes.items())):
        if isinstance(value, int | float) and not value >= least:
            raise ValueError(f"{field} = {value:g} is below {least}")
    return kernel.cost(fast, **sizes)
