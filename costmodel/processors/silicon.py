"""Published compute-in-memory machines as macros: structure and constants with their sources.

aimc1..3, dimc1..4   the seven SRAM chips of ZigZag-IMC's validation, with its constants and its chip-specific structure
neurram              48 ReRAM cores of 256 x 256 (Wan et al., Nature 2022)
pcm64                64 phase-change cores of 256 x 256 (Le Gallo et al., Nature Electronics 2023)
jia2020, wang2022    charge-domain SRAM (JSSC 2020; VLSI 2022)       colonnade   digital bit-serial SRAM (JSSC 2021)
isaac, puma          one array with its share of the unit or core (ISCA 2016, ASPLOS 2019)

Which constants were fitted to which points, and what is predicted, is said in `costmodel.studies.validation`.
"""

from costmodel.mapping.crossbars import load_encoding
from costmodel.processors.circuits import (
    Accumulators,
    AdderTree,
    Block,
    Converters,
    Drivers,
    Lines,
    Memory,
    Multipliers,
    Registers,
)
from costmodel.processors.digital_cim import BitSerialMacro, GateMacro
from costmodel.processors.macros import AnalogMacro, Macro
from physics import with_sources

NODE_22 = 22 / 28
ZIGZAG_MM2 = 1e-6


def _gates(blocks: list[Block], **fields: float) -> GateMacro:
    return GateMacro(blocks=tuple(blocks), **fields)


def aimc1() -> GateMacro:
    """CICC 2021 (22 nm): 1024 x 512 ternary weights, 7-bit drivers, 6-bit converters. Memory area is given at 22 nm."""
    i, o = 1024, 512
    blocks = [
        Memory(count=2, cell_area=0.24496704 * ZIGZAG_MM2 / NODE_22),  # twice: pulse generators
        Multipliers(count=i * o, bits=2, stage=0, component="array"),
        Lines(count=3 * i * o),  # two bit lines and one enable per output
        Converters(count=o, bits=6, area_bits=6, cells=i, stage=0),
        Drivers(count=i, bits=7),
    ]
    return _gates(blocks, inputs=i, outputs=o, weight_bits=2, input_bits=7, bits_per_cycle=7, supply=0.8, node=NODE_22)


def aimc2() -> GateMacro:
    """JSSC 2023 (28 nm): a bank of 16 x 12; a cycle is two transfers of all bits, sixteen 5-bit converters per output."""
    i, o = 16, 12
    trees = [AdderTree(count=number * o, bits=bits) for number, bits in ((8, 7), (4, 9), (2, 12), (1, 15))]
    blocks = [
        Memory(cell_area=0.0360450648 * ZIGZAG_MM2),
        Multipliers(count=2 * i * o, bits=2, stage=0, component="array"),
        Lines(count=2 * i * o * (8 + 1)),
        Converters(count=16 * o, bits=5, area_bits=5, cells=i, stage=0),
        Drivers(count=2 * i, bits=2),
        *trees,
        AdderTree(count=0, inputs=i, bits=12, stage=1),  # the source times a tree and counts the four adders above
        Accumulators(count=o, bits=20, carry=4, stage=1),
        Registers(count=80 * o),
    ]
    return _gates(blocks, inputs=i, outputs=o, weight_bits=8, input_bits=8, bits_per_cycle=8, repeats=2)


def aimc3() -> GateMacro:
    """ISSCC 2023 7.8 (22 nm): 8 of 64 rows at a time, 256 outputs, 3-bit conversions in 7-bit converters; half the weights 0."""
    i, o = 8, 256
    blocks = [
        Memory(cell_area=0.004505472 * ZIGZAG_MM2),
        Multipliers(count=64 * o, bits=1, activity=16 / 64 * 0.375 * 0.5, stage=0, component="array"),
        AdderTree(count=o, bits=6, activity=0.5, stage=0),
        Lines(count=i * o * 8, activity=0.5),
        Converters(count=o, bits=3, area_bits=7, cells=i, activity=0.5, stage=0),
    ]
    return _gates(blocks, inputs=i, outputs=o, weight_bits=8, input_bits=8, supply=0.8, node=NODE_22, depth=8)


