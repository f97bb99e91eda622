"""estimate(): the cost of one operation table on one processor under one set of conditions.

One signature for every processor family. Batches are the caller's `jax.vmap` over any of the arguments.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from costmodel.cost import Bound, Conditions, Cost, OpCost
from costmodel.processors.base import Processor
from costmodel.relax import HARD, Relaxation
from workloads import OpTable


def estimate(hardware: Processor, ops: OpTable, conditions: Conditions = Conditions(), relaxation: Relaxation = HARD) -> Cost:
    """Cost of running `ops` (columns of shape (n_ops,)) once on `hardware`.

    Differentiable in every parameter of `hardware` and in `conditions`, under the given relaxation policy. Pure: jit it, vmap it.
    Raises ValueError for an unusable hardware or table, or for conditions outside their range when they are plain numbers.
    """
    _check(hardware, ops, conditions)
    per_op = hardware.op_costs(ops, conditions, relaxation)
    latency = jnp.sum(per_op.latency)
    dynamic, programming = jnp.sum(per_op.dynamic_energy), jnp.sum(per_op.programming_energy)
    static = hardware.static_power(conditions) * latency
    energy = dynamic + programming + static
    macs = jnp.sum(jnp.where(jnp.asarray(ops.mask), jnp.asarray(ops.macs, float), 0.0))
    safe = jnp.where(latency > 0, latency, 1.0)
    memory = jnp.sum(per_op.memory)
    return Cost(
        latency=latency,
        energy=energy,
        dynamic_energy=dynamic,
        static_energy=static,
        programming_latency=jnp.sum(per_op.programming_latency),
        programming_energy=programming,
        power=energy / safe,
        bytes_moved=jnp.sum(per_op.bytes_moved),
        utilization=macs / safe / hardware.peak_rate(conditions),
        bound=_main_bound(per_op),
        memory=memory,
        written=jnp.sum(per_op.written),
        reads=jnp.sum(per_op.reads * per_op.memory) / jnp.where(memory > 0, memory, 1.0),
        per_op=per_op,
        relaxation=str(relaxation),
    )


def _main_bound(per_op: OpCost) -> Int[Array, ""]:
    """The bound under which most of the latency is spent; the first of equals. Comparisons, because argmax is slow in batches."""
    running = per_op.latency - per_op.programming_latency
    best, most = jnp.full((), Bound.PROGRAMMING), jnp.sum(per_op.programming_latency)
    for bound in (Bound.OVERHEAD, Bound.MEMORY, Bound.COMPUTE):
        share = jnp.sum(jnp.where(per_op.bound == bound, running, 0.0))
        best, most = jnp.where(share >= most, bound, best), jnp.maximum(share, most)
    return best


_RANGES = {
    "temperature": (200.0, 500.0, "K"),
    "frequency": (1e-3, 10.0, "of nominal"),
    "voltage": (0.1, 3.0, "of nominal"),
    "resident": (0.0, 1.0, "of the weights"),
}


def _check(hardware: Processor, ops: OpTable, conditions: Conditions) -> None:
    if not isinstance(hardware, Processor):
        raise ValueError(f"hardware must be a processor (see costmodel.list_hardware()), got {type(hardware).__name__}")
    if not isinstance(ops, OpTable):
        raise ValueError(f"ops must be an OpTable (see workloads.load), got {type(ops).__name__}")
    if jnp.ndim(ops.kind) != 1:
        raise ValueError(f"ops has columns of shape {jnp.shape(ops.kind)}; estimate takes one table, use jax.vmap for a batch")
    if ops.n_ops == 0:
        raise ValueError("ops: a workload needs at least one operation, got 0")
    for name, (lo, hi, unit) in _RANGES.items():
        value = getattr(conditions, name)
        if value is None or isinstance(value, str):
            raise ValueError(f"conditions.{name} must be a number, got {value!r}")
        if isinstance(value, int | float | np.number) and not lo <= value <= hi:
            raise ValueError(f"conditions.{name} = {value:g} {unit} is outside its range [{lo:g}, {hi:g}] {unit}")
