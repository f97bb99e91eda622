"""A block model of 132 nodes, 100 steps with set-up, against scipy.integrate.solve_ivp (BDF); a grid of 65,536 nodes at rest.

Each with its gradient in every package constant, as a multiple of the forward time.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from timing import best, one_core, report

from physics import Floorplan, HeatSinkPackage, ThermalGrid, power_map

STEPS, DT, TARGET = 100, 0.01, 20
ROWS, COLUMNS, CELLS = 5, 6, 128


def main() -> None:
    one_core()
    floorplan, package = chip(), HeatSinkPackage(r_convec=0.5)
    power = jnp.asarray(np.random.default_rng(0).uniform(0, 3, (STEPS, ROWS * COLUMNS)), float)
    trace(floorplan, package, power)
    grid(floorplan, package, power[0])


def chip() -> Floorplan:
    """30 blocks of unlike widths and heights on 16 mm x 16 mm."""
    rng = np.random.default_rng(1)
    widths, heights = (16e-3 * part / part.sum() for part in (rng.uniform(1, 3, COLUMNS), rng.uniform(1, 3, ROWS)))
    lefts, bottoms = (np.concatenate([[0], np.cumsum(sizes)[:-1]]) for sizes in (widths, heights))
    boxes = {f"b{i}_{j}": (widths[j], heights[i], lefts[j], bottoms[i]) for i in range(ROWS) for j in range(COLUMNS)}
    return Floorplan.from_blocks(boxes)


def trace(floorplan: Floorplan, package: HeatSinkPackage, power: jax.Array) -> None:
    """From package constants to the temperatures of all steps."""
    nodes = 4 * len(floorplan.names) + 12

    def run(package: HeatSinkPackage) -> jax.Array:
        return floorplan.network(package).rollout(jnp.zeros(nodes), floorplan.inject(power), DT, parallel=True)

    forward, gradient = jax.jit(run), jax.jit(jax.grad(lambda p: jnp.max(run(p))))
    ours, slopes = best(lambda: forward(package)), best(lambda: gradient(package))
    network = floorplan.network(package)
    matrix, capacitance = np.asarray(network.matrix(), float), np.asarray(network.capacitance, float)
    drives = np.asarray(floorplan.inject(power), float)
    rates = -matrix / capacitance[:, None]
    start, theta, worst = time.perf_counter(), np.zeros(nodes), 0.0
    exact = np.asarray(forward(package))
    for drive, expected in zip(drives, exact, strict=True):
        push = drive / capacitance
        theta = solve_ivp(
            lambda _, t, push=push: rates @ t + push, (0, DT), theta, method="BDF", jac=rates, rtol=1e-6, atol=1e-6
        ).y[:, -1]
        worst = max(worst, float(np.max(np.abs(theta - expected))))
    theirs = time.perf_counter() - start
    report(
        "block model trace", nodes=nodes, steps=STEPS, milliseconds=1e3 * ours, target_milliseconds=10, scipy="BDF",
        ratio=theirs / ours, target_ratio=TARGET, largest_difference_kelvin=worst, gradient_ratio=slopes / ours,
        target_gradient_ratio=4,
    )  # fmt: skip


def grid(floorplan: Floorplan, package: HeatSinkPackage, power: jax.Array) -> None:
    """From package constants to the steady state of four layers of 128 x 128 cells."""

    def run(package: HeatSinkPackage) -> jax.Array:
        stencil = ThermalGrid.from_floorplan(floorplan, package, CELLS, CELLS)
        return stencil.steady(stencil.inject(power_map(floorplan, power, CELLS, CELLS))).cells

    forward, gradient = jax.jit(run), jax.jit(jax.grad(lambda p: jnp.max(run(p))))
    ours, slopes = best(lambda: forward(package)), best(lambda: gradient(package))
    report(
        "grid steady state", nodes=4 * CELLS**2, milliseconds=1e3 * ours, target_milliseconds=1000, gradient_ratio=slopes / ours,
        target_gradient_ratio=4,
    )  # fmt: skip


if __name__ == "__main__":
    main()