def dimc1() -> GateMacro:
    """ISSCC 2022 15.5 (28 nm): a bank of 32 x 6, Booth-encoded 2-bit inputs, with an unused path for floating point."""
    o = 6
    blocks = [
        Memory(cell_area=0.00065545 * ZIGZAG_MM2),
        Multipliers(count=32 * o, bits=8, activity=0.25, stage=0, component="array"),
        AdderTree(count=o, inputs=32, bits=9, activity=0.25, stage=0),
        Accumulators(count=o, bits=32, carry=32 - 14, stage=0),
        AdderTree(count=5 * 2, bits=32, activity=0),  # floating point: a tree and an adder of 32 bit, five times
        Registers(count=5 * 32 * 1.764 / (6 * 0.614), activity=0),  # the source counts 1.764 um2 for each of these
    ]
    return _gates(blocks, inputs=32, outputs=o, weight_bits=8, input_bits=8, bits_per_cycle=2)


def dimc2() -> GateMacro:
    """ISSCC 2022 11.7 (28 nm): a bank of 32 x 1, sixteen weights deep; the source counts 32 accumulators and one at work."""
    blocks = [
        Memory(cell_area=0.00396 * ZIGZAG_MM2),
        Multipliers(count=32, bits=8, activity=0.5 * 0.9, stage=0, component="array"),
        AdderTree(count=1, inputs=32, bits=16, activity=0.5 * 0.9, stage=1),
        Accumulators(count=32, bits=16, activity=1 / 32, stage=1),
        Registers(count=32 * 8, activity=1 / 32),
    ]
    return _gates(blocks, inputs=32, outputs=1, weight_bits=8, input_bits=8, depth=16)


def dimc3() -> GateMacro:
    """ISSCC 2023 7.2 (28 nm): 128 x 8 one-bit columns that a second tree joins to one 8-bit output."""
    blocks = [
        Memory(cell_area=0.00193147 * ZIGZAG_MM2),
        Multipliers(count=256 * 8, bits=1, activity=0.25, stage=0, component="array"),
        AdderTree(count=8, inputs=128, bits=2, activity=0.25, stage=0),
        AdderTree(count=1, inputs=8, bits=16, stage=0),
        Accumulators(count=1, bits=23, carry=23 - 17, stage=0),
    ]
    return _gates(blocks, inputs=128, outputs=1, weight_bits=8, input_bits=8, bits_per_cycle=2, depth=8)


def dimc4() -> GateMacro:
    """ISSCC 2023 16.3 (28 nm): a bank of 128 x 8; three levels of trees with registers before the last."""
    o = 8
    blocks = [
        Memory(cell_area=0.00416728 * ZIGZAG_MM2),
        Multipliers(count=128 * o, bits=1, activity=0.5, stage=0, component="array"),
        AdderTree(count=64 * o, inputs=16, bits=1, activity=0.25, stage=0),
        AdderTree(count=8 * o, inputs=8, bits=4, activity=0.25, stage=0),
        AdderTree(count=o, inputs=8, bits=6, activity=0.25, stage=1),
        Accumulators(count=o, bits=17, carry=17 - 9, stage=1),
        Registers(count=8 * 6 * o),
    ]
    return _gates(blocks, inputs=128, outputs=o, weight_bits=8, input_bits=8, depth=2)


BANKS = {"aimc1": 1, "aimc2": 4, "aimc3": 8, "dimc1": 64, "dimc2": 2, "dimc3": 8, "dimc4": 4}
CHIPS = {"aimc1": aimc1, "aimc2": aimc2, "aimc3": aimc3, "dimc1": dimc1, "dimc2": dimc2, "dimc3": dimc3, "dimc4": dimc4}


# Analog machines whose products were measured --------------------------------------------------------------------------


CIMLOOP = "mit-emze/cimloop d6e1390, digitised from the paper"
NEURRAM = "NeuRRAM, Wan et al., Nature 2022"
NEURRAM_FIT = f"calibrated on {NEURRAM}: inputs of even width; odd ones are predicted"
PCM = "Le Gallo et al., Nature Electronics 2023 (64 cores, 14 nm)"
JIA = "Jia et al., JSSC 2020"
WANG = "Wang et al., VLSI 2022"
ISAAC = "ISAAC, Shafiee et al., ISCA 2016; component table"
PUMA = "PUMA, Ankit et al., ASPLOS 2019; node table, checked against puma-simulator a206f75"
ISAAC_PRODUCT = 16 * 100e-9  # s: 16 input bits, 100 ns each
PUMA_PRODUCT = 138 * 8 * 2 * 8 * 128 * 16 * 2 / 52.31e12  # s: the published 52.31 TOPS over all crossbars


