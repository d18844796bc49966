"""Random access to a checkpoint's bytes, whoever holds them."""

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import Iterable, Iterator
from itertools import accumulate
from types import TracebackType
from typing import Protocol

from git_theta.errors import FileChanged, FormatError

HEAD = 4096  # bytes from the start of a file by which formats recognise it


class Source(Protocol):
    """Immutable bytes with random access; safe to read from several threads."""

    @property
    def size(self) -> int:
        """Total length in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``; :class:`FormatError` when they lie outside."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer`` (bytes, contiguous, writable) from ``offset``."""


def head_of(source: Source) -> bytes:
    """The start of a file, as much as formats recognise it by."""
    return source.read(0, min(HEAD, source.size))


class BytesSource:
    """A :class:`Source` over bytes in memory."""

    __slots__ = ("_data", "size")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self.size = len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """As :meth:`Source.read`."""
        _check(offset, length, self.size)
        return bytes(self._data[offset : offset + length])

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """As :meth:`Source.read_into`."""
        _check(offset, len(buffer), self.size)
        buffer[:] = self._data[offset : offset + len(buffer)]


class PiecesSource:
    """A :class:`Source` over pieces in memory that follow one another, such as a header and
    tensors; they are not put together.
    """

    def __init__(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        self._pieces = [view for piece in pieces if (view := memoryview(piece).cast("B"))]
        self._starts = [0, *accumulate(map(len, self._pieces))]
        self.size = self._starts.pop()

    def read(self, offset: int, length: int) -> bytes:
        """As :meth:`Source.read`."""
        _check(offset, length, self.size)
        return b"".join(self._parts(offset, length))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """As :meth:`Source.read_into`."""
        _check(offset, len(buffer), self.size)
        done = 0
        for part in self._parts(offset, len(buffer)):
            buffer[done : done + len(part)] = part
            done += len(part)

    def _parts(self, offset: int, length: int) -> Iterator[memoryview]:
        number = bisect.bisect_right(self._starts, offset) - 1
        while length:
            start = offset - self._starts[number]
            part = self._pieces[number][start : start + length]
            yield part
            offset, length, number = offset + len(part), length - len(part), number + 1


class FileSource:
    """A :class:`Source` over a file, as long as it was when opened.

    It reads with ``pread`` instead of mapping: a file that is truncated meanwhile is then an error
    of ours, not a SIGBUS, and pages that were read do not count as our memory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._lock = threading.Lock()
        self.stat = os.fstat(self._file.fileno())
        self.size = self.stat.st_size

    def __enter__(self) -> FileSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def fileno(self) -> int:
        """The open file's descriptor."""
        return self._file.fileno()

    def read(self, offset: int, length: int) -> bytes:
        """As :meth:`Source.read`."""
        _check(offset, length, self.size)
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """As :meth:`Source.read_into`."""
        _check(offset, len(buffer), self.size)
        done = 0
        while done < len(buffer):
            got = self._pread_into(offset + done, buffer[done:])
            if not got:
                raise FileChanged(
                    f"the file became shorter while it was read (at byte {offset + done})"
                )
            done += got

    if hasattr(os, "preadv"):

        def _pread_into(self, offset: int, buffer: memoryview) -> int:
            return os.preadv(self._file.fileno(), [buffer], offset)

    else:

        def _pread_into(self, offset: int, buffer: memoryview) -> int:
            with self._lock:
                self._file.seek(offset)
                return self._file.readinto(buffer) or 0


def _check(offset: int, length: int, size: int) -> None:
    if offset < 0 or length < 0 or offset + length > size:
        raise FormatError(
            f"bytes {offset} to {offset + length} lie outside the file of {size} bytes"
        )


def stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    """The stat data that must not change: size, inode, mtime and ctime in nanoseconds."""
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
