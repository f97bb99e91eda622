"""The universal parser: whatever names or holds a piece of work becomes one `Workload`, or one line that says why not.

    resolve("resnet8")   resolve("kws")                     a network of the catalog, by name or alias
    resolve("FFT")   resolve("matmul")                      a kernel of the complexity library, at its typical size
    resolve("gemm 512x256x128")   resolve("fft n=2^20")     a kernel with sizes, in its order (gemm: m x n x k) or by name
    resolve("gpt2 tokens=128")   resolve("gpt2 context=512")      a transformer's prefill, or the decoding of one token
    resolve("model.onnx")   resolve("model.tflite")         a file
    resolve(fn, *args)   resolve(table)                     a function of JAX, an operation table

Names are spelled in any case, with or without spaces and hyphens (`names.py`). A number is written 1024, 1e6, 2^20 or 2**20.
"""

import dataclasses
import functools
import os
import re
from typing import Any

import numpy as np

from workloads.catalog import ENTRIES, FILE_SUFFIXES, load
from workloads.kernel_tables import EVERYTHING, ORDER, TYPICAL, kernel_table
from workloads.kernels import KERNELS, Kernel
from workloads.names import build_index, find, normalised
from workloads.networks.transformer import TRANSFORMERS, Transformer, decode, prefill
from workloads.ops import OpTable

NAMED: tuple[Any, ...] = (*KERNELS, *ENTRIES, *TRANSFORMERS.values())
TOKENS = 128  # of a transformer named without any
NUMBER = re.compile(r"\d+(\.\d*)?(e[+-]?\d+)?(\^\d+)?", re.IGNORECASE)


@functools.cache
def shared_index() -> dict[str, Any]:
    """Every kernel, every network of the catalog and every transformer, by normalised name and alias."""
    return build_index(NAMED)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A piece of work: its table, what it is called and, of a kernel, which one and its sizes."""

    name: str
    table: OpTable
    kernel: Kernel | None = None
    sizes: tuple[tuple[str, float], ...] = ()

    def table_for(self, fast: float) -> OpTable:
        """The table with a kernel's own traffic Q(n; S) at a fast memory of `fast` elements (S >= 2); else `table` itself."""
        return self.table if self.kernel is None else kernel_table(self.kernel, dict(self.sizes), fast)


def resolve(source: Any, *args: Any, **options: Any) -> Workload:
    """What `source`, a name, path, function, OpTable or Workload, stands for; see the module.

    `args` and `options` go with a function or a file, as for `load`.
    Raises ValueError, one line: UnknownName (also a KeyError) with close matches for a name that nothing has; else for sizes
    that do not go with the kernel, a file that cannot be read, a function that does not take `args`, or something that is no
    workload at all.
    """
    if isinstance(source, Workload | OpTable) and (args or options):
        raise ValueError("arguments go with a function or a file, not with an operation table")
    if isinstance(source, Workload):
        return source
    if isinstance(source, OpTable):
        return _from_table(source)
    if isinstance(source, str) and not source.strip().lower().endswith(FILE_SUFFIXES):
        if args or options:
            raise ValueError(f"arguments go with a function or a file, not with {source!r}")
        return _from_text(source)
    if not (callable(source) or isinstance(source, str | os.PathLike)):
        raise ValueError(f"a workload is a name, a file, a function or an OpTable, got {type(source).__name__}")
    try:
        return _from_table(load(source, *args, **options))
    except TypeError as error:  # JAX's word for missing arguments and for shapes that do not go together
        name = getattr(source, "__name__", type(source).__name__) if callable(source) else str(source)
        raise ValueError(f"{name} cannot be traced with these arguments: {' '.join(str(error).split())}") from error


def _from_table(table: OpTable) -> Workload:
    if np.ndim(table.kind) != 1:
        raise ValueError(f"a workload is one table, got columns of shape {np.shape(table.kind)}")
    return Workload(table.info.name if table.info is not None else "table", table)


