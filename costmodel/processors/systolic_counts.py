"""Systolic arrays: how many cycles a matrix product takes, and how often each operand is read from its buffer.

An (M, K) x (K, N) product is laid on an array of R rows and C columns; what stays in place names the dataflow:

    output stationary (os)   Sr = M   Sc = N   T = K     F (T + R + C - 2)     cycles
    weight stationary (ws)   Sr = K   Sc = N   T = M     F (T + 2 R + C - 2)
    input stationary  (is)   Sr = K   Sc = M   T = N     F (T + 2 R + C - 2),      F = ceil(Sr / R) ceil(Sc / C)

F folds of R x C run one after the other; 2 R because the stationary operand is loaded through the rows first. SCALE-Sim
(2.x and 3.0.0) does exactly this; its "total cycles" is one less, the index of the last cycle (plus stalls). The form printed
most often, `form="printed"`, charges the 2 R of the stationary dataflows to output stationary as well.

Reads and writes of the buffers, in words (each column fold streams the rows' operand again, and so on):

            inputs              filters             outputs written
    os      M K ceil(N / C)     K N ceil(M / R)     M N
    ws      M K ceil(N / C)     K N                 M N ceil(K / R)
    is      M K                 K N ceil(M / C)     M N ceil(K / R)

SCALE-Sim reports F (R + C) more outputs for os (a sum where a product was meant): `form="tool"`.

Three ways to count, one law. `count_systolic_cycles` and `count_systolic_accesses`: on the host, exact for integers of any size.
`systolic_cycle_words`: inside jit, exact below 2^64, as two unsigned 32-bit words. `systolic_cycles` and `buffer_accesses`:
floats, for costs and gradients (7 digits), rounded up by a relaxation policy. A dataflow is "os", "ws", "is", or an array of
0, 1, 2 in that order.

Source: Samajdar et al., SCALE-Sim (ISPASS 2020); github.com/scalesim-project/scale-sim-v2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt32

from costmodel import relax
from costmodel.relax import HARD, Relaxation
from physics.params import unknown_name

DATAFLOWS = ("os", "ws", "is")
CYCLE_FORMS = ("tool", "printed")
ACCESS_FORMS = ("words", "tool")
Flow = str | int | np.integer | Num[Array | np.ndarray, "..."]
Counts = Num[np.ndarray, "..."] | int | list[int] | tuple[int, ...]
Value = Num[Array, "..."] | float


class Accesses(NamedTuple):
    """Words read from the input and filter buffers, and written to the output buffer."""

    inputs: Any
    filters: Any
    outputs: Any


class Folds(NamedTuple):
    """Folds along the rows and columns of the array, and the length of the stream through it."""

    rows: Any
    columns: Any
    stream: Any


class Words(NamedTuple):
    """An unsigned 64-bit integer as high * 2^32 + low; both ones where the true value is 2^64 or more."""

    high: UInt32[Array, "..."]
    low: UInt32[Array, "..."]


def dataflow_index(dataflow: Flow) -> Any:
    """0, 1 or 2 for "os", "ws" or "is"; arrays as they are. ValueError for another name or number."""
    if isinstance(dataflow, str):
        if dataflow not in DATAFLOWS:
            raise ValueError(unknown_name("dataflow", dataflow, DATAFLOWS))
        return DATAFLOWS.index(dataflow)
    if isinstance(dataflow, int | np.integer | np.ndarray) and not np.all(np.isin(dataflow, range(3))):
        raise ValueError(f"dataflow = {dataflow} is outside its range: 0, 1, 2 for {', '.join(DATAFLOWS)}")
    return int(dataflow) if isinstance(dataflow, int | np.integer) else dataflow


def count_systolic_cycles(
    m: Counts, n: Counts, k: Counts, rows: Counts, columns: Counts, dataflow: Flow = "os", form: str = "tool"
) -> np.ndarray:
    """Cycles as exact integers, on the host; shapes broadcast. int64, or Python integers (object) from 2^62 on.

    Raises ValueError for a size that is not a whole number of at least 1, or an unknown dataflow or form.
    """
    m, n, k, rows, columns = _whole(m=m, n=n, k=k, rows=rows, columns=columns)
    index = _host_index(dataflow)
    folds = _folds(m, n, k, rows, columns, index, _integer_ceil)
    return _shrunk(_cycles(folds, rows, columns, index, form))


def count_systolic_accesses(
    m: Counts, n: Counts, k: Counts, rows: Counts, columns: Counts, dataflow: Flow = "os", form: str = "words"
) -> Accesses:
    """Buffer reads and writes as exact integers, on the host; as `count_systolic_cycles`."""
    m, n, k, rows, columns = _whole(m=m, n=n, k=k, rows=rows, columns=columns)
    found = _accesses(m, n, k, rows, columns, _host_index(dataflow), form, _integer_ceil)
    return Accesses(*(_shrunk(value) for value in found))


def systolic_cycles(
    m: Value,
    n: Value,
    k: Value,
    rows: Value,
    columns: Value,
    dataflow: Flow = "os",
    form: str = "tool",
    policy: Relaxation = HARD,
) -> Float[Array, "..."]:
    """Cycles as floats, inside jit; shapes broadcast. Kinks: the two ceilings, by `policy`."""
    folds = _folds(m, n, k, rows, columns, dataflow_index(dataflow), _relaxed(policy))
    return _cycles(folds, rows, columns, dataflow_index(dataflow), form)


def buffer_accesses(
    m: Value,
    n: Value,
    k: Value,
    rows: Value,
    columns: Value,
    dataflow: Flow = "os",
    form: str = "words",
    policy: Relaxation = HARD,
) -> Accesses:
    """Buffer reads and writes as floats, inside jit; shapes broadcast. Kinks: the ceilings, by `policy`."""
    return _accesses(m, n, k, rows, columns, dataflow_index(dataflow), form, _relaxed(policy))


def fold_counts(
    m: Value, n: Value, k: Value, rows: Value, columns: Value, dataflow: Flow = "os", policy: Relaxation = HARD
) -> Folds:
    """Folds and stream length as floats, inside jit; shapes broadcast."""
    return _folds(m, n, k, rows, columns, dataflow_index(dataflow), _relaxed(policy))


def systolic_cycle_words(
    m: Num[Array, "..."] | int,
    n: Num[Array, "..."] | int,
    k: Num[Array, "..."] | int,
    rows: Num[Array, "..."] | int,
    columns: Num[Array, "..."] | int,
    dataflow: Flow = "os",
    form: str = "tool",
) -> Words:
    """Cycles as exact integers, inside jit; shapes broadcast.

    `m`, `n`, `k` are integers in [1, 2^31), `rows` and `columns` in [1, 2^24). Order words by `high`, then by `low`.
    """
    m, n, k, rows, columns = (jnp.asarray(x, jnp.uint32) for x in (m, n, k, rows, columns))
    index = dataflow_index(dataflow)
    folds = _folds(m, n, k, rows, columns, index, _word_ceil)
    one = Folds(jnp.uint32(1), jnp.uint32(1), folds.stream)
    return _times(_product(folds.rows, folds.columns), _cycles(one, rows, columns, index, form))


def argmin_words(words: Words, axis: int = -1) -> Num[Array, "..."]:
    """Position of the smallest integer along `axis`, the first of equals.

    Three passes: fastest over words that are in memory, not fused into them (see tests/benchmarks/bench_systolic.py).
    """
    high, low = words
    most = jnp.uint32(2**32 - 1)
    top = jnp.min(high, axis, keepdims=True)
    least = jnp.min(jnp.where(high == top, low, most), axis, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, high.shape, axis % high.ndim)
    return jnp.min(jnp.where((high == top) & (low == least), place, high.shape[axis]), axis)


def _host_index(dataflow: Flow) -> Any:
    return dataflow_index(np.asarray(dataflow) if isinstance(dataflow, jax.Array) else dataflow)


def _select(index: Any, os: Any, ws: Any, stationary_input: Any) -> Any:
    if isinstance(index, int):
        return (os, ws, stationary_input)[index]
    where = np.where if isinstance(index, np.ndarray) else jnp.where
    return where(index == 0, os, where(index == 1, ws, stationary_input))


def _folds(m: Any, n: Any, k: Any, rows: Any, columns: Any, index: Any, ceil: Callable[[Any, Any], Any]) -> Folds:
    down, across = _select(index, m, k, k), _select(index, n, n, m)
    return Folds(ceil(down, rows), ceil(across, columns), _select(index, k, m, n))


def _cycles(folds: Folds, rows: Any, columns: Any, index: Any, form: str) -> Any:
    if form not in CYCLE_FORMS:
        raise ValueError(unknown_name("form", form, CYCLE_FORMS))
    loading = 2 * rows if form == "printed" else _select(index, rows, 2 * rows, 2 * rows)
    return folds.rows * folds.columns * (folds.stream + loading + columns - 2)


def _accesses(
    m: Any, n: Any, k: Any, rows: Any, columns: Any, index: Any, form: str, ceil: Callable[[Any, Any], Any]
) -> Accesses:
    if form not in ACCESS_FORMS:
        raise ValueError(unknown_name("form", form, ACCESS_FORMS))
    down, across, _ = _folds(m, n, k, rows, columns, index, ceil)
    extra = down * across * (rows + columns) if form == "tool" else 0
    inputs = m * k * _select(index, across, across, 1)
    filters = k * n * _select(index, down, 1, across)
    return Accesses(inputs, filters, _select(index, m * n + extra, m * n * down, m * n * down))


def _relaxed(policy: Relaxation) -> Callable[[Any, Any], Any]:
    return lambda a, b: relax.ceil_div(a, b, policy)


def _integer_ceil(a: Any, b: Any) -> Any:
    return -(-a // b)


def _whole(**sizes: Any) -> list[np.ndarray]:
    """The sizes as integer arrays, of Python integers if a product of them could leave int64."""
    arrays = {name: np.asarray(value) for name, value in sizes.items()}
    for name, array in arrays.items():
        if len(bad := _not_whole(array)):
            raise ValueError(f"{name} = {bad[0]} is outside its range: whole numbers of at least 1")
    most = [float(np.max(array, initial=1)) for array in arrays.values()]
    wide = most[0] * most[1] * most[2] * 4 + 8 * most[0] * most[1] * most[2] * sum(most[3:]) >= 2.0**62
    return [array.astype(object if wide else np.int64) for array in arrays.values()]


def _not_whole(array: np.ndarray) -> Any:
    """The elements that are not whole numbers of at least 1; Python integers beyond int64 are objects to NumPy."""
    if array.dtype.kind in "iuf":
        return array[~(np.isfinite(array) & (array >= 1) & (np.floor(array) == array))]
    return [x for x in array.ravel() if not (isinstance(x, int) and x >= 1)]


def _shrunk(count: Any) -> np.ndarray:
    count = np.asarray(count, object if isinstance(count, int) else None)  # of itself NumPy takes uint64 from 2^63 on
    return count.astype(np.int64) if count.dtype == object and count.size and np.max(count) < 2**62 else count


def _word_ceil(n: Array, k: Array) -> Array:
    """Rounded-up quotient of unsigned integers n < 2^31 and k by floats, put right twice: faster than integer division."""
    divisor = k.astype(jnp.float32)
    guess = (n.astype(jnp.float32) / divisor).astype(jnp.int32)
    size, signed = k.astype(jnp.int32), n.astype(jnp.int32)
    guess = guess + jnp.floor((signed - guess * size).astype(jnp.float32) / divisor).astype(jnp.int32)
    left = signed - guess * size
    guess = guess + jnp.where(left > 0, 1, 0) - jnp.where(left <= -size, 1, 0) + jnp.where(left > size, 1, 0)
    return guess.astype(jnp.uint32)


def _product(a: Array, b: Array) -> Words:
    """Product of two words, by halves."""
    half, bits = jnp.uint32(0xFFFF), jnp.uint32(16)
    low, cross = (a & half) * (b & half), (a >> bits) * (b & half)
    cross = cross + (low >> bits)
    other = (cross & half) + (a & half) * (b >> bits)
    high = (a >> bits) * (b >> bits) + (cross >> bits) + (other >> bits)
    return Words(high, (other << bits) | (low & half))


def _times(words: Words, factor: Array) -> Words:
    """Two words times one; all ones beyond 2^64."""
    upper, lower = _product(words.high, factor), _product(words.low, factor)
    high = upper.low + lower.high
    over = (upper.high > 0) | (high < lower.high)
    most = jnp.uint32(2**32 - 1)
    return jax.tree.map(lambda x: jnp.where(over, most, x), Words(high, lower.low))
