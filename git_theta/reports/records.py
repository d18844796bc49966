"""Reports as data: JSON for programs, CSV for spreadsheets. Specified in ``docs/diff.md``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from git_theta.core.manifest import Entry
from git_theta.core.names import display
from git_theta.core.readable import numbers
from git_theta.reports import health
from git_theta.reports.naming import place
from git_theta.reports.report import ModelReport, Report
from git_theta.workflows.comparing.blame import Origin
from git_theta.workflows.comparing.compare import TensorChange
from git_theta.workflows.comparing.log import Step
from git_theta.workflows.comparing.movement import Statistics
from git_theta.workflows.comparing.statistics import Result, Unknown

VERSION = 1
_COLUMNS = (
    "model", "tensor", "kind", "former_name", "old_dtype", "old_shape", "new_dtype", "new_shape",
    "update", "stored_bytes",
    "elements", "changed", "fraction", "norm_old", "norm_new", "norm_change", "relative_change",
    "cosine", "max_change", "rank",
    "nonfinite", "note", "findings",
)  # fmt: skip


def as_json(report: Report) -> str:
    """The whole report. What is infinite or not defined is null: JSON has no such numbers."""
    data = {
        "version": VERSION,
        "old": report.old,
        "new": report.new,
        "models": [model_data(model) for model in report.models],
    }
    return json.dumps(data, indent=1, allow_nan=False)


def model_data(report: ModelReport) -> dict[str, Any]:
    """One model as JSON values."""
    found = report.comparison
    data: dict[str, Any] = {
        "path": report.path,
        "former_path": report.former_path,
        "old_mode": report.modes[0],
        "new_mode": report.modes[1],
        "problem": report.problem or None,
    }
    if found is None:
        return data
    total = report.total
    return data | {
        "old": {"format": found.old.format, "size": found.old.size} if found.old else None,
        "new": {"format": found.new.format, "size": found.new.size} if found.new else None,
        "tensors": found.tensors,
        "unchanged": found.unchanged,
        "counts": dict(found.counts),
        "other_content_changed": found.other_content,
        "stored_bytes": found.stored,
        "measured": report.measured,
        "tensors_with_findings": report.alarming,
        "together": statistics_data(total) if total else None,
        "changes": [
            change_data(change, result)
            for change, result in zip(report.changes, report.results, strict=True)
        ],
    }


def change_data(change: TensorChange, result: Result) -> dict[str, Any]:
    """One tensor's change as JSON values."""
    where = place(change.name)
    return {
        "name": change.name,
        "former_name": change.former_name,
        "aliases": list(change.entry.aliases),
        "kind": change.kind,
        "layer": list(where.layer),
        "part": where.kind,
        "old": _entry(change.old),
        "new": _entry(change.new),
        "statistics": statistics_data(result) if isinstance(result, Statistics) else None,
        "unknown": result.reason if isinstance(result, Unknown) else None,
        "findings": [_finding(finding) for finding in health.findings(change, result)],
    }


def _finding(finding: health.Finding) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": finding.kind, "count": finding.count, "text": finding.text}
    if finding.kind == "norm":
        data["factor"] = _finite(finding.factor)
    return data


def _entry(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "size": entry.nbytes,
        "digest": entry.digest,
        "update": numbers.update(entry) or None,
        "stored_bytes": entry.chain[0].size if entry.chain else 0,
    }


