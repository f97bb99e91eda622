"""Fine thermal grids: L layers of rows x columns cells, never as a matrix.

    C d theta / dt = -G theta + P          theta: rise above ambient (K), P: power into each cell (W)

(G theta) is a stencil: heat flows between neighbours in x, y and z, to ambient, and at the chip's edges into the rim of
spreader and sink (`heatsink.py`). Steady states are solved by conjugate gradients, preconditioned by the exact inverse of
the layered stencil with its cells' mean conductances (cosine transforms in x and y diagonalise it: an L x L system for every
wave number), so that the number of iterations does not grow with the number of cells. Implicit steps are TR-BDF2 (Bank et
al., IEEE Trans. CAD 4, 1985): second order, damps fast modes however long the step. Both are differentiated implicitly:
the adjoint is one more solve with the same symmetric operator.

Valid while conductivities do not depend on temperature. Use it where blocks are too coarse (above some hundred nodes).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from physics.params import ParameterTree, param
from physics.thermal.floorplan import Floorplan
from physics.thermal.heatsink import EAST, LAYERS, NORTH, SINK, SOUTH, SPREADER, WEST, HeatSinkPackage, Rim, into_rim
from physics.types import Scalar

GAMMA = 2 - 2**0.5  # TR-BDF2: both stages have the same matrix
MAX_ITERATIONS = 2000
CELLS = "model input: stencil of the grid"
EDGES: dict[int, Any] = {WEST: np.s_[:, 0], EAST: np.s_[:, -1], NORTH: np.s_[-1, :], SOUTH: np.s_[0, :]}


class GridField(NamedTuple):
    """One number per cell and per rim node (zeros where the grid has no rim): temperatures (K) or powers (W)."""

    cells: Float[Array, "layers rows columns"]
    rim: Float[Array, "3 4"]


class GridRim(NamedTuple):
    """The rim of the package around the last two layers. Columns: west, east, north, south."""

    rim: Rim
    entry: Float[Array, "2 4"]  # W/K from each edge cell into the rim


class ThermalGrid(ParameterTree):
    """A stencil of layers x rows x columns cells; rows run south to north, columns west to east, layer 0 is the die.

    Conductances (W/K): `east[l, i, j]` joins columns j and j + 1, `north` rows i and i + 1, `down` layers l and l + 1,
    `ambient_conductance` every cell and ambient. Raises ValueError for wrong shapes, values out of range, and a grid
    without a path to ambient.
    """

    capacitance: Float[Array, "layers rows columns"] = param(unit="J/K", lo=1e-15, hi=1e9, log=True, source=CELLS)
    east: Float[Array, "layers rows columns_less_one"] = param(unit="W/K", lo=1e-15, hi=1e9, log=True, source=CELLS)
    north: Float[Array, "layers rows_less_one columns"] = param(unit="W/K", lo=1e-15, hi=1e9, log=True, source=CELLS)
    down: Float[Array, "layers_less_one rows columns"] = param(unit="W/K", lo=1e-15, hi=1e9, log=True, source=CELLS)
    ambient_conductance: Float[Array, "layers rows columns"] = param(unit="W/K", lo=0.0, hi=1e9, source=CELLS)
    rim: GridRim | None = None

    def __check_init__(self) -> None:
        super().__check_init__()
        layers, rows, columns = shape = self.capacitance.shape
        wanted = {
            "east": (layers, rows, columns - 1),
            "north": (layers, rows - 1, columns),
            "down": (layers - 1, rows, columns),
            "ambient_conductance": shape,
        }
        for field, expected in wanted.items():
            found = getattr(self, field).shape
            if found != expected:
                raise ValueError(f"ThermalGrid.{field} has shape {found}, expected {expected}")
        ambient = self.ambient_conductance
        if self.rim is None and not isinstance(ambient, Tracer) and not np.any(np.asarray(ambient) > 0):
            raise ValueError("ThermalGrid.ambient_conductance is zero everywhere: no cell has a path to ambient")

    @classmethod
    def from_floorplan(cls, floorplan: Floorplan, package: HeatSinkPackage, rows: int, columns: int) -> "ThermalGrid":
        """The chip of `floorplan` in `package`, divided into `rows` x `columns` cells per layer; traceable.

        The same equations as `Floorplan.network` with equal rectangles as blocks; power comes from `power_map`.
        ValueError for fewer than two rows or columns and a chip larger than the spreader.
        """
        if min(rows, columns) < 2:
            raise ValueError(f"rows = {rows}, columns = {columns}: a grid has at least two of each")
        width, length = floorplan.extent
        package.check_chip(width, length)
        return cls(**_leaves(package, width, length, rows, columns))

    def zeros(self) -> GridField:
        """Ambient temperature everywhere, or no power."""
        return GridField(jnp.zeros_like(self.capacitance), jnp.zeros((3, 4), self.capacitance.dtype))

    def inject(self, power: Float[Array, "rows columns"]) -> GridField:
        """`power` (W) of every cell of the die as a field."""
        none = self.zeros()
        return none._replace(cells=none.cells.at[0].set(power))

    @partial(jax.jit, inline=True)
    def flow(self, theta: GridField) -> GridField:
        """G theta (W): heat leaving every cell and rim node, equal and opposite at the two ends of each path."""
        cells = theta.cells
        out = self.ambient_conductance * cells
        for axis, conductance in ((2, self.east), (1, self.north), (0, self.down)):
            across = conductance * -jnp.diff(cells, axis=axis)
            out = out + _pad(across, axis, after=True) - _pad(across, axis, after=False)
        return GridField(out, theta.rim) if self.rim is None else _rim_flow(self.rim, theta, out)

    @partial(jax.jit, inline=True)
    def steady(self, power: GridField) -> GridField:
        """Temperature rise (K) under `power` (W) for ever; `error` tells how well the iteration ended."""
        return self._solve(jnp.zeros((), self.capacitance.dtype), power)

    @partial(jax.jit, inline=True)
    def error(self, theta: GridField, power: GridField) -> Float[Array, ""]:
        """Estimate of the largest error (K) of the steady state `theta` under `power` (W), from what does not balance."""
        left = jax.tree.map(jnp.subtract, power, self.flow(theta))
        correction = _preconditioner(self, jnp.zeros((), self.capacitance.dtype))(left)
        return jnp.max(jnp.abs(correction.cells))

    @partial(jax.jit, inline=True)
    def step(self, theta: GridField, power: GridField, dt: Scalar) -> GridField:
        """Temperature rise (K) after one implicit step of `dt` (s) with constant `power` (W).

        Second order in dt and stable for any dt, but not exact: an error remains unless modes of the length of dt are at rest.
        """
        rate = 2 / (GAMMA * jnp.asarray(dt, self.capacitance.dtype))
        heat = self._heat()
        # Solved for the change since the start: no digits are lost to the level itself.
        slack = jax.tree.map(jnp.subtract, power, self.flow(theta))
        middle = self._solve(rate, jax.tree.map(lambda s: 2 * s, slack))
        kick = jax.tree.map(lambda c, d, s: rate / (GAMMA * (2 - GAMMA)) * c * d + s, heat, middle, slack)
        return jax.tree.map(jnp.add, theta, self._solve(rate, kick))

    @partial(jax.jit, static_argnames="substeps", inline=True)
    def rollout(self, theta: GridField, power: GridField, dt: Scalar, substeps: int = 1) -> GridField:
        """Temperature rise (K) after each of many intervals of `dt` (s).

        `power` (W) has a leading axis of intervals, so has the result; each is divided into `substeps` implicit steps.
        """
        small = jnp.asarray(dt, self.capacitance.dtype) / substeps

        def interval(now: GridField, drive: GridField) -> tuple[GridField, GridField]:
            after = lax.fori_loop(0, substeps, lambda _, t: self.step(t, drive, small), now)
            return after, after

        return lax.scan(interval, theta, power)[1]

    def _heat(self) -> GridField:
        """Heat capacities (J/K)."""
        none = jnp.ones((3, 4), self.capacitance.dtype)
        return GridField(self.capacitance, none if self.rim is None else self.rim.rim.capacitance)

    def _solve(self, rate: Array, right: GridField) -> GridField:
        """Solution of (rate C + G) x = right."""
        heat = self._heat()
        grid, held = lax.stop_gradient((self, rate))
        precondition = _preconditioner(grid, held)
        tolerance = 1e-6 if self.capacitance.dtype == jnp.float32 else 1e-11

        def matvec(x: GridField) -> GridField:
            return jax.tree.map(lambda c, t, f: rate * c * t + f, heat, x, self.flow(x))

        def solve(operator: Any, b: GridField) -> GridField:
            return jax.scipy.sparse.linalg.cg(operator, b, tol=tolerance, maxiter=MAX_ITERATIONS, M=precondition)[0]

        return lax.custom_linear_solve(matvec, right, solve, symmetric=True)


@partial(jax.jit, static_argnums=(3, 4), inline=True)
def _leaves(package: HeatSinkPackage, width: Array, length: Array, rows: int, columns: int) -> dict[str, Any]:
    """Fields of the grid of a chip of `width` x `length` (m)."""
    sheets, rim, shape = package.sheets(), package.rim(width, length), (rows, columns)
    sheet, area = sheets.conductivity * sheets.thickness, (width * length)[None] / (rows * columns)
    slim, flat = sheet * (length / rows) / (width / columns), sheet * (width / columns) / (length / rows)
    sides = ((slim, rows), (slim, rows), (flat, columns), (flat, columns))
    entry = [
        [into_rim(jnp.full(count, 2 * half[layer]), rim.entry[row, side])[0] for side, (half, count) in enumerate(sides)]
        for row, layer in enumerate((SPREADER, SINK))
    ]
    return {
        "capacitance": _fill(package.capacity(area), shape),
        "east": _fill(slim, (rows, columns - 1)),
        "north": _fill(flat, (rows - 1, columns)),
        "down": _fill(package.downward(area), shape),
        "ambient_conductance": jnp.zeros((len(LAYERS), *shape), area.dtype).at[SINK].set(package.convection(area)[0]),
        "rim": GridRim(rim, jnp.stack([jnp.stack(row) for row in entry])),
    }


@partial(jax.jit, static_argnums=(2, 3), inline=True)
def power_map(floorplan: Floorplan, power: Float[Array, " blocks"], rows: int, columns: int) -> Float[Array, "{rows} {columns}"]:
    """Power (W) of every cell of the die from that of every block, spread evenly over it; the total is kept."""
    along, across = _overlaps(floorplan, rows, columns)
    return jnp.einsum("b,bi,bj->ij", power / floorplan.area, along, across, precision=lax.Precision.HIGHEST)


@partial(jax.jit, inline=True)
def block_means(floorplan: Floorplan, cells: Float[Array, "rows columns"]) -> Float[Array, " blocks"]:
    """Mean over every block of a quantity given on the cells of the die, a layer of temperatures (K) for example."""
    along, across = _overlaps(floorplan, *cells.shape)
    return jnp.einsum("bi,bj,ij->b", along, across, cells, precision=lax.Precision.HIGHEST) / floorplan.area


def _overlaps(floorplan: Floorplan, rows: int, columns: int) -> tuple[Array, Array]:
    """Length (m) that every block shares with every row and every column of cells."""
    width, length = floorplan.extent

    def shared(start: Array, size: Array, whole: Array, count: int) -> Array:
        edges = jnp.min(start) + whole * jnp.arange(count + 1) / count
        inside = jnp.minimum((start + size)[:, None], edges[1:]) - jnp.maximum(start[:, None], edges[:-1])
        return jnp.maximum(inside, 0.0)

    return shared(floorplan.bottom, floorplan.height, length, rows), shared(floorplan.left, floorplan.width, width, columns)


def _fill(values: Array, shape: tuple[int, int]) -> Array:
    """One value per layer, repeated for every cell."""
    return jnp.broadcast_to(values.reshape(-1, 1, 1), (values.shape[0], *shape))


def _pad(across: Array, axis: int, after: bool) -> Array:
    widths = [(0, 0)] * 3
    widths[axis] = (0, 1) if after else (1, 0)
    return jnp.pad(across, widths)


def _rim_flow(rim: GridRim, theta: GridField, out: Array) -> GridField:
    """`out` plus the flow from edge cells into the rim, and the flow out of the rim's nodes."""
    spreader, inner, outer = theta.rim
    down, outward = rim.rim.down * (spreader - inner), rim.rim.outward * (inner - outer)
    flow = rim.rim.ambient * theta.rim + jnp.stack([down, outward - down, -outward])
    for row in range(2):
        layer = row - 2
        for side, edge in EDGES.items():
            across = rim.entry[row, side] * (theta.cells[layer][edge] - theta.rim[row, side])
            out = out.at[(layer, *edge)].add(across)
            flow = flow.at[row, side].add(-jnp.sum(across))
    return GridField(out, flow)


