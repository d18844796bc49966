"""A diff or a history as one HTML file with figures.

It needs nothing from the network, and runs nothing but its own script.

All data stands in the file as JSON; the script makes text nodes of it, never markup. Names are
escaped as everywhere, so no character in them can hide or turn round what stands beside it. A
content security policy that names the hashes of script and style keeps anything else from running.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

from git_theta import __version__
from git_theta.core import dtypes
from git_theta.core.manifest import Entry
from git_theta.core.names import display
from git_theta.core.readable import numbers
from git_theta.reports import health
from git_theta.reports.folding import noted, types
from git_theta.reports.naming import KINDS, ModelPlace, layer_order, place
from git_theta.reports.report import ModelReport, Report
from git_theta.reports.table import Style, notes
from git_theta.workflows.comparing.compare import TensorChange
from git_theta.workflows.comparing.log import Step
from git_theta.workflows.comparing.movement import Statistics, together
from git_theta.workflows.comparing.statistics import Result, Unknown

_Item = TypeVar("_Item")
_NAME = 240  # characters of a name
_COLUMNS = 400  # of a figure
_ROWS = 60
_TIMELINE = 120  # commits in the time line
_ROW = (
    "name", "former", "kind", "part", "type", "update", "bytes", "stored",
    "elements", "changed", "fraction", "relative", "distance", "largest", "rank", "cell", "health",
    "unknown",
)  # fmt: skip


def diff(report: Report) -> str:
    """The page of a diff.

    Heat maps show unchanged layers too where the models' ``entries`` are given.
    """
    title = report.models[0].path if len(report.models) == 1 else f"{len(report.models):,} models"
    data = {"columns": _ROW, "models": [_model(model) for model in report.models]}
    ends = zip((report.old, report.new), report.ids, strict=True)
    what = " → ".join(_end(name, commit) for name, commit in ends)
    return _page(display(title, 200), what, data, ("figures.js", "diff.js"), _DEFINITIONS)


def _end(name: str, commit: str) -> str:
    """A side as the user called it, with its id if that was another name."""
    shown = display(name, 100)
    return f"{shown} ({commit[:12]})" if commit and not commit.startswith(name) else shown


def log(path: str, steps: Sequence[Step]) -> str:
    """The page of a history, from newest to oldest step."""
    data = {
        "steps": [_step(number, step) for number, step in enumerate(steps)],
        "timeline": _timeline(steps),
    }
    what = f"{len(steps):,} commits" if len(steps) != 1 else "1 commit"
    return _page(
        display(path, 200), f"history, {what}", data, ("figures.js", "log.js"), _LOG_DEFINITIONS
    )


_DEFINITIONS = """<dl><dt>W, Δ</dt><dd>the old values of a tensor, and the new ones minus the old \
ones, in float64</dd>
<dt>‖Δ‖/‖W‖</dt><dd>relative change: Frobenius norms; of a cell, of all its changed \
tensors as if they were one</dd>
<dt>changed</dt><dd>share of elements whose bytes differ</dd>
<dt>rank</dt><dd>numerical rank of Δ, told where it is at most 64 and a quarter of the \
smaller side</dd>
<dt>health</dt><dd>elements that became NaN or infinite, rows and channels that became zero, rows \
that were lost, another element type,
a norm more than 10 times larger or smaller. Other numbers are of finite elements</dd></dl>"""
_LOG_DEFINITIONS = (
    "<p>Told by manifests: no tensor was read. <i>Stored</i> are bytes of objects that no earlier"
    " commit needed.</p>"
)


def _page(title: str, subtitle: str, data: object, scripts: Sequence[str], definitions: str) -> str:
    style = _asset("page.css")
    script = "\n".join(map(_asset, scripts))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri"
        " 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="git-theta {html.escape(__version__)}">
<title>{html.escape(title)}: {html.escape(subtitle)}</title>
<style>{style}</style>
</head>
<body>
<header class="top"><div><h1 class="mono">{html.escape(title)}</h1>\
<div class="sub">{html.escape(subtitle)}</div></div>
<button id="theme" type="button">Light / dark</button></header>
<main><noscript><p>The figures and tables of this page are drawn by a script, which this \
browser does not run.</p></noscript></main>
<footer>{definitions}<p>Made by Git-Theta {html.escape(__version__)}.</p></footer>
<script type="application/json" id="data">{_json(data)}</script>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files("git_theta.reports").joinpath("assets", name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode(
        "ascii"
    )


def _json(data: object) -> str:
    """JSON that can stand in a script element: nothing in it ends one."""
    return (
        json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
    )


def _name(text: str) -> str:
    shown = display(text)
    return shown if len(shown) <= _NAME else f"{shown[: _NAME // 3]}…{shown[-2 * _NAME // 3 :]}"


def _number(value: float | None) -> float | str | None:
    """A float as JSON has it, with seven digits; ``inf`` for infinity and ``nan`` for NaN."""
    if value is None:
        return None
    if math.isnan(value):
        return "nan"
    return "inf" if math.isinf(value) else float(f"{value:.7g}")


# The page of a diff


def _model(report: ModelReport) -> dict[str, Any]:
    found = report.comparison
    panels = _Panels(report)
    total = report.total
    return {
        "path": _name(report.path),
        "former": _name(report.former_path) if report.former_path is not None else None,
        "problem": display(report.problem, 400) if report.problem else "",
        "tensors": found.tensors if found else 0,
        "counts": dict(found.counts) if found else {},
        "notes": _notes(report),
        "alarming": report.alarming,
        "measured": report.measured and total is not None,
        "total": _summed(total) if total else None,
        "bytes": report.change_bytes,
        "stored": found.stored if found else 0,
        "panels": panels.panels(),
        "histograms": _histograms(report),
        "rows": [
            _row(report.changes[index], report.results[index], panels)
            for index in layer_order([change.name for change in report.changes])
        ],
    }


def _notes(report: ModelReport) -> list[str]:
    lines = [line for line in notes(report, Style()) if line and line != report.problem]
    if report.comparison and report.comparison.other_content:
        lines.append("Other content of the file changed too.")
    return lines


def _row(change: TensorChange, result: Result, panels: _Panels) -> list[Any]:
    found = result if isinstance(result, Statistics) else None
    known = found if found is not None and found.comparable else None
    return [
        _name(change.name),
        _name(change.former_name) if change.former_name is not None else None,
        change.kind,
        place(change.name).kind,
        types(change, "→"),
        noted(change.new) if change.new else "",
        change.entry.nbytes,
        change.new.chain[0].size if change.new and change.new.chain else None,
        change.elements,
        found.changed if found else None,
        _number(found.fraction) if found else None,
        _number(known.relative) if known else None,
        _number(known.distance) if known else None,
        _number(known.peak) if known else None,
        known.rank if known else None,
        panels.cell(change.name),
        _health([(change, result)]),
        display(result.reason, 200) if isinstance(result, Unknown) else "",
    ]


def _health(pairs: Iterable[tuple[TensorChange, Result]]) -> str:
    found = health.together(health.findings(change, result) for change, result in pairs)
    return health.words(found, "×", "→")  # noqa: RUF001 - the sign is meant


def _summed(found: Statistics) -> dict[str, Any]:
    known = found if found.comparable else None
    return {
        "elements": found.elements,
        "changed": found.changed,
        "fraction": _number(found.fraction),
        "relative": _number(known.relative) if known else None,
        "distance": _number(known.distance) if known else None,
        "largest": _number(known.peak) if known else None,
    }


@dataclass(slots=True)
class _Cell:
    tensors: int = 0
    elements: int = 0
    stored: int = 0
    changes: int = 0
    results: list[Statistics] | None = None
    alarming: list[tuple[TensorChange, Result]] | None = None


class _Panels:
    """Where each tensor stands in the heat maps: one for each stack of layers, and one for what is
    in no layer.
    """

    def __init__(self, report: ModelReport) -> None:
        self._cells: dict[tuple[str, tuple[int, ...], str], _Cell] = defaultdict(_Cell)
        changes = {
            change.name: (change, result)
            for change, result in zip(report.changes, report.results, strict=True)
        }
        for entry in report.entries:
            if entry.name not in changes:
                self._add(entry)
            else:
                self._add_change(*changes.pop(entry.name))
        for change, result in changes.values():
            self._add_change(change, result)
        self._places = self._arrange()

    def _add_change(self, change: TensorChange, result: Result) -> None:
        cell = self._add(change.entry)
        cell.changes += 1
        cell.stored += (
            change.new.chain[0].size
            if change.new and change.new.chain and change.kind != "renamed"
            else 0
        )
        if isinstance(result, Statistics):
            cell.results = [*(cell.results or ()), result]
        if health.findings(change, result):
            cell.alarming = [*(cell.alarming or ()), (change, result)]

    def _add(self, entry: Entry) -> _Cell:
        cell = self._cells[_address(place(entry.name))]
        cell.tensors += 1
        cell.elements += dtypes.count(entry.shape)
        return cell

    def _arrange(self) -> dict[str, tuple[int, dict[tuple[int, ...], int], dict[str, int]]]:
        """Stack → its number, its columns, its rows.

        Stacks of layers in the order of their names, the rest last.
        """
        stacks: dict[str, tuple[set[tuple[int, ...]], dict[str, None]]] = defaultdict(
            lambda: (set(), {})
        )
        for stack, column, kind in self._cells:
            stacks[stack][0].add(column)
            stacks[stack][1][kind] = None
        arranged = {}
        for number, stack in enumerate(sorted(stacks, key=lambda stack: (stack == "", stack))):
            columns, kinds = stacks[stack]
            rows = sorted(kinds, key=KINDS.index) if stack else list(kinds)[:_ROWS]
            arranged[stack] = number, _numbered(sorted(columns)[:_COLUMNS]), _numbered(rows)
        return arranged

    def cell(self, name: str) -> list[int]:
        """Panel, column and row of a tensor; -1 where it is in none."""
        stack, column, kind = _address(place(name))
        number, columns, kinds = self._places[stack]
        return [number, columns.get(column, -1), kinds.get(kind, -1)]

    def panels(self) -> list[dict[str, Any]]:
        """The heat maps."""
        found = []
        for stack, (_, columns, kinds) in self._places.items():
            cells = [
                {"column": columns[column], "row": kinds[kind], **_cell_data(cell)}
                for (where, column, kind), cell in self._cells.items()
                if where == stack and column in columns and kind in kinds
            ]
            names = [".".join(map(str, column)) for column in columns]
            title = (
                f"{_name(stack)}.{{{names[0]}…{names[-1]}}}"
                if stack and len(names) > 1
                else _name(stack)
                if stack
                else "outside of layers"
            )
            rows = list(kinds) if stack else [_name(kind) for kind in kinds]
            found.append(
                {
                    "title": title,
                    "unit": "layer" if stack else "",
                    "columns": names,
                    "rows": rows,
                    "cells": cells,
                }
            )
        return found


def _numbered(items: Sequence[_Item]) -> dict[_Item, int]:
    return {item: number for number, item in enumerate(items)}


def _address(where: ModelPlace) -> tuple[str, tuple[int, ...], str]:
    """Stack, column and row. What is in no layer has a row for its module instead."""
    return (
        (where.stack or "layers", where.layer, where.kind)
        if where.layer
        else ("", (), where.module or where.rest)
    )


def _cell_data(cell: _Cell) -> dict[str, Any]:
    total = together(cell.results or ())
    measured = _summed(total) if total else {"relative": None, "distance": None, "largest": None}
    fraction = total.changed / cell.elements if total and cell.elements else None
    return {
        "tensors": cell.tensors,
        "changed": cell.changes,
        "stored": cell.stored,
        "fraction": _number(fraction),
        "relative": measured["relative"],
        "distance": measured["distance"],
        "largest": measured["largest"],
        "health": _health(cell.alarming or ()),
    }


def _histograms(report: ModelReport) -> list[dict[str, Any]]:
    """How Δ is spread, for all together and for each kind of tensor."""
    kinds: dict[str, list[Statistics]] = defaultdict(list)
    for change, result in zip(report.changes, report.results, strict=True):
        if isinstance(result, Statistics) and result.histogram is not None:
            kinds[place(change.name).group].append(result)
    if not kinds:
        return []
    every = [result for results in kinds.values() for result in results]
    groups = [("all", every)] if len(kinds) > 1 else []
    groups += sorted(kinds.items(), key=lambda item: -sum(result.elements for result in item[1]))[
        :8
    ]
    return [_histogram(title, results) for title, results in groups]


def _histogram(title: str, results: Iterable[Statistics]) -> dict[str, Any]:
    total = together(list(results))
    assert total is not None
    bins = total.histogram or ()
    moved = sum(negative + positive for _, negative, positive in bins)
    return {
        "title": title,
        "bins": [list(item) for item in bins],
        "elements": total.elements,
        "zero": max(0, total.elements - total.nonfinite - moved),
    }


# The page of a history


def _step(number: int, step: Step) -> dict[str, Any]:
    commit, found = step.commit, step.comparison
    counts: dict[str, int] = defaultdict(int)
    for change in step.changes:
        counts[change.kind] += 1
    if found is None:
        what = display(step.problem, 200)
    elif found.new is None:
        what = "model deleted"
    else:
        what = ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or (
            "other content" if found.other_content else "no tensor changed"
        )
    if step.metrics:
        what += f"; {numbers.metrics(step.metrics)}"
    return {
        "index": number,
        "commit": commit.oid,
        "date": display(commit.date, 40),
        "author": display(commit.author, 80),
        "subject": display(commit.subject, 200),
        "merge": len(commit.parents) > 1,
        "what": what,
        "how": ", ".join(f"{count:,} {update}" for update, count in step.updates.items()),
        "bytes": step.tensor_bytes,
        "stored": step.stored,
        "size": found.new.size if found and found.new else 0,
    }


def _timeline(steps: Sequence[Step]) -> dict[str, Any]:
    """The newest commits, oldest first, by layers: what share of a layer's bytes each changed, and
    how that is stored.
    """
    chosen = list(range(min(len(steps), _TIMELINE)))[::-1]
    cells: dict[tuple[int, tuple[Any, ...]], list[TensorChange]] = defaultdict(list)
    whole: dict[tuple[Any, ...], dict[str, int]] = defaultdict(dict)
    for column, number in enumerate(chosen):
        for change in steps[number].changes:
            layer = _layer(change.name)
            whole[layer][change.name] = change.entry.nbytes
            cells[column, layer].append(change)
    layers = sorted(whole)[:_COLUMNS]
    index = {layer: row for row, layer in enumerate(layers)}
    return {
        "commits": chosen,
        "rows": [_layer_title(layer) for layer in layers],
        "cells": [
            {"column": column, "row": index[layer], **_timeline_cell(changes, whole[layer])}
            for (column, layer), changes in cells.items()
            if layer in index
        ],
    }


def _layer(name: str) -> tuple[Any, ...]:
    """What a row of the time line stands for: a layer, or a kind of tensor outside them."""
    where = place(name)
    return (
        (1, where.stack, where.layer)
        if where.layer
        else (0 if where.group == "embedding" else 2, where.group, ())
    )


def _layer_title(layer: tuple[Any, ...]) -> str:
    first, stack, numbers_ = layer
    return (
        _name(stack) if first != 1 else f"{_name(stack)}.{'.'.join(map(str, numbers_))}".lstrip(".")
    )


def _timeline_cell(changes: Sequence[TensorChange], whole: dict[str, int]) -> dict[str, Any]:
    moved = [change for change in changes if change.kind != "renamed"]
    sizes: dict[str, int] = defaultdict(int)
    for change in moved:
        how = (
            change.new.chain[0].update
            if change.new and change.new.chain
            else "inline"
            if change.new
            else "removed"
        )
        sizes[how] += change.entry.nbytes
    total = sum(whole.values())
    return {
        "tensors": len(whole),
        "changed": len(changes),
        "share": _number(sum(change.entry.nbytes for change in moved) / total if total else 0.0),
        "stored": sum(
            change.new.chain[0].size for change in moved if change.new and change.new.chain
        ),
        "update": max(sizes, key=lambda name: sizes[name]) if sizes else "renamed",
    }
