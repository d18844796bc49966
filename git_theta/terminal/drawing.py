"""Bars drawn by rich. Imported when the first bar appears."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from git_theta.core.readable import numbers
from git_theta.terminal import colour


class Drawn(Protocol):
    """A task to draw: ``done`` bytes of ``total``, since ``begun`` (monotonic, seconds)."""

    @property
    def what(self) -> str: ...  # noqa: D102 - as above
    @property
    def total(self) -> int: ...  # noqa: D102 - as above
    @property
    def done(self) -> int: ...  # noqa: D102 - as above
    @property
    def begun(self) -> float: ...  # noqa: D102 - as above


class Drawing:
    """Draws bars on the terminal ``stream``, the former ones each time anew in their place."""

    def __init__(self, stream: TextIO) -> None:
        console = _Console(file=stream, force_terminal=True, no_color=colour.refused())
        # Standard output may be git's: nothing is redirected there. What is written to standard
        # error meanwhile appears above the bars.
        self._progress = Progress(
            _What(table_column=Column(no_wrap=True, overflow="ellipsis", ratio=2)),
            *([] if console.width < _NARROW else [BarColumn(None, table_column=Column(ratio=1))]),
            _Amount(table_column=Column(no_wrap=True)),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            expand=True,
        )
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Drawing:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def draw(self, bars: Sequence[Drawn]) -> None:
        """Show ``bars`` as they are now, and none else."""
        for gone in self._tasks.keys() - {id(bar) for bar in bars}:
            self._progress.remove_task(self._tasks.pop(gone))
        for bar in bars:
            if id(bar) not in self._tasks:
                added = self._progress.add_task(bar.what, total=bar.total, bar=bar)
                self._tasks[id(bar)] = added
            self._progress.update(self._tasks[id(bar)], completed=bar.done)
        self._progress.refresh()


_NARROW = 60  # columns: below, words and numbers take what there is


class _Console(Console):
    """Never hides the cursor: a program that is killed could not show it again."""

    def show_cursor(self, show: bool = True) -> bool:
        """Does nothing."""
        return False


class _What(ProgressColumn):
    """The task's own words: as text, never as rich's markup."""

    def render(self, task: Task) -> Text:
        return Text(task.description)


class _Amount(ProgressColumn):
    """For example ``43 % (900 MB of 2.1 GB, 410 MB/s)``."""

    def render(self, task: Task) -> Text:
        bar: Drawn = task.fields["bar"]
        return Text(amount(bar.done, bar.total, time.monotonic() - bar.begun))


def amount(done: int, total: int, elapsed: float) -> str:
    """For example ``43 % (900 MB of 2.1 GB, 410 MB/s)``; ``elapsed`` in seconds."""
    share = 100 * done // max(total, 1)
    speed = numbers.size(int(done / elapsed)) if elapsed > 0 else numbers.size(0)
    return f"{share} % ({numbers.size(done)} of {numbers.size(total)}, {speed}/s)"
