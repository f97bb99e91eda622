"""Named processors and platforms. Every number that is not a default of its family carries its origin here.

stm32l4r5   Cortex-M4F at 120 MHz, int8. Two efficiencies (convolution, dense) and the active power are CALIBRATED on two
            MLPerf Tiny networks (ic and ad, ST X-CUBE-AI, round v1.2); kws and vww are predicted (`tempo cost --validate`).
edge-gpu    A GPU of the Jetson Nano class, fp16: 128 Maxwell cores x 2 x 921 MHz = 236 GMAC/s, 25.6 GB/s LPDDR4 (public
            specification). Efficiencies, launch overhead, powers and sleep behaviour are assumed.
isaac       ISAAC-CE (ISCA 2016): 41.29 TOPS and 65.8 W at 16 bit.
edge-pim    A small resistive macro: 208 arrays of 128 x 128 two-bit cells, 8-bit operands, conductive-bridge cells that
            forget in seconds when hot, read at 0.2 V (ISAAC's cell in CiMLoop). Else assumed from the parts of ISAAC.
"""

from collections.abc import Callable

from costmodel.platform import Platform
from costmodel.processors.base import Processor
from costmodel.processors.cim import CrossbarChip
from costmodel.processors.roofline import Roofline
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
}
PLATFORMS: dict[str, Callable[[], Platform]] = {"edge": edge_platform}


def list_hardware() -> tuple[str, ...]:
    """Names that `load_hardware` takes."""
    return tuple(sorted(HARDWARE))


def load_hardware(name: str) -> Processor:
    """The named processor; ValueError with close matches if there is none."""
    if name not in HARDWARE:
        raise ValueError(unknown_name("hardware", name, HARDWARE))
    return HARDWARE[name]()


def list_platforms() -> tuple[str, ...]:
    """Names that `load_platform` takes."""
    return tuple(sorted(PLATFORMS))


def load_platform(name: str) -> Platform:
    """The named platform; ValueError with close matches if there is none."""
    if name not in PLATFORMS:
        raise ValueError(unknown_name("platform", name, PLATFORMS))
    return PLATFORMS[name]()
