"""The processes above this one: who they are, and who holds the other end of our standard input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from git_theta.git.command import find, inherited_environment

FAULTS = (OSError, ValueError, subprocess.SubprocessError)  # when a system does not tell


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A process above this one: its number, its parent's, and its program's name.

    ``words`` are its arguments, the program first, as ``ps`` joins them with blanks; nothing on
    Linux, where :func:`arguments` tells them exactly.
    """

    process: int
    parent: int
    name: str
    words: tuple[str, ...] = ()


def upwards(most: int) -> Iterator[Ancestor]:
    """Our ancestors, the nearest first, at most ``most``; none where the system does not tell.

    Raises one of ``FAULTS`` where one of them cannot be looked at.
    """
    process = os.getppid() if os.name == "posix" else 0
    for _ in range(most):
        if process <= 1:
            return
        found = _on_linux(process) if sys.platform == "linux" else by_ps(process)
        yield found
        process = found.parent


def _on_linux(process: int) -> Ancestor:
    with open(f"/proc/{process}/stat", "rb") as file:
        head, _, rest = file.read().rpartition(b")")
    return Ancestor(process, int(rest.split()[1]), os.fsdecode(head.partition(b"(")[2]))


def by_ps(process: int) -> Ancestor:
    """A process as ``ps`` shows it."""
    text = subprocess.run(
        [find("ps") or "/bin/ps", "-o", "ppid=,args=", "-p", str(process)],
        capture_output=True,
        check=True,
        timeout=5,
        env=inherited_environment(),
    ).stdout
    parent, *words = os.fsdecode(text).split()
    return Ancestor(process, int(parent), os.path.basename(words[0]), tuple(words))


def arguments(process: int) -> tuple[str, ...]:
    """The arguments of a process on Linux, its program's name first."""
    with open(f"/proc/{process}/cmdline", "rb") as file:
        return tuple(map(os.fsdecode, file.read().split(b"\0")[:-1]))


def writes_to(process: int, pipe: str) -> bool:
    """Whether a process on Linux holds the writing end of ``pipe`` (``pipe:[123]``)."""
    for number in os.listdir(f"/proc/{process}/fd"):
        try:
            if os.readlink(f"/proc/{process}/fd/{number}") == pipe:
                with open(f"/proc/{process}/fdinfo/{number}", encoding="ascii") as file:
                    flags = next(line for line in file if line.startswith("flags:"))
                if int(flags.split()[1], 8) & os.O_ACCMODE == os.O_WRONLY:
                    return True
        except (FileNotFoundError, StopIteration):  # closed meanwhile
            continue
    return False
