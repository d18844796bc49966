"""model-bundle: a container of tensors and of files, which may be checkpoints themselves.

A file is ``BUNDLE1`` and a line feed; the length of the index (u32, little-endian); the index, a
JSON list of ``{"name", "size"}``, with ``dtype`` and ``shape`` for a tensor; and the contents in
that order, without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from git_theta.plugin import (
    Buffer,
    CheckpointFormat,
    Checksum,
    CutsMembers,
    Extent,
    FormatError,
    Layout,
    Members,
    Source,
    Tensor,
    dtypes,
    hookimpl,
)

MAGIC = b"BUNDLE1\n"
LIMIT = 64 << 20  # bytes of an index


class Content(NamedTuple):
    """What the index says of one content; ``dtype`` is empty for a file."""

    name: str
    offset: int
    size: int
    dtype: str
    shape: tuple[int, ...]


class ModelBundle:
    """Finds tensors, and lets Git-Theta look into files."""

    name = "model-bundle"
    suffixes: tuple[str, ...] = (".bundle",)
    inside = ".bundle"

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` starts with the mark."""
        return head.startswith(MAGIC)

    def scan(self, source: Source) -> Layout:
        """As :meth:`scan_inside`, with the formats that come with Git-Theta."""
        return self.scan_inside(source, Members())

    def scan_inside(self, source: Source, members: CutsMembers) -> Layout:
        """One extent for each tensor; a file is cut by ``members``."""
        extents: list[Extent] = []
        checksums: list[Checksum] = []
        for content in _contents(source):
            if content.dtype:
                extents.append(
                    Extent(content.name, content.dtype, content.shape, content.offset, content.size)
                )
            elif content.size:
                inner, fields = members.cut(source, content.offset, content.size, content.name)
                extents += inner
                checksums += fields
        return Layout(self.name, source.size, tuple(extents), tuple(checksums))

    def build(self, tensors: Mapping[str, Tensor], like: Source | None) -> Buffer:
        """A bundle of ``tensors``; those that are plain files in ``like`` stay files."""
        return b"".join(self.pieces(tensors, like))

    def pieces(self, tensors: Mapping[str, Tensor], like: Source | None) -> Sequence[Buffer]:
        """As :meth:`build`: the index, and each tensor's own memory."""
        files = {content.name for content in _contents(like) if not content.dtype} if like else ()
        rows: list[dict[str, object]] = []
        for name, tensor in tensors.items():
            row: dict[str, object] = {"name": name, "size": tensor.spec.nbytes}
            if name not in files or tensor.dtype != "u8" or not tensor.spec.nbytes:
                row |= {"dtype": tensor.dtype, "shape": list(tensor.shape)}
            rows.append(row)
        index = json.dumps(rows).encode("ascii")
        head = MAGIC + len(index).to_bytes(4, "little") + index
        return [head, *(tensor.data for tensor in tensors.values())]


def _contents(source: Source) -> Iterator[Content]:
    """What the index lists, checked to fill the file."""
    start = len(MAGIC) + 4
    head = source.read(0, min(start, source.size))
    length = int.from_bytes(head[len(MAGIC) :], "little")
    if len(head) < start or length > min(LIMIT, source.size - start):
        raise FormatError("the bundle's index is cut short")
    try:
        rows = json.loads(source.read(start, length).decode("utf-8"))
    except (ValueError, RecursionError):
        raise FormatError("the bundle's index is not JSON") from None
    if not isinstance(rows, list):
        raise FormatError("the bundle's index is not a list")
    offset = start + length
    for number, row in enumerate(rows):
        content = _described(row, offset)
        if content is None or content.size > source.size - offset:
            raise FormatError(f"content {number} of the bundle is not as its index says")
        yield content
        offset += content.size
    if offset != source.size:
        raise FormatError(f"{source.size - offset} bytes follow the bundle's last content")


def _described(row: object, offset: int) -> Content | None:
    """A content; None if the index does not describe it as it must."""
    if not isinstance(row, dict):
        return None
    name, size, dtype, shape = (row.get(key) for key in ("name", "size", "dtype", "shape"))
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > 1000:
        return None
    if type(size) is not int or size < 0:
        return None
    if dtype is None and shape is None:
        return Content(name, offset, size, "", ())
    if not isinstance(dtype, str) or dtype not in dtypes.names() or not isinstance(shape, list):
        return None
    if len(shape) > 64 or any(type(n) is not int or n < 0 for n in shape):
        return None
    return Content(name, offset, size, dtype, tuple(shape))


@hookimpl
def register_checkpoint_formats() -> Iterable[CheckpointFormat]:
    """Called by Git-Theta if this package is installed."""
    return [ModelBundle()]
