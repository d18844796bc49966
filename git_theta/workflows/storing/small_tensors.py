"""The small tensors of a file: read many at a time, told apart by their digests before any of them
is stored.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from git_theta.core.digest import digest
from git_theta.core.layout import Extent
from git_theta.core.manifest import INLINE_LIMIT
from git_theta.core.objects import BUNDLED
from git_theta.core.source import Source
from git_theta.errors import FileChanged

_WINDOW = 4 << 20  # bytes that are read at a time
_GAP = 4096  # bytes of something else that are read along rather than skipped
_BATCH = 4096  # tensors that a thread looks at together


class SmallTensor(NamedTuple):
    """What was seen of a small tensor: its digest, its CRC-32 where one is needed, and its bytes if
    they are few enough for a manifest.
    """

    identity: str
    crc: int | None
    inline: bytes | None


def batches(extents: Sequence[Extent]) -> list[list[int]]:
    """The numbers of the small tensors, in runs for a thread each."""
    found: list[list[int]] = []
    size = _WINDOW + 1
    for number, extent in enumerate(extents):
        if extent.length < BUNDLED:
            if size + extent.length > _WINDOW or len(found[-1]) >= _BATCH:
                found.append([])
                size = 0
            found[-1].append(number)
            size += extent.length
    return found


def look(
    source: Source, extents: Sequence[Extent], covered: Sequence[bool], numbers: Sequence[int]
) -> dict[int, SmallTensor]:
    """What is in the tensors ``numbers``; of those that are ``covered``, with their CRC-32."""
    found = {}
    for number, data in read(source, extents, numbers):
        crc = zlib.crc32(data) if covered[number] else None
        inline = bytes(data) if len(data) <= INLINE_LIMIT else None
        found[number] = SmallTensor(digest(data), crc, inline)
    return found


def read(
    source: Source, extents: Sequence[Extent], numbers: Sequence[int]
) -> Iterator[tuple[int, memoryview]]:
    """The bytes of the tensors ``numbers`` (ascending), each valid until the next is asked for."""
    buffer = bytearray()
    for window in _windows(extents, numbers):
        start, end = extents[window[0]].offset, extents[window[-1]].end
        if len(buffer) < end - start:
            buffer = bytearray(end - start)
        view = memoryview(buffer)[: end - start]
        source.read_into(start, view)
        for number in window:
            offset = extents[number].offset - start
            yield number, view[offset : offset + extents[number].length]


def read_again(
    source: Source,
    extents: Sequence[Extent],
    numbers: Sequence[int],
    seen: Mapping[int, SmallTensor],
) -> Iterator[tuple[int, memoryview]]:
    """As :func:`read`; :class:`FileChanged` where the bytes are not those that were ``seen``."""
    for number, data in read(source, extents, numbers):
        if digest(data) != seen[number].identity:
            raise FileChanged("the file was written while it was read")
        yield number, data


def _windows(extents: Sequence[Extent], numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Runs of numbers whose tensors lie close together."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at < len(numbers):
            before, extent = extents[numbers[at - 1]], extents[numbers[at]]
            near = extent.offset - before.end <= _GAP
            if near and extent.end - extents[numbers[start]].offset <= _WINDOW:
                continue
        if start < at:
            yield numbers[start:at]
        start = at
