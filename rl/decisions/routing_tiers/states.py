"""The state of the hardware as a router sees it: how warm, how busy, awake or asleep, which weights are in place."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from costmodel import CellState, Platform, PlatformState
from costmodel.platform import LONG_IDLE
from costmodel.weights import JUST_WRITTEN
from physics import LogTotal, Wear, unknown_name

RANGES = {  # field: lowest, highest, unit
    "temperature": (200.0, 500.0, "K"),
    "backlog": (0.0, 1e6, "s"),
    "awake": (0.0, 1.0, "of 1"),
    "resident": (0.0, 1.0, "of 1"),
    "age": (0.0, 1e12, "s"),
    "deadline": (0.0, float("inf"), "s"),
}
Values = Any  # a number or an array of numbers


class HardwareState(NamedTuple):
    """Numbers, or arrays with one last axis of processors (P, alphabetical) where the state may differ between them.

    A batch of N states has arrays (N, P), or (N, 1) where all processors are alike, and (N,) in the last three fields.
    """

    temperature: Values  # K, of every junction
    backlog: Values = 0.0  # s of work that waits on every processor
    awake: Values = 1.0  # 1 where a processor without backlog is awake, 0 where it sleeps
    resident: Values = 1.0  # 1 if the task's weights are in the memory cells
    age: Values = 0.0  # s since they were written, at the present temperature
    deadline: Values = float("inf")  # s until the result is due

    @classmethod
    def from_temperature(cls, T: Values, **fields: Values) -> "HardwareState":
        """All junctions at `T` degrees Celsius; further fields by name. ValueError for what is unknown or out of range."""
        if np.asarray(T).dtype.kind not in "fiu":
            raise ValueError(f"T must be a temperature in degrees Celsius, got {T!r}")
        others = cls._fields[1:]
        if unknown := [name for name in fields if name not in others]:
            raise ValueError(unknown_name("field of HardwareState", unknown[0], others))
        return checked(cls(temperature=np.asarray(T) + 273.15, **fields))


def checked(state: Any) -> HardwareState:
    """`state` itself; ValueError if it is no HardwareState, or naming the first field that is no number or outside its range."""
    if not isinstance(state, HardwareState):
        raise ValueError(f"hw must be a HardwareState, got {state!r}; HardwareState.from_temperature(45.0) makes one")
    for name, value in zip(state._fields, state, strict=True):
        lo, hi, unit = RANGES[name]
        numbers = np.asarray(value)
        if numbers.dtype.kind not in "fiub" or not numbers.size:
            raise ValueError(f"HardwareState.{name} must be numbers, got {value!r}")
        for number in (numbers.min(), numbers.max()):
            if not lo <= number <= hi:
                raise ValueError(f"HardwareState.{name} = {number:g} {unit} is outside its range [{lo:g}, {hi:g}] {unit}")
    return state


def spread(state: HardwareState, processors: int) -> HardwareState:
    """One state with arrays (P,) in the first three fields; ValueError for another number of processors."""
    alike = [_spread(name, value, (processors,)) for name, value in zip(state._fields[:3], state[:3], strict=True)]
    alone = [_spread(name, value, ()) for name, value in zip(state._fields[3:], state[3:], strict=True)]
    return HardwareState(*(jnp.asarray(value, float) for value in (*alike, *alone)))


def columns(state: HardwareState, processors: int, count: int) -> HardwareState:
    """A batch of `count` states with arrays (P, N) and (N,), views of what was given; ValueError for shapes that do not fit."""
    names, shape = state._fields, (count, processors)
    rows = [np.asarray(value) for value in state[:3]]
    rows = [value[:, None] if value.shape == (count,) != (processors,) else value for value in rows]
    alike = [_spread(name, value, shape).T for name, value in zip(names, rows, strict=False)]
    return HardwareState(*alike, *(_spread(name, value, (count,)) for name, value in zip(names[3:], state[3:], strict=True)))


def _spread(name: str, value: Values, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.broadcast_to(np.asarray(value), shape)
    except ValueError:
        raise ValueError(f"HardwareState.{name} has shape {np.shape(value)}, expected one number or {shape}") from None


def platform_state(platform: Platform, state: HardwareState, memory: Float[Array, " processors"]) -> PlatformState:
    """A spread-out `state` as the platform's own, one network's weights taking the share `memory` of every chip.

    Temperatures stand above an ambient of 0 K: nothing that is asked of this state lets time pass.
    """
    temperature, backlog, awake, resident, age, _ = state
    cells = {}
    for name in platform.cell_names:
        i, cell = platform.names.index(name), platform.chip(name).cell
        lost = jnp.where(age > 0, cell.log_loss(temperature[i], jnp.maximum(age, 1e-30)), JUST_WRITTEN)
        rows = (resident[None], memory[i][None], jnp.zeros(1))
        cells[name] = CellState(*rows, LogTotal.start(lost[None]), Wear.zero())
    zeros = jnp.zeros_like(backlog)
    idle = jnp.where((backlog > 0) | (awake > 0), 0.0, LONG_IDLE)
    theta = jnp.concatenate([temperature, jnp.zeros(2)])
    return PlatformState(jnp.zeros(()), theta, backlog, idle, zeros, cells, jnp.ones_like(zeros) if platform.clocks else None)
