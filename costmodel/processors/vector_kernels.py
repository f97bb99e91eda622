"""The inner kernel of a packed matrix product on vector registers: tile sizes, registers, instructions and cycles of one step.

A product (M, N, K) is cut into tiles of M0 x N0 sums that stay in registers while the kernel walks along K in steps of K0.
With scalable vectors N0 grows with the vector length VL, as in IREE's scalable layouts (base: 128 bits), M0 and K0 do not:

    N0 = n0 VL / 128,      a step of one tile takes
    a = ceil(M0 / r) ceil(N0 r S / VL)     multiply-accumulate instructions, one per accumulator register (sums of S bits)
    l = ceil(max(M0, r) K0 b / 128)        left-hand quadwords, replicated along the vector and used lane by lane,
                                           or M0 of one value each when they are broadcast as they are loaded
    q = N0 K0 b / VL                       right-hand registers (operands of b bits)
    s = max(0, a + l + q - registers)      accumulators that do not fit: loaded and stored again in every step

r = 2 rows share an accumulator of the matrix-multiply instructions (2 x 2 sums in 128 bits), else 1. The cycles of a step are
the largest of

    a / pipes,   latency of dependent accumulations,   (l + q + s) / load ports,   s / store ports,   instructions / width

so that FMLA of 9 cycles on two pipes keeps sixteen accumulators at 16 / 18 of the peak. Non-smooth points: the ceilings and the
maxima, by the relaxation policy.

Sources: IREE b48a5955, CPUEncodingExternalModels.cpp (tiles); Arm Architecture Reference Manual (instructions);
OpenBLAS #3492 (the latency bound, observed). Loop overheads: read from the code GCC 12 makes of an f32 kernel.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from costmodel import relax
from costmodel.relax import Relaxation
from physics import ParameterTree, param

Column = Float[Array, "*ops"]
Scalar = Float[Array, ""]
BASE = 128.0  # bits: the shortest vector, and the granule of quadword loads and matrix-multiply instructions
LLVM = "LLVM AArch64SchedNeoverseV1.td"
IREE = "IREE b48a5955, CPUEncodingExternalModels.cpp"
GCC = "GCC 12.2 -O2, inner loop of a packed f32 kernel (tests/benchmarks/sve)"
REGISTERS = 32.0  # architectural vector registers of AArch64


class DataType(NamedTuple):
    """How one operand type is multiplied: widths of operands and sums (bits), products summed by a lane, rows per accumulator."""

    bits: float
    sum_bits: float
    depth: float
    rows: float
    instruction: str


DATA_TYPES = {
    "f64": DataType(64.0, 64.0, 1.0, 1.0, "FMLA"),
    "f32": DataType(32.0, 32.0, 1.0, 1.0, "FMLA"),
    "f16": DataType(16.0, 16.0, 1.0, 1.0, "FMLA"),
    "bf16": DataType(16.0, 32.0, 4.0, 2.0, "BFMMLA"),
    "bf16-dot": DataType(16.0, 32.0, 2.0, 1.0, "BFDOT"),
    "i8": DataType(8.0, 32.0, 8.0, 2.0, "SMMLA"),
    "i8-dot": DataType(8.0, 32.0, 4.0, 1.0, "SDOT"),
}


class VectorUnit(ParameterTree):
    """What a kernel sees of a core: vectors, pipes and ports, and the tiles it is compiled for. Defaults: Neoverse V1, f32."""

    vector_bits: Scalar = param(256.0, unit="bit", lo=128, hi=2048, log=True, source="Neoverse V1: 256-bit SVE")
    pipes: Scalar = param(2.0, unit="1", lo=1, hi=16, log=True, source=f"{LLVM}: SVE FMLA on V0, V1")
    fma_latency: Scalar = param(2.0, unit="cycle", lo=1, hi=20, log=True, source=f"{LLVM}: 4, late forwarding of the sum 2")
    load_ports: Scalar = param(2.0, unit="1/cycle", lo=0.5, hi=8, log=True, source=f"{LLVM}: L0, L1")
    store_ports: Scalar = param(2.0, unit="1/cycle", lo=0.5, hi=8, log=True, source=f"{LLVM}: L0, L1")
    issue_width: Scalar = param(8.0, unit="1/cycle", lo=1, hi=16, log=True, source=f"{LLVM}: IssueWidth")
    registers_per_load: Scalar = param(1.0, unit="1", lo=1, hi=2, source="SVE: one register per load")
    tile_m: Scalar = param(8.0, unit="1", lo=1, hi=32, log=True, source=f"{IREE}: M0")
    tile_n: Scalar = param(8.0, unit="1", lo=1, hi=64, log=True, source=f"{IREE}: N0 of 128 bits")
    loop_instructions: Scalar = param(5.0, unit="1", lo=0, hi=64, source=f"calibrated: {GCC}")
    tile_instructions: Scalar = param(10.0, unit="1", lo=0, hi=1000, source=f"calibrated: {GCC}")
    move_instructions: Scalar = param(2.0, unit="1", lo=1, hi=1000, log=True, source="a load and a store for every unit packed")
    row_instructions: Scalar = param(3.0, unit="1", lo=0, hi=64, source="a row's number, clamped to the edge, and its address")
    data: str = eqx.field(static=True, default="f32")
    scalable: bool = eqx.field(static=True, default=True)
    broadcast: str = eqx.field(static=True, default="lane")

    def __check_init__(self) -> None:
        for name, known in (("data", tuple(DATA_TYPES)), ("broadcast", ("lane", "load"))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{type(self).__name__}.{name} = {value!r} is not one of {', '.join(known)}")

    @property
    def data_type(self) -> DataType:
        """Widths and instruction of the operand type."""
        return DATA_TYPES[self.data]

    @property
    def lanes(self) -> Scalar:
        """Sums that one register holds."""
        return self.vector_bits / self.data_type.sum_bits

    @property
    def macs_per_cycle(self) -> Scalar:
        """Multiply-accumulates per cycle with every pipe busy and every lane in use."""
        return self.pipes * self.lanes * self.data_type.depth

    @property
    def tile_columns(self) -> Scalar:
        """N0: columns of a tile."""
        return self.tile_n * self.vector_bits / BASE if self.scalable else self.tile_n


class Tiling(NamedTuple):
    """How a product is cut: tile sizes, and how many tiles cover each dimension. All (n_ops,) or scalar."""

    m0: Column
    n0: Column
    k0: Scalar
    m_tiles: Column
    n_tiles: Column
    k_tiles: Column

    @property
    def lhs(self) -> Column:
        """Elements of the packed left operand, padding included."""
        return self.m_tiles * self.m0 * self.k_tiles * self.k0

    @property
    def rhs(self) -> Column:
        """Elements of the packed right operand, padding included."""
        return self.n_tiles * self.n0 * self.k_tiles * self.k0

    @property
    def sums(self) -> Column:
        """Elements of the packed result, padding included."""
        return self.m_tiles * self.m0 * self.n_tiles * self.n0


class Step(NamedTuple):
    """One step of one tile: registers in use and what the step executes. All (n_ops,)."""

    accumulators: Column
    lhs_loads: Column  # registers
    rhs_loads: Column  # registers
    spilled: Column  # accumulators loaded and stored again
    instructions: Column
    cycles: Column
    rhs_row: Column  # registers of one row of the tile's sums


def tiling(unit: VectorUnit, m: Column, n: Column, k: Column, policy: Relaxation = relax.HARD) -> Tiling:
    """Tiles of products of shape (m, n, k). Tiles of few rows take the smallest of 1, 2, 4 that holds them, as IREE's do."""
    narrow = jnp.where(m <= 1, 1.0, jnp.where(m <= 2, 2.0, jnp.where(m <= 4, 4.0, unit.tile_m)))
    m0 = jnp.minimum(narrow, unit.tile_m)
    n0 = jnp.broadcast_to(unit.tile_columns, m0.shape)
    k0 = jnp.asarray(unit.data_type.depth)
    sizes, tiles = jnp.stack([m, n, k]), jnp.stack([m0, n0, jnp.broadcast_to(k0, m0.shape)])
    return Tiling(m0, n0, k0, *relax.ceil_div(sizes, tiles, policy))


