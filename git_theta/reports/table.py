"""A diff for a terminal: a header with what counts, then a table that fits the screen.

The table is not one of rich. It leaves out whole columns, the least missed first, and cuts names in
their middle, where rich would fold or crop every cell; and a pager or a file gets the same lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from git_theta.core.names import display
from git_theta.core.readable import numbers
from git_theta.core.readable.numbers import plural, size
from git_theta.reports import health
from git_theta.reports.folding import Folded, Row, flat, fold, types, updates
from git_theta.reports.report import ModelReport
from git_theta.workflows.comparing.compare import KINDS
from git_theta.workflows.comparing.movement import Statistics
from git_theta.workflows.comparing.statistics import Unknown

MARKS = {
    "added": "+",
    "removed": "-",
    "modified": "~",
    "renamed": ">",
    "reshaped": "#",
    "retyped": "t",
}
COLOURS = {
    "added": "32",
    "removed": "31",
    "modified": "33",
    "renamed": "36",
    "reshaped": "35",
    "retyped": "35",
}
_NAME_LEAST, _NAME_FINE, _NAME_MOST, _NAME_PIPED = 24, 40, 72, 120
_GAP = "  "
_ALARM = "1;31"
_ALARMS = 5  # tensors with findings that the header names
_HEALTH = "health"
_WHOLE = 24


@dataclass(frozen=True, slots=True)
class Style:
    """How to print: ``width`` in columns and ``height`` in lines (None: not a screen, nothing is
    left out), colour, and characters beyond ASCII.
    """

    width: int | None = None
    height: int | None = None
    colour: bool = False
    unicode: bool = True
    folded: bool = True

    def paint(self, text: str, code: str) -> str:
        """``text`` in a colour, if there is any."""
        return f"\x1b[{code}m{text}\x1b[m" if self.colour and text else text

    def word(self, fancy: str, plain: str) -> str:
        """``fancy`` where it can be printed, else ``plain``."""
        return fancy if self.unicode else plain


def model(
    report: ModelReport, style: Style, headed: bool = True, in_order: bool = False
) -> list[str]:
    """A model's header and table.

    ``in_order``: the changes were sorted, so each has its own line under its whole name.
    """
    lines = title(report, style) if headed else []
    lines += ["  " + line for part in summary(report, style) for line in wrap(part, style)]
    lines += ["  " + line for line in alarm(report, style)]
    if report.changes:
        lines += ["", *table(report, style, in_order)]
    lines += ["  " + line for part in notes(report, style) for line in wrap(part, style)]
    return lines


def title(report: ModelReport, style: Style) -> list[str]:
    """The model's path, and what became of its file."""
    text = display(report.path, 300)
    if report.former_path is not None and report.former_path != report.path:
        text = f"{display(report.former_path, 300)} {style.word('→', '->')} {text}"
    old, new = report.modes
    if old is None and new is not None:
        text += " (new)"
    elif new is None and old is not None:
        text += " (deleted)"
    elif old != new:
        text += f" (mode {old} {style.word('→', '->')} {new})"
    return [style.paint(text, "1")]


def summary(report: ModelReport, style: Style) -> list[str]:
    """What changed, in a few lines."""
    found = report.comparison
    if found is None:
        return []
    if found.same:
        return [f"no tensor changed ({found.tensors:,})"]
    counts = [
        style.paint(f"{count:,} {kind}", COLOURS[kind])
        for kind, count in found.counts.items()
        if count
    ]
    many = f"of {plural(found.tensors, 'tensor')}"
    lines = [
        (
            f"{', '.join(counts)} {many}, {found.unchanged:,} unchanged"
            if counts
            else f"no tensor changed ({found.tensors:,})"
        )
    ]
    total = report.total
    if total is not None and total.comparable:
        parts = [
            f"{total.changed:,} of {total.elements:,} elements in them changed"
            f" ({numbers.percent(total.fraction)})"
        ]
        if total.relative:
            infinite = style.word("∞", "inf")
            parts.append(
                f"{style.word('‖Δ‖/‖W‖', '|D|/|W|')} {numbers.short(total.relative, infinite)}"
            )
        lines.append(", ".join(parts))
    lines.append(_bytes(report, style))
    return [line for line in lines if line]


