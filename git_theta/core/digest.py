"""A tensor's identity: BLAKE3-256 of its raw bytes, in lower-case hex.

An object's: SHA-256, as Git LFS has it.
"""

from __future__ import annotations

import hashlib
import re

import blake3

HEX = re.compile(r"[0-9a-f]{64}\Z")


def digest(data: bytes | bytearray | memoryview) -> str:
    """BLAKE3-256 of ``data`` as 64 hex digits."""
    return blake3.blake3(data).hexdigest()


def object_id(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()
