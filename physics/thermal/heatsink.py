"""A chip under interface, heat spreader and heat sink, with HotSpot's package constants.

    die -- interface -- spreader (side s_spreader) -- sink (side s_sink) -- convection -- ambient

The layers above the chip are divided like the die (into blocks or cells); what sticks out beyond the chip is lumped into a
rim of twelve nodes: spreader periphery, inner and outer sink periphery, each west, east, north and south.

    resistance of a slab      t / (k A)                  half of a neighbour's path belongs to each block
    heat capacity             0.333 rho_c t A            0.333: HotSpot's fitted factor for lumped blocks
    convection                r_convec s_sink^2 / A      shared out by area

Valid for chips smaller than the spreader and conductivities that do not depend on temperature. Source: Skadron et al.,
Temperature-aware microarchitecture, ACM TACO 1 (2004); formulas as in HotSpot 7 (uvahotspot/HotSpot f18831e).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from physics.params import ParameterTree, param
from physics.types import Scalar

LUMPING = 0.333  # HotSpot's C_FACTOR
WEST, EAST, NORTH, SOUTH = range(4)
LAYERS = ("", "iface_", "hsp_", "hsink_")  # die, interface, spreader, sink; HotSpot's prefixes of node names
SPREADER, SINK = 2, 3
RIM_NODES = 12

EXAMPLE = "HotSpot, example1 configuration"


class Sheets(NamedTuple):
    """The four layers, die first: thickness (m), conductivity (W/(m K)) and volumetric heat capacity (J/(m3 K))."""

    thickness: Float[Array, "4"]
    conductivity: Float[Array, "4"]
    heat: Float[Array, "4"]


class Rim(NamedTuple):
    """The twelve nodes around the chip. Rows: spreader, inner sink, outer sink; columns: west, east, north, south."""

    capacitance: Float[Array, "3 4"]  # J/K
    ambient: Float[Array, "3 4"]  # W/K
    entry: Float[Array, "2 4"]  # K/W from the chip's edge into the rim, in spreader and sink
    down: Float[Array, "4"]  # W/K, spreader rim to inner sink rim
    outward: Float[Array, "4"]  # W/K, inner to outer sink rim


class HeatSinkPackage(ParameterTree):
    """Constants of the package under HotSpot's names; `p_` is a heat capacity per volume, `s_` the side of a square.

    Raises ValueError for values out of range and a sink that is not larger than the spreader.
    """

    t_chip: Float[Array, ""] = param(150e-6, unit="m", lo=1e-6, hi=5e-3, log=True, source=EXAMPLE)
    k_chip: Float[Array, ""] = param(130.0, unit="W/(m K)", lo=0.1, hi=3000.0, log=True, source=EXAMPLE)
    p_chip: Float[Array, ""] = param(1.6303e6, unit="J/(m3 K)", lo=1e5, hi=1e7, log=True, source=EXAMPLE)
    t_interface: Float[Array, ""] = param(20e-6, unit="m", lo=1e-7, hi=5e-3, log=True, source=EXAMPLE)
    k_interface: Float[Array, ""] = param(4.0, unit="W/(m K)", lo=0.01, hi=3000.0, log=True, source=EXAMPLE)
    p_interface: Float[Array, ""] = param(4.0e6, unit="J/(m3 K)", lo=1e5, hi=1e7, log=True, source=EXAMPLE)
    s_spreader: Float[Array, ""] = param(0.03, unit="m", lo=1e-4, hi=1.0, log=True, source=EXAMPLE)
    t_spreader: Float[Array, ""] = param(1e-3, unit="m", lo=1e-6, hi=0.1, log=True, source=EXAMPLE)
    k_spreader: Float[Array, ""] = param(400.0, unit="W/(m K)", lo=0.1, hi=3000.0, log=True, source=EXAMPLE + ": copper")
    p_spreader: Float[Array, ""] = param(3.55e6, unit="J/(m3 K)", lo=1e5, hi=1e7, log=True, source=EXAMPLE + ": copper")
    s_sink: Float[Array, ""] = param(0.06, unit="m", lo=1e-4, hi=2.0, log=True, source=EXAMPLE)
    t_sink: Float[Array, ""] = param(6.9e-3, unit="m", lo=1e-6, hi=0.5, log=True, source=EXAMPLE)
    k_sink: Float[Array, ""] = param(400.0, unit="W/(m K)", lo=0.1, hi=3000.0, log=True, source=EXAMPLE + ": copper")
    p_sink: Float[Array, ""] = param(3.55e6, unit="J/(m3 K)", lo=1e5, hi=1e7, log=True, source=EXAMPLE + ": copper")
    r_convec: Float[Array, ""] = param(0.1, unit="K/W", lo=1e-4, hi=1e4, log=True, source=EXAMPLE)
    c_convec: Float[Array, ""] = param(140.4, unit="J/K", lo=0.0, hi=1e6, source=EXAMPLE)
    ambient: Float[Array, ""] = param(318.15, unit="K", lo=150.0, hi=500.0, source=EXAMPLE + ": 45 C inside the case")

    def __check_init__(self) -> None:
        super().__check_init__()
        sides = _concrete(self.s_sink, self.s_spreader)
        if sides and not sides[0] > sides[1]:
            raise ValueError(f"HeatSinkPackage.s_sink = {sides[0]:g} m must be larger than s_spreader = {sides[1]:g} m")

    def sheets(self) -> Sheets:
        """Die, interface, spreader and sink."""
        return Sheets(
            thickness=jnp.stack([self.t_chip, self.t_interface, self.t_spreader, self.t_sink]),
            conductivity=jnp.stack([self.k_chip, self.k_interface, self.k_spreader, self.k_sink]),
            heat=jnp.stack([self.p_chip, self.p_interface, self.p_spreader, self.p_sink]),
        )

    def capacity(self, area: Float[Array, " parts"]) -> Float[Array, "4 parts"]:
        """Heat capacity (J/K) of the four layers over each `area` (m2)."""
        sheets = self.sheets()
        convection = jnp.zeros(4, area.dtype).at[SINK].set(self.c_convec / self.s_sink**2)
        return LUMPING * (sheets.thickness * sheets.heat + convection)[:, None] * area

    def downward(self, area: Float[Array, " parts"]) -> Float[Array, "3 parts"]:
        """Conductance (W/K) from each layer to the next over each `area` (m2): HotSpot counts the upper layer only."""
        sheets = self.sheets()
        return (sheets.conductivity / sheets.thickness)[:SINK, None] * area

    def convection(self, area: Float[Array, " parts"]) -> Float[Array, " parts"]:
        """Conductance (W/K) from sink to ambient over each `area` (m2)."""
        return area / (self.t_sink / self.k_sink + self.r_convec * self.s_sink**2)

    def rim(self, width: Scalar, length: Scalar) -> Rim:
        """What surrounds a chip of `width` along x and `length` along y (m)."""
        across, along = jnp.stack([width, width, length, length]), jnp.stack([length, length, width, width])
        inner, sink = self.s_spreader, self.s_sink
        area = (inner + along) * (inner - across) / 4
        outer = jnp.full(4, (sink**2 - inner**2) / 4)
        margin, face = (inner - across) / 4, (inner + 3 * along) / 4
        spreader, base = self.k_spreader * self.t_spreader, self.k_sink * self.t_sink
        outward = margin / (base * (3 * inner + along) / 4) + (sink - inner) / 4 / (base * (sink + 3 * inner) / 4)
        capacity = self.capacity(jnp.concatenate([area, outer])).reshape(4, 2, 4)
        return Rim(
            capacitance=jnp.stack([capacity[SPREADER, 0], capacity[SINK, 0], capacity[SINK, 1]]),
            ambient=jnp.stack([jnp.zeros_like(area), self.convection(area), self.convection(outer)]),
            entry=jnp.stack([margin / (spreader * face), margin / (base * face)]),
            down=self.k_spreader * area / self.t_spreader,
            outward=1 / outward,
        )

    def check_chip(self, width: Scalar, length: Scalar) -> None:
        """ValueError unless the chip (m) is smaller than the spreader; traced sizes pass."""
        sizes = _concrete(width, length, self.s_spreader)
        if sizes and not max(sizes[:2]) < sizes[2]:
            raise ValueError(f"chip of {sizes[0]:g} m x {sizes[1]:g} m does not fit on the spreader, s_spreader = {sizes[2]:g} m")


def into_rim(half: Float[Array, " parts"], entry: Scalar) -> Float[Array, " parts"]:
    """Conductance (W/K) of each part of one edge to the rim node: its `half` (W/K) in series with the shared `entry` (K/W)."""
    return half / (1 + entry * jnp.sum(half))


def _concrete(*values: Any) -> list[float]:
    """`values` as numbers; empty where one is traced or a batch and cannot be checked."""
    unknown = any(isinstance(value, Tracer) or np.ndim(value) for value in values)
    return [] if unknown else [float(value) for value in values]
