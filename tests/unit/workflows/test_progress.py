from __future__ import annotations

import io
import threading
import time

import pytest

from git_theta.workflows import progress
from git_theta.workflows.progress import Progress


class Terminal(io.StringIO):
    def __init__(self, watched: bool) -> None:
        super().__init__()
        self._watched = watched

    def isatty(self) -> bool:
        return self._watched


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (2_100_000_000, "2.1 GB"),
        (5 * 10**15, "5000000 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert progress.size(count) == text


def test_the_line() -> None:
    assert progress.line("Adding x", 430, 1000, 0.001) == "Adding x: 43 % (430 B of 1.0 kB, 0 MB/s)"
    assert (
        progress.line("Adding x", 2 * 10**9, 10**9, 2.0)
        == "Adding x: 100 % (2.0 GB of 1.0 GB, 1000 MB/s)"
    )
    assert progress.line("x", 0, 1, 0.0).startswith("x: 0 %")


def test_nothing_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", screen := Terminal(False))
    shown = Progress()
    before = threading.active_count()
    shown.begin("x", 100)
    assert threading.active_count() == before
    shown.advance(50)
    shown.close()
    assert screen.getvalue() == ""


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", screen := Terminal(True))
    monkeypatch.setattr(progress, "_PATIENCE", 600.0)  # short work on a busy machine takes long
    shown = Progress()
    shown.begin("x", 100)
    shown.end()
    shown.end()
    assert screen.getvalue() == ""


def test_long_work_is_shown_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", screen := Terminal(True))
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    monkeypatch.setattr(progress, "_PACE", 0.005)
    shown = Progress()
    shown.begin("Adding x", 1000)
    shown.advance(500)
    while "50 %" not in screen.getvalue():
        time.sleep(0.005)
    shown.begin("Adding y", 1000, lambda: 250)
    while "Adding y: 25 %" not in screen.getvalue():
        time.sleep(0.005)
    shown.end()
    assert "Adding x: 100 %" in screen.getvalue(), "the first is finished before the next begins"
    assert screen.getvalue().endswith("\n")
    assert threading.active_count() == 1 or all(
        thread.name != "git-theta-progress" for thread in threading.enumerate()
    )
