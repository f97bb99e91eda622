"""What stays on chip: tensors promoted from the outer memory to the one above it, for as long as they live.

    choose x_i in {0, 1} to maximise  sum benefit_i x_i,   sum of size_i x_i over the tensors alive at t  <=  room(t)  for all t

Benefit: the cycles of all transfers that are not made any more. TrainDeeploy estimates  accesses (200 + bytes / 4.0)  with the
number of accesses from the graph; an operation that is cut reads a tensor more than once, so accesses are tile trip counts.

    greedy   by benefit per byte, each where it still fits; what the compiler does
    exact    the integer program, by branch and bound (HiGHS): the benefit cannot be larger

Residency at the margin: adding s bytes over [lo, hi] raises the peak by max(0, max(profile[lo..hi]) + s - peak).
Source: runwangdl/TrainDeeploy, MemoryLevelAnnotationPasses.
"""

from typing import Any, NamedTuple, cast

import numpy as np

from costmodel.mapping.tiles.constraints import ALIGNMENT, Values
from physics.params import unknown_name

METHODS = ("greedy", "exact")


class Promotion(NamedTuple):
    """The tensors kept (positions), their summed benefit (cycles), the peak they reach (B), and whether nothing can be better."""

    kept: tuple[int, ...]
    benefit: float
    peak: float
    proven: bool


def saved_cycles(size: float, accesses: float, setup: float = 200.0, bandwidth: float = 4.0) -> float:
    """TrainDeeploy's benefit of one tensor: `accesses` transfers of `size` bytes at `setup` cycles and `bandwidth` B/cycle.

    Raises ValueError for a negative size or count, or a bandwidth that is not positive.
    """
    for name, value, unit in (("size", size, "B"), ("accesses", accesses, ""), ("setup", setup, "cycle")):
        if not value >= 0:
            raise ValueError(f"{name} = {value:g} {unit} is outside its range [0, inf)")
    if not bandwidth > 0:
        raise ValueError(f"bandwidth = {bandwidth:g} B/cycle is outside its range (0, inf) B/cycle")
    return accesses * (setup + size / bandwidth)


def marginal_peak(profile: np.ndarray, first: int, last: int, size: float) -> float:
    """Bytes by which the peak of a live profile rises if `size` bytes more live from step `first` to `last`, both included."""
    return max(0.0, float(profile[first : last + 1].max()) + size - float(profile.max()))


def promote(
    sizes: Values,
    benefits: Values,
    first: Values,
    last: Values,
    room: float | Values,
    method: str = "greedy",
) -> Promotion:
    """Which tensors (bytes, cycles saved, first and last step of life) to keep in a memory with `room` bytes (at each step).

    Raises ValueError for an unknown method, lists of different lengths, negative sizes or room, or a life that ends too early.
    """
    size = ALIGNMENT * np.ceil(np.asarray(sizes, float) / ALIGNMENT)
    value, begin, end = np.asarray(benefits, float), np.asarray(first, int), np.asarray(last, int)
    if method not in METHODS:
        raise ValueError(unknown_name("promotion method", method, METHODS))
    if not len(size) == len(value) == len(begin) == len(end):
        raise ValueError(f"sizes, benefits, first and last have {len(size)}, {len(value)}, {len(begin)} and {len(end)} entries")
    if (size < 0).any() or (np.asarray(room) < 0).any():
        raise ValueError("sizes and room are bytes: outside their range [0, inf) B")
    if (end < begin).any() or (begin < 0).any():
        raise ValueError("a tensor's last step is before its first, or its first before 0")
    steps = int(end.max(initial=0)) + 1
    if np.ndim(room) and len(np.asarray(room)) < steps:
        raise ValueError(f"room has {len(np.asarray(room))} steps; the tensors live for {steps}")
    free = np.broadcast_to(np.asarray(room, float), (steps,)) if not np.ndim(room) else np.asarray(room, float)[:steps]
    kept, proven = _greedy(size, value, begin, end, free), False
    if method == "exact":
        kept, proven = _exact(size, value, begin, end, free, kept)
    profile = _profile(size, begin, end, kept, steps)
    return Promotion(tuple(map(int, kept)), float(value[kept].sum()), float(profile.max(initial=0.0)), proven)


def _profile(size: np.ndarray, begin: np.ndarray, end: np.ndarray, kept: np.ndarray, steps: int) -> np.ndarray:
    change = np.zeros(steps + 1)
    np.add.at(change, begin[kept], size[kept])
    np.add.at(change, end[kept] + 1, -size[kept])
    return np.cumsum(change)[:-1]


def _greedy(size: np.ndarray, value: np.ndarray, begin: np.ndarray, end: np.ndarray, room: np.ndarray) -> np.ndarray:
    left, kept = room.astype(float).copy(), []
    for i in np.argsort(-value / np.maximum(size, 1.0), kind="stable"):
        life = slice(begin[i], end[i] + 1)
        if value[i] > 0 and left[life].min() >= size[i]:
            left[life] -= size[i]
            kept.append(int(i))
    return np.asarray(sorted(kept), int)


def _exact(
    size: np.ndarray, value: np.ndarray, begin: np.ndarray, end: np.ndarray, room: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, bool]:
    """The integer program over the tensors that save something; `start` if the solver gives up."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    some = np.flatnonzero(value > 0)
    if not len(some):
        return start, True
    alive = (begin[some] <= np.arange(len(room))[:, None]) & (np.arange(len(room))[:, None] <= end[some])
    distinct, row = np.unique(alive, axis=0, return_inverse=True)
    least = np.full(len(distinct), np.inf)
    np.minimum.at(least, row.ravel(), room)
    scale = value[some].max()
    found = milp(
        -value[some] / scale,
        constraints=LinearConstraint(csr_array(distinct * size[some]), cast(Any, -np.inf), cast(Any, least)),
        integrality=np.ones(len(some)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "time_limit": 60.0},
    )
    if found.x is None:
        return start, False
    kept = some[np.rint(found.x).astype(bool)]
    if value[kept].sum() < value[start].sum():
        return start, False
    return kept, bool(found.status == 0)
