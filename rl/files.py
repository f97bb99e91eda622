"""Writing files so that nothing already computed is lost: beside the target, flushed to disk, then renamed over it."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class WriteError(OSError):
    """A file could not be written; the previous one, if any, is intact."""


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`; renamed to `path` when the block ends well, removed otherwise.

    Raises WriteError with one line that names the file and the reason (full disk, unwritable folder, ...).
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(path: Path) -> None:
    """Raise WriteError at once if `path` cannot be written later; leaves nothing behind and the file as it is."""
    path = Path(path)
    if path.is_dir():
        raise WriteError(f"cannot write {path}: it is a folder")
    with contextlib.suppress(_Checked), written_aside(path):
        raise _Checked


def check_picture(path: Path, option: str) -> None:
    """Raise ValueError unless `path`, given as `option`, ends in .png, or WriteError if it cannot be written later."""
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{option} = {str(path)!r} must end in .png: a PNG is all that is drawn")
    check_writable(path)


class _Checked(Exception):
    """Ends a check before anything is replaced."""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or leave it as it was."""
    with written_aside(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Replace `path` by `content` (UTF-8), or leave it as it was."""
    write_bytes(path, content.encode())


def append_bytes(path: Path, content: bytes) -> None:
    """Add `content` at the end of `path`, all of it or nothing; WriteError, with what was there intact, if that fails."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                while content:
                    content = content[file.write(content) :]
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def cut_to(path: Path, size: int) -> None:
    """Drop what stands in `path`, if there is such a file, beyond `size` bytes."""
    try:
        if path.exists() and path.stat().st_size > size:
            os.truncate(path, size)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` as sorted, indented JSON; ValueError if it holds NaN or infinity."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError with one line if it is not JSON."""
    try:
        return json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from None


def write_netcdf(path: Path, dataset: Any) -> None:
    """Replace `path` by an xarray dataset as NetCDF; made in memory first, because HDF5 does not survive a full disk."""
    write_bytes(path, bytes(dataset.to_netcdf(None, engine="h5netcdf")))


def write_with(path: Path, writer: Callable[[Path], None]) -> None:
    """Replace `path` by what `writer(temporary path)` writes."""
    with written_aside(path) as temporary:
        writer(temporary)
