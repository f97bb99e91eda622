"""Mappings: how weights become cells, inputs row drives, and column currents digital results. Each one is a table.

With x(w) = (G - G_hrs) / step the level of a cell and v in {0, 1} the drive of a row, one conversion sees

    differential    J = sum over rows of v (x_plus - x_minus)
    single-ended    J = sum over rows of v (x_plus + steps h)  +  steps h (a sum of inputs + b number of inputs)

in units of the current of one level step; h = HRS / (LRS - HRS), `steps` = levels of the channel's cells less one, and
(a, b) the analog offset added before conversion. The result of one product is

    sum over conversions of weight ADC(J)  +  per_weight sum of w  +  (per_input + hrs_per_input h) sum of i  +  per_row n

with n the number of inputs.

Cells and drives are bit fields of the weight and of the input: digit(t) = (max(sign t + offset, 0) >> shift) mod 2^bits,
which covers positive and negative parts, offset and two's complement code. Source of the seventeen mappings: CIM-Explorer,
Pelke et al., arXiv 2505.14303 (names, passes and decoding as there).
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from physics.params import unknown_name

Whole = Int[Array, "..."] | Int[np.ndarray, "..."]


@dataclasses.dataclass(frozen=True)
class Field:
    """A bit field of an integer t: (max(sign t + offset, 0) >> shift) mod 2^bits."""

    sign: int = 1
    offset: int = 0
    shift: int = 0
    bits: int = 1

    def digit(self, number: Whole) -> Int[Array, "..."]:
        """The field of every element of `number`, same shape."""
        shifted = jnp.maximum(self.sign * jnp.asarray(number) + self.offset, 0)
        return (shifted >> self.shift) & ((1 << self.bits) - 1)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """One use of the converter: which `drive` (pass) and `channel`, the digital `weight` and the analog offset in units of h."""

    drive: int
    channel: int
    weight: int
    offset_per_input: float = 0.0
    offset_per_row: float = 0.0


@dataclasses.dataclass(frozen=True)
class CrossbarMapping:
    """One mapping as data; hashable, to be passed as a static argument.

    `plus`, `minus`: for every channel the fields stored in its column(s), one per physical row of a weight; `minus` is empty
    for single-ended channels. `drives`: for every pass the field that drives each physical row of a weight.
    `weight_range`, `input_range`: smallest and largest integer; `no_zero` for binary alphabets {-1, 1}.
    `accumulation`: where the published simulator rounds toward zero, see `Crossbar.mvm`.
    """

    name: str
    plus: tuple[tuple[Field, ...], ...]
    minus: tuple[tuple[Field, ...], ...]
    drives: tuple[tuple[Field, ...], ...]
    conversions: tuple[Conversion, ...]
    weight_range: tuple[int, int]
    input_range: tuple[int, int]
    no_zero: bool = False
    per_weight: int = 0
    per_input: int = 0
    per_row: int = 0
    hrs_per_input: int = 0
    accumulation: str = "each"

    @property
    def differential(self) -> bool:
        """Whether the converter sees the difference of two columns."""
        return bool(self.minus)

    @property
    def rows_per_weight(self) -> int:
        """Physical rows of one weight."""
        return len(self.drives[0])

    @property
    def columns_per_weight(self) -> int:
        """Physical columns of one weight."""
        return len(self.plus) + len(self.minus)

    @property
    def passes(self) -> int:
        """Sequential activations of one product; arrays of different channels are active at the same time."""
        used = {(c.drive, c.channel) for c in self.conversions}
        return max(sum(channel == wanted for _, channel in used) for wanted in range(len(self.plus)))

    @property
    def steps(self) -> tuple[int, ...]:
        """Level steps between HRS and LRS in every channel: levels of its cells less one."""
        return tuple((1 << rows[0].bits) - 1 for rows in self.plus)

    @property
    def cell_bits(self) -> int:
        """Largest number of bits kept in one cell."""
        return max(rows[0].bits for rows in self.plus)


POSITIVE, NEGATIVE = Field(), Field(sign=-1)
SIGNS = ((POSITIVE,), (NEGATIVE,))  # positive and negative part, one after the other
BOTH = ((POSITIVE, NEGATIVE),)  # positive and negative part on two rows at once
MIRRORED = ((NEGATIVE, POSITIVE),)


def _bits(offset: int) -> tuple[tuple[Field, ...], ...]:
    """Low and high bit of t + offset; offset 4 is two's complement."""
    return (Field(offset=offset),), (Field(offset=offset, shift=1),)


