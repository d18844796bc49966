"""Git LFS pointers: the small texts that git stores in place of the files that Git LFS keeps.

See the pointer specification of Git LFS
(https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).
"""

from __future__ import annotations

SIZE_LIMIT = 1024  # a pointer is smaller
ADVICE = "is a Git LFS pointer, not the model: run 'git lfs pull' first"

_STARTS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")


def is_pointer(size: int, head: bytes) -> bool:
    """Whether content of ``size`` bytes that starts with ``head`` (64 bytes of it, or all) is a Git
    LFS pointer.
    """
    return size < SIZE_LIMIT and head.startswith(_STARTS)
