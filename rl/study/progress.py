"""Live progress on standard error: what is being done, a bar, the rate and the remaining time."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class RateColumn(ProgressColumn):
    """Steps per second since the task began."""

    def render(self, task: Task) -> Text:
        """ "12,345/s", or nothing before there is a rate."""
        rate = task.finished_speed or task.speed
        return Text(f"{rate:,.0f}/s" if rate and task.total and task.total > 100 else "")


@contextlib.contextmanager
def live_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A function `progress(what, done, total)` that draws bars on a terminal, and prints a line every few seconds elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bars:
        known = {}

        def progress(what: str, done: int, total: int) -> None:
            counted = total > 100
            name = what if counted else "study"
            if name not in known:
                known[name] = bars.add_task(name, total=total)
            bars.update(known[name], completed=done, total=total, description=what if counted else f"study: {what}")

        yield progress


def _lines(every: float = 5.0) -> Callable[[str, int, int], None]:
    began: dict[str, tuple[float, int]] = {}
    last = [0.0]

    def progress(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        start, first = began.setdefault(what, (now, done))
        counted = total > 100
        if counted and done < total and now - last[0] < every:
            return
        last[0] = now
        rate = (done - first) / (now - start) if counted and now > start else 0.0
        more = f", {rate:,.0f}/s, {(total - done) / rate:.0f} s left" if rate > 0 else ""
        print(f"tempo: {what} {done:,}/{total:,}{more}", file=sys.stderr, flush=True)

    return progress
