"""Named vector cores: what is published of four Arm cores with SVE, and the same cores with 128-bit NEON.

neoverse-v1   Graviton3: 2 x 256-bit SVE or 4 x 128-bit NEON, the same peak
neoverse-v2   Grace: 4 x 128 bit either way
neoverse-n2   Yitian 710: 2 x 128 bit either way
a64fx         FX1000, one core of a memory group of twelve: 2 x 512-bit SVE or 2 x 128-bit NEON, accumulation takes 9 cycles

Pipes, ports and latencies are those of LLVM's scheduling models, which follow Arm's optimization guides: the latency from one
accumulation to the next into the same register, late forwarding taken off. What no document gives is marked assumed. No time is
fitted to a measured matrix product; the loop overheads come from GCC's code. A64FX has no bfloat16 and multiplies i8 with SDOT.
"""

from typing import NamedTuple

from costmodel.processors.vector import VectorCore
from costmodel.processors.vector_kernels import DATA_TYPES
from physics import unknown_name, with_sources

Numbers = dict[str, tuple[float, str]]
HOROWITZ = "assumed: f32 at this node, scaled by the operation energies of Horowitz, ISSCC 2014"
MAC_ENERGY = {"f64": 4.0, "f32": 1.0, "f16": 0.33, "bf16": 0.33, "bf16-dot": 0.33, "i8": 0.05, "i8-dot": 0.05}  # over f32


class Core(NamedTuple):
    """What one named core differs in: numbers, those that NEON changes, and cycles between accumulations by instruction."""

    numbers: Numbers
    neon: Numbers
    latencies: dict[str, float]
    source: str
    mac_energy: float  # J, f32


def _llvm(name: str) -> str:
    return f"LLVM AArch64Sched{name}.td"


def _neoverse_v1() -> Core:
    source = _llvm("NeoverseV1")
    latencies = {"FMLA": 2.0, "BFMMLA": 3.0, "BFDOT": 2.0, "SMMLA": 1.0, "SDOT": 1.0}
    neon = {"pipes": (4.0, f"{source}: V0 to V3"), "load_ports": (3.0, f"{source}: L0 to L2")}
    return Core({}, neon, latencies, source, 1e-12)


def _neoverse_v2() -> Core:
    source, chip = _llvm("NeoverseV2"), "NVIDIA Grace CPU Superchip data sheet"
    numbers = {
        "vector_bits": (128.0, f"{source}: 128-bit SVE"), "pipes": (4.0, f"{source}: V0 to V3"),
        "load_ports": (3.0, f"{source}: L0 to L2"), "issue_width": (6.0, f"{source}: IssueWidth"),
        "clock": (3.1e9, f"{chip}: 7.1 Tflop/s of 144 cores"), "l1_size": (65536.0, chip), "l2_size": (2.0**20, chip),
        "bandwidth": (500e9, f"{chip}: LPDDR5X, half of 1 TB/s"), 
        "core_bandwidth": (30e9, "assumed: one core's misses in flight"),        "energy_per_byte": (40e-12, "assumed: LPDDR5X"),
    }  # fmt: skip
    latencies = {"FMLA": 2.0, "BFMMLA": 4.0, "BFDOT": 3.0, "SMMLA": 1.0, "SDOT": 1.0}
    return Core(numbers, {}, latencies, source, 1e-12)


def _neoverse_n2() -> Core:
    source, chip = _llvm("NeoverseN2"), "Alibaba Yitian 710, as published: 128 cores, eight channels of DDR5-4400"
    numbers = {
        "vector_bits": (128.0, f"{source}: 128-bit SVE"), "pipes": (2.0, f"{source}: V0, V1"),
        "load_ports": (3.0, f"{source}: L0 to L2"), "issue_width": (5.0, "Arm: decode width of Neoverse N2"),
        "clock": (2.75e9, chip), "l1_size": (65536.0, chip), "l2_size": (2.0**20, chip), "bandwidth": (281.6e9, chip),
        "active_power": (0.2, "assumed: clocks, per processor"), "leakage_power": (0.1, "assumed: per processor"),
    }  # fmt: skip
    latencies = {"FMLA": 2.0, "BFMMLA": 3.0, "BFDOT": 2.0, "SMMLA": 1.0, "SDOT": 1.0}
    return Core(numbers, {}, latencies, source, 1e-12)


