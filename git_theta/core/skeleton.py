"""A checkpoint's other bytes: what is left when the tensors are cut out, and how to put it all back
together.

The skeleton's own bytes say all that a splice needs, so rebuilding a file asks nothing of the
format that once cut it. First two varints: the numbers of extents n and of derived checksums c.
Then n varints: the bytes between each extent and the end of the one before. Then c times three
varints: the field's distance from the end of the one before, how far back from the field its range
starts, and the range's length. Then the bytes outside of the extents, without the derived fields.

*Derived* fields are CRC-32 sums of earlier ranges (zip files are full of them). They are left out
only where the file's own value is the true sum.
"""

from __future__ import annotations

import bisect
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from git_theta.core import crc32, varint
from git_theta.core.layout import Checksum, Layout
from git_theta.core.source import Source
from git_theta.errors import PayloadError

_CHUNK = 1 << 20
_COVER_LIMIT = 8  # containers nest a few times; more would only make splicing slow


class Piece(NamedTuple):
    """A run of the file: bytes of the skeleton (``data``), or tensor number ``tensor``, or derived
    checksum ``checksum``.
    """

    offset: int
    length: int
    data: bytes | None = None
    tensor: int = -1
    checksum: int = -1

    @property
    def end(self) -> int:
        """First byte behind the piece."""
        return self.offset + self.length


class Skeleton(NamedTuple):
    """The pieces of a file in file order (empty tensors have none), and the checksums to derive."""

    pieces: tuple[Piece, ...]
    checksums: tuple[Checksum, ...]


def cut(layout: Layout, source: Source, sums: Sequence[int | None]) -> bytes:
    """The skeleton of ``source``.

    ``sums`` holds the CRC-32 of each extent; None will do for those of which :func:`covered` says
    so.
    """
    derived = list(_true_checksums(layout, source, sums))
    head = [varint.dump(len(layout.extents)), varint.dump(len(derived))]
    position = 0
    for extent in layout.extents:
        head.append(varint.dump(extent.offset - position))
        position = extent.end
    position = 0
    for check in derived:
        head += map(
            varint.dump, (check.offset - position, check.offset - check.start, check.length)
        )
        position = check.offset + 4
    taken = [(e.offset, e.end) for e in layout.extents if e.length] + [
        (c.offset, c.offset + 4) for c in derived
    ]
    body, position = [], 0
    for start, end in sorted(taken):
        body.append(source.read(position, start - position))
        position = end
    body.append(source.read(position, layout.size - position))
    return b"".join(head + body)


def covered(layout: Layout) -> list[bool]:
    """For each extent, whether a proposed checksum covers it: its CRC-32 will be needed."""
    ranges = sorted({(c.start, c.start + c.length) for c in layout.checksums})
    return _covered(ranges, [(e.offset, e.end) for e in layout.extents])


def needed(skeleton: Skeleton, tensors: int) -> list[bool]:
    """For each of ``tensors`` tensors, whether a derived checksum covers it."""
    ranges = sorted({(c.start, c.start + c.length) for c in skeleton.checksums})
    spans = [(0, 0)] * tensors
    for piece in skeleton.pieces:
        if piece.tensor >= 0:
            spans[piece.tensor] = (piece.offset, piece.end)
    return _covered(ranges, spans)


