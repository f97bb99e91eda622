"""Memory traces: 64-byte reads (and writes) in bursts. All accesses of a burst start together, the next when all are done."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from costmodel.memory.formats import CHUNK, BlockFormat
from costmodel.memory.manifests import LIMIT


@dataclasses.dataclass(frozen=True)
class MemoryTrace:
    """`addresses` (B), the number of the burst each belongs to (from 0, without gaps) and which are writes; equal lengths."""

    addresses: np.ndarray
    bursts: np.ndarray
    writes: np.ndarray

    def __post_init__(self) -> None:
        for name, column, kinds in (
            ("addresses", self.addresses, "iu"),
            ("bursts", self.bursts, "iu"),
            ("writes", self.writes, "b"),
        ):
            if column.size and column.dtype.kind not in kinds:
                wanted = "whole numbers" if kinds == "iu" else "True or False"
                raise ValueError(f"{name} of a trace must be {wanted}, got {column.dtype}")
        steps = np.diff(self.bursts, prepend=0)
        if not self.addresses.size or self.bursts.shape != self.addresses.shape or self.writes.shape != self.addresses.shape:
            raise ValueError("a trace needs at least one access, with a burst and a write flag each")
        if self.bursts[0] != 0 or (steps < 0).any() or (steps > 1).any():
            raise ValueError("bursts of a trace are numbered from 0 in order, without gaps")
        if (self.addresses < 0).any():
            raise ValueError(f"address = {self.addresses.min()} B of a trace is outside its range [0, {LIMIT - 1}] B")

    @property
    def bytes(self) -> int:
        """Bytes read."""
        return CHUNK * int(np.sum(~self.writes))

    @property
    def n_bursts(self) -> int:
        """Number of bursts."""
        return int(self.bursts[-1]) + 1


def trace_bursts(bursts: Iterable[Sequence[int] | np.ndarray], writes: Iterable[bool] | None = None) -> MemoryTrace:
    """A trace of lists of addresses (B), one list per burst; `writes` says which bursts write. ValueError if empty."""
    lists = [np.asarray(burst) for burst in bursts]
    if not lists or not all(burst.size for burst in lists):
        raise ValueError("a trace needs at least one burst, and every burst at least one address")
    lengths = [burst.size for burst in lists]
    flags = np.zeros(len(lists), bool) if writes is None else np.asarray(list(writes), bool)
    return MemoryTrace(np.concatenate(lists), np.repeat(np.arange(len(lists)), lengths), np.repeat(flags, lengths))


def trace_segments(segments: Iterable[tuple[int, int, int]]) -> MemoryTrace:
    """Contiguous reads: (first address in B, number of 64 B chunks, chunks per burst) each. ValueError for a count below 1."""
    bursts: list[np.ndarray] = []
    for start, chunks, burst in segments:
        if chunks < 1 or burst < 1:
            raise ValueError(f"segment at {start} B: chunks = {chunks}, burst = {burst}; both are outside [1, inf)")
        addresses = start + CHUNK * np.arange(chunks, dtype=np.int64)
        bursts += np.split(addresses, range(burst, chunks, burst))
    return trace_bursts(bursts)


def tile_addresses(offset: int, shape: tuple[int, int], origin: tuple[int, int], tile: tuple[int, int], fmt: BlockFormat) -> Any:
    """Chunk addresses of the rows of one tile of a row-major matrix at `offset`, each row's elements and then its scales.

    `shape` and `tile` are (rows, columns), `origin` the tile's first row and column, all in elements; the scales lie behind the
    elements. One chunk of scales per row, PLENA's rule (right up to 512 columns of MXFP8).
    """
    rows = origin[0] + np.arange(tile[0], dtype=np.int64)
    first = rows * shape[1] + origin[1]
    chunks = -(-tile[1] * fmt.element_bits // (8 * CHUNK))
    elements = offset + first[:, None] * fmt.element_bits // 8 + CHUNK * np.arange(chunks)
    if not fmt.scale_bits:
        return elements.ravel()
    scales = offset + (shape[0] * shape[1] * fmt.element_bits + first // fmt.block * fmt.scale_bits) // 8
    return np.concatenate([elements, scales[:, None] // CHUNK * CHUNK], 1).ravel()
