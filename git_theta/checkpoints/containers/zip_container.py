"""A strict reader of zip archives: where each entry's bytes lie, and which fields repeat their
CRC-32.

It follows the central directory (torch leaves sizes and sums out of the local headers) and checks
it against every local header. An archive is sound when all of them agree and no two entries share
bytes or a name; CRCs are not enforced, since writers may leave them 0. Bytes that belong to nothing
(before, between and behind the entries) do no harm and are allowed. The structure is that of
PKWARE's APPNOTE 6.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from git_theta.core.layout import Checksum
from git_theta.core.names import display
from git_theta.core.source import Source
from git_theta.errors import FormatError

DIRECTORY_LIMIT = 256 << 20
ARCHIVES_LIMIT = 100_000
ENTRIES_LIMIT = 2_000_000  # of all archives of a file

_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4sHHHHIIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHIIIIHH")
_DESCRIPTORS = (struct.Struct("<II"), struct.Struct("<QQ"))
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _DESCRIBED = 0x1, 0x8
_STORED = 0
_CRC_IN_CENTRAL, _CRC_IN_LOCAL = 16, 14
_NEAR = 64  # a gap of at most so many bytes is read together with the header behind it
_AHEAD, _WINDOW = 64, 1 << 16  # so many headers are read at once if they lie in so many bytes


# Named tuples, since an archive has many entries and making a frozen dataclass takes three times as
# long.
class ZipEntry(NamedTuple):
    """One entry: ``length`` bytes at ``offset``, which are its content if ``plain`` (neither
    compressed nor encrypted).

    ``front`` is the offset of the CRC-32 field in front of the data, ``sums`` are those of the
    fields that follow it.
    """

    name: str
    plain: bool
    offset: int
    length: int
    front: int
    sums: tuple[int, ...]

    @property
    def end(self) -> int:
        """First byte behind the data."""
        return self.offset + self.length


class _Listed(NamedTuple):
    """What the central directory says of an entry."""

    header: int
    name: bytes
    flags: int
    method: int
    length: int
    size: int
    crc_field: int


@dataclass(frozen=True, slots=True)
class ZipArchive:
    """One archive of a file: its entries in file order, and where its directory starts and ends."""

    entries: tuple[ZipEntry, ...]
    directory: int
    end: int


def read_archives(source: Source) -> list[ZipArchive]:
    """The zip archives that ``source`` consists of, in file order; :class:`FormatError` when one of
    them is not sound.

    Usually that is one. Torch's distributed checkpoints put many behind each other, each with
    offsets from its own start. Memory is bounded by the directories, of which none may have more
    than 256 MiB, nor all more than two million entries.
    """
    archives: list[ZipArchive] = []
    end, exact, room = source.size, False, ENTRIES_LIMIT
    while True:
        start, stop, count, shift = _find_directory(source, end, exact)
        room -= count
        if room < 0:
            raise broken(f"it has more than {ENTRIES_LIMIT} entries")
        listed = _read_directory(source, start, stop, count, shift)
        entries = _locate(source, sorted(listed, key=lambda item: item.header), start)
        archives.append(ZipArchive(tuple(entries), start, end))
        if not entries or shift < _END.size or source.read(shift - _END.size, 4) != b"PK\5\6":
            break
        if len(archives) == ARCHIVES_LIMIT:
            raise broken(f"it consists of more than {ARCHIVES_LIMIT} archives")
        end, exact = shift, True
    return archives[::-1]


def checksums(archives: Iterable[ZipArchive]) -> list[Checksum]:
    """The CRC-32 fields behind the data they cover, in file order."""
    found = [
        Checksum(field, entry.offset, entry.length)
        for archive in archives
        for entry in archive.entries
        if entry.plain
        for field in entry.sums
    ]
    return sorted(found, key=lambda item: item.offset)


def gaps(archives: Iterable[ZipArchive], size: int, longer_than: int) -> list[tuple[int, int]]:
    """Where more than ``longer_than`` bytes belong to no entry and no directory: offsets and
    lengths, without checksum fields.
    """
    position, found = 0, []
    for archive in archives:
        taken = [
            *((entry.offset, entry.end) for entry in archive.entries),
            (archive.directory, archive.end),
        ]
        for start, end in taken:
            if start - position > longer_than:
                found.append((position + _NEAR, start - position - _NEAR))
            position = end
    if size - position > longer_than:
        found.append((position, size - position))
    return found


def broken(reason: str) -> FormatError:
    """The error for an archive that is not sound."""
    return FormatError(f"the zip archive is broken: {reason}")


def _shown(name: bytes) -> str:
    return display(_text(name), 80)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437")


def _find_directory(source: Source, limit: int, exact: bool) -> tuple[int, int, int, int]:
    """Start and end of the central directory, its number of entries, and by how much offsets are
    off (bytes put in front).

    The archive ends at ``limit``: with its end record if ``exact``, else a comment or other bytes
    may follow that.
    """
    tail_start = max(0, limit - _END.size - (0 if exact else 0xFFFF))
    tail = source.read(tail_start, limit - tail_start)
    found = tail.rfind(b"PK\5\6")
    while found >= 0 and (
        found + 22 > len(tail)
        or found + 22 + int.from_bytes(tail[found + 20 : found + 22], "little") > len(tail)
    ):
        found = tail.rfind(b"PK\5\6", 0, found + 3)
    if found < 0:
        raise broken("it does not end in a directory; the file may be truncated")
    position = tail_start + found
    fields: tuple[int, ...] = _END.unpack_from(tail, found)[1:7]
    if position >= _LOCATOR.size + _END64.size:
        locator = source.read(position - _LOCATOR.size, _LOCATOR.size)
        if locator.startswith(b"PK\6\7"):
            position -= _LOCATOR.size + _END64.size
            fields = _zip64_end(source.read(position, _END64.size), locator, fields)
    disk, first_disk, count_here, count, size, offset = fields
    if disk or first_disk or count_here != count:
        raise broken("it is one part of an archive in several parts")
    shift = position - size - offset
    if shift < 0 or size > position:
        raise broken("the central directory reaches beyond the end record")
    if size > DIRECTORY_LIMIT:
        raise broken(f"its directory of {size} bytes is larger than {DIRECTORY_LIMIT}")
    if count * _CENTRAL.size > size:
        raise broken(f"{count} entries cannot be listed in {size} bytes")
    return position - size, position, count, shift


def _zip64_end(record: bytes, locator: bytes, short: tuple[int, ...]) -> tuple[int, ...]:
    """The fields of the zip64 end record, which must agree with those of the ``short`` one where
    that could hold them.
    """
    signature, length, _, _, *fields = _END64.unpack(record)
    if signature != b"PK\6\6" or length != _END64.size - 12:
        raise broken("the zip64 end record is not where it should be")
    limits = (_FULL16, _FULL16, _FULL16, _FULL16, _FULL32, _FULL32)
    if any(
        few not in (many, limit) for few, many, limit in zip(short, fields, limits, strict=True)
    ):
        raise broken("its two end records contradict each other")
    _, disk, position, disks = _LOCATOR.unpack(locator)
    if disk or disks > 1 or position != fields[4] + fields[5]:
        raise broken("the zip64 locator points elsewhere")
    return tuple(fields)


def _read_directory(source: Source, start: int, end: int, count: int, shift: int) -> list[_Listed]:
    data = source.read(start, end - start)
    listed: list[_Listed] = []
    names, position = set[bytes](), 0
    while position < len(data):
        if len(data) - position < _CENTRAL.size or not data.startswith(b"PK\1\2", position):
            raise broken(f"entry {len(listed)} of its directory is damaged")
        fields = _CENTRAL.unpack_from(data, position)
        (
            _,
            _,
            _,
            flags,
            method,
            _,
            _,
            length,
            size,
            name_length,
            extra_length,
            comment_length,
            disk,
            _,
            _,
            header,
        ) = fields
        name_end = position + _CENTRAL.size + name_length
        name = data[position + _CENTRAL.size : name_end]
        following = name_end + extra_length + comment_length
        if following > len(data):
            raise broken(f"entry {len(listed)} of its directory is truncated")
        if _FULL32 in (length, size, header):
            size, length, header, disk = _wide(
                data[name_end : name_end + extra_length], name, size, length, header, disk
            )
        if disk:
            raise broken(f"entry {_shown(name)} lies in another file")
        if name in names:
            raise broken(f"two entries are called {_shown(name)}")
        names.add(name)
        listed.append(
            _Listed(
                header + shift,
                name,
                flags,
                method,
                length,
                size,
                start + position + _CRC_IN_CENTRAL,
            )
        )
        position = following
    if len(listed) != count:
        raise broken(f"its directory lists {len(listed)} entries, not {count}")
    return listed


def _wide(extra: bytes, name: bytes, *values: int) -> tuple[int, int, int, int]:
    """Size, stored length, header offset and disk, the full ones replaced from the zip64 extra
    field.
    """
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        position += 4
        if kind == 1:
            field, at, result = extra[position : position + length], 0, []
            for value, limit, width in zip(
                values, (_FULL32, _FULL32, _FULL32, _FULL16), (8, 8, 8, 4), strict=True
            ):
                if value != limit:
                    result.append(value)
                    continue
                if at + width > len(field):
                    break
                result.append(int.from_bytes(field[at : at + width], "little"))
                at += width
            else:
                return result[0], result[1], result[2], result[3]
        position += length
    raise broken(f"the sizes of entry {_shown(name)} are missing")


def _locate(source: Source, listed: list[_Listed], limit: int) -> list[ZipEntry]:
    """Check every local header. Entries must end before ``limit``, where the directory starts."""
    entries: list[ZipEntry] = []
    previous: tuple[_Listed, int] | None = None
    position, window, base = 0, b"", 0
    for number, item in enumerate(listed):
        end = item.header + _LOCAL.size + len(item.name)
        if item.header < position:
            raise broken(f"entry {_shown(item.name)} overlaps another one")
        if end > limit:
            raise broken(f"entry {_shown(item.name)} reaches into the directory")
        first = position if item.header - position <= _NEAR else item.header
        if first < base or end > base + len(window):
            ahead = min(listed[min(number + _AHEAD, len(listed) - 1)].header, limit)
            base, window = (
                first,
                source.read(first, max(ahead if ahead - first <= _WINDOW else 0, end) - first),
            )
        block = window[first - base : end - base]
        if previous:
            gap = (
                block[: item.header - first] if first == position else source.read(position, _NEAR)
            )
            entries.append(_entry(*previous, gap))
        offset = end + _check_local(block[item.header - first :], item)
        position = offset + item.length
        if position > limit:
            raise broken(f"entry {_shown(item.name)} reaches into the directory")
        previous = item, offset
    if previous:
        entries.append(_entry(*previous, source.read(position, min(_NEAR, limit - position))))
    return entries


def _check_local(header: bytes, item: _Listed) -> int:
    """The length of the extra field that stands between the name and the data."""
    signature, _, flags, method, _, _, length, size, name_length, extra_length = _LOCAL.unpack_from(
        header
    )
    if signature != b"PK\3\4":
        raise broken(f"entry {_shown(item.name)} is not where the directory says")
    if name_length != len(item.name) or header[_LOCAL.size :] != item.name:
        raise broken(f"entry {_shown(item.name)} has another name in front of its data")
    if method != item.method or (flags ^ item.flags) & _ENCRYPTED:
        raise broken(f"entry {_shown(item.name)} is packed in another way than the directory says")
    if not flags & _DESCRIBED and (
        length not in (item.length, _FULL32) or size not in (item.size, _FULL32)
    ):
        raise broken(f"entry {_shown(item.name)} has another size in front of its data")
    if item.method == _STORED and not item.flags & _ENCRYPTED and item.length != item.size:
        raise broken(f"entry {_shown(item.name)} is not packed, yet its sizes differ")
    return int(extra_length)


def _entry(item: _Listed, offset: int, gap: bytes) -> ZipEntry:
    sums: tuple[int, ...] = (item.crc_field,)
    if item.flags & _DESCRIBED:
        at = 4 if gap.startswith(b"PK\7\x08") else 0
        for sizes in _DESCRIPTORS:
            if len(gap) >= at + 4 + sizes.size and sizes.unpack_from(gap, at + 4) == (
                item.length,
                item.size,
            ):
                sums = (offset + item.length + at, item.crc_field)
                break
    plain = item.method == _STORED and not item.flags & _ENCRYPTED
    return ZipEntry(_text(item.name), plain, offset, item.length, item.header + _CRC_IN_LOCAL, sums)
