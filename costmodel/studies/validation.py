"""How the models compare with published figures: what was calibrated, what was predicted, and how far off it is.

STM32L4R5ZI, 120 MHz, ST X-CUBE-AI, MLPerf Tiny closed division, round v1.2: latency and energy of one inference.
Three numbers are fitted to two of the four networks (ic and ad): the efficiencies of convolution and dense layers and the
active power. The other two networks (kws and vww) are predicted. ISAAC: peak throughput and power of the published chip.
Compute-in-memory chips: see `costmodel.studies.silicon`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from costmodel.estimation import estimate
from costmodel.hardware import isaac, stm32l4r5
from costmodel.processors.roofline import Roofline
from costmodel.studies.comparisons import ValidationRow
from costmodel.studies.silicon import silicon_rows
from physics import replace
from workloads import load

MLPERF = "MLPerf Tiny v1.2, ST, STM32L4R5ZI at 120 MHz (mlcommons tiny_results)"
ISAAC = "Shafiee et al., ISCA 2016; roll-up of its component table"
PUBLISHED = {  # latency s, energy J
    "ds-cnn": (43.19e-3, 1820e-6),
    "mobilenet-v1-0.25": (88.93e-3, 3895e-6),
    "fc-autoencoder": (5.26e-3, 203e-6),
    "resnet8": (165.1e-3, 6919e-6),
}
CALIBRATED_ON = ("resnet8", "fc-autoencoder")
CALIBRATED = ("efficiency_conv", "efficiency_dense")


def calibrate_stm32() -> Roofline:
    """The board fitted to two networks: Newton steps on the logarithms of the two efficiencies, then the mean power."""
    board = stm32l4r5()
    target = jnp.log(jnp.array([PUBLISHED[name][0] for name in CALIBRATED_ON]))
    tables = [load(name) for name in CALIBRATED_ON]

    def residual(logs: jax.Array) -> jax.Array:
        tied = {"efficiency_depthwise": jnp.exp(logs[0])}
        hardware = replace(board, dict(zip(CALIBRATED, jnp.exp(logs), strict=True)) | tied)
        return jnp.log(jnp.stack([estimate(hardware, ops).latency for ops in tables])) - target

    newton = jax.jit(lambda logs: logs - jnp.linalg.solve(jax.jacobian(residual)(logs), residual(logs)))
    logs = jnp.log(jnp.array([getattr(board, name) for name in CALIBRATED]))
    for _ in range(8):
        logs = newton(logs)
    conv, dense = (float(x) for x in jnp.exp(logs))
    power = float(np.mean([PUBLISHED[name][1] / PUBLISHED[name][0] for name in CALIBRATED_ON]))
    return replace(
        board, {"efficiency_conv": conv, "efficiency_depthwise": conv, "efficiency_dense": dense, "active_power": power}
    )


def validate() -> tuple[ValidationRow, ...]:
    """Every comparison, calibrated anew."""
    return *board_rows(), *_isaac_rows(), *silicon_rows()


def board_rows() -> list[ValidationRow]:
    """The microcontroller on MLPerf Tiny."""
    board, rows = calibrate_stm32(), []
    for name, (latency, energy) in PUBLISHED.items():
        cost = jax.jit(estimate, static_argnums=3)(board, load(name).without_info())
        role = "calibrated" if name in CALIBRATED_ON else "predicted"
        rows.append(ValidationRow(f"stm32l4r5 {name}", "latency", "s", latency, float(cost.latency), role, MLPERF))
        rows.append(ValidationRow(f"stm32l4r5 {name}", "energy", "J", energy, float(cost.energy), role, MLPERF))
    return rows


def _isaac_rows() -> list[ValidationRow]:
    chip = isaac()
    tops, power = 2 * float(chip.peak_rate()), float(chip.peak_power()["total"])
    return [
        ValidationRow("isaac", "peak rate", "op/s", 41.29e12, tops, "reproduced", ISAAC),
        ValidationRow("isaac", "peak power", "W", 65.8, power, "reproduced", ISAAC),
    ]
