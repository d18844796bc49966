"""Memory that is used again: buffers that are handed on, and a C allocator that is told to keep
what it has.

Coding works on buffers of 256 KiB to a few MiB. glibc would map and unmap fresh, zeroed pages for
each of them, which costs more than the coding.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

Take = Callable[[int], memoryview]
"""``take(size)``: so many writable bytes, which stay the caller's for long enough."""

_HUGE = 4 << 20  # bytes, from which huge pages are worth asking for
_KEPT = 4  # buffers that wait to be used again
_ROOMY = 8  # times what is asked for: a buffer larger than that waits for something larger
# From malloc.h; the same on every architecture
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_buffers() -> None:
    """Let freed buffers of up to 32 MiB be reused by this process.

    Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        # A thread's own arena gives memory back whenever little of it is in use
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 128 << 20)


class Scratch:
    """Memory that tensors are held in one after the other.

    Fresh memory for each would cost as much as hashing it.

    Much of it is asked for in huge pages, where the system has them: clearing ordinary ones takes
    longer. What is never written to takes no room, so capacities are rounded up to powers of two,
    that a buffer may serve again soon. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self._lock = threading.Lock()

    @contextmanager
    def lease(self) -> Iterator[Take]:
        """A function that gives as many writable bytes as it is asked for, valid until the block is
        left.
        """
        taken: list[memoryview] = []

        def take(size: int) -> memoryview:
            taken.append(self._take(1 << max(0, size - 1).bit_length()))
            return taken[-1][:size]

        try:
            yield take
        finally:
            with self._lock:
                self._free += taken

    def _take(self, capacity: int) -> memoryview:
        with self._lock:
            sizes = {number: len(memory) for number, memory in enumerate(self._free)}
            fitting = [number for number in sizes if capacity <= sizes[number] <= _ROOMY * capacity]
            if fitting:
                return self._free.pop(min(fitting, key=sizes.__getitem__))
            if len(self._free) >= _KEPT:
                self._free.pop(min(sizes, key=sizes.__getitem__))
        return memoryview(
            _huge(capacity)
            if capacity >= _HUGE and sys.platform == "linux"
            else bytearray(capacity)
        )


def _huge(size: int) -> mmap.mmap:
    import mmap

    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
