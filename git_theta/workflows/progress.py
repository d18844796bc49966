"""A line on the terminal for work that takes long: what, how much, how fast.

Silent where nobody watches.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

_PATIENCE = 1.0  # seconds before anything is shown
_PACE = 0.2


class Progress:
    """Shows one task at a time on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._watched = sys.stderr is not None and sys.stderr.isatty()
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None
        self._done = 0

    def begin(self, what: str, total: int, done: Callable[[], int] | None = None) -> None:
        """Start to show ``what``; ``done`` tells how many bytes of ``total`` are done, else
        :meth:`advance` counts them.
        """
        self.end()
        self._done = 0
        if not self._watched or total <= 0:
            return
        self._stop = threading.Event()
        arguments = (what, total, done or (lambda: self._done), self._stop)
        self._thread = threading.Thread(
            target=_show, args=arguments, name="git-theta-progress", daemon=True
        )
        self._thread.start()

    def advance(self, count: int) -> None:
        """Count ``count`` more bytes."""
        self._done += count

    def end(self) -> None:
        """Stop showing the task."""
        if self._stop is not None and self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._stop = self._thread = None

    close = end


def _show(what: str, total: int, done: Callable[[], int], stop: threading.Event) -> None:
    begun, shown = time.monotonic(), False
    while not stop.wait(_PACE):
        elapsed = time.monotonic() - begun
        if elapsed >= _PATIENCE:
            shown = True
            sys.stderr.write(f"\r{line(what, done(), total, elapsed)}\x1b[K")
            sys.stderr.flush()
    if shown:
        sys.stderr.write(f"\r{line(what, total, total, time.monotonic() - begun)}\x1b[K\n")
        sys.stderr.flush()


def line(what: str, done: int, total: int, elapsed: float) -> str:
    """For example ``Adding model.safetensors: 43 % (0.9 of 2.1 GB, 410 MB/s)``."""
    percent = min(100, 100 * done // total)
    return (
        f"{what}: {percent} % ({size(done)} of {size(total)}, {done / max(elapsed, 1e-9) / 1e6:.0f}"
        " MB/s)"
    )


def size(count: int) -> str:
    """A number of bytes for a person, in decimal units as disks and forges count them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