def _covered(ranges: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    reach, ends = 0, []
    for _, end in ranges:
        reach = max(reach, end)
        ends.append(reach)
    result = []
    for start, end in spans:
        last = bisect.bisect_right(ranges, (start, 1 << 63)) - 1
        result.append(end > start and last >= 0 and ends[last] >= end)
    return result


def _true_checksums(
    layout: Layout, source: Source, sums: Sequence[int | None]
) -> Iterator[Checksum]:
    """Those proposed fields whose value in the file is the CRC-32 of their range."""
    spans = [(e.offset, e.end, number) for number, e in enumerate(layout.extents) if e.length]
    if sum(
        length for _, length in {(c.start, c.length) for c in layout.checksums}
    ) > _COVER_LIMIT * (layout.size + 1):
        return
    summer = Summer(spans, sums, source.read)
    for check in layout.checksums:
        if summer.value(check) == int.from_bytes(source.read(check.offset, 4), "little"):
            yield check


@dataclass(slots=True)
class Summer:
    """CRC-32 of any range of a file, from those of its tensors (``spans``: start, end, number) and
    its other bytes (``read``).
    """

    spans: Sequence[tuple[int, int, int]]
    sums: Sequence[int | None]
    read: Callable[[int, int], bytes]
    _known: dict[tuple[int, int], int | None] = field(default_factory=dict)

    def value(self, check: Checksum) -> int | None:
        """The checksum's true value; None where its range covers a part of a tensor, or one whose
        sum is not known.
        """
        key = (check.start, check.length)
        if key not in self._known:
            self._known[key] = self._range(check.start, check.start + check.length)
        return self._known[key]

    def _range(self, position: int, end: int) -> int | None:
        total = 0
        index = bisect.bisect_right(self.spans, position, key=lambda span: span[1])
        while position < end:
            start, stop, number = self.spans[index] if index < len(self.spans) else (end, end, -1)
            if start < position or (start < end and stop > end):
                return None
            for offset in range(position, min(start, end), _CHUNK):
                total = zlib.crc32(
                    self.read(offset, min(_CHUNK, start - offset, end - offset)), total
                )
            position = min(start, end)
            if position < end:
                value = self.sums[number]
                if value is None:
                    return None
                total = crc32.combine(total, value, stop - start) if total else value
                position, index = stop, index + 1
        return total


def parse(data: bytes, size: int, lengths: Sequence[int]) -> Skeleton:
    """Read the skeleton of a file of ``size`` bytes whose tensors are ``lengths`` bytes long.

    :class:`PayloadError` unless everything adds up: counts, positions, and the sum of all pieces.
    """
    view = memoryview(data)
    extents, position = varint.parse(view, 0)
    count, position = varint.parse(view, position)
    if extents != len(lengths) or count > len(data):
        raise PayloadError(
            f"the skeleton is cut for {extents} tensors, the manifest has {len(lengths)}"
        )
    spans: list[tuple[int, int, int, int]] = []
    offset = 0
    for number, length in enumerate(lengths):
        gap, position = varint.parse(view, position)
        offset += gap
        if length:
            spans.append((offset, length, number, -1))
        offset += length
    checksums, offset = [], 0
    for number in range(count):
        gap, position = varint.parse(view, position)
        back, position = varint.parse(view, position)
        length, position = varint.parse(view, position)
        offset += gap
        if back > offset or length > back:
            raise PayloadError("a derived checksum covers bytes that follow it")
        checksums.append(Checksum(offset, offset - back, length))
        spans.append((offset, 4, -1, number))
        offset += 4
    if sum(length for _, length in {(c.start, c.length) for c in checksums}) > _COVER_LIMIT * (
        size + 1
    ):
        raise PayloadError("the derived checksums cover the file too many times")
    return Skeleton(tuple(_pieces(view, position, size, sorted(spans))), tuple(checksums))


def _pieces(
    view: memoryview, position: int, size: int, spans: Sequence[tuple[int, int, int, int]]
) -> Iterator[Piece]:
    offset = 0
    for start, length, tensor, checksum in [*spans, (size, 0, -1, -1)]:
        if start < offset or start + length > size:
            raise PayloadError("the skeleton's pieces overlap or exceed the file")
        if start > offset:
            data = bytes(view[position : position + start - offset])
            if len(data) != start - offset:
                raise PayloadError("the skeleton holds fewer bytes than the file needs")
            yield Piece(offset, start - offset, data)
            position += start - offset
        if length:
            yield Piece(start, length, None, tensor, checksum)
        offset = start + length
    if position != len(view):
        raise PayloadError("the skeleton holds more bytes than the file has room for")


class Splicer:
    """Fills in the derived checksums of a file that is being put together.

    ``sums`` receives each tensor's CRC-32 (where :func:`needed` says so) before the first checksum
    behind it is asked for.
    """

    def __init__(self, skeleton: Skeleton, tensors: int) -> None:
        self.sums: list[int | None] = [None] * tensors
        self._pieces = skeleton.pieces
        self._checksums = skeleton.checksums
        self._offsets = [piece.offset for piece in skeleton.pieces]
        spans = [(p.offset, p.end, p.tensor) for p in skeleton.pieces if p.tensor >= 0]
        self._summer = Summer(spans, self.sums, self._read)

    def checksum(self, number: int) -> bytes:
        """The four bytes of derived checksum ``number``; :class:`PayloadError` where it covers half
        a tensor.
        """
        value = self._summer.value(self._checksums[number])
        if value is None:
            raise PayloadError("a derived checksum covers a part of a tensor")
        return value.to_bytes(4, "little")

    def _read(self, offset: int, length: int) -> bytes:
        parts = []
        index = bisect.bisect_right(self._offsets, offset) - 1
        while length:
            piece = self._pieces[index]
            data = piece.data if piece.data is not None else self.checksum(piece.checksum)
            start = offset - piece.offset
            part = data[start : start + length]
            parts.append(part)
            offset, length, index = offset + len(part), length - len(part), index + 1
        return b"".join(parts)
