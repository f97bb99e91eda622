"""Compute-in-memory machines beside their silicon: what was fitted to which points, what is predicted, what is arithmetic.

isaac-ce   component tables that the paper adds up too: reproduced.
puma       powers and areas add up to the published node (reproduced); the time of a product is taken from the published rate.
neurram    three times and three energies are fitted to the inputs of even width; those of odd width are predicted.
colonnade  the delay of a full adder is fitted to the 8-bit points, the energy of a cell to one of them; all others predicted.
wang2022   two constants each for rate and energy, from the lowest and the highest supply; the supplies between are predicted.
jia2020    two constants for two supplies: calibrated; the rate at wider inputs is predicted.
pcm64      fitted to the one-phase figures; the four-phase ones are predicted.
aimc, dimc structure and constants of ZigZag-IMC: its own outputs are reproduced. Against silicon these rows are calibrated,
           because the source fitted its gates on the digital and its converters on the analog chips, with special cases.
           Energies of aimc2, dimc2 and dimc4 depend on undisclosed sparsity and are not compared.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from costmodel.hardware import isaac_ce, puma
from costmodel.processors.macros import AnalogMacro, Macro
from costmodel.processors.silicon import BANKS, CHIPS, colonnade, jia2020, neurram, pcm64, wang2022
from costmodel.studies.comparisons import ValidationRow, series
from physics import replace

CIMLOOP = "by cimloop d6e1390"
NEURRAM = f"Wan et al., Nature 2022 {CIMLOOP}"
COLONNADE = f"Kim et al., JSSC 2021 {CIMLOOP}"
WANG = f"Wang et al., VLSI 2022 {CIMLOOP}"
JIA = f"Jia et al., JSSC 2020 {CIMLOOP}"
PCM = "Le Gallo et al., Nature Electronics 2023, abstract"
ZIGZAG = "ZigZag-IMC df34a6f"
ISAAC, PUMA = "Shafiee et al., ISCA 2016", "Ankit et al., ASPLOS 2019"
MM2 = 1e-6

# input bits, output bits, one phase, TOPS of 48 cores, TOPS/W
NEURRAM_POINTS = np.array([
    (1, 3, 1, 2.12230988, 43.07875866), (2, 4, 1, 1.793083771, 40.33412834), (3, 5, 1, 1.165400233, 23.09069279),
    (4, 6, 1, 0.7438677864, 15.95409517), (5, 7, 1, 0.4515642, 11.32999012), (6, 8, 1, 0.260797508, 9.12235241),
    (1, 3, 0, 2.12230988, 43.07875866), (2, 4, 0, 1.793083771, 40.33412834), (3, 5, 0, 1.165400233, 23.09069279),
    (4, 6, 0, 0.7438677864, 15.95409517), (5, 7, 0, 0.5254091287, 11.03166076), (6, 8, 0, 0.4177183338, 8.257196816),
    (7, 9, 0, 0.343873405, 7.750037817), (8, 10, 0, 0.2638743409, 6.437388185),
])  # fmt: skip
NEURRAM_EVEN = NEURRAM_POINTS[:, 0] % 2 == 0
COLONNADE_REGISTERS = (1, 2, 4, 8, 16)
COLONNADE_GOPS = np.array([  # 1 to 16 bits by pipeline registers of a column
    (75.07, 138.51, 243.93, 391.42, 563.5), (32.5, 60.42, 104.77, 168.13, 238.32), (18.31, 34.04, 59.03, 92.55, 127.18),
    (12.52, 23.1, 39.45, 60.42, 83.03), (9.11, 16.43, 28.05, 42.96, 58.12), (6.73, 12.33, 20.41, 31.26, 41.65),
    (5.81, 10.24, 17.21, 25.75, 34.84), (4.43, 7.92, 13.32, 19.48, 25.75), (3.91, 6.95, 11.41, 16.81, 22.23),
    (3.08, 5.38, 8.77, 12.72, 16.68), (2.76, 4.79, 7.99, 11.5, 14.51), (2.14, 3.74, 6.09, 8.56, 11.06),
    (1.99, 3.48, 5.46, 7.62, 9.77), (1.82, 3.13, 4.94, 6.95, 8.9), (1.43, 2.42, 3.79, 5.25, 6.63), (1.34, 2.26, 3.51, 4.79, 5.99),
])  # fmt: skip
COLONNADE_FJ = np.array([  # fJ per MAC at 0.8 V, equal widths, 1 to 16 bits
    68.10051312, 161.6449048, 292.0267348, 423.4320763, 591.1251988, 788.5272112, 844.217685, 1169.653111,
    1252.260958, 1695.970219, 1748.197762, 2422.106272, 2554.140514, 2632.795482, 3905.328036, 3995.183881,
])  # fmt: skip
WANG_POINTS = np.array([  # V, TOPS, TOPS/W
    (0.7, 0.294748, 31.998), (0.8, 0.354392, 22.59), (0.9, 0.3968, 18.439), (1.0, 0.445904, 16.376), (1.1, 0.488684, 15.467),
])  # fmt: skip
JIA_POINTS = np.array([(0.85, 0.874, 400.0), (1.2, 2.185, 192.0)])  # V, TOPS, TOPS/W at one bit
JIA_WIDTHS = np.array([(2, 0.437), (4, 0.2185), (8, 0.09322666666666667)])  # input bits, TOPS at 0.85 V
PCM_POINTS = {1: (63.1, 9.76), 4: (16.1, 2.48)}  # phases: TOPS, TOPS/W
# silicon: clock ns, mm2, fJ per MAC (None: sparsity undisclosed); ZigZag-IMC's model: clock ns, mm2, fJ per MAC
ZIGZAG_CHIPS = {
    "aimc1": ((44.4444, 1.9425, 1.90476), (44.00812, 1.24429, 1.69506)),
    "aimc2": ((7.2, 0.468, None), (7.5404, 0.45669, 936.60813)),
    "aimc3": ((2.74725, 1.88, 106.95187), (2.81284, 1.96381, 108.51648)),
    "dimc1": ((5.12821, 0.9408, 54.60005), (4.27332, 0.88348, 55.10531)),
    "dimc2": ((3.0, 0.03, None), (3.17392, 0.0238, 231.76125)),
    "dimc3": ((5.49451, 0.1462, 102.5641), (5.4014, 0.14615, 100.05778)),
    "dimc4": ((2.5, 0.269, None), (2.38044, 0.33075, 116.16412)),
}


def silicon_rows() -> list[ValidationRow]:
    """Every comparison with a published compute-in-memory machine, calibrated anew where it is calibrated here."""
    return [*_chip_rows(), *_neurram_rows(), *_colonnade_rows(), *_supply_rows(), *_phase_rows(), *_zigzag_rows()]


def over(macro: Macro, points: dict[str, Any], figure: Callable[[Any], jax.Array]) -> np.ndarray:
    """`figure` of `macro` with every point of the fields in `points`, as one batch."""
    batch = {label: jnp.asarray(values, float) for label, values in points.items()}
    return np.asarray(jax.jit(jax.vmap(lambda point: figure(replace(macro, point))))(batch), np.float64)


def ops(macro: Macro) -> jax.Array:
    """Operations per second."""
    return 2 * macro.rate()


def _relative_fit(terms: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Coefficients of `terms` that minimise the relative squared error of their sum."""
    return np.linalg.lstsq(terms / target[:, None], np.ones(len(target)), rcond=None)[0]


