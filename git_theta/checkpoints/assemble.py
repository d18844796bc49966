"""From the tensors a parser found to a layout: order, names, and what is too long to be left to the
skeleton.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from git_theta.core import dtypes
from git_theta.core.layout import Checksum, Extent, Layout, unique_names
from git_theta.errors import FormatError

# Bytes between two tensors that stay in the skeleton, which is held in memory
SKELETON_LIMIT = 16 << 20
PIECE = 64 << 20
NAME_LIMIT = 1000  # characters of one name; a longer one is cut
# Characters of all names together: a file can say one long part of many names once
NAMES_LIMIT = 64 << 20
RANK_LIMIT = 64


def raw(name: str, offset: int, length: int) -> Extent:
    """Bytes whose meaning is not known."""
    return Extent(name, "u8", (length,), offset, length)


def shaped(name: str, dtype: str, shape: Sequence[int], offset: int, length: int) -> Extent:
    """``length`` bytes as ``shape`` elements of ``dtype``, or flat, as plain bytes, where that
    cannot be said of them.
    """
    if len(shape) <= RANK_LIMIT:
        total = 1
        for size in shape:
            total *= size
            if size < 0 or total > dtypes.MAX_BYTES:
                return raw(name, offset, length)
        known = dtypes.get(dtype)
        if (
            total * known.block_bytes == length * known.block_elements
            and total % known.block_elements == 0
        ):
            return Extent(name, dtype, tuple(shape), offset, length)
    return raw(name, offset, length)


def bounded(extents: Iterable[Extent]) -> Iterator[Extent]:
    """``extents``, as they are found; :class:`~git_theta.errors.FormatError` as soon as their names
    take too much memory.
    """
    letters = 0
    for extent in extents:
        letters += len(extent.name) + sum(map(len, extent.aliases))
        if letters > NAMES_LIMIT:
            raise FormatError(f"the names of its tensors have more than {NAMES_LIMIT} characters")
        yield extent


def assemble(
    name: str, size: int, extents: Iterable[Extent], checksums: Iterable[Checksum] = ()
) -> Layout:
    """The layout of a file of ``size`` bytes, for the format ``name``, with ``extents`` in any
    order.

    Names are made unique. What lies between tensors becomes tensors of plain bytes called ``rest``
    where it is long. :class:`~git_theta.errors.FormatError` when tensors overlap or reach beyond
    the file.
    """
    ordered = sorted(bounded(extents), key=lambda extent: (extent.offset, extent.end))
    fields = sorted(set(checksums), key=lambda field: field.offset)
    ordered += _rest(size, ordered, fields)
    ordered.sort(key=lambda extent: (extent.offset, extent.end))
    return Layout(name, size, tuple(_unique(ordered)), tuple(fields))


def _rest(size: int, ordered: Sequence[Extent], fields: Sequence[Checksum]) -> list[Extent]:
    taken = sorted(
        [
            *((item.offset, item.end) for item in ordered),
            *((field.offset, field.offset + 4) for field in fields),
            (size, size),
        ]
    )
    position, found = 0, []
    for start, end in taken:
        if start - position > SKELETON_LIMIT:
            found += [
                raw("rest", first, min(PIECE, start - first))
                for first in range(position, start, PIECE)
            ]
        position = max(position, end)
    return found


def _unique(extents: Sequence[Extent]) -> Sequence[Extent]:
    names = [name for extent in extents for name in (extent.name, *extent.aliases)]
    if len(set(names)) == len(names) and all(len(name) <= NAME_LIMIT for name in names):
        return extents
    unique, result = iter(unique_names(name[:NAME_LIMIT] for name in names)), []
    for extent in extents:
        name, *aliases = [next(unique) for _ in range(1 + len(extent.aliases))]
        result.append(
            Extent(name, extent.dtype, extent.shape, extent.offset, extent.length, tuple(aliases))
        )
    return result
