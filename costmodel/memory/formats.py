"""Block number formats: how many bytes a tensor occupies, and how many bytes move when a row of it is read.

    footprint  = floor(elements (element_bits + scale_bits / block) / 8)
    row        = 64 ceil(m element_bits / 512) + 64 ceil((m / block) scale_bits / 512)      m elements, memory blocks of 64 B

The two differ because elements and scales of a row lie in separate blocks of memory: with MXFP8 in blocks of 8 a row of 64
elements occupies 1.125 B and moves 2 B per element. Formats without a shared scale have `scale_bits` 0.
PLENA reads one block of scales whatever the row's length, which loses scales above 512 elements per row: `scale_blocks="one"`.

Sources: OCP Microscaling Formats 1.0 (blocks of 32, 8-bit scale); AICrossSim/PLENA_Simulator (blocks of 8).
"""

import dataclasses
from typing import Literal

from physics import unknown_name

CHUNK = 64  # bytes that one read moves


@dataclasses.dataclass(frozen=True)
class BlockFormat:
    """`block` elements of `element_bits` share a scale of `scale_bits`."""

    name: str
    element_bits: int
    scale_bits: int = 0
    block: int = 1
    source: str = "IEEE 754 or two's complement"

    @property
    def bits(self) -> float:
        """Bits per element, its share of the scale included."""
        return self.element_bits + self.scale_bits / self.block

    def footprint(self, elements: int) -> int:
        """Bytes that `elements` (>= 0) occupy, rounded down as compilers do; ValueError if negative."""
        if elements < 0:
            raise ValueError(f"elements = {elements} is outside its range [0, inf)")
        return elements * (self.element_bits * self.block + self.scale_bits) // (8 * self.block)

    def row_traffic(self, elements: int, scale_blocks: Literal["whole", "one"] = "whole") -> int:
        """Bytes that one row of `elements` (>= 1) moves, in whole blocks of 64 B; "one" is PLENA's rule (see the module)."""
        if elements < 1:
            raise ValueError(f"elements = {elements} of a row is outside its range [1, inf)")
        data = -(-elements * self.element_bits // (8 * CHUNK))
        shared = -(-elements // self.block) * self.scale_bits
        scales = -(-shared // (8 * CHUNK))
        return CHUNK * (data + (min(scales, 1) if scale_blocks == "one" else scales))


OCP = "OCP Microscaling Formats 1.0"
PLENA = "AICrossSim/PLENA_Simulator: MX in blocks of 8"
FORMATS = {
    item.name: item
    for item in (
        BlockFormat("fp32", 32), BlockFormat("fp16", 16), BlockFormat("bf16", 16), BlockFormat("int8", 8), BlockFormat("int4", 4),
        BlockFormat("mxfp8", 8, 8, 32, OCP), BlockFormat("mxfp6", 6, 8, 32, OCP), BlockFormat("mxfp4", 4, 8, 32, OCP),
        BlockFormat("mxint8", 8, 8, 32, OCP),
        BlockFormat("plena-mxfp8", 8, 8, 8, PLENA), BlockFormat("plena-mxint8", 8, 8, 8, PLENA),
        BlockFormat("plena-mxint4", 4, 8, 8, PLENA),
    )
}  # fmt: skip


def load_format(name: str) -> BlockFormat:
    """The named format; ValueError with close matches if there is none."""
    if name not in FORMATS:
        raise ValueError(unknown_name("format", name, FORMATS))
    return FORMATS[name]


def list_formats() -> tuple[str, ...]:
    """Names that `load_format` takes."""
    return tuple(FORMATS)
