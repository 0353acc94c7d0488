"""Protobuf's wire format, read in place: varints, fields and the spans that they take.

Malformed input is `MalformedError`, never an exception of Python's: positions are checked against the message's end.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

    Buffer = bytes | mmap

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
LONGEST_TAG = 5  # bytes
_LONGEST_VARINT = 10  # bytes of a 64-bit value


class MalformedError(Exception):
    """The bytes are not what they have to be to be canonicalised. The message is the reason."""


def read_varint(buffer: "Buffer", position: int, end: int) -> tuple[int, int]:
    """Return the unsigned value at `position` and where the next byte is. Raises MalformedError."""
    value = shift = 0
    while position < end and shift < _LONGEST_VARINT * 7:
        byte = buffer[position]
        position += 1
        if byte < 0x80:
            return (value | byte << shift) & 0xFFFFFFFFFFFFFFFF, position
        value |= (byte & 0x7F) << shift
        shift += 7
    raise MalformedError("a varint does not end")


def signed(value: int) -> int:
    """Return a varint's value as the int64 that it means."""
    return value - (1 << 64) if value >> 63 else value


def fields(buffer: "Buffer", position: int, end: int) -> "Iterator[tuple[int, int, int, int]]":
    """Yield (tag, start, content start, end) of each field of the message in [position, end).

    The tag is the field number << 3 | the wire type; `start` is where the tag stands. Raises MalformedError.
    """
    while position < end:
        start = position
        tag = buffer[position]
        position += 1
        if tag >= 0x80:
            tag, position = read_varint(buffer, start, min(end, start + LONGEST_TAG))
        kind = tag & 7
        if kind == LENGTH:
            length, content = read_varint(buffer, position, end)
            position = content + length
        elif kind == VARINT:
            content = position
            _, position = read_varint(buffer, position, end)
        elif kind in (FIXED64, FIXED32):
            content = position
            position += 8 if kind == FIXED64 else 4
        else:
            raise MalformedError(f"wire type {kind}")
        if position > end or not 8 <= tag < 1 << 32:  # field number 0 does not exist
            raise MalformedError("a field runs over its message")
        yield tag, start, content, position


def packed(buffer: "Buffer", tag: int, content: int, end: int) -> list[int]:
    """Return the int64 values of one field of a repeated integer, packed or not. Raises MalformedError."""
    if tag & 7 == VARINT:
        return [signed(read_varint(buffer, content, end)[0])]
    values = []
    while content < end:
        value = buffer[content]
        content += 1
        if value >= 0x80:
            if content < end and buffer[content] < 0x80:
                value = value & 0x7F | buffer[content] << 7
                content += 1
            else:
                value, content = read_varint(buffer, content - 1, end)
                value = signed(value)
        values.append(value)
    return values
