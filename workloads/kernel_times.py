"""How long each kind of task takes on each kind of processor, and what handing data from one processor to another takes.

    duration(i, p)       = times[kind of i, unit kind of p]
    transfer(i, j, p, q) = latency[p, q] + data[i, j] / bandwidth[p, q]   for p != q, else 0

Whoever has a better model of the durations (a cost model, measurements) hands in its own array of shape (tasks, processors).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from workloads.graphs import TaskGraph

UNIT_KINDS = ("cpu", "gpu")
# CPU, GPU; the unit is not published. READYS (public code of 2021-11, env/utils.py).
READYS = {
    "cholesky": {"potrf": (18, 11), "syrk": (57, 2), "trsm": (52, 8), "gemm": (95, 3)},
    "lu": {"getrf": (18, 11), "bmod": (95, 3), "bdiv": (52, 8), "fwd": (52, 8)},
    "qr": {"geqrt": (4, 3), "tsqrt": (6, 3), "ormqr": (6, 1), "tsmqr": (10, 1)},
}


class KernelTimes(eqx.Module):
    """A table of execution times (s, or any one unit of time), one row per kind of task, one column per kind of processor.

    Raises ValueError for a shape that does not fit the names, repeated names, or a time that is not positive (inf: the kind
    does not run there); concrete values only, traced ones are passed through.
    """

    times: Float[Array, "kinds unit_kinds"]
    kinds: tuple[str, ...] = eqx.field(static=True)
    unit_kinds: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, times: Any, kinds: Sequence[str], unit_kinds: Sequence[str] = UNIT_KINDS) -> None:
        self.times = jnp.asarray(times, dtype=float)
        self.kinds, self.unit_kinds = tuple(kinds), tuple(unit_kinds)
        if self.times.shape != (len(set(self.kinds)), len(set(self.unit_kinds))):
            raise ValueError(f"times has shape {self.times.shape}; expected one row each of {kinds}, one column of {unit_kinds}")
        if not isinstance(self.times, Tracer) and not (np.asarray(self.times) > 0).all():
            raise ValueError(f"times = {np.asarray(self.times).tolist()} s must be positive")


class Machine(eqx.Module):
    """Processors by kind, and the links between each two of them; the same processor hands data to itself in no time.

    Raises ValueError for no processors, shapes that do not agree, a bandwidth that is not positive (inf: costs nothing) or
    a latency that is negative or infinite; concrete values only, traced ones are passed through.
    """

    unit_kind: Int[Array, " processors"]  # index into `unit_kinds` of a KernelTimes
    bandwidth: Float[Array, "processors processors"]  # bytes/s
    latency: Float[Array, "processors processors"]  # s

    def __init__(self, unit_kind: Any, bandwidth: Any = np.inf, latency: Any = 0.0) -> None:
        self.unit_kind = jnp.asarray(unit_kind, jnp.int32)
        n = self.unit_kind.size
        if self.unit_kind.ndim != 1 or not n:
            raise ValueError(f"unit_kind has shape {self.unit_kind.shape}; expected one entry for each of one or more processors")
        self.bandwidth, self.latency = _square("bandwidth", bandwidth, n), _square("latency", latency, n)
        if any(isinstance(field, Tracer) for field in (self.bandwidth, self.latency)):
            return
        if not (np.asarray(self.bandwidth) > 0).all():
            raise ValueError(f"bandwidth = {np.asarray(self.bandwidth).tolist()} bytes/s must be positive")
        if not (np.isfinite(self.latency) & (np.asarray(self.latency) >= 0)).all():
            raise ValueError(f"latency = {np.asarray(self.latency).tolist()} s must be finite and not negative")

    @property
    def n_processors(self) -> int:
        """Number of processors."""
        return self.unit_kind.shape[0]


def ready_times(name: str | None = None) -> KernelTimes:
    """READYS's integer times of "cholesky", "lu" or "qr" on CPU and GPU; without a name all three tables in one."""
    if name is not None and name not in READYS:
        raise ValueError(f"unknown table of times {name!r}; known: {', '.join(READYS)}")
    rows = {kind: row for table in READYS if name in (None, table) for kind, row in READYS[table].items()}
    return KernelTimes(list(rows.values()), tuple(rows))


def machine(*, cpus: int = 0, gpus: int = 0, bandwidth: Any = np.inf, latency: Any = 0.0) -> Machine:
    """A machine of `gpus` GPUs followed by `cpus` CPUs (READYS's order) with the same link between each two."""
    for label, count in (("cpus", cpus), ("gpus", gpus)):
        if count < 0:
            raise ValueError(f"{label} = {count} must not be negative")
    return Machine([1] * gpus + [0] * cpus, bandwidth, latency)


def durations(graph: TaskGraph, times: KernelTimes, machine: Machine) -> Float[Array, "tasks processors"]:
    """Time of every task on every processor (s); 0 for padding. Raises ValueError for a kind that `times` does not know."""
    if unknown := [kind for kind in graph.kinds if kind not in times.kinds]:
        raise ValueError(f"kind {unknown[0]!r} has no times; known: {', '.join(times.kinds)}")
    rows = jnp.asarray([times.kinds.index(kind) for kind in graph.kinds], jnp.int32)
    table = times.times[rows][:, machine.unit_kind]
    return jnp.where(graph.mask[:, None], table[graph.kind], 0.0)


def transfer(machine: Machine, data: Any, source: Any, target: Any) -> Array:
    """Time (s) to hand `data` (bytes) from processor `source` to `target`; the three are broadcast against each other."""
    cost = machine.latency[source, target] + data / machine.bandwidth[source, target]
    return jnp.where(jnp.equal(source, target), 0.0, cost)


def communication(graph: TaskGraph, machine: Machine) -> Float[Array, "tasks tasks processors processors"]:
    """Time (s) from task i on processor p to task j on processor q, as [i, j, p, q]; 0 without an edge.

    Of tasks^2 processors^2 entries: for graphs of more than a few dozen tasks use `transfer` where it is needed.
    """
    units = jnp.arange(machine.n_processors)
    cost = transfer(machine, graph.data[:, :, None, None], units[:, None], units)
    return jnp.where(graph.edges[:, :, None, None], cost, 0.0)


def _square(name: str, value: Any, n: int) -> Array:
    array = jnp.asarray(value, dtype=float)
    if array.shape not in ((), (n, n)):
        raise ValueError(f"{name} has shape {array.shape}; expected a number or ({n}, {n})")
    return jnp.broadcast_to(array, (n, n))
