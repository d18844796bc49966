"""Checkpoint files that tell what they hold only together with another file beside them: TensorFlow's, and torch's distributed ones.

That file is looked for under the name that the checkpoint's own name gives it, in the same folder of the working tree; a link is not
followed. It may be absent, or already be another one: then the checkpoint is cut without it, and comes back byte for byte all the same.
"""

from __future__ import annotations

import stat
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from git_theta.core import skeleton as skeletons
from git_theta.core import varint
from git_theta.core.contracts import ReadsSibling
from git_theta.core.layout import Extent, Layout
from git_theta.core.manifest import is_manifest
from git_theta.core.source import FileSource
from git_theta.errors import FormatError, ThetaError
from git_theta.plugins import registry, tables
from git_theta.workflows import tensors

if TYPE_CHECKING:
    from git_theta.core.manifest import Manifest
    from git_theta.core.skeleton import Piece, Skeleton
    from git_theta.core.source import Source
    from git_theta.workflows.session import Session

_BLOCK = 1 << 20


def scan(session: Session, path: str, source: Source) -> Layout | None:
    """The layout of the file that git calls ``path`` as the one beside it tells it; None where there is none, or none that fits."""
    if session.repository.worktree is None:
        return None
    name = PurePosixPath(path).name
    for form in tables.beside(name):
        found = registry.checkpoint_format(form)
        other = found.sibling(name) if isinstance(found, ReadsSibling) else ""
        if not other or not isinstance(found, ReadsSibling):
            continue
        file = session.full_path(path).with_name(other)
        try:
            if not stat.S_ISREG(file.lstat().st_mode):
                continue
            with FileSource(file) as sibling:
                if not is_manifest(sibling.read(0, min(32, sibling.size))):
                    return found.scan_beside(source, name, sibling)
        except FormatError as error:
            session.warn(f"{path}: {other}, which lies beside it, is of no use: {error}")
        except OSError:
            continue
    return None


def as_before(session: Session, source: Source, layout: Layout, known: Sequence[Manifest]) -> Layout:
    """The layout to cut ``source`` by: that of one of the ``known`` manifests, where it serves better than ``layout``.

    So it is where a manifest describes these very bytes, though it cut them in another way, when the file beside them was another one:
    then it is to stay as it is. And where that file is gone, but an earlier one told of as many bytes what they are.
    """
    for manifest in known:
        if manifest.size != source.size or [entry.name for entry in manifest.entries] == [extent.name for extent in layout.extents]:
            continue
        try:
            text = bytes(tensors.load(session.store, manifest.skeleton))
            skeleton = skeletons.parse(text, manifest.size, [entry.nbytes for entry in manifest.entries])
            before = _layout(manifest, text, skeleton)
        except ThetaError:
            continue
        if layout.format == "opaque" or all(_same(source, manifest, skeleton, piece) for piece in skeleton.pieces):
            return before
    return layout


def _layout(manifest: Manifest, text: bytes, skeleton: Skeleton) -> Layout:
    """The layout that a sound skeleton was cut by."""
    extents, offset = [], 0
    _, position = varint.parse(text, 0)
    _, position = varint.parse(text, position)
    for entry in manifest.entries:
        gap, position = varint.parse(text, position)
        offset += gap
        extents.append(Extent(entry.name, entry.dtype, entry.shape, offset, entry.nbytes, entry.aliases))
        offset += entry.nbytes
    return Layout(manifest.format, manifest.size, tuple(extents), skeleton.checksums)


def _same(source: Source, manifest: Manifest, skeleton: Skeleton, piece: Piece) -> bool:
    if piece.tensor >= 0:
        import blake3

        hasher = blake3.blake3()
        for start in range(piece.offset, piece.end, _BLOCK):
            hasher.update(source.read(start, min(_BLOCK, piece.end - start)))
        return hasher.hexdigest() == manifest.entries[piece.tensor].digest
    if piece.checksum >= 0:
        field, crc = skeleton.checksums[piece.checksum], 0
        for start in range(field.start, field.start + field.length, _BLOCK):
            crc = zlib.crc32(source.read(start, min(_BLOCK, field.start + field.length - start)), crc)
        return source.read(piece.offset, 4) == crc.to_bytes(4, "little")
    return piece.data == source.read(piece.offset, piece.length)
