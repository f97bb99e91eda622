"""Named processors and platforms. Every number that is not a default of its family carries its origin here.

stm32l4r5   Cortex-M4F at 120 MHz, int8. Two efficiencies (convolution, dense) and the active power are CALIBRATED on two
            MLPerf Tiny networks (ic and ad, ST X-CUBE-AI, round v1.2); kws and vww are predicted (`tempo cost --validate`).
edge-gpu    A GPU of the Jetson Nano class, fp16: 128 Maxwell cores x 2 x 921 MHz = 236 GMAC/s, 25.6 GB/s LPDDR4 (public
            specification). Efficiencies, launch overhead, powers and sleep behaviour are assumed.
isaac       ISAAC-CE (ISCA 2016): 41.29 TOPS and 65.8 W at 16 bit.
edge-pim    A small resistive macro: 208 arrays of 128 x 128 two-bit cells, 8-bit operands, conductive-bridge cells that
            forget in seconds when hot, read at 0.2 V (ISAAC's cell in CiMLoop). Else assumed from the parts of ISAAC.
isaac-ce    The same chip level by level (`MacroChip`): converters, cells and buffers apart, area, energy of every byte moved.
puma        PUMA (ASPLOS 2019): 52.31 TOPS, 62.5 W, 90.6 mm2 at 16 bit.
neurram, pcm64, jia2020, wang2022, colonnade, aimc1..3, dimc1..4
            Measured chips: the macros of `costmodel.processors.silicon` on a chip whose buffer, network and memory outside are
            assumed (the published figures cover the macros); compared with silicon in `costmodel.studies.validation`.
gemmini     Gemmini's default systolic array (DAC 2021): 16 x 16 int8 weight stationary, 256 KiB + 64 KiB, 1 GHz; energies are
            DOSA's fits to Accelergy's 40 nm tables. Leakage is assumed.
neoverse-v1, neoverse-v2, neoverse-n2, a64fx
            One core with scalable vectors, f32, packed layouts; other types, NEON and its numbers in
            `costmodel.processors.vector_cores`.
nexys_video, custom_a7, v80
            FPGA boards with the latency of every instruction, see `costmodel.memory.boards`; nothing overlaps.
"""

import difflib
from collections.abc import Callable
from functools import partial

from costmodel.memory.boards import BOARDS
from costmodel.platform import Platform
from costmodel.processors.base import Processor
from costmodel.processors.cim import CrossbarChip
from costmodel.processors.macro_chip import MacroChip
from costmodel.processors.macros import Macro
from costmodel.processors.roofline import Roofline
from costmodel.processors.silicon import (
    BANKS,
    CHIPS,
    ISAAC,
    PUMA,
    colonnade,
    isaac_array,
    jia2020,
    neurram,
    pcm64,
    puma_array,
    wang2022,
)
from costmodel.processors.systolic import Systolic
from costmodel.processors.vector_cores import list_vector_cores, vector_core
from physics import SharedPackage, load_device, replace, unknown_name, with_sources

CLOCK, LANES = 120e6, 2  # STM32L4R5: Hz, int16 MACs per cycle (SMLAD)
ASSUMED = "assumed"
M4 = "STM32L4R5ZI, MLPerf Tiny v1.2 submission: 120 MHz"
FITTED = "calibrated on MLPerf Tiny v1.2 ic and ad (ST X-CUBE-AI), see costmodel.studies.validation"
NANO = "Jetson Nano public specification: 128 Maxwell cores at 921 MHz, two fp16 per lane, LPDDR4 25.6 GB/s"


def stm32l4r5() -> Roofline:
    """STM32L4R5ZI at 120 MHz with ST's v1.2 software; kws and vww of MLPerf Tiny are predictions of it."""
    return with_sources(
        Roofline(),
        {
            "peak_macs": (CLOCK * LANES, f"{M4}, two int16 MACs per cycle (SMLAD)"),
            "vector_rate": (CLOCK * 4, f"{M4}, four int8 lanes"),
            "bandwidth": (CLOCK * 4, f"{M4}, 32-bit bus"),
            "overhead": (0.0, "assumed: calls cost nothing beside milliseconds"),
            "efficiency_conv": (0.3164, FITTED),
            "efficiency_depthwise": (0.3164, "assumed: that of convolutions"),
            "efficiency_dense": (0.2095, FITTED),
            "operand_bits": (8, M4 + ", int8"),
            "active_power": (0.5 * (6919e-6 / 165.1e-3 + 203e-6 / 5.26e-3), FITTED + ": mean of energy / latency"),
            "leakage_power": (10e-6, "assumed: microamperes in stop mode"),
            "sleep_fraction": (0.3, ASSUMED),
            "wake_time": (5e-6, "AN4621: microseconds from stop mode"),
        },
    )


