"""Reads a file's structure from front to back: small reads through a window, long values skipped
without reading them.
"""

from __future__ import annotations

from typing import Literal

from git_theta.core.source import Source
from git_theta.errors import FormatError

WINDOW = 1 << 16


class Cursor:
    """A position in ``source``.

    ``title`` says in messages what kind of file it is. Reads end at ``end``.

    Whatever leads beyond the end raises :class:`FormatError`.
    """

    __slots__ = ("_base", "_window", "end", "order", "position", "source", "title")

    def __init__(
        self,
        source: Source,
        title: str,
        position: int = 0,
        end: int | None = None,
        order: Literal["little", "big"] = "little",
    ) -> None:
        self.source = source
        self.title = title
        self.position = position
        self.end = source.size if end is None else min(end, source.size)
        self.order = order
        self._base, self._window = 0, b""

    def broken(self, reason: str) -> FormatError:
        """The error for a file that is not sound."""
        return FormatError(f"the {self.title} is broken: {reason}")

    def skip(self, length: int) -> int:
        """Go ``length`` bytes on; the position before."""
        start = self.position
        if length < 0 or length > self.end - start:
            raise self.broken(
                f"{length} bytes are announced at byte {start}, but {max(0, self.end - start)}"
                " follow"
            )
        self.position = start + length
        return start

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes."""
        start = self.skip(length)
        at = start - self._base
        if at < 0 or at + length > len(self._window):
            if length > WINDOW:
                return self.source.read(start, length)
            self._base, self._window, at = (
                start,
                self.source.read(start, min(WINDOW, self.end - start)),
                0,
            )
        return self._window[at : at + length]

    def uint(self, width: int) -> int:
        """The next ``width`` bytes as an unsigned integer."""
        return int.from_bytes(self.take(width), self.order)

    def varint(self) -> int:
        """The next base-128 number, of at most 64 bits (protocol buffers, SSTables)."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value
        raise self.broken(f"a number before byte {self.position} has more than 64 bits")
