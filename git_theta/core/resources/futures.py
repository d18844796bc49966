"""Work that was handed to threads and is not wanted any more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future


def abandon(futures: Iterable[Future[Any]]) -> None:
    """Cancel what has not begun and wait for the rest, whatever comes of it."""
    begun = [future for future in futures if not future.cancel()]
    for future in begun:
        if not future.cancelled():
            future.exception()
