"""The names that plugins may use."""

from __future__ import annotations

import re

NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")


def check_name(name: object) -> None:
    """``AssertionError`` for a name that the registry would refuse."""
    well = isinstance(name, str) and NAME.match(name)
    assert well, (
        f"the name {name!r} must consist of a-z, 0-9, _ and -, begin with a letter, and have at"
        " most 64 characters"
    )
