"""Clock domains: what a processor gains and loses at a fraction of its nominal clock; the voltage follows.

    V(s): f_max(V) = s f_max(V_ref), not below V_lo        alpha-power law, `physics.VoltageScaling`
    latency(s) = fixed + clocked / s
    energy(s)  = (V(s) / V_ref)^2 (switching - stalled (1 - s)) + programming
    leakage(s) ~ V(s) / V_ref

s: relative clock, `slowest` to 1 (nominal is the fastest). What a processor's own model lets follow the clock is `clocked`: for a
roofline arithmetic and launches, not memory traffic (its bandwidth is another domain's); for a crossbar chip everything, because
conversions, buffers and drivers are timed by the same clock; never writing cells, whose pulses are physical. `stalled` is what a
core burns while it waits for memory: fewer cycles at a slower clock. Both come from the processor's model at the two ends of the
range, so they are exact there; latency is an upper bound between, where operations pass from memory- to compute-bound. Above zero
programming energy counts in full: cells are written from a supply of their own. Non-smooth where V reaches V_lo, below which only
the clock falls. Valid for the voltages of the `VoltageScaling`. Sources: Sakurai and Newton 1990; Weiser et al., OSDI 1994.
"""

import difflib
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from physics import ParameterTree, VoltageScaling, param, unknown_name, with_sources

NEWTON_STEPS = 6  # quadratic from the nominal voltage on: at rounding error after five for every clock above 1 % of nominal


class ClockDomain(ParameterTree):
    """The range of clocks of one processor and the voltages they need."""

    scaling: VoltageScaling = eqx.field(default_factory=VoltageScaling)
    slowest: Float[Array, ""] = param(0.25, unit="1", lo=0.05, hi=1.0, log=True, source="assumed: a quarter of the nominal clock")

    def __check_init__(self) -> None:
        lo, ref, hi = self.scaling.voltage_lo, self.scaling.voltage_ref, self.scaling.voltage_hi
        if not any(isinstance(v, Tracer) for v in (lo, ref, hi)) and (np.any(lo > ref) or np.any(ref > hi)):
            raise ValueError(
                f"ClockDomain.scaling: voltage_ref = {np.max(ref):g} V is outside its range [{np.max(lo):g}, {np.min(hi):g}] V"
            )

    def voltage(self, speed: Float[Array, "*shape"] | float) -> Float[Array, "*shape"]:
        """Supply at the relative clock `speed`, as a fraction of nominal; rises with `speed`, 1 at 1.

        Newton steps in u = ln(V - V_th), where the law is increasing and concave, so that they cannot leave it. Every step is
        differentiated: gradients in `speed` and in the parameters are right to rounding error.
        """
        law = self.scaling
        u_ref = jnp.log(law.voltage_ref - law.threshold)
        target = law.alpha * u_ref - jnp.log(law.voltage_ref) + jnp.log(speed)
        u = u_ref + jnp.log(speed) / law.alpha
        for _ in range(NEWTON_STEPS):
            overdrive = jnp.exp(u)
            total = law.threshold + overdrive
            u = u - (law.alpha * u - jnp.log(total) - target) / (law.alpha - overdrive / total)
        return jnp.maximum(law.threshold + jnp.exp(u), law.voltage_lo) / law.voltage_ref


def _stm32l4r5() -> ClockDomain:
    """STM32L4R5: 120 MHz at 1.28 V (range 1 boost) down to 26 MHz at 1.0 V (range 2); the threshold follows from the two."""
    manual = "RM0432, dynamic voltage scaling: range 1 boost 1.28 V to 120 MHz, range 2 1.0 V to 26 MHz"
    numbers = {
        "threshold": (0.904, f"{manual}; fit with alpha 1.3 (its third point, 80 MHz at 1.2 V, comes out as 94 MHz)"),
        "voltage_ref": (1.28, manual),
        "frequency_ref": (120e6, manual),
        "voltage_lo": (1.0, manual),
        "voltage_hi": (1.28, manual),
    }
    return ClockDomain(with_sources(VoltageScaling(), numbers), 26 / 120)


def _edge_gpu() -> ClockDomain:
    """A Jetson Nano class GPU: 921.6 MHz down to 230.4 MHz, a clock of its table; voltages assumed."""
    numbers = {
        "frequency_ref": (921.6e6, "Jetson Nano public specification"),
        "voltage_lo": (0.8, "assumed"),
        "voltage_hi": (1.0, "assumed: nominal is the fastest"),
    }
    return ClockDomain(with_sources(VoltageScaling(), numbers), 0.25)


def _edge_pim() -> ClockDomain:
    """The periphery of a small crossbar macro: half its clock at least, so that held samples do not droop (assumed)."""
    numbers = {
        "frequency_ref": (1e7, "ISAAC: one array read per 100 ns"),
        "voltage_lo": (0.8, "assumed: analog headroom of the converters"),
        "voltage_hi": (1.0, "assumed: nominal is the fastest"),
    }
    return ClockDomain(with_sources(VoltageScaling(), numbers), 0.5)


CLOCKS: dict[str, Callable[[], ClockDomain]] = {"stm32l4r5": _stm32l4r5, "edge-gpu": _edge_gpu, "edge-pim": _edge_pim}


def list_clocks() -> tuple[str, ...]:
    """Names that `load_clock` takes: those of hardware that has one."""
    return tuple(sorted(CLOCKS))


def load_clock(name: str) -> ClockDomain:
    """The clock domain of a named processor; ValueError with close names if there is none."""
    if name not in CLOCKS:
        raise ValueError(unknown_name("clock domain", name, difflib.get_close_matches(str(name), CLOCKS, 3, 0.4) or CLOCKS))
    return CLOCKS[name]()
