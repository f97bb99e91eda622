"""A systolic array with its buffers and the memory behind it.

    t = max( groups cycles(M, N, K) / (f clock) + other / (f vector_rate),   bytes / bandwidth )

with the cycles of `systolic_counts`. Bytes are what crosses the memory's bus once each buffer, of which one half works while the
other is filled, has kept what it can. A tensor of S words that is streamed p times past room for B of them is read

    S + (p - 1) max(S - B, 0)

times: a part of size B stays, the rest comes again (the optimum for a cyclic scan). Folds advance along the rows first, so

    os   inputs: M K, ceil(N / C) times; filters: K C of one column fold, ceil(M / R) times; outputs leave once
    ws   inputs: M K, ceil(N / C) times; filters once; sums: M C of one column fold return ceil(K / R) - 1 times
    is   filters: K N, ceil(M / C) times; inputs once; sums: N C of one column fold return ceil(K / R) - 1 times

(a returning sum is written and read at accumulator width). Where something does not fit, the stream of ws and is can also be cut
into pieces whose sums do, or whose sums and streamed operand do; the stationary operand is then loaded once per piece, in
F (pieces - 1) (2 R + C - 2) cycles more than SCALE-Sim's folds. The fastest of the three schedules counts, so that more memory is
never slower. Of a convolution the distinct inputs count, not the im2col matrix. Buffer energy is that of the uncut stream.

    E_dynamic = V^2 ( macs e_mac + buffer words e_buffer + accumulator words e_accumulator + bytes e_memory )

Each group is a product of its own, so a depthwise layer fills one column. Operations without multiply-accumulates run on the
vector unit. Non-smooth points: the ceilings and the maximum (by policy), and max(S - B, 0).
The first fold's fill from memory is not charged; SCALE-Sim's own memory behaviour, stall by stall, is in `systolic_stalls`.
"""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.cost import Bound, Conditions, OpCost
from costmodel.processors.base import Processor, as_arrays, masked, other_operations
from costmodel.processors.systolic_counts import (
    CYCLE_FORMS,
    Accesses,
    Folds,
    buffer_accesses,
    count_systolic_cycles,
    dataflow_index,
    fold_counts,
    systolic_cycles,
)
from costmodel.relax import Relaxation
from physics import param
from physics.params import unknown_name
from workloads import OpKind, OpTable

Scalar = Float[Array, ""]
ASSUMED = "assumed: no published value"
GEMMINI = "Gemmini, Genc et al., DAC 2021: default configuration"


class MemoryWords(NamedTuple):
    """Words that cross the memory's bus for one product: operands in and results out, and sums at accumulator width."""

    inputs: Any
    filters: Any
    outputs: Any
    sums: Any


