"""A tensor's identity: BLAKE3-256 of its raw bytes, in lower-case hex.

An object's: SHA-256, as Git LFS has it.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Iterable

import blake3

from git_theta.core.source import Source

HEX = re.compile(r"[0-9a-f]{64}\Z")
BLOCK = 1 << 20  # bytes that are read and hashed at a time


def digest(data: bytes | bytearray | memoryview) -> str:
    """BLAKE3-256 of ``data`` as 64 hex digits."""
    return blake3.blake3(data).hexdigest()


def object_id(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of_blocks(
    blocks: Iterable[bytes | bytearray | memoryview], summed: bool = False
) -> tuple[str, int | None]:
    """The digest of ``blocks`` one behind the other, and their CRC-32 if it is to be ``summed``."""
    hasher, crc = blake3.blake3(), 0
    for block in blocks:
        hasher.update(block)
        crc = zlib.crc32(block, crc) if summed else 0
    return hasher.hexdigest(), crc if summed else None


def digest_of_range(
    source: Source,
    offset: int,
    length: int,
    summed: bool = False,
    held: memoryview | None = None,
    advance: Callable[[int], None] | None = None,
) -> tuple[str, int | None]:
    """The digest of ``length`` bytes of ``source`` from ``offset``, and their CRC-32 if it is to be
    ``summed``.

    They are read block by block, into ``held`` (``length`` bytes) where it is given; ``advance`` is
    told the length of each block. Errors are those of ``source``.
    """
    buffer = memoryview(bytearray(min(BLOCK, length))) if held is None else held

    def blocks() -> Iterable[memoryview]:
        for start in range(0, length, BLOCK):
            size = min(BLOCK, length - start)
            block = buffer[:size] if held is None else buffer[start : start + size]
            source.read_into(offset + start, block)
            yield block
            if advance is not None:
                advance(size)

    return digest_of_blocks(blocks(), summed)