def _mapping(
    name: str,
    plus: tuple[tuple[Field, ...], ...],
    minus: tuple[tuple[Field, ...], ...],
    drives: tuple[tuple[Field, ...], ...],
    *conversions: Conversion,
    per_weight: int = 0,
    per_input: int = 0,
    per_row: int = 0,
    accumulation: str = "each",
) -> CrossbarMapping:
    """A binary (BNN) or ternary (TNN) mapping."""
    return CrossbarMapping(
        name,
        plus,
        minus,
        drives,
        conversions,
        weight_range=(-1, 1),
        input_range=(-1, 1),
        no_zero=name.startswith("BNN"),
        per_weight=per_weight,
        per_input=per_input,
        per_row=per_row,
        accumulation=accumulation,
    )


PLUS, MINUS = ((POSITIVE,),), ((NEGATIVE,),)  # one column, one row per weight
TABLE = {
    mapping.name: mapping
    for mapping in (
        _mapping("BNN_I", PLUS, MINUS, PLUS, Conversion(0, 0, 2), per_weight=-1),
        _mapping("BNN_II", PLUS, MINUS, MINUS, Conversion(0, 0, -2), per_weight=1),
        _mapping(
            "BNN_III",
            PLUS,
            (),
            SIGNS,
            Conversion(0, 0, 2, offset_per_input=-1.0),
            Conversion(1, 0, -2),
            per_input=-1,
            accumulation="total",
        ),
        _mapping(
            "BNN_IV",
            MINUS,
            (),
            SIGNS,
            Conversion(1, 0, 2),
            Conversion(0, 0, -2, offset_per_input=-1.0),
            per_input=1,
            accumulation="total",
        ),
        _mapping("BNN_V", BOTH, (), BOTH, Conversion(0, 0, 2, offset_per_row=-1.0), per_row=-1, accumulation="total"),
        _mapping("BNN_VI", BOTH, MIRRORED, BOTH, Conversion(0, 0, 1)),
        _mapping("TNN_I", BOTH, MIRRORED, BOTH, Conversion(0, 0, 1)),
        _mapping("TNN_II", PLUS, MINUS, _bits(4), Conversion(0, 0, 1), Conversion(1, 0, -2)),
        _mapping("TNN_III", PLUS, MINUS, _bits(1), Conversion(0, 0, 1), Conversion(1, 0, 2), per_weight=-1),
        _mapping(
            "TNN_IV",
            _bits(4),
            (),
            SIGNS,
            Conversion(0, 0, 1, offset_per_input=0.5),
            Conversion(1, 0, -1, offset_per_input=-0.5),
            Conversion(0, 1, -2),
            Conversion(1, 1, 2),
            accumulation="total",
        ),
        _mapping(
            "TNN_V",
            _bits(1),
            (),
            SIGNS,
            Conversion(0, 0, 1),
            Conversion(1, 0, -1, offset_per_input=3.0),
            Conversion(0, 1, 2),
            Conversion(1, 1, -2),
            per_input=-1,
            accumulation="total",
        ),
    )
}
INTEGER = (
    "I_DIFF_W_DIFF_1XB",
    "I_DIFF_W_DIFF_2XB",
    "I_OFFS_W_DIFF",
    "I_TC_W_DIFF",
    "I_UINT_W_DIFF",
    "I_UINT_W_OFFS",
)


