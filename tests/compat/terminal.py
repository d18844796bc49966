"""Programs at a real pseudo terminal, answered by a script."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gitrepo import PATIENCE


@dataclass(frozen=True)
class Played:
    """A dialogue that is over: the exit code and all that was on the screen."""

    code: int
    screen: str


# Run by Python rather than between fork and exec, which is not safe beside other packages' threads.
_BEGIN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
if sys.argv[1] == "terminal":
    import fcntl, termios
    # Ctrl-C reaches only those whose controlling terminal it is typed at.
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def interruptible(words: Sequence[str], terminal: bool = False) -> list[str]:
    """``words`` as a command that SIGINT ends, as at a terminal: workers of pytest-xdist ignore it,
    and so would their children.
    """
    return [sys.executable, "-c", _BEGIN, "terminal" if terminal else "", *words]


def play(
    words: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    answers: Sequence[tuple[str, str]],
    size: int = 100,
) -> Played:
    """Run ``words`` at a terminal ``size`` columns wide.

    Each of ``answers`` is typed when its question (a piece of text) has appeared.

    Every question must appear, in order, and the program end by itself.
    """
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, size, 0, 0))
    process = subprocess.Popen(
        interruptible(words, terminal=True),
        cwd=folder,
        env={**environment, "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    screen, answered, waiting = b"", 0, list(answers)
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            assert time.monotonic() < deadline, f"waiting for {waiting[:1]}:\n{screen.decode()}"
            if select.select([master], [], [], 0.2)[0]:
                try:
                    data = os.read(master, 1 << 16)
                except OSError:  # how Linux tells that nobody holds the other end any more
                    data = b""
                if not data:
                    break
                screen += data
            if waiting and (at := screen.find(waiting[0][0].encode(), answered)) >= 0:
                answered = at + len(waiting[0][0].encode())
                # Nobody answers before it is read: Python would miss a Ctrl-C between the two
                _at_rest(process.pid)
                os.write(master, waiting.pop(0)[1].encode())
        code = process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    text = screen.decode().replace("\r\n", "\n")
    assert not waiting, f"never asked: {waiting}\n{text}"
    assert "Traceback" not in text
    return Played(code, re.sub(r"\x1b\[[0-9;]*m", "", text))


def _at_rest(session: int) -> None:
    """Wait until every process of ``session`` waits for something: the one that has asked is
    reading by then.

    Linux shows that, however busy it is; elsewhere it is a matter of time.
    """
    time.sleep(0.3)
    while sys.platform == "linux" and set(_states(session)) - set("SZ"):
        time.sleep(0.02)


def _states(session: int) -> Iterator[str]:
    """The state of each process of ``session``, a letter as in proc(5)."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            state, _, _, its_session = (
                file.read_text("utf-8", "replace").rpartition(")")[2].split()[:4]
            )
            if int(its_session) == session:
                yield state
