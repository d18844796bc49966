"""Unsigned integers below 2^63 as LEB128: seven bits a byte, lowest first, the high bit says that
another byte follows.
"""

from __future__ import annotations

from git_theta.errors import PayloadError


def dump(value: int) -> bytes:
    """The shortest encoding of ``value``."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def parse(data: memoryview | bytes, position: int) -> tuple[int, int]:
    """The value at ``position`` and the position behind it; :class:`PayloadError` when it is cut
    short or too large.
    """
    value = shift = 0
    while True:
        if position >= len(data) or shift > 56:
            raise PayloadError("a number is cut short or too large")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