def _a64fx() -> Core:
    source, chip = _llvm("A64FX"), "Fujitsu A64FX data sheet"
    power = "assumed: adds up to about 3.2 W a core in DGEMM, Green500 11/2019: 154 W a node of 48 cores"
    numbers = {
        "vector_bits": (512.0, chip), "pipes": (2.0, f"{source}: FLA, FLB"), "load_ports": (2.0, f"{source}: EAGA, EAGB"),
        "store_ports": (1.0, f"{chip}: 64 B stored per cycle"), "issue_width": (4.0, f"{chip}: decode width"),
        "clock": (2.2e9, f"{chip}: FX1000"), "l1_size": (65536.0, chip), "l2_size": (2.0**23 / 12, f"{chip}: 8 MiB of twelve"),
        "l2_bandwidth": (64.0, f"{chip}: over 115 GB/s a core"), "bandwidth": (256e9, f"{chip}: HBM2 of one memory group"),
        "core_bandwidth": (32e9, "assumed: one core's misses in flight"), "energy_per_instruction": (60e-12, power),
        "energy_per_byte": (32e-12, "assumed: HBM2, 4 pJ/bit"), "active_power": (1.1, power), "leakage_power": (0.6, power),
    }  # fmt: skip
    return Core(numbers, {}, {"FMLA": 9.0, "SDOT": 9.0}, source, 6e-12)


CORES = {"neoverse-v1": _neoverse_v1, "neoverse-v2": _neoverse_v2, "neoverse-n2": _neoverse_n2, "a64fx": _a64fx}
NEON: Numbers = {
    "vector_bits": (128.0, "NEON: 128 bits"),
    "registers_per_load": (2.0, "NEON: LDP loads two registers"),
}


def list_vector_cores() -> tuple[str, ...]:
    """Names that `vector_core` takes."""
    return tuple(sorted(CORES))


def vector_core(name: str, data: str = "f32", isa: str = "sve", *, packed: bool = True) -> VectorCore:
    """One core of a named processor for operands of type `data`, in scalable (sve) or fixed (neon) vectors.

    `data` is a key of `DATA_TYPES` (f64, f32, f16, bf16, i8, and bf16-dot, i8-dot for dot products in place of matrix
    multiplication). i8 uses SDOT where the core has no SMMLA. Without packing the tiles are 8 x 16 per 128 bits and the
    operands stay where they are. Raises ValueError for an unknown name or a type the core cannot multiply.
    """
    if name not in CORES:
        raise ValueError(unknown_name("vector core", name, CORES))
    if isa not in ("sve", "neon"):
        raise ValueError(f"isa = {isa!r} is not one of sve, neon")
    if data not in DATA_TYPES:
        raise ValueError(unknown_name("data type", data, DATA_TYPES))
    core = CORES[name]()
    if data == "i8" and "SMMLA" not in core.latencies:
        data = "i8-dot"
    instruction = DATA_TYPES[data].instruction
    if instruction not in core.latencies:
        raise ValueError(f"data = {data!r}: {name} has no {instruction}; it multiplies {', '.join(_types(core))}")
    numbers = core.numbers | (NEON | core.neon if isa == "neon" else {})
    numbers["fma_latency"] = (core.latencies[instruction], f"{core.source}: {instruction}, into the same register")
    numbers["energy_per_mac"] = (core.mac_energy * MAC_ENERGY[data], HOROWITZ)
    if data == "f64":
        numbers["tile_n"] = (4.0, "OpenBLAS dgemm_kernel_sve_v2x8.S: eight values by two registers")
    if not packed:
        numbers["tile_n"] = (16.0, "IREE b48a5955, KernelDispatch.cpp: 8 x 16 x 1 where the layout is not tiled")
    return with_sources(VectorCore(data=data, scalable=isa == "sve", packed=packed), numbers)


def _types(core: Core) -> tuple[str, ...]:
    return tuple(name for name, known in DATA_TYPES.items() if known.instruction in core.latencies)