# NeuRRAM --------------------------------------------------------------------------------------------------------------


def _neurram_fields() -> dict[str, np.ndarray]:
    inputs, outputs, one = NEURRAM_POINTS[:, :3].T
    return {"input_bits": inputs, "converter_bits": outputs, "split_above": np.where(one > 0, 32.0, 3.0)}


def calibrate_neurram() -> AnalogMacro:
    """The core fitted to the points of even input width: times and energies are sums of what `driven` counts."""
    drive = over(neurram(), _neurram_fields(), lambda m: jnp.stack(m.driven()))[NEURRAM_EVEN]
    phases, planes, pulses, steps = drive.T
    product, points = 2 * 128 * 256, NEURRAM_POINTS[NEURRAM_EVEN]
    times = _relative_fit(np.stack([pulses, steps, phases], -1), 48 * product / points[:, 3] / 1e12)
    energies = _relative_fit(np.stack([pulses, planes, steps], -1), product / points[:, 4] / 1e12)
    fitted = dict(zip(("pulse_time", "step_time", "phase_time"), times, strict=True))
    fitted |= {"energy_cell": energies[0] / 65536, "energy_row": energies[1] / 256, "energy_step": energies[2] / 256}
    return replace(neurram(), fitted)


def _neurram_rows() -> list[ValidationRow]:
    core, fields, rows = calibrate_neurram(), _neurram_fields(), []
    for name, unit, column, scale, figure in (("rate", "op/s", 3, 48.0, ops), ("efficiency", "op/J", 4, 1.0, Macro.efficiency)):
        modelled = scale * over(core, fields, figure)
        for role, chosen in (("calibrated", NEURRAM_EVEN), ("predicted", ~NEURRAM_EVEN)):
            known = 1e12 * NEURRAM_POINTS[chosen, column]
            rows.append(series(f"neurram, {'even' if role == 'calibrated' else 'odd'} widths",
                    name, unit, known,
                               modelled[chosen], role, NEURRAM))  # fmt: skip
    return rows


