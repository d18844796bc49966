"""Containers in containers: a member that is itself a checkpoint is cut inside, under its own name
as a prefix.

Members never overlap, so the work is at most :data:`DEPTH_LIMIT` times that of one pass over the
file.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Protocol, cast

from git_theta.checkpoints.assemble import NAME_LIMIT, bounded, raw
from git_theta.core.contracts import ScansInside
from git_theta.core.layout import Checksum, Extent, Layout
from git_theta.core.source import Source
from git_theta.errors import FormatError

DEPTH_LIMIT = 4
_HEAD = 4096

# What is tried inside of a container, in this order. Where content alone says too little, the
# member's name must have the suffix.
_FORMATS = (
    ("safetensors:SafetensorsFormat", ".safetensors"),
    ("gguf:GgufFormat", ""),
    ("numpy_files:NpyFormat", ""),
    ("hdf5:Hdf5Format", ""),
    ("torch.legacy_archive:TorchLegacyFormat", ""),
    ("onnx:OnnxFormat", ".onnx"),
    ("flax_msgpack:FlaxMsgpackFormat", ".msgpack"),
    ("torch.zip_format:TorchZipFormat", ""),
    ("numpy_files:NpzFormat", ""),
    ("containers.tar_container:TarFormat", ""),
    ("containers.stored_zip:StoredZipFormat", ""),
)


class _Format(Protocol):
    """What is used of a checkpoint format here."""

    def sniff(self, head: bytes) -> bool: ...

    def scan(self, source: Source) -> Layout: ...


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


def member(
    source: Source, offset: int, length: int, name: str, depth: int
) -> tuple[list[Extent], list[Checksum]]:
    """The extents and checksums of ``length`` bytes at ``offset``: a container's member called
    ``name``, ``depth`` containers deep.

    One extent of plain bytes unless it is a sound checkpoint of a known format with a tensor in it.
    Never raises for what the member holds.
    """
    if depth < DEPTH_LIMIT and length >= 8:
        part = SourceWindow(source, offset, length)
        head = part.read(0, min(_HEAD, length))
        for target, suffix in _FORMATS:
            if not name.lower().endswith(suffix):
                continue
            found = _format(target)
            if found.sniff(head):
                try:
                    layout = _scan(found, part, depth + 1)
                    if layout.extents:
                        return shifted(layout, offset, f"{name[:NAME_LIMIT]}/")
                except FormatError:
                    pass  # the container may be of use without this member
                break
    return [raw(name, offset, length)], []


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


def _scan(found: _Format, part: SourceWindow, depth: int) -> Layout:
    return found.scan_inside(part, depth) if isinstance(found, ScansInside) else found.scan(part)


@lru_cache(maxsize=len(_FORMATS))
def _format(target: str) -> _Format:
    module, _, name = target.partition(":")
    return cast("_Format", getattr(import_module(f"git_theta.checkpoints.{module}"), name)())
