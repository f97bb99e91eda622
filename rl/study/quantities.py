"""Quantities as a person reads them."""

import numpy as np


def quantity(value: float, unit: str) -> str:
    """A value with an engineering prefix: 0.0012 s -> "1.2 ms"."""
    if not np.isfinite(value) or value == 0 or unit in ("1", ""):
        return f"{value:.4g} {unit}".replace(" 1", "").strip()
    exponent = int(np.clip(np.floor(np.log10(abs(value)) / 3 + 1e-9), -5, 5))
    prefix = {-5: "f", -4: "p", -3: "n", -2: "u", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}[exponent]
    return f"{value / 10.0 ** (3 * exponent):.4g} {prefix}{unit}"


def duration(seconds: float) -> str:
    """A time as a person says it: 23570 s -> "6.5 hours"."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.3g} s"