class Systolic(Processor):
    """A systolic array of `rows` x `columns` multiply-accumulators; the defaults are Gemmini's size."""

    rows: Scalar = param(16.0, unit="1", lo=1, hi=65536, log=True, source=GEMMINI)
    columns: Scalar = param(16.0, unit="1", lo=1, hi=65536, log=True, source=GEMMINI)
    clock: Scalar = param(1e9, unit="Hz", lo=1e3, hi=1e11, log=True, source=GEMMINI)
    input_buffer: Scalar = param(131_072.0, unit="B", lo=1, hi=1e12, log=True, source=GEMMINI + ": half of 256 KiB")
    filter_buffer: Scalar = param(131_072.0, unit="B", lo=1, hi=1e12, log=True, source=GEMMINI + ": half of 256 KiB")
    output_buffer: Scalar = param(65_536.0, unit="B", lo=1, hi=1e12, log=True, source=GEMMINI + ": 64 KiB of accumulators")
    bandwidth: Scalar = param(8e9, unit="B/s", lo=1e3, hi=1e15, log=True, source="DOSA: 8 words of 8 bit per cycle")
    vector_rate: Scalar = param(
        16e9, unit="op/s", lo=1e3, hi=1e16, log=True, source="assumed: one operation per column and cycle"
    )
    operand_bits: Scalar = param(8.0, unit="bit", lo=1, hi=64, source=GEMMINI)
    accumulator_bits: Scalar = param(32.0, unit="bit", lo=1, hi=64, source=GEMMINI)
    energy_per_mac: Scalar = param(0.0, unit="J/MAC", lo=0.0, hi=1e-6, log=True, source=ASSUMED)
    energy_buffer: Scalar = param(0.0, unit="J/word", lo=0.0, hi=1e-6, log=True, source=ASSUMED)
    energy_accumulator: Scalar = param(0.0, unit="J/word", lo=0.0, hi=1e-6, log=True, source=ASSUMED)
    energy_memory: Scalar = param(0.0, unit="J/B", lo=0.0, hi=1e-6, log=True, source=ASSUMED)
    energy_vector: Scalar = param(0.0, unit="J/op", lo=0.0, hi=1e-6, log=True, source=ASSUMED)
    leakage_power: Scalar = param(0.0, unit="W", lo=0.0, hi=1e4, source=ASSUMED)
    standby_power: Scalar = param(0.0, unit="W", lo=0.0, hi=1e4, source=ASSUMED)
    dataflow: str = eqx.field(static=True, default="ws")
    form: str = eqx.field(static=True, default="tool")

    def __check_init__(self) -> None:
        dataflow_index(self.dataflow)
        if self.form not in CYCLE_FORMS:
            raise ValueError(unknown_name("form", self.form, CYCLE_FORMS))

    def peak_rate(self, conditions: Conditions = Conditions()) -> Scalar:
        """One MAC per cell and cycle (1/s)."""
        return self.rows * self.columns * self.clock * conditions.frequency

    def peak_bandwidth(self, conditions: Conditions = Conditions()) -> Scalar:
        """That of the memory (B/s), at any clock."""
        return self.bandwidth

    def reference_static_power(self, conditions: Conditions) -> tuple[Scalar, Scalar]:
        """Leakage, and what does not depend on temperature."""
        return self.leakage_power, self.standby_power

    def op_costs(self, ops: OpTable, conditions: Conditions, relaxation: Relaxation) -> OpCost:
        """Cost of every row; see the module for the law."""
        t, f, v = as_arrays(ops), conditions.frequency, conditions.voltage
        other = other_operations(ops)
        cycles, words = self._best(t, other, conditions, relaxation)
        compute = (cycles / self.clock + other / self.vector_rate) / f
        moved = masked(jnp.where(t.macs > 0, self._bytes(words), self._plain_bytes(t)), t)
        memory = moved / self.bandwidth
        latency = masked(relax.maximum(compute, memory, policy=relaxation), t)
        accesses = buffer_accesses(t.m, t.n, t.k, self.rows, self.columns, self.dataflow, policy=relaxation)
        on_chip = jnp.where(t.macs > 0, t.groups * self._buffer_energy(accesses, t), 0.0)
        energy = t.macs * self.energy_per_mac + on_chip + moved * self.energy_memory + other * self.energy_vector
        bound = jnp.where(memory > compute, Bound.MEMORY, Bound.COMPUTE)
        zero = jnp.zeros_like(latency)
        return OpCost(latency, masked(v**2 * energy, t), zero, zero, moved, bound, zero, zero, zero)

    def memory_words(
        self, ops: OpTable, conditions: Conditions = Conditions(), relaxation: Relaxation = relax.HARD
    ) -> MemoryWords:
        """Words that every row of `ops` moves between memory and buffers, (n_ops,) each; rows without products move none."""
        t = as_arrays(ops)
        words = self._best(t, other_operations(ops), conditions, relaxation)[1]
        return MemoryWords(*(masked(jnp.where(t.macs > 0, word, 0.0), t) for word in words))

    def exact_cycles(self, ops: OpTable) -> np.ndarray:
        """Compute cycles of every row as exact integers, on the host: without memory, and 0 for rows without products."""
        rows, columns = (round(float(x)) for x in (self.rows, self.columns))
        m, n, k, groups = (np.asarray(x, np.int64) for x in (ops.m, ops.n, ops.k, ops.groups))
        cycles = groups * count_systolic_cycles(m, n, k, rows, columns, self.dataflow, self.form)
        return np.where(np.asarray(ops.mask) & (np.asarray(ops.macs) > 0), cycles, 0)

    def _best(self, t: Any, other: Array, conditions: Conditions, relaxation: Relaxation) -> tuple[Array, MemoryWords]:
        """Cycles and words of the fastest schedule."""
        folds = fold_counts(t.m, t.n, t.k, self.rows, self.columns, self.dataflow, relaxation)
        cycles = systolic_cycles(t.m, t.n, t.k, self.rows, self.columns, self.dataflow, self.form, relaxation)
        inputs = jnp.where(t.kind == OpKind.MATMUL, t.m * t.k, jnp.minimum(t.inputs / t.groups, t.m * t.k))
        loading = cycles - folds.rows * folds.columns * folds.stream

        def faster(a: tuple[Array, MemoryWords], b: tuple[Array, MemoryWords]) -> tuple[Array, MemoryWords]:
            first = self._time(*b, other, conditions) < self._time(*a, other, conditions)
            return jax.tree.map(lambda x, y: jnp.where(first, y, x), a, b)

        choices = []
        for pieces, words in self._schedules(inputs, t.k * t.n, t, folds, relaxation):
            taken = jnp.where(t.macs > 0, t.groups * (cycles + (pieces - 1) * loading), 0.0)
            choices.append((taken, MemoryWords(*(t.groups * word for word in words))))
        return functools.reduce(faster, choices)

    def _time(self, cycles: Array, words: MemoryWords, other: Array, conditions: Conditions) -> Array:
        compute = (cycles / self.clock + other / self.vector_rate) / conditions.frequency
        return jnp.maximum(compute, self._bytes(words) / self.bandwidth)

    def _schedules(
        self, inputs: Array, filters: Array, t: Any, folds: Folds, relaxation: Relaxation
    ) -> list[tuple[Array, MemoryWords]]:
        """Pieces of the stream, and words of one group: the stream whole, in pieces whose sums fit, in pieces that fit."""
        room_inputs, room_filters = (self._room(size, self.operand_bits) for size in (self.input_buffer, self.filter_buffer))
        one, outputs, none = jnp.ones_like(inputs), t.m * t.n, jnp.zeros_like(inputs)
        if self.dataflow == "os":
            fold = t.k * jnp.minimum(t.n, self.columns)
            filters = filters + folds.columns * (folds.rows - 1) * jnp.maximum(fold - room_filters, 0.0)
            return [(one, MemoryWords(_scanned(inputs, room_inputs, folds), filters, outputs, none))]
        weights = self.dataflow == "ws"
        streamed, held = (inputs, filters) if weights else (filters, inputs)
        room, kept = (room_inputs, room_filters) if weights else (room_filters, room_inputs)
        sums = folds.stream * jnp.minimum(t.n if weights else t.m, self.columns)
        room_sums = self._room(self.output_buffer, self.accumulator_bits)
        returned = 2 * folds.columns * (folds.rows - 1) * jnp.maximum(sums - room_sums, 0.0)
        fitting = jnp.maximum(relax.ceil_div(sums, room_sums, relaxation), 1.0)
        small = jnp.maximum(relax.ceil_div(streamed, room, relaxation), fitting)
        scanned = _scanned(streamed, room, folds)
        found = []
        for pieces, stream, back in ((one, scanned, returned), (fitting, scanned, none), (small, streamed, none)):
            again = held + (pieces - 1) * jnp.maximum(held - kept, 0.0)
            operands = (stream, again) if weights else (again, stream)
            found.append((pieces, MemoryWords(*operands, outputs, back)))
        return found

    def _room(self, size: Array, bits: Array) -> Array:
        """Words in the working half of a buffer."""
        return size * 4 / bits

    def _bytes(self, words: MemoryWords) -> Array:
        operands = words.inputs + words.filters + words.outputs
        return (operands * self.operand_bits + words.sums * self.accumulator_bits) / 8

    def _plain_bytes(self, t: Any) -> Array:
        return (t.inputs + t.outputs + t.weights) * self.operand_bits / 8

    def _buffer_energy(self, accesses: Accesses, t: Any) -> Array:
        """Energy (J) of one product in the buffers; every output but the first sum is read before it is written."""
        sums = 2 * accesses.outputs - t.m * t.n
        return (accesses.inputs + accesses.filters) * self.energy_buffer + sums * self.energy_accumulator


def _scanned(size: Array, room: Array, folds: Folds) -> Array:
    """Words of an operand that is streamed once for every column fold."""
    return size + (folds.columns - 1) * jnp.maximum(size - room, 0.0)
