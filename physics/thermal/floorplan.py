"""HotSpot's block model: one temperature per block of a floorplan in each layer of the package.

A block of width w and height h (area A = w h) has four nodes, in die, interface, spreader and sink; twelve nodes stand for
the rim of spreader and sink (`heatsink.py`): 4n + 12 nodes, in the order and under the names of HotSpot's own files.

    lateral       g = k t len / ((w_i + w_j) / 2)     blocks that share a vertical edge of length len; a horizontal one: heights
    vertical      g = k A / t                         of the upper layer
    to the rim    g_i / (1 + r_entry sum g),  g_i = k t h_i / (w_i / 2)      blocks on the chip's edge

Which blocks touch is read off the coordinates once, on the host, with HotSpot's tolerance of 1 um; sizes and positions stay
differentiable. Like HotSpot's block model it allows white space, through which no heat flows: fill it with a block without
power, or use `ThermalGrid`. Against a fine grid a small hot block errs by a few kelvin (16 % of the rise in HotSpot's example):
the blocks are the discretisation. Source: uvahotspot/HotSpot f18831e, temperature_block.c and flp.c.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from physics.params import ParameterTree, param, unknown_name
from physics.thermal.heatsink import EAST, LAYERS, NORTH, RIM_NODES, SINK, SOUTH, SPREADER, WEST, HeatSinkPackage, into_rim
from physics.thermal.networks import Links, ThermalNetwork

TOUCH = 1e-6  # m; edges closer than this coincide, as in HotSpot
MAX_BLOCKS = 2048
MAX_BYTES = 64 * 2**20
MAX_NAME = 256  # characters
GEOMETRY = "model input: geometry of each block"


class Contacts(NamedTuple):
    """Which blocks touch. `beside` share a vertical edge, `above` a horizontal one; `borders`: blocks on W, E, N, S."""

    beside: Links
    above: Links
    borders: tuple[tuple[int, ...], ...]


class Floorplan(ParameterTree):
    """Rectangles on a die. `names` (static) and, per block (m), `width`, `height`, `left` and `bottom`.

    Raises ValueError for blocks that overlap or do not hang together, sizes that are not positive and repeated names. Build
    it outside `jit`; its arrays may then be traced, replaced or batched as long as the same blocks touch.
    """

    names: tuple[str, ...] = eqx.field(static=True, converter=tuple)
    width: Float[Array, " blocks"] = param(unit="m", lo=TOUCH, hi=1.0, log=True, source=GEOMETRY)
    height: Float[Array, " blocks"] = param(unit="m", lo=TOUCH, hi=1.0, log=True, source=GEOMETRY)
    left: Float[Array, " blocks"] = param(unit="m", lo=-1.0, hi=1.0, source=GEOMETRY)
    bottom: Float[Array, " blocks"] = param(unit="m", lo=-1.0, hi=1.0, source=GEOMETRY)
    contacts: Contacts | None = eqx.field(static=True, default=None)

    def __post_init__(self) -> None:
        if self.contacts is None:
            self.contacts = _find_contacts(tuple(self.names), self.width, self.height, self.left, self.bottom)

    @classmethod
    def from_blocks(cls, blocks: Mapping[str, Sequence[float] | np.ndarray]) -> "Floorplan":
        """From `{name: (width, height, left, bottom)}` (m)."""
        for name, box in blocks.items():
            if len(box) != 4:
                raise ValueError(f"block {name!r} has {len(box)} numbers, expected 4: width, height, left, bottom")
        if not blocks:
            raise ValueError("the floorplan has no blocks")
        return cls(tuple(blocks), *np.asarray(list(blocks.values()), float).T)

    @classmethod
    def from_text(cls, text: str) -> "Floorplan":
        """From the text of a HotSpot .flp file: name, width, height, left, bottom (m) on every line.

        Comments (#) and connectivity lines (name, name, number) are skipped. A sixth and seventh column, specific heat and
        resistivity, are allowed and have no effect, as in HotSpot's block model. Raises ValueError with the line.
        """
        blocks: dict[str, list[float]] = {}
        for number, fields in _lines(text):
            if len(fields) == 3:
                continue
            if len(fields) not in (5, 7):
                raise ValueError(f"floorplan line {number}: {len(fields)} columns, expected name, width, height, left, bottom")
            if fields[0] in blocks:
                raise ValueError(f"floorplan line {number}: block {fields[0]!r} appears twice")
            if len(blocks) == MAX_BLOCKS:
                raise ValueError(f"floorplan line {number}: more than {MAX_BLOCKS} blocks")
            blocks[fields[0]] = _numbers(fields[1:], f"floorplan line {number}")[:4]
        return cls.from_blocks(blocks)

    @property
    def area(self) -> Float[Array, " blocks"]:
        """Area (m2) of each block."""
        return self.width * self.height

    @property
    def extent(self) -> Float[Array, "2"]:
        """Width and length (m) of the chip, the box around all blocks."""
        across = jnp.max(self.left + self.width) - jnp.min(self.left)
        along = jnp.max(self.bottom + self.height) - jnp.min(self.bottom)
        return jnp.stack([across, along])

    def network(self, package: HeatSinkPackage) -> ThermalNetwork:
        """The block model as a network of 4n + 12 nodes; traceable. ValueError for a chip larger than the spreader."""
        package.check_chip(*self.extent)
        contacts = self.contacts
        assert contacts is not None
        capacitance, conductance, ambient = self._leaves(package)
        return ThermalNetwork(
            capacitance=capacitance,
            conductance=conductance,
            ambient_conductance=ambient,
            links=_links(contacts, len(self.names)),
            names=[layer + name for layer in LAYERS for name in self.names] + [f"inode_{i}" for i in range(RIM_NODES)],
        )

    def inject(self, power: Float[Array, "*steps blocks"]) -> Float[Array, "*steps nodes"]:
        """Power of every node of `network()` (W) from that of every block: all of it enters the die."""
        return jnp.concatenate([power, jnp.zeros((*power.shape[:-1], 3 * len(self.names) + RIM_NODES), power.dtype)], axis=-1)

    def blocks(self, theta: Float[Array, "*steps nodes"]) -> Float[Array, "*steps blocks"]:
        """Temperature rise (K) of every block in the die, from that of every node."""
        return theta[..., : len(self.names)]

    def index(self, name: str) -> int:
        """Position of the block called `name`; capitals do not matter, as in HotSpot. ValueError with close matches."""
        known = _positions(self.names)
        if name.casefold() not in known:
            raise ValueError(unknown_name("block", name, self.names))
        return known[name.casefold()]

    @partial(jax.jit, inline=True)
    def _leaves(self, package: HeatSinkPackage) -> tuple[Array, Array, Array]:
        """Capacitance, conductance in the order of `_links`, and conductance to ambient."""
        sheets, area, rim = package.sheets(), self.area, package.rim(*self.extent)
        lateral = (sheets.conductivity * sheets.thickness)[:, None] * self._shapes()
        edges = [
            into_rim(half, rim.entry[row, side])
            for row, layer in enumerate((SPREADER, SINK))
            for side, half in enumerate(self._halves(sheets.conductivity[layer] * sheets.thickness[layer]))
        ]
        return (
            jnp.concatenate([package.capacity(area).reshape(-1), rim.capacitance.reshape(-1)]),
            jnp.concatenate([lateral.reshape(-1), package.downward(area).reshape(-1), *edges, rim.down, rim.outward]),
            jnp.concatenate([jnp.zeros(SINK * area.size, area.dtype), package.convection(area), rim.ambient.reshape(-1)]),
        )

    def _shapes(self) -> Array:
        """Width over length of the path between every two blocks in contact: `beside` first, then `above`."""
        contacts = self.contacts
        assert contacts is not None
        i, j = _pairs(contacts.beside)
        lengths = _shared(self.bottom, self.height, i, j)
        beside = 2 * lengths / (self.width[i] + self.width[j])
        i, j = _pairs(contacts.above)
        lengths = _shared(self.left, self.width, i, j)
        return jnp.concatenate([beside, 2 * lengths / (self.height[i] + self.height[j])])

    def _halves(self, sheet: Array) -> list[Array]:
        """Conductance (W/K) from the centre to the edge of the border blocks on each side, `sheet` = k t (W/K)."""
        contacts = self.contacts
        assert contacts is not None
        slim = 2 * sheet * self.height / self.width
        flat = 2 * sheet * self.width / self.height
        return [(slim if side in (WEST, EAST) else flat)[np.asarray(blocks)] for side, blocks in enumerate(contacts.borders)]


def read_floorplan(path: str | Path) -> Floorplan:
    """The floorplan in a HotSpot .flp file; see `Floorplan.from_text`. ValueError for a file that is too large or no text."""
    return Floorplan.from_text(_read(path))


def read_power_trace(path: str | Path, floorplan: Floorplan) -> Float[Array, "steps blocks"]:
    """Power (W) of every block in the order of `floorplan`, from a HotSpot .ptrace file: names, then one line per step.

    Raises ValueError for names that are not blocks, blocks without a column, and power that is negative or not finite.
    """
    return parse_power_trace(_read(path), floorplan)


def parse_power_trace(text: str, floorplan: Floorplan) -> Float[Array, "steps blocks"]:
    """`read_power_trace` of a text."""
    lines = _lines(text)
    if not lines:
        raise ValueError("power trace is empty, expected a line of block names and one line of numbers (W) per step")
    columns = [floorplan.index(name) for name in lines[0][1]]
    if len(set(columns)) != len(columns):
        twice = next(c for c in columns if columns.count(c) > 1)
        raise ValueError(f"power trace: block {floorplan.names[twice]!r} appears twice")
    missing = sorted(set(range(len(floorplan.names))) - set(columns))
    if missing:
        raise ValueError(f"power trace has no column for block {floorplan.names[missing[0]]!r}")
    power = np.zeros((len(lines) - 1, len(columns)))
    for row, (number, fields) in enumerate(lines[1:]):
        if len(fields) != len(columns):
            raise ValueError(f"power trace line {number}: {len(fields)} columns, expected {len(columns)}")
        power[row, columns] = _numbers(fields, f"power trace line {number}")
        if np.any(power[row] < 0):
            block = int(np.argmin(power[row]))
            raise ValueError(
                f"power trace line {number}: block {floorplan.names[block]!r} has {power[row, block]:g} W, must not be negative"
            )
    if not len(power):
        raise ValueError("power trace has block names but no step")
    return jnp.asarray(power, float)


def _read(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{Path(path).name} is larger than {MAX_BYTES >> 20} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{Path(path).name} is not a text file") from None


def _lines(text: str) -> list[tuple[int, list[str]]]:
    """Line numbers and columns without comments and empty lines."""
    rows = ((number, line.split("#")[0].split()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, fields) for number, fields in rows if fields]


def _numbers(fields: Sequence[str], where: str) -> list[float]:
    found = []
    for field in fields:
        try:
            value = float(field)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise ValueError(f"{where}: {field[:40]!r} is not a finite number")
        found.append(value)
    return found


@lru_cache(maxsize=64)
def _positions(names: tuple[str, ...]) -> dict[str, int]:
    return {name.casefold(): i for i, name in enumerate(names)}


def _find_contacts(names: tuple[str, ...], *geometry: Any) -> Contacts:
    """Contacts and borders of concrete rectangles, after all checks."""
    if any(isinstance(part, Tracer) for part in geometry):
        raise ValueError("a Floorplan must be built outside jit: which blocks touch is read off their coordinates")
    _check_sizes(names, *geometry)
    width, height, left, bottom = (np.asarray(part, np.float64) for part in geometry)
    right, top = left + width, bottom + height
    across = np.minimum.outer(right, right) - np.maximum.outer(left, left)  # shared extent in x; about 0 where edges meet
    along = np.minimum.outer(top, top) - np.maximum.outer(bottom, bottom)
    i, j = np.nonzero(np.triu((across > TOUCH) & (along > TOUCH), 1))
    if len(i):
        size = f"{across[i[0], j[0]]:g} m x {along[i[0], j[0]]:g} m"
        raise ValueError(f"blocks {names[i[0]]!r} and {names[j[0]]!r} overlap by {size}")
    beside = np.argwhere(np.triu((np.abs(across) < TOUCH) & (along >= TOUCH), 1))
    above = np.argwhere(np.triu((np.abs(along) < TOUCH) & (across >= TOUCH), 1))
    _check_connected(names, np.concatenate([beside, above]))
    sides = (left - left.min(), right.max() - right, top.max() - top, bottom - bottom.min())
    borders = tuple(tuple(np.flatnonzero(np.abs(gap) < TOUCH).tolist()) for gap in sides)
    return Contacts(_as_links(beside), _as_links(above), borders)


def _check_sizes(names: tuple[str, ...], *geometry: Any) -> None:
    if not 0 < len(names) <= MAX_BLOCKS:
        raise ValueError(f"a floorplan has 1 to {MAX_BLOCKS} blocks, got {len(names)}")
    if len(_positions(names)) != len(names) or not all(names):
        raise ValueError("the names of the blocks must be different from each other and not empty")
    if max(map(len, names)) > MAX_NAME:
        raise ValueError(f"the name of a block is longer than {MAX_NAME} characters")
    for field, part in zip(("width", "height", "left", "bottom"), geometry, strict=True):
        array = np.asarray(part, np.float64)
        if array.shape != (len(names),):
            raise ValueError(f"Floorplan.{field} has shape {array.shape}, expected ({len(names)},), one per block")
        lo, hi = (TOUCH, 1.0) if field in ("width", "height") else (-1.0, 1.0)
        bad = np.flatnonzero(~((array >= lo) & (array <= hi)))
        if len(bad):
            raise ValueError(f"block {names[bad[0]]!r}: {field} = {array[bad[0]]:g} m is outside its range [{lo:g}, {hi:g}] m")


def _check_connected(names: tuple[str, ...], pairs: np.ndarray) -> None:
    """Spread the lowest number over contacts until nothing changes; every block must end with that of the first."""
    group = np.arange(len(names))
    while True:
        merged = group.copy()
        np.minimum.at(merged, pairs[:, 0], group[pairs[:, 1]])
        np.minimum.at(merged, pairs[:, 1], group[pairs[:, 0]])
        merged = merged[merged]
        if np.array_equal(merged, group):
            break
        group = merged
    if group.any():
        raise ValueError(f"block {names[int(np.argmax(group > 0))]!r} does not touch the rest of the floorplan")


def _shared(start: Array, size: Array, i: np.ndarray, j: np.ndarray) -> Array:
    """Length (m) that the sides of blocks i and j have in common along one axis."""
    end = start + size
    return jnp.minimum(end[i], end[j]) - jnp.maximum(start[i], start[j])


def _pairs(contacts: tuple[tuple[int, int], ...]) -> np.ndarray:
    return np.asarray(contacts, dtype=np.int32).reshape(-1, 2).T


def _as_links(pairs: np.ndarray) -> Links:
    return tuple((i, j) for i, j in pairs.tolist())


@lru_cache(maxsize=16)
def _links(contacts: Contacts, count: int) -> Links:
    """Node pairs in the order in which `Floorplan.network` lists conductances."""
    rim = len(LAYERS) * count
    lateral = np.concatenate([_pairs(contacts.beside), _pairs(contacts.above)], axis=1).T
    pairs = [lateral + layer * count for layer in range(len(LAYERS))]
    pairs += [np.arange(layer * count, (layer + 1) * count)[:, None] + np.array([0, count]) for layer in range(SINK)]
    for row, layer in enumerate((SPREADER, SINK)):
        for side in (WEST, EAST, NORTH, SOUTH):
            blocks = np.asarray(contacts.borders[side]) + layer * count
            pairs.append(np.stack([blocks, np.full_like(blocks, rim + 4 * row + side)], axis=1))
    for row in range(2):
        pairs.append(rim + 4 * row + np.arange(4)[:, None] + np.array([0, 4]))
    return _as_links(np.concatenate(pairs))