def alarm(report: ModelReport, style: Style) -> list[str]:
    """The tensors with findings, a red line each, under a heading; nothing if there are none."""
    if not report.alarming:
        return []
    found = health.lines(report.changes, report.results, _ALARMS, *_signs(style))
    every = [f"findings in {plural(report.alarming, 'tensor')}:", *(f"  {line}" for line in found)]
    return [style.paint(piece, _ALARM) for line in every for piece in wrap(line, style)]


def _signs(style: Style) -> tuple[str, str]:
    return style.word("×", "x"), style.word("→", "->")  # noqa: RUF001 - the sign is meant


def _bytes(report: ModelReport, style: Style) -> str:
    found = report.comparison
    assert found is not None
    parts = []
    if report.change_bytes:
        unstored = any(
            change.new and not change.new.chain and change.new.inline is None
            for change in found.changes
        )
        cost = "not stored yet" if unstored else f"stored as {size(found.stored)}"
        parts.append(f"{size(report.change_bytes)} of tensors, {cost}")
    if found.old and found.new and found.old.size != found.new.size:
        parts.append(f"file {size(found.old.size)} {style.word('→', '->')} {size(found.new.size)}")
    elif found.old is None or found.new is None:
        there = found.new or found.old
        parts.append(f"file {size(there.size)} ({there.format})" if there else "")
    if found.other_content:
        parts.append("other content of the file changed")
    if (
        found.new
        and found.new.headers.get("merge")
        and not (found.old and found.old.headers.get("merge") == found.new.headers["merge"])
    ):
        parts.append("made by a model merge")
    return "; ".join(part for part in parts if part)


def notes(report: ModelReport, style: Style) -> list[str]:
    """What could not be told, and what would help."""
    found = [style.paint(report.problem, "31")] if report.problem else []
    missing = [item for item in report.unknown if item.missing]
    unread = [item for item in report.unknown if item.reason == "not read"]
    others = [item for item in report.unknown if item not in missing and item not in unread]
    if missing:
        found.append(
            f"{plural(len(missing), 'tensor')} not measured: objects are not here ('git theta"
            " fetch' may bring them)"
        )
    if unread:
        found.append(
            f"{plural(len(unread), 'tensor')} not measured here, for they are large: 'git theta"
            " diff' measures all"
        )
    found += [f"not measured: {display(item.reason, 200)}" for item in others[:3]]
    if len(others) > 3:
        found.append(f"{style.word('…', '...')} and {len(others) - 3} more likewise")
    statistics = [result for result in report.results if isinstance(result, Statistics)]
    bad = sum(result.nonfinite for result in statistics)
    if bad:
        found.append(
            f"{plural(bad, 'element')} NaN or infinite: counted in 'changed' if the bytes differ,"
            " left out of all other numbers"
        )
    if any(result.partial for result in statistics):
        found.append("* only the rows that both versions have are compared")
    return ["", *found] if found and report.changes else found


class _Column:
    """One column: its title and cells, and how wide they are."""

    def __init__(self, title: str, right: bool, cells: tuple[str, ...]) -> None:
        self.title, self.right, self.cells = title, right, cells
        self.width = max(len(title), max(map(len, cells), default=0))


def table(report: ModelReport, style: Style, in_order: bool = False) -> list[str]:
    """The changes, one row each or folded to fit."""
    ellipsis = style.word("…", "...")
    limit = None if style.height is None else max(10, style.height - 10)
    found = report.comparison
    if limit is None and found is not None and (found.old is None or found.new is None):
        limit = _WHOLE  # every tensor of a model that came or went says little
    if in_order:
        folded = flat(report.changes, report.results, limit if style.folded else None)
    elif style.folded:
        folded = fold(report.changes, report.results, limit, ellipsis)
    else:
        folded = fold(report.changes, report.results, None, ellipsis)
    return _lines(folded, style, report.measured)


