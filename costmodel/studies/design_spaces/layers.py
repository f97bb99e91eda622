"""Products of real layers."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from workloads import TRANSFORMERS, decode, list_networks, load, prefill


def layer_products(networks: Iterable[str] | None = None) -> Int[np.ndarray, "products 3"]:
    """The distinct products m, n, k of real layers: of named networks, or of all that this package knows.

    All are the catalog's networks and, of every transformer, a prefill of 512 tokens and a decoding step of 8 sequences at 2048.
    """
    if networks is None:
        named = [load(name) for suite in ("mlperf-tiny", "vision", "spiking") for name in list_networks(suite)]
        models = TRANSFORMERS.values()
        tables = named + [prefill(model, 512) for model in models] + [decode(model, 2048, 8) for model in models]
    else:
        tables = [load(name) for name in networks]
    rows = [np.stack([t.m, t.n, t.k], axis=1)[np.asarray(t.mask) & (np.asarray(t.macs) > 0)] for t in tables]
    return np.unique(np.concatenate(rows).astype(np.int32), axis=0)
