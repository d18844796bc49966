"""Docstrings as mkdocstrings wants them: references and literal blocks are written for Sphinx, and
become Markdown's.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|data|exc|func|meth|mod):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites each docstring when it has been read."""

    # Part of griffe's interface
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """``:func:`load``` is code; ``::`` before a block is a colon."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """``text`` without the marks of reStructuredText."""
    plain = _ROLE.sub(
        lambda match: f"`{match[2].rpartition('.')[2] if match[1] else match[2]}`", text
    )
    return re.sub(r"(?<=\w)::$", ":", plain.replace("``", "`"), flags=re.MULTILINE)
