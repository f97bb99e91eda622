"""Cores with scalable vectors (Arm SVE), and their fixed-width predecessor, running matrix products in packed layouts.

A product is packed into tiles, multiplied tile by tile and unpacked: three passes over memory, one after the other,

    t = overhead + max over resources(pack) + max over resources(kernel) + max over resources(unpack) + fused operations

with the cycles of the kernel from `vector_kernels` and traffic and packing from `vector_packing`. Constant weights are packed
beforehand (`prepacked`). Tiles are shared out over `cores`: ceil(tiles / cores) each. Padding is computed and moved like data.

    kernel cycles = ceil(Mt Nt groups / cores) ( Kt cycles of a step + ends of a tile / issue width )

Vector length helps until N0 exceeds N (padding), memory or packing sets the pace: pipes x VL is what counts, never VL alone. One
operation is priced cold: `cold` is the share of operands and results that come from memory and go there; 0 keeps all in caches.
Depthwise convolutions and everything else run along channels without packing. Clock and caches follow the core clock, memory not.

    E_dynamic = V^2 ( instructions e_instruction + padded products e_mac + bytes e_byte + t f P_active )

Calibrated: the instructions around a loop and a tile, on one compiled f32 kernel. Published: widths, pipes, latencies, caches.
Assumed: energies, bandwidth of a core and of L2, dispatch, translation. All times, scaling and energies are predictions of these.

Range: vector lengths of 128 to 2048 bit. Sources: Beysel et al., arXiv 2605.12445 (the layouts); IREE b48a5955.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.cost import Bound, Conditions, OpCost
from costmodel.processors import vector_kernels, vector_packing
from costmodel.processors.base import Processor, as_arrays, masked, other_operations
from costmodel.processors.vector_kernels import Step, Tiling, VectorUnit
from costmodel.processors.vector_packing import Moves
from costmodel.relax import Relaxation
from physics import param
from workloads import OpKind, OpTable

GRAVITON = "WikiChip, AWS Graviton3"
Column = Float[Array, " ops"]
Scalar = Float[Array, ""]


class InstructionCounts(NamedTuple):
    """Instructions that a matrix product executes, by function. All (n_ops,), over all groups and cores."""

    pack_lhs: Column
    pack_rhs: Column
    kernel: Column
    unpack: Column

    @property
    def total(self) -> Column:
        """All four together."""
        return self.pack_lhs + self.pack_rhs + self.kernel + self.unpack


class Phases(NamedTuple):
    """Where the time of every operation goes (s), and what it does. All (n_ops,); 0 for padding."""

    pack: Column
    kernel: Column
    elementwise: Column  # operations fused into the kernel
    unpack: Column
    kernel_memory: Column  # what caches and memory need during the kernel: equal to it where they set the pace
    bytes_moved: Column  # B, between caches and memory
    instructions: Column
    macs: Column  # padding included

    @property
    def total(self) -> Column:
        """All of the time but the dispatch."""
        return self.pack + self.kernel + self.elementwise + self.unpack


class _Plan(NamedTuple):
    """The product of every row: tiles, one step, packing, bytes of the packed operands of all groups."""

    tiles: Tiling
    step: Step
    lhs: Moves
    rhs: Moves
    out: Moves
    lhs_bytes: Column
    rhs_bytes: Column
    sum_bytes: Column
    packed_now: Column  # share of the right operand that is packed in this run
    turned: Array  # the right operand stands on the left of the tiles

    def sides(self, left: Column, right: Column) -> tuple[Column, Column]:
        """What belongs to the left and to the right operand, from what belongs to the two sides of the tiles."""
        return jnp.where(self.turned, right, left), jnp.where(self.turned, left, right)


class _Work(NamedTuple):
    """What the passes over the data do: cycles of one core, bytes through all L2 caches, bytes of memory."""

    cycles: Float[Array, "passes ops"]
    l2: Float[Array, "passes ops"]
    memory: Float[Array, "passes ops"]


class VectorCore(VectorUnit, Processor):
    """One or several cores with vector units; the defaults are one Neoverse V1 core of a Graviton3 in f32."""

    clock: Scalar = param(2.6e9, unit="Hz", lo=1e6, hi=1e10, log=True, source=f"{GRAVITON}: 2600 MHz")
    cores: Scalar = param(1.0, unit="1", lo=1, hi=4096, log=True, source="one core")
    l1_size: Scalar = param(65536.0, unit="B", lo=1e3, hi=1e8, log=True, source=f"{GRAVITON}: 64 KiB L1D")
    l2_size: Scalar = param(2.0**20, unit="B", lo=1e4, hi=1e10, log=True, source=f"{GRAVITON}: 1 MiB per core")
    l2_bandwidth: Scalar = param(32.0, unit="B/cycle", lo=1, hi=1024, log=True, source="assumed: per core")
    core_bandwidth: Scalar = param(20e9, unit="B/s", lo=1e6, hi=1e13, log=True, source="assumed: misses in flight of one core")
    bandwidth: Scalar = param(307.2e9, unit="B/s", lo=1e6, hi=1e14, log=True, source=f"{GRAVITON}: eight channels of DDR5-4800")
    translations: Scalar = param(48.0, unit="1", lo=1, hi=1e5, log=True, source="assumed: first-level translation buffer")
    miss_cycles: Scalar = param(8.0, unit="cycle", lo=0, hi=1000, source="assumed: second-level translation hit")
    overhead: Scalar = param(1e-6, unit="s", lo=0.0, hi=1.0, log=True, source="assumed: dispatch of one operation")
    prepacked: Scalar = param(1.0, unit="1", lo=0, hi=1, source="IREE: encodings of constants are folded at compile time")
    cold: Scalar = param(1.0, unit="1", lo=0, hi=1, source="assumed: every operation starts with cold caches")
    energy_per_instruction: Scalar = param(20e-12, unit="J", lo=0, hi=1e-6, log=True, source="assumed: fetch to commit, 5 nm")
    energy_per_mac: Scalar = param(1e-12, unit="J/MAC", lo=0, hi=1e-6, log=True, source="assumed: f32, 5 nm")
    energy_per_byte: Scalar = param(60e-12, unit="J/B", lo=0, hi=1e-6, log=True, source="assumed: DDR5")
    active_power: Scalar = param(0.3, unit="W", lo=0, hi=1e4, source="assumed: clocks, per processor")
    leakage_power: Scalar = param(0.2, unit="W", lo=0, hi=1e4, source="assumed: per processor")
    packed: bool = eqx.field(static=True, default=True)

    def peak_rate(self, conditions: Conditions = Conditions()) -> Scalar:
        """Highest MAC rate (1/s) at the given clock."""
        return self.cores * self.macs_per_cycle * self.clock * conditions.frequency

    def peak_bandwidth(self, conditions: Conditions = Conditions()) -> Scalar:
        """That of memory (B/s): what the cores can ask for, at most what the chip has."""
        return relax.minimum(self.cores * self.core_bandwidth, self.bandwidth)

    def reference_static_power(self, conditions: Conditions) -> tuple[Scalar, Scalar]:
        """All of the standby power is leakage."""
        return self.leakage_power, jnp.zeros(())

    def op_costs(self, ops: OpTable, conditions: Conditions, relaxation: Relaxation) -> OpCost:
        """Cost of every row; see the module for the law."""
        t, f, v = as_arrays(ops), conditions.frequency, conditions.voltage
        parts, overhead = phases(self, ops, conditions, relaxation), self.overhead / f
        latency = masked(overhead + parts.total, t)
        switched = parts.instructions * self.energy_per_instruction + parts.macs * self.energy_per_mac
        energy = v**2 * (switched + parts.bytes_moved * self.energy_per_byte + latency * f * self.active_power)
        busy = jnp.where(parts.kernel_memory >= parts.kernel, Bound.MEMORY, Bound.COMPUTE)
        around = overhead + parts.pack + parts.unpack
        bound = jnp.where(around > parts.kernel, Bound.OVERHEAD, busy)
        zero = jnp.zeros_like(latency)
        return OpCost(latency, energy, zero, zero, parts.bytes_moved, bound, zero, zero, zero)


def _is_product(t: Any) -> Array:
    """Rows that are matrix products; depthwise convolutions are not."""
    return (t.macs > 0) & (t.kind != OpKind.DEPTHWISE)


def _plan(core: VectorCore, t: Any, policy: Relaxation) -> _Plan:
    # a fixed layout turns a narrow product on its side, a scalable one does not
    turned = jnp.zeros(t.n.shape, bool) if core.scalable else (t.n < core.tile_n) & (t.n < t.m)
    m, n = jnp.where(turned, t.n, t.m), jnp.where(turned, t.m, t.n)
    tiles = vector_kernels.tiling(core, m, n, t.k, policy)
    step = vector_kernels.kernel_step(core, tiles.m0, tiles.n0, policy)
    size, sums = core.data_type.bits / 8, core.data_type.sum_bits / 8
    return _Plan(
        tiles,
        step,
        vector_packing.pack_lhs(core, tiles, policy),
        vector_packing.pack_rhs(core, tiles, step, policy),
        vector_packing.unpack(core, tiles, step, policy),
        lhs_bytes=t.groups * tiles.lhs * size,
        rhs_bytes=t.groups * tiles.rhs * size,
        sum_bytes=t.groups * tiles.sums * sums,
        packed_now=jnp.where(t.weights > 0, 1 - core.prepacked, 1.0),
        turned=turned,
    )


def instruction_counts(core: VectorCore, ops: OpTable, relaxation: Relaxation = relax.HARD) -> InstructionCounts:
    """Instructions of every matrix product in `ops`, both operands packed, by function; 0 for other rows and for padding."""
    t = as_arrays(ops)
    counts = _counts(core, t, _plan(core, t, relaxation))
    return InstructionCounts(*(masked(jnp.where(_is_product(t), count, 0.0), t) for count in counts))


def _counts(core: VectorCore, t: Any, plan: _Plan) -> InstructionCounts:
    per_tile = plan.tiles.k_tiles * plan.step.instructions + vector_kernels.tile_ends(core, plan.step)
    kernel = plan.tiles.m_tiles * plan.tiles.n_tiles * per_tile
    each = (*plan.sides(plan.lhs.instructions, plan.rhs.instructions), kernel, plan.out.instructions)
    return InstructionCounts(*(t.groups * count for count in each))


def phases(core: VectorCore, ops: OpTable, conditions: Conditions = Conditions(), relaxation: Relaxation = relax.HARD) -> Phases:
    """Times of packing, kernel and unpacking of every operation (s), with the traffic (B) and instructions behind them."""
    t = as_arrays(ops)
    products, others = _product_phases(core, t, conditions, relaxation), _other_phases(core, t, conditions, relaxation)
    chosen = (jnp.where(_is_product(t), a, b) for a, b in zip(products, others, strict=True))
    return Phases(*(masked(part, t) for part in chosen))


def _product_phases(core: VectorCore, t: Any, conditions: Conditions, policy: Relaxation) -> Phases:
    plan = _plan(core, t, policy)
    work = (_packed_work if core.packed else _plain_work)(core, t, plan, policy)
    (pack, kernel, unpack), slow = _times(core, conditions, work, policy)
    counts = _counts(core, t, plan)
    executed = counts.kernel
    if core.packed:
        executed = executed + counts.pack_lhs + plan.packed_now * counts.pack_rhs + counts.unpack
    fused = other_operations(t) / (core.lanes * core.pipes * core.cores * core.clock * conditions.frequency)
    macs = t.groups * plan.tiles.sums * plan.tiles.k_tiles * plan.tiles.k0
    return Phases(pack, kernel, fused, unpack, slow[1], jnp.sum(work.memory, axis=0), executed, macs)


def _times(
    core: VectorCore, conditions: Conditions, work: _Work, policy: Relaxation
) -> tuple[Float[Array, "passes ops"], Float[Array, "passes ops"]]:
    """Time of every pass, the slowest of its resources, and of caches and memory alone (s)."""
    rate = core.clock * conditions.frequency
    caches, outside = work.l2 / (core.l2_bandwidth * core.cores * rate), work.memory / core.peak_bandwidth(conditions)
    slow = relax.maximum(caches, outside, policy=policy)
    return relax.maximum(work.cycles / rate, slow, policy=policy), slow


def _passing(core: VectorCore, t: Any, plan: _Plan, policy: Relaxation) -> tuple[Column, Column]:
    """Bytes that enter the L1 caches during the kernel, and the L2 caches a second time or more often."""
    capacity = jnp.stack([core.l1_size, core.l2_size * core.cores])
    one = (plan.lhs_bytes / t.groups, plan.rhs_bytes / t.groups)
    entering = t.groups * vector_packing.traffic(*one, plan.tiles, capacity, policy)
    again = entering[1] - plan.lhs_bytes - plan.rhs_bytes
    return entering[0], jnp.maximum(again, 0.0)  # the soft minimum may lie below what enters at least


def _packed_work(core: VectorCore, t: Any, plan: _Plan, policy: Relaxation) -> _Work:
    """Pack, kernel, unpack. Copies that the caches do not keep go to memory and come back; constants come packed."""
    size, constant = core.data_type.bits / 8, t.weights > 0
    moves = Moves(*(jnp.stack(parts) for parts in zip(plan.lhs, plan.rhs, plan.out, strict=True)))
    left, right, out = vector_packing.move_cycles(core, moves, policy) * t.groups / core.cores
    lhs, rhs = plan.sides(left, right)
    lhs_bytes, rhs_bytes = plan.sides(plan.lhs_bytes, plan.rhs_bytes)
    copies = jnp.stack([lhs_bytes, plan.sum_bytes])
    lhs_out, sums_out = vector_packing.beyond(copies, core.l2_size * core.cores, policy)
    l1, again = _passing(core, t, plan, policy)
    source, result = size * (t.inputs + jnp.where(constant, plan.packed_now * t.weights, 0.0)), size * t.outputs
    constants = jnp.where(constant, core.prepacked * rhs_bytes, 0.0)
    memory = (core.cold * source + lhs_out, core.cold * constants + lhs_out + sums_out + again, core.cold * result + sums_out)
    l2 = (source + lhs_bytes + plan.packed_now * rhs_bytes, l1 + plan.sum_bytes, plan.sum_bytes + result)
    cycles = (lhs + plan.packed_now * rhs, _kernel_cycles(core, t, plan, policy), out)
    return _Work(*(jnp.stack(parts) for parts in (cycles, l2, memory)))


def _plain_work(core: VectorCore, t: Any, plan: _Plan, policy: Relaxation) -> _Work:
    """Nothing but the kernel, on the operands where they are."""
    l1, again = _passing(core, t, plan, policy)
    moved = core.cold * core.data_type.bits / 8 * (t.inputs + t.weights + t.outputs) + again
    zero = jnp.zeros_like(moved)
    parts = (_kernel_cycles(core, t, plan, policy), l1 + plan.sum_bytes, moved)
    return _Work(*(jnp.stack([zero, part, zero]) for part in parts))


def _kernel_cycles(core: VectorCore, t: Any, plan: _Plan, policy: Relaxation) -> Column:
    """Cycles of the core with most tiles."""
    cycles = plan.step.cycles
    if not core.packed:
        stride = t.n * core.data_type.bits / 8
        misses = vector_packing.translation_misses(t.k, stride, core.translations, policy)
        cycles = cycles + plan.tiles.k0 * misses * core.miss_cycles
    per_tile = plan.tiles.k_tiles * cycles + vector_kernels.tile_ends(core, plan.step) / core.issue_width
    rounds = relax.ceil_div(plan.tiles.m_tiles * plan.tiles.n_tiles * t.groups, core.cores, policy)
    return rounds * per_tile


def _other_phases(core: VectorCore, t: Any, conditions: Conditions, policy: Relaxation) -> Phases:
    """Depthwise convolutions along their channels, one load per multiply-accumulate; element by element; data movement."""
    size, sums, lanes = core.data_type.bits / 8, core.data_type.sum_bits, core.lanes
    registers = jnp.stack([t.groups * t.n, other_operations(t), (t.inputs + t.outputs + t.weights) * (size * 8 / sums)])
    channels, elementwise, touched = relax.ceil_div(registers, lanes, policy)
    products = jnp.where(t.macs > 0, t.m * t.k * channels, 0.0)
    memory_ops = relax.maximum(products, touched, policy=policy)
    executed = products + elementwise + memory_ops + touched / vector_packing.UNROLLED * core.loop_instructions
    cycles = relax.maximum(
        (products + elementwise) / core.pipes, memory_ops / core.load_ports, executed / core.issue_width, policy=policy
    )
    moved = size * (t.inputs + t.outputs + t.weights)
    work = _Work(cycles[None] / core.cores, moved[None], core.cold * moved[None])
    (time,), (slow,) = _times(core, conditions, work, policy)
    zero = jnp.zeros_like(time)
    return Phases(zero, time, zero, zero, slow, work.memory[0], executed, products * lanes)
