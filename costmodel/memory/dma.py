"""One transfer: a set-up time and a bandwidth, fitted to measured sizes and times.

    t = t0 + bytes / bandwidth

The fit is linear in t0 and 1 / bandwidth, in relative errors so that small and large transfers count alike. `criterion="worst"`
makes the largest error smallest (a linear programme), "squares" the sum of squares. On 21 blocking prefetches of 8 to 512 KiB
from stacks of 8 to 32 channels (Ramulator behind PLENA's emulator) a size held back between others is predicted within 9.7 %
by the first and 10.1 % by the second; the smallest, when it is held back, within 12 %: set-up overlaps where channels are many.
"""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import linprog

from physics import ParameterTree, param

Criterion = Literal["worst", "squares"]
Figures = Sequence[float] | np.ndarray
FITTED = "fitted"


class Transfer(ParameterTree):
    """A channel: set-up time and bandwidth."""

    setup: Float[Array, ""] = param(0.0, unit="s", lo=0.0, hi=1e3, source=FITTED)
    bandwidth: Float[Array, ""] = param(1e9, unit="B/s", lo=1e-3, hi=1e16, log=True, source=FITTED)

    def time(self, size: Float[Array, "*shape"] | float) -> Float[Array, "*shape"]:
        """Seconds for `size` bytes."""
        return self.setup + jnp.asarray(size, float) / self.bandwidth


def fit_transfer(sizes: Figures, times: Figures, *, setup: bool = True, criterion: Criterion = "worst") -> Transfer:
    """The transfer that fits `times` (s) of `sizes` (B) best in relative terms; `setup=False` fits the bandwidth alone.

    Raises ValueError for sizes or times that are not positive, for too few different sizes (two; one without set-up), or if
    time does not grow with size. The set-up time is at least 0.
    """
    size, time = np.asarray(sizes, np.float64), np.asarray(times, np.float64)
    if size.shape != time.shape or size.ndim != 1 or not (size > 0).all() or not (time > 0).all():
        raise ValueError("sizes (B) and times (s) of a fit are positive sequences of equal length")
    if np.unique(size).size < (2 if setup else 1):
        raise ValueError(f"a fit needs {2 if setup else 1} different sizes, got {np.unique(size).size}")
    scale = np.array([time.min(), time.max() / size.max()])  # both unknowns near 1
    terms = scale * np.stack([np.ones_like(size), size], 1) / time[:, None]
    start, slope = scale * (_worst if criterion == "worst" else _squares)(terms, setup)
    if not slope > 1e-9 * scale[1]:
        raise ValueError("times (s) of a fit must grow with sizes (B)")
    return Transfer(setup=float(start), bandwidth=1 / float(slope))


def _squares(terms: np.ndarray, setup: bool) -> np.ndarray:
    """Least squares of terms x - 1, x >= 0; without set-up the first unknown is 0."""
    both = np.linalg.lstsq(terms, np.ones(len(terms)), rcond=None)[0]
    if setup and both[0] >= 0:
        return both
    return np.array([0.0, terms[:, 1].sum() / np.square(terms[:, 1]).sum()])


def _worst(terms: np.ndarray, setup: bool) -> np.ndarray:
    """The x >= 0 with the smallest largest |terms x - 1|."""
    bound = np.ones((len(terms), 1))
    matrix = np.block([[terms, -bound], [-terms, -bound]])
    limits = [(0, None if setup else 0), (0, None), (0, None)]
    found = linprog([0, 0, 1], A_ub=matrix, b_ub=np.concatenate([bound, -bound]).ravel(), bounds=limits)
    return found.x[:2]


def held_back_errors(sizes: Figures, times: Figures, criterion: Criterion = "worst") -> np.ndarray:
    """Relative error at every size when the fit is made without it, in the order of `sizes`; ValueError below 3 sizes."""
    size, time = np.asarray(sizes, np.float64), np.asarray(times, np.float64)
    if np.unique(size).size < 3:
        raise ValueError(f"holding one size back needs 3 different sizes, got {np.unique(size).size}")
    errors = np.zeros_like(size)
    for held in np.unique(size):
        rest = size != held
        fit = fit_transfer(size[rest], time[rest], criterion=criterion)
        errors[~rest] = float(fit.setup + held / fit.bandwidth) / time[~rest] - 1
    return errors
