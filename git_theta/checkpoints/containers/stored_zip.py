"""Zip archives of whatever kind (.keras, .mar, …): each entry that is stored as it is, cut inside
where it is a checkpoint itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from git_theta.checkpoints.assemble import assemble, bounded
from git_theta.checkpoints.containers.nested import Members
from git_theta.checkpoints.containers.zip_container import (
    ZipArchive,
    ZipEntry,
    checksums,
    gaps,
    read_archives,
)
from git_theta.core.contracts import CutsMembers
from git_theta.core.layout import Checksum, Extent, Layout, unique_names
from git_theta.core.source import Source

SKELETON_LIMIT = 16 << 20


class StoredZipFormat:
    """Any zip archive that no other format knows better."""

    name = "stored-zip"
    suffixes: tuple[str, ...] = (".zip", ".npz", ".keras")
    cuts_bytes = True

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` starts with an entry, or is an archive without any."""
        return head.startswith((b"PK\3\4", b"PK\5\6"))

    def scan(self, source: Source) -> Layout:
        """As :meth:`scan_inside`, for an archive that is a file of its own."""
        return self.scan_inside(source, Members())

    def scan_inside(self, source: Source, members: CutsMembers) -> Layout:
        """One ``u8`` extent per entry that is neither compressed nor encrypted;
        :class:`FormatError` for a broken archive.

        An entry that is a checkpoint itself gives that one's tensors, called ``<entry>/<tensor>``.
        The rest belongs to the skeleton; but a skeleton is held in memory, so what has more than 16
        MiB is an extent too.
        """
        archives = read_archives(source)
        sums: list[Checksum] = []
        extents = list(bounded(_members(source, archives, members, sums)))
        return _with_rest(finished(self.name, source.size, archives, extents), sums)


def _members(
    source: Source, archives: Sequence[ZipArchive], members: CutsMembers, sums: list[Checksum]
) -> Iterator[Extent]:
    """The extents of each entry; ``sums`` receives the checksums in them."""
    for entry in (entry for archive in archives for entry in archive.entries if _chosen(entry)):
        inner, fields = (
            members.cut(source, entry.offset, entry.length, entry.name) if entry.plain else ([], [])
        )
        sums += fields
        yield from inner or [raw_extent(entry.name, entry)]


def _with_rest(layout: Layout, sums: Sequence[Checksum]) -> Layout:
    """``layout`` with further checksums, those of archives inside."""
    return (
        assemble(layout.format, layout.size, layout.extents, (*layout.checksums, *sums))
        if sums
        else layout
    )


def _chosen(entry: ZipEntry) -> bool:
    return (entry.plain and not entry.name.endswith("/")) or is_large(entry)


def is_large(entry: ZipEntry) -> bool:
    """Whether an entry is too large to be left to the skeleton."""
    return entry.length > SKELETON_LIMIT


def raw_extent(name: str, entry: ZipEntry) -> Extent:
    """The entry's bytes as they are."""
    return Extent(name, "u8", (entry.length,), entry.offset, entry.length)


def finished(name: str, size: int, archives: Sequence[ZipArchive], extents: list[Extent]) -> Layout:
    """The layout of a file of zip archives: unique names, checksums, and an extent ``rest`` for
    each long gap.
    """
    rest = [
        Extent("rest", "u8", (length,), offset, length)
        for offset, length in gaps(archives, size, SKELETON_LIMIT)
    ]
    if rest:
        extents = sorted(extents + rest, key=lambda extent: extent.offset)
    return Layout(name, size, tuple(_unique(extents)), tuple(checksums(archives)))


def _unique(extents: Sequence[Extent]) -> Sequence[Extent]:
    names = [name for extent in extents for name in (extent.name, *extent.aliases)]
    if len(set(names)) == len(names):
        return extents
    unique, result = iter(unique_names(names)), []
    for extent in extents:
        name, *aliases = [next(unique) for _ in range(1 + len(extent.aliases))]
        result.append(
            Extent(name, extent.dtype, extent.shape, extent.offset, extent.length, tuple(aliases))
        )
    return result
