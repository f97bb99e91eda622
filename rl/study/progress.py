"""Live progress on standard error: what is being done, a bar, the rate, the newest result and the remaining time."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from rl.study.quantities import duration

COUNTED = 100  # a total above this counts environment steps, below it stages of a study


@runtime_checkable
class Report(Protocol):
    """Says how far something is: `done` of `total`, with a note such as the newest return."""

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None: ...


def silent(what: str, done: int, total: int, note: str = "") -> None:
    """A report that nobody hears."""


class RateColumn(ProgressColumn):
    """Steps per second since the task began."""

    def render(self, task: Task) -> Text:
        """ "12,345 steps/s", or nothing before there is a rate."""
        rate = task.finished_speed or task.speed
        return Text(f"{rate:,.0f} steps/s" if rate and task.total and task.total > COUNTED else "")


@contextlib.contextmanager
def live_progress() -> Iterator[Report]:
    """A function `progress(what, done, total, note)` that draws bars on a terminal, and prints lines elsewhere.

    On a terminal a bar begins when it is first reported, elsewhere the rate is that since the first report.
    """
    with _interrupts() as asked, _drawn() as draw:

        def progress(what: str, done: int, total: int, note: str = "") -> None:
            if asked.is_set():
                raise KeyboardInterrupt
            draw(what, done, total, note)

        yield progress


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that is set once the user has asked to stop.

    Python cannot raise while it cleans up (a collector's callback, a finalizer): it prints such an interrupt and drops it. Here
    it is not printed, and the next report raises it again. One that a library turned into its own error is an interrupt still.
    """
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        asked.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    print_dropped, before = sys.unraisablehook, signal.signal(signal.SIGINT, ask)
    sys.unraisablehook = lambda dropped: None if dropped.exc_type is KeyboardInterrupt else print_dropped(dropped)
    try:
        yield asked
    except Exception as error:
        if asked.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        sys.unraisablehook = print_dropped
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _drawn() -> Iterator[Report]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lines(lambda text: print(text, file=sys.stderr, flush=True), time.monotonic)
        return
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), RateColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), TimeRemainingColumn(), console=console) as bars:
        known = {}

        def progress(what: str, done: int, total: int, note: str = "") -> None:
            counted = total > COUNTED
            name = what if counted else "study"
            if name not in known:
                known[name] = bars.add_task(name, total=total, note="")
            description = what if counted else f"study: {what}"
            bars.update(known[name], completed=done, total=total, description=description)
            if note:
                bars.update(known[name], note=note)

        yield progress


def lines(write: Callable[[str], None], clock: Callable[[], float], every: float = 5.0) -> Report:
    """Reports as lines, of counted things at most one per `every` seconds and the last."""
    began: dict[str, tuple[float, int]] = {}
    notes: dict[str, str] = {}
    written = -every

    def progress(what: str, done: int, total: int, note: str = "") -> None:
        nonlocal written
        now = clock()
        notes[what] = note or notes.get(what, "")
        start, first = began.setdefault(what, (now, done))
        counted = total > COUNTED
        if counted and done < total and now - written < every:
            return
        written = now
        rate = (done - first) / (now - start) if counted and now > start else 0.0
        facts = [f"{rate:,.0f} steps/s"] if rate > 0 else []
        facts += [notes[what]] if notes[what] else []
        facts += [f"{duration((total - done) / rate)} left"] if rate > 0 and done < total else []
        write(", ".join([f"tempo: {what} {done:,}/{total:,}", *facts]))

    return progress
