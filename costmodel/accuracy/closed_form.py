"""Accuracy in closed form: variances add up to a signal-to-noise ratio, of whose logarithm accuracy is a logistic function.

    sigma^2  = sigma_program^2 + w_read sigma_read^2 + w_faults V + w_adc LSB^2 / (12 n) + w_wire drop^2
    SNR      = (1 - p_hrs - p_lrs)^2 / sigma^2
    accuracy = chance + (ideal - chance) logistic(sharpness (ln SNR - ln SNR_50))

Everything is per driven cell, in units of the swing between HRS and LRS. V is the variance that faults give to cells of
level g in [0, 1]; with q = 1 - p_hrs - p_lrs, and for few faults,

    V = q (1 - q) E[g^2] + p_lrs (1 - p_lrs) - 2 q p_lrs E[g]  ~  p_hrs E[g^2] + p_lrs E[(1 - g)^2]

p_hrs includes the cells that retention has lost, sigma_program the spread that a drift law adds (its shift is left out).
LSB = range / spans for n driven rows, spans = 2^bits - 2 (differential) or - 1; drop = R G rows (rows + 1) / 2, the relative
fall along a bit line to first order (`valid` is false above 0.5). Weights, sharpness and SNR_50 are fitted to a measurement
(`fit_accuracy`) of one network in one memory and hold for no other. What the sum leaves out: that a coarse converter and a
voltage drop err systematically, that layers differ, that errors interact.

`form="product"` degrades by fault density x deviation x temperature, as has been proposed. It is kept for comparison: any
factor that is zero removes all degradation (perfect programming would hide every fault), which no measurement shows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from costmodel.accuracy.conditions import DeviceConditions, check
from costmodel.accuracy.memories import WeightMemory
from costmodel.accuracy.monte_carlo import Deployment, level_statistics
from costmodel.accuracy.networks import logits, share_right
from physics import ParameterTree, lookup, param, replace, unknown_name
from physics.types import Result, Value

FORMS = ("variance", "product")
LEAST_VARIANCE = 1e-12  # below it an array counts as perfect; keeps slopes finite
LEAST_SIGNAL = 1e-6
LARGEST_DROP = 0.5  # relative, up to which its first order is taken
DIGITS = "measured: ternary 64-128-10 network on scikit-learn digits, TNN_I, 128 rows, full-range converter"
FITTED = f"survey_accuracy, 40 single disturbances, 8 devices each; {DIGITS}"
SUM = "chosen: a plain sum of variances"


class AccuracyModel(ParameterTree):
    """The closed form of one network in one memory, which says what conditions make of the cells."""

    ideal: Float[Array, ""] = param(0.969, unit="1", lo=0.0, hi=1.0, source=DIGITS)
    chance: Float[Array, ""] = param(0.1, unit="1", lo=0.0, hi=1.0, source="ten classes")
    sharpness: Float[Array, ""] = param(1.680, unit="1", lo=0.05, hi=50.0, log=True, source=FITTED)
    log_snr_50: Float[Array, ""] = param(1.158, unit="1", lo=-30.0, hi=30.0, source=FITTED + "; half way to chance")
    weight_read: Float[Array, ""] = param(1.0, unit="1", lo=1e-4, hi=1e4, log=True, source=SUM)
    weight_faults: Float[Array, ""] = param(1.436, unit="1", lo=1e-4, hi=1e4, log=True, source=FITTED)
    weight_adc: Float[Array, ""] = param(0.930, unit="1", lo=1e-4, hi=1e4, log=True, source=FITTED)
    weight_wire: Float[Array, ""] = param(0.370, unit="1", lo=1e-6, hi=1e4, log=True, source=FITTED)
    mean_level: Float[Array, ""] = param(0.284, unit="1", lo=0.0, hi=1.0, source=DIGITS)
    mean_square_level: Float[Array, ""] = param(0.284, unit="1", lo=0.0, hi=1.0, source=DIGITS)
    drive_share: Float[Array, ""] = param(0.359, unit="1", lo=1e-3, hi=1.0, source=DIGITS + "; 64 test images")
    converter_range: Float[Array, ""] = param(
        2.0, unit="1", lo=1e-3, hi=10.0, source="full range over weights per column and swing; 2: both signs of a pair"
    )
    product_scale: Float[Array, ""] = param(
        26.1, unit="1", lo=0.0, hi=1e9, log=True, source="form='product' only, fitted to 40 mixtures; " + DIGITS
    )
    memory: WeightMemory = eqx.field(default_factory=WeightMemory)

    @classmethod
    def of(cls, deployed: Deployment, chance: float = 0.1) -> "AccuracyModel":
        """For a deployed network: its levels, drives and accuracy without disturbance are measured, the rest is to be fitted."""
        levels = level_statistics(deployed)
        ideal = share_right(logits(deployed.network, deployed.images), deployed.labels)
        span = 2.0 if deployed.memory.mapping.differential else 1.0
        return cls(
            ideal=ideal,
            chance=chance,
            mean_level=levels.mean_level,
            mean_square_level=levels.mean_square_level,
            drive_share=levels.drive_share,
            converter_range=span,
            memory=deployed.memory,
        )

    def log_noise(self, conditions: DeviceConditions) -> Result:
        """ln(sigma^2 / signal) = -ln SNR; shape of the conditions."""
        c, p_hrs = conditions, self.memory.high_resistance_share(conditions)
        left = jnp.maximum(1 - p_hrs - c.stuck_lrs, LEAST_SIGNAL)
        variance = (
            jnp.square(c.program_noise)
            + self._drift_variance(c)
            + self.weight_read * jnp.square(c.read_noise)
            + self.weight_faults * self._fault_variance(p_hrs, c.stuck_lrs)
            + self.weight_adc * self._converter_variance(c.adc_bits)
            + self.weight_wire * jnp.square(self.drop(c))
        )
        return jnp.log(variance + LEAST_VARIANCE) - 2 * jnp.log(left)

    def _fault_variance(self, p_hrs: Value, p_lrs: Value) -> Result:
        lost = jnp.asarray(p_hrs + p_lrs, float)
        spread = (1 - lost) * (lost * self.mean_square_level - 2 * p_lrs * self.mean_level)
        return spread + p_lrs * (1 - p_lrs)

    def _converter_variance(self, bits: Value) -> Result:
        mapping, rows = self.memory.mapping, self.memory.rows
        codes = 2.0 if mapping.differential else 1.0
        spans = jnp.maximum(jnp.exp2(jnp.asarray(bits, float)) - codes, 1.0)
        step = self.converter_range * (rows // mapping.rows_per_weight) / spans
        return step**2 / (12 * self.drive_share * rows)

    def _drift_variance(self, conditions: DeviceConditions) -> Result:
        ends = [jnp.square(self.memory.drift_spread(level, conditions)) for level in (0.0, 1.0)]
        return ends[0] + (ends[1] - ends[0]) * self.mean_level

    def drop(self, conditions: DeviceConditions) -> Result:
        """Relative fall of voltage along a bit line, first order."""
        cells, rows = self.memory.cells, self.memory.rows
        conductance = self.drive_share * (cells.g_hrs + self.mean_level * cells.swing)
        return conditions.wire_resistance * conductance * rows * (rows + 1) / 2

    def valid(self, conditions: DeviceConditions) -> Bool[Array, "..."]:
        """Whether retention and the first order of the voltage drop hold under `conditions`."""
        return self.memory.retention.valid(conditions.temperature) & (self.drop(conditions) <= LARGEST_DROP)


def expected_accuracy(model: AccuracyModel, conditions: DeviceConditions, form: str = "variance") -> Result:
    """Expected share of right answers under `conditions` (scalars or arrays; the result has their shape).

    Differentiable in the model's parameters and in every condition; the slope of a standard deviation is 0 at 0, converters
    have none below 1.6 bits (differential; 1 bit if single-ended). `form`: see the module. ValueError for another form, or
    for plain numbers outside their range.
    """
    check(conditions)
    conditions = DeviceConditions(*(jnp.asarray(x, float) for x in conditions))
    if form not in FORMS:
        raise ValueError(unknown_name("form", form, FORMS))
    if form == "product":
        share = jnp.exp(-model.product_scale * _product(model, conditions))
    else:
        share = jax.nn.sigmoid(-model.sharpness * (model.log_noise(conditions) + model.log_snr_50))
    return model.chance + (model.ideal - model.chance) * share


def _product(model: AccuracyModel, conditions: DeviceConditions) -> Result:
    """Fault density x relative deviation x temperature over 300 K."""
    density = conditions.stuck_hrs + conditions.stuck_lrs + model.memory.lost_share(conditions)
    return density * conditions.program_noise * (conditions.temperature / 300.0)


class AccuracyFit(NamedTuple):
    """A fitted model and how far it is from what it was fitted to (absolute accuracy)."""

    model: AccuracyModel
    rms_error: float
    largest_error: float


SHAPE = ("sharpness", "log_snr_50")
WEIGHTS = ("weight_faults", "weight_adc", "weight_wire")
PRODUCT = ("product_scale",)


def fit_accuracy(
    model: AccuracyModel,
    conditions: DeviceConditions,
    measured: Float[Array, " n"] | np.ndarray,
    free: Sequence[str] = SHAPE + WEIGHTS,
    form: str = "variance",
) -> AccuracyFit:
    """`model` with the parameters labelled `free` fitted to `measured` accuracies (n,) under `conditions` (arrays (n,)).

    Least squares within the parameters' bounds, on logarithms where these are their scale. ValueError for an unknown label,
    for no free parameter or for fewer measurements than free parameters.
    """
    from scipy.optimize import least_squares  # here: only a fit needs it

    target = np.asarray(measured, float)
    if not 0 < len(free) <= target.size:
        raise ValueError(f"{len(free)} free parameters cannot be fitted to {target.size} measurements")
    found = [lookup(model, label) for label in free]
    logs = [p.param.log for p in found]

    def fitted(x: Any) -> AccuracyModel:
        return replace(model, {label: jnp.exp(x[i]) if logs[i] else x[i] for i, label in enumerate(free)})

    residual = jax.jit(lambda x: expected_accuracy(fitted(x), conditions, form) - jnp.asarray(target, float))
    jacobian = jax.jit(jax.jacfwd(residual))
    scaled = [[_scaled(value, log) for value in (p.value, p.param.lo, p.param.hi)] for p, log in zip(found, logs, strict=True)]
    start, low, high = np.array(scaled).T
    solve: Any = least_squares  # its stub knows no function for the jacobian
    solution = solve(
        lambda x: np.asarray(residual(jnp.asarray(x, float)), float),
        np.clip(start, low + 1e-6, high - 1e-6),
        lambda x: np.asarray(jacobian(jnp.asarray(x, float)), float),
        bounds=(low, high),
    )
    result = fitted(jnp.asarray(solution.x, float))
    return AccuracyFit(result, *errors(result, conditions, target, form))


def errors(
    model: AccuracyModel, conditions: DeviceConditions, measured: Float[Array, " n"] | np.ndarray, form: str = "variance"
) -> tuple[float, float]:
    """Root mean square and largest absolute difference between closed form and measurement."""
    difference = np.asarray(expected_accuracy(model, conditions, form)) - np.asarray(measured)
    return float(np.sqrt(np.mean(difference**2))), float(np.max(np.abs(difference)))


def _scaled(value: Any, log: bool) -> float:
    number = float(value)
    return float(np.log(max(number, 1e-12))) if log else number