def _preconditioner(grid: ThermalGrid, rate: Array) -> Any:
    """Exact inverse of the stencil with every layer's mean conductances, insulated at its edges; diagonal for the rim."""
    _, rows, columns = grid.capacitance.shape

    def mean(part: Array) -> Array:
        return (jnp.sum(part, axis=(1, 2)) / max(part.shape[1] * part.shape[2], 1))[:, None, None]

    def wave_numbers(count: int) -> Array:
        return jnp.asarray(2 - 2 * np.cos(np.pi * np.arange(count) / count), grid.capacitance.dtype)

    own = rate * mean(grid.capacitance) + mean(grid.ambient_conductance)
    diagonal = jnp.ones((3, 4), grid.capacitance.dtype)
    if grid.rim is not None:
        rim, entry = grid.rim.rim, grid.rim.entry * np.asarray([rows, rows, columns, columns], grid.capacitance.dtype)
        own = own.at[-2:, 0, 0].add(jnp.sum(entry, axis=1) / (rows * columns))
        diagonal = rate * rim.capacitance + rim.ambient + jnp.stack([rim.down, rim.down + rim.outward, rim.outward])
        diagonal = diagonal.at[:2].add(entry)
    own = own + mean(grid.east) * wave_numbers(columns) + mean(grid.north) * wave_numbers(rows)[:, None]
    across = mean(grid.down)
    own = own + _pad(across, 0, after=True) + _pad(across, 0, after=False)

    def apply(right: GridField) -> GridField:
        waves = _cosine(right.cells, inverse=False)
        return GridField(_cosine(_layered(own, across, waves), inverse=True), right.rim / diagonal)

    return apply


