"""Tables of text: drawn by rich where long cells are folded to a width; elsewhere plain."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence

from git_theta.terminal import colour

_GAP = 2  # columns of space between two columns


def asked() -> int | None:
    """The width that the environment's COLUMNS asks for; None if it asks for none."""
    text = os.environ.get("COLUMNS", "")
    return int(text) if re.fullmatch("[0-9]{1,6}", text) and int(text) else None


def table(
    rows: Sequence[Sequence[str]],
    header: Sequence[str] = (),
    right: Iterable[int] = (),
    indent: str = "",
) -> list[str]:
    """Lines with aligned columns; the columns ``right`` are aligned to the right, and a column in
    which nothing stands is left out.

    For a terminal, cells are folded so that the table fits; for a pipe or a file only if COLUMNS
    says how wide it may be. Else each row is one line there, however long: programs read it.
    """
    every = [header, *rows] if header else rows
    if not every:
        return []
    kept = [column for column in range(len(every[0])) if any(row[column] for row in every)]
    rows = [[row[column] for column in kept] for row in rows]
    header = [header[column] for column in kept] if header else ()
    aligned = {kept.index(column) for column in right if column in kept}
    if sys.stdout.isatty():
        return _drawn(rows, header, aligned, indent, shutil.get_terminal_size().columns)
    lines = _plain([header, *rows] if header else rows, aligned, indent)
    width = asked()
    if width is None or max(map(len, lines)) <= width:
        return lines
    return _drawn(rows, header, aligned, indent, width)


def _plain(every: Sequence[Sequence[str]], right: set[int], indent: str) -> list[str]:
    # Not by rich: it would take 0.3 ms for each row, and a model has thousands
    widths = [max(len(row[column]) for row in every) for column in range(len(every[0]))]
    lines = []
    for row in every:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + (" " * _GAP).join(cells)).rstrip())
    return lines


def _drawn(
    rows: Sequence[Sequence[str]],
    header: Sequence[str],
    right: set[int],
    indent: str,
    width: int,
) -> list[str]:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        box=None,
        show_header=bool(header),
        header_style="bold",
        pad_edge=False,
        padding=(0, _GAP, 0, 0),
    )
    for column in range(len(header or rows[0])):
        drawn.add_column(
            Text(header[column]) if header else "",
            justify="right" if column in right else "left",
            no_wrap=column in right,
            overflow="fold",
        )
    for row in rows:
        drawn.add_row(*map(Text, row))  # Text: what stands in brackets is no markup
    plain = colour.refused() or not sys.stdout.isatty()
    console = Console(
        file=io.StringIO(),
        force_terminal=True,
        width=max(_GAP, width - len(indent)),
        height=40,  # without one rich takes 80 columns where TERM=dumb
        no_color=plain,
        color_system=None if plain else "standard",
        legacy_windows=False,
    )
    with console.capture() as captured:
        console.print(drawn)
    return [(indent + line).rstrip() for line in captured.get().splitlines()]
