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
The windows of a convolution overlap: a word is fetched with every window that holds it, in the order above, and found in the
buffer while any of these copies is; positions beyond the edge (the tool's rounding up) ask for nothing.
Runs on the host in about a tenth of a microsecond per buffer read of a product, one word (element) each, as in the tool.

Source: scalesim 3.0.0 (PyPI): read_buffer.py, write_buffer.py, double_buffered_scratchpad_mem.py.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from costmodel.processors.systolic_counts import count_systolic_cycles, dataflow_index
from costmodel.processors.systolic_topologies import lower_convolution

Words = Int[np.ndarray, " requests"]
WordOf = Callable[[Words, Words], Words]
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


class Window(NamedTuple):
    """The inputs of a convolution, and how its windows lie in them."""

    height: int
    width: int
    kernel_height: int
    kernel_width: int
    channels: int
    stride: tuple[int, int]

    def words(self, position: Words, element: Words) -> Words:
        """The input word that is an element of the window at a position; -1 beyond the edge."""
        across = -(-(self.width - self.kernel_width) // self.stride[1]) + 1
        row, column = position // across * self.stride[0], position % across * self.stride[1]
        within, channel = np.divmod(element, self.channels)
        row, column = row + within // self.kernel_width, column + within % self.kernel_width
        inside = (row < self.height) & (column < self.width)
        return np.where(inside, (row * self.width + column) * self.channels + channel, -1)


@dataclasses.dataclass(frozen=True)
class Product:
    """One product on one array; its inputs may be windows."""

    m: int
    n: int
    k: int
    rows: int
    columns: int
    dataflow: int
    window: Window | None = None

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

    cycle: Words
    place: Words
    word: Words | None = None  # where places can hold the same word: which; -1 for none


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
    _check(m, n, k, rows, columns, buffers, bandwidth)
    return _simulated(Product(m, n, k, rows, columns, dataflow_index(dataflow)), buffers, bandwidth)


def simulate_convolution_stalls(
    height: int,
    width: int,
    kernel_height: int,
    kernel_width: int,
    channels: int,
    filters: int,
    stride: int | tuple[int, int] = 1,
    *,
    rows: int,
    columns: int,
    dataflow: str = "os",
    buffers: tuple[int, int, int] = (65536, 65536, 65536),
    bandwidth: int = 10,
) -> Stalls:
    """Stalls of a convolution whose inputs are held as they are, not as an im2col matrix; else as `simulate_stalls`.

    Sizes as for `lower_convolution`; ValueError as for both.
    """
    m, n, k, _ = lower_convolution(height, width, kernel_height, kernel_width, channels, filters, stride)
    _check(m, n, k, rows, columns, buffers, bandwidth)
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    window = Window(height, width, kernel_height, kernel_width, channels, strides)
    return _simulated(Product(m, n, k, rows, columns, dataflow_index(dataflow), window), buffers, bandwidth)


def _check(m: int, n: int, k: int, rows: int, columns: int, buffers: tuple[int, int, int], bandwidth: int) -> None:
    sizes = (m, n, k, rows, columns, bandwidth, *buffers)
    if min(sizes) < 1 or min(buffers) < 2 or len(buffers) != 3 or any(size % 1 for size in sizes):
        raise ValueError(
            f"sizes {sizes[:5]}, bandwidth {bandwidth} and buffers {buffers}: whole, at least 1, three buffers of 2 words or more"
        )


def _simulated(product: Product, buffers: tuple[int, int, int], bandwidth: int) -> Stalls:
    p, (down, across) = product, product.folds
    compute = int(count_systolic_cycles(p.m, p.n, p.k, p.rows, p.columns, p.dataflow))
    length = compute // (down * across)
    inputs = _operand(product, "inputs")
    streams = (inputs if p.window is None else _overlapping(inputs), _operand(product, "filters"))
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
    places: Int[np.ndarray, "words copies"] | None = None  # of every word, where `folds` name words in place of places

    def sets(self, fold: Requests, size: int) -> Int[np.ndarray, "requests *copies"]:
        """The sets of `size` words in which each request finds its word; one dimension where there is one of each."""
        return (fold.place if self.places is None else self.places[fold.place]) // size


def _operand(p: Product, name: str) -> _Stream:
    """Inputs stand still in `is`, filters in `ws`; else inputs (and the filters of `is`) come through the rows."""
    down, across = p.folds
    extent, wide, time = p.folded
    words = None if p.window is None or name == "filters" else p.window.words
    if (name, p.dataflow) in (("inputs", IS), ("filters", WS)):
        folds = [_stationary(p, fr, fc, words) for fc in range(across) for fr in range(down)]
        return _Stream(extent * across * p.columns, extent * wide, folds, list(range(down * across)))
    through_columns = name == "filters" and p.dataflow == OS
    count, width, size = (across, p.columns, wide) if through_columns else (down, p.rows, extent)
    turned = words if words is None or p.dataflow == OS else lambda element, position: words(position, element)
    folds = _streamed(count, width, size, time, 0 if p.dataflow == OS else p.rows, turned)
    order = [fc if through_columns else fr for fc in range(across) for fr in range(down)]
    return _Stream(count * time * width, size * time, folds, order)


def _overlapping(stream: _Stream) -> _Stream:
    """The stream with places that hold the same word known as such, and without those that hold none."""
    asked = [np.asarray(fold.word) for fold in stream.folds]
    fetched = np.concatenate(asked)[np.argsort(np.concatenate([fold.place for fold in stream.folds]), kind="stable")]
    fetched = fetched[fetched >= 0]
    known, index, count = np.unique(fetched, return_inverse=True, return_counts=True)
    order = np.argsort(index, kind="stable")
    copy = np.minimum(np.arange(count.max()), count[:, None] - 1)
    places = order[(np.cumsum(count) - count)[:, None] + copy]
    folds = [
        Requests(fold.cycle[word >= 0], np.searchsorted(known, word[word >= 0]))
        for fold, word in zip(stream.folds, asked, strict=True)
    ]
    return dataclasses.replace(stream, size=fetched.size, folds=folds, places=places)


def _streamed(count: int, width: int, extent: int, time: int, offset: int, words: WordOf | None) -> list[Requests]:
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
    columns = [tall + wide + offset, place] + ([] if words is None else [words(fold * width + wide, tall)])
    return [Requests(*parts) for parts in zip(*(np.split(column, bounds) for column in columns), strict=True)]


def _stationary(p: Product, fr: int, fc: int, words: WordOf | None) -> Requests:
    """One fold of the operand that is loaded row by row, the last one first, and fetched row by row."""
    extent, wide, _ = p.folded
    used = min(p.rows, extent - fr * p.rows)
    across = min(p.columns, wide - fc * p.columns)
    row, column = np.divmod(np.arange(used * across), across)
    row = used - 1 - row
    place = fc * p.columns * extent + (fr * p.rows + row) * across + column
    word = None if words is None else words(fc * p.columns + column, fr * p.rows + row)
    return Requests(p.rows - 1 - row, place, word)


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
            sets, at, step = stream.sets(fold, self.set_size), 0, 64
            while at < len(sets):
                outside = self._outside(sets[at : at + step], start, 1)
                missed = int(np.argmax(outside))
                if not outside[missed]:
                    at, step = at + step, min(2 * step, 65536)
                    continue
                at, step, moves = at + missed, 64, 0
                while self._outside(sets[at], start, 0):
                    start, moves = (start + self.ahead) % self.sets, moves + 1
                yield index * length + int(fold.cycle[at]), moves
        yield NEVER, 0

    def _outside(self, sets: Any, start: int, dimensions: int) -> Any:
        ahead = (sets - start) % self.sets
        return (ahead if ahead.ndim == dimensions else np.min(ahead, axis=-1)) >= self.active


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