def kernel_step(unit: VectorUnit, m0: Column, n0: Column, policy: Relaxation = relax.HARD) -> Step:
    """Registers, instructions and cycles of one step of a tile of m0 x n0 sums; the law stands above."""
    t = unit.data_type
    row_bits = jnp.stack([n0 * t.sum_bits, n0 * t.rows * t.sum_bits, n0 * t.depth * t.bits])
    row, blocks, rhs = relax.ceil_div(row_bits, unit.vector_bits, policy)
    accumulators = blocks * (m0 if t.rows == 1.0 else relax.ceil_div(m0, t.rows, policy))
    lhs = m0
    if unit.broadcast == "lane":
        lhs = relax.ceil_div(relax.maximum(m0, t.rows) * t.depth * t.bits, BASE, policy)
    live = accumulators + rhs + (lhs if unit.broadcast == "lane" else 1.0)
    spilled = relax.maximum(live, REGISTERS, policy=policy) - REGISTERS
    loads = (lhs + rhs) / unit.registers_per_load + spilled
    instructions = accumulators + loads + spilled + unit.loop_instructions
    cycles = relax.maximum(
        accumulators / unit.pipes,
        jnp.broadcast_to(unit.fma_latency, accumulators.shape),
        (lhs + rhs + spilled) / unit.load_ports,
        spilled / unit.store_ports,
        instructions / unit.issue_width,
        policy=policy,
    )
    return Step(accumulators, lhs, rhs, spilled, instructions, cycles, row)


def tile_ends(unit: VectorUnit, step: Step) -> Column:
    """Instructions that start and end a tile: clear and store the accumulators, put 2 x 2 blocks in order, the loop's own."""
    return step.accumulators * (1.0 + unit.data_type.rows) + unit.tile_instructions
