"""A model's history for a terminal: the log by commits, and the blame by tensors."""

from __future__ import annotations

from collections.abc import Sequence

from git_theta.core.names import display
from git_theta.core.readable import numbers
from git_theta.core.readable.numbers import size
from git_theta.reports.folding import fold, types, updates, whole
from git_theta.reports.naming import layer_order
from git_theta.reports.table import COLOURS, MARKS, Style, cut, wrap
from git_theta.workflows.comparing.blame import Origin
from git_theta.workflows.comparing.log import Step

_NAME = 60  # columns of a name that are worth more than other cells, and than a line that fits
_ROWS = 8  # lines of a commit's changes before they are cut short


def log(steps: Sequence[Step], style: Style) -> list[str]:
    """A paragraph for each commit."""
    lines: list[str] = []
    for step in steps:
        lines += [
            *([""] if lines else []),
            *_heading(step, style),
            *_what(step, style),
            *_metrics(step, style),
            *_changes(step, style),
        ]
    return lines


def _heading(step: Step, style: Style) -> list[str]:
    commit = step.commit
    head = style.paint(f"commit {commit.oid}", "33")
    who = (
        f"{display(commit.author, 60)},"
        f" {commit.date[:16].replace('T', ' ')}{' (merge)' if len(commit.parents) > 1 else ''}"
    )
    subject = display(commit.subject, 0 if style.width is None else max(20, style.width - 3))
    return [head, f"  {who}", f"  {style.paint(subject, '1')}"]


def _what(step: Step, style: Style) -> list[str]:
    found = step.comparison
    if found is None:
        return [f"  {style.paint(step.problem, '31')}"]
    if found.new is None:
        return [f"  model deleted ({found.tensors:,} tensors)"]
    counts = [
        style.paint(f"{count:,} {kind}", COLOURS[kind])
        for kind, count in _counts(step).items()
        if count
    ]
    what = f"{', '.join(counts)} of {found.tensors:,} tensors" if counts else "no tensor changed"
    if found.other_content and not counts:
        what += ", other content did"
    parts = [what]
    if step.tensor_bytes:
        parts.append(f"{size(step.tensor_bytes)} stored as {size(step.stored)}")
    how = ", ".join(f"{count:,} {update}" for update, count in step.updates.items())
    if how:
        parts.append(how)
    return ["  " + line for line in wrap("; ".join(parts), style)]


def _metrics(step: Step, style: Style) -> list[str]:
    return (
        ["  " + line for line in wrap(numbers.metrics(step.metrics), style)] if step.metrics else []
    )


def _counts(step: Step) -> dict[str, int]:
    found: dict[str, int] = {}
    for change in step.changes:
        found[change.kind] = found.get(change.kind, 0) + 1
    return found


def _changes(step: Step, style: Style) -> list[str]:
    if step.comparison is None or step.comparison.new is None or not step.changes:
        return []
    if step.comparison.old is None and len(step.changes) > _ROWS:
        return []
    ellipsis = style.word("…", "...")
    folded = fold(
        step.changes, [None] * len(step.changes), _ROWS if style.folded else None, ellipsis
    )
    room = 100 if style.width is None else style.width
    lines = []
    for block in folded.blocks:
        for row in block.rows:
            name = whole(block.heading, row)
            times = (
                f" {style.word(chr(0xD7), 'x')}{len(row.changes)}" if len(row.changes) > 1 else ""
            )
            former = f" {style.word('←', '<-')} {row.former}" if row.former else ""
            tail = f"  {types(row.change, style.word('→', '->'))}  {updates(row)}".rstrip()
            mark = style.paint(MARKS[row.change.kind], COLOURS[row.change.kind])
            lines.append(
                f"    {mark}"
                f" {cut(name + times + former, max(20, room - 7 - len(tail)), style)}{tail}"
            )
    if folded.left_out:
        lines.append(f"    {ellipsis} {folded.left_out:,} more (--all shows them)")
    return lines


def blame(origins: Sequence[Origin], style: Style) -> list[str]:
    """A line for each tensor: commit, author, date, how it was stored then, type, name; layers in
    order of their numbers. If names do not fit, how, type and author make room for them.
    """
    origins = [origins[index] for index in layer_order([one.entry.name for one in origins])]
    names = [
        " = ".join(map(display, (origin.entry.name, *origin.entry.aliases[:3])))
        for origin in origins
    ]
    columns = {
        "commit": [origin.commit.oid[:8] for origin in origins],
        "author": [display(origin.commit.author, 18) for origin in origins],
        "date": [origin.commit.date[:10] for origin in origins],
        "update": [cut(numbers.update(origin.then), 24, style) for origin in origins],
        "type": [str(origin.entry.spec) for origin in origins],
    }
    widths = {key: max(map(len, cells), default=0) for key, cells in columns.items()}
    widest = max(map(len, names), default=0)

    def room() -> int:
        return 200 if style.width is None else style.width - sum(widths.values()) - 2 * len(widths)

    for key in ("update", "type", "author"):
        if room() >= min(widest, _NAME):
            break
        del columns[key], widths[key]
    lines = []
    previous = ""
    for number, name in enumerate(names):
        cells = {key: columns[key][number].ljust(widths[key]) for key in columns}
        oid = cells.pop("commit")
        who = "  ".join(cells.pop(key) for key in ("author", "date") if key in cells)
        dim = "2" if oid == previous else "33"
        previous = oid
        rest = "  ".join([*cells.values(), cut(name, max(_NAME, room()), style)])
        lines.append(f"{style.paint(oid, dim)} ({who}) {rest}")
    return lines
