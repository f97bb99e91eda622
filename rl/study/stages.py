"""Stages of a study: each computes a JSON value once and keeps it, so that a killed study resumes where it was.

OUT/stages/<name>.json    {"settings": ..., "value": ...}, written aside and renamed
OUT/timings.json          wall times, apart from the results: they differ from run to run
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl.files import read_json, write_json
from rl.study.settings import StudySettings


class StageStore:
    """The stages of one study in one folder. ValueError if the folder holds a study with other settings."""

    def __init__(self, out: Path, settings: StudySettings) -> None:
        self.out, self.settings = Path(out), settings.as_dict()
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"{self.out} is not a folder; choose another --out")
        marker = self.out / "settings.json"
        if marker.exists():
            self._compare(read_json(marker))
        else:
            write_json(marker, self.settings)
        timings = self.out / "timings.json"
        self.timings: dict[str, float] = read_json(timings) if timings.exists() else {}

    def _compare(self, found: Any) -> None:
        found = found if isinstance(found, dict) else {}
        for name, value in self.settings.items():
            if found.get(name) != value:
                raise ValueError(
                    f"{self.out} holds a study with {name} = {found.get(name)}, not {value}; choose another --out or remove it"
                )

    def run(self, name: str, compute: Callable[[], Any]) -> Any:
        """The stage's value: read if it was computed before, else computed and kept."""
        path = self.out / "stages" / f"{name}.json"
        if path.exists():
            return read_json(path)["value"]
        start = time.perf_counter()
        value = compute()
        write_json(path, {"settings": self.settings, "value": value})
        self.note(name, time.perf_counter() - start)
        return read_json(path)["value"]

    def note(self, name: str, seconds: float) -> None:
        """Keep a wall time (s)."""
        self.timings[name] = round(self.timings.get(name, 0.0) + seconds, 3)
        write_json(self.out / "timings.json", self.timings)