# Colonnade ------------------------------------------------------------------------------------------------------------


def _colonnade_fields() -> dict[str, np.ndarray]:
    bits, registers = np.meshgrid(np.arange(1.0, 17.0), COLONNADE_REGISTERS, indexing="ij")
    return {"weight_bits": bits.ravel(), "input_bits": bits.ravel(), "registers": registers.ravel()}


def calibrate_colonnade() -> tuple[float, float]:
    """Delay of a full adder (s) from the five 8-bit rates, and energy of a cell (J) from the 8-bit product."""
    eight = {name: values[35:40] for name, values in _colonnade_fields().items()}
    ours = over(colonnade(), eight, ops)
    delay = float(colonnade().adder_time) * float(_relative_fit((1 / ours)[:, None], 1e-9 / COLONNADE_GOPS[7])[0])
    macs = float(colonnade().held().inputs * colonnade().held().outputs)
    return delay, COLONNADE_FJ[7] * 1e-15 * macs / (128 * 128 * 8)


def _colonnade_rows() -> list[ValidationRow]:
    delay, energy = calibrate_colonnade()
    macro, fields = replace(colonnade(), {"adder_time": delay, "energy_cell": energy}), _colonnade_fields()
    known, ours = 1e9 * COLONNADE_GOPS.ravel(), over(macro, fields, ops)
    eight = fields["weight_bits"] == 8
    widths = {"weight_bits": np.arange(1.0, 17.0), "input_bits": np.arange(1.0, 17.0)}
    per_mac = over(macro, widths, lambda m: 2 / m.efficiency())
    others = np.arange(16) != 7
    return [
        series("colonnade, 8 bit", "rate", "op/s", known[eight], ours[eight], "calibrated", COLONNADE),
        series("colonnade, other widths", "rate", "op/s", known[~eight], ours[~eight], "predicted", COLONNADE),
        series("colonnade, other widths",
            "energy per MAC", "J", 1e-15 * COLONNADE_FJ[others], per_mac[others],
               "predicted", COLONNADE),
    ]  # fmt: skip


# Supplies and phases --------------------------------------------------------------------------------------------------


def _supply_rows() -> list[ValidationRow]:
    figures = ((1, "rate", "op/s", ops), (2, "efficiency", "op/J", Macro.efficiency))
    ends, wang, jia = np.array([True, False, False, False, True]), [], []
    for column, name, unit, figure in figures:
        ours = over(wang2022(), {"supply": WANG_POINTS[:, 0]}, figure)
        for role, what, chosen in (("calibrated", "0.7 and 1.1 V", ends), ("predicted", "0.8 to 1.0 V", ~ends)):
            known = 1e12 * WANG_POINTS[chosen, column]
            wang.append(series(f"wang2022, {what}", name, unit, known, ours[chosen], role, WANG))
        ours, known = over(jia2020(), {"supply": JIA_POINTS[:, 0]}, figure), 1e12 * JIA_POINTS[:, column]
        jia.append(series("jia2020, 0.85 and 1.2 V", name, unit, known, ours, "calibrated", JIA))
    wide, known = over(jia2020(), {"input_bits": JIA_WIDTHS[:, 0]}, ops), 1e12 * JIA_WIDTHS[:, 1]
    return [*wang, *jia, series("jia2020, 2 to 8 bit", "rate", "op/s", known, wide, "predicted", JIA)]