def neurram(input_bits: int = 4, output_bits: int = 6, one_phase: bool = False) -> AnalogMacro:
    """One NeuRRAM core: 128 x 256 differential weights of 4 bit, pulsed inputs, a converter per column (130 nm)."""
    return with_sources(
        AnalogMacro(drive="pulsed", overlap=False, encoding=load_encoding("differential_rows")),
        {
            "rows": (256, NEURRAM), "columns": (256, NEURRAM), "converters": (256, NEURRAM),
            "weight_bits": (4, NEURRAM), "bits_per_cell": (4, NEURRAM),
            "input_bits": (input_bits, NEURRAM), "converter_bits": (output_bits, NEURRAM),
            "split_above": (32 if one_phase else 3, NEURRAM),
            "pulse_time": (301.77e-9, NEURRAM_FIT), "step_time": (315.44e-9, NEURRAM_FIT), "phase_time": (193.91e-9, NEURRAM_FIT),
            "energy_cell": (0.37857e-15, NEURRAM_FIT), "energy_row": (256 * 16.194e-15, NEURRAM_FIT),
            "energy_step": (256 * 2.1232e-15, NEURRAM_FIT), "energy_output": (0.0, NEURRAM_FIT + "; within the steps"),
            "area_level": (325120e-12 / 256 / 256, f"{NEURRAM}, {CIMLOOP}: 0.325 mm2 of neurons"),
        },
    )  # fmt: skip


def pcm64(phases: int = 1) -> AnalogMacro:
    """One of 64 phase-change cores: 256 x 256 weights, 8-bit pulse-width inputs at 1 GHz, products of signs in 1 or 4 phases."""
    one = "calibrated on the one-phase figures of " + PCM
    return with_sources(
        AnalogMacro(drive="pulsed", overlap=False),
        {
            "rows": (256, PCM), "columns": (256, PCM), "converters": (256, PCM), "weight_bits": (8, PCM),
            "bits_per_cell": (8, PCM), "input_bits": (8, PCM), "converter_bits": (8, PCM),
            "split_above": (32, PCM), "polarities": (phases, PCM),
            "pulse_time": (1e-9, PCM + ": 1 GHz clock"), "step_time": (0.0, "assumed: converters count during the pulses"),
            "overhead": (64 * 65536 * 2 / 63.1e12 - 127e-9, one),
            "energy_cell": (2 * 65536 / 9.76e12 / 65536 / 127, one), "energy_row": (0.0, "assumed: within energy_cell"),
            "energy_step": (0.0, "assumed: within energy_cell"), "energy_output": (0.0, "assumed: within energy_cell"),
        },
    )  # fmt: skip


def jia2020(supply: float = 0.85, input_bits: int = 1) -> AnalogMacro:
    """2304 x 256 one-bit weights in charge domain, serial inputs (65 nm)."""
    two = f"calibrated on the two supplies of {JIA}, {CIMLOOP}"
    return with_sources(
        AnalogMacro(overlap=False),
        {
            "rows": (2304, JIA), "columns": (256, JIA), "converters": (256, JIA), "weight_bits": (1, JIA),
            "bits_per_cell": (1, JIA), "input_bits": (input_bits, JIA), "converter_bits": (8, JIA),
            "supply": (supply, JIA), "supply_ref": (0.85, JIA),
            "pulse_time": (0.0, two), "step_time": (0.0, two), "phase_time": (1.34968e-6, two), "time_exponent": (2.6571, two),
            "energy_cell": (9.7e-12 / 2304, f"{JIA}, {CIMLOOP}: 9.7 pJ per column at 0.85 V"), "energy_row": (0.0, JIA),
            "energy_step": (1.79e-12 / 8, f"{JIA}, {CIMLOOP}: 1.79 pJ per conversion at 0.85 V"),
            "energy_output": (0.0, JIA), "energy_exponent": (2.1285, two),
        },
    )  # fmt: skip


