"""TensorBoard event files: scalars over steps, appended record by record.

A file is a sequence of TFRecords

    length (uint64) | masked crc32c of length (uint32) | data | masked crc32c of data (uint32)        little-endian
    masked crc = ((crc >> 15) | (crc << 17)) + 0xa282ead8   mod 2^32

whose data are `tensorflow.Event` messages in protocol-buffer wire format; of their fields only those of scalars are written:

    Event: wall_time = 1 (double)  step = 2 (int64)  file_version = 3 (string)  summary = 5;  Summary: value = 1
    Value: tag = 1 (string)  simple_value = 2 (float)

Written here because the libraries that do it write in the background, where a full disk is a lost thread, and begin a new
file at each start, where a resumed run repeats steps. Sources: TensorFlow's `record_writer.h`, `event.proto` and
`summary.proto`; crc32c (Castagnoli): RFC 3720, appendix B.4.
"""

import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rl.files import append_bytes, cut_to

VERSION = b"brain.Event:2"
POLYNOMIAL = 0x82F63B78  # of crc32c, bits reversed
VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5  # wire types


class EventFile:
    """One event file to append to; `last_step` is the newest step in it, -1 where there is none.

    A record that a killed process left unfinished is cut off. ValueError if the file is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        content = self.path.read_bytes() if self.path.exists() else b""
        records = list(_records(content))
        opening = records[0][0] if records else _opening() if framed(_opening())[:12].startswith(content[:12]) else b""
        if VERSION not in opening:
            raise ValueError(f"{self.path} is not an event file")
        cut_to(self.path, records[-1][1] if records else 0)
        self.last_step = max((_step(data) for data, _ in records[1:]), default=-1)

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars by tag at one environment step."""
        event = _double(1, time.time()) + _integer(2, step) + _bytes(5, b"".join(_value(*item) for item in values.items()))
        head = b"" if self.path.exists() and self.path.stat().st_size else framed(_opening())
        append_bytes(self.path, head + framed(event))
        self.last_step = step


def _opening() -> bytes:
    """The first event of a file."""
    return _double(1, time.time()) + _bytes(3, VERSION)


def framed(data: bytes) -> bytes:
    """One TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def masked(data: bytes) -> int:
    """The masked crc32c of a record."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _checksum_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
    return byte


TABLE = tuple(_checksum_of_byte(byte) for byte in range(256))


def _records(content: bytes) -> Iterator[tuple[bytes, int]]:
    """The whole records from the start on, each with where it ends."""
    at = 0
    while at + 16 <= len(content):
        length, check = struct.unpack_from("<QI", content, at)
        end = at + 16 + length
        if check != masked(content[at : at + 8]) or end > len(content):
            return
        data = content[at + 12 : end - 4]
        if struct.unpack_from("<I", content, end - 4)[0] != masked(data):
            return
        yield data, end
        at = end


def _step(event: bytes) -> int:
    """The step of an event that `append` wrote: wall_time takes 9 bytes, then comes the tag of the step."""
    if event[9] != 2 << 3 | VARINT:
        return -1
    step = 0
    for place, byte in enumerate(event[10:]):
        step |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    return step


def _varint(value: int) -> bytes:
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3 | VARINT) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | DOUBLE) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | BYTES) + _varint(len(value)) + value


def _value(tag: str, value: float) -> bytes:
    return _bytes(1, _bytes(1, tag.encode()) + _varint(2 << 3 | FLOAT) + struct.pack("<f", value))
