"""One published figure, or a series of them, beside what a model says."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Figures = Sequence[float] | np.ndarray


class ValidationRow(NamedTuple):
    """A published figure beside the model's; `role` is "calibrated", "predicted" or "reproduced" (arithmetic of the source).

    A row that stands for a series of `points` shows the worst of them; `mean_error` is the mean of their absolute errors.
    """

    target: str
    quantity: str
    unit: str
    published: float
    modelled: float
    role: str
    source: str
    points: int = 1
    mean_error: float | None = None

    @property
    def error(self) -> float:
        """Relative error, signed; of the worst point of a series."""
        return self.modelled / self.published - 1


def series(target: str, quantity: str, unit: str, published: Figures, modelled: Figures, role: str, source: str) -> ValidationRow:
    """One row for equally long sequences of figures: the worst point; `quantity` says how many and their mean error."""
    known, ours = np.asarray(published, np.float64), np.asarray(modelled, np.float64)
    errors = np.abs(ours / known - 1)
    worst, mean = int(np.argmax(errors)), float(np.mean(errors))
    named = f"{quantity} ({known.size}: mean {100 * mean:.1f} %)"
    return ValidationRow(target, named, unit, float(known[worst]), float(ours[worst]), role, source, known.size, mean)
