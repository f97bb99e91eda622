"""Batch normalisation folded into the layer before it.

    s = gamma / sqrt(variance + epsilon),    w' = w s,    b' = (b - mean) s + beta

for the last (output channel) axis of the kernel. Exact for inference, where mean and variance are constants.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

BATCH_NORM_EPSILON = 1e-3  # Keras default, which the reference networks use


def fold_batch_norm(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of the same network with `folded=True`.

    `variables` has the collections "params" and "batch_stats" of a network whose layers are a "linear" part (kernel and
    bias) followed by a "norm" part (scale and bias; mean and var). Layers without a norm are kept.
    Raises ValueError if a collection or a layer's bias is missing.
    """
    for collection in ("params", "batch_stats"):
        if collection not in variables:
            raise ValueError(f"variables lack the collection {collection!r}; got {', '.join(sorted(variables)) or 'none'}")
    return {"params": _fold(variables["params"], variables["batch_stats"], "")}


def _fold(params: Mapping[str, Any], stats: Mapping[str, Any], path: str) -> dict[str, Any]:
    if "linear" in params and "norm" in params:
        return {"linear": _fold_layer(params["linear"], params["norm"], stats.get("norm", {}), path)}
    folded = {}
    for name, child in params.items():
        folded[name] = _fold(child, stats.get(name, {}), f"{path}/{name}") if isinstance(child, Mapping) else child
    return folded


def _fold_layer(linear: Mapping[str, Any], norm: Mapping[str, Any], stats: Mapping[str, Any], path: str) -> dict[str, Any]:
    for part, needed in ((linear, ("kernel", "bias")), (norm, ("scale", "bias")), (stats, ("mean", "var"))):
        if missing := [name for name in needed if name not in part]:
            raise ValueError(f"layer {path or '/'} has no {missing[0]!r}; it cannot be folded")
    scale = norm["scale"] / jnp.sqrt(stats["var"] + BATCH_NORM_EPSILON)
    kernel = linear["kernel"] * scale.reshape((1,) * (linear["kernel"].ndim - 1) + (-1,))
    return {"kernel": kernel, "bias": (linear["bias"] - stats["mean"]) * scale + norm["bias"]}
