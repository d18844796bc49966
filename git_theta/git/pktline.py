"""Git's packet lines, as the long-running filter protocol uses them: four hex digits of length,
then up to 65516 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from git_theta.core.tensors import Buffer
from git_theta.errors import GitError

MAX_DATA = 65516
LIST_LIMIT = 64 << 20  # bytes
FLUSH = b"0000"
_DIGITS = b"0123456789abcdefABCDEF"


class Readable(Protocol):
    """A stream of packets."""

    def read(self, count: int, /) -> bytes:
        """Exactly ``count`` bytes, fewer only at the end."""


def read_packet(stream: Readable) -> bytes | None:
    """The next packet's data, None for a flush packet; :class:`EOFError` at the stream's end."""
    head = stream.read(4)
    if not head:
        raise EOFError
    size = length(head)
    if size == 0:
        return None
    data = stream.read(size - 4)
    if len(data) != size - 4:
        raise GitError("git's stream ended within a packet")
    return data


def length(head: bytes) -> int:
    """The length that a packet's head declares, head included; 0 for a flush."""
    size = int(head, 16) if len(head) == 4 and not head.translate(None, _DIGITS) else -1
    if size < 0 or (size != 0 and not 4 <= size <= MAX_DATA + 4):
        raise GitError(f"git sent a broken packet ({head!r})")
    return size


def read_list(stream: Readable) -> list[str]:
    """The text packets up to the next flush, without their line ends; :class:`GitError` if they do
    not end.
    """
    lines, left = list[str](), LIST_LIMIT
    while (packet := read_packet(stream)) is not None:
        left -= len(packet) + 4
        if left < 0:
            raise GitError(f"a list of packets is larger than {LIST_LIMIT} bytes")
        lines.append(packet.decode("utf-8", "surrogateescape").removesuffix("\n"))
    return lines


def text(line: str) -> bytes:
    """One line as a packet."""
    data = line.encode("utf-8", "surrogateescape") + b"\n"
    return b"%04x" % (len(data) + 4) + data


def packets(data: Buffer) -> Iterator[Buffer]:
    """``data`` in packets: head and slice in turn, nothing copied."""
    view = memoryview(data).cast("B")
    for start in range(0, len(view), MAX_DATA):
        piece = view[start : start + MAX_DATA]
        yield b"%04x" % (len(piece) + 4)
        yield piece
