"""Findings: what is harm is never shown as harmless, in any report."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import pytest
from making import HOSTILE, entry, manifest, modified, report, statistics

from git_theta.reports import health, markdown, page, records, table
from git_theta.reports.health import Finding, findings
from git_theta.reports.report import ModelReport, Report, ordered
from git_theta.reports.table import Style
from git_theta.workflows.comparing.compare import TensorChange, compare
from git_theta.workflows.comparing.movement import Statistics, together
from git_theta.workflows.comparing.statistics import Result, Searched, Unknown

FINE = statistics()
STILL = Statistics(4096, 1, 1, 3.0, 3.0, 0.0, math.nan, 0.0, comparable=True, new_nan=1)
SAME = TensorChange("modified", entry("w"), entry("w", 1))


@pytest.mark.parametrize(("change", "result", "wanted"), [
    (SAME, FINE, []),
    (SAME, None, []),
    (SAME, STILL, ["1 new NaN"]),
    (SAME, replace(FINE, new_nan=1200, new_inf=2), ["1,200 new NaN", "2 new Inf"]),
    (SAME, replace(FINE, nonfinite=5), []),  # were there before
    (SAME, replace(FINE, zero_rows=1), ["1 row zeroed"]),
    (SAME, replace(FINE, zero_rows=2, zero_channels=3), ["2 rows zeroed", "3 dead channels"]),
    (TensorChange("reshaped", entry("w", 0, (100, 64)), entry("w", 1, (90, 64))),
     replace(FINE, partial=True), ["10 rows lost"]),
    (TensorChange("reshaped", entry("w", 0, (90, 64)), entry("w", 1, (100, 64))),
     replace(FINE, partial=True), []),
    (TensorChange("reshaped", entry("w", 0, (90, 64)), entry("w", 1, (90, 60))),
     Unknown("?", read=True), ["360 elements lost"]),
    (TensorChange("reshaped", entry("w", 0, (9, 6)), entry("w", 1, (9, 7))),
     Unknown("?", read=True, new_inf=1), ["1 new Inf"]),
    (TensorChange("retyped", entry("w"), entry("w", 1, dtype="bf16")), FINE, ["f32 -> bf16"]),
    (TensorChange("retyped", entry("w"), entry("w", 1, dtype="q8_0")),
     Unknown("cannot be compared", read=True), ["f32 -> q8_0"]),
    (SAME, replace(FINE, norm_new=30.0), []),
    (SAME, replace(FINE, norm_new=30.1), ["norm x10"]),
    (SAME, replace(FINE, norm_new=0.29), ["norm x0.0967"]),
    (SAME, replace(FINE, norm=0.0), []),  # what was zero has no factor
    (SAME, replace(FINE, norm_new=300.0, elements=15), []),
    (TensorChange("modified", entry("w", dtype="i32"), entry("w", 1, dtype="i32")),
     replace(FINE, norm_new=300.0), []),
    (TensorChange("added", None, entry("w")), Searched(0, 0), []),
    (TensorChange("added", None, entry("w")), Searched(1, 2), ["1 new NaN", "2 new Inf"]),
    (TensorChange("removed", entry("w"), None), None, []),
])  # fmt: skip
def test_what_is_a_finding(change: TensorChange, result: Result, wanted: list[str]) -> None:
    assert [finding.text for finding in findings(change, result)] == wanted


def test_only_a_nan_that_came_in_is_no_change_of_zero() -> None:
    assert math.isnan(STILL.relative or 0)
    both = together(
        [STILL, Statistics(10, 0, comparable=True, norm=1.0, norm_new=1.0, distance=0.0)]
    )
    assert both is not None
    assert math.isnan(both.relative or 0)
    assert math.isnan(both.distance or 0)
    moved = together([STILL, FINE])
    assert moved is not None
    assert moved.relative == pytest.approx(1e-3 / math.sqrt(2))
    assert moved.new_nan == 1


def test_several_tensors_in_a_line() -> None:
    found = health.together([
        [Finding("norm", 1, factor=20.0)], [Finding("norm", 1, factor=0.01), Finding("nan", 3)], [],
        [Finding("nan", 2)],
    ])  # fmt: skip
    # The sign is meant
    assert health.words(found, "×", "→") == "5 new NaN, norm ×0.01"  # noqa: RUF001 - a times sign


def harmed() -> ModelReport:
    names = [f"h.{number}.attn.weight" for number in range(40)]
    return report(modified(names), [STILL if number == 31 else FINE for number in range(40)])


@pytest.mark.parametrize(
    "style",
    [
        Style(),
        Style(60, 24, True),
        Style(100, 24, True, False),
        Style(None, None, False, True, False),
    ],
)
def test_a_table_shows_them_in_red(style: Style) -> None:
    lines = table.model(harmed(), style)
    told = [line for line in lines if "1 new NaN" in line]
    assert any("h.31.attn.weight: 1 new NaN" in line for line in told)
    assert len(told) == 2, (
        "in the header, and in the tensor's own row: it is not folded with others"
    )
    assert all(("\x1b[1;31m" in line) == style.colour for line in told)
    assert "nan" in told[1]
    assert "cosine" not in lines[0]


def test_a_table_without_findings_has_no_column_for_them() -> None:
    lines = "\n".join(table.model(report(modified(["w"]), [FINE]), Style()))
    assert "health" not in lines
    assert "findings" not in lines


def test_a_short_table_keeps_them() -> None:
    names = [f"{chr(97 + number % 26)}{number}x.w{number}" for number in range(200)]
    results = [STILL if number == 150 else statistics(relative=0.5) for number in range(200)]
    lines = table.model(report(modified(names), results), Style(100, 24))
    assert any(line.startswith("  ~ ") and "1 new NaN" in line for line in lines)
    changes, _ = ordered(modified(names).changes, results, "change")
    assert changes[0].name == names[150]


def test_one_line_a_model_counts_them() -> None:
    found = compare(manifest([entry("w")]), manifest([entry("w", 1, dtype="bf16")]))
    assert table.stat([report(found, [None])], Style())[0].endswith(", 1 with findings")


def test_markdown() -> None:
    text = markdown.diff(Report("a", "b", (harmed(),)))
    assert "**⚠️ Findings in 1 tensor:**\n\n- h.31.attn.weight&#58; 1 new NaN\n" in text
    assert "| health |" in text
    assert "⚠️ **1 new NaN**" in text
    found = compare(
        manifest(entry(name) for name in HOSTILE), manifest(entry(name, 1) for name in HOSTILE)
    )
    text = markdown.diff(Report("a", "b", (report(found, [STILL for _ in found.changes]),)))
    assert "<script>" not in text.replace("`<script>", "")
    assert "- <" not in text


def test_json_and_csv() -> None:
    whole = Report("a", "b", (harmed(),))
    data = json.loads(records.as_json(whole))["models"][0]
    assert data["tensors_with_findings"] == 1
    change = data["changes"][31]
    assert change["findings"] == [{"kind": "nan", "count": 1, "text": "1 new NaN"}]
    assert change["statistics"]["new_nan"] == 1
    assert (
        change["statistics"]["relative_change"],
        change["statistics"]["cosine"],
        change["statistics"]["max_change"],
    ) == (None,) * 3
    assert data["changes"][0]["findings"] == []
    jump = json.loads(
        records.as_json(
            Report("a", "b", (report(modified(["w"]), [replace(FINE, norm_new=60.0)]),))
        )
    )
    assert jump["models"][0]["changes"][0]["findings"] == [
        {"kind": "norm", "count": 1, "text": "norm x20", "factor": 20.0}
    ]
    rows = list(csv.DictReader(io.StringIO(records.as_csv(whole))))
    assert [row["findings"] for row in rows if row["findings"]] == ["1 new NaN"]
    assert rows[31]["relative_change"] == "nan"


def test_the_page_holds_them() -> None:
    text = page.diff(Report("a", "b", (harmed(),)))
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    model = data["models"][0]
    row = dict(zip(data["columns"], model["rows"][31], strict=True))
    assert (model["alarming"], row["health"], row["relative"], row["distance"], row["largest"]) == (
        1,
        "1 new NaN",
        "nan",
        "nan",
        "nan",
    )
    assert [
        cell["health"] for panel in model["panels"] for cell in panel["cells"] if cell["health"]
    ] == ["1 new NaN"]
