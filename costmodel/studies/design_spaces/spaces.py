"""What the design spaces share: tables, random workloads, and the search through every configuration, exact in integers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from costmodel.processors.systolic_counts import Words, argmin_words

LARGEST = 1 << 20  # size up to which all counts are exact
BLOCK, FEWEST = 1 << 14, 1 << 8  # workloads per call, and at least: smaller batches are filled up, so that few shapes compile
PART = 16  # workloads whose costs are in the cache at once
Columns = Mapping[str, Array]
Rows = Int[np.ndarray, "workloads fields"] | Int[Array, "workloads fields"]
Products = Int[np.ndarray, "products 3"] | Int[Array, "products 3"]


class Best(NamedTuple):
    """The optimum of every workload: lowest index, cost in cycles, and how many configurations share that cost."""

    configuration: Int[np.ndarray, " workloads"]
    cost: Int[np.ndarray, " workloads"]
    ties: Int[np.ndarray, " workloads"]


@dataclasses.dataclass(frozen=True)
class DesignSpace:
    """What the three spaces share; `largest` is the largest size that `sample` draws."""

    largest: int = 10_000
    fields: ClassVar[tuple[str, ...]] = ("m", "n", "k")  # of a workload
    limits: ClassVar[tuple[str, ...]] = ()  # fields that only say which configurations are allowed
    categories: ClassVar[Mapping[str, int]] = {}  # fields that are 0 ... number - 1, no sizes
    block: ClassVar[str | None] = None  # column of the table whose values split it into equal parts
    pieces: ClassVar[int] = 1  # equal parts of a workload whose costs do not depend on each other; the largest counts
    precise: ClassVar[bool] = False  # whether the exact cost needs 64-bit floats

    def __post_init__(self) -> None:
        if not 2 <= self.largest <= LARGEST:
            raise ValueError(f"largest = {self.largest} is outside its range [2, {LARGEST}]")

    @property
    def table(self) -> Mapping[str, Int[np.ndarray, " configurations"]]:
        """The configurations: named columns, one entry each."""
        return _table(self)

    @property
    def count(self) -> int:
        """Number of configurations."""
        return len(next(iter(self.table.values())))

    def sample(self, key: PRNGKeyArray, count: int, products: Products | None = None) -> Int[Array, "workloads fields"]:
        """`count` random workloads; with `products` (any, 3), their sizes m, n, k are drawn from these rows."""
        return _draw(self, key, count, products)

    def oracle(self, workloads: Rows) -> Best:
        """The best configuration of every workload, exact. ValueError for workloads out of range or without any allowed one."""
        found = in_blocks(functools.partial(self._run, _search), self.checked(workloads))
        return Best(found[0], _whole(found[1], found[2]), found[3])

    def tied(self, workloads: Rows) -> Bool[np.ndarray, "workloads configurations"]:
        """Which configurations are best: all of least cost. ValueError as `oracle`."""
        return in_blocks(functools.partial(self._run, _mark), self.checked(workloads))[0]

    def costs_of(self, workloads: Rows, configurations: Any) -> Int[np.ndarray, "..."]:
        """Cycles, exact, of configurations (workloads,) or (workloads, any): positions in the table, allowed or not.

        ValueError for workloads out of range, or positions outside the table.
        """
        rows, choice = self.checked(workloads), np.asarray(configurations, np.int32)
        if choice.shape[:1] != rows.shape[:1] or (choice.size and not 0 <= choice.min() <= choice.max() < self.count):
            raise ValueError(
                f"configurations of shape {choice.shape}: {len(rows)} rows of positions in [0, {self.count - 1}] needed"
            )
        wide = choice.reshape(len(rows), -1)
        high, low = in_blocks(functools.partial(self._run, _evaluate), rows, wide)
        return _whole(high, low).reshape(choice.shape)

    def checked(self, workloads: Rows) -> Int[np.ndarray, "workloads fields"]:
        """The workloads as int32; ValueError, one line, for a wrong number of columns or a value out of range."""
        rows = np.asarray(workloads)
        if rows.ndim != 2 or rows.shape[1] != len(self.fields) or not len(rows) or rows.dtype.kind not in "iu":
            raise ValueError(f"workloads of {rows.dtype} {rows.shape}: rows of {len(self.fields)} whole numbers needed")
        for name, column in zip(self.fields, rows.T, strict=True):
            low, high = self._range(name)
            if column.min() < low or column.max() > high:
                raise ValueError(f"{name} = {column.min()} to {column.max()} is outside its range [{low}, {high}]")
        return rows.astype(np.int32)

    def allowed(self, workloads: Int[Array, "workloads fields"]) -> Bool[Array, "workloads configurations"]:
        """Which configurations count for every workload; inside jit."""
        shape = (workloads.shape[0], self.count)
        return jnp.broadcast_to(self._allowed(self._columns(workloads), self._constants()), shape)

    def log_costs(self, workloads: Int[Array, "workloads fields"]) -> Float[Array, "workloads configurations"]:
        """Natural logarithm of all costs as floats, inside jit, allowed or not: for training; 7 digits do not tell near ties."""
        return jnp.log(self._cycles(self._columns(workloads), self._constants()))

    def _columns(self, workloads: Array) -> Columns:
        return {name: workloads[:, i, None] for i, name in enumerate(self.fields)}

    def _constants(self) -> Columns:
        return {name: jnp.asarray(column, jnp.int32) for name, column in self.table.items()}

    def _run(self, program: Callable[..., Any], *rows: np.ndarray) -> Any:
        with jax.enable_x64(self.precise or jax.config.read("jax_enable_x64")):
            return jax.device_get(program(self, *rows))

    def _range(self, name: str) -> tuple[int, int]:
        return (0, self.categories[name] - 1) if name in self.categories else (1, LARGEST)

    def _draw(self, key: PRNGKeyArray, count: int, products: Products | None) -> Array:
        first, second = jax.random.split(key)
        sizes = list(draw_sizes(first, count, self.largest, products))
        return jnp.stack([jnp.asarray(column, jnp.int32) for column in sizes + self._surroundings(second, count)], axis=1)

    def _surroundings(self, key: PRNGKeyArray, count: int) -> list[Array]:
        """Random values of the fields that are no sizes of products."""
        return []

    def _allowed(self, work: Columns, choice: Columns) -> Array:
        return work[self.fields[0]] > 0  # always, but no constant: XLA would fold tables of it for minutes

    def _make_table(self) -> dict[str, Any]:
        raise NotImplementedError

    def _cycles(self, work: Columns, choice: Columns) -> Array:
        """Cost as floats, (workloads, configurations); `work` (workloads, 1) and `choice` broadcast."""
        raise NotImplementedError

    def _words(self, work: Columns, choice: Columns) -> Words:
        """Cost as exact integers; shapes as `_cycles`."""
        raise NotImplementedError


def in_blocks(run: Callable[..., Any], *rows: np.ndarray, block: int = BLOCK, fewest: int = FEWEST) -> list[np.ndarray]:
    """Outputs of `run` on blocks of rows, put together; the last is filled up to a power of two, so that few shapes compile."""
    count, parts = len(rows[0]), []
    size = min(block, max(fewest, 1 << (count - 1).bit_length()))
    for start in range(0, count, size):
        cut = [array[start : start + size] for array in rows]
        short = size - len(cut[0])
        parts.append(run(*(np.pad(part, [(0, short), *[(0, 0)] * (part.ndim - 1)], mode="edge") for part in cut)))
    return [np.concatenate([np.asarray(part) for part in column])[:count] for column in zip(*parts, strict=True)]


def draw_sizes(key: PRNGKeyArray, count: int, largest: int, products: Products | None) -> tuple[Array, Array, Array]:
    """Sizes m, n, k of `count` products, evenly in the logarithm from 1 to `largest`, or out of the rows of `products`."""
    if products is not None:
        rows = jnp.asarray(products)[jax.random.randint(key, (count,), 0, len(products))]
    else:
        drawn = jnp.exp(jax.random.uniform(key, (count, 3), jnp.float32) * np.float32(np.log(largest + 1)))
        rows = jnp.clip(drawn.astype(jnp.int32), 1, largest)
    return rows[:, 0], rows[:, 1], rows[:, 2]


def draw_powers(key: PRNGKeyArray, count: int, low: int, high: int) -> Array:
    """`count` powers of two, evenly from 2^low to 2^high."""
    return 2 ** jax.random.randint(key, (count,), low, high + 1)


@functools.cache
def _table(space: DesignSpace) -> Mapping[str, np.ndarray]:
    return {name: np.asarray(column, np.int32) for name, column in space._make_table().items()}


@functools.partial(jax.jit, static_argnames=("space", "count"))
def _draw(space: DesignSpace, key: PRNGKeyArray, count: int, products: Products | None) -> Array:
    return space._draw(key, count, products)


def _masked_words(space: DesignSpace, rows: Array) -> Words:
    """Costs (workloads, configurations), the largest number where not allowed."""
    work, choice = space._columns(rows), space._constants()
    ok = space._allowed(work, choice)
    return jax.tree.map(lambda word: jnp.where(ok, word, jnp.uint32(2**32 - 1)), space._words(work, choice))


@functools.partial(jax.jit, static_argnames="space")
def _search(space: DesignSpace, rows: Array) -> tuple[Array, Array, Array, Array]:
    """Position, high and low word of the least cost, and number of its ties."""

    def part(words: Words) -> tuple[Array, Array, Array, Array]:
        place, least, same = _least(words)
        return place, least.high[..., 0], least.low[..., 0], jnp.sum(same, -1, dtype=jnp.int32)

    return jax.tree.map(jnp.ravel, _by_parts(space, rows, part))


@functools.partial(jax.jit, static_argnames="space")
def _mark(space: DesignSpace, rows: Array) -> tuple[Array]:
    return (_by_parts(space, rows, lambda words: _least(words)[2]).reshape(len(rows), -1),)


def _by_parts(space: DesignSpace, rows: Array, use: Callable[[Words], Any]) -> Any:
    """`use` of all costs, a few workloads at a time; in a loop of their own, lest every pass over them computes them anew."""
    words = functools.partial(jax.lax.map, functools.partial(_masked_words, space))
    return jax.lax.map(lambda some: use(words(some)), rows.reshape(-1, 2, PART, rows.shape[1]))


def _least(words: Words) -> tuple[Array, Words, Array]:
    """Position and value of the least integer, and where it stands."""
    place = argmin_words(words)
    least = jax.tree.map(lambda word: jnp.take_along_axis(word, place[..., None], -1), words)
    return place, least, (words.high == least.high) & (words.low == least.low)


@functools.partial(jax.jit, static_argnames="space")
def _evaluate(space: DesignSpace, rows: Array, choice: Array) -> Words:
    picked = {name: column[choice] for name, column in space._constants().items()}
    return space._words(space._columns(rows), picked)


def _whole(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return (high.astype(np.int64) << 32) | low
