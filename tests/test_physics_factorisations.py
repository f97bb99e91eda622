"""Dense factorisations: NumPy's, however they are batched, and never a batched LAPACK call, which may stand still."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physics import Leakage, LeakyNetwork, ThermalNetwork
from physics.thermal import factorisations

SIZE, BATCH, INNER = 5, 7, 3


def tol(single: float, double: float) -> float:
    return double if jax.config.read("jax_enable_x64") else single


def definite(*batch: int) -> jax.Array:
    """Symmetric positive definite matrices."""
    square = np.random.default_rng(len(batch)).normal(size=(*batch, SIZE, SIZE))
    return jnp.asarray(square @ np.swapaxes(square, -1, -2) + SIZE * np.eye(SIZE))


def rights(*batch: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(9).normal(size=(*batch, SIZE)))


def batched_calls(function, *args) -> list[str]:
    """LAPACK calls of the compiled program that take more than one matrix."""
    text = jax.jit(function).lower(*args).compile().as_text()
    calls = [line for line in text.splitlines() if re.search(r'custom_call_target="lapack_|custom_call_target="blas_', line)]
    assert calls, "the program calls no LAPACK"
    return [line for line in calls if re.search(r"[fs]\d+\[(?!1,)\d+,\d+,\d+\]", line)]


def network(capacitance, conductance, ambient) -> ThermalNetwork:
    """Three nodes in a row."""
    return ThermalNetwork(capacitance, conductance, ambient, links=((0, 1), (1, 2)))


def everything_about(capacitance, conductance, ambient, power):
    """Two decompositions and three solutions of one network, with a gradient."""
    thermal = network(capacitance, conductance, ambient)
    leaky = LeakyNetwork(thermal, Leakage(), jnp.full(3, 1e-6), 300.0)

    def total(drive):
        return jnp.sum(thermal.step(drive, drive, 0.1)) + jnp.sum(leaky.steady(drive).theta)

    return jax.grad(total)(power), thermal.resistance()


def test_a_plain_batch_is_one_call_and_this_test_would_see_it():
    assert batched_calls(jax.vmap(jnp.linalg.cholesky), definite(BATCH))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere a batch is one call")
@pytest.mark.parametrize("name", ["eigenvectors", "triangle", "cholesky"])
def test_no_call_takes_a_batch(name):
    function = getattr(factorisations, name)
    assert not batched_calls(jax.vmap(jax.vmap(function)), definite(BATCH, INNER))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere a batch is one call")
def test_no_call_of_a_batch_of_networks_takes_a_batch():
    ones = jnp.ones((BATCH, 3))
    assert not batched_calls(jax.vmap(everything_about), ones, ones[:, :2], ones, ones)


def test_factors():
    matrices = definite(BATCH, INNER)
    twice = lambda f: np.asarray(jax.vmap(jax.vmap(f))(matrices))  # noqa: E731
    exact = np.asarray(matrices, float)
    np.testing.assert_allclose(twice(factorisations.cholesky), np.linalg.cholesky(exact), rtol=0, atol=tol(1e-5, 1e-13))
    upper = twice(factorisations.triangle)
    np.testing.assert_allclose(np.swapaxes(upper, -1, -2) @ upper, exact @ exact, rtol=tol(1e-4, 1e-12))
    vectors = twice(factorisations.eigenvectors)
    found = np.swapaxes(vectors, -1, -2) @ exact @ vectors
    expected = np.linalg.eigvalsh(exact)[..., None] * np.eye(SIZE)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tol(1e-4, 1e-12))


@pytest.mark.parametrize("moves", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize("inner", [(0, None), (None, 0), (0, 0)])
def test_solutions_in_batches_of_batches(moves, inner):
    shape = [tuple(n for n, axis in ((BATCH, moves[i]), (INNER, inner[i])) if axis == 0) for i in range(2)]
    matrices, right = definite(*shape[0]), rights(*shape[1])

    def both(matrix, b):
        return factorisations.cholesky_solve(factorisations.cholesky(matrix), b), factorisations.solve(matrix, b)

    found = jax.jit(jax.vmap(jax.vmap(both, inner), moves))(matrices, right)
    spread = [
        np.broadcast_to(np.expand_dims(x, [d for d, axis in enumerate((moves[i], inner[i])) if axis is None]), shape)
        for i, (x, shape) in enumerate(
            ((np.asarray(matrices, float), (BATCH, INNER, SIZE, SIZE)), (np.asarray(right, float), (BATCH, INNER, SIZE)))
        )
    ]
    exact = np.linalg.solve(spread[0], spread[1][..., None])[..., 0]
    for solution in found:
        np.testing.assert_allclose(solution, exact, rtol=0, atol=tol(2e-6, 1e-13))
