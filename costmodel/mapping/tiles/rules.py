"""How many buffers each tensor of an operation gets: the coefficients of the memory constraint, after Deeploy.

    single      1 for everything
    double      2 for what passes through, 1 for a scalar (at most one element)
    training    as double, but 1 for the whole operation if it is opted out or holds any scalar

An operation whose tensors have different coefficients gets neither a single- nor a double-buffered loop in Deeploy: its kernel
is emitted without transfers and reads stale data. That is what the scalar rule of training avoids; `Buffers.mixed` says where
`double` would run into it. With `outer_only`, only the hop to the outermost level is doubled (training from L3: two buffers of
everything in L2 as well would not fit). A result that takes an operand's storage (SGD, gradient accumulation) needs no buffer:
coefficient 0.

Opt-out sets: "proposed" and "pr22" are the first and the last state of runwangdl/Deeploy PR 22 (what was not seen to fail there
came off the list); "traindeeploy" is the later repository, which also keeps InPlaceAccumulatorV2 single on the outer hop. Its
`lazy_reset_grad` flag, a scalar that does not count as one, is no tensor here.
"""

from typing import NamedTuple

from physics.params import unknown_name
from workloads.nests import LoopNest, TensorInfo

OPT_OUTS: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "proposed": frozenset(("SGD", "InPlaceAccumulatorV2", "SoftmaxCrossEntropyLoss", "SoftmaxCrossEntropyLossGrad")),
    "pr22": frozenset(("SGD", "InPlaceAccumulatorV2", "SoftmaxCrossEntropyLossGrad")),
    "traindeeploy": frozenset(("SGD", "SoftmaxCrossEntropyLossGrad", "Transpose", "ConvGradW")),
}
STRATEGIES = ("single", "double", "training")


class Buffers(NamedTuple):
    """Buffers of every access of a nest at one hop, in the order of its accesses.

    `double`: whether the loop overlaps; `reason`: why it does not, if it might have; `mixed`: whether the bare rule would have
    left the kernel without transfers.
    """

    coefficients: tuple[int, ...]
    double: bool
    reason: str = ""
    mixed: bool = False


def buffers(
    nest: LoopNest,
    tensors: tuple[TensorInfo, ...],
    strategy: str = "training",
    *,
    opt_out: str = "pr22",
    outer: bool = False,
    outer_only: bool = False,
) -> Buffers:
    """Buffers of a nest's tensors at the hop into the innermost level, or into the level above it (`outer`).

    Raises ValueError for an unknown strategy or opt-out set.
    """
    for what, name, known in (("buffering", strategy, STRATEGIES), ("opt-out set", opt_out, OPT_OUTS)):
        if name not in known:
            raise ValueError(unknown_name(what, name, known))
    scalars = tuple(tensors[a.tensor].scalar for a in nest.accesses)
    mixed = any(scalars) and not all(scalars)
    reason = _single(nest, strategy, opt_out, any(scalars), outer, outer_only)
    double = strategy != "single" and not reason and not all(scalars)
    if strategy == "double" and mixed and double:
        double, reason = False, "mixed coefficients: no transfers would be emitted"
    each = [2 if strategy != "single" and not reason and not scalar else 1 for scalar in scalars]
    if strategy == "double" and mixed:
        each = [1 if scalar else 2 for scalar in scalars]
    return Buffers(
        tuple(0 if aliased else n for n, aliased in zip(each, in_place(nest, tensors), strict=True)), double, reason, mixed
    )


def in_place(nest: LoopNest, tensors: tuple[TensorInfo, ...]) -> tuple[bool, ...]:
    """Which accesses of a nest write into the storage of something that it reads."""
    read = {a.tensor for a in nest.accesses if not a.write}
    return tuple(a.write and tensors[a.tensor].alias in read for a in nest.accesses)


def _single(nest: LoopNest, strategy: str, opt_out: str, scalar: bool, outer: bool, outer_only: bool) -> str:
    """Why an operation stays single-buffered; empty if it does not."""
    if strategy == "single":
        return ""
    if outer_only and not outer:
        return "only the outer hop is doubled"
    if strategy == "double":
        return ""
    if nest.operator in OPT_OUTS[opt_out]:
        return f"{nest.operator} is opted out"
    if opt_out == "traindeeploy" and outer and nest.operator == "InPlaceAccumulatorV2":
        return "InPlaceAccumulatorV2 stays single on the outer hop"
    return "holds a scalar" if scalar else ""
