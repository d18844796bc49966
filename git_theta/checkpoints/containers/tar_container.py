"""Tar archives that are not compressed (``.nemo``, ``.tar``): every file in them, and the tensors
of those that are checkpoints.

The structure is that of POSIX ``ustar``, with GNU's and pax's ways to write long names and large
sizes. Nothing is unpacked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from git_theta.checkpoints.assemble import NAME_LIMIT, assemble
from git_theta.checkpoints.containers.nested import Members
from git_theta.core.contracts import CutsMembers
from git_theta.core.layout import Checksum, Extent, Layout
from git_theta.core.source import Source
from git_theta.errors import FormatError

BLOCK = 512
MEMBERS_LIMIT = 1_000_000
LONG_LIMIT = 1 << 20  # bytes of a long name or of pax's records
_FILES = (b"0", b"\0", b"7")
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_RECORD = re.compile(rb"(\d{1,7}) (path|size)=")


class TarFormat:
    """Tar archives that hold checkpoints."""

    name = "tar"
    suffixes: tuple[str, ...] = (".nemo", ".tar")

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` starts with a tar header whose checksum is right."""
        return len(head) >= BLOCK and head[257:262] == b"ustar" and _sum_is_right(head[:BLOCK])

    def scan(self, source: Source) -> Layout:
        """As :meth:`scan_inside`, for an archive that is a file of its own."""
        return self.scan_inside(source, Members())

    def scan_inside(self, source: Source, members: CutsMembers) -> Layout:
        """One extent per file, or those that its format gives, called ``<file>/<tensor>``;
        :class:`FormatError` for a broken archive.
        """
        checksums: list[Checksum] = []
        return assemble(self.name, source.size, _extents(source, members, checksums), checksums)


def _extents(source: Source, members: CutsMembers, checksums: list[Checksum]) -> Iterator[Extent]:
    """The extents of each file; ``checksums`` receives those in them."""
    position, count, long_name, records = 0, 0, "", dict[bytes, bytes]()
    while source.size - position >= BLOCK:
        header = source.read(position, BLOCK)
        if not any(header):
            break
        if not _sum_is_right(header):
            raise _broken(f"the header at byte {position} is damaged")
        count += 1
        if count > MEMBERS_LIMIT:
            raise _broken(f"it has more than {MEMBERS_LIMIT} members")
        kind = header[156:157]
        size = (
            int(records[b"size"])
            if b"size" in records and kind not in (_PAX, _LONG_NAME)
            else _number(header[124:136], position)
        )
        position += BLOCK
        if size > source.size - position:
            raise _broken(
                f"{size} bytes are announced before byte {position}, but {source.size - position}"
                " follow"
            )
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            if size > LONG_LIMIT:
                raise _broken(f"a name of {size} bytes is announced before byte {position}")
            if kind == _LONG_NAME:
                long_name = _text(source.read(position, size))
            elif kind == _PAX:
                records = _records(source.read(position, size))
        else:
            if size and kind in _FILES:
                name = (
                    records.get(b"path", b"").decode("utf-8", "replace")
                    or long_name
                    or _name(header)
                )
                inner, sums = members.cut(
                    source, position, size, name[:NAME_LIMIT].removeprefix("./")
                )
                checksums += sums
                yield from inner
            long_name, records = "", {}
        position = min(position + -(-size // BLOCK) * BLOCK, source.size)


def _broken(reason: str) -> FormatError:
    return FormatError(f"the tar archive is broken: {reason}")


def _sum_is_right(header: bytes) -> bool:
    try:
        stored = int(header[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    return stored == sum(header) - sum(header[148:156]) + 8 * 32


def _number(field: bytes, position: int) -> int:
    """A size: octal digits, or (GNU) big-endian after a first byte of 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not re.fullmatch(b"[0-7]*", digits):
        raise _broken(f"the size in the header at byte {position} is no number")
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


def _name(header: bytes) -> str:
    name, prefix = (
        _text(header[:100]),
        _text(header[345:500]) if header[257:263] == b"ustar\0" else "",
    )
    return f"{prefix}/{name}" if prefix else name


def _records(data: bytes) -> dict[bytes, bytes]:
    """Pax's ``path`` and ``size``.

    Each record is ``<its length> <key>=<value>`` and a line feed.
    """
    found, position = dict[bytes, bytes](), 0
    while position < len(data):
        length = data[position : position + 8].partition(b" ")[0]
        if not length.isdigit() or not 0 < int(length) <= len(data) - position:
            break
        record = data[position : position + int(length)]
        match = _RECORD.match(record)
        if match:
            value = record[match.end() : -1]
            if match[2] == b"path" or (value.isdigit() and len(value) < 20):
                found[match[2]] = value
        position += int(length)
    return found
