"""Timing of one DRAM channel, read by read, in whole picoseconds: first-ready first-come first-served on 16 banks.

A read takes a command slot (tCK), waits for its row, occupies its bank for CAS, then the data bus for the burst:

    t_read = tCK + tRCD + tCAS + t_burst                          a lone read of a closed bank: 30.821 ns
    n reads of one row           tCK + tRCD + n tCAS + t_burst
    n rows of one bank           t_read + (n - 1) (tRP + tRCD + tCAS)
    16 banks at once             tCK + tRCD + tCAS + 16 t_burst    bursts of 64 reads: 17.0 GB/s

A bank that has nothing to do closes its row after tRP; a read that arrives while it closes is served at its end. Waiting reads
of the open row go first. `outstanding` reads are in flight at most. No refresh, no tFAW, no tCCD: those of the published model
(AICrossSim/PLENA_Simulator, SimpleTiming), which this one follows to the picosecond. Ties are served in order of arrival.

The simulator runs on the host with Python integers: picoseconds of a second do not fit float32 or int32.
"""

import dataclasses
import heapq
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, no_type_check


@dataclasses.dataclass(frozen=True)
class DramTiming:
    """One channel; `clock` in ps, others in clocks; `bank_bits` of the address from bit 6, `row_bits` from bit 10 + bank_bits.

    `write_bank_shift` is where writes take their bank from; in the published model that differs from reads.
    """

    name: str
    clock: int
    cas: int
    rcd: int
    rp: int
    burst: int
    bank_bits: int = 4
    row_bits: int = 16
    outstanding: int = 16
    write_bank_shift: int = 6
    source: str = "assumed"

    def __post_init__(self) -> None:
        for field in ("clock", "cas", "rcd", "rp", "burst", "outstanding"):
            if (value := getattr(self, field)) < 1:
                raise ValueError(f"{self.name}: {field} = {value} is outside its range [1, inf)")

    @property
    def read_time(self) -> int:
        """A lone read of a closed bank (ps)."""
        return self.clock * (1 + self.rcd + self.cas + self.burst)

    @property
    def peak_bandwidth(self) -> float:
        """Bytes per second of the data bus."""
        return 64e12 / (self.burst * self.clock)


PLENA = "AICrossSim/PLENA_Simulator, SimpleTiming preset ddr4_2400p"
DDR4_2400 = DramTiming("ddr4-2400", 833, 16, 16, 16, 4, write_bank_shift=10, source=PLENA)
# 64 B over 16 bits are 32 transfers, 16 clocks: 1.6 GB/s, the peak of the Artix-7 boards.
DDR3_800_X16 = DramTiming("ddr3-800-x16", 2500, 6, 6, 6, 16, bank_bits=3, row_bits=15, source="JEDEC JESD79-3, bin 800E")
DRAMS = {timing.name: timing for timing in (DDR4_2400, DDR3_800_X16)}


@no_type_check  # of the next three: called millions of times, so left out of run-time checks
class Events:
    """A clock in whole picoseconds and what is still to happen; equal times in the order they were asked for."""

    def __init__(self) -> None:
        self.now = 0
        self._count = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []

    def after(self, delay: int, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` in `delay` ps."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay, self._count, action, arguments))

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._heap:
            self.now, _, action, arguments = heapq.heappop(self._heap)
            action(*arguments)


@no_type_check
class Slots:
    """`count` places; who finds none waits in line."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._line: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def take(self, then: Callable[..., None], *arguments: Any) -> None:
        """Call `then` once a place is free."""
        if self._free:
            self._free -= 1
            then(*arguments)
        else:
            self._line.append((then, arguments))

    def release(self) -> None:
        """Give a place back, or hand it to the first in line."""
        if self._line:
            then, arguments = self._line.popleft()
            then(*arguments)
        else:
            self._free += 1


class Access(NamedTuple):
    """One read or write on its way through the channel."""

    bank: int
    row: int
    write: bool
    then: Callable[[], None]


@no_type_check
class Dram:
    """The channel's state: what is in flight, and for every bank whether it is idle and who waits for it."""

    def __init__(self, timing: DramTiming, events: Events) -> None:
        t, self.after = timing, events.after
        self._shift, self._row, self._rows = t.write_bank_shift, 10 + t.bank_bits, (1 << t.row_bits) - 1
        self._slot, self._cas, self._burst = t.clock, t.cas * t.clock, t.burst * t.clock
        self._rcd, self._rp = t.rcd * t.clock, t.rp * t.clock
        self._flight = {False: Slots(t.outstanding), True: Slots(t.outstanding)}
        self._command, self._data = Slots(1), Slots(1)
        self._idle = [True] * (1 << t.bank_bits)
        self._waiting: list[list[Access]] = [[] for _ in self._idle]

    def access(self, address: int, write: bool, then: Callable[[], None]) -> None:
        """Read or write the 64 B at `address`; `then` is called when the data has passed the bus."""
        bank = (address >> (self._shift if write else 6)) & (len(self._idle) - 1)
        this = Access(bank, (address >> self._row) & self._rows, write, then)
        self._flight[write].take(self._command.take, self.after, self._slot, self._open, this)

    def _open(self, this: Access) -> None:
        if self._idle[this.bank]:
            self._idle[this.bank] = False
            self.after(self._rcd, self._hold, this)
        else:
            self._waiting[this.bank].append(this)
        self._command.release()

    def _hold(self, this: Access) -> None:
        if this.write:  # the row is not held: the published model pays no column time for writes
            self._leave(this)
        else:
            self.after(self._cas, self._leave, this)

    def _leave(self, this: Access) -> None:
        line = self._waiting[this.bank]
        if not line:
            self.after(self._rp, self._close, this.bank)
        else:
            hit = next((index for index, other in enumerate(line) if other.row == this.row), None)
            if hit is None:
                self.after(self._rp + self._rcd, self._hold, line.pop(0))
            else:
                self._hold(line.pop(hit))
        self._data.take(self.after, self._burst, self._finish, this)

    def _finish(self, this: Access) -> None:
        self._data.release()
        self._flight[this.write].release()
        this.then()

    def _close(self, bank: int) -> None:
        if self._waiting[bank]:
            self._hold(self._waiting[bank].pop(0))
        else:
            self._idle[bank] = True
