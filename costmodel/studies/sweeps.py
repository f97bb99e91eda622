"""Sweeps: an objective over a grid of any labelled parameters, as a labelled dataset.

The grid is evaluated in chunks of one compiled function, so memory stays bounded and a million points take seconds.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from costmodel.cost import UNITS, Cost
from physics import lookup, replace
from physics.params import check_range

if TYPE_CHECKING:
    import xarray

CHUNK = 16_384
MOST_POINTS = 100_000_000  # of a grid: what fits in memory with a dozen figures each


def sweep(
    objective: Callable[[Any], Any],
    tree: Any,
    vary: Mapping[str, Any],
    chunk: int = CHUNK,
    progress: Callable[[int, int], None] | None = None,
) -> "xarray.Dataset":
    """`objective(tree)` for every combination of the values in `vary`.

    `vary` maps parameter labels (see `physics.labels`) to 1-D values. `objective` returns a scalar, a `Cost`, or a dictionary or
    named tuple of scalars; every scalar becomes a variable with one dimension per varied label, with units where known.
    `progress(done, total)` is called after every chunk. Raises ValueError for an unknown label, a value outside its
    range, an empty axis or a result that is not scalar.
    """
    import xarray

    if chunk < 1:
        raise ValueError(f"chunk = {chunk} points is below 1")
    axes = {label: _axis(tree, label, values) for label, values in vary.items()}
    if not axes:
        raise ValueError("vary names no parameter; give at least one label, such as {'cell.retention.e_a': [...]}")
    shape = tuple(len(axis) for axis in axes.values())
    total = math.prod(shape)
    if total > MOST_POINTS:
        raise ValueError(f"the grid has {total:,} points; at most {MOST_POINTS:,} are swept at once")
    size = min(chunk, total)
    shapes = jax.eval_shape(objective, tree)
    _check_scalars(_variables(shapes))

    @jax.jit
    def evaluate(tree: Any, points: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return jax.vmap(lambda point: _variables(objective(replace(tree, point))))(points)

    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, total, size):
        index = np.minimum(np.arange(start, start + size), total - 1)
        grid = np.unravel_index(index, shape)
        points = {label: jnp.asarray(axis[i], float) for (label, axis), i in zip(axes.items(), grid, strict=True)}
        count = min(size, total - start)
        parts.append({name: np.asarray(value)[:count] for name, value in evaluate(tree, points).items()})
        if progress is not None:
            progress(start + count, total)
    variables = {name: np.concatenate([part[name] for part in parts]).reshape(shape) for name in parts[0]}
    return _dataset(xarray, tree, axes, variables, shapes)


def _axis(tree: Any, label: str, values: Any) -> np.ndarray:
    found = lookup(tree, label)
    if jnp.ndim(found.value) != 0:
        raise ValueError(f"{label} has shape {jnp.shape(found.value)}; a sweep varies scalar parameters")
    axis = np.asarray(values, dtype=np.float64)
    if axis.ndim != 1 or axis.size == 0:
        raise ValueError(f"{label}: the values of a sweep must be a non-empty 1-D sequence, got shape {axis.shape}")
    check_range(label, axis, found.param)
    return axis


def _variables(result: Any) -> dict[str, Any]:
    if isinstance(result, Cost):
        return {name: getattr(result, name) for name in UNITS}
    if isinstance(result, Mapping):
        return dict(result)
    if hasattr(result, "_asdict"):
        return result._asdict()
    return {"objective": result}


def _check_scalars(variables: dict[str, Any]) -> None:
    for name, value in variables.items():
        if not hasattr(value, "shape"):
            raise ValueError(f"the objective's {name!r} is a {type(value).__name__}; a sweep needs scalars")
        if value.shape != ():
            raise ValueError(f"the objective's {name!r} has shape {value.shape}; a sweep needs scalars")


def _dataset(
    xarray: Any, tree: Any, axes: dict[str, np.ndarray], variables: dict[str, np.ndarray], result: Any
) -> "xarray.Dataset":
    coords = {}
    for label, axis in axes.items():
        info = lookup(tree, label).param
        coords[label] = (label, axis, {"units": info.unit, "source": info.source})
    data = {name: (tuple(axes), value, {"units": UNITS[name]} if name in UNITS else {}) for name, value in variables.items()}
    attrs = {"relaxation": result.relaxation} if isinstance(result, Cost) else {}
    return xarray.Dataset(data, coords, attrs)
