"""Reading TFLite files that nobody vouches for: every offset and length is checked against the file before it is followed.

The schema package reads a FlatBuffer in place, so that a damaged file shows only when a field is touched; whatever goes wrong
there is one ValueError that names the file. Vectors cannot be longer than the file, which bounds all work.
"""

import dataclasses
import importlib
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

FILE_LIMIT = 2**31  # bytes: what a FlatBuffer can address
DTYPES: dict[int, Any] = {  # TensorType of the schema
    0: np.float32,
    1: np.float16,
    2: np.int32,
    3: np.uint8,
    4: np.int64,
    6: np.bool_,
    7: np.int16,
    9: np.int8,
    10: np.float64,
    12: np.uint64,
    15: np.uint32,
    16: np.uint16,
}
RESOURCE = 13  # the type of a handle to a variable
UNREADABLE = (struct.error, IndexError, TypeError, ValueError, OverflowError, AttributeError, MemoryError, AssertionError)


@dataclasses.dataclass(frozen=True)
class Quantization:
    """real = scale (stored - zero), along one axis where there is more than one scale."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int

    def along(self, values: np.ndarray, rank: int) -> np.ndarray:
        """Scales or zeros, shaped to go with a tensor."""
        if values.size == 1:
            return values.reshape(())
        return values.reshape([-1 if i == self.axis else 1 for i in range(rank)])


@dataclasses.dataclass(frozen=True)
class Edge:
    """One tensor of a graph; `data` are the stored numbers, None where nodes make them."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    quantization: Quantization | None
    data: np.ndarray | None
    sparsity: Any = None


@dataclasses.dataclass(frozen=True)
class Step:
    """One operator: its kind by name, the edges it reads (-1: left out) and makes, and its options."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any

    def option(self, name: str, default: Any = 0) -> Any:
        """One field of the options."""
        return default if self.options is None else getattr(self.options, name)()


@dataclasses.dataclass(frozen=True)
class Graph:
    """One subgraph."""

    edges: list[Edge]
    steps: list[Step]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_graphs(path: str | os.PathLike[str]) -> list[Graph]:
    """All subgraphs of a file, the main one first; ValueError with one line where it cannot be read or is not TFLite."""
    try:
        tflite: Any = importlib.import_module("tflite")
    except ModuleNotFoundError:
        raise ValueError("reading .tflite files needs the package tflite: pip install 'tempo-pim[tflite]'") from None
    path = Path(path)
    try:
        if path.stat().st_size > FILE_LIMIT:
            raise ValueError(f"{path}: {path.stat().st_size} bytes, more than the {FILE_LIMIT} that a TFLite file can have")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None
    if content[4:8] != b"TFL3":
        raise ValueError(f"{path}: damaged, or not a TFLite file")
    try:
        model = tflite.Model.GetRootAsModel(content, 0)
        _bounded(model.SubgraphsLength(), content)
        graphs = [_graph(tflite, model, model.Subgraphs(i), content) for i in range(model.SubgraphsLength())]
    except UNREADABLE as error:
        raise ValueError(f"{path}: damaged: {' '.join(str(error).split()) or type(error).__name__}") from None
    if not graphs or not graphs[0].steps:
        raise ValueError(f"{path}: damaged, or not a TFLite file: it has no operators")
    return graphs


def _bounded(length: int, content: bytes) -> int:
    if not 0 <= length <= len(content):
        raise ValueError(f"a vector of {length} entries in a file of {len(content)} bytes")
    return length


def _graph(tflite: Any, model: Any, graph: Any, content: bytes) -> Graph:
    edges = [_edge(model, graph.Tensors(i), content) for i in range(_bounded(graph.TensorsLength(), content))]
    steps = [
        _step(tflite, model, graph.Operators(i), len(edges), content) for i in range(_bounded(graph.OperatorsLength(), content))
    ]
    inputs, outputs = _indices(graph, "Inputs", len(edges), content), _indices(graph, "Outputs", len(edges), content)
    return Graph(edges, steps, inputs, outputs)


def _indices(of: Any, what: str, limit: int, content: bytes) -> tuple[int, ...]:
    found = tuple(int(getattr(of, what)(i)) for i in range(_bounded(getattr(of, f"{what}Length")(), content)))
    if any(not -1 <= i < limit for i in found):
        raise ValueError(f"a tensor number in {found[:8]} is outside its range [-1, {limit - 1}]")
    return found


def _step(tflite: Any, model: Any, operator: Any, edges: int, content: bytes) -> Step:
    index = operator.OpcodeIndex()
    if not 0 <= index < _bounded(model.OperatorCodesLength(), content):
        raise ValueError(f"operator code {index} is outside its range [0, {model.OperatorCodesLength() - 1}]")
    code = model.OperatorCodes(index)
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    kind = _names(tflite.BuiltinOperator).get(number, f"operator {number}")
    if kind == "CUSTOM":
        kind = f"custom {(code.CustomCode() or b'').decode(errors='replace')}"
    table = operator.BuiltinOptions()
    name = _names(tflite.BuiltinOptions).get(operator.BuiltinOptionsType())
    options = None
    if table is not None and name not in (None, "NONE"):
        options = getattr(tflite, name)()
        options.Init(table.Bytes, table.Pos)
    return Step(kind, _indices(operator, "Inputs", edges, content), _indices(operator, "Outputs", edges, content), options)


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _edge(model: Any, tensor: Any, content: bytes) -> Edge:
    name = (tensor.Name() or b"").decode(errors="replace")
    shape = tuple(int(tensor.Shape(i)) for i in range(_bounded(tensor.ShapeLength(), content)))
    if any(d < 0 for d in shape) or len(shape) > 8 or math.prod(shape) > 2**40:
        raise ValueError(f"tensor {name!r} has shape {shape}")
    kind = tensor.Type()
    if kind != RESOURCE and kind not in DTYPES:
        raise ValueError(f"tensor {name!r}: element type {kind} is not read")
    dtype = np.dtype(DTYPES.get(kind, np.int32))
    data = None if kind == RESOURCE else _data(model, tensor, shape, dtype, content)
    return Edge(name, shape, dtype, _quantization(tensor, len(shape), content), data, tensor.Sparsity())


def _data(model: Any, tensor: Any, shape: tuple[int, ...], dtype: Any, content: bytes) -> np.ndarray | None:
    index = tensor.Buffer()
    if not 0 <= index < _bounded(model.BuffersLength(), content):
        raise ValueError(f"buffer {index} is outside its range [0, {model.BuffersLength() - 1}]")
    buffer = model.Buffers(index)
    if _bounded(buffer.DataLength(), content) == 0:
        return np.zeros(shape, dtype) if math.prod(shape) == 0 else None
    values = np.frombuffer(buffer.DataAsNumpy().tobytes(), dtype)
    return values if tensor.Sparsity() is not None else values.reshape(shape)


def _quantization(tensor: Any, rank: int, content: bytes) -> Quantization | None:
    found = tensor.Quantization()
    if found is None or not _bounded(found.ScaleLength(), content):
        return None
    scale = np.asarray([found.Scale(i) for i in range(found.ScaleLength())], np.float32)
    zero = np.asarray([found.ZeroPoint(i) for i in range(_bounded(found.ZeroPointLength(), content))] or [0], np.int32)
    axis = int(found.QuantizedDimension())
    if scale.size > 1 and not 0 <= axis < rank:
        raise ValueError(f"quantised axis {axis} is outside its range [0, {rank - 1}]")
    return Quantization(scale, zero, axis)