def edge_gpu() -> Roofline:
    """A Jetson Nano class GPU at fp16 with its memory."""
    return with_sources(
        Roofline(),
        {
            "peak_macs": (128 * 2 * 921e6, NANO),
            "vector_rate": (128 * 921e6, NANO),
            "bandwidth": (25.6e9, NANO),
            "overhead": (20e-6, "assumed: one kernel launch"),
            "efficiency_conv": (0.3, ASSUMED),
            "efficiency_depthwise": (0.05, ASSUMED),
            "efficiency_dense": (0.2, ASSUMED),
            "operand_bits": (16, NANO),
            "energy_per_mac": (10e-12, "assumed: 20 nm, fp16"),
            "energy_per_byte": (40e-12, "assumed: LPDDR4"),
            "active_power": (1.5, "assumed: clocks and memory controller"),
            "leakage_power": (0.3, ASSUMED),
            "sleep_fraction": (0.002, "assumed: power rail off"),
            "linger": (0.1, "assumed: autosuspend delay"),
            "wake_time": (5e-3, "assumed: power rail on, context restored"),
            "wake_energy": (10e-3, "assumed: 2 W for the wake time"),
        },
    )


def isaac() -> CrossbarChip:
    """ISAAC-CE, whole chip, timing in its physical form."""
    return CrossbarChip()


def edge_pim() -> CrossbarChip:
    """A 208-array macro that keeps each weight once: 0.85 million 8-bit weights if every cell could be used."""
    return with_sources(
        CrossbarChip(cell=replace(load_device("cbram"), {"read_voltage": 0.2}), scope="layer"),
        {
            "elements": (1, ASSUMED),
            "units": (26, ASSUMED),
            "arrays": (8, ASSUMED),
            "weight_bits": (8, "assumed: int8 networks"),
            "input_bits": (8, "assumed: int8 networks"),
            "digital_rate": (1e9, ASSUMED),
            "buffer_bandwidth": (4e9, ASSUMED),
            "standby_power": (100e-6, ASSUMED),
            "leakage_fraction": (0.002, "assumed: low-leakage process"),
            "sleep_fraction": (0.02, ASSUMED),
            "write_arrays": (1, "assumed: one write driver"),
            "verify_time": (1e-6, "assumed: one read and compare per pulse"),
            "wake_time": (50e-6, ASSUMED),
        },
    )


def _tiled(array: Macro, numbers: dict[str, tuple[float, str]], shares: dict[str, float], source: str) -> MacroChip:
    """A chip whose powers per tile (W, at full activity) become energies per byte and per operation: `shares` by field."""
    bare = with_sources(MacroChip(macro=array), numbers)
    held, products = array.held(), float(bare.units * bare.macros / array.product_time())
    traffic = products * float(held.inputs + held.outputs) * float(array.input_bits) / 8  # B/s of one tile
    per = {"buffer_energy": traffic, "network_energy": traffic, "vector_energy": float(bare.vector_rate)}
    powers = {
        name: (share / per[name], f"{source}: {share * 1e3:.4g} mW per tile at full activity") for name, share in shares.items()
    }
    return with_sources(bare, numbers | powers)


def isaac_ce() -> MacroChip:
    """ISAAC-CE level by level: 168 tiles of 12 units of 8 arrays; 65.8 W and 85.4 mm2 at full activity."""
    numbers = {
        "tiles": (168, ISAAC), "units": (12, ISAAC), "macros": (8, ISAAC), "fill_time": (0.6e-6, "Liao et al.: 6 cycles"),
        "standby_power": (10.4, ISAAC + ": HyperTransport links"), "area_chip": (22.88e-6, ISAAC + ": HyperTransport links"),
        "row_write_time": (8.52 * 110e-9, "NeuRRAM's 8.52 pulses of 10 ns with a 100 ns read each"),
        "cell_write_energy": (8.52 * 0.6e-12, "NeuRRAM's 8.52 pulses of NVSim's 0.6 pJ"),
        "written_at_once": (168, "assumed: one write driver per tile"),
    }  # fmt: skip
    shares = {"buffer_energy": 20.7e-3, "network_energy": 17.5e-3, "vector_energy": 2.65e-3}
    return _tiled(isaac_array(), numbers, shares, ISAAC)


def puma() -> MacroChip:
    """PUMA: 138 tiles of 8 cores of 2 matrix units of 8 crossbars; buses, instruction memories and control in `vector_energy`."""
    numbers = {
        "tiles": (138, PUMA), "units": (16, PUMA + ": 8 cores of 2"), "macros": (8, PUMA),
        "standby_power": (10.4 + 0.57, PUMA + ": links and on-chip network"),
        "area_chip": (22.88e-6 + 1.622e-6, PUMA + ": links and on-chip network"),
        "area_buffer": (0.086e-6, PUMA), "area_network": (0.09e-6, PUMA),
        "area_vector": (0.479e-6 - 8 * 0.036e-6 - 0.176e-6, PUMA + ": rest of the tile"),
        "row_write_time": (10968.75e-9 / 128, PUMA + ": serial write of an array"),
        "cell_write_energy": (8.52 * 0.6e-12, "NeuRRAM's 8.52 pulses of NVSim's 0.6 pJ"),
        "written_at_once": (138, "assumed: one write driver per tile"),
    }  # fmt: skip
    shares = {"buffer_energy": 17.66e-3, "network_energy": 7e-3, "vector_energy": 373.8e-3 - 8 * 42.37e-3 - 24.66e-3}
    return _tiled(puma_array(), numbers, shares, PUMA)


