"""Reading HDF5 files that nobody vouches for, as nested dictionaries.

Only groups, numbers and texts are read. The walk has a bounded depth and a bounded number of groups and bytes, counted before
anything is loaded and as they are once unpacked; it follows no links, so that a file cannot reach another. Refused are data kept
in other files, filters that HDF5 would load as plug-ins, and element types other than numbers and text (references, opaque and
compound ones). Groups called "metadata" are left out.

The HDF5 library itself loops for ever on some damaged files. So the walk runs in a
process of its own with bounded processor time and memory: this file, run as a script, which is why it imports nothing of the
package. It answers with the texts as JSON and the arrays as .npy, neither of which can carry code.
"""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

FILE_LIMIT = 2**29  # bytes, of the file
DATA_LIMIT = 2**29  # bytes, of all numbers in it once unpacked
MOST_TEXTS = 20_000  # entries of one dataset
TEXT_LIMIT = 2**24  # characters of all texts
MOST_NODES = 10_000
MOST_DEPTH = 16
FILTERS = {1, 2, 3, 5, 6, 32000}  # deflate, shuffle, checksum, n-bit, scale-offset, LZF: those that come with h5py
PROCESSOR_TIME = 3  # s, and one more for every 32 MiB
WALL_TIME = 120  # s: for a process that waits for something
MEMORY = 3 * 2**30  # bytes of address space
Fields = dict[str, Any]  # arrays, texts, and dictionaries of the same


def read_bytes(path: Path) -> bytes:
    """The content of a file; ValueError where it cannot be read or is too long."""
    check_size(path)
    return path.read_bytes()


def check_size(path: Path) -> int:
    """The bytes of a file; ValueError where it cannot be read or is too long."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    if size > FILE_LIMIT:
        raise ValueError(f"{size} bytes, more than the {FILE_LIMIT} that are read")
    return size


def read_tree(path: Path, root: str) -> Fields:
    """The content of the group `root` of a file; ValueError in one line where it cannot be read or is damaged."""
    seconds = PROCESSOR_TIME + check_size(path) // 2**25
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", __file__, str(path), root, str(seconds)]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=WALL_TIME, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError("damaged: the HDF5 library does not come to an end with it") from None
    if done.returncode < 0:
        raise ValueError("damaged: the HDF5 library fails on it, or does not come to an end")
    if done.returncode:
        raise ValueError(done.stderr.decode("utf8", "replace").strip().rpartition("\n")[2] or "damaged")
    stream = io.BytesIO(done.stdout)
    return _with_arrays(json.loads(stream.readline()), stream)


def _with_arrays(tree: Any, stream: io.BytesIO) -> Any:
    """The tree with its arrays, which follow in order; a list stands for an array of texts, null for one of numbers."""
    for name, value in tree.items():
        if isinstance(value, dict):
            _with_arrays(value, stream)
        elif value is None:
            tree[name] = np.lib.format.read_array(stream, allow_pickle=False)
        elif isinstance(value, list):
            tree[name] = np.asarray(value, object)
    return tree


class _Walk:
    """Reads groups and counts what it reads."""

    def __init__(self) -> None:
        self.bytes, self.groups, self.characters = 0, 0, 0
        self.arrays: list[np.ndarray] = []

    def group(self, node: Any, depth: int) -> Fields:
        import h5py

        self.groups += 1
        if depth > MOST_DEPTH or self.groups > 4 * MOST_NODES:
            raise ValueError(f"groups nested deeper than {MOST_DEPTH} or more than {4 * MOST_NODES} of them")
        found: Fields = {}
        for name in node:
            child = _member(node, name)
            if isinstance(child, h5py.Group) and name != "metadata":
                found[name] = self.group(child, depth + 1)
            elif isinstance(child, h5py.Dataset):
                found[name] = self.dataset(name, child)
        return found

    def dataset(self, name: str, data: Any) -> Any:
        """A text, a list of texts, or None for an array, which is kept."""
        import h5py

        if data.external or data.is_virtual:
            raise ValueError(f"dataset {name!r} lies in another file")
        plan = data.id.get_create_plist()
        if any(plan.get_filter(i)[0] not in FILTERS for i in range(plan.get_nfilters())):
            raise ValueError(f"dataset {name!r} is packed by a filter that is not read")
        kind = data.dtype
        text = h5py.check_string_dtype(kind) is not None
        if data.shape is None or (not text and kind.kind not in "fiub"):
            raise ValueError(f"dataset {name!r} holds {kind}, not numbers or text")
        self.bytes += max(kind.itemsize, 1) * max(math.prod(data.shape), math.prod(data.chunks or ()))
        if self.bytes > DATA_LIMIT:
            raise ValueError(f"its numbers take more than {DATA_LIMIT} bytes")
        if text:
            return self.texts(name, data)
        self.arrays.append(np.asarray(data[()]))
        return None

    def texts(self, name: str, data: Any) -> Any:
        """Entry by entry, because every one may show the same long piece of the file."""
        if math.prod(data.shape) > MOST_TEXTS:
            raise ValueError(f"dataset {name!r} has {math.prod(data.shape)} texts, more than {MOST_TEXTS}")
        found = []
        for index in np.ndindex(data.shape):
            value = data[index]
            self.characters += len(value)
            if self.characters > TEXT_LIMIT:
                raise ValueError(f"dataset {name!r}: its texts take more than {TEXT_LIMIT} characters")
            found.append(value.decode("utf8") if isinstance(value, bytes) else str(value))
        return found[0] if data.shape == () else np.asarray(found, object).reshape(data.shape).tolist()


def _member(group: Any, name: str) -> Any:
    """A member of a group that is really in it; links are refused."""
    import h5py

    if name not in group:
        return None
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name!r} is a link to somewhere else")
    return group[name]


def _answer(path: str, root: str) -> None:
    """Write what `read_tree` reads to the standard output."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except (OSError, RuntimeError):
        raise ValueError("damaged, or not an HDF5 file") from None
    walk = _Walk()
    with file:
        if not isinstance(_member(file, root), h5py.Group):
            raise ValueError(f"not a NIR file: it has no group {root!r}")
        tree = walk.group(file[root], 0)
    sys.stdout.buffer.write(json.dumps(tree).encode() + b"\n")
    for array in walk.arrays:
        np.lib.format.write_array(sys.stdout.buffer, array, allow_pickle=False)


def _limit(seconds: int) -> None:
    """Bound this process, where the system can."""
    try:
        import resource
    except ImportError:
        return
    for what, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def _main(path: str, root: str, seconds: str) -> None:
    _limit(int(seconds))
    try:
        _answer(path, root)
    except Exception as error:  # whatever a damaged file makes h5py raise
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    _main(*sys.argv[1:])
