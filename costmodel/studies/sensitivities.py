"""Sensitivities: the gradient of any objective in every labelled parameter, sorted by what matters.

    elasticity = (p / y) dy/dp       per cent of the objective per per cent of the parameter

A parameter that is itself a logarithm (unit "ln ...") stands for the quantity it is the logarithm of: dy/dp / y.

The default policy is straight-through: the exact objective with the slopes of the smooth relaxation, because the true
gradient of a rounded-up tile count is zero almost everywhere and says nothing about the next tile.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from costmodel.relax import STRAIGHT_THROUGH, Relaxation
from costmodel.studies.chunks import CHUNK, chunked
from physics import parameters

ANCHORS = ("temperature_ref", "voltage_ref")  # where laws are anchored: conventions, no property of the hardware


class SensitivityRow(NamedTuple):
    """One parameter's influence. `elasticity` is 0 where the parameter or the objective is 0."""

    label: str
    value: float
    unit: str
    gradient: float  # unit of the objective per unit of the parameter
    elasticity: float


class SensitivityTable(NamedTuple):
    """`sensitivity()`'s result: rows sorted by falling |elasticity|, the objective's value and the policy used."""

    rows: tuple[SensitivityRow, ...]
    value: float
    relaxation: str

    def __getitem__(self, label: str) -> SensitivityRow:  # type: ignore[override]
        """The row of one parameter."""
        return {row.label: row for row in self.rows}[label]

    @property
    def relevant(self) -> tuple[SensitivityRow, ...]:
        """The rows that have an effect and are no mere reference points of laws."""
        return tuple(row for row in self.rows if row.elasticity and row.label.rpartition(".")[2] not in ANCHORS)

    def __str__(self) -> str:
        width = max((len(row.label) for row in self.relevant), default=9)
        lines = [
            f"objective {self.value:.6g}   relaxation {self.relaxation}",
            f"{'parameter':{width}}  {'elasticity':>11}  {'gradient':>11}  value",
        ]
        lines += [
            f"{r.label:{width}}  {r.elasticity:>+11.4f}  {r.gradient:>+11.3e}  {r.value:.5g} {r.unit}" for r in self.relevant
        ]
        lines.append(f"and {len(self.rows) - len(self.relevant)} parameters without effect or that only anchor a law")
        return "\n".join(lines)

    __repr__ = __str__


def sensitivity(objective: Callable[..., Any], tree: Any, relaxation: Relaxation = STRAIGHT_THROUGH) -> SensitivityTable:
    """Labelled gradients and elasticities of a scalar `objective(tree)` or `objective(tree, relaxation)`.

    An objective that takes no relaxation decides its own policy, and the table says "objective's own". Vector parameters get
    one row per element, "label[i]". Every gradient is finite; ValueError if the objective is not a finite scalar.
    """
    takes_policy = _takes_policy(objective)
    function = (lambda t: objective(t, relaxation)) if takes_policy else objective
    shape = getattr(jax.eval_shape(function, tree), "shape", None)
    if shape != ():
        raise ValueError(f"the objective has shape {shape}; a sensitivity needs a scalar")
    value, gradient = jax.jit(jax.value_and_grad(function))(tree)
    if not np.isfinite(value):
        raise ValueError(f"the objective is {float(value)}; a sensitivity needs a finite value")
    rows = [row for pair in zip(parameters(tree), parameters(gradient), strict=True) for row in _rows(*pair, float(value))]
    rows.sort(key=lambda row: -abs(row.elasticity))
    return SensitivityTable(tuple(rows), float(value), str(relaxation) if takes_policy else "objective's own")


def _takes_policy(objective: Callable[..., Any]) -> bool:
    """Whether the second argument is meant for a policy: it is called so, or it has no default."""
    given = list(inspect.signature(objective).parameters.values())
    return len(given) > 1 and (given[1].name == "relaxation" or given[1].default is inspect.Parameter.empty)


def _rows(parameter: Any, gradient: Any, objective: float) -> Iterator[SensitivityRow]:
    values, slopes = np.atleast_1d(np.asarray(parameter.value)), np.atleast_1d(np.asarray(gradient.value))
    for index, (value, slope) in enumerate(zip(values, slopes, strict=True)):
        label = parameter.label if np.ndim(parameter.value) == 0 else f"{parameter.label}[{index}]"
        scale = 1.0 if parameter.param.unit.startswith("ln") else float(value)
        elasticity = float(slope) * scale / objective if objective else 0.0
        yield SensitivityRow(label, float(value), parameter.param.unit, float(slope), elasticity)


def batched_gradients(objective: Callable[[Any], Any], trees: Any, chunk: int = CHUNK) -> tuple[jax.Array, Any]:
    """Values (n,) and gradients (like `trees`) of a scalar objective over a batch; see `chunked`."""
    return chunked(jax.value_and_grad(objective), trees, chunk)
