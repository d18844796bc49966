"""Writes zip archives as torch does: nothing packed, every entry aligned, sizes and sums behind the
data.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence

from git_theta.core.tensors import Buffer

ALIGNMENT = 64
_FULL = 0xFFFFFFFF
_FLAGS, _DESCRIBED = 0x800, 0x8  # names are UTF-8; a descriptor follows


def write_archive(entries: Iterable[tuple[str, Sequence[Buffer]]]) -> bytes:
    """An archive of ``entries``: names and contents (in pieces), in that order; zip64 fields only
    where they are needed.
    """
    out: list[Buffer] = []
    central: list[bytes] = []
    position = 0
    for name, pieces in entries:
        path, size, crc = name.encode("utf-8", "surrogatepass"), 0, 0
        for piece in pieces:
            view = memoryview(piece).cast("B")
            size += len(view)
            crc = zlib.crc32(view, crc)
        wide = struct.pack("<QQ", size, size) if size >= _FULL else b""
        wide += struct.pack("<Q", position) if position >= _FULL else b""
        extra = struct.pack("<HH", 1, len(wide)) + wide if wide else b""
        flags = _FLAGS | (_DESCRIBED if size else 0)
        small = _FULL if size >= _FULL else size
        fields = (
            0,
            0,
            flags,
            0,
            0,
            0,
            crc,
            small,
            small,
            len(path),
            len(extra),
            0,
            0,
            0,
            0,
            min(position, _FULL),
        )
        central.append(struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *fields) + path + extra)
        padding = -(position + 34 + len(path) + len(extra)) % ALIGNMENT
        header = struct.pack(
            "<4sHHHIIIIHH", b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, len(path), len(extra) + 4 + padding
        )
        header += path + extra + struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        descriptor = (
            struct.pack("<4sI", b"PK\7\x08", crc)
            + struct.pack("<QQ" if wide else "<II", size, size)
            if size
            else b""
        )
        out += [header, *pieces, descriptor]
        position += len(header) + size + len(descriptor)
    out += central
    length, count = sum(map(len, central)), len(central)
    out.append(
        struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 798, 45, 0, 0, count, count, length, position)
    )
    out.append(struct.pack("<4sIQI", b"PK\6\7", 0, position + length, 1))
    short = min(count, 0xFFFF)
    out.append(
        struct.pack(
            "<4sHHHHIIH", b"PK\5\6", 0, 0, short, short, min(length, _FULL), min(position, _FULL), 0
        )
    )
    return b"".join(out)
