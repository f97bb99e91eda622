"""The rules of ONNX operators, gathered by the modules beside this one.

Source: the operator schemas of ONNX (onnx.ai/onnx/operators), operator sets 1 to 23.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from workloads.importers.nodes import Op, Rules, Unsupported, integers

RULES = Rules()
rule = RULES.rule


def axis_of(op: Op, value: Any, default: int) -> int:
    """The attribute `axis`, counted from the front."""
    axis, rank = int(op.get("axis", default)), np.ndim(value)
    if not -rank <= axis <= max(rank - 1, 0):
        raise Unsupported(f"node {op.name!r} ({op.kind}): axis = {axis} is outside its range [{-rank}, {rank - 1}]")
    return axis % rank if rank else 0


def axes_of(op: Op, given: Any, rank: int) -> tuple[int, ...] | None:
    """Axes from an attribute (older sets) or an input (newer ones), counted from the front; None where neither is there."""
    axes: Sequence[int] | None = op.get("axes") if given is None else integers(op, given, "axes")
    return None if axes is None else tuple(int(a) % max(rank, 1) for a in axes)
