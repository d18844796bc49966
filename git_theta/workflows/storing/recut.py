"""Cutting a file as a manifest cut it before, whatever a format says of it today.

Content that the index or HEAD holds keeps its manifest, though it was cut in another way: by a
plugin that is not installed here, by another release, under another ``theta.onInvalid``, or with
another file beside it.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from git_theta.core import skeleton as skeletons
from git_theta.core import varint
from git_theta.core.digest import digest, digest_of_range
from git_theta.core.layout import Extent, Layout
from git_theta.core.manifest import glimpse
from git_theta.errors import ThetaError
from git_theta.workflows import chains

if TYPE_CHECKING:
    from git_theta.core.manifest import Manifest
    from git_theta.core.skeleton import Piece, Skeleton
    from git_theta.core.source import Source
    from git_theta.workflows.session import Session

_BLOCK = 1 << 20
_WINDOW = 4 << 20
_MANY = 2000  # tensors
_SMALL = 64 << 10  # bytes a tensor


def layout_of(session: Session, manifest: Manifest) -> tuple[Layout, Skeleton]:
    """The layout that ``manifest`` was cut by, with its skeleton; :class:`ThetaError` when that is
    not here, or damaged.
    """
    text = bytes(chains.load(session.store, manifest.skeleton).data)
    skeleton = skeletons.parse(text, manifest.size, [entry.nbytes for entry in manifest.entries])
    extents, offset = [], 0
    _, position = varint.parse(text, 0)
    _, position = varint.parse(text, position)
    for entry in manifest.entries:
        gap, position = varint.parse(text, position)
        offset += gap
        extents.append(
            Extent(entry.name, entry.dtype, entry.shape, offset, entry.nbytes, entry.aliases)
        )
        offset += entry.nbytes
    return Layout(manifest.format, manifest.size, tuple(extents), skeleton.checksums), skeleton


def describing(session: Session, manifest: Manifest, source: Source) -> Layout | None:
    """The layout that ``manifest`` was cut by, if it describes the very bytes of ``source``."""
    if manifest.size != source.size:
        return None
    try:
        layout, skeleton = layout_of(session, manifest)
    except ThetaError:
        return None
    return (
        layout
        if all(_same(source, manifest, skeleton, piece) for piece in skeleton.pieces)
        else None
    )


def is_unchanged(session: Session, text: bytes, source: Source) -> bool:
    """Whether the manifest ``text`` is sure to describe the very bytes of ``source``, found out
    without looking at names or at how anything is stored; only asked of files with many small
    tensors, for which that is most of the work.

    False says nothing.
    """
    if text.count(b"\n") < _MANY or source.size > _SMALL * text.count(b"\n"):
        return False
    seen = glimpse(text)
    if seen is None or seen.size != source.size:
        return False
    try:
        data = bytes(chains.load(session.store, seen.skeleton).data)
        skeleton = skeletons.parse(data, seen.size, [length for length, _ in seen.tensors])
    except ThetaError:
        return False
    start = end = 0
    window = memoryview(b"")
    for piece in skeleton.pieces:
        if piece.checksum >= 0:
            return False
        if piece.end > end and piece.length <= _WINDOW:
            start, end = piece.offset, min(piece.offset + _WINDOW, source.size)
            window = memoryview(source.read(start, end - start))
        if piece.length <= _WINDOW:
            found = window[piece.offset - start : piece.end - start]
            if piece.data is not None:
                same = found == piece.data
            else:
                same = digest(found) == seen.tensors[piece.tensor][1]
        elif piece.data is not None:
            same = source.read(piece.offset, piece.length) == piece.data
        else:
            identity, _ = digest_of_range(source, piece.offset, piece.length)
            same = identity == seen.tensors[piece.tensor][1]
        if not same:
            return False
    empty = digest(b"")
    return all(identity == empty for length, identity in seen.tensors if not length)


def _same(source: Source, manifest: Manifest, skeleton: Skeleton, piece: Piece) -> bool:
    if piece.tensor >= 0:
        identity, _ = digest_of_range(source, piece.offset, piece.length)
        return identity == manifest.entries[piece.tensor].digest
    if piece.checksum >= 0:
        field, crc = skeleton.checksums[piece.checksum], 0
        for start in range(field.start, field.start + field.length, _BLOCK):
            crc = zlib.crc32(
                source.read(start, min(_BLOCK, field.start + field.length - start)), crc
            )
        return source.read(piece.offset, 4) == crc.to_bytes(4, "little")
    return piece.data == source.read(piece.offset, piece.length)
