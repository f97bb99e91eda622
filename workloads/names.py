"""Names and aliases in any spelling: case, spaces, hyphens and underscores do not matter, and no two things may claim one.

The one index of everything that has a name is `workloads.resolution.shared_index`.
"""

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class UnknownName(ValueError, KeyError):
    """A name that nothing has; one line with close matches."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would quote it


def normalised(name: str) -> str:
    """A name in lower case without spaces, hyphens and underscores."""
    return "".join(c for c in name.lower() if c not in " -_\t")


def build_index(items: Iterable[Any]) -> dict[str, Any]:
    """Items by their normalised `name` and `aliases`, where they have some; ValueError if two claim the same one."""
    index: dict[str, Any] = {}
    for item in items:
        spellings = {normalised(n): n for n in (*getattr(item, "aliases", ()), item.name)}
        for key, spelling in spellings.items():
            if key in index:
                raise ValueError(f"name {spelling!r} is claimed by both {index[key].name!r} and {item.name!r}")
            index[key] = item
    return index


def find(name: str, items: Iterable[T], what: str) -> T:
    """The item called `name`; UnknownName (a ValueError and a KeyError) with close matches if there is none."""
    index, key = build_index(items), normalised(name)
    if key in index:
        return index[key]
    known = {spelling: str(item.name) for spelling, item in index.items()}
    close = difflib.get_close_matches(key, known, n=6, cutoff=0.55)
    hint = f"close: {', '.join(list(dict.fromkeys(known[c] for c in close))[:3])}" if close else _known(known.values())
    raise UnknownName(f"unknown {what} {name!r}; {hint}")


def _known(names: Iterable[str]) -> str:
    return f"known: {', '.join(dict.fromkeys(names))}"