def list_mappings() -> tuple[str, ...]:
    """Names of the mappings: six binary, five ternary, six integer."""
    return (*TABLE, *INTEGER)


def load_mapping(name: str, weight_bits: int = 8, input_bits: int = 8, slices: tuple[int, ...] = (4, 4)) -> CrossbarMapping:
    """The mapping called `name`.

    Integer mappings hold signed weights of `weight_bits` in cells of `slices` bits, most significant first, and take inputs
    of `input_bits` bit by bit (unsigned for I_UINT_...); binary and ternary ones ignore these arguments.
    ValueError for an unknown name, numbers of bits outside 2..16, or slices that do not add up to the weight's bits.
    """
    if name in TABLE:
        return TABLE[name]
    if name not in INTEGER:
        raise ValueError(unknown_name("mapping", name, list_mappings()))
    for field, bits in (("weight_bits", weight_bits), ("input_bits", input_bits)):
        if not 2 <= bits <= 16:
            raise ValueError(f"{field} = {bits} is outside its range [2, 16]")
    if sum(slices) != weight_bits or min(slices) < 1:
        raise ValueError(f"slices = {tuple(slices)} bits must be positive and add up to weight_bits = {weight_bits}")
    return _integer(name, weight_bits, input_bits, tuple(slices))


@functools.cache
def _integer(name: str, weight_bits: int, input_bits: int, slices: tuple[int, ...]) -> CrossbarMapping:
    shifts = tuple(int(shift) for shift in weight_bits - np.cumsum(slices))
    half_weight, half_input = 1 << (weight_bits - 1), 1 << (input_bits - 1)
    offset_weights, unsigned, twice = name.endswith("W_OFFS"), name.startswith("I_UINT"), name.endswith("2XB")

    def columns(sign: int, offset: int = 0) -> tuple[tuple[Field, ...], ...]:
        once = tuple((Field(sign, offset, shift, bits),) for shift, bits in zip(shifts, slices, strict=True))
        return once * 2 if twice else once

    bits = _bit_passes(name, input_bits)
    second = len(slices) if twice else 0  # negative inputs drive the channels of the second array
    return CrossbarMapping(
        name,
        plus=columns(1, half_weight if offset_weights else 0),
        minus=() if offset_weights else columns(-1),
        drives=tuple((field,) for field, _ in bits),
        conversions=tuple(
            Conversion(drive, channel + (second if field.sign < 0 else 0), weight * (1 << shift))
            for drive, (field, weight) in enumerate(bits)
            for channel, shift in enumerate(shifts)
        ),
        weight_range=(-half_weight, half_weight - 1),
        input_range=(0, 2 * half_input - 1) if unsigned else (-half_input, half_input - 1),
        per_weight=-half_input if name.startswith("I_OFFS") else 0,
        per_input=-half_weight if offset_weights else 0,
        hrs_per_input=-sum((1 << s) * ((1 << b) - 1) for s, b in zip(shifts, slices, strict=True)) if offset_weights else 0,
        accumulation="rounded" if offset_weights else "each",
    )


def _bit_passes(name: str, bits: int) -> list[tuple[Field, int]]:
    """The bit that drives the rows in every pass, and its weight."""
    if name.startswith("I_DIFF"):  # as published: positive inputs have no sign bit
        positive = [(Field(shift=bit), 1 << bit) for bit in range(bits - 1)]
        return positive + [(Field(sign=-1, shift=bit), -(1 << bit)) for bit in range(bits)]
    if name.startswith("I_OFFS"):  # as published: one pass more than the shifted input has bits
        return [(Field(offset=1 << (bits - 1), shift=bit), 1 << bit) for bit in range(bits + 1)]
    if name.startswith("I_TC"):
        low = [(Field(offset=1 << bits, shift=bit), 1 << bit) for bit in range(bits - 1)]
        return [*low, (Field(offset=1 << bits, shift=bits - 1), -(1 << (bits - 1)))]
    return [(Field(shift=bit), 1 << bit) for bit in range(bits)]
