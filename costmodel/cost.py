"""What a computation costs: latency, energy, power, bytes moved, and which bound was active.

energy = dynamic + static + programming
dynamic      ~ V**2 (switching), static = leakage at the present temperature over the latency,
programming  = writing weights that are not resident into memory cells
"""

import enum
from typing import NamedTuple

import equinox as eqx
from jaxtyping import Array, Float, Int


class Bound(enum.IntEnum):
    """The resource that sets an operation's latency."""

    COMPUTE = 0
    MEMORY = 1
    OVERHEAD = 2  # launch, pipeline fill
    PROGRAMMING = 3  # writing weights that are not resident


class Conditions(NamedTuple):
    """Under what conditions a processor runs. Scalars, or arrays to be vmapped over."""

    temperature: Float[Array, ""] | float = 318.15  # K, of the junction
    frequency: Float[Array, ""] | float = 1.0  # fraction of the nominal clock
    voltage: Float[Array, ""] | float = 1.0  # fraction of the nominal supply
    resident: Float[Array, ""] | float = 1.0  # fraction of the constant weights already in place


class OpCost(NamedTuple):
    """Cost of every operation of a table; all arrays (n_ops,). Padding rows cost nothing."""

    latency: Float[Array, " ops"]  # s, programming included
    dynamic_energy: Float[Array, " ops"]  # J
    programming_latency: Float[Array, " ops"]  # s
    programming_energy: Float[Array, " ops"]  # J
    bytes_moved: Float[Array, " ops"]  # B
    bound: Int[Array, " ops"]  # a `Bound`
    memory: Float[Array, " ops"]  # weight memory needed, as a fraction of the processor's own (0: it keeps no weights)
    written: Float[Array, " ops"]  # of that memory, what this run writes
    reads: Float[Array, " ops"]  # reads per cell of the operation's weights


class Cost(eqx.Module):
    """Cost of running a whole table once.

    latency (s), energy (J), power (W, mean over the latency), bytes_moved (B)
    dynamic_energy, static_energy, programming_energy (J): add up to energy
    programming_latency (s): part of latency
    utilization: useful MACs per second over the peak rate
    bound: the `Bound` that takes the largest share of the latency
    memory, written: weight memory needed, and written by this run, over the processor's own (above 1 it does not fit)
    reads: per weight cell, mean over the cells in use
    per_op: the same for every operation
    relaxation: the policy the numbers were computed with
    """

    latency: Float[Array, ""]
    energy: Float[Array, ""]
    dynamic_energy: Float[Array, ""]
    static_energy: Float[Array, ""]
    programming_latency: Float[Array, ""]
    programming_energy: Float[Array, ""]
    power: Float[Array, ""]
    bytes_moved: Float[Array, ""]
    utilization: Float[Array, ""]
    bound: Int[Array, ""]
    memory: Float[Array, ""]
    written: Float[Array, ""]
    reads: Float[Array, ""]
    per_op: OpCost
    relaxation: str = eqx.field(static=True)


UNITS = {
    "latency": "s", "energy": "J", "dynamic_energy": "J", "static_energy": "J", "programming_latency": "s",
    "programming_energy": "J", "power": "W", "bytes_moved": "B", "utilization": "1", "bound": "Bound", "memory": "1",
    "written": "1", "reads": "1",
}  # fmt: skip
