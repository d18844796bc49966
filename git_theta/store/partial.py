"""An object that is here in part: ranges of it that were fetched alone, or made again.

It lies beside where the object would, with a suffix: the bytes at their offsets, holes between
them, and behind the object's last byte a line for each range that is durable: its offset and its
length. It is never sent anywhere. No range's hash can be checked; what is read is checked by what
it decodes to.
"""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path

from git_theta.core.manifest import ObjectRange
from git_theta.core.tensors import Buffer

_BLOCK = 1 << 20
_LINES_LIMIT = 16 << 20  # bytes of the lines


class PartialObject:
    """The object of ``size`` bytes whose whole would lie at ``path``, as far as it is here.

    Methods raise :class:`OSError` where a file cannot be written.
    """

    SUFFIX = ".partial"

    def __init__(self, path: Path, size: int) -> None:
        self.path = path.with_name(path.name + self.SUFFIX)
        self.size = size
        self._new: dict[tuple[int, int], None] = {}
        self._durable: set[tuple[int, int]] | None = None

    def read(self, place: ObjectRange) -> memoryview | None:
        """The bytes of a range; None if they are not here."""
        try:
            with FileIO(self.path, "rb") as file:
                if not self._holds(file, place.offset, place.length):
                    return None
                file.seek(place.offset)
                data = file.read(place.length)
        except OSError:
            return None
        return memoryview(data) if len(data) == place.length else None

    def _holds(self, file: FileIO, offset: int, length: int) -> bool:
        if self._durable is None:
            self._durable = self._lines(file)
        known = {*self._durable, *self._new}
        return any(start <= offset and offset + length <= end for start, end in _joined(known))

    def _lines(self, file: FileIO) -> set[tuple[int, int]]:
        """The ranges that are durable: (start, end) each."""
        found = set()
        file.seek(self.size)
        for line in file.read(_LINES_LIMIT).decode("ascii", "replace").splitlines():
            offset, _, length = line.partition(" ")
            if offset.isdigit() and length.isdigit():
                start, end = int(offset), int(offset) + int(length)
                if start < end <= self.size:
                    found.add((start, end))
        return found

    def write(self, place: ObjectRange, data: Buffer) -> None:
        """Put the bytes of a range in; they are durable after :meth:`flush`."""
        with FileIO(self.path, "a+b"):  # exists from now on; others may write to it, too
            pass
        with FileIO(self.path, "r+b") as file:
            if os.fstat(file.fileno()).st_size < self.size:
                file.truncate(self.size)
            file.seek(place.offset)
            view = memoryview(data).cast("B")
            while view:
                view = view[file.write(view) :]
        self._new[place.offset, place.offset + place.length] = None

    def flush(self) -> None:
        """Make what was written durable, and known to others."""
        if not self._new:
            return
        lines = "".join(f"{start} {end - start}\n" for start, end in self._new).encode("ascii")
        with FileIO(self.path, "a+b") as file:
            os.fsync(file.fileno())  # a line must not be there before its bytes
            file.write(lines)
            os.fsync(file.fileno())
            self._durable = self._lines(file)
        self._new.clear()

    def is_whole(self) -> bool:
        """Whether all of the object is here."""
        return _joined(self._durable or ()) == [(0, self.size)]

    def copy(self, target: Path) -> Path:
        """Copy the object's bytes, as far as they are here, into the new file ``target``."""
        with self.path.open("rb") as source, target.open("xb") as file:
            left = self.size
            while left and (block := source.read(min(left, _BLOCK))):
                file.write(block)
                left -= len(block)
        return target

    def remove(self) -> None:
        """Forget all parts."""
        self.path.unlink(missing_ok=True)


def _joined(ranges: set[tuple[int, int]] | tuple[()]) -> list[tuple[int, int]]:
    """Ranges put together where they touch, in order."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
