"""The pipes between git and a program of ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


_PIPE = 1 << 20


def say(message: str) -> None:
    """One line for the user, on standard error (standard output is git's)."""
    print(f"git-theta: {message}", file=sys.stderr, flush=True)


def enlarge(pipe: int) -> None:
    """Let a pipe hold as much as it may."""
    if sys.platform == "linux":
        import fcntl

        with suppress(OSError):  # not a pipe, or the user's share of pipe memory is used up
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)


class Input:
    """Git's side of the conversation.

    Whoever reads a pipe keeps its writer waiting while the bytes are copied. So on Linux what git
    has written is first moved into a pipe of our own, which takes no copy, and read from there
    while git goes on.
    """

    def __init__(self, stream: FileIO) -> None:
        self._stream = stream
        # The ends of our pipe; they last as long as the process
        self._own: tuple[FileIO, int] | None = None
        self._moved = 0  # bytes in it
        self._movable = hasattr(os, "splice")
        self._nowhere = -1

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes, fewer only at the end of the stream."""
        parts = []
        while count and (part := self._readable().read(min(count, self._moved or count))):
            parts.append(part)
            count -= len(part)
            self._moved -= min(self._moved, len(part))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: memoryview) -> int:
        """What is there, up to the buffer's length; 0 at the end of the stream."""
        got = self._readable().readinto(buffer) or 0
        self._moved -= min(self._moved, got)
        return got

    def drop(self, count: int) -> None:
        """Take ``count`` bytes and forget them; on Linux the kernel does it, without copying."""
        while count:
            source = self._readable()
            if not self._moved:
                break
            if self._nowhere < 0:
                self._nowhere = os.open(os.devnull, os.O_WRONLY)
            taken = os.splice(source.fileno(), self._nowhere, min(count, self._moved))
            self._moved -= taken
            count -= taken
        if count and len(self.read(count)) != count:
            raise EOFError

    def _readable(self) -> FileIO:
        """Where to read what comes next: our own pipe if there is something in it, then as many
        bytes as were moved there.
        """
        if not self._moved and self._movable:
            try:
                if self._own is None:
                    reading, writing = os.pipe()
                    enlarge(writing)
                    stream = open(reading, "rb", buffering=0, closefd=False)  # noqa: SIM115 - held
                    self._own = (stream, writing)
                self._moved = os.splice(self._stream.fileno(), self._own[1], _PIPE)
            except OSError:  # git's end is no pipe
                self._movable = False
        return self._own[0] if self._moved and self._own is not None else self._stream


def write_all(stdout: FileIO, data: bytes) -> None:
    """Write all of ``data``."""
    view = memoryview(data)
    while view:
        view = view[stdout.write(view) :]


Say = Callable[[str], None]