def _lines(folded: Folded, style: Style, measured: bool) -> list[str]:
    rows = list(folded.rows)
    headed = any(heading for heading, _ in rows)
    names = [("  " if heading else "") + _name(row, style) for heading, row in rows]
    columns = _columns([row for _, row in rows], style, measured)
    widest = max(map(len, names), default=0)
    headings = [len(block.heading) for block in folded.blocks]
    columns, name_width = _fit(
        columns,
        max(widest, len("tensor"), *(headings or [0])) if headed else max(widest, len("tensor")),
        style,
    )
    lines = [
        style.paint(
            _line(" ", "tensor", [column.title for column in columns], columns, name_width, style),
            "2",
        )
    ]
    number = 0
    for block in folded.blocks:
        if block.heading:
            lines.append(
                "    " + style.paint(cut(block.heading, max(10, name_width + 30), style), "1")
            )
        for row in block.rows:
            cells = [column.cells[number] for column in columns]
            kind = row.change.kind
            mark = style.paint(MARKS[kind], COLOURS[kind])
            lines.append(
                _line(
                    mark, cut(names[number], name_width, style), cells, columns, name_width, style
                )
            )
            number += 1
    if folded.left_out:
        lines.append(
            f"    {style.word('…', '...')} {plural(folded.left_out, 'more tensor')} (--all shows"
            " them)"
        )
    return lines


def _name(row: Row, style: Style) -> str:
    times = style.word("×", "x")  # noqa: RUF001 - the sign is meant
    name = f"{row.name} {times}{len(row.changes)}" if len(row.changes) > 1 else row.name
    return f"{name} {style.word('←', '<-')} {row.former}" if row.former else name


def _columns(rows: Sequence[Row], style: Style, measured: bool) -> list[_Column]:
    """What the table has beside names, the most important first."""
    delta, infinite = style.word("Δ", "D"), style.word("∞", "inf")
    columns = [
        _Column("type", False, tuple(types(row.change, style.word("→", "->")) for row in rows))
    ]
    stored = tuple(_shorter(updates(row), style) for row in rows)
    if measured:
        known = [row.statistics for row in rows]
        if any(known):
            bars = [numbers.bar(s.relative) if s and style.unicode else "" for s in known]
            relative = tuple(
                f"{numbers.short(s.relative, infinite)} {b}".rstrip() if s else _unknown(row)
                for row, s, b in zip(rows, known, bars, strict=True)
            )
            relative = tuple(
                text.rjust(max(map(len, relative))) if text else "" for text in relative
            )
            cosines = tuple(
                numbers.cosine(s.distance) if s else _unknown(row)
                for row, s in zip(rows, known, strict=True)
            )
            columns = [
                _Column(
                    "changed",
                    True,
                    tuple(_changed(row, s) for row, s in zip(rows, known, strict=True)),
                ),
                _Column(style.word("‖Δ‖/‖W‖", "|D|/|W|"), True, relative),
                _Column("cosine", True, cosines),
                *columns,
                _Column(
                    f"max |{delta}|",
                    True,
                    tuple(
                        numbers.short(s.peak, infinite) if s and s.comparable else "" for s in known
                    ),
                ),
                _Column("rank", True, tuple(_ranks(row, style) for row in rows)),
            ]
        elif any(isinstance(result, Unknown) for row in rows for result in row.results):
            columns.append(_Column("changed", True, tuple(map(_unknown, rows))))
    else:
        columns.append(
            _Column(
                "size",
                True,
                tuple(size(sum(change.entry.nbytes for change in row.changes)) for row in rows),
            )
        )
    columns.append(_Column("update", False, stored))
    columns.insert(
        0,
        _Column(
            _HEALTH,
            False,
            tuple(cut(health.words(row.findings, *_signs(style)), 32, style) for row in rows),
        ),
    )
    return [column for column in columns if any(column.cells)]


def _shorter(text: str, style: Style) -> str:
    return cut(text, 28, style)


def _ranks(row: Row, style: Style) -> str:
    """The rank of the change, or from which to which they go; nothing unless it is low in all of
    them.
    """
    every = [
        result.rank for result in row.results if isinstance(result, Statistics) and result.moved
    ]
    ranks = sorted({rank for rank in every if rank is not None})
    if not ranks or None in every:
        return ""
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}{style.word('…', '...')}{ranks[-1]}"


