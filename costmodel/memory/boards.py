"""FPGA boards with one vector-matrix machine each: latencies of single operations, a memory, a link to a host.

Cycles of one instruction (AICrossSim/PLENA_Simulator, its analytic profiler; nothing overlaps, a program costs the sum):

    M_*           systolic + mlen (result written out: 1)    V_ADD, V_SUB  add     V_MUL  mul     V_EXP, V_RECI  exp, reciprocal
    V_RED_MAX/SUM maximum, sum                               S_*_FP        basic, exp, sqrt, reciprocal           others 1
    H_PREFETCH_V 25, H_PREFETCH_M 400, H_STORE 25 cycles as published

The published 400 cycles are 4 KiB at 1 GB/s: without the blocks of scales (8 KiB really move at mlen 64) and whatever the row's
length (80 KiB at mlen 256: 8,192 cycles). `memory="bytes"`, the default, counts rows x row bytes x clock / bandwidth instead.
On an operation table a product is cut into tiles of blen x mlen x blen, one matrix instruction each, M and N rounded up.

nexys_video   XC7A200T, 100 MHz, 512 MiB DDR3 x16, host over USB 2 (FT2232H). The source says 38 Mbit/s = 4.75 MB/s; a note of the
              same authors uses 38 MB/s. `host_bandwidth` is a parameter for that reason.
custom_a7     the same chip and memory behind PCIe Gen2 x4: 2.0 GB/s, 1.5 sustained.
v80           400 MHz, 32 GiB HBM2e at 819.2 GB/s. The source gives no host link; PCIe Gen5 x8, 31.5 GB/s x 0.75, is assumed.

The source's memory peaks at 1.6 GB/s = 800 MT/s x 2 B; it calls that DDR3-1600, which would be 3.2 GB/s.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.cost import Bound, Conditions, OpCost
from costmodel.memory.formats import BlockFormat, load_format
from costmodel.processors.base import Processor, as_arrays, masked, other_operations
from costmodel.relax import Relaxation
from physics import param, unknown_name, with_sources
from workloads import OpKind, OpTable

SOURCE = "AICrossSim/PLENA_Simulator, board_configs, branch feat/board-memory-regimes"
RTL = SOURCE + ": pipeline depths of its RTL"
ASSUMED = "assumed: no published value"


def _cycles(default: float):
    return param(default, unit="cycle", lo=0.0, hi=1e4, source=RTL)


class Board(Processor):
    """A systolic array of blen x blen with vectors of mlen, and what its instructions, its memory and its link need."""

    clock: Float[Array, ""] = param(100e6, unit="Hz", lo=1e6, hi=1e10, log=True, source=SOURCE)
    mlen: Float[Array, ""] = param(256.0, unit="1", lo=1.0, hi=65536.0, source=SOURCE + ": clm60m build")
    blen: Float[Array, ""] = param(64.0, unit="1", lo=1.0, hi=65536.0, source=SOURCE + ": clm60m build")
    capacity: Float[Array, ""] = param(2.0**29, unit="B", lo=1.0, hi=1e15, log=True, source=SOURCE)
    memory_peak: Float[Array, ""] = param(1.6e9, unit="B/s", lo=1.0, hi=1e15, log=True, source=SOURCE)
    bandwidth: Float[Array, ""] = param(1e9, unit="B/s", lo=1.0, hi=1e15, log=True, source=SOURCE)
    host_bandwidth: Float[Array, ""] = param(1.5e9, unit="B/s", lo=1.0, hi=1e15, log=True, source=SOURCE)
    systolic: Float[Array, ""] = _cycles(8.0)
    vector_add: Float[Array, ""] = _cycles(9.0)
    vector_mul: Float[Array, ""] = _cycles(7.0)
    vector_exp: Float[Array, ""] = _cycles(15.0)
    vector_reciprocal: Float[Array, ""] = _cycles(8.0)
    vector_max: Float[Array, ""] = _cycles(4.0)
    vector_sum: Float[Array, ""] = _cycles(30.0)
    vector_shift: Float[Array, ""] = _cycles(1.0)
    vector_scan: Float[Array, ""] = _cycles(9.0)
    scalar_basic: Float[Array, ""] = _cycles(1.0)
    scalar_exp: Float[Array, ""] = _cycles(2.0)
    scalar_sqrt: Float[Array, ""] = _cycles(2.0)
    scalar_reciprocal: Float[Array, ""] = _cycles(2.0)
    scalar_int: Float[Array, ""] = _cycles(1.0)
    prefetch_vector: Float[Array, ""] = _cycles(25.0)
    prefetch_matrix: Float[Array, ""] = _cycles(400.0)
    store_vector: Float[Array, ""] = _cycles(25.0)
    vector_rows: Float[Array, ""] = param(4.0, unit="1", lo=1.0, hi=65536.0, source=SOURCE + ": rows per vector prefetch")
    operand_bits: Float[Array, ""] = param(9.0, unit="bit", lo=1.0, hi=64.0, source=SOURCE + ": MXFP8 in blocks of 8")
    active_power: Float[Array, ""] = param(7.5, unit="W", lo=0.0, hi=1e4, source=SOURCE + ": design power")
    idle_power: Float[Array, ""] = param(0.5, unit="W", lo=0.0, hi=1e4, source=ASSUMED)

    def peak_rate(self, conditions: Conditions = Conditions()) -> Float[Array, ""]:
        """Highest MAC rate (1/s): blen x mlen x blen products per matrix instruction."""
        macs = self.blen**2 * self.mlen
        return macs / (self.systolic + self.mlen) * self.clock * conditions.frequency

    def peak_bandwidth(self, conditions: Conditions = Conditions()) -> Float[Array, ""]:
        """Rate of the board's memory (B/s); it does not follow the core clock."""
        return self.bandwidth

    def reference_static_power(self, conditions: Conditions) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """All of the standby power is leakage."""
        return self.idle_power, jnp.zeros(())

    def op_costs(self, ops: OpTable, conditions: Conditions, relaxation: Relaxation) -> OpCost:
        """Cost of every row: instructions and transfers one after the other."""
        t, f = as_arrays(ops), self.clock * conditions.frequency
        tiles = relax.ceil_div(t.m, self.blen, relaxation) * relax.ceil_div(t.n, self.blen, relaxation)
        products = tiles * relax.ceil_div(t.k, self.mlen, relaxation) * (self.systolic + self.mlen)
        matrix = jnp.where(t.macs > 0, t.groups * (products + tiles), 0.0)
        simple = jnp.where(t.kind == OpKind.REDUCE, self.vector_sum, self.vector_add)
        vectors = (other_operations(ops) * simple + t.transcendentals * (self.vector_exp - simple)) / self.mlen
        compute = (matrix + jnp.maximum(vectors, 0.0)) / f
        moved = masked((t.inputs + t.outputs + t.weights) * (self.operand_bits / 8), t)
        memory = moved / self.bandwidth
        latency = masked(compute + memory, t)
        energy = masked(conditions.voltage**2 * latency * conditions.frequency * self.active_power, t)
        bound = jnp.where(memory > compute, Bound.MEMORY, Bound.COMPUTE)
        zero = jnp.zeros_like(latency)
        return OpCost(latency, energy, zero, zero, moved, bound, zero, zero, zero)

    def instruction_cycles(
        self, opcode: str, memory: Literal["bytes", "published"] = "bytes", fmt: BlockFormat | None = None
    ) -> Float[Array, ""]:
        """Cycles of one instruction by its opcode; transfers by bytes of `fmt` (MXFP8 in blocks of 8) or as published."""
        if opcode.startswith("H_"):
            return self._transfer(opcode, memory, fmt or load_format("plena-mxfp8"))
        if opcode.startswith("M_"):
            return jnp.ones(()) if opcode.endswith("_WO") else self.systolic + self.mlen
        for prefix, name in CYCLES.items():
            if opcode.startswith(prefix):
                return getattr(self, name)
        return jnp.ones(())

    def _transfer(self, opcode: str, memory: str, fmt: BlockFormat) -> Array:
        matrix = opcode.startswith("H_PREFETCH_M")
        if memory == "published":
            return self.prefetch_matrix if matrix else self.store_vector if "STORE" in opcode else self.prefetch_vector
        rows = self.mlen if matrix else self.vector_rows
        return jnp.ceil(rows * fmt.row_traffic(int(self.mlen)) * self.clock / self.bandwidth * (1 - 1e-6))

    def program_cycles(self, counts: Mapping[str, int], memory: Literal["bytes", "published"] = "bytes") -> float:
        """Cycles of a program by how often each opcode runs; nothing overlaps (the source's rule). Host-side, exact."""
        return sum(count * float(self.instruction_cycles(opcode, memory)) for opcode, count in counts.items())


