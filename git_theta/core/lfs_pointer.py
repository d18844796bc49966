"""Git LFS pointers: the small texts that git stores in place of the files that Git LFS keeps.

See the pointer specification of Git LFS
(https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).
"""

from __future__ import annotations

import re

SIZE_LIMIT = 1024  # a pointer is smaller
ADVICE = "is a Git LFS pointer, not the model: run 'git lfs pull' first"

_STARTS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_EXACT = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n"
_FORM = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\n"
    rb"size (0|[1-9][0-9]{0,17})\n"
)
SMALLEST = len(_EXACT % (bytes(64), 0))
"""Bytes of the shortest exact pointer."""
LARGEST = SMALLEST + 17
"""Bytes of the longest exact pointer."""


def is_pointer(size: int, head: bytes) -> bool:
    """Whether content of ``size`` bytes that starts with ``head`` (64 bytes of it, or all) is a Git
    LFS pointer.
    """
    return size < SIZE_LIMIT and head.startswith(_STARTS)


def dump(oid: str, size: int) -> bytes:
    """The pointer of an object, in the one form that every server recognises byte for byte."""
    return _EXACT % (oid.encode("ascii"), size)


def parse(data: bytes) -> tuple[str, int] | None:
    """The SHA-256 and the size in bytes that ``data`` names if it is exactly what :func:`dump`
    writes; None otherwise.
    """
    match = _FORM.fullmatch(data) if len(data) <= LARGEST else None
    if match is None:
        return None
    return match[1].decode("ascii"), int(match[2])
