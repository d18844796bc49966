"""Progress on standard error, for work that takes long. Silent where nobody watches.

The work itself only counts; a thread of its own draws, and imports rich once there is something to
draw.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

_PATIENCE = 1.0  # seconds before anything is shown
_PACE = 0.1


class Bars:
    """A :class:`~git_theta.workflows.progress.Progress` at the terminal, if standard error is one
    and it is ``wanted``.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._watched = wanted and sys.stderr is not None and sys.stderr.isatty()
        self._bars: list[ScreenBar] = []
        self._lock = threading.Lock()
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def begin(self, what: str, total: int, done: Callable[[], int] | None = None) -> ScreenBar:
        """Start to show ``what``, below the bars that are shown already."""
        bar = ScreenBar(self, what, total, done)
        if self._watched and total > 0:
            with self._lock:
                self._bars.append(bar)
                if self._thread is None:
                    self._stop = threading.Event()
                    self._thread = threading.Thread(
                        target=self._show,
                        args=(self._stop,),
                        name="git-theta-progress",
                        daemon=True,
                    )
                    self._thread.start()
        return bar

    def close(self) -> None:
        """End all that is shown."""
        for bar in reversed(self._shown()):
            bar.end()

    def over(self) -> None:
        """A bar has ended: with the last one, the last picture is drawn and left there."""
        with self._lock:
            if self._thread is None or not all(bar.ended for bar in self._bars):
                return
            thread, stop, self._thread = self._thread, self._stop, None
            assert stop is not None
            stop.set()
            thread.join()
            self._bars.clear()

    def _shown(self) -> list[ScreenBar]:
        """The first bar, and what is under way besides."""
        return [bar for bar in list(self._bars) if bar is self._bars[0] or not bar.ended]

    def _show(self, stop: threading.Event) -> None:
        if stop.wait(_PATIENCE):
            return
        from git_theta.terminal.drawing import Drawing

        with Drawing(sys.stderr) as drawing:
            while not stop.wait(_PACE):
                drawing.draw(self._shown())
            drawing.draw(self._shown())


class ScreenBar:
    """One task that :class:`Bars` shows."""

    def __init__(
        self,
        bars: Bars,
        what: str,
        total: int,
        done: Callable[[], int] | None = None,
        whole: ScreenBar | None = None,
    ) -> None:
        self.what, self.total, self.ended = what, total, False
        self.begun = time.monotonic()
        self._bars, self._told, self._whole = bars, done, whole
        self._parts: list[ScreenBar] = []
        self._counted, self._lock = 0, threading.Lock()

    @property
    def done(self) -> int:
        """How many bytes are done, never more than there are."""
        return min(self.total, self._counted if self._told is None else self._told())

    def begin(self, what: str, total: int) -> ScreenBar:
        """Start a part of this task: what it counts, this task counts too."""
        part = self._bars.begin(what, total)
        part._whole = self
        self._parts.append(part)
        return part

    def advance(self, count: int, /) -> None:
        """Count ``count`` more bytes; from any thread."""
        with self._lock:
            self._counted += count
        if self._whole is not None:
            self._whole.advance(count)

    def end(self) -> None:
        """The task is over, complete or not. Later calls do nothing."""
        if not self.ended:
            self.ended = True
            for part in self._parts:
                part.end()
            self._bars.over()

    def __enter__(self) -> ScreenBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and not self.ended:
            self._counted, self._told = self.total, None
        self.end()
