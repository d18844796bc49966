"""A diff as GitHub-flavoured Markdown, for a comment in a review.

Names stay text: nothing in them is a link, a mention, markup or HTML.
"""

from __future__ import annotations

import re

from git_theta.core.names import display
from git_theta.core.readable import numbers
from git_theta.reports import health
from git_theta.reports.folding import Folded, Row, fold, types, updates, whole
from git_theta.reports.report import ModelReport, Report
from git_theta.reports.table import Style, notes, summary
from git_theta.workflows.comparing.movement import Statistics

MARKER = "<!-- git-theta diff -->"  # by which a workflow finds its earlier comment
_STYLE = Style()
_ROWS = 30  # rows of a model that are shown at once
_HIDDEN = 200  # rows behind "all changes"
_LIMIT = 60_000  # characters; forges refuse comments of more than 65,536
_NAME = 100
_ALARMS = 20  # tensors with findings that are listed
_MARKS = {
    "added": "➕",  # noqa: RUF001 - the sign is meant
    "removed": "➖",  # noqa: RUF001 - the sign is meant
    "modified": "",
    "renamed": "renamed",
    "reshaped": "reshaped",
    "retyped": "type",
}


def diff(report: Report) -> str:
    """The comment."""
    head = f"{MARKER}\n### Models: {code(report.old)} → {code(report.new)}\n"
    if not report.models:
        return f"{head}\nNo model changed.\n"
    parts, room = [head], _LIMIT - len(head)
    for number, model in enumerate(report.models):
        for text in (_model(model, _HIDDEN), _model(model, 0), _model(model, 0, rows=8)):
            if len(text) <= room:
                break
        else:
            parts.append(f"\n… and {len(report.models) - number} more models\n")
            break
        parts.append(text)
        room -= len(text)
    return "".join(parts)


def _model(report: ModelReport, hidden: int, rows: int = _ROWS) -> str:
    title = code(report.path)
    if report.former_path is not None:
        title = f"{code(report.former_path)} → {title}"
    old, new = report.modes
    title += (
        " (new)"
        if old is None and new is not None
        else " (deleted)"
        if new is None and old is not None
        else ""
    )
    lines = ["", f"#### {title}", ""]
    lines += [plain(line) + "  " for line in summary(report, _STYLE)]
    lines += _alarm(report)
    if report.changes:
        lines += ["", *_table(fold(report.changes, report.results, rows), report.measured)]
        if hidden and len(report.changes) > 1:
            whole = fold(report.changes, report.results, None)
            count = sum(len(block.rows) for block in whole.blocks)
            if (
                len(report.changes)
                > sum(
                    len(block.rows) for block in fold(report.changes, report.results, rows).blocks
                )
                and count <= hidden
            ):
                lines += [
                    "",
                    f"<details><summary>All {count:,} tensors</summary>",
                    "",
                    *_table(whole, report.measured),
                    "",
                    "</details>",
                ]
    lines += [plain(line) + "  " for line in notes(report, _STYLE) if line]
    return "\n".join([*lines, ""])


def _alarm(report: ModelReport) -> list[str]:
    if not report.alarming:
        return []
    many = f"{report.alarming:,} tensor{'s' if report.alarming > 1 else ''}"
    # The sign is meant
    found = health.lines(report.changes, report.results, _ALARMS, "×", "→")  # noqa: RUF001 - a times sign
    return ["", f"**⚠️ Findings in {many}:**", "", *(f"- {plain(line)}" for line in found)]


def _table(folded: Folded, measured: bool) -> list[str]:
    rows = [(whole(heading, row), row) for heading, row in folded.rows]
    ranked = any(row.statistics and row.statistics.rank for _, row in rows)
    alarming = any(row.findings for _, row in rows)
    titles = (
        ["tensor", "type"]
        + (["health"] if alarming else [])
        + (["changed", "‖Δ‖/‖W‖", "cosine", "max \\|Δ\\|"] if measured else [])
        + (["rank"] if measured and ranked else [])
        + ["update"]
    )
    lines = [
        f"| {' | '.join(titles)} |",
        "|"
        + "|".join(
            "---" if title in ("tensor", "type", "health", "update") else "--:" for title in titles
        )
        + "|",
    ]
    for name, row in rows:
        lines.append(f"| {' | '.join(_cells(name, row, measured, ranked, alarming))} |")
    if folded.left_out:
        lines.append(f"| … {folded.left_out:,} more {'|' * (len(titles) - 1)} |")
    return lines


def _cells(name: str, row: Row, measured: bool, ranked: bool, alarming: bool) -> list[str]:
    mark = _MARKS[row.change.kind]
    # The sign is meant
    times = f" ×{len(row.changes)}" if len(row.changes) > 1 else ""  # noqa: RUF001 - a times sign
    former = f" ← {code(row.former, escaped=True)}" if row.former else ""
    cells = [
        f"{mark} {code(name, escaped=True)}{times}{former}".strip(),
        code(types(row.change, "→"), escaped=True),
    ]
    if alarming:
        found = health.words(row.findings, "×", "→")  # noqa: RUF001 - the sign is meant
        cells.append(f"⚠️ **{found}**" if found else "")
    if measured:
        cells += _numbers(row.statistics, bool(row.unknown), ranked)
    return [*cells, code(updates(row), escaped=True) if updates(row) else ""]


def _numbers(found: Statistics | None, unknown: bool, ranked: bool) -> list[str]:
    rank = [str(found.rank) if found and found.rank else ""] if ranked else []
    if found is None:
        return [*3 * ["?" if unknown else ""], "", *rank]
    largest = numbers.short(found.peak, "∞") if found.comparable else ""
    return [
        numbers.percent(found.fraction),
        numbers.short(found.relative, "∞"),
        numbers.cosine(found.distance),
        largest,
        *rank,
    ]


def code(text: str, escaped: bool = False) -> str:
    """``text`` as a code span that stands in a table too: no character in it means anything."""
    shown = text if escaped else display(text)
    if len(shown) > _NAME:
        shown = f"{shown[: _NAME // 3]}…{shown[-2 * _NAME // 3 :]}"
    shown = shown.replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    gap = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{gap}{shown}{gap}{fence}"


def plain(text: str) -> str:
    """``text`` (of ours, with names of a user's in it) as a line of prose."""
    return re.sub(r"[\\`*_\[\]<>#|~&@:$]|^[-+=\s]", lambda match: f"&#{ord(match[0])};", text)