CYCLES = {  # prefix of an opcode: field
    "V_ADD": "vector_add", "V_SUB": "vector_add", "V_MUL": "vector_mul", "V_EXP": "vector_exp", "V_RECI": "vector_reciprocal",
    "V_RED_MAX": "vector_max", "V_RED_SUM": "vector_sum", "V_SHFT": "vector_shift", "V_PS": "vector_scan",
    "S_EXP_FP": "scalar_exp", "S_SQRT_FP": "scalar_sqrt", "S_RECI_FP": "scalar_reciprocal", "S_MAP_V_FP": "mlen",
    "S_ADD_FP": "scalar_basic", "S_SUB_FP": "scalar_basic", "S_MUL_FP": "scalar_basic", "S_MAX_FP": "scalar_basic",
    "S_ADD_INT": "scalar_int", "S_ADDI_INT": "scalar_int", "S_SUB_INT": "scalar_int", "S_MUL_INT": "scalar_int",
    "S_LUI_INT": "scalar_int",
}  # fmt: skip
EARLIER_LATENCIES = {  # before pull request 90: physics.replace(board, EARLIER_LATENCIES)
    "systolic": 0.0, "vector_add": 2.0, "vector_mul": 5.0, "vector_exp": 6.0, "vector_reciprocal": 7.0, "vector_sum": 20.0,
}  # fmt: skip


