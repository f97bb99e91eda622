"""Cells of a crossbar: two extreme conductances, levels between them, noise and faults.

    G(level) = g_hrs + (g_lrs - g_hrs) level / (levels - 1)          HRS: high, LRS: low resistance state

Noise is Gaussian, its standard deviation goes linearly with the level from that of HRS to that of LRS (assumed: only the
two ends are published), and conductances are never negative: the clipped tail of a noisy HRS raises its mean.
Defaults: the 5/30 uA cell read at 0.2 V of the CIM-Explorer studies, without noise and faults.
"""

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from physics.params import ParameterTree, param
from physics.types import Scalar

STUDY = "default studies of CIM-Explorer, Pelke et al., arXiv 2505.14303"
NONE = "off; studies of CIM-Explorer use up to 16 uA at 5/30 uA"
MNSIM = "off; 1e-3 each in MNSIM 2.0's default configuration"


class CrossbarCells(ParameterTree):
    """Conductances, noise and faults of the cells; `levels` (static) is how many states one cell can be told to hold."""

    g_hrs: Float[Array, ""] = param(25e-6, unit="S", lo=0.0, hi=1e-2, log=True, source=STUDY)
    g_lrs: Float[Array, ""] = param(150e-6, unit="S", lo=1e-9, hi=1e-2, log=True, source=STUDY)
    read_voltage: Float[Array, ""] = param(0.2, unit="V", lo=1e-3, hi=5.0, source=STUDY)
    program_noise_hrs: Float[Array, ""] = param(0.0, unit="S", lo=0.0, hi=1e-2, source=NONE)
    program_noise_lrs: Float[Array, ""] = param(0.0, unit="S", lo=0.0, hi=1e-2, source=NONE)
    read_noise_hrs: Float[Array, ""] = param(0.0, unit="S", lo=0.0, hi=1e-2, source=NONE)
    read_noise_lrs: Float[Array, ""] = param(0.0, unit="S", lo=0.0, hi=1e-2, source=NONE)
    stuck_hrs: Float[Array, ""] = param(0.0, unit="1", lo=0.0, hi=1.0, source=MNSIM)
    stuck_lrs: Float[Array, ""] = param(0.0, unit="1", lo=0.0, hi=1.0, source=MNSIM)
    levels: int = eqx.field(static=True, default=16)

    @classmethod
    def from_currents(
        cls,
        hrs: float,
        lrs: float,
        read_voltage: float = 0.2,
        *,
        program_noise: tuple[float, float] = (0.0, 0.0),
        read_noise: tuple[float, float] = (0.0, 0.0),
        stuck: tuple[float, float] = (0.0, 0.0),
        levels: int = 16,
    ) -> "CrossbarCells":
        """From currents (A) at `read_voltage` (V, sign ignored); pairs are (HRS, LRS): noise in A, stuck probabilities."""
        voltage = abs(read_voltage)
        currents = (hrs, lrs, *program_noise, *read_noise)
        g_hrs, g_lrs, program_hrs, program_lrs, read_hrs, read_lrs = (current / voltage for current in currents)
        return cls(g_hrs, g_lrs, voltage, program_hrs, program_lrs, read_hrs, read_lrs, *stuck, levels=levels)

    def __check_init__(self) -> None:
        super().__check_init__()
        if self.levels < 2:
            raise ValueError(f"CrossbarCells.levels = {self.levels} is below 2")
        leaves = (self.g_hrs, self.g_lrs, self.stuck_hrs, self.stuck_lrs)
        if any(isinstance(leaf, Tracer) or not isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
            return
        g_hrs, g_lrs, stuck_hrs, stuck_lrs = (np.asarray(leaf) for leaf in leaves)
        if np.any(g_lrs <= g_hrs):
            raise ValueError(f"CrossbarCells.g_lrs = {g_lrs.min():g} S must exceed g_hrs = {g_hrs.max():g} S")
        if np.any(stuck_hrs + stuck_lrs > 1 + 1e-6):
            raise ValueError(f"CrossbarCells.stuck_hrs + stuck_lrs = {(stuck_hrs + stuck_lrs).max():g} is above 1")

    @property
    def swing(self) -> Float[Array, ""]:
        """g_lrs - g_hrs (S)."""
        return self.g_lrs - self.g_hrs

    @property
    def hrs_share(self) -> Float[Array, ""]:
        """h = g_hrs / (g_lrs - g_hrs)."""
        return self.g_hrs / self.swing


class Wires(ParameterTree):
    """Bit lines of an array: the same resistance between any two neighbouring rows and to the sense amplifier.

    `method` (static) solves them, "scan" or "tree": see `ladder.py`.
    """

    resistance: Float[Array, ""] = param(1.0, unit="ohm", lo=0.0, hi=1e3, source="CIM-Explorer studies 0 to 3 ohm per cell")
    method: str = eqx.field(static=True, default="scan")

    def scaled(self, cells: CrossbarCells) -> Scalar:
        """Resistance of one segment in units of 1 / (g_lrs - g_hrs)."""
        return self.resistance * cells.swing
