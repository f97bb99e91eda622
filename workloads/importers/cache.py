"""Profiles remembered by content: the same computation is analysed once, whatever object it came in.

A key is a hash of everything the table depends on (the text of the traced program or the bytes of the file, shapes, options),
never the identity of an object: identities are reused after garbage collection, and then a stale profile would be found.
"""

import collections
import hashlib
import threading
from collections.abc import Callable
from typing import NamedTuple

from workloads.ops import OpTable

MOST_ENTRIES = 256


class CacheInfo(NamedTuple):
    """How often a profile was found, how often it had to be made, and how many are kept."""

    hits: int
    misses: int
    entries: int


class ProfileCache:
    """The most recently used tables."""

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self.most, self.hits, self.misses = most, 0, 0
        self._tables: collections.OrderedDict[str, OpTable] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], OpTable]) -> OpTable:
        """The table under `key`, made if it is not there."""
        with self._lock:
            if key in self._tables:
                self.hits += 1
                self._tables.move_to_end(key)
                return self._tables[key]
        table = make()
        with self._lock:
            self.misses += 1
            self._tables[key] = table
            while len(self._tables) > self.most:
                self._tables.popitem(last=False)
        return table

    def clear(self) -> None:
        """Forget everything, the counts too."""
        with self._lock:
            self._tables.clear()
            self.hits = self.misses = 0


PROFILES = ProfileCache()


def key_of(*parts: object) -> str:
    """A hash of texts and bytes."""
    total = hashlib.sha256()
    for part in parts:
        piece = part if isinstance(part, bytes) else repr(part).encode()
        total.update(f"{len(piece)}:".encode() + piece)
    return total.hexdigest()


def profile_cache_info() -> CacheInfo:
    """Hits, misses and entries of the cache behind `profile` and `load`."""
    return CacheInfo(PROFILES.hits, PROFILES.misses, len(PROFILES._tables))
