"""Stalls of a systolic array on its memory, move by move, as SCALE-Sim 3.0.0 counts them with a given bandwidth.

Each operand has a buffer of B words; a hundred equal sets of them, half of which are active, slide over the operand in the order
of its first use, and start again from the front at its end. A word outside the active half moves the window on by one half, until
the word is inside; each move brings B / 2 words at `bandwidth` words per cycle and starts when the one before it has ended:

    moves follow from the order of requests alone, not from time;
    the k-th move of a buffer ends at  k (ceil(B / 2 / bandwidth) + 1) - 1,  and the array waits for it.

So an operand that is streamed again does not jump back, it goes round once (and a fold border whose diagonals straddle a window
does so too): where the tool thrashes, so does this model. Outputs fill a buffer whose other half drains at `bandwidth`.
Reported is the tool's "total cycles", the index of the last cycle: compute cycles - 1 + stalls.

Where a wait is found the tool adds it twice, and what it moved too early it takes off the next one; that is kept, because the
point is to agree with it. For costs and gradients see `Systolic`, which has none of these accidents.
Runs on the host in about a tenth of a microsecond per buffer read; exact for M, N, K products (one word per element, as in the
tool). A convolution is taken as its product: the tool finds overlapping windows in the buffer more often.

Source: scalesim 3.0.0 (PyPI): read_buffer.py, write_buffer.py, double_buffered_scratchpad_mem.py.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from costmodel.processors.systolic_counts import count_systolic_cycles, dataflow_index

OS, WS, IS = range(3)
SETS, ACTIVE = 100, 0.5  # sets of a buffer, the part of it that serves requests
NEVER = 2**62


class Stalls(NamedTuple):
    """What a run takes with its memory: cycles (without the index shift of `total`), and words to and from the memory."""

    total: int  # as the tool reports it: compute - 1 + stall
    stall: int
    compute: int
    inputs: int
    filters: int
    outputs: int


@dataclasses.dataclass(frozen=True)
class Product:
    """One product on one array."""

    m: int
    n: int
    k: int
    rows: int
    columns: int
    dataflow: int

    @property
    def folded(self) -> tuple[int, int, int]:
        """Extents along the rows, the columns and in time."""
        return ((self.m, self.n, self.k), (self.k, self.n, self.m), (self.k, self.m, self.n))[self.dataflow]

    @property
    def folds(self) -> tuple[int, int]:
        """Folds along the rows and the columns."""
        return -(-self.folded[0] // self.rows), -(-self.folded[1] // self.columns)


class Requests(NamedTuple):
    """Requests of one operand in one fold: the cycle within the fold, and the place of the word in the order of first use."""

    cycle: Int[np.ndarray, " requests"]
    place: Int[np.ndarray, " requests"]


def simulate_stalls(
    m: int,
    n: int,
    k: int,
    *,
    rows: int,
    columns: int,
    dataflow: str = "os",
    buffers: tuple[int, int, int] = (65536, 65536, 65536),
    bandwidth: int = 10,
) -> Stalls:
    """Stalls of an (m, k) x (k, n) product with `buffers` for inputs, filters and outputs (words) and `bandwidth` (words/cycle).

    All are whole numbers of at least 1 (buffers: 2); the bandwidth is each buffer's own. ValueError for others.
    """
    if min(m, n, k, rows, columns, bandwidth) < 1 or min(buffers) < 2:
        raise ValueError(
            f"sizes {(m, n, k, rows, columns)}, bandwidth {bandwidth} and buffers {buffers}: at least 1, buffers 2 words"
        )
    product = Product(m, n, k, rows, columns, dataflow_index(dataflow))
    compute = int(count_systolic_cycles(m, n, k, rows, columns, dataflow))
    down, across = product.folds
    length = compute // (down * across)
    streams = (_operand(product, "inputs"), _operand(product, "filters"))
    readers = [_Reader(stream, size, bandwidth, length) for stream, size in zip(streams, buffers[:2], strict=True)]
    writer = _Writer(np.cumsum(_writes(product, length)), buffers[2], bandwidth)
    stall, last = _run(readers, writer, compute)
    return Stalls(last, stall, compute, readers[0].words, readers[1].words, writer.drain_all())


def _run(readers: list["_Reader"], writer: "_Writer", compute: int) -> tuple[int, int]:
    """Stall cycles and the cycle at which the last row is served: from event to event."""
    stall, row, late = 0, 0, 0
    while (row := min(*(reader.row for reader in readers), writer.next_event(stall))) < compute:
        waits = [reader.wait(row, row + stall) for reader in readers]
        late = writer.wait(row, row + stall)
        last = row + stall + late
        stall += max(*waits, late)
        if row == compute - 1:
            return stall, last
    return stall, compute - 1 + stall


@dataclasses.dataclass(frozen=True)
class _Stream:
    """An operand: words with padding (which only the first fetch counts), words, and its requests fold by fold."""

    padded: int
    size: int
    folds: list[Requests]
    order: list[int]  # which of `folds` each fold of the run asks for


def _operand(p: Product, name: str) -> _Stream:
    """Inputs stand still in `is`, filters in `ws`; else inputs (and the filters of `is`) come through the rows."""
    down, across = p.folds
    extent, wide, time = p.folded
    if (name, p.dataflow) in (("inputs", IS), ("filters", WS)):
        folds = [_stationary(p, fr, fc) for fc in range(across) for fr in range(down)]
        return _Stream(extent * across * p.columns, extent * wide, folds, list(range(down * across)))
    through_columns = name == "filters" and p.dataflow == OS
    count, width, size = (across, p.columns, wide) if through_columns else (down, p.rows, extent)
    folds = _streamed(count, width, size, time, 0 if p.dataflow == OS else p.rows)
    order = [fc if through_columns else fr for fc in range(across) for fr in range(down)]
    return _Stream(count * time * width, size * time, folds, order)


def _streamed(count: int, width: int, extent: int, time: int, offset: int) -> list[Requests]:
    """Folds of an operand that runs through the array: skewed, and fetched along the diagonals of all folds in a row."""
    t, c = np.divmod(np.arange(time * width), width)
    order = np.argsort((t + c) * width + c, kind="stable")
    t, c = t[order], c[order]
    fold = np.repeat(np.arange(count), t.size)
    tall, wide = np.tile(t, count), np.tile(c, count)
    valid = fold * width + wide < extent
    fold, tall, wide = fold[valid], tall[valid], wide[valid]
    place = np.empty(fold.size, np.int64)
    place[np.argsort((fold * time + tall + wide) * width + wide, kind="stable")] = np.arange(fold.size)
    bounds = np.searchsorted(fold, np.arange(1, count))
    return [Requests(*pair) for pair in zip(np.split(tall + wide + offset, bounds), np.split(place, bounds), strict=True)]


def _stationary(p: Product, fr: int, fc: int) -> Requests:
    """One fold of the operand that is loaded row by row, the last one first, and fetched row by row."""
    extent, wide, _ = p.folded
    used = min(p.rows, extent - fr * p.rows)
    across = min(p.columns, wide - fc * p.columns)
    row, column = np.divmod(np.arange(used * across), across)
    row = used - 1 - row
    place = fc * p.columns * extent + (fr * p.rows + row) * across + column
    return Requests(p.rows - 1 - row, place)


def _writes(p: Product, length: int) -> Int[np.ndarray, " cycles"]:
    """Outputs that leave the array in every cycle."""
    extent, wide, time = p.folded
    counts = []
    for fc in range(p.folds[1]):
        across = min(p.columns, wide - fc * p.columns)
        for fr in range(p.folds[0]):
            used = min(p.rows, extent - fr * p.rows) if p.dataflow == OS else time
            start = time - 1 + p.rows - used if p.dataflow == OS else 2 * p.rows - 1
            j = np.arange(used + across - 1)
            fold = np.zeros(length, np.int64)
            fold[start : start + j.size] = np.minimum(np.minimum(j + 1, j[::-1] + 1), min(used, across))
            counts.append(fold)
    return np.concatenate(counts)


class _Reader:
    """A window that slides over an operand; `row` is the next row at which it has to move."""

    def __init__(self, stream: _Stream, size: int, bandwidth: int, length: int) -> None:
        active = int(np.ceil(size * ACTIVE))
        self.set_size = -(-size // SETS)
        self.sets = stream.size // self.set_size + 1
        self.active = min(-(-active // self.set_size), self.sets)
        self.ahead = min(-(-(size - active) // self.set_size), self.sets - self.active)
        first = min(-(-active // bandwidth), -(-stream.padded // bandwidth))
        self.lines = -(-(size - active) // bandwidth)
        self.words, self.bandwidth, self.ended = first * bandwidth, bandwidth, -1
        self.events = self._moves(stream, length)
        self.row, self.moves = next(self.events)

    def wait(self, row: int, cycle: int) -> int:
        """Cycles (negative: ahead of time) that row `row`, asked for at `cycle`, has to wait."""
        offset = 1
        while self.row == row:
            for _ in range(self.moves):
                self.ended += self.lines + 1
                late = self.ended - (cycle + offset)
                offset += late + max(late, 0)
            self.words += self.moves * self.lines * self.bandwidth
            self.row, self.moves = next(self.events)
        return offset - 1

    def _moves(self, stream: _Stream, length: int) -> Iterator[tuple[int, int]]:
        """Rows and numbers of moves, in order; at last a row that never comes."""
        start = 0
        for index, which in enumerate(stream.order if self.ahead else ()):
            fold = stream.folds[which]
            sets, at, step = fold.place // self.set_size, 0, 64
            while at < sets.size:
                outside = (sets[at : at + step] - start) % self.sets >= self.active
                missed = int(np.argmax(outside))
                if not outside[missed]:
                    at, step = at + step, min(2 * step, 65536)
                    continue
                at, step, moves = at + missed, 64, 0
                while (int(sets[at]) - start) % self.sets >= self.active:
                    start, moves = (start + self.ahead) % self.sets, moves + 1
                yield index * length + int(fold.cycle[at]), moves
        yield NEVER, 0


class _Writer:
    """The output buffer: lines of `bandwidth` words, half of the buffer drained at a time."""

    def __init__(self, written: Int[np.ndarray, " cycles"], size: int, bandwidth: int) -> None:
        self.written, self.size, self.bandwidth = written, size, bandwidth
        self.drain = size - int(np.ceil(size * ACTIVE))
        self.held, self.drained_at, self.words, self.row = 0, 0, 0, 0
        self.fresh, self.lines = 0, []  # words since the last drain; and before: [full lines, words of a last line]

    def next_event(self, stall: int) -> int:
        """The next row at which a drain starts or the buffer is full."""
        before = self._before(self.row)
        over = self._reaches(before + self.drain - self.held + 1)
        ready = max(over, self.drained_at - stall, self.row)
        starts = self._reaches(self._before(ready) + 1) if ready < self.written.size else NEVER
        return min(starts, self._reaches(before + self.size - self.held))

    def wait(self, row: int, cycle: int) -> int:
        """Cycles that row `row`, written at `cycle`, has to wait; the rows before it had none."""
        self._store(self._before(row) - self._before(self.row))
        now = cycle
        for _ in range(int(self.written[row]) - self._before(row)):
            self._store(1)
            if now < self.drained_at:
                now = self.drained_at if self.held >= self.size else now
            elif self.held > self.drain:
                self.drained_at = now + self._take(-(-self.drain // self.bandwidth)) - 1
        self.row = row + 1
        return now - cycle

    def drain_all(self) -> int:
        """Words written to memory in all, once what is left has gone out as well."""
        if self.row < self.written.size:
            self._store(int(self.written[-1]) - self._before(self.row))
        while self._take(-(-self.drain // self.bandwidth)):
            pass
        return self.words

    def _before(self, row: int) -> int:
        return int(self.written[row - 1]) if row else 0

    def _reaches(self, count: int) -> int:
        row = int(np.searchsorted(self.written, count))
        return max(row, self.row) if row < self.written.size else NEVER

    def _store(self, count: int) -> None:
        self.held, self.fresh = self.held + count, self.fresh + count

    def _take(self, most: int) -> int:
        """Lines taken off the front, at most `most`; a part-filled one in the middle counts as full, as in the tool."""
        if self.fresh:
            self.lines.append(list(divmod(self.fresh, self.bandwidth)))
            self.fresh = 0
        taken, missing = 0, 0
        while self.lines and taken < most:
            full = min(self.lines[0][0], most - taken)
            self.lines[0][0] -= full
            taken, missing = taken + full, 0 if full else missing
            if self.lines[0][0] == 0 and (self.lines[0][1] == 0 or taken < most):
                part = self.lines.pop(0)[1]
                taken, missing = taken + (part > 0), self.bandwidth - part if part else missing
        words = taken * self.bandwidth - missing
        self.words, self.held = self.words + words, self.held - words
        return taken
