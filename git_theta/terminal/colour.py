"""Whether a stream takes colour."""

from __future__ import annotations

import os
from typing import TextIO


def refused() -> bool:
    """Whether the user wants no colour (NO_COLOR), or has a terminal without (TERM=dumb)."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def taken(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that takes colour."""
    return stream.isatty() and not refused()
