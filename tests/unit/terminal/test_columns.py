"""Tables: folded for a screen and for COLUMNS, plain for a program."""

from __future__ import annotations

import sys

import pytest

from git_theta.terminal import columns

ROWS = [("a" * 30, "12", "", "notes"), ("b", "3", "", "more notes")]
HEADER = ("path", "size", "", "what")


@pytest.fixture(autouse=True)
def piped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: False, raising=False)


def test_a_row_is_a_line_for_a_program() -> None:
    assert columns.table(ROWS, HEADER, right=(1,)) == [
        "path" + " " * 28 + "size  what",
        "a" * 30 + "    12  notes",
        "b" + " " * 34 + "3  more notes",
    ]


@pytest.mark.parametrize("width", [24, 30, 46])
def test_a_pipe_follows_columns(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = columns.table(ROWS, HEADER, right=(1,), indent="  ")
    assert max(map(len, lines)) <= width
    assert sum(line.count("a") for line in lines[1:]) == 30
    assert not any("\x1b" in line for line in lines)
    assert len(lines) > len(ROWS) + 1


@pytest.mark.parametrize("width", ["48", "200", "0", "", "x", "-5", "80x", "9" * 5000])
def test_nothing_is_folded_that_fits_or_without_a_width(
    monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    plain = columns.table(ROWS, HEADER, right=(1,))
    monkeypatch.setenv("COLUMNS", width)
    assert columns.table(ROWS, HEADER, right=(1,)) == plain


def test_an_empty_column_takes_no_room() -> None:
    assert columns.table([("a", "", "b")], right=(1, 2)) == ["a  b"]
    assert columns.table([("", "")]) == [""]
    assert columns.table([]) == []
