"""Endurance: how often a cell can be written, and how much of its life is used up.

    ln N(T) = ln N_ref + s e_a / k (1/T - 1/T_ref),        s = +1 (default) or -1 (`sign="published"`)
    D = sum_i n_i / N(T_i)                                 linear damage (Miner 1945), end of life at D = 1
    p = 1 - exp(-D^shape)                                  share of failed cells (Weibull): 63.2 % at D = 1

N: writes to failure, T: temperature during writing (K), e_a: signed activation energy (eV). With s = +1 and e_a > 0
endurance falls with temperature. A published model writes the exponent with s = -1, so that hot cells live longer; it is
kept as a named option. Evidence for resistive cells is mixed and no measured e_a was found: treat it as an assumption
and study its sensitivity. Damage is additive, independent of order, and must not be summed naively: see `Wear`. Lognormal
populations: see `LognormalLives`. Valid for cell temperatures, including the heat of the write pulse
(`Cell.write_temperature`), from 200 K to 700 K.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from physics.cells.logs import log_amount, log_failure_probability
from physics.compensated import CompensatedSum
from physics.constants import BOLTZMANN_EV
from physics.params import ParameterTree, param, unknown_name
from physics.types import Result, Value
from physics.validity import Flag, inside

RANGE = (200.0, 700.0)  # K, where the law holds
SIGNS = {"physical": 1.0, "published": -1.0}


class Endurance(ParameterTree):
    """Number of writes a cell survives, as a function of temperature. Raises ValueError for an unknown `sign`."""

    log_cycles_ref: Float[Array, ""] = param(
        13.8155, unit="ln writes", lo=0.0, hi=45.0, source="1e6 writes: 28 nm 1T1R OxRAM, CEA-Leti 2025"
    )
    e_a: Float[Array, ""] = param(0.3, unit="eV", lo=-2.0, hi=2.0, source="assumed: no measured value found")
    temperature_ref: Float[Array, ""] = param(
        300.0, unit="K", lo=200.0, hi=700.0, source="assumed: endurance is reported at room temperature"
    )
    shape: Float[Array, ""] = param(2.0, unit="1", lo=0.2, hi=20.0, source="assumed: Weibull slope of the population")
    sign: str = eqx.field(static=True, default="physical")

    def __check_init__(self) -> None:
        if self.sign not in SIGNS:
            raise ValueError(unknown_name("sign", self.sign, SIGNS))

    def log_cycles(self, temperature: Value) -> Result:
        """ln of the writes to failure at `temperature` (K)."""
        nearness = (self.temperature_ref - temperature) / (temperature * self.temperature_ref)
        return self.log_cycles_ref + SIGNS[self.sign] * self.e_a / BOLTZMANN_EV * nearness

    def valid(self, temperature: Value) -> Flag:
        """Whether the law holds at a cell temperature (K) during writing: 200 K to 700 K."""
        return inside(temperature, *RANGE)

    def log_damage(self, temperature: Value, writes: Value = 1.0) -> Result:
        """ln of the share of life consumed by `writes` at `temperature` (K)."""
        return log_amount(jnp.asarray(writes, float)) - self.log_cycles(temperature)

    def damage(self, temperature: Value, writes: Value = 1.0) -> Result:
        """Share of life consumed by `writes` at `temperature` (K)."""
        return writes * jnp.exp(-self.log_cycles(temperature))

    def log_failure_probability(self, damage: Value) -> Result:
        """ln of the share of cells that have failed at accumulated `damage` (1); Weibull."""
        return log_failure_probability(self.shape * log_amount(damage))

    def log_lifetime(
        self,
        temperature: Value,
        write_rate: Value,
        cells: Value = 1.0,
        levelling: Value = 1.0,
    ) -> Result:
        """ln of the time (s) to D = 1 when `write_rate` (cell writes/s) is spread over `cells` with efficiency `levelling`."""
        return self.log_cycles(temperature) + jnp.log(cells) + jnp.log(levelling) - jnp.log(write_rate)


class Wear(eqx.Module):
    """Share of life consumed, summed without losing small increments: a million times 1e-9 counts in float32."""

    total: CompensatedSum

    @classmethod
    def zero(cls, damage: Value = 0.0) -> "Wear":
        """Unused cells, or cells that begin with `damage`."""
        return cls(CompensatedSum.start(damage))

    def add(self, damage: Value) -> "Wear":
        """Wear after a further `damage` (1), for example `endurance.damage(temperature, writes)`."""
        return Wear(self.total.add(damage))

    @property
    def damage(self) -> Result:
        """D, the share of life consumed; 1 is the end."""
        return self.total.value
