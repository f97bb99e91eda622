"""Packages lumped into two or three nodes between junction and ambient.

    junction --r-- case --r-- ambient                       TwoNode, closed form
    junction --r-- spreader --r-- sink --r-- ambient        Ladder (Cauer form)

The two-node law, theta above ambient, P into the junction:

    c_junction d theta_j/dt = P - (theta_j - theta_c) / r_junction_case
    c_case     d theta_c/dt = (theta_j - theta_c) / r_junction_case - theta_c / r_case_ambient

Its two rates are always real and distinct, so the closed form has no degenerate branch; it is differentiable any number
of times and the cheapest exact step there is. Against the area-mean step response of a full block model (HotSpot's
ev6 example) two nodes err by up to 8 % of the thermal resistance with a good heat sink and 2 % with a poor one, three by
1.4 % and 0.25 %. They know nothing of hot spots: a small block's own resistance, 1 to 10 K/W per mm2, comes on top.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physics.params import ParameterTree, param
from physics.thermal.networks import ThermalNetwork
from physics.types import Scalar

EV6 = "fit to HotSpot's ev6 block model, area-mean step response, r_convec {} K/W"


class TwoNode(ParameterTree):
    """Junction and case. Temperatures are vectors (junction, case) of rises above ambient (K)."""

    r_junction_case: Float[Array, ""] = param(0.0442, unit="K/W", lo=1e-4, hi=1e4, log=True, source=EV6.format(0.1))
    r_case_ambient: Float[Array, ""] = param(0.1373, unit="K/W", lo=1e-4, hi=1e4, log=True, source=EV6.format(0.1))
    c_junction: Float[Array, ""] = param(0.0570, unit="J/K", lo=1e-9, hi=1e6, log=True, source=EV6.format(0.1))
    c_case: Float[Array, ""] = param(33.0, unit="J/K", lo=1e-9, hi=1e6, log=True, source=EV6.format(0.1))

    def step(self, theta: Float[Array, "2"], power: Scalar, dt: Scalar) -> Float[Array, "2"]:
        """Temperature rise (K) after `dt` (s) of constant `power` (W) into the junction; exact."""
        return theta + self.increment(theta, power, dt)

    @partial(jax.jit, inline=True)
    def increment(self, theta: Float[Array, "2"], power: Scalar, dt: Scalar) -> Float[Array, "2"]:
        """Change of the temperature rise (K) over `dt` (s); sum very many short ones in a `CompensatedSum`."""
        away = theta - self.steady(power)
        slow, fast = self._rates()
        relaxed = jnp.expm1(-slow * dt)
        mixed = jnp.exp(-slow * dt) * jnp.expm1(-(fast - slow) * dt) / (fast - slow)
        return relaxed * away - mixed * (self._cool(away) + slow * away)

    def steady(self, power: Scalar) -> Float[Array, "2"]:
        """Temperature rise (K) under `power` (W) for ever."""
        return jnp.stack([power * (self.r_junction_case + self.r_case_ambient), power * self.r_case_ambient])

    def time_constants(self) -> Float[Array, "2"]:
        """Both time constants (s), slow first."""
        return 1 / jnp.stack(self._rates())

    def network(self) -> ThermalNetwork:
        """The same package as a general network with nodes junction and case."""
        return _chain((self.r_junction_case, self.r_case_ambient), (self.c_junction, self.c_case), ("junction", "case"))

    def _rates(self) -> tuple[Array, Array]:
        junction = 1 / (self.r_junction_case * self.c_junction)
        case = (1 / self.r_junction_case + 1 / self.r_case_ambient) / self.c_case
        shared = 1 / (self.r_junction_case * self.c_case)
        fast = (junction + case) / 2 + jnp.sqrt(((junction - case) / 2) ** 2 + junction * shared)
        # The slow rate as a product: the difference of sum and root cancels in float32.
        return junction / (self.r_case_ambient * self.c_case) / fast, fast

    def _cool(self, theta: Array) -> Array:
        """d theta/dt (K/s) without power."""
        across = (theta[0] - theta[1]) / self.r_junction_case
        return jnp.stack([-across / self.c_junction, (across - theta[1] / self.r_case_ambient) / self.c_case])


class Ladder(ParameterTree):
    """Junction, spreader and sink: the default package (total resistance 1.086 K/W).

    Defaults are the Cauer form of three fitted Foster terms, R = 0.0318, 0.0483, 1.006 K/W, tau = 1.03 ms, 0.377 s, 77.4 s.
    """

    r_junction_spreader: Float[Array, ""] = param(0.0320909954314, unit="K/W", lo=1e-4, hi=1e4, log=True, source=EV6.format(1.0))
    r_spreader_sink: Float[Array, ""] = param(0.0583064081923, unit="K/W", lo=1e-4, hi=1e4, log=True, source=EV6.format(1.0))
    r_sink_ambient: Float[Array, ""] = param(0.995702596376, unit="K/W", lo=1e-4, hi=1e4, log=True, source=EV6.format(1.0))
    c_junction: Float[Array, ""] = param(0.0322425667264, unit="J/K", lo=1e-9, hi=1e6, log=True, source=EV6.format(1.0))
    c_spreader: Float[Array, ""] = param(7.08951995862, unit="J/K", lo=1e-9, hi=1e6, log=True, source=EV6.format(1.0))
    c_sink: Float[Array, ""] = param(70.5738779125, unit="J/K", lo=1e-9, hi=1e6, log=True, source=EV6.format(1.0))

    def network(self) -> ThermalNetwork:
        """The ladder as a general network with nodes junction, spreader and sink."""
        resistances = (self.r_junction_spreader, self.r_spreader_sink, self.r_sink_ambient)
        return _chain(resistances, (self.c_junction, self.c_spreader, self.c_sink), ("junction", "spreader", "sink"))


def default_package() -> Ladder:
    """Three-node package of a desktop-class chip with a poor heat sink (r_convec 1 K/W)."""
    return Ladder()


def _chain(resistances: tuple[Array, ...], capacitances: tuple[Array, ...], names: tuple[str, ...]) -> ThermalNetwork:
    """Nodes in a row, the last one joined to ambient."""
    conductance = 1 / jnp.stack(resistances)
    return ThermalNetwork(
        capacitance=jnp.stack(capacitances),
        conductance=conductance[:-1],
        ambient_conductance=jnp.zeros_like(conductance).at[-1].set(conductance[-1]),
        links=[(i, i + 1) for i in range(len(names) - 1)],
        names=names,
    )