def _from_text(text: str) -> Workload:
    """A name, alone or followed by sizes."""
    if normalised(text) in shared_index():
        return _build(text, text, {})
    tidy = re.sub(r"(?<=\d)\s*[x*×]\s*(?=\d)", "x", re.sub(r"[(),;]", " ", text.replace("**", "^")))
    words = re.sub(r"\s*=\s*", "=", tidy).split()
    first = next((i for i, word in enumerate(words) if "=" in word or word[0].isdigit()), len(words))
    name = " ".join(words[:first])
    if not name or normalised(name) not in shared_index():
        _suggest_file(text)
        find(name or text, NAMED, "workload")
    return _build(name, text, _sizes(text, name, words[first:]))


def _suggest_file(text: str) -> None:
    if os.sep in text or re.search(r"\.[a-z]\w{1,8}$", text):
        raise ValueError(f"{text!r} is neither a name nor a file that can be read; files end in {' or '.join(FILE_SUFFIXES)}")


def _build(name: str, text: str, sizes: dict[str, float]) -> Workload:
    thing = shared_index()[normalised(name)]
    if isinstance(thing, Kernel):
        given = sizes or TYPICAL[thing.name]
        table = kernel_table(thing, given, EVERYTHING)
        return Workload(table.info.name if table.info is not None else thing.name, table, thing, tuple(given.items()))
    if isinstance(thing, Transformer):
        return _from_table(_transformer(thing, {key: _whole(key, value) for key, value in sizes.items()}))
    if sizes:
        raise ValueError(f"{text!r}: sizes go with a kernel or a transformer, {thing.name!r} is a network")
    return _from_table(load(thing.name))


def _transformer(model: Transformer, sizes: dict[str, int]) -> OpTable:
    known = ("context", "sequences") if "context" in sizes else ("tokens", "sequences", "past")
    if unknown := set(sizes) - set(known):
        raise ValueError(f"{model.name} has no size {sorted(unknown)[0]!r}; its sizes: {', '.join(known)}, or context to decode")
    return decode(model, **sizes) if "context" in sizes else prefill(model, **({"tokens": TOKENS} | sizes))


def _whole(name: str, value: float) -> int:
    if value != int(value):
        raise ValueError(f"{name} = {value:g} is not a whole number")
    return int(value)


def _sizes(text: str, name: str, words: list[str]) -> dict[str, float]:
    """Sizes by name: those of `n=512`, and in the thing's own order those of `512x256x128`."""
    named = [tuple(word.split("=", 1)) for word in words if "=" in word]
    numbers = [number for word in words if "=" not in word for number in word.split("x")]
    found: dict[str, float] = {}
    for key, number in [*zip(_places(text, name, len(numbers)), numbers, strict=True), *named]:
        if key.lower() in found:
            raise ValueError(f"{text!r} gives the size {key!r} twice")
        found[key.lower()] = _number(text, number)
    return found


def _places(text: str, name: str, count: int) -> list[str]:
    """Which sizes `count` unnamed numbers are; one alone is the size that the kernel grows with."""
    thing = shared_index()[normalised(name)]
    kernel = isinstance(thing, Kernel)
    order = ORDER.get(thing.name, tuple(thing.sizes)) if kernel else ("tokens", "sequences", "past")
    if count == 1:
        return [next(iter(thing.sizes)) if kernel else order[0]]
    if count > len(order) or (count and kernel and thing.name in ORDER and count < len(order)):
        raise ValueError(f"{text!r} gives {count} sizes; {thing.name} takes one, or {' x '.join(order)}")
    return list(order[:count])


def _number(text: str, word: str) -> float:
    if not NUMBER.fullmatch(word):
        raise ValueError(f"{text!r}: {word!r} is not a size; write 1024, 1e6 or 2^20")
    base, _, power = word.partition("^")
    try:
        value = float(base) ** int(power or 1)
    except OverflowError:
        value = float("inf")
    if not 0 <= value <= 2.0**53:
        raise ValueError(f"{text!r}: {word} is outside the range of a size, [0, 2^53]")
    return value
