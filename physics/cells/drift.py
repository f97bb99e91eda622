"""Drift: how an analog conductance level moves and spreads after programming.

    PhaseChangeDrift   G(t) = G ((t + t_0) / t_0)^-nu         nu(g) falls with the level; 1/f read noise grows with ln t
    ResistiveDrift     no mean drift; sigma(g, t) measured 1 s, 1 day and 2 days after programming
    OxideDrift         G(t) = G - 0.0890 uS ln(t / 1 s), sigma(t) = 0.4118 uS + 0.0420 uS ln(t / 1 s)     CMO/HfOx

G: conductance (S), t: time since programming (s), g = G / G_max. The coefficients are those of IBM's aihwkit; the spread
of ResistiveDrift between the three measured times is a monotone cubic in ln t (Fritsch and Carlson, SIAM J. Numer.
Anal. 17, 1980), continuous with its slope; outside them the nearest one is held and `valid` is false. Laws in ln t hold
from 1 s on. No source gives a temperature dependence. What is offered is an assumption, off by default (e_a = 0):
relaxation at T for a time t does what `equivalent_time`, t exp(-e_a / k (1/T - 1/T_ref)), does at T_ref.
Sources: PCM: Nandakumar et al. 2019; ReRAM: Wan et al. 2022; CMO/HfOx: Falcone et al., IBM Zurich, as in aihwkit.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physics.constants import BOLTZMANN_EV
from physics.params import ParameterTree, param, unknown_name
from physics.types import Result, Value
from physics.validity import Flag, inside

MICRO = 1e-6
DAY = 86400.0
PCM = "aihwkit PCMLikeNoiseModel (Nandakumar et al. 2019)"
CMO = "aihwkit ReRamCMONoiseModel (Falcone et al.)"
LEAST_LEVEL = 1e-4  # levels below are treated as this one: logarithms and powers of g end here
RERAM_TIMES = (1.0, DAY, 2 * DAY)  # s
RERAM_SIGMA = (  # uS, coefficients of g^0 to g^4 at each time; aihwkit ReRamWan2022NoiseModel, G_max 40 uS
    (0.348, 16.030, -43.853, 45.393, -16.815),
    (0.701, 22.086, -50.773, 47.095, -16.458),
    (0.782, 20.274, -43.507, 37.062, -11.934),
)
# uS and 1: sigma = first + second G after programming to within 2 % or 0.2 % of the target.
ACCEPTANCES = {"2%": (0.01122, 0.01129), "0.2%": (0.000811, 0.001069)}


LARGEST_EXPONENT = 60.0  # e^60 is finite in float32
FEWEST_READS = 1.001  # keeps 1/f noise and its slope finite for reads longer than the time before them


class DriftLaw(ParameterTree):
    """What drift laws share: the full scale and the assumed acceleration by heat."""

    g_max: eqx.AbstractVar[Float[Array, ""]]
    e_a: Float[Array, ""] = param(0.0, unit="eV", lo=0.0, hi=2.0, source="assumed 0: no published temperature dependence")
    temperature_ref: Float[Array, ""] = param(300.0, unit="K", lo=200.0, hi=700.0, source="assumed: room temperature")

    def equivalent_time(self, duration: Value, temperature: Value) -> Result:
        """Time (s) at the reference temperature that relaxes as much as `duration` (s) at `temperature` (K)."""
        nearness = (self.temperature_ref - temperature) / (temperature * self.temperature_ref)
        return duration * jnp.exp(jnp.minimum(-self.e_a / BOLTZMANN_EV * nearness, LARGEST_EXPONENT))

    def _level(self, conductance: Value) -> Result:
        return jnp.maximum(conductance / self.g_max, LEAST_LEVEL)


class PhaseChangeDrift(DriftLaw):
    """Phase-change memory: power-law drift. Kinks where nu or the read noise reach their clips; slope 0 beyond."""

    g_max: Float[Array, ""] = param(25e-6, unit="S", lo=1e-7, hi=1e-2, log=True, source=PCM)
    t_0: Float[Array, ""] = param(20.0, unit="s", lo=1e-3, hi=1e4, log=True, source=f"{PCM}: first read; never below it")
    read_time: Float[Array, ""] = param(250e-9, unit="s", lo=1e-10, hi=1.0, log=True, source=PCM)

    def exponent(self, conductance: Value) -> Result:
        """Mean nu of a level `conductance` (S)."""
        return jnp.clip(-0.0155 * jnp.log(self._level(conductance)) + 0.0244, 0.049, 0.1)

    def exponent_spread(self, conductance: Value) -> Result:
        """Standard deviation of nu from cell to cell."""
        return jnp.clip(-0.0125 * jnp.log(self._level(conductance)) - 0.0059, 0.008, 0.045)

    def programmed_spread(self, conductance: Value) -> Result:
        """Standard deviation (S) right after programming."""
        g = conductance / self.g_max
        return self.g_max / 25.0 * jnp.maximum(0.26348 + 1.9650 * g - 1.1731 * g**2, 0.0)

    def conductance(self, conductance: Value, duration: Value) -> Result:
        """Mean G (S) of a level programmed to `conductance` (S) after `duration` (s); nothing drifts in no time."""
        return conductance * jnp.exp(-self.exponent(conductance) * jnp.log1p(duration / self.t_0))

    def read_spread(self, conductance: Value, duration: Value) -> Result:
        """Standard deviation (S) of a read `duration` (s) after programming: accumulated 1/f noise."""
        relative = jnp.minimum(0.0088 / self._level(conductance) ** 0.65, 0.2)
        reads = jnp.maximum((duration + self.t_0 + self.read_time) / (2 * self.read_time), FEWEST_READS)
        return self.conductance(conductance, duration) * relative * jnp.sqrt(jnp.log(reads))

    def spread(self, conductance: Value, duration: Value) -> Result:
        """Standard deviation (S) from cell to cell and read to read after `duration` (s): the three parts in squares."""
        decay = jnp.log1p(duration / self.t_0)
        drifted = self.conductance(conductance, duration)
        programmed = self.programmed_spread(conductance) * jnp.exp(-self.exponent(conductance) * decay)
        drift = drifted * self.exponent_spread(conductance) * decay
        return jnp.sqrt(programmed**2 + drift**2 + self.read_spread(conductance, duration) ** 2)

    def valid(self, conductance: Value, duration: Value) -> Flag:
        """Whether the law holds: G up to G_max, any time."""
        return inside(conductance, 0.0, self.g_max) & (jnp.asarray(duration) >= 0)


class ResistiveDrift(DriftLaw):
    """Filamentary ReRAM: levels stay on average and spread with time."""

    g_max: Float[Array, ""] = param(40e-6, unit="S", lo=1e-7, hi=1e-2, log=True, source="aihwkit: Wan et al. 2022, 40 uS")

    def conductance(self, conductance: Value, duration: Value) -> Result:
        """Mean G (S): `conductance`, whatever the `duration` (s)."""
        return jnp.asarray(conductance, float) + 0.0 * duration

    def spread(self, conductance: Value, duration: Value) -> Result:
        """Standard deviation (S) of a level `conductance` (S) after `duration` (s), programming included."""
        g = jnp.clip(jnp.asarray(conductance, float) / self.g_max, 0.0, 1.0)
        measured = [jnp.maximum(jnp.polyval(jnp.asarray(row[::-1]), g), 0.0) for row in RERAM_SIGMA]
        x = jnp.log(jnp.clip(jnp.asarray(duration, float), RERAM_TIMES[0], RERAM_TIMES[-1]))
        return self.g_max / 40.0 * _monotone_cubic(x, np.log(RERAM_TIMES), measured)

    def valid(self, conductance: Value, duration: Value) -> Flag:
        """Whether the law holds: G up to G_max, 1 s to 2 days."""
        return inside(conductance, 0.0, self.g_max) & inside(duration, RERAM_TIMES[0], RERAM_TIMES[-1])


class OxideDrift(DriftLaw):
    """Conductive-metal-oxide/HfOx ReRAM: mean and spread linear in ln t, the same for every level.

    `acceptance`: cells are programmed to within "2%" (what the source documents as its default) or "0.2%" (what its code
    uses in that case) of their target. Raises ValueError for another. Held at 1 s before 1 s.
    """

    g_max: Float[Array, ""] = param(88.19e-6, unit="S", lo=1e-7, hi=1e-2, log=True, source=CMO)
    g_min: Float[Array, ""] = param(9e-6, unit="S", lo=0.0, hi=1e-2, source=CMO)
    acceptance: str = eqx.field(static=True, default="2%")

    def __check_init__(self) -> None:
        if self.acceptance not in ACCEPTANCES:
            raise ValueError(unknown_name("acceptance", self.acceptance, ACCEPTANCES))

    def programmed_spread(self, conductance: Value) -> Result:
        """Standard deviation (S) right after programming to `conductance` (S)."""
        constant, linear = ACCEPTANCES[self.acceptance]
        return jnp.asarray(constant * MICRO + linear * conductance)

    def conductance(self, conductance: Value, duration: Value) -> Result:
        """Mean G (S) of a level programmed to `conductance` (S) after `duration` (s), not below the smallest level."""
        return jnp.maximum(conductance - 0.0890 * MICRO * self._decades(duration), jnp.minimum(self.g_min, conductance))

    def spread(self, conductance: Value, duration: Value) -> Result:
        """Standard deviation (S) after `duration` (s); independent of the level `conductance` (S), programming included."""
        return (0.4118 + 0.0420 * self._decades(duration)) * MICRO + 0.0 * conductance

    def valid(self, conductance: Value, duration: Value) -> Flag:
        """Whether the law holds: G between its smallest and largest level, from 1 s on."""
        return inside(conductance, self.g_min, self.g_max) & (jnp.asarray(duration) >= 1.0)

    def _decades(self, duration: Value) -> Result:
        return jnp.log(jnp.maximum(duration, 1.0))


def _monotone_cubic(x: Array, knots: np.ndarray, values: list[Array]) -> Array:
    """Fritsch-Carlson interpolation through three knots, elementwise; monotone where the values are."""
    h0, h1 = float(knots[1] - knots[0]), float(knots[2] - knots[1])
    first, second = (values[1] - values[0]) / h0, (values[2] - values[1]) / h1
    same = first * second > 0
    w0, w1 = (2 * h1 + h0) / (3 * (h0 + h1)), (h1 + 2 * h0) / (3 * (h0 + h1))
    safe0, safe1 = jnp.where(same, first, 1.0), jnp.where(same, second, 1.0)
    middle = jnp.where(same, 1 / (w0 / safe0 + w1 / safe1), 0.0)
    left = _hermite((x - knots[0]) / h0, h0, values[0], values[1], first, middle)
    right = _hermite((x - knots[1]) / h1, h1, values[1], values[2], middle, second)
    return jnp.where(x < knots[1], left, right)


def _hermite(s: Array, h: float, start: Array, end: Array, slope: Array, slope_end: Array) -> Array:
    """Cubic on [0, 1] with the given ends and slopes."""
    rise = end - start
    return start + rise * s**2 * (3 - 2 * s) + h * s * (1 - s) * (slope * (1 - s) - slope_end * s)
