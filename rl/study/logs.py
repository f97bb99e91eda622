"""Logs of training: the rows of metrics as CSV and as a TensorBoard event file, written while it runs.

    FOLDER/metrics.csv            one line per row; empty cells where nothing was counted (no episode ended, no update made)
    FOLDER/events.out.tfevents    the same as scalars train/<name> over environment steps

Every row is handed to the operating system before the next is trained; what a killed process left unfinished is cut off.
Training resumed from a checkpoint passes some rows again: they are compared with what stands here and not repeated, and a
log of another run is refused.
"""

import csv
import io
from pathlib import Path
from typing import Any

from rl.agents.records import Metrics
from rl.files import append_bytes, cut_to
from rl.study.event_files import EventFile

COUNTED_BY = {"episode_return": "episodes", "episode_length": "episodes", "loss": "updates", "mean_q": "updates"}


class TrainingLog:
    """The log of one training run in a folder; hand it to `rl.train(..., progress=TrainingLog("runs/first"))`.

    One row is logged per call; `chunk_steps=config.log_every` makes `rl.train` call for every row. Raises WriteError (an
    OSError) where the folder cannot be written, ValueError where it holds the log of another run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.table = Table(Path(folder) / "metrics.csv")
        self.events = EventFile(Path(folder) / "events.out.tfevents")

    def __call__(self, done: int, total: int, row: Metrics) -> None:
        """Log the newest row of metrics, unless it is there already."""
        cells = counted(row)
        self.table.append(cells)
        if done > self.events.last_step:
            scalars = {f"train/{name}": value for name, value in cells.items() if value is not None and name != "env_steps"}
            self.events.append(done, scalars)


def counted(row: Metrics) -> dict[str, Any]:
    """The numbers of a row by name; None for a mean over nothing."""
    cells = row._asdict()
    return {name: None if name in COUNTED_BY and not cells[COUNTED_BY[name]] else value for name, value in cells.items()}


class Table:
    """A CSV file whose first column, `env_steps`, only grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_bytes().decode(errors="replace") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        cut_to(path, len(whole.encode()))
        self.header, *rows = list(csv.reader(io.StringIO(whole))) or [[]]
        try:
            self.rows = {int(row[0]): row for row in rows}
        except (ValueError, IndexError):
            raise ValueError(f"{path} is not the log of a training run") from None

    def append(self, cells: dict[str, Any]) -> None:
        """Add a row, or compare it with the one that is there."""
        names, row = list(cells), [_text(value) for value in cells.values()]
        if self.header not in ([], names):
            raise ValueError(f"{self.path} holds another kind of run, with columns {', '.join(self.header)}: choose another log")
        step, last = cells["env_steps"], max(self.rows, default=-1)
        if step <= last:
            self._compare(step, names, row)
            return
        append_bytes(self.path, _line(row) if self.header else _line(names) + _line(row))
        self.header, self.rows[step] = names, row

    def _compare(self, step: int, names: list[str], row: list[str]) -> None:
        found = self.rows.get(step, row)
        different = [i for i in range(len(names)) if found[i : i + 1] != [row[i]]]
        if different:
            i = different[0]
            here = f"{names[i]} = {''.join(found[i : i + 1]) or 'none'} at step {step}, not {row[i] or 'none'}"
            raise ValueError(f"{self.path} holds another run, with {here}: choose another log or remove it")


def _text(value: Any) -> str:
    """A number so that a float32 is read back exactly."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.9g}"


def _line(cells: list[str]) -> bytes:
    return (",".join(cells) + "\n").encode()
