"""The manifest a checkpoint file would have, by hashing alone: nothing is encoded and nothing is
stored.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

from git_theta.core import skeleton as skeletons
from git_theta.core.digest import digest, digest_of_range
from git_theta.core.layout import Extent, Layout
from git_theta.core.manifest import INLINE_LIMIT, Entry, Manifest
from git_theta.core.source import Source

_RUN = 16 << 20  # bytes that a task hashes


def inspect(
    source: Source,
    layout: Layout,
    known: Sequence[Manifest],
    pool: Executor,
    advance: Callable[[int], None] | None = None,
) -> Manifest:
    """What is in ``source``.

    Tensors that ``known`` manifests hold are entered as they are stored; others have no chain yet.

    So the result compares like any manifest, but cannot be written as one.
    """
    covered = skeletons.covered(layout)

    def one(numbers: range) -> list[tuple[str, bytes | None, int | None]]:
        found = []
        for number in numbers:
            found.append(_hash(source, layout.extents[number], covered[number]))
            if advance is not None:
                advance(layout.extents[number].length)
        return found

    futures = [pool.submit(one, numbers) for numbers in _runs(layout.extents)]
    try:
        hashed = [item for future in futures for item in future.result()]
    finally:
        for future in futures:
            future.cancel()
    entries = [
        _entry(extent, identity, inline, known)
        for extent, (identity, inline, _) in zip(layout.extents, hashed, strict=True)
    ]
    data = skeletons.cut(layout, source, [crc for _, _, crc in hashed])
    skeleton = Entry(
        "skeleton",
        "u8",
        (len(data),),
        digest(data),
        (),
        data if len(data) <= INLINE_LIMIT else None,
    )
    same = next(
        (manifest.skeleton for manifest in known if manifest.skeleton.digest == skeleton.digest),
        skeleton,
    )
    return Manifest(layout.format, layout.size, same, tuple(entries), {})


def _hash(source: Source, extent: Extent, covered: bool) -> tuple[str, bytes | None, int | None]:
    """Digest, the bytes where they are few, and the CRC-32 where a checksum needs it."""
    if extent.length <= INLINE_LIMIT:
        data = source.read(extent.offset, extent.length)
        return digest(data), data, zlib.crc32(data) if covered else None
    identity, crc = digest_of_range(source, extent.offset, extent.length, covered)
    return identity, None, crc


def _entry(extent: Extent, identity: str, inline: bytes | None, known: Sequence[Manifest]) -> Entry:
    entry = Entry(extent.name, extent.dtype, extent.shape, identity, (), inline, extent.aliases)
    for manifest in known:
        same = manifest.by_name.get(extent.name)
        if same is None or (same.digest, same.spec) != (identity, entry.spec):
            same = manifest.by_digest.get((identity, extent.dtype))
        if same is not None and same.spec == entry.spec and inline is None:
            return Entry(
                entry.name, entry.dtype, entry.shape, identity, same.chain, None, entry.aliases
            )
    return entry


def _runs(extents: Sequence[Extent]) -> Iterator[range]:
    start = size = 0
    for number, extent in enumerate(extents):
        if number > start and (size + extent.length > _RUN or number - start >= 4096):
            yield range(start, number)
            start, size = number, 0
        size += extent.length
    if start < len(extents):
        yield range(start, len(extents))