def wang2022(supply: float = 0.7) -> AnalogMacro:
    """64 of 512 rows at a time, sixteen 8-bit outputs, all input bits at once by capacitor ladders (22 nm)."""
    ends = f"calibrated on 0.7 V and 1.1 V of {WANG}, {CIMLOOP}; the supplies between are predicted"
    product = 2048 / 31.998e12  # J at 0.7 V
    return with_sources(
        AnalogMacro(overlap=False),
        {
            "rows": (64, WANG), "columns": (128, WANG), "converters": (16, WANG), "depth": (8, WANG),
            "weight_bits": (8, WANG), "bits_per_cell": (1, WANG), "input_bits": (8, WANG), "driver_bits": (8, WANG),
            "converter_bits": (8, WANG), "supply": (supply, WANG), "supply_ref": (0.7, WANG),
            "pulse_time": (6.9483e-9, ends), "step_time": (0.0, ends), "time_exponent": (1.1186, ends),
            "energy_exponent": (1.6085, ends),
            "energy_cell": (0.40 * product / 8192, ends), "energy_row": (0.22 * product / 64, ends),
            "energy_step": (0.34 * product / 1024, ends), "energy_output": (0.0, ends), "energy_fixed": (0.04 * product, ends),
        },
    )  # fmt: skip


def colonnade(bits: int = 8, registers: int = 16) -> BitSerialMacro:
    """Colonnade with weights and inputs of `bits` bits (65 nm)."""
    return BitSerialMacro(weight_bits=bits, input_bits=bits, registers=registers)


def _crossbar(adc: float, dac: float, array: float, logic: float, fixed: float, product: float, source: str) -> AnalogMacro:
    """A 128 x 128 crossbar at 16 bit from its powers (W) at full activity; a tenth leaks, as the simulator's converters do."""
    busy, leaking = 0.9 * product / 16, "PUMA simulator a206f75: converters leak 0.2 of 2.0 mW"
    return with_sources(
        AnalogMacro(),
        {
            "weight_bits": (16, source), "input_bits": (16, source), "pulse_time": (product / 16, source),
            "step_time": (product / 16 / 1024, source), "energy_cell": (busy * array / 16384, source),
            "energy_row": (busy * dac / 128, source), "energy_step": (busy * adc / 1024, source),
            "energy_output": (busy * logic / 128, source), "energy_fixed": (16 * busy * fixed, source),
            "leakage_power": (0.1 * (adc + dac + array + logic + fixed), leaking),
        },
    )  # fmt: skip


def isaac_array() -> AnalogMacro:
    """One ISAAC array with an eighth of its unit: converter 2 mW, drivers 0.5, cells 0.3, adders and registers 0.21."""
    array = _crossbar(2e-3, 0.5e-3, 0.3e-3, 0.055e-3, 0.155e-3, ISAAC_PRODUCT, ISAAC)
    area = (0.00004 + 0.00024 + 0.0021 + 0.00077) / 8 * 1e-6
    return with_sources(array, dict(array_sources(array)) | {"area_logic": (area, ISAAC + ": S&H, adders, registers")})


def puma_array() -> AnalogMacro:
    """One of the 8 crossbars of a PUMA matrix unit (19.09 mW) with its share of the core's other 4.19 mW.

    The matrix unit's power is split as ISAAC's converters and cells plus the rest; its rate is the published one.
    """
    rest = 19.09e-3 / 8 - 2e-3 - 0.3e-3
    array = _crossbar(2e-3, 0.0, 0.3e-3, rest, 4.19e-3 / 16, PUMA_PRODUCT, PUMA)
    area = (0.012 / 8 - 0.0012 - 0.000025) + (0.036 - 2 * 0.012) / 16
    return with_sources(array, dict(array_sources(array)) | {"area_logic": (area * 1e-6, PUMA), "area_row": (0.0, PUMA)})


def array_sources(array: Macro) -> list[tuple[str, tuple[float, str]]]:
    """What `with_sources` had been given for `array`."""
    return [(label, (float(getattr(array, label)), source)) for label, source in array.sources]
