"""Reports on a terminal: whatever its size, its characters and its colours."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import HOSTILE, entry, manifest, modified, report, statistics, transformer

from git_theta.core.readable import numbers
from git_theta.reports import table
from git_theta.reports.report import ModelReport
from git_theta.reports.table import Style
from git_theta.workflows.comparing.compare import compare
from git_theta.workflows.comparing.movement import Statistics
from git_theta.workflows.comparing.statistics import Unknown

PLAIN = re.compile(r"\x1b\[[0-9;]*m")


def bare(line: str) -> str:
    return PLAIN.sub("", line)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 132, 250])
@pytest.mark.parametrize("height", [24, 50])
@pytest.mark.parametrize("unicode", [True, False])
def test_fits_any_screen(width: int, height: int, unicode: bool) -> None:
    names = [*transformer(32), "x" * 500]
    lines = table.model(report(modified(names)), Style(width, height, True, unicode))
    assert max(len(bare(line)) for line in lines) <= max(width, 30)
    assert len(lines) <= height + 4
    if not unicode:
        "\n".join(lines).encode("ascii")


def test_everything_is_shown_when_asked_for() -> None:
    names = transformer(32)
    lines = table.model(report(modified(names)), Style(100, 24, folded=False))
    assert sum("  ~ " in line for line in lines) == len(names)


@pytest.mark.parametrize(
    "style",
    [
        Style(),
        Style(80, 24),
        Style(80, 24, True),
        Style(80, 24, False, False),
        Style(None, None, False, False),
    ],
)
def test_hostile_names_are_harmless(style: Style) -> None:
    found = compare(
        manifest(entry(name) for name in HOSTILE), manifest(entry(name, 1) for name in HOSTILE)
    )
    lines = table.model(report(found, path="\x1b[2J\u202e.pt"), style)
    for line in lines:
        assert not set(bare(line)) & set("\x1b\u202e\x07\r\n\t\ud800")
        assert style.width is None or len(bare(line)) <= style.width


def test_colour_only_where_it_is_wanted() -> None:
    found = report(modified(["a", "b"]))
    assert not PLAIN.search("\n".join(table.model(found, Style(80, 24))))
    assert PLAIN.search("\n".join(table.model(found, Style(80, 24, True))))
    assert [bare(line) for line in table.model(found, Style(80, 24, True))] == table.model(
        found, Style(80, 24)
    )


def test_the_header_tells_what_counts() -> None:
    old = manifest(
        [entry("same"), entry("edited"), entry("gone"), entry("before", "x"), entry("grown")]
    )
    new = manifest(
        [
            entry("same"),
            entry("edited", 1),
            entry("after", "x2"),
            entry("grown", 1, (65, 64)),
            entry("new"),
        ],
        skeleton="t",
    )
    text = "\n".join(table.model(report(compare(old, new)), Style()))
    assert text.startswith("model.safetensors\n")
    assert "2 added, 2 removed, 1 modified, 1 reshaped of 5 tensors, 1 unchanged" in text
    assert "elements in them changed (50.0 %), ‖Δ‖/‖W‖ " in text
    assert "stored as " in text
    assert "other content of the file changed" in text


def test_nothing_changed() -> None:
    one = manifest([entry("w")])
    assert table.model(report(compare(one, one)), Style()) == [
        "model.safetensors",
        "  no tensor changed (1)",
    ]
    other = table.model(report(compare(one, manifest([entry("w")], skeleton="t"))), Style())
    assert other[1:] == ["  no tensor changed (1)", "  other content of the file changed"]


def test_titles() -> None:
    found = compare(manifest([entry("w")]), manifest([entry("w", 1)]))

    def make(**more: Any) -> str:
        return table.title(ModelReport("b.pt", found, **more), Style(unicode=False))[0]

    assert make() == "b.pt"
    assert make(former_path="a.pt") == "a.pt -> b.pt"
    assert make(modes=(None, "100644")) == "b.pt (new)"
    assert make(modes=("100644", None)) == "b.pt (deleted)"
    assert make(modes=("100644", "100755")) == "b.pt (mode 100644 -> 100755)"


def test_notes_say_what_would_help() -> None:
    found = modified(list("abcdefgh"))
    results = [
        Unknown("object 1 is not here", True),
        Unknown("object 2 is not here", True),
        Unknown("not read"),
        *[Unknown(f"reason {n}") for n in range(5)],
    ]
    text = "\n".join(table.model(report(found, results), Style()))
    assert "2 tensors not measured: objects are not here ('git theta fetch' may bring them)" in text
    assert "1 tensor not measured here, for they are large: 'git theta diff' measures all" in text
    assert "not measured: reason 2" in text
    assert "… and 2 more likewise" in text
    broken = "\n".join(table.model(ModelReport("m.pt", None, problem="it is broken"), Style()))
    assert broken == "m.pt\n  it is broken"
    odd = report(
        modified(["w"]), [Statistics(10, 5, 3, 1.0, 1.0, 0.1, 0.1, 0.1, None, None, True, True)]
    )
    text = "\n".join(table.model(odd, Style()))
    assert (
        "3 elements NaN or infinite: counted in 'changed' if the bytes differ, left out of all"
        " other numbers" in text
    )
    assert "50.0 %*" in text
    assert "* only the rows that both versions have are compared" in text


def test_without_measuring_sizes_are_shown() -> None:
    text = "\n".join(table.model(report(modified(["w"]), [None], measured=False), Style()))
    assert "16.4 kB" in text
    assert "cosine" not in text


def test_ranks_of_folded_rows() -> None:
    found = modified([f"h.{n}.w" for n in range(40)])
    same = "\n".join(table.model(report(found, [statistics(rank=8)] * 40), Style(120, 24)))
    assert re.search(r"h\.\{0…39\}\.w ×40 .* 8  delta", same)  # noqa: RUF001 - a times sign
    mixed = "\n".join(
        table.model(report(found, [statistics(rank=8 + n % 3) for n in range(40)]), Style(120, 24))
    )
    assert " 8…10 " in mixed
    some = "\n".join(
        table.model(
            report(found, [statistics(rank=8 if n else None) for n in range(40)]), Style(120, 24)
        )
    )
    assert "rank" not in some


def test_one_line_each() -> None:
    found = report(modified(list("abc")), path="dir/model.safetensors")
    bad = ModelReport("broken.pt", None, problem="unmerged")
    assert table.stat([found, bad], Style()) == [
        " dir/model.safetensors | 3 modified of 3, 3.0 kB stored",
        " broken.pt             | unmerged",
    ]
    assert table.stat([], Style()) == []


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (1, "100 %"), (0.00001, "<0.01 %"), (0.99999, ">99.9 %"), (0.005, "0.50 %"),
    (0.5, "50.0 %"),
    (0.09994, "9.99 %"), (0.9994, "99.9 %"),
])  # fmt: skip
def test_percentages(value: float, text: str) -> None:
    assert numbers.percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.0, "0"),
        (0.0371, "3.7e-2"),
        (1.0, "1.0e0"),
        (12345.0, "1.2e4"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        (5e-324, "4.9e-324"),
    ],
)
def test_short_numbers(value: float | None, text: str) -> None:
    assert numbers.short(value) == text


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (None, ""),
        (0.0, "1"),
        (1.0, "0.000000"),
        (2.0, "-1.000000"),
        (6.93e-4, "0.999307"),
        (2.3e-9, "1-2.3e-9"),
    ],
)
def test_cosines(distance: float | None, text: str) -> None:
    assert numbers.cosine(distance) == text


@given(st.floats(0, 10))
def test_bars_grow(relative: float) -> None:
    assert -1 <= numbers.level(relative) <= 7
    assert numbers.level(relative) <= numbers.level(relative * 2)
    assert len(numbers.bar(relative)) == 1
