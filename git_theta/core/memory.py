"""Memory that is used again: buffers of a thread's own, and a C allocator that is told to keep what it has.

Coding works on buffers of 256 KiB to a few MiB. glibc would map and unmap fresh, zeroed pages for each of them, which costs more
than the coding.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

_HUGE = 4 << 20  # bytes, from which huge pages are worth asking for
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # from malloc.h; the same on every architecture


def keep_buffers() -> None:
    """Let freed buffers of up to 32 MiB be reused by this process. Does nothing where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_ARENA_MAX, 1)  # a thread's own arena gives memory back whenever little of it is in use
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 128 << 20)


class Scratch(threading.local):
    """Memory that a thread holds one tensor or object in at a time. Fresh memory for each would cost as much as hashing it.

    Much of it is asked for in huge pages, where the system has them: clearing ordinary ones takes longer.
    """

    def __init__(self) -> None:
        self._memory = memoryview(b"")

    def take(self, size: int) -> memoryview:
        """``size`` writable bytes, valid until the thread's next call."""
        if len(self._memory) < size:
            self._memory = memoryview(b"")  # given back before more is taken
            self._memory = memoryview(_huge(size) if size >= _HUGE and sys.platform == "linux" else bytearray(size))
        return self._memory[:size]


def _huge(size: int) -> mmap.mmap:
    import mmap

    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
