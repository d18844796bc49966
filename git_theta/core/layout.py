"""Where the tensors of a checkpoint file lie.

A :class:`Layout` is a file seen as named tensor *extents* and everything else (the *skeleton*). It
is checked once, when it is made: extents in bounds, disjoint, sorted, of the size their dtype and
shape ask for, and uniquely named. Whatever format produced it, cutting by a valid layout and
splicing back is then exact by construction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from git_theta.core import dtypes
from git_theta.errors import FormatError


class Extent(NamedTuple):
    """One tensor's place in a file: ``length`` bytes at ``offset`` that hold ``shape`` elements of
    ``dtype``.

    ``aliases`` are further names of the very same bytes (tied weights). Names are labels; they need
    not be valid paths.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int
    aliases: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """First byte behind the extent."""
        return self.offset + self.length


class Checksum(NamedTuple):
    """A field that can be recomputed: the 4 bytes (little-endian) at ``offset`` should be the
    CRC-32 of an earlier range.

    A format only proposes it. Where the file's value differs (torch can leave the field 0), the
    bytes are simply kept.
    """

    offset: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Layout:
    """All extents of a file of ``size`` bytes, in file order, and the checksums proposed for its
    other bytes.

    ``notices`` are lines for the user about what the format did not understand.
    """

    format: str
    size: int
    extents: tuple[Extent, ...]
    checksums: tuple[Checksum, ...] = ()
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        previous, names = 0, set[str]()
        for extent in self.extents:
            if extent.offset < previous:
                raise FormatError(f"tensor {extent.name[:80]!a} overlaps another one")
            if extent.length < 0 or extent.end > self.size:
                raise FormatError(f"tensor {extent.name[:80]!a} reaches beyond the end of the file")
            if dtypes.nbytes(extent.dtype, extent.shape) != extent.length:
                what = dtypes.describe(extent.dtype, extent.shape)
                raise FormatError(
                    f"tensor {extent.name[:80]!a} is {what} but occupies {extent.length} bytes"
                )
            for name in (extent.name, *extent.aliases):
                if name in names:
                    raise FormatError(f"two tensors are called {name[:80]!a}")
                names.add(name)
            previous = extent.end
        self._check_checksums()

    def _check_checksums(self) -> None:
        position, spans = 0, (extent for extent in self.extents if extent.length)
        span = next(spans, None)
        for field in self.checksums:
            while span is not None and span.end <= field.offset:
                span = next(spans, None)
            inside = span is not None and field.offset + 4 > span.offset
            if field.offset < position or field.offset + 4 > self.size or inside:
                raise FormatError("checksum fields overlap or lie outside the skeleton")
            if field.start < 0 or field.length < 0 or field.start + field.length > field.offset:
                raise FormatError("a checksum covers bytes that follow it")
            position = field.offset + 4


class PartlyBrokenError(FormatError):
    """A broken file of which some tensors are whole.

    ``layout`` has these; all other bytes belong to the skeleton.
    """

    def __init__(self, message: str, layout: Layout) -> None:
        super().__init__(message)
        self.layout = layout


def unique_names(names: Iterable[str]) -> list[str]:
    """The names with repeated ones numbered (``x``, ``x#2``, ``x#3``), so that each can stand for
    one extent.
    """
    seen: set[str] = set()
    counts: dict[str, int] = {}
    result = []
    for name in names:
        unique = name
        while unique in seen:
            counts[name] = counts.get(name, 1) + 1
            unique = f"{name}#{counts[name]}"
        seen.add(unique)
        result.append(unique)
    return result
