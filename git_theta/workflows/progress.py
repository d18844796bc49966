"""How a workflow tells how far it is. Who watches, and where, is its caller's affair."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol


class Bar(Protocol):
    """One task under way. As a context manager it ends with its block, complete if none raises."""

    def begin(self, what: str, total: int) -> Bar:
        """Start a part of this task: what it counts, this task counts too."""

    def advance(self, count: int, /) -> None:
        """Count ``count`` more bytes; from any thread."""

    def end(self) -> None:
        """The task is over, complete or not. Later calls do nothing."""

    def __enter__(self) -> Bar: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Progress(Protocol):
    """Shows tasks that take long."""

    def begin(self, what: str, total: int, done: Callable[[], int] | None = None) -> Bar:
        """Start to show ``what``; ``done`` tells how many bytes of ``total`` are done, else
        :meth:`Bar.advance` counts them.
        """


class Unwatched:
    """Shows nothing: a :class:`Progress`, and every bar of it."""

    def begin(self, what: str, total: int, done: Callable[[], int] | None = None) -> Bar:
        """A task that nobody watches."""
        return self

    def advance(self, count: int, /) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing."""
