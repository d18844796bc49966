"""The command reference, from what 'git theta COMMAND -h' prints."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from git_theta.cli import manual

PLACE = "reference/commands.md"
_QUOTED = re.compile(
    r"'(git [^']+|\*[^']+)'"
    r"|(?<![\w-])(--[a-z][a-z-]*|[A-Z][A-Z_]{3,}(?:=\d)?(?![\w']))"
    r"|(&lt;\w+&gt;[/\w]*)"
)


def pages() -> dict[str, str]:
    """The page's path and text."""
    lines = [
        "# Commands",
        "",
        (
            "What `git theta COMMAND -h` tells, and `git theta --help` where the manual page is"
            " installed."
        ),
        "",
    ]
    for section, entries in manual.sections():
        lines += [f"## {section}", ""]
        for entry in entries:
            lines += _entry(entry, 3)
    return {PLACE: "\n".join(lines) + "\n"}


def _entry(entry: manual.ManualEntry, level: int) -> Iterator[str]:
    yield from (
        f"{'#' * level} {entry.path}",
        "",
        "```text",
        f"{entry.path} {entry.usage}",
        "```",
        "",
    )
    for paragraph in entry.paragraphs:
        yield from (f"<p>{prose(paragraph)}</p>", "")
    if entry.options:
        rows = (
            f"<dt><code>{html.escape(names)}</code></dt><dd>{prose(text)}</dd>"
            for names, text in entry.options
        )
        yield from ('<dl class="options">', *rows, "</dl>", "")
    if entry.examples:
        yield from ("```sh", entry.examples, "```", "")
    for part in entry.parts:
        yield from _entry(part, level + 1)


def prose(text: str) -> str:
    """Text of a help page as HTML; what is typed stands out as code."""
    return _QUOTED.sub(
        lambda match: f"<code>{match[1] or match[2] or match[3]}</code>",
        html.escape(text, quote=False),
    )
