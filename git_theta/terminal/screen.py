"""What a report finds around it: the screen it is read on."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys

from git_theta.errors import GitError
from git_theta.git.config import config_file
from git_theta.reports.table import Style
from git_theta.terminal import colour, columns


def style(colour_slot: str, folded: bool = True) -> Style:
    """How to print on standard output, or on the pager that git has put behind it.

    A pipe or file has no width unless the environment's COLUMNS gives it one. ``colour_slot``:
    git's setting, ``color.diff`` for one.
    """
    screen = sys.stdout.isatty() or os.environ.get("GIT_PAGER_IN_USE") == "true"
    width, height = _size() if screen else (columns.asked(), None)
    encoding = (
        (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "").replace("_", "")
    )
    return Style(
        width,
        height,
        _wants_colour(colour_slot, sys.stdout.isatty()),
        encoding.startswith(("utf", "gb18030")),
        folded,
    )


def _size() -> tuple[int, int]:
    width, lines = shutil.get_terminal_size((0, 0))
    # A pager: the terminal is at another end
    if not width or not lines or not sys.stdout.isatty():
        for descriptor in (2, 0):
            with contextlib.suppress(OSError):
                terminal = os.get_terminal_size(descriptor)
                return width or terminal.columns, terminal.lines
    return width or 80, lines or 40


def _wants_colour(slot: str, terminal: bool) -> bool:
    if colour.refused():
        return False
    try:
        return config_file.wants_colour(slot, terminal)
    except GitError:
        return False
