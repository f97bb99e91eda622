"""A programmed crossbar and its products.

Order of the effects: programming noise and stuck-at faults (`program_crossbar`), drift and read disturb (`drifted`,
`disturbed`), read noise, wire resistance and converter (`mvm`). All of them act on the same conductances

    G = g_hrs + (g_lrs - g_hrs) state / steps,        steps: levels of the channel's cells less one

A weight matrix larger than one array is cut into tiles of rows, filled one after the other; their digital results are added.
Cutting into tiles of columns changes nothing in a result and is left to the cost model. One trace for changed values.
"""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from physics.crossbar.cells import CrossbarCells, Wires
from physics.crossbar.converters import Adc
from physics.crossbar.disturb import ReadDisturb
from physics.crossbar.ladder import column_conductance
from physics.crossbar.mappings import CrossbarMapping, Whole
from physics.crossbar.noise import clipped_moments, correlated_normal, standard_normal
from physics.crossbar.rounding import nearest
from physics.params import unknown_name
from physics.types import Value

NOISE = ("cell", "column")
ACCUMULATE = ("real", "int32")


class Crossbar(eqx.Module):
    """Arrays that hold one weight matrix; made by `program_crossbar`.

    `state`: (tiles, rows, columns per weight, outputs), what the cells conduct above HRS, in level steps; `level`: what they
    were told (or are stuck at), 0 at HRS to 1 at LRS; columns are the mapping's `plus`, then its `minus`. `weight_sum`: sum
    of each output's weights, kept digitally.
    """

    state: Float[Array, "tiles rows columns outputs"]
    level: Float[Array, "tiles rows columns outputs"]
    weight_sum: Float[Array, " outputs"]
    cells: CrossbarCells
    wires: Wires | None
    mapping: CrossbarMapping = eqx.field(static=True)
    inputs: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)

    @property
    def conductance(self) -> Float[Array, "tiles rows columns outputs"]:
        """Present conductances (S)."""
        return self.cells.g_hrs + self.cells.swing * self.state / self._steps()

    @property
    def full_scale(self) -> Float[Array, " channels"]:
        """Current (A) of a converter's full scale in every channel."""
        return self._full_scale() * self._unit() * 1e-6

    def drifted(self, factor: Value | Callable[[Array], Array]) -> "Crossbar":
        """With every conductance multiplied by `factor`: a number, an array that broadcasts against `state`, or a function
        of the conductances (S) such as a drift law."""
        return self._scaled(factor(self.conductance) if callable(factor) else factor)

    @partial(jax.jit, inline=True)
    def _scaled(self, factor: Value) -> "Crossbar":
        zero = self._zero()
        return eqx.tree_at(lambda c: c.state, self, (zero + self.state) * factor - zero)

    def disturbed(
        self, law: ReadDisturb, reads: Value, read_time: Value, temperature: Value = 300.0, cycles: Value = 0.0
    ) -> "Crossbar":
        """After `reads` products of `read_time` (s) each at `temperature` (K), since cells with `cycles` set-reset cycles were
        programmed. LRS cells follow the law, HRS cells stay, levels between them change in proportion (assumed).
        ValueError for a read voltage above 0.4 V.
        """
        factor = law.factor(jnp.asarray(reads, float) * read_time, self.cells.read_voltage, temperature, cycles)
        return self.drifted(1 + (factor - 1) * self.level)

    def currents(
        self, inputs: Whole, key: PRNGKeyArray | None = None, noise: str = "cell"
    ) -> Float[Array, "conversions tiles batch outputs"]:
        """What the converters see, in units of their full scale, in the order of the mapping's conversions."""
        scale = self._full_scale()
        pairs = self._analog(*self._prepare(inputs), key, noise)
        uses = self.mapping.conversions
        return jnp.stack([self._joined(*pair) / scale[use.channel] for pair, use in zip(pairs, uses, strict=True)])

    def mvm(
        self, inputs: Whole, adc: Adc, key: PRNGKeyArray | None = None, *, noise: str = "cell", accumulate: str = "real"
    ) -> Float[Array, "..."]:
        """Products (..., outputs) of `inputs` (..., inputs), integers of the mapping's range.

        With a `key` the cells are read with noise, drawn afresh for every product and common to its passes: `noise="cell"`
        draws and clips every cell, "column" draws the sums of columns from their normal distribution (not with wires).
        `accumulate="int32"` rounds toward zero where the published simulator stores into integers; gradients are then 0.
        Gradients pass to conductances, noise, wires and converter; weights and inputs are integers.
        ValueError for inputs outside the range or of another length, and unknown options.
        """
        if accumulate not in ACCUMULATE:
            raise ValueError(unknown_name("accumulate", accumulate, ACCUMULATE))
        batch = np.shape(inputs)[:-1]
        results = self._product(*self._prepare(inputs), adc, key, noise, accumulate)
        return results.reshape(*batch, self.weight_sum.shape[0])

    def _prepare(self, inputs: Whole) -> tuple[Array, Array]:
        """Drives (tiles, batch, passes, rows) and, per tile, sums of the inputs (tiles, batch)."""
        if np.shape(inputs)[-1:] != (self.inputs,):
            raise ValueError(f"inputs have shape {np.shape(inputs)}, expected (..., {self.inputs})")
        _check_alphabet("input", inputs, self.mapping.input_range, self.mapping.no_zero)
        flat = jnp.asarray(inputs).reshape(-1, self.inputs)
        return _drive(self.mapping, self.state.shape[0], self._room(), flat, self.state.dtype)

    def _room(self) -> int:
        """Inputs that a tile of this crossbar takes."""
        return self.state.shape[1] // self.mapping.rows_per_weight

    def _inputs_per_tile(self) -> Float[Array, " tiles"]:
        tiles = np.arange(self.state.shape[0])
        return jnp.asarray(np.clip(self.inputs - self._room() * tiles, 0, self._room()), self.state.dtype)

    @partial(jax.jit, static_argnums=(5, 6), inline=True)
    def _product(self, drives: Array, sums: Array, adc: Adc, key: PRNGKeyArray | None, noise: str, accumulate: str) -> Array:
        mapping = self.mapping
        analog = self._analog(drives, sums, key, noise)
        constant = (mapping.per_input * sums + mapping.per_row * self._inputs_per_tile()[:, None])[:, :, None]
        hrs_count = mapping.hrs_per_input * sums[:, :, None]
        if adc.exact:  # HRS cancels in whole numbers, before it is multiplied
            digital = [use.weight * signal for (signal, _), use in zip(analog, mapping.conversions, strict=True)]
            hrs_count = sum((use.weight * count for (_, count), use in zip(analog, mapping.conversions, strict=True)), hrs_count)
        else:
            digital = self._digitised(analog, adc)
        if not mapping.differential:
            constant = constant + self.cells.hrs_share * hrs_count
        total = _truncated(digital, constant, mapping.accumulation) if accumulate == "int32" else sum(digital, constant)
        return jnp.sum(total, 0) + mapping.per_weight * lax.stop_gradient(self.weight_sum)

    def _digitised(self, analog: list[tuple[Array, Array]], adc: Adc) -> list[Array]:
        """Results of the conversions. They do not depend on the unit of current, so no gradient passes through it."""
        unit, scale = lax.stop_gradient(self._unit()), self._full_scale()
        return [
            adc.convert(
                self._joined(signal, count) * unit[use.channel],
                scale[use.channel] * unit[use.channel],
                use.weight / unit[use.channel],
                self.mapping.differential,
            )
            for (signal, count), use in zip(analog, self.mapping.conversions, strict=True)
        ]

    def _joined(self, signal: Array, count: Array) -> Array:
        return signal if self.mapping.differential else signal + self.cells.hrs_share * count

    def _analog(self, drives: Array, sums: Array, key: PRNGKeyArray | None, noise: str) -> list[tuple[Array, Array]]:
        """Current of every conversion in level steps, signal + h count (count is 0 where columns are subtracted)."""
        columns = self._columns(drives, key, noise)  # tiles, batch, passes, channels, outputs
        driven = jnp.sum(drives, -1) if self.wires is None else 0 * drives[..., 0]  # wires: HRS is in the sums
        used = self._inputs_per_tile()[:, None]
        analog = []
        for use in self.mapping.conversions:
            count = driven[:, :, use.drive] + use.offset_per_input * sums + use.offset_per_row * used
            count = (0 if self.mapping.differential else self.mapping.steps[use.channel]) * count
            analog.append((columns[:, :, use.drive, use.channel], count[:, :, None]))
        return analog

    def _columns(self, drives: Array, key: PRNGKeyArray | None, noise: str) -> Array:
        """Currents (tiles, batch, passes, channels, outputs) of channels, differences taken, in level steps."""
        if noise not in NOISE:
            raise ValueError(unknown_name("noise", noise, NOISE))
        if key is None:
            return self._sums(self.state, drives)
        if noise == "cell":
            return self._cell_noise(drives, key)
        if self.wires is not None:
            raise ValueError("noise = 'column' needs an array without wires: use noise = 'cell'")
        return self._column_noise(drives, key)

    def _sums(self, state: Array, drives: Array) -> Array:
        mapping, tiles = self.mapping, state.shape[0]
        channels, outputs = len(mapping.plus), state.shape[-1]
        if self.wires is not None:
            return self._ladders(state, drives)
        if mapping.differential:  # HRS cancels
            state = state[:, :, :channels] - state[:, :, channels:]
        sums = jnp.einsum("tbpr,trm->tbpm", drives, state.reshape(tiles, state.shape[1], -1))
        return sums.reshape(*drives.shape[:3], channels, outputs)

    def _ladders(self, state: Array, drives: Array) -> Array:
        """With IR drop along the bit lines."""
        assert self.wires is not None
        steps, channels = self._steps(), len(self.mapping.plus)
        share = (self.cells.hrs_share + state / steps).reshape(*state.shape[:2], -1)
        flat = drives.reshape(drives.shape[0], -1, drives.shape[-1])
        solve = partial(
            column_conductance,
            wire=self.wires.scaled(self.cells),
            trailing=self.rows - state.shape[1],
            method=self.wires.method,
        )
        near = jax.vmap(lambda c, v: solve(c, v))(share, flat).reshape(*drives.shape[:3], *state.shape[2:]) * steps
        return near[..., :channels, :] - near[..., channels:, :] if self.mapping.differential else near

    def _read_deviation(self) -> Array:
        """Standard deviation of each cell's read noise, in level steps."""
        cells = self.cells
        return _between(cells.read_noise_hrs, cells.read_noise_lrs, self.level) / cells.swing * self._steps()

    def _cell_noise(self, drives: Array, key: PRNGKeyArray) -> Array:
        deviation, floor = self._read_deviation(), -self._zero()

        @jax.checkpoint
        def one(x: tuple[Array, PRNGKeyArray]) -> Array:
            noisy = self.state + deviation * standard_normal(x[1], self.state.shape, self.state.dtype)
            return self._sums(jnp.maximum(noisy, floor), x[0][:, None])[:, 0]

        columns = lax.map(one, (jnp.moveaxis(drives, 1, 0), jax.random.split(key, drives.shape[1])))
        return jnp.moveaxis(columns, 0, 1)

    def _column_noise(self, drives: Array, key: PRNGKeyArray) -> Array:
        zero, channels = self._zero(), len(self.mapping.plus)
        mean, variance = clipped_moments(self.state + zero, self._read_deviation())
        if self.mapping.differential:
            variance = variance[:, :, :channels] + variance[:, :, channels:]
        flat = variance.reshape(*variance.shape[:2], -1)
        passes = range(drives.shape[2])
        shared = [[drives[:, :, i] * drives[:, :, j] for j in range(i + 1)] for i in passes]
        covariance = [[jnp.einsum("tbr,trm->tbm", both, flat) for both in row] for row in shared]
        spread = jnp.stack(correlated_normal(key, covariance), axis=2)
        return self._sums(mean - zero, drives) + spread.reshape(*drives.shape[:3], channels, -1)

    def _steps(self) -> Array:
        """Level steps between HRS and LRS of each column, (columns, 1)."""
        count = 2 if self.mapping.differential else 1
        return jnp.asarray(self.mapping.steps * count, self.state.dtype)[:, None]

    def _zero(self) -> Array:
        """HRS in level steps: (columns, 1)."""
        return self._steps() * self.cells.hrs_share

    def _full_scale(self) -> Array:
        """In level steps, (channels,)."""
        steps = jnp.asarray(self.mapping.steps, self.state.dtype)
        top = steps if self.mapping.differential else steps * (1 + self.cells.hrs_share)
        return (self.rows // self.mapping.rows_per_weight) * top

    def _unit(self) -> Array:
        """Current of one level step (uA) in every channel, (channels,)."""
        return self.cells.swing * self.cells.read_voltage * 1e6 / jnp.asarray(self.mapping.steps, self.state.dtype)


def program_crossbar(
    weights: Whole,
    mapping: CrossbarMapping,
    cells: CrossbarCells,
    key: PRNGKeyArray | None = None,
    *,
    rows: int = 256,
    columns: int = 256,
    tiled: bool = False,
    wires: Wires | None = None,
) -> Crossbar:
    """A `Crossbar` that holds `weights` (inputs, outputs), integers of the mapping's alphabet.

    `rows`, `columns`: physical size of one array; all its rows count for wires and full scale, used or not. With a `key` the
    cells get programming noise and stuck-at faults, without one neither. `wires`: the bit lines, None for ideal ones.
    ValueError for weights outside the alphabet, more levels than the cells have, and a matrix larger than one array unless
    `tiled`.
    """
    weights = weights if isinstance(weights, jax.Array) else np.asarray(weights)
    _check_fit(np.shape(weights), mapping, rows, columns, tiled)
    if (1 << mapping.cell_bits) > cells.levels:
        raise ValueError(f"{mapping.name} needs {1 << mapping.cell_bits} levels per cell, CrossbarCells.levels = {cells.levels}")
    _check_alphabet("weight", weights, mapping.weight_range, mapping.no_zero)
    state, level, total = _programmed(jnp.asarray(weights), mapping, rows, cells, key)
    return Crossbar(state, level, total, cells, wires, mapping, weights.shape[0], rows)


@partial(jax.jit, static_argnums=(1, 2), inline=True)
def _programmed(
    weights: Array, mapping: CrossbarMapping, rows: int, cells: CrossbarCells, key: PRNGKeyArray | None
) -> tuple[Array, Array, Array]:
    """State, level and sums of weights."""
    digits = _digits(mapping, weights, rows).astype(float)
    steps = jnp.asarray([(1 << column[0].bits) - 1 for column in mapping.plus + mapping.minus], digits.dtype)[:, None]
    state, level = (digits, digits / steps) if key is None else _write(digits, steps, cells, key)
    return state, level, jnp.sum(weights, axis=0).astype(float)


def _write(digits: Array, steps: Array, cells: CrossbarCells, key: PRNGKeyArray) -> tuple[Array, Array]:
    """State and level after programming noise and faults."""
    for_noise, for_faults = jax.random.split(key)
    level = digits / steps
    deviation = _between(cells.program_noise_hrs, cells.program_noise_lrs, level) / cells.swing * steps
    noisy = digits + deviation * standard_normal(for_noise, digits.shape, digits.dtype)
    chance = jax.random.uniform(for_faults, digits.shape, digits.dtype)
    off, on = chance < cells.stuck_hrs, chance >= 1 - cells.stuck_lrs
    state = jnp.where(off, 0.0, jnp.where(on, steps, jnp.maximum(noisy, -steps * cells.hrs_share)))
    return state, jnp.where(off, 0.0, jnp.where(on, 1.0, level))


def _between(hrs: Array, lrs: Array, level: Array) -> Array:
    return hrs + (lrs - hrs) * level


def _digits(mapping: CrossbarMapping, weights: Array, rows: int) -> Array:
    """What cells are told, (tiles, rows, columns, outputs); unused cells of the last tile hold 0."""
    per_column = [jnp.stack([field.digit(weights) for field in column], 1) for column in mapping.plus + mapping.minus]
    digits = jnp.stack(per_column, 2)  # inputs, rows per weight, columns, outputs
    room = rows // mapping.rows_per_weight
    tiles = -(-weights.shape[0] // room)
    filled = weights.shape[0] if tiles == 1 else tiles * room
    digits = jnp.pad(digits, ((0, filled - weights.shape[0]), (0, 0), (0, 0), (0, 0)))
    return digits.reshape(tiles, -1, *digits.shape[2:])


@partial(jax.jit, static_argnums=(0, 1, 2, 4), inline=True)
def _drive(mapping: CrossbarMapping, tiles: int, room: int, inputs: Array, dtype: np.dtype) -> tuple[Array, Array]:
    """Drives (tiles, batch, passes, rows), rows beyond the last input floating, and sums of inputs (tiles, batch)."""
    short = tiles * room - inputs.shape[1]
    bits = jnp.stack([jnp.stack([field.digit(inputs) for field in fields], -1) for fields in mapping.drives], 1)
    bits = jnp.pad(bits.astype(dtype), ((0, 0), (0, 0), (0, short), (0, 0)))
    split = bits.reshape(*bits.shape[:2], tiles, -1).transpose(2, 0, 1, 3)
    return split, jnp.pad(inputs, ((0, 0), (0, short))).reshape(-1, tiles, room).sum(-1).T.astype(dtype)


def _check_fit(shape: tuple[int, ...], mapping: CrossbarMapping, rows: int, columns: int, tiled: bool) -> None:
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"weights have shape {shape}, expected (inputs, outputs)")
    needed = (shape[0] * mapping.rows_per_weight, shape[1] * mapping.columns_per_weight)
    if rows < mapping.rows_per_weight or columns < mapping.columns_per_weight:
        raise ValueError(f"an array of {rows} x {columns} cells has no room for one weight of {mapping.name}")
    if not tiled and (needed[0] > rows or needed[1] > columns):
        raise ValueError(
            f"weights {shape[0]} x {shape[1]} in {mapping.name} need {needed[0]} x {needed[1]} cells, "
            f"the array has {rows} x {columns}: use tiled=True"
        )


def _check_alphabet(what: str, numbers: Whole, limits: tuple[int, int], no_zero: bool) -> None:
    if isinstance(numbers, Tracer):
        return
    array = np.asarray(numbers)
    bad = (array < limits[0]) | (array > limits[1]) | ((array == 0) & no_zero) | (array != np.floor(array))
    if bad.any():
        allowed = "{-1, 1}" if no_zero else f"{limits[0]}..{limits[1]}"
        raise ValueError(f"{what} {array[bad].flat[0]:g} is outside the mapping's alphabet {allowed}")


def _truncated(digital: list[Array], constant: Array, accumulation: str) -> Array:
    """Sums over conversions as the published simulator stores them into integers."""
    if accumulation == "each":
        total = jnp.zeros_like(digital[0])
        for result in digital:
            total = jnp.trunc(total + result)
        return total + constant
    total = sum(digital, constant)
    return jnp.trunc(total) if accumulation == "total" else nearest(total)
