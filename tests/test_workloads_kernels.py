"""The complexity library: values by hand, limits, scaling exponents, names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import workloads
from workloads.kernels import KERNELS, Kernel, complexity, find_kernel, gemm
from workloads.names import build_index

MAIN = {k.name: next(iter(k.sizes)) for k in KERNELS}  # the size that a kernel grows with


def test_values_by_hand():
    """n = 1000, S = 10,000 elements: 2 n^3 = 2e9; 2 n^3 / 100 = 2e7; 3 n^2 = 3e6."""
    found = complexity("gemm", fast=10_000.0, n=1000.0)
    np.testing.assert_allclose([found.work, found.traffic, found.footprint], [2e9, 2e7, 3e6], rtol=1e-6)
    # n^3/3 / (sqrt 2 * 100 / ... ) : 1e9 / (3 * 1.41421 * 100) = 2.357e6
    np.testing.assert_allclose(complexity("cholesky", fast=10_000.0, n=1000.0).traffic, 2.35702e6, rtol=1e-5)
    np.testing.assert_allclose(complexity("fft", fast=1024.0, n=2.0**20).work, 5 * 2**20 * 20, rtol=1e-6)
    np.testing.assert_allclose(complexity("spmv", nnz=1e6, n=1e5).work, 2e6)
    np.testing.assert_allclose(complexity("n-body", n=1000.0).work, 2e7)


@pytest.mark.parametrize("name", sorted(MAIN))
def test_costs_grow_and_what_fits_moves_once(name):
    """Over four decades: finite, positive, work and footprint never fall; more fast memory never moves more."""
    sizes = jnp.geomspace(32.0, 3e5, 400)
    found = jax.vmap(lambda n: complexity(name, **{MAIN[name]: n}))(sizes)
    for column in found:
        assert bool(jnp.all(jnp.isfinite(column) & (column > 0)))
    assert bool(jnp.all(jnp.diff(found.work) >= 0)) and bool(jnp.all(jnp.diff(found.footprint) >= 0))
    fast = jnp.geomspace(64.0, 1e12, 300)
    moved = jax.vmap(lambda s: complexity(name, fast=s, **{MAIN[name]: jnp.asarray(4096.0)}).traffic)(fast)
    assert bool(jnp.all(jnp.diff(moved) <= 1e-5 * moved[:-1]))


@pytest.mark.parametrize(
    ("name", "exponent"),
    [("gemm", 3), ("lu", 3), ("cholesky", 3), ("gemv", 2), ("n-body", 2), ("folding", 3), ("monte carlo", 1)],
)
def test_gradients_are_scaling_exponents(name, exponent):
    """d ln W / d ln n; terms of lower order are below a per cent at these sizes."""
    log_work = lambda log_n: jnp.log(complexity(name, **{MAIN[name]: jnp.exp(log_n)}).work)  # noqa: E731
    for n in (1e3, 1e5):
        np.testing.assert_allclose(jax.grad(log_work)(jnp.log(n)), exponent, rtol=1e-2)


@pytest.mark.parametrize("name", sorted(MAIN))
def test_gradients_are_finite_everywhere(name):
    def all_of(n, fast):
        return sum(jnp.log(c) for c in complexity(name, fast=fast, **{MAIN[name]: n}))

    slopes = jax.vmap(jax.grad(all_of, (0, 1)))(jnp.geomspace(2.0, 1e6, 200), jnp.geomspace(4.0, 1e7, 200))
    assert all(bool(jnp.all(jnp.isfinite(s))) for s in slopes)


def test_names_and_aliases():
    assert find_kernel("Fast Fourier-Transform").name == "fft" and find_kernel("MatMul").name == "gemm"
    assert workloads.list_kernels()[0] == "gemm"
    with pytest.raises(ValueError, match="close: cholesky"):
        find_kernel("cholesk")
    with pytest.raises(ValueError, match="known: gemm"):
        find_kernel("zzzz")
    with pytest.raises(ValueError, match="claimed by both 'a' and 'b'"):
        build_index([Kernel("a", ("x y",), gemm, ""), Kernel("b", ("X-Y",), gemm, "")])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(), "needs the size 'n'"),
        (dict(n=4, q=1), "no size 'q'"),
        (dict(n=0), "n = 0 is below 1"),
        (dict(n=4, fast=1), "fast = 1"),
    ],
)
def test_bad_sizes_are_one_line(sizes, message):
    with pytest.raises(ValueError, match=message):
        complexity("gemm", **sizes)
