"""Containers in containers: a member that is itself a checkpoint is cut inside, under its own name
as a prefix.

Members never overlap, so the work is at most :data:`DEPTH_LIMIT` times that of one pass over the
file.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from git_theta.checkpoints.assemble import NAME_LIMIT, bounded, raw
from git_theta.checkpoints.builtin_formats import FORMATS, make
from git_theta.core.contracts import CheckpointFormat, FoundInside, ScansInside, failed
from git_theta.core.layout import Checksum, Extent, Layout
from git_theta.core.source import Source, head_of
from git_theta.errors import FormatError, ThetaError

DEPTH_LIMIT = 4


class SourceWindow:
    """A :class:`~git_theta.core.source.Source` over ``size`` bytes of another one."""

    __slots__ = ("_offset", "_source", "size")

    def __init__(self, source: Source, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > source.size:
            raise FormatError(
                f"a part of {size} bytes at byte {offset} lies outside the file of {source.size}"
                " bytes"
            )
        self._source, self._offset, self.size = source, offset, size

    def read(self, offset: int, length: int) -> bytes:
        """As :meth:`Source.read`."""
        self._check(offset, length)
        return self._source.read(self._offset + offset, length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """As :meth:`Source.read_into`."""
        self._check(offset, len(buffer))
        self._source.read_into(self._offset + offset, buffer)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FormatError(
                f"bytes {offset} to {offset + length} lie outside the part of {self.size} bytes"
            )


@dataclass(frozen=True, slots=True)
class Members:
    """Cuts a container's members, ``depth`` containers deep.

    ``added`` are the formats of plugins, which are tried after the built-in ones.
    """

    added: tuple[CheckpointFormat, ...] = ()
    depth: int = 0

    def cut(
        self, source: Source, offset: int, length: int, name: str
    ) -> tuple[list[Extent], list[Checksum]]:
        """The extents and checksums of the member called ``name``: ``length`` bytes at ``offset``.

        One extent of plain bytes unless it is a sound checkpoint of a known format with a tensor in
        it. Never raises for what the member holds, but :class:`~git_theta.errors.PluginError` for a
        plugin's format that fails.
        """
        if self.depth < DEPTH_LIMIT and length >= 8:
            part = SourceWindow(source, offset, length)
            found = self._format(head_of(part), name.lower())
            if found is not None:
                try:
                    layout = self._scan(found, part)
                    if layout.extents:
                        return shifted(layout, offset, f"{name[:NAME_LIMIT]}/")
                except FormatError:
                    pass  # the container may be of use without this member
        return [raw(name, offset, length)], []

    def _format(self, head: bytes, name: str) -> CheckpointFormat | None:
        """The first format that recognises a member by its content, and allows its name."""
        for row in FORMATS.values():
            if row.inside is None or not name.endswith(row.inside):
                continue
            if (not row.starts or head.startswith(row.starts)) and _made(row.target).sniff(head):
                return _made(row.target)
        for found in self.added:
            if isinstance(found, FoundInside) and name.endswith(found.inside):
                with suppress(Exception):  # one plugin's mistake must not keep other files out
                    if found.sniff(head):
                        return found
        return None

    def _scan(self, found: CheckpointFormat, part: SourceWindow) -> Layout:
        try:
            if isinstance(found, ScansInside):
                return found.scan_inside(part, Members(self.added, self.depth + 1))
            return found.scan(part)
        except ThetaError:
            raise
        except Exception as error:
            if found in self.added:
                raise failed("checkpoint format", found.name, error) from error
            raise


def shifted(layout: Layout, offset: int, prefix: str) -> tuple[list[Extent], list[Checksum]]:
    """A member's extents and checksums as they lie in the file around it, with ``prefix`` before
    every name.

    :class:`FormatError` when that makes the names too long.
    """
    extents = (
        Extent(
            prefix + e.name,
            e.dtype,
            e.shape,
            offset + e.offset,
            e.length,
            tuple(prefix + alias for alias in e.aliases),
        )
        for e in layout.extents
    )
    return list(bounded(extents)), [
        Checksum(offset + field.offset, offset + field.start, field.length)
        for field in layout.checksums
    ]


@lru_cache(maxsize=len(FORMATS))
def _made(target: str) -> CheckpointFormat:
    return cast("CheckpointFormat", make(target))
