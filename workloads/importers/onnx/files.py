"""Reading ONNX files that nobody vouches for: sizes are bounded, paths stay in the model's folder, nothing is executed.

A file is at most `FILE_LIMIT` bytes; a tensor's numbers are read only when somebody asks for them, so that a model of
many gigabytes of external data is profiled without touching them. Whatever is wrong is one ValueError that names the file.
"""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from workloads.importers.onnx.elementwise import DTYPES

FILE_LIMIT = 2**31  # bytes: what a protocol buffer can hold
ELEMENTS_LIMIT = 2**40  # of one tensor
FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")  # where numbers are if not in raw_data


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in the file, or beside it: shape and type now, numbers on request."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    proto: Any
    folder: Path

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """The numbers; ValueError where there are too few or too many."""
        from onnx import numpy_helper

        if not _is_external(self.proto):
            try:
                return np.asarray(numpy_helper.to_array(self.proto)).astype(self.dtype, copy=False)
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"tensor {self.name!r} is damaged: {' '.join(str(error).split())}") from None
        path, offset, length = external_place(self)
        with open(path, "rb") as file:
            file.seek(offset)
            return np.frombuffer(file.read(length), self.dtype).reshape(self.shape)


def read_model(path: str | os.PathLike[str]) -> Any:
    """The protocol buffer in a file; ValueError with one line where it cannot be read, is too large or is not ONNX."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError:
        raise ValueError("reading .onnx files needs the package onnx: pip install 'tempo-pim[onnx]'") from None
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > FILE_LIMIT:
            raise ValueError(f"{path}: {size} bytes, more than the {FILE_LIMIT} that an ONNX file can have")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise ValueError(f"{path}: damaged, or not an ONNX file") from None
    if not model.graph.node or not model.graph.output:
        raise ValueError(f"{path}: damaged, or not an ONNX file: it has no graph")
    return model


def stored(proto: Any, folder: Path) -> Stored:
    """A tensor's shape and type, checked."""
    shape = tuple(int(d) for d in proto.dims)
    if proto.data_type not in DTYPES:
        raise ValueError(f"tensor {proto.name!r}: element type {proto.data_type} is not read")
    if any(d < 0 for d in shape) or math.prod(shape) > ELEMENTS_LIMIT:
        raise ValueError(f"tensor {proto.name!r}: shape {shape} is outside its range [0, {ELEMENTS_LIMIT}] elements")
    tensor = Stored(proto.name, shape, np.dtype(DTYPES[proto.data_type]), proto, folder)
    if _is_external(proto):
        external_place(tensor)
    elif proto.HasField("raw_data") and len(proto.raw_data) != tensor.size * tensor.dtype.itemsize:
        raise ValueError(f"tensor {proto.name!r} is damaged: {len(proto.raw_data)} bytes for shape {shape}")
    elif not proto.HasField("raw_data") and tensor.size > sum(len(getattr(proto, field)) for field in FIELDS):
        raise ValueError(f"tensor {proto.name!r} is damaged: too few numbers for shape {shape}")
    return tensor


def external_place(tensor: Stored) -> tuple[Path, int, int]:
    """Path, offset and length of a tensor's numbers; ValueError where they would lie outside the model's folder or the file."""
    entries = {entry.key: entry.value for entry in tensor.proto.external_data}
    folder, location = tensor.folder.resolve(), entries.get("location", "")
    path = (folder / location).resolve()
    if not location or os.path.isabs(location) or not path.is_relative_to(folder):
        raise ValueError(f"tensor {tensor.name!r}: its data lie at {location!r}, outside the model's folder")
    wanted = tensor.size * np.dtype(tensor.dtype).itemsize
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
        available = path.stat().st_size
    except (OSError, ValueError) as error:
        raise ValueError(f"tensor {tensor.name!r}: its data at {location!r} cannot be read: {error}") from None
    if length != wanted or offset < 0 or offset + length > available:
        raise ValueError(
            f"tensor {tensor.name!r}: its data are {length} bytes from {offset} of {available} in {location!r}, expected {wanted}"
        )
    return path, offset, length


def _is_external(proto: Any) -> bool:
    return proto.data_location == 1