def statistics_data(found: Statistics) -> dict[str, Any]:
    """The numbers of one tensor as JSON values."""
    data: dict[str, Any] = {
        "elements": found.elements,
        "changed": found.changed,
        "fraction": found.fraction,
        "nonfinite": found.nonfinite,
        "new_nan": found.new_nan,
        "new_inf": found.new_inf,
        "zero_rows": found.zero_rows,
        "zero_channels": found.zero_channels,
        "partial": found.partial,
    }
    if found.comparable:
        data |= {
            "norm_old": _finite(found.norm),
            "norm_new": _finite(found.norm_new),
            "norm_change": _finite(found.moved),
            "relative_change": _finite(found.relative),
            "cosine": _finite(found.cosine),
            "cosine_distance": _finite(found.distance),
            "max_change": _finite(found.peak),
            "rank": found.rank,
        }
    if found.histogram is not None:
        data["histogram"] = [list(bin_) for bin_ in found.histogram]
    return data


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def as_csv(report: Report) -> str:
    """A row for each tensor that changed, with a header.

    Names are escaped as everywhere; one that a spreadsheet would take for a formula gets a
    quotation mark in front.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for model in report.models:
        for change, result in zip(model.changes, model.results, strict=True):
            writer.writerow(_row(model.path, change, result))
    return target.getvalue()


def _row(path: str, change: TensorChange, result: Result) -> list[object]:
    found = result if isinstance(result, Statistics) else None
    known = found if found is not None and found.comparable else None
    return [
        _text(path),
        _text(change.name),
        change.kind,
        _text(change.former_name) if change.former_name is not None else "",
        *(
            field
            for entry in (change.old, change.new)
            for field in ((entry.dtype, "x".join(map(str, entry.shape))) if entry else ("", ""))
        ),
        numbers.update(change.new) if change.new else "",
        change.new.chain[0].size if change.new and change.new.chain else "",
        *((found.elements, found.changed, found.fraction) if found else ("", "", "")),
        *((known.norm, known.norm_new, known.moved, known.relative) if known else ("", "", "", "")),
        known.cosine if known and known.cosine is not None else "",
        known.peak if known else "",
        known.rank if known and known.rank is not None else "",
        found.nonfinite if found else "",
        _text(result.reason) if isinstance(result, Unknown) else "",
        health.words(health.findings(change, result)),
    ]


def _text(text: str) -> str:
    shown = display(text)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def log_as_json(path: str, steps: Sequence[Step]) -> str:
    """A model's log."""
    return json.dumps(
        {"version": VERSION, "path": path, "commits": [step_data(step) for step in steps]},
        indent=1,
        allow_nan=False,
    )


def step_data(step: Step) -> dict[str, Any]:
    """One commit as JSON values."""
    commit, found = step.commit, step.comparison
    data: dict[str, Any] = {
        "commit": commit.oid,
        "parents": list(commit.parents),
        "author": commit.author,
        "email": commit.email,
        "date": commit.date,
        "subject": commit.subject,
        "path": commit.path,
        "problem": step.problem or None,
        "metrics": {name: _finite(value) for name, value in step.metrics.items()},
    }
    if found is None:
        return data
    return data | {
        "tensors": found.tensors if found.new else 0,
        "unchanged": found.unchanged,
        "counts": dict(found.counts),
        "updates": step.updates,
        "other_content_changed": found.other_content,
        "tensor_bytes": step.tensor_bytes,
        "stored_bytes": step.stored,
        "changes": [
            {
                "name": c.name,
                "former_name": c.former_name,
                "kind": c.kind,
                "old": _entry(c.old),
                "new": _entry(c.new),
            }
            for c in step.changes
        ],
    }


def blame_as_json(path: str, origins: Sequence[Origin]) -> str:
    """A model's blame: the tensors in the file's order, the commits by id."""
    commits = {
        origin.commit.oid: {
            "author": origin.commit.author,
            "email": origin.commit.email,
            "date": origin.commit.date,
            "subject": origin.commit.subject,
            "path": origin.commit.path,
        }
        for origin in origins
    }
    tensors = [
        {
            "name": origin.entry.name,
            "aliases": list(origin.entry.aliases),
            "dtype": origin.entry.dtype,
            "shape": list(origin.entry.shape),
            "digest": origin.entry.digest,
            "commit": origin.commit.oid,
            "name_then": origin.then.name,
            "update": numbers.update(origin.then) or None,
        }
        for origin in origins
    ]
    return json.dumps(
        {"version": VERSION, "path": path, "commits": commits, "tensors": tensors},
        indent=1,
        allow_nan=False,
    )
