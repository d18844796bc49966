"""Reports as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import HOSTILE, entry, manifest, modified, report, statistics, transformer

from git_theta.reports import markdown, page, records
from git_theta.reports.report import ModelReport, Report, ordered
from git_theta.workflows.comparing.compare import compare
from git_theta.workflows.comparing.movement import Statistics, together
from git_theta.workflows.comparing.statistics import Unknown


def one(**more: object) -> Report:
    return Report("old", "new", (report(modified(["w", "v"]), **more),))  # type: ignore[arg-type]


def test_json_holds_no_numbers_that_json_has_not() -> None:
    infinite = Statistics(
        10, 5, 0, 0.0, math.inf, math.inf, None, math.inf, None, None, False, True
    )
    data = json.loads(records.as_json(one(results=[infinite, Unknown("not here", True)])))
    assert data["version"] == 1
    first, second = data["models"][0]["changes"]
    assert first["statistics"]["relative_change"] is None
    assert first["statistics"]["norm_old"] == 0
    assert second["unknown"] == "not here"
    assert second["statistics"] is None
    assert first["new"]["update"] == "delta(changed=7)"
    assert first["new"]["stored_bytes"] == 1000


def test_json_of_models_without_a_comparison() -> None:
    data = json.loads(
        records.as_json(Report("a", "b", (ModelReport("x", None, problem="broken"),)))
    )
    assert data["models"] == [
        {"path": "x", "former_path": None, "old_mode": None, "new_mode": None, "problem": "broken"}
    ]


def test_hostile_names_survive_json_and_csv() -> None:
    found = compare(
        manifest(entry(name) for name in HOSTILE), manifest(entry(name, 1) for name in HOSTILE)
    )
    whole = Report("a", "b", (report(found, path="=1+1\n.pt"),))
    assert [
        change["name"] for change in json.loads(records.as_json(whole))["models"][0]["changes"]
    ] == HOSTILE
    text = records.as_csv(whole)
    text.encode("ascii")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(HOSTILE)
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or re.fullmatch(
                r"-?[0-9.e+-]+", cell
            )
            assert "\n" not in cell


def test_csv_of_every_kind() -> None:
    old = manifest([entry("a"), entry("b"), entry("c", "x")])
    new = manifest([entry("a", 1, (65, 64)), entry("d", 5), entry("e", "y", dtype="bf16")])
    found = compare(old, new)
    results = [Statistics(10, 5), None, None, None, None][: len(found.changes)]
    rows = list(
        csv.DictReader(io.StringIO(records.as_csv(Report("a", "b", (report(found, results),)))))
    )
    assert [row["kind"] for row in rows] == [change.kind for change in found.changes]
    assert rows[0]["old_shape"] == "64x64"
    assert rows[0]["relative_change"] == ""


@pytest.mark.parametrize(
    "names",
    [HOSTILE, transformer(2), transformer(40), [f"m{n}.{chr(97 + n % 26)}" for n in range(900)]],
)
def test_markdown_fits_a_comment_and_names_stay_text(names: list[str]) -> None:
    found = compare(
        manifest(entry(name) for name in names), manifest(entry(name, 1) for name in names)
    )
    text = markdown.diff(
        Report(
            "`old`",
            "<b>new</b>",
            (report(found, path="a|b<script>.pt"), *[report(modified(["w"]))] * 200),
        )
    )
    assert len(text) <= 65_000
    assert text.startswith(markdown.MARKER)
    for line in text.splitlines():
        outside = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", line)
        if line != markdown.MARKER and not line.startswith(("<details>", "</details>")):
            assert not re.search(
                r"[<>]|\[.*\]\(|@|http|\x1b|\u202e", re.sub(r">99\.9 %|<0\.01 %", "", outside)
            ), line
        if line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line)
            titles = next(other for other in text.splitlines() if other.startswith("| tensor"))
            assert len(cells) in {len(re.split(r"(?<!\\)\|", titles)), len(cells)}


@given(st.text(max_size=40))
@settings(max_examples=300)
def test_code_spans(text: str) -> None:
    """As CommonMark reads it, the span holds the escaped text and nothing leaves it."""
    span = markdown.code(text)
    fence = re.match("`+", span)
    assert fence
    assert span.endswith(fence[0])
    inner = span[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inner)
    assert "\n" not in span
    assert not re.search(r"(?<!\\)\|", inner)


def test_markdown_of_nothing() -> None:
    assert "No model changed." in markdown.diff(Report("a", "b", ()))
    broken = markdown.diff(
        Report("a", "b", (ModelReport("x.pt", None, problem="<b>*broken*</b>"),))
    )
    assert "&#60;b&#62;&#42;broken&#42;&#60;/b&#62;" in broken


def test_sorting() -> None:
    found = compare(
        manifest([entry("b"), entry("a"), entry("gone")]),
        manifest([entry("b", 1), entry("a", 1, (64, 64)), entry("new", shape=(2, 2))]),
    )
    results = [
        (
            statistics(relative=1e-4)
            if c.name == "b"
            else statistics(relative=1e-2)
            if c.name == "a"
            else None
        )
        for c in found.changes
    ]

    def names(by: str) -> list[str]:
        return [change.name for change in ordered(found.changes, results, by)[0]]

    assert names("name") == ["a", "b", "gone", "new"]
    assert names("change") == ["gone", "new", "a", "b"]
    assert names("size")[-1] == "new"
    assert names("file") == [change.name for change in found.changes]


def test_pages_are_the_same_for_the_same_report() -> None:
    found = one()
    assert page.diff(found) == page.diff(found)
    text = page.diff(Report("<old>", "&new;", (report(modified(HOSTILE), path="</title>"),)))
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "").replace(
        "http://evil", ""
    )
    text.encode("utf-8")


@given(
    st.lists(
        st.tuples(st.floats(0.1, 10), st.floats(0, 2), st.floats(0, 0.4)), min_size=1, max_size=6
    )
)
def test_together_is_what_one_tensor_would_be(parts: list[tuple[float, float, float]]) -> None:
    import numpy as np

    from git_theta.core.tensors import Tensor
    from git_theta.workflows.comparing.measure import measure

    rng = np.random.default_rng(0)
    olds = [rng.standard_normal(16) * scale for scale, _, _ in parts]
    news = [
        old * (1 + shift) + noise * rng.standard_normal(16)
        for old, (_, shift, noise) in zip(olds, parts, strict=True)
    ]
    each = [
        measure(Tensor.from_array(a), Tensor.from_array(b), histogram=True)
        for a, b in zip(olds, news, strict=True)
    ]
    whole = measure(
        Tensor.from_array(np.concatenate(olds)),
        Tensor.from_array(np.concatenate(news)),
        histogram=True,
    )
    found = together([item for item in each if item is not None])
    assert whole is not None
    assert found is not None
    assert (found.elements, found.changed, found.histogram, found.largest) == (
        whole.elements,
        whole.changed,
        whole.histogram,
        whole.largest,
    )
    for name in ("norm", "norm_new", "moved"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name), rel=1e-12)
    assert found.distance == pytest.approx(whole.distance, abs=1e-12)
    assert together([]) is None
