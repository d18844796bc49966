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
from git_theta.core.digest import digest_of_range
from git_theta.core.layout import Extent, Layout
from git_theta.errors import ThetaError
from git_theta.workflows import chains

if TYPE_CHECKING:
    from git_theta.core.manifest import Manifest
    from git_theta.core.skeleton import Piece, Skeleton
    from git_theta.core.source import Source
    from git_theta.workflows.session import Session

_BLOCK = 1 << 20


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
