"""Files that hold a network: .onnx and .tflite, read as JAX functions.

    net = read_network("model.onnx", {"x": (1, 3, 224, 224)})
    outputs = net.apply(net.read_parameters(), image)

Files are untrusted: nothing in them is executed, paths stay in the model's folder, sizes are bounded, and whatever is wrong
with one is a single ValueError that names it.
"""

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workloads.importers.cache import PROFILES, key_of
from workloads.importers.jaxpr import profile
from workloads.importers.onnx.files import FILE_LIMIT, read_model
from workloads.importers.onnx.network import OnnxNetwork
from workloads.importers.tflite.files import read_graphs
from workloads.importers.tflite.network import TfliteNetwork
from workloads.ops import OpTable

FILE_SUFFIXES = (".onnx", ".tflite")
Shapes = Mapping[str, Any]
# what a damaged graph can make NumPy, JAX or a rule raise while it is walked
DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    MemoryError,
    RecursionError,
    struct.error,
)


def read_network(path: str | os.PathLike[str], shapes: Shapes | None = None) -> OnnxNetwork | TfliteNetwork:
    """The network in a file, with its inputs bound.

    `shapes` gives, by name, the shape of an input, the size of a symbolic dimension, or the value of an input (an array) that
    decides the course of the computation. Unknown batch dimensions are 1. The result has `inputs` and `parameter_shapes()`
    (names to shapes and types), `apply(parameters, *inputs)`, pure and differentiable, and `read_parameters()`.
    Raises ValueError with one line where the file cannot be read, is damaged, or needs a shape.
    """
    path, bound = Path(path), dict(shapes or {})
    suffix = path.suffix.lower()
    if suffix not in FILE_SUFFIXES:
        raise ValueError(f"{path}: files end in {' or '.join(FILE_SUFFIXES)}")
    return _named(path, lambda: _onnx(path, bound) if suffix == ".onnx" else TfliteNetwork(read_graphs(path), bound))


def profile_file(path: str | os.PathLike[str], shapes: Shapes | None = None, **options: Any) -> OpTable:
    """The operation table of the network in a file; `options` are those of `profile`."""
    path, name = Path(path), options.pop("name", None) or Path(path).stem

    def make() -> OpTable:
        network = read_network(path, shapes)
        arguments = (network.parameter_shapes(), *network.inputs.values())
        return _named(path, lambda: profile(network.apply, *arguments, weights=(0,), name=name, **options))

    bound = sorted((key, np.shape(v), np.asarray(v).tolist()) for key, v in (shapes or {}).items())
    return PROFILES.get(key_of(_bytes(path), path.suffix, bound, sorted(options.items()), name), make)


def _onnx(path: Path, bound: dict[str, Any]) -> OnnxNetwork:
    values = {name: np.asarray(v) if hasattr(v, "dtype") else v for name, v in bound.items()}
    return OnnxNetwork(read_model(path), path.parent, values)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.stat().st_size <= FILE_LIMIT else b""
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None


def _named(path: Path, read: Any) -> Any:
    """`read()`, with every complaint in one line that names the file."""
    try:
        return read()
    except DAMAGE as error:
        text = " ".join(str(error).split()) or type(error).__name__
        text = text if len(text) <= 300 else f"{text[:297]}..."
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from None