def _measured(macro: Macro, count: int, non_volatile: bool = False) -> MacroChip:
    """`count` macros of a measured chip as one tile; what surrounds them is assumed."""
    power = float(macro.product_energy().total / macro.product_time()) * count
    numbers = {
        "macros": (count, "published chip"),
        "tile_leakage": (0.01 * power, "assumed: a hundredth of the macros' power, beside the published figure"),
        "area_network": (0.0, "assumed: one tile"),
    }
    if non_volatile:
        numbers |= {
            "row_write_time": (8.52 * 8520e-9, "NeuRRAM, CiMLoop configuration: 8.52 us a pulse, 8.52 pulses"),
            "cell_write_energy": (8.52 * 0.6e-12, "NeuRRAM's 8.52 pulses of NVSim's 0.6 pJ"),
        }
    return with_sources(MacroChip(macro=macro, scope="layer"), numbers)


def _published(make: Callable[[], Macro], count: int) -> MacroChip:
    return _measured(make(), count)


def gemmini() -> Systolic:
    """Gemmini's default systolic array; the energies are predictions of Timeloop and Accelergy, not measurements."""
    dosa = "DOSA, Hong et al., MICRO 2023, fitted to Accelergy at 40 nm"
    return with_sources(
        Systolic(),
        {
            "energy_per_mac": ((0.5608 + 0.48746) * 1e-12, f"{dosa}: MAC and weight register"),
            "energy_buffer": ((0.49 + 0.02513 * 256) * 1e-12, f"{dosa}: scratchpad of 256 KiB"),
            "energy_accumulator": ((1.94 + 0.1005 * 64 / 16) * 1e-12, f"{dosa}: accumulators of 64 KiB in 16 columns"),
            "energy_memory": (100e-12, f"{dosa}: memory outside, one 8-bit word"),
            "energy_vector": (0.5608e-12, "assumed: that of a MAC"),
            "leakage_power": (10e-3, "assumed: a tenth of the power at full activity"),
        },
    )


def edge_platform() -> Platform:
    """The three edge processors in one fanless package (8 K/W from case to ambient, assumed)."""
    processors = {"cpu": stm32l4r5(), "gpu": edge_gpu(), "pim": edge_pim()}
    package = SharedPackage(
        names=("cpu", "gpu", "pim"),
        r_junction=(20.0, 3.0, 8.0),
        c_junction=(0.05, 0.5, 0.1),
        r_spreader=1.0,
        c_spreader=4.0,
        r_ambient=8.0,
        c_case=40.0,
    )
    return Platform(processors, package)


HARDWARE: dict[str, Callable[[], Processor]] = {
    "stm32l4r5": stm32l4r5,
    "edge-gpu": edge_gpu,
    "isaac": isaac,
    "edge-pim": edge_pim,
    "isaac-ce": isaac_ce,
    "puma": puma,
    "neurram": lambda: _measured(neurram(), 48, non_volatile=True),
    "pcm64": lambda: _measured(pcm64(), 64, non_volatile=True),
    "jia2020": lambda: _measured(jia2020(input_bits=4), 1),
    "wang2022": lambda: _measured(wang2022(), 1),
    "colonnade": lambda: _measured(colonnade(), 1),
    **{name: partial(_published, make, BANKS[name]) for name, make in CHIPS.items()},
    **BOARDS,
    "gemmini": gemmini,
    **{name: partial(vector_core, name) for name in list_vector_cores()},
}
PLATFORMS: dict[str, Callable[[], Platform]] = {"edge": edge_platform}


def list_hardware() -> tuple[str, ...]:
    """Names that `load_hardware` takes."""
    return tuple(sorted(HARDWARE))


def load_hardware(name: str) -> Processor:
    """The named processor; ValueError with the closest name if there is none."""
    if name not in HARDWARE:
        raise ValueError(unknown_name("hardware", name, difflib.get_close_matches(str(name), HARDWARE, 1, 0.4) or HARDWARE))
    return HARDWARE[name]()


def list_platforms() -> tuple[str, ...]:
    """Names that `load_platform` takes."""
    return tuple(sorted(PLATFORMS))


def load_platform(name: str) -> Platform:
    """The named platform; ValueError with close matches if there is none."""
    if name not in PLATFORMS:
        raise ValueError(unknown_name("platform", name, PLATFORMS))
    return PLATFORMS[name]()
