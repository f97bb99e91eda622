"""Fine grids: the block model on equal tiles, a column by hand, conservation, second order in time, implicit derivatives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physics import Floorplan, GridField, HeatSinkPackage, ThermalGrid, block_means, draw_layer, power_map

X64 = jax.config.read("jax_enable_x64")
MM = 1e-3


def tol(single: float, double: float) -> float:
    return double if X64 else single


def chip() -> Floorplan:
    """9 mm x 6 mm; edges of the blocks fall on multiples of 0.5 mm."""
    return Floorplan.from_blocks(
        {
            "cache": (9 * MM, 2 * MM, 1 * MM, 0),
            "core": (5 * MM, 4 * MM, 1 * MM, 2 * MM),
            "pim": (1.5 * MM, 4 * MM, 6 * MM, 2 * MM),
            "io": (2.5 * MM, 4 * MM, 7.5 * MM, 2 * MM),
        }
    )


POWER = np.array([3.0, 8.0, 4.0, 1.0])
PACKAGE = HeatSinkPackage(r_convec=0.5)


def tiles(rows: int, columns: int) -> Floorplan:
    """The same chip cut into equal tiles, row by row from the south-west corner."""
    width, height = 9 * MM / columns, 6 * MM / rows
    boxes = {f"t{i}_{j}": (width, height, j * width, i * height) for i in range(rows) for j in range(columns)}
    return Floorplan.from_blocks(boxes)


@functools.cache
def solved(rows: int, columns: int):
    grid = ThermalGrid.from_floorplan(chip(), PACKAGE, rows, columns)
    power = grid.inject(power_map(chip(), jnp.asarray(POWER), rows, columns))
    return grid, power, grid.steady(power)


def test_steady_state_of_the_block_model_on_equal_tiles():
    rows, columns = 4, 6
    grid, power, theta = solved(rows, columns)
    floorplan = tiles(rows, columns)
    network = floorplan.network(PACKAGE)
    expected = network.steady(floorplan.inject(power.cells[0].reshape(-1)))
    found = jnp.concatenate([theta.cells.reshape(-1), theta.rim.reshape(-1)])
    np.testing.assert_allclose(found, expected, rtol=tol(2e-5, 1e-9))
    np.testing.assert_allclose(grid.capacitance.reshape(-1), network.capacitance[:-12], rtol=1e-5)
    flow = grid.flow(theta)
    balance = jnp.concatenate([flow.cells.reshape(-1), flow.rim.reshape(-1)])
    np.testing.assert_allclose(balance, floorplan.inject(power.cells[0].reshape(-1)), atol=tol(1e-3, 1e-8))


def test_column_by_hand():
    # Three equal columns in two layers, 1 W into each top cell: down 2 W/K, ambient 0.5 W/K below. Bottom 2 K, top 2.5 K.
    shape = (2, 1, 3)
    ambient = np.stack([np.zeros((1, 3)), np.full((1, 3), 0.5)])
    grid = ThermalGrid(np.ones(shape), np.ones((2, 1, 2)), np.ones((2, 0, 3)), np.full((1, 1, 3), 2.0), ambient)
    theta = grid.steady(grid.inject(jnp.ones((1, 3))))
    np.testing.assert_allclose(theta.cells[0], np.full((1, 3), 2.5), rtol=tol(1e-5, 1e-9))
    np.testing.assert_allclose(theta.cells[1], np.full((1, 3), 2.0), rtol=tol(1e-5, 1e-9))
    assert not np.any(theta.rim)


def test_unlike_cells_against_a_dense_matrix():
    """Conductances over two decades from cell to cell: the preconditioner knows only their means."""
    rng = np.random.default_rng(0)
    layers, rows, columns = shape = (3, 5, 7)

    def draw(*size):
        return jnp.asarray(10 ** rng.uniform(-1, 1, size))

    grid = ThermalGrid(draw(*shape), draw(3, 5, 6), draw(3, 4, 7), draw(2, 5, 7), draw(*shape) * (rng.random(shape) < 0.3))
    power = GridField(jnp.asarray(rng.uniform(0, 1, shape)), jnp.zeros((3, 4)))
    units = jnp.eye(layers * rows * columns).reshape(-1, *shape)
    matrix = jax.vmap(lambda unit: grid.flow(GridField(unit, jnp.zeros((3, 4)))).cells.reshape(-1))(units)
    np.testing.assert_allclose(matrix, matrix.T, atol=tol(1e-6, 1e-14))
    np.testing.assert_allclose(matrix.sum(1), grid.ambient_conductance.reshape(-1), atol=tol(1e-5, 1e-13))
    theta = grid.steady(power)
    np.testing.assert_allclose(
        theta.cells.reshape(-1), np.linalg.solve(matrix, np.asarray(power.cells).reshape(-1)), rtol=tol(2e-5, 1e-8)
    )
    assert grid.error(theta, power) < tol(1e-4, 1e-8)


def test_all_heat_leaves():
    grid, power, theta = solved(16, 24)
    assert grid.rim is not None
    released = jnp.sum(grid.ambient_conductance * theta.cells) + jnp.sum(grid.rim.rim.ambient * theta.rim)
    np.testing.assert_allclose(released, POWER.sum(), rtol=tol(1e-5, 1e-9))
    assert np.min(theta.cells) > 0
    assert grid.error(theta, power) < tol(2e-5, 1e-9)


def test_finer_grids_converge():
    """Differences of block means shrink with the cells, and blocks alone are coarser than any grid."""
    means = {n: block_means(chip(), solved(2 * n, 3 * n)[2].cells[0]) for n in (4, 8, 16)}
    steps = [float(jnp.max(jnp.abs(means[n] - means[2 * n]))) for n in (4, 8)]
    assert steps[0] > 1.7 * steps[1]
    floorplan = chip()
    coarse = floorplan.blocks(floorplan.network(PACKAGE).steady(floorplan.inject(jnp.asarray(POWER))))
    assert jnp.max(jnp.abs(coarse - means[16])) > 2 * steps[1]
    np.testing.assert_allclose(coarse, means[16], rtol=0.15)


def test_power_map():
    for rows, columns in ((12, 18), (7, 5)):
        cells = power_map(chip(), jnp.asarray(POWER), rows, columns)
        assert cells.shape == (rows, columns)
        np.testing.assert_allclose(cells.sum(), POWER.sum(), rtol=tol(2e-6, 1e-13))
    aligned = power_map(chip(), jnp.asarray(POWER), 12, 18)
    np.testing.assert_allclose(aligned[0, 0], 3.0 / 72, rtol=tol(1e-5, 1e-12))  # 9 mm x 2 mm in cells of (0.5 mm)^2
    np.testing.assert_allclose(aligned[-1, 10], 4.0 / 24, rtol=tol(1e-4, 1e-12))  # the slim block, 1.5 mm x 4 mm
    density = aligned / 0.25e-6
    np.testing.assert_allclose(block_means(chip(), density), POWER / np.asarray(chip().area), rtol=tol(1e-4, 1e-11))


def test_superposition_and_reciprocity():
    grid, _, _ = solved(8, 12)
    units = jnp.zeros((2, 8, 12)).at[0, 1, 2].set(1.0).at[1, 6, 9].set(1.0)
    first, second = (grid.steady(grid.inject(unit)).cells[0] for unit in units)
    both = grid.steady(grid.inject(2 * units[0] + 3 * units[1])).cells[0]
    np.testing.assert_allclose(both, 2 * first + 3 * second, rtol=tol(2e-5, 1e-9))
    np.testing.assert_allclose(first[6, 9], second[1, 2], rtol=tol(2e-5, 1e-9))


def test_implicit_steps_are_of_second_order():
    rows, columns, total = 4, 6, 0.02
    grid, power, _ = solved(rows, columns)
    floorplan = tiles(rows, columns)
    exact = floorplan.network(PACKAGE).step(jnp.zeros(4 * 24 + 12), floorplan.inject(power.cells[0].reshape(-1)), total)
    drive = jax.tree.map(lambda part: part[None], power)
    errors = []
    for substeps in (40, 80):
        after = grid.rollout(grid.zeros(), drive, total, substeps=substeps)
        errors.append(float(jnp.max(jnp.abs(after.cells[0].reshape(-1) - exact[:96]))))
    assert errors[0] < 0.02
    if X64:
        assert 3.5 < errors[0] / errors[1] < 4.5


def test_long_steps_reach_the_steady_state():
    grid, power, steady = solved(8, 12)
    theta = grid.zeros()
    for _ in range(4):
        theta = grid.step(theta, power, 1e4)
    np.testing.assert_allclose(theta.cells, steady.cells, rtol=tol(1e-4, 1e-5))
    still = grid.step(steady, power, 1e-3)
    np.testing.assert_allclose(still.cells, steady.cells, rtol=tol(1e-5, 1e-9))


def test_energy_of_a_step():
    """What one implicit step stores, it does not release: sum C dtheta = power dt - heat to ambient, within its accuracy."""
    grid, power, _ = solved(8, 12)
    theta = grid.step(grid.zeros(), power, 1e-4)
    assert grid.rim is not None
    stored = jnp.sum(grid.capacitance * theta.cells) + jnp.sum(grid.rim.rim.capacitance * theta.rim)
    np.testing.assert_allclose(stored, POWER.sum() * 1e-4, rtol=1e-3)  # ambient has hardly felt it after 0.1 ms


def hottest(package: HeatSinkPackage, power) -> jax.Array:
    grid = ThermalGrid.from_floorplan(chip(), package, 8, 12)
    cells = power_map(chip(), power, 8, 12)
    start = grid.steady(grid.inject(cells))
    after = grid.step(start, grid.inject(2 * cells), 2e-3)
    return jnp.sum(block_means(chip(), after.cells[0])) + jnp.sum(start.rim)


@pytest.mark.skipif(not X64, reason="central differences need float64")
def test_gradients_against_central_differences():
    power = jnp.asarray(POWER)
    value = jax.jit(hottest)
    by_package, by_power = jax.jit(jax.grad(hottest, argnums=(0, 1)))(PACKAGE, power)
    for field in dataclasses.fields(PACKAGE):
        at = getattr(PACKAGE, field.name)
        ends = [value(dataclasses.replace(PACKAGE, **{field.name: at * s}), power) for s in (1 + 1e-5, 1 - 1e-5)]
        slope = getattr(by_package, field.name) * at
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-5, err_msg=field.name)
    for i in range(len(POWER)):
        ends = [value(PACKAGE, power.at[i].add(s)) for s in (1e-4, -1e-4)]
        np.testing.assert_allclose(by_power[i], (ends[0] - ends[1]) / 2e-4, rtol=1e-6)


def test_gradients_are_finite_and_batches_equal_single_cases():
    packages = jax.vmap(lambda r: HeatSinkPackage(r_convec=r))(jnp.array([0.01, 0.5, 20.0]))
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(hottest), (0, None)))(packages, jnp.asarray(POWER))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))
    assert np.all(np.asarray(slopes.r_convec) > 0) and np.all(np.asarray(slopes.k_interface) < 0)
    np.testing.assert_allclose(values[1], hottest(PACKAGE, jnp.asarray(POWER)), rtol=tol(1e-5, 1e-10))


def test_impossible_grids_are_refused():
    cells, none = np.ones((2, 3, 4)), np.zeros((2, 3, 4))
    east, north, down = np.ones((2, 3, 3)), np.ones((2, 2, 4)), np.ones((1, 3, 4))
    with pytest.raises(ValueError, match="no cell has a path to ambient"):
        ThermalGrid(cells, east, north, down, none)
    with pytest.raises(ValueError, match=r"ThermalGrid.east = -1 W/K is outside its range"):
        ThermalGrid(cells, -east, north, down, cells)
    with pytest.raises(ValueError, match=r"ThermalGrid.down has shape \(2, 3, 4\), expected \(1, 3, 4\)"):
        ThermalGrid(cells, east, north, cells, cells)
    with pytest.raises(ValueError, match=r"rows = 1, columns = 5: a grid has at least two of each"):
        ThermalGrid.from_floorplan(chip(), PACKAGE, 1, 5)
    with pytest.raises(ValueError, match=r"chip of 0.009 m x 0.006 m does not fit on the spreader, s_spreader = 0.008 m"):
        ThermalGrid.from_floorplan(chip(), HeatSinkPackage(s_spreader=0.008), 8, 12)


def test_map_of_a_layer():
    _, _, theta = solved(8, 12)
    figure = draw_layer(chip(), PACKAGE.ambient + theta.cells[0], title="die")
    assert figure.axes[0].images[0].get_array().shape == (8, 12)
    assert len(figure.axes[0].patches) == 4
    figure.canvas.draw()
    with pytest.raises(ValueError, match=r"temperature has shape \(8,\), expected \(rows, columns\)"):
        draw_layer(chip(), np.ones(8))