def _cosine(cells: Array, inverse: bool) -> Array:
    """Cosine transform of every layer along both axes; products with the matrices of the waves."""
    along, across = (jnp.asarray(_waves(count), cells.dtype) for count in cells.shape[1:])
    if inverse:
        along, across = along.T, across.T
    return jnp.einsum("ki,lij,mj->lkm", along, cells, across, precision=lax.Precision.HIGHEST)


def _waves(count: int) -> np.ndarray:
    """Orthonormal matrix of the cosine transform (DCT-II): row k is the wave with k half periods."""
    angles = np.pi / count * np.outer(np.arange(count), np.arange(count) + 0.5)
    return np.sqrt(np.where(np.arange(count) == 0, 1.0, 2.0) / count)[:, None] * np.cos(angles)


def _layered(own: Array, across: Array, right: Array) -> Array:
    """Solution of the tridiagonal systems through the layers: diagonal `own`, off-diagonal `-across` (Thomas)."""
    layers = own.shape[0]
    pivot, value = [own[0]], [right[0]]
    for layer in range(1, layers):
        share = across[layer - 1] / pivot[-1]
        pivot.append(own[layer] - share * across[layer - 1])
        value.append(right[layer] + share * value[-1])
    found = [value[-1] / pivot[-1]]
    for layer in range(layers - 2, -1, -1):
        found.append((value[layer] + across[layer] * found[-1]) / pivot[layer])
    return jnp.stack(found[::-1])
