"""A survey: conditions to fit a closed form to, one at a time, and random mixtures of them to judge it by.

The mixtures are held back: a fit never sees two disturbances at once. Both are drawn up from one table of extremes, at which
each disturbance alone takes half or more of the answers of a small ternary network (measured).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from costmodel.accuracy.closed_form import PRODUCT, SHAPE, WEIGHTS, AccuracyModel, errors, fit_accuracy
from costmodel.accuracy.conditions import DeviceConditions, batch, vary_condition
from costmodel.accuracy.monte_carlo import Deployment, measure_accuracy
from physics import replace

EXTREMES = {"program_noise": 0.6, "stuck_hrs": 0.5, "stuck_lrs": 0.3, "wire_resistance": 8.0}
COARSEST, FINEST = 3.0, 10.0  # bits
POINTS = 8  # per disturbance


class Survey(NamedTuple):
    """Fitted and held-back conditions with their measured accuracies (n, seeds), and the fits with their errors."""

    fitted_on: DeviceConditions
    fitted_accuracy: Float[np.ndarray, "n seeds"]
    held_back: DeviceConditions
    held_back_accuracy: Float[np.ndarray, "m seeds"]
    models: dict[str, AccuracyModel]
    errors: dict[str, dict[str, tuple[float, float]]]  # of each model: root mean square and largest, "fitted" and "held back"
    noise: float  # standard error of a measured mean, root mean square over held-back conditions


def single_disturbances(extremes: dict[str, float] = EXTREMES, points: int = POINTS) -> DeviceConditions:
    """Every disturbance alone, at `points` strengths each up to its extreme, and converters from 10 bits to the coarsest."""
    strengths = {name: top * np.linspace(0, 1, points) ** 1.5 for name, top in extremes.items()}
    strengths["adc_bits"] = np.linspace(COARSEST, FINEST, points)
    alone = [vary_condition(DeviceConditions(), name, values) for name, values in strengths.items()]
    return jax.tree.map(lambda *columns: jnp.concatenate(columns), *alone)


def mixed_disturbances(count: int = 40, seed: int = 0, extremes: dict[str, float] = EXTREMES) -> DeviceConditions:
    """`count` random mixtures: every disturbance between nothing and 0.6 of its extreme, converters of 4 to 8 bits."""
    draw = np.random.default_rng(seed)
    columns = {name: jnp.asarray(0.6 * top * draw.uniform(size=count) ** 1.5, float) for name, top in extremes.items()}
    bits = jnp.asarray(draw.integers(4, 9, count), float)
    return batch(DeviceConditions(adc_bits=bits, **columns))


def survey_accuracy(deployed: Deployment, seeds: int = 8, points: int = POINTS, held_back: int = 40) -> Survey:
    """Measure, fit and judge: the plain sum of variances (2 parameters), the weighted one (5) and the product form (1).

    The product form says nothing about single disturbances, so it is fitted to the mixtures themselves: its best case.
    """
    singles, mixtures = single_disturbances(points=points), mixed_disturbances(held_back)
    seen, unseen = measure_accuracy(deployed, singles, seeds), measure_accuracy(deployed, mixtures, seeds)
    start = replace(AccuracyModel.of(deployed), dict.fromkeys(WEIGHTS, 1.0))
    choices = {"plain": (SHAPE, "variance"), "weighted": (SHAPE + WEIGHTS, "variance"), "product": (PRODUCT, "product")}
    models, judged = {}, {}
    for name, (free, form) in choices.items():
        given = (mixtures, unseen.mean(1)) if form == "product" else (singles, seen.mean(1))
        model = fit_accuracy(start, *given, free, form).model
        models[name] = model
        judged[name] = {
            "fitted": errors(model, singles, seen.mean(1), form),
            "held back": errors(model, mixtures, unseen.mean(1), form),
        }
    noise = float(np.sqrt(np.mean(unseen.var(axis=1, ddof=1) / seeds))) if seeds > 1 else float("nan")
    return Survey(singles, seen, mixtures, unseen, models, judged, noise)
