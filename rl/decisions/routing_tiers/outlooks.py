"""Tiers 1 and 3: what a workload would cost on every processor in a given state, and what forbids it there.

    cost      ln(latency x energy): the energy-delay product, in which 1 % of time weighs as much as 1 % of energy
    latency   waiting, waking, writing weights, running (`costmodel.quote`)
    energy    switching energy of waking, writing and running, and what the processor leaks meanwhile at its temperature

Four margins, each at least 0 where the processor may be used:

    retention   ln(hazard budget / share of the weights lost when the result is there), 50 where no cells are used
    capacity    ln(memory there is / memory needed), of cells, weights or activations, whichever is scarcest
    heat        (limit - junction temperature at the end of the run) / width of the throttling ramp
    deadline    ln(time to the deadline / latency)

The junction warms by P r (1 - exp(-t / (r c))) above where it is; spreader and case, hundreds of times slower, stand still.
Limits are the platform's (`costmodel.ThermalLimit`; its defaults where the platform has none).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from costmodel import Conditions, Platform, Task, ThermalLimit, quote
from rl.decisions.routing_tiers.pricing import Priced
from rl.decisions.routing_tiers.states import HardwareState, platform_state

NEVER = 1e30  # s, of a deadline that does not come
LIMITS = ("retention", "capacity", "heat", "deadline")


class Outlook(NamedTuple):
    """One workload in one state on one processor."""

    latency: Float[Array, ""]  # s
    energy: Float[Array, ""]  # J
    log_cost: Float[Array, ""]
    retention: Float[Array, ""]
    capacity: Float[Array, ""]
    heat: Float[Array, ""]
    deadline: Float[Array, ""]
    writing: Float[Array, ""]  # 1 where weights have to be written first
    static: Float[Array, ""]  # W, leaked at the present temperature

    @property
    def margin(self) -> Float[Array, ""]:
        """The smallest of the four margins."""
        return jnp.minimum(jnp.minimum(self.retention, self.capacity), jnp.minimum(self.heat, self.deadline))

    @property
    def feasible(self) -> Bool[Array, ""]:
        """Whether nothing forbids the run."""
        return self.margin >= 0


def outlooks(parts: tuple[Platform, ...], priced: Priced, state: HardwareState) -> list[Outlook]:
    """Cost and margins of one priced workload in one spread-out state on every processor. Pure; vmap it.

    `parts` are the platform's processors alone (`pricing.split`): with every processor's numbers apart, a batch is computed
    several times faster than with arrays (P,).
    """
    return [_outlook(part, _entry(priced, i), _of(state, i)) for i, part in enumerate(parts)]


def _entry(priced: Priced, index: int) -> Priced:
    one = slice(index, index + 1)
    return priced._replace(offer=jax.tree.map(lambda x: x[one], priced.offer), capacity=priced.capacity[one])


def _of(state: HardwareState, index: int) -> HardwareState:
    one = slice(index, index + 1)
    return HardwareState(state.temperature[one], state.backlog[one], state.awake[one], *state[3:])


def _outlook(part: Platform, priced: Priced, state: HardwareState) -> Outlook:
    """That of a platform with one processor; all arrays (1,)."""
    processor, package, limit = part.processors[part.names[0]], part.package, part.limit or ThermalLimit()
    offer, now = priced.offer, state.temperature
    task = Task(offer, jnp.zeros((), jnp.int32), jnp.asarray(state.deadline), jnp.ones(()))
    quoted = quote(part, platform_state(part, state, offer.memory), task)
    static = processor.static_power(Conditions(temperature=now[0]))
    energy = quoted.energy + static * quoted.service
    rise = energy / quoted.service * package.r_junction * -jnp.expm1(-quoted.service / (package.r_junction * package.c_junction))
    return Outlook(
        latency=quoted.latency[0],
        energy=energy[0],
        log_cost=jnp.log(quoted.latency * energy)[0],
        retention=quoted.margin[0],
        capacity=priced.capacity[0],
        heat=((limit.critical - now - rise) / limit.width)[0],
        deadline=jnp.log(jnp.minimum(state.deadline, NEVER) / quoted.latency)[0],
        writing=quoted.writing[0],
        static=static,
    )
