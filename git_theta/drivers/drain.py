"""Taking a file's content from git's pipe while the work on the same file in the working tree is
already under way.

Git streams the file it cleans, in packets of 64 KiB, and a filter must take them all. Almost always
they are the bytes of the file in the working tree, so they are compared with it and dropped. Where
they differ (git can clean something else under a path's name) what came is spooled into a file of
its own, and that is cleaned instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from git_theta.core.source import FileSource
from git_theta.errors import FormatError, GitError, StoreError
from git_theta.git import pktline

if TYPE_CHECKING:
    import numpy as np

PACKET = pktline.MAX_DATA + 4
_PACKETS = 16
_FULL = b"%04x" % PACKET


class PacketStream(pktline.Readable, Protocol):
    """Where packets come from."""

    def readinto(self, buffer: memoryview) -> int:
        """What is there, up to the buffer's length; 0 at the end."""

    def drop(self, count: int) -> None:
        """Take ``count`` bytes and forget them."""


class IncomingFile:
    """One file's content on its way from git: the packets up to the next flush.

    Whatever happens, all of it must be taken.
    """

    def __init__(self, stream: PacketStream) -> None:
        self._stream = stream
        self._store = bytearray(0)
        self._filled = 0
        self.finished = False

    def collect(self, limit: int) -> bytes:
        """The content's beginning: all of it, or a little more than ``limit`` bytes."""
        parts, size = [], 0
        while size <= limit:
            packet = pktline.read_packet(self._stream)
            if packet is None:
                self.finished = True
                break
            parts.append(packet)
            size += len(packet)
        return b"".join(parts)

    def skip(self) -> None:
        """Take the rest and drop it."""
        for _ in self.windows():
            pass

    def drop(self) -> int:
        """Take the rest without a look at it; the number of its bytes.

        Only before any of :meth:`windows` was asked for.
        """
        assert not self._filled
        total = 0
        while not self.finished:
            head = self._stream.read(4)
            if not head:
                raise EOFError
            size = pktline.length(head)
            self.finished = size == 0
            if size > 4:
                self._stream.drop(size - 4)
                total += size - 4
        return total

    def windows(self) -> Iterator[np.ndarray]:
        """The rest, as arrays of uint8 of shape (packets, bytes of each).

        Each is valid until the next is asked for.
        """
        if self.finished:
            return
        import numpy as np

        if not self._store:
            self._store = bytearray(_PACKETS * PACKET)
        array, buffer = np.frombuffer(self._store, np.uint8), memoryview(self._store)
        while True:
            self._fill(buffer, 4, PACKET)
            size = pktline.length(bytes(buffer[:4]))
            if size == 0:
                if self._filled != 4:
                    raise GitError("git sent more behind the end of a file")
                self.finished = True
                return
            count = 1
            if size < PACKET:
                self._fill(buffer, size, size)
                window = array[4:size].reshape(1, -1)
            else:
                self._fill(buffer, PACKET, len(buffer))
                while (count + 1) * PACKET <= self._filled and buffer[
                    count * PACKET : count * PACKET + 4
                ] == _FULL:
                    count += 1
                window = array[: count * PACKET].reshape(count, PACKET)[:, 4:]
            try:
                yield window
            finally:  # also when the consumer gives up: the next call goes on behind this window
                rest = self._filled - count * size
                if rest:
                    array[:rest] = array[count * size : self._filled].copy()
                self._filled = rest

    def _fill(self, buffer: memoryview, least: int, most: int) -> None:
        """Read until ``least`` bytes are there, never beyond ``most``."""
        while self._filled < least:
            got = self._stream.readinto(buffer[self._filled : most])
            if not got:
                raise EOFError
            self._filled += got


def compare(
    content: IncomingFile, file: FileSource | None, spool: Path, begun: bytes = b""
) -> bool:
    """Take the rest of the content (``begun`` came already) and compare it with ``file``.

    True: it is the file's, to the last byte. False: it is not (or there is no file), and all of it
    is now in ``spool``. :class:`StoreError` when there is no room for that.
    """
    import numpy as np

    position, target = len(begun), None
    own = np.empty(_PACKETS * pktline.MAX_DATA, np.uint8)
    try:
        if file is None or not is_start_of(file, begun):
            target = _open_spool(spool, None, 0)
            _write(target, begun)
        for window in content.windows():
            if target is None and not _same(file, position, window, own):
                target = _open_spool(spool, file, position)
            if target is not None:
                _write(target, window)
            position += window.size
        if target is None and file is not None and position == file.size:
            return True
        if target is None:
            target = _open_spool(spool, file, position)
        return False
    finally:
        if target is not None:
            target.close()


def _same(file: FileSource | None, position: int, window: np.ndarray, own: np.ndarray) -> bool:
    """Whether ``window`` is what ``file`` has at ``position``.

    ``own`` is a buffer to read that into.
    """
    import numpy as np

    if file is None or position + window.size > file.size:
        return False
    own = own[: window.size]
    try:
        file.read_into(position, own.data)
    except (OSError, FormatError):
        return False
    return bool(np.array_equal(own.reshape(window.shape), window))


def is_content_of(file: FileSource | None, data: bytes) -> bool:
    """Whether ``data`` is all that ``file`` holds."""
    return file is not None and file.size == len(data) and is_start_of(file, data)


def is_start_of(file: FileSource, data: bytes) -> bool:
    """Whether ``file`` starts with ``data``."""
    try:
        return file.read(0, len(data)) == data
    except (OSError, FormatError):
        return False


def _open_spool(spool: Path, file: FileSource | None, position: int) -> BinaryIO:
    """A spool that begins with the ``position`` bytes that were the file's."""
    try:
        target = spool.open("xb", buffering=0)
    except OSError as error:
        raise StoreError(f"{spool} cannot be written: {error.strerror or error}") from None
    try:
        for start in range(0, position if file is not None else 0, 1 << 20):
            assert file is not None
            _write(target, file.read(start, min(1 << 20, position - start)))
    except BaseException:
        target.close()
        raise
    return target


def _write(target: BinaryIO, data: bytes | np.ndarray) -> None:
    try:
        for row in [data] if isinstance(data, bytes) else data:
            view = memoryview(row).cast("B")
            while view:
                view = view[target.write(view) :]
    except OSError as error:
        raise StoreError(f"the spool file cannot be written: {error.strerror or error}") from None
