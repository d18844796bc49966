from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
import time

import pytest

from git_theta.terminal import bars as module
from git_theta.terminal import drawing
from git_theta.terminal.bars import Bars
from git_theta.workflows.progress import Progress, Unwatched

_: Progress = Bars()  # a type checker's affair
_ = Unwatched()


class Terminal(io.StringIO):
    def __init__(self, watched: bool = True) -> None:
        super().__init__()
        self._watched = watched

    def isatty(self) -> bool:
        return self._watched

    def text(self) -> str:
        """What was drawn, without colour, each white space as one."""
        return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue()))


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr("sys.stderr", found := Terminal())
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    monkeypatch.setattr(module, "_PACE", 0.005)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return found


def on(screen: Terminal, wanted: bool = True) -> Bars:
    """Bars there. pytest has put its own stream in place since the fixture was made."""
    sys.stderr = screen
    return Bars(wanted)


def seen(screen: Terminal, text: str) -> None:
    for _ in range(400):
        if text in screen.text():
            return
        time.sleep(0.005)
    raise AssertionError(f"{text} not in {screen.text()[-400:]}")


def test_the_numbers() -> None:
    assert drawing.amount(430, 1000, 0.001) == "43 % (430 B of 1.0 kB, 430 kB/s)"
    assert drawing.amount(10**9, 2 * 10**9, 2.0) == "50 % (1.0 GB of 2.0 GB, 500 MB/s)"
    assert drawing.amount(0, 1, 0.0) == "0 % (0 B of 1 B, 0 B/s)"


def test_nothing_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", screen := Terminal(False))
    before = threading.active_count()
    bar = Bars().begin("x", 100)
    assert threading.active_count() == before
    bar.advance(50)
    bar.end()
    assert screen.getvalue() == ""


def test_nothing_where_it_is_not_wanted(screen: Terminal) -> None:
    before = threading.active_count()
    with on(screen, wanted=False).begin("x", 100):
        assert threading.active_count() == before
    assert screen.getvalue() == ""


def test_short_work_shows_nothing_and_does_not_import_rich() -> None:
    code = """
import io, sys
class Terminal(io.StringIO):
    isatty = lambda self: True
sys.stderr = Terminal()
from git_theta.terminal.bars import Bars
bar = Bars().begin("x", 100)
bar.end()
bar.end()
print(repr(sys.stderr.getvalue()), "rich" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "'' False\n"


def test_long_work_is_shown_and_ended(screen: Terminal) -> None:
    bars = on(screen)
    with bars.begin("Adding x", 1000) as bar:
        bar.advance(500)
        seen(screen, "50 % (500 B of 1.0 kB")
    assert "Adding x" in screen.text()
    assert "100 %" in screen.text()
    with bars.begin("Adding y", 1000, lambda: 250):
        seen(screen, "25 % (250 B")
    assert screen.getvalue().endswith("\n")
    assert all(thread.name != "git-theta-progress" for thread in threading.enumerate())


def test_a_part_counts_for_the_whole_and_goes_when_it_ends(screen: Terminal) -> None:
    with on(screen).begin("Writing models", 1000) as whole:
        part = whole.begin("one.safetensors", 400)
        part.advance(300)
        seen(screen, "30 % (300 B of 1.0 kB")
        seen(screen, "75 % (300 B of 400 B")
        part.end()
        drawn = len(screen.text())
        whole.begin("two.safetensors", 600).advance(300)
        seen(screen, "60 % (600 B of 1.0 kB")
        seen(screen, "two.safetensors")
    last = screen.text()[drawn:].rpartition("Writing models")[2]
    assert "100 % (1.0 kB of 1.0 kB" in last
    assert "one" not in last
    assert "two" not in last


def test_what_failed_is_not_shown_as_complete(screen: Terminal) -> None:
    def fail() -> None:
        with on(screen).begin("Fetching", 1000) as bar:
            bar.advance(100)
            seen(screen, "10 %")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "100 %" not in screen.text()


def test_names_are_no_markup_and_the_cursor_is_never_hidden(screen: Terminal) -> None:
    with on(screen).begin("Adding [red]w[/red] [/] :smile:", 1000):
        seen(screen, "Adding [red]w[/red] [/] :smile:")
    assert "\x1b[?25l" not in screen.getvalue()


def test_messages_of_the_work_stay_whole(screen: Terminal) -> None:
    with on(screen).begin("Fetching", 1000):
        seen(screen, "Fetching")
        print("git-theta: warning: [b]slow[/b]", file=sys.stderr)
    assert "git-theta: warning: [b]slow[/b]" in screen.text()


@pytest.mark.parametrize("width", ["20", "60", "80", "140"])
def test_lines_fit_the_screen(
    screen: Terminal, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("NO_COLOR", "1")
    with on(screen).begin("Adding " + "x" * 200, 10**9, lambda: 10**8):
        seen(screen, "10 %")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert max(map(len, re.split(r"[\r\n]", plain))) <= int(width)
    assert re.search(r"\x1b\[[0-9;]*m", re.sub(r"\x1b\[0?m", "", screen.getvalue())) is None