def nexys_video() -> Board:
    """Digilent Nexys Video: Artix-7 behind USB 2."""
    return with_sources(Board(), {"host_bandwidth": (4.75e6, SOURCE + ": FT2232H at 38 Mbit/s (elsewhere 38 MB/s)")})


def custom_a7() -> Board:
    """The same Artix-7 behind PCIe Gen2 x4."""
    return with_sources(Board(), {"host_bandwidth": (1.5e9, SOURCE + ": 2.0 GB/s in theory")})


def v80() -> Board:
    """AMD Alveo V80 with HBM2e."""
    fast = {"systolic": 0, "vector_add": 1, "vector_mul": 1, "vector_exp": 1, "vector_reciprocal": 2, "vector_sum": 8}
    fast |= {"scalar_exp": 1, "scalar_sqrt": 1, "scalar_reciprocal": 1}
    numbers = {name: (float(value), SOURCE + ", v80") for name, value in fast.items()} | {
        "clock": (400e6, SOURCE + ", v80"),
        "capacity": (2.0**35, SOURCE + ", v80"),
        "memory_peak": (819.2e9, SOURCE + ", v80"),
        "bandwidth": (819.2e9, SOURCE + ", v80: peak, no effective figure"),
        "host_bandwidth": (0.75 * 31.5e9, "assumed: PCIe Gen5 x8, 0.75 sustained"),
        "active_power": (75.0, SOURCE + ", v80: design power"),
    }
    return with_sources(Board(), numbers)


BOARDS: dict[str, Callable[[], Board]] = {"nexys_video": nexys_video, "custom_a7": custom_a7, "v80": v80}


def load_board(name: str) -> Board:
    """The named board, a processor for `estimate` and a memory and link for `replay`; ValueError if there is none."""
    if name not in BOARDS:
        raise ValueError(unknown_name("board", name, BOARDS))
    return BOARDS[name]()


def list_boards() -> tuple[str, ...]:
    """Names that `load_board` takes."""
    return tuple(BOARDS)
