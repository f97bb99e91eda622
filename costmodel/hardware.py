"""Named processors and platforms. Every number that is not a default of its family carries its origin here.

stm32l4r5   Cortex-M4F at 120 MHz, int8. Two efficiencies (convolution, dense) and the active power are CALIBRATED on two
            MLPerf Tiny networks (ic and ad, ST X-CUBE-AI, round v1.2); kws and vww are predicted (`tempo cost --validate`).
edge-gpu    A GPU of the Jetson Nano class, fp16: 128 Maxwell cores x 2 x 921 MHz = 236 GMAC/s, 25.6 GB/s LPDDR4 (public
            specification). Efficiencies, launch overhead, powers and sleep behaviour are assumed.
isaac       ISAAC-CE (ISCA 2016): 41.29 TOPS and 65.8 W at 16 bit.
edge-pim    A small resistive macro: 208 arrays of 128 x 128 two-bit cells, 8-bit operands, copper-oxide cells that are cheap
            to integrate and forget in seconds when hot, read at 0.2 V
            (ISAAC's cell in CiMLoop). Assumed from the parts of ISAAC, slower periphery.
"""

from collections.abc import Callable

from costmodel.platform import Platform
from costmodel.processors.base import Processor
from costmodel.processors.cim import CrossbarChip
from costmodel.processors.roofline import Roofline
from physics import SharedPackage, load_device, replace, unknown_name

CLOCK, LANES = 120e6, 2  # STM32L4R5: Hz (submission), int16 MACs per cycle (SMLAD)
# Energy / latency of the two calibration networks: 6919 uJ / 165.1 ms and 203 uJ / 5.26 ms; mean 40.2 mW.
STM_POWER = 0.5 * (6919e-6 / 165.1e-3 + 203e-6 / 5.26e-3)


def stm32l4r5() -> Roofline:
    """STM32L4R5ZI at 120 MHz with ST's v1.2 software; efficiencies as `costmodel.studies.validation` calibrates them."""
    return Roofline(
        peak_macs=CLOCK * LANES,
        vector_rate=CLOCK * 4,  # four int8 lanes
        bandwidth=CLOCK * 4,  # 32-bit bus
        overhead=0.0,
        efficiency_conv=0.3164,
        efficiency_depthwise=0.3164,
        efficiency_dense=0.2098,
        operand_bits=8,
        active_power=STM_POWER,
        leakage_power=10e-6,
        sleep_fraction=0.3,
        wake_time=5e-6,
    )


def edge_gpu() -> Roofline:
    """A Jetson Nano class GPU at fp16 with its memory."""
    return Roofline(
        peak_macs=128 * 2 * 921e6,
        vector_rate=128 * 921e6,
        bandwidth=25.6e9,
        overhead=20e-6,
        efficiency_conv=0.3,
        efficiency_depthwise=0.05,
        efficiency_dense=0.2,
        operand_bits=16,
        energy_per_mac=10e-12,
        energy_per_byte=40e-12,
        active_power=1.5,
        leakage_power=0.3,
        sleep_fraction=0.002,
        linger=0.1,
        wake_time=5e-3,
        wake_energy=10e-3,
    )


def isaac() -> CrossbarChip:
    """ISAAC-CE, whole chip, timing in its physical form."""
    return CrossbarChip()


def edge_pim() -> CrossbarChip:
    """A 208-array macro that keeps each weight once: 1 MiB of 8-bit weights if every cell could be used."""
    return CrossbarChip(
        elements=1,
        units=26,
        arrays=8,
        weight_bits=8,
        input_bits=8,
        digital_rate=1e9,
        buffer_bandwidth=4e9,
        standby_power=100e-6,
        leakage_fraction=0.002,
        sleep_fraction=0.02,
        write_arrays=1,
        verify_time=1e-6,
        wake_time=50e-6,
        cell=replace(load_device("cbram"), {"read_voltage": 0.2}),
        scope="layer",
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
