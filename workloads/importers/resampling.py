"""Interpolation along one axis at places that are known beforehand: what importers make of resizing."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def nearest(x: Any, axis: int, source: np.ndarray) -> Any:
    """The elements at whole places `source`, held to the axis."""
    return jnp.take(x, np.clip(source, 0, x.shape[axis] - 1).astype(np.int32), axis)


def linear(x: Any, axis: int, source: np.ndarray) -> Any:
    """Between the two neighbours of each place in `source`; beyond an end, the last element."""
    low = np.clip(np.floor(source), 0, x.shape[axis] - 1)
    share = np.clip(source - low, 0.0, 1.0).astype(x.dtype).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    left, right = nearest(x, axis, low), nearest(x, axis, low + 1)
    return left + (right - left) * share