def _phase_rows() -> list[ValidationRow]:
    phases = {"polarities": np.array([1.0, 4.0])}
    rates, efficiencies = 64 * over(pcm64(), phases, ops), over(pcm64(), phases, Macro.efficiency)
    rows = []
    for index, (number, (tops, topsw)) in enumerate(PCM_POINTS.items()):
        role = "calibrated" if number == 1 else "predicted"
        rows.append(ValidationRow(f"pcm64, {number}-phase", "rate", "op/s", tops * 1e12, float(rates[index]), role, PCM))
        rows.append(
            ValidationRow(f"pcm64, {number}-phase", "efficiency", "op/J", topsw * 1e12, float(efficiencies[index]), role, PCM)
        )
    ratio = PCM_POINTS[1][0] / PCM_POINTS[4][0]
    return [*rows, ValidationRow("pcm64, 4 over 1 phase", "time", "1", ratio, float(rates[0] / rates[1]), "predicted", PCM)]


# Roll-ups -------------------------------------------------------------------------------------------------------------


def _chip_rows() -> list[ValidationRow]:
    rows = []
    for name, chip, source, tops, watts, mm2, density, efficiency, rate_role in (
        ("isaac-ce", isaac_ce(), ISAAC, 41.29, 65.8, 85.4, 479e9, 627.5e9, "reproduced"),
        ("puma", puma(), PUMA, 52.31, 62.5, 90.638, 577e9, 837e9, "calibrated"),
    ):
        rate, power = 2 * float(chip.peak_rate()), float(chip.peak_power()["total"])
        area = float(chip.area()["total"])
        rows += [
            ValidationRow(name, "peak rate", "op/s", tops * 1e12, rate, rate_role, source),
            ValidationRow(name, "peak power", "W", watts, power, "reproduced", source),
            ValidationRow(name, "area, mm2", "1", mm2, area / MM2, "reproduced", source),
            ValidationRow(name, "peak rate per mm2", "op/s", density, rate / area * MM2, rate_role, source),
            ValidationRow(name, "efficiency", "op/J", efficiency, rate / power, rate_role, source),
        ]
    return rows


def zigzag_figures(name: str) -> tuple[float, float, float]:
    """Clock cycle (s), area (mm2) and energy per multiply-accumulate (J) of one of ZigZag-IMC's seven chips."""
    macro = CHIPS[name]()
    macs = float(macro.held().inputs * macro.held().outputs)
    area = BANKS[name] * sum(float(part) for part in macro.area().values())
    return float(macro.clock_time()), area / MM2, float(macro.product_energy().total) / macs


def _zigzag_rows() -> list[ValidationRow]:
    ours = {name: zigzag_figures(name) for name in ZIGZAG_CHIPS}
    rows = []
    for index, (quantity, unit, scale) in enumerate(
        (("clock cycle", "s", 1e-9), ("area, mm2", "1", 1.0), ("energy per MAC", "J", 1e-15))
    ):
        known = [model[index] * scale for _, model in ZIGZAG_CHIPS.values()]
        mine = [figures[index] for figures in ours.values()]
        rows.append(series("zigzag-imc model", quantity, unit, known, mine, "reproduced", ZIGZAG))
        for name, (silicon, _) in ZIGZAG_CHIPS.items():
            if (reported := silicon[index]) is not None:
                rows.append(ValidationRow(name, quantity, unit, reported * scale, ours[name][index], "calibrated",
                                          "silicon by " + ZIGZAG))  # fmt: skip
    return rows
