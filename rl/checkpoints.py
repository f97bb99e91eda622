"""Checkpoints: a tree of arrays in one file, written whole or not at all, and never trusted when read.

The file is an uncompressed `.npz` (a zip of `.npy` members) whose member `header` is JSON text: the format's name and
version, what the tree belongs to (`meta`), and for each leaf its name, shape and type. Writing goes to a temporary name
in the same folder, is flushed to the disk and then renamed, so that a reader sees the old file or the new one.
Reading compares the header, the members' sizes and each array's own description with what is expected *before* it reads
any data, and refuses pickles: a file can neither run code nor claim more memory than the tree that is wanted.
Random keys are stored as their words. Everything that goes wrong is a `CheckpointError` of one line.
"""

import contextlib
import json
import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rl.files import written_aside

FORMAT, VERSION = "tempo-checkpoint", 1
HEADER_LIMIT = 16 * 2**20  # bytes; a tree of 100,000 leaves needs less
PREAMBLE_LIMIT = 2**16  # bytes; more than what stands before the data of an .npy member
UNREADABLE = (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, OverflowError, RuntimeError, ValueError, struct.error)

Tree = TypeVar("Tree")


class CheckpointError(ValueError):
    """A checkpoint cannot be written, read, or used here; the message is one line that names the file."""


def is_key(leaf: Any) -> bool:
    """Whether `leaf` holds typed random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree with their dotted names."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in pairs]


def described(leaves: list[tuple[str, Any]]) -> dict[str, Any]:
    """Shape and type of each leaf by its name; ValueError for what is not a numeric array or a random key."""
    records = {}
    for name, leaf in leaves:
        if not hasattr(leaf, "dtype") or not (is_key(leaf) or np.dtype(leaf.dtype).kind in "biufc"):
            raise ValueError(f"leaf {name} of type {type(leaf).__name__} is not a numeric array and cannot be checkpointed")
        records[name] = {"shape": list(leaf.shape), "type": str(leaf.dtype)}
    return records


def stored_form(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape and type of the array that stands for `leaf` in the file."""
    plain = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return jax.eval_shape(jax.random.key_data, plain) if is_key(leaf) else plain


def save(path: str | os.PathLike[str], tree: Any, meta: Mapping[str, Any]) -> None:
    """Write `tree` to `path`, replacing what is there only when the new file is complete.

    `meta` (JSON values) says what the tree belongs to; `load` asks for the same. Raises CheckpointError where the folder
    cannot be written or the disk is full; the file that was there before is then untouched.
    """
    path = Path(path)
    leaves = named_leaves(tree)
    header = {"format": FORMAT, "version": VERSION, "meta": meta, "leaves": described(leaves)}
    members = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for number, (_, leaf) in enumerate(leaves):
        members[str(number)] = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    try:
        with written_aside(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **members)
    except OSError as error:
        raise CheckpointError(one_line(error)) from error


def load(path: str | os.PathLike[str], like: Tree, meta: Mapping[str, Any]) -> Tree:
    """The tree in `path`, as device arrays.

    `like` is a tree of arrays, or of `jax.ShapeDtypeStruct`, with the structure, shapes and types that the file must
    have; `meta` is what it must belong to. Raises CheckpointError naming the file and what differs: field, found, expected.
    """
    path = Path(path)
    leaves = named_leaves(like)
    expected = {"format": FORMAT, "version": VERSION, "meta": meta, "leaves": described(leaves)}
    with opened(path) as archive:
        header = read_header(path, archive)
        check_header(path, header, json.loads(json.dumps(expected)))
        numbers = {name: number for number, name in enumerate(header["leaves"])}
        arrays = [read_member(path, archive, f"{numbers[name]}.npy", name, leaf) for name, leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(like), arrays)


def load_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the file says it belongs to, unchecked. Raises CheckpointError where it is no checkpoint of this version."""
    path = Path(path)
    with opened(path) as archive:
        header = read_header(path, archive)
        check_header(path, header, {"format": FORMAT, "version": VERSION})
    if not isinstance(header.get("meta"), dict):
        raise CheckpointError(f"{path}: damaged: meta is {shortened(header.get('meta'))}, expected an object")
    return header["meta"]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive at `path`; whatever goes wrong while it is read becomes a CheckpointError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or one_line(error)}") from error
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: damaged, or not a checkpoint: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def read_header(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    """The header of an opened file."""
    if "header.npy" not in archive.namelist():
        raise CheckpointError(f"{path}: not a checkpoint of this program: it has no header")
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise CheckpointError(f"{path}: not a checkpoint of this program: it is compressed")
    if archive.getinfo("header.npy").file_size > HEADER_LIMIT:
        raise CheckpointError(f"{path}: damaged: the header is larger than {HEADER_LIMIT} bytes")
    with archive.open("header.npy") as member:
        read_preamble(member)
        header = json.loads(member.read(HEADER_LIMIT))
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: damaged: the header is not a JSON object")
    return header


def check_header(path: Path, header: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuse a header that does not say exactly what is expected."""
    for field in expected:
        difference = next(differences(field, header.get(field), expected[field]), None)
        if difference is not None:
            name, found, wanted = difference
            raise CheckpointError(f"{path}: does not fit: {name} is {found}, expected {wanted}")


def differences(name: str, found: Any, expected: Any) -> Iterator[tuple[str, str, str]]:
    """Where two JSON values differ: dotted field, found, expected."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            yield from differences(f"{name}.{key}", found.get(key), expected.get(key))
    elif isinstance(found, bool) != isinstance(expected, bool) or found != expected:
        yield name, shortened(found), shortened(expected)


def shortened(value: Any) -> str:
    """A JSON value as text that fits a line; `absent` for none at all."""
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_member(path: Path, archive: zipfile.ZipFile, member_name: str, name: str, leaf: Any) -> jax.Array:
    """One leaf, read only after its size, shape and type are known to be those of `leaf`."""
    form = stored_form(leaf)
    size = math.prod(form.shape) * np.dtype(form.dtype).itemsize
    if member_name not in archive.namelist():
        raise CheckpointError(f"{path}: damaged: leaf {name} is missing")
    stated = archive.getinfo(member_name).file_size
    if not size <= stated <= size + PREAMBLE_LIMIT:
        raise CheckpointError(f"{path}: damaged: leaf {name} has {stated} bytes, expected about {size}")
    with archive.open(member_name) as member:
        shape, dtype = read_preamble(member)
    if shape != form.shape or dtype != form.dtype:
        raise CheckpointError(f"{path}: damaged: leaf {name} is {dtype}{shape}, expected {form.dtype}{form.shape}")
    with archive.open(member_name) as member:
        array = np.lib.format.read_array(member, allow_pickle=False, max_header_size=PREAMBLE_LIMIT)
    words = jnp.array(array, copy=True)
    return jax.random.wrap_key_data(words, impl=key_implementation(leaf)) if is_key(leaf) else words


def read_preamble(member: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that an .npy member claims; leaves it at the first byte of data."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member, max_header_size=PREAMBLE_LIMIT)
    return shape, dtype


def key_implementation(leaf: Any) -> str:
    """The name by which JAX knows the generator of typed keys like `leaf`."""
    names = ("threefry2x32", "rbg", "unsafe_rbg")
    for name in names:
        if jax.eval_shape(lambda name=name: jax.random.key(0, impl=name)).dtype == leaf.dtype:
            return name
    raise ValueError(f"random keys of type {leaf.dtype} are not known, only those of {', '.join(names)}")
