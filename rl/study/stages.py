"""Stages of a study: each computes a JSON value once and keeps it, so that a killed study resumes where it was.

OUT/stages/<name>.json    {"settings": ..., "value": ...}, written aside and renamed
OUT/timings.json          wall times, apart from the results: they differ from run to run
"""

import hashlib
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl.files import read_json, write_json
from rl.study.settings import StudySettings


class StageStore:
    """The stages of one study in one folder. ValueError if the folder holds a study with other settings or by other code."""

    def __init__(self, out: Path, settings: StudySettings) -> None:
        self.out, self.settings = Path(out), settings.as_dict() | {"code": code_digest()}
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"{self.out} is not a folder; choose another --out")
        marker = self.out / "settings.json"
        if marker.exists():
            self._compare(read_json(marker))
        else:
            write_json(marker, self.settings)
        for leftover in self.out.rglob(".*.*"):  # what a killed write left beside its target
            leftover.unlink(missing_ok=True)
        timings = _read_or_none(self.out / "timings.json")
        self.timings: dict[str, float] = timings if isinstance(timings, dict) else {}

    def _compare(self, found: Any) -> None:
        found = found if isinstance(found, dict) else {}
        for name, value in self.settings.items():
            if found.get(name) != value:
                here = f"{name} = {found.get(name)}, not {value}"
                raise ValueError(f"{self.out} holds a study with {here}; choose another --out or remove it")

    def run(self, name: str, compute: Callable[[], Any], artefact: Path | None = None) -> Any:
        """The stage's value: read if it was computed before (and its `artefact`, a file, is there), else computed and kept."""
        path = self.out / "stages" / f"{name}.json"
        kept = _read_or_none(path)
        fits = isinstance(kept, dict) and kept.get("settings") == self.settings and "value" in kept
        if fits and (artefact is None or artefact.exists()):
            return kept["value"]
        start = time.perf_counter()
        value = compute()
        write_json(path, {"settings": self.settings, "value": value})
        self.note(name, time.perf_counter() - start)
        return read_json(path)["value"]

    def note(self, name: str, seconds: float) -> None:
        """Keep a wall time (s)."""
        self.timings[name] = round(self.timings.get(name, 0.0) + seconds, 3)
        write_json(self.out / "timings.json", self.timings)


def _read_or_none(path: Path) -> Any:
    """What a JSON file holds, or None if there is none or it is damaged: it is then made anew."""
    try:
        return read_json(path) if path.exists() else None
    except ValueError:
        return None


def code_digest() -> str:
    """A hash of the source of the four packages: results of different code are never mixed."""
    total = hashlib.sha256()
    for package in ("physics", "workloads", "costmodel", "rl"):
        for path in sorted(Path(importlib.import_module(package).__path__[0]).rglob("*.py")):
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:16]