def _changed(row: Row, statistics: Statistics | None) -> str:
    if statistics is None:
        return _unknown(row)
    return numbers.percent(statistics.fraction) + ("*" if statistics.partial else "")


def _unknown(row: Row) -> str:
    return "?" if row.unknown else ""


# First what is missed least
_DROPPED = ("update", "rank", "max |Δ|", "max |D|", "type", "size", "cosine")
_ORDER = (
    "type",
    _HEALTH,
    "changed",
    "‖Δ‖/‖W‖",
    "|D|/|W|",
    "cosine",
    "max |Δ|",
    "max |D|",
    "rank",
    "size",
    "update",
)


def _fit(columns: Sequence[_Column], widest: int, style: Style) -> tuple[list[_Column], int]:
    """The columns that fit beside the names, from left to right as they are read, and the names'
    width.
    """
    kept = list(columns)
    if style.width is None:
        return sorted(kept, key=lambda column: _ORDER.index(column.title)), min(widest, _NAME_PIPED)
    least = min(widest, _NAME_LEAST)

    def room() -> int:
        assert style.width is not None
        return style.width - 4 - sum(column.width + len(_GAP) for column in kept)

    for title in _DROPPED:
        if room() >= min(widest, _NAME_FINE if title in ("update", "size", "type") else least):
            break
        kept = [column for column in kept if column.title != title]
    while kept and room() < least:
        kept.pop()
    return sorted(kept, key=lambda column: _ORDER.index(column.title)), max(
        8, min(widest, room(), _NAME_MOST if kept else room())
    )


def _line(
    mark: str,
    name: str,
    cells: Sequence[str],
    columns: Sequence[_Column],
    name_width: int,
    style: Style,
) -> str:
    padded = [
        cell.rjust(column.width) if column.right else cell.ljust(column.width)
        for cell, column in zip(cells, columns, strict=True)
    ]
    padded = [
        (
            style.paint(cell, _ALARM)
            if column.title == _HEALTH and cell.strip() not in ("", _HEALTH)
            else cell
        )
        for cell, column in zip(padded, columns, strict=True)
    ]
    return f"  {mark} {_GAP.join([name.ljust(name_width), *padded])}".rstrip()


def cut(text: str, width: int, style: Style) -> str:
    """``text`` in ``width`` columns; what does not fit is taken from its middle, for the ends tell
    most.
    """
    if len(text) <= width:
        return text
    dots = style.word("…", "~")
    tail = max(1, (width - 1) * 2 // 3)
    return text[: max(0, width - 1 - tail)] + dots + text[-tail:]


def stat(reports: Sequence[ModelReport], style: Style) -> list[str]:
    """One line a model: how many tensors changed how, and what that costs."""
    lines = []
    names = [
        cut(display(report.path), 60 if style.width is None else max(16, style.width - 60), style)
        for report in reports
    ]
    width = max(map(len, names), default=0)
    for report, name in zip(reports, names, strict=True):
        found = report.comparison
        if found is None:
            lines.append(f" {name.ljust(width)} | {report.problem}")
            continue
        counts = found.counts
        parts = [
            style.paint(f"{counts[kind]:,} {kind}", COLOURS[kind]) for kind in KINDS if counts[kind]
        ]
        if found.other_content and not parts:
            parts = ["other content"]
        cost = "" if found.new is None else f", {size(found.stored)} stored" if found.stored else ""
        cost += (
            ", " + style.paint(f"{report.alarming:,} with findings", _ALARM)
            if report.alarming
            else ""
        )
        lines.append(
            f" {name.ljust(width)} | {', '.join(parts) or 'unchanged'} of {found.tensors:,}{cost}"
        )
    return lines


_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def wrap(line: str, style: Style) -> list[str]:
    """``line`` in pieces that fit, broken between words; colours take no room."""
    if style.width is None or len(_ESCAPES.sub("", line)) <= style.width - 3:
        return [line]
    lines, used = [""], 0
    for word in line.split(" "):
        length = len(_ESCAPES.sub("", word))
        if used and used + 1 + length > style.width - 3:
            lines.append("  " + word)
            used = 2 + length
        else:
            lines[-1] += f" {word}" if used else word
            used += length + bool(used)
    return lines
