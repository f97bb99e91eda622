"""Searches over a grid: gradient and rounding against every point, on a known function and on tiles of a matrix product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from costmodel import make_nest, minimize, nest_traffic, penalty, search_tiles

pytestmark = pytest.mark.single  # whole numbers: the same in either precision

GEMM = make_nest("i j k", "C[i, j] += A[i, k] * B[k, j]")


def bowl(point, centre):
    """Least at `centre`, not feasible left of 2 in the first dimension."""
    value = 1.0 + jnp.sum((jnp.log(point) - jnp.log(centre)) ** 2)
    return jnp.where(point[0] >= 2, value, jnp.inf)


def smooth_bowl(point, centre):
    return (1.0 + jnp.sum((jnp.log(point) - jnp.log(centre)) ** 2)) * penalty(2.0 / point[0], jnp.asarray(1.0))


GRID = {"x": np.arange(1, 31), "y": [1, 2, 4, 8, 16], "z": [3.0]}


@pytest.mark.parametrize("method", ["exhaustive", "gradient"])
def test_the_minimum_of_a_known_function(method: str) -> None:
    for centre, want in (((7.2, 5.0, 3.0), (7, 4)), ((1.0, 40.0, 3.0), (2, 16))):
        found = minimize(bowl, GRID, args=(jnp.asarray(centre),), method=method, relaxed=smooth_bowl)
        assert (found.point["x"], found.point["y"], found.point["z"]) == (*want, 3.0)
        assert found.value == pytest.approx(float(bowl(jnp.asarray([*want, 3.0]), jnp.asarray(centre))), rel=1e-5)
    assert found.evaluations == (150 if method == "exhaustive" else found.evaluations) and found.evaluations <= 400


def test_random_points_are_reproducible_and_never_better_than_all() -> None:
    centre = jnp.asarray([7.2, 5.0, 3.0])
    key = jax.random.key(1)
    one, again = (minimize(bowl, GRID, args=(centre,), method="random", budget=64, key=key) for _ in range(2))
    assert one == again and one.evaluations == 64
    assert one.value >= minimize(bowl, GRID, args=(centre,), method="exhaustive").value


def test_nothing_feasible_is_said() -> None:
    assert minimize(lambda point: jnp.sum(point) * jnp.inf, {"x": [1, 2]}, method="exhaustive").value == np.inf


@pytest.mark.parametrize("memory", ["scratchpad", pytest.param("lru", marks=pytest.mark.slow)])
def test_tiles_by_gradient_come_within_5_percent_of_all_tiles(memory: str) -> None:
    """Three sizes of fast memory, 48 x 40 x 56; the tile found fits, and its traffic is that of `nest_traffic`."""
    for fast in (100.0, 400.0, 1500.0):
        by_gradient, of_all = (
            search_tiles(GEMM, [48, 40, 56], fast, memory=memory, method=m) for m in ("gradient", "exhaustive")
        )
        assert of_all.evaluations == 48 * 40 * 56 and by_gradient.evaluations < 1500
        assert 1 - 1e-6 <= float(by_gradient.traffic.moved / of_all.traffic.moved) < 1.05
        tile = [by_gradient.tile[name] for name in "ijk"]
        assert float(by_gradient.traffic.moved) == float(nest_traffic(GEMM, [48, 40, 56], tile, fast, memory=memory).moved)
        assert memory == "lru" or (float(by_gradient.traffic.need) <= fast and float(of_all.traffic.need) <= fast)


def test_the_best_square_tile_is_the_square_root() -> None:
    # b^2 + 2 b <= 255: 15, which divides 60; loads 2 60^3 / 15 + 60^2, stores 60^2
    found = search_tiles(GEMM, [60, 60, 60], 255.0)
    assert (found.tile["i"], found.tile["j"]) == (15, 15) and float(found.traffic.moved) == 36_000


def test_search_errors_are_one_line() -> None:
    for call, expected in (
        (lambda: minimize(bowl, GRID, method="luck"), "method = 'luck' is not one of exhaustive, gradient, random"),
        (lambda: minimize(bowl, {}), "at least 1 is needed"),
        (lambda: minimize(bowl, {"x": [0, 1]}), "dimension x needs at least one value, all of them positive"),
        (lambda: minimize(bowl, {c: np.arange(1, 1000) for c in "abcd"}, method="exhaustive"), "at most 268435456 can be tried"),
    ):
        with pytest.raises(ValueError, match=expected):
            call()
