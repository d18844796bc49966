"""Running git. Always an argument list, never a shell; what git says goes into the error.

Every program gets an environment of its own, copied from ``os.environ``. Without one it would get
the C library's list, which another thread may be changing at that moment (numpy sets a variable
while it is imported): the start then fails with "Bad address".

Every program is started by its absolute path, found on PATH once: a bare name could mean a program
of the current folder, on Windows always, elsewhere with an empty or relative entry in PATH.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from git_theta.core.names import display
from git_theta.errors import GitError


def find(name: str) -> str | None:
    """The absolute path of the program ``name`` in one of PATH's absolute folders; None if there is
    none.
    """
    return _find(name, os.environ.get("PATH", os.defpath), os.name)


@cache
def _find(name: str, path: str, system: str) -> str | None:
    # Scripts of Windows (.bat, .cmd) would have a shell read the arguments
    file = f"{name}.exe" if system == "nt" else name
    for entry in path.split(";" if system == "nt" else ":"):
        folder = entry.strip('"') if system == "nt" else entry
        program = os.path.join(folder, file)
        if os.path.isabs(folder) and os.path.isfile(program) and os.access(program, os.X_OK):
            return program
    return None


def git() -> str:
    """The absolute path of git; :class:`GitError` if it is not on PATH."""
    found = find("git")
    if found is None:
        raise GitError("git is not installed, or not on PATH")
    return found


def inherited_environment(
    more: Mapping[str, str] | None = None, hidden: Sequence[str] = ()
) -> dict[str, str]:
    """A copy of this process's environment with ``more``, without the variables ``hidden``."""
    found = ((key, os.environ.get(key)) for key in list(os.environ))
    kept = {key: value for key, value in found if value is not None and key not in hidden}
    return {**kept, **(more or {})}


def version() -> str:
    """What git calls its release, such as ``2.39.5``."""
    said = run(["--version"]).decode("utf-8", "replace").strip()
    return said.removeprefix("git version ")


def launch(arguments: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """``git ARGUMENTS`` as a running process; options as for :class:`subprocess.Popen`.

    :class:`GitError` if git is not on PATH, or the folder ``cwd`` does not exist.
    """
    command = [git(), *arguments]
    try:
        return subprocess.Popen(command, **_own(options))
    except (FileNotFoundError, NotADirectoryError):
        raise _not_started(options.get("cwd")) from None


def call(arguments: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """What became of ``git ARGUMENTS``, whatever its exit code; options as for
    :func:`subprocess.run`, errors as for :func:`launch`.
    """
    command = [git(), *arguments]
    try:
        return subprocess.run(command, check=False, **_own(options))
    except (FileNotFoundError, NotADirectoryError):
        raise _not_started(options.get("cwd")) from None


def _own(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with an environment."""
    given = options.get("env")
    return {**options, "env": inherited_environment() if given is None else given}


def _not_started(cwd: object) -> GitError:
    """Why a program was not found though its file was there a moment ago: mostly its current folder
    was not.
    """
    if cwd is None:
        return GitError("git cannot be started: the current folder does not exist any more")
    folder = os.fsdecode(cwd if isinstance(cwd, (bytes, str)) else str(cwd))
    if os.path.isdir(folder):
        return GitError("git cannot be started")
    shown = display(folder, 400)
    return GitError(
        f"{shown} is not a folder" if os.path.lexists(folder) else f"there is no folder {shown}"
    )


def run(
    arguments: Sequence[str],
    *,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    allowed: Sequence[int] = (0,),
) -> bytes:
    """What ``git ARGUMENTS`` prints; :class:`GitError` with git's own words when its exit code is
    none of ``allowed``.
    """
    return run_code(arguments, cwd=cwd, stdin=stdin, environment=environment, allowed=allowed)[1]


def run_code(
    arguments: Sequence[str],
    *,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    allowed: Sequence[int] = (0,),
) -> tuple[int, bytes]:
    """Exit code and output of ``git ARGUMENTS``, as :func:`run`."""
    done = call(
        arguments,
        cwd=cwd,
        input=b"" if stdin is None else stdin,
        capture_output=True,
        env=inherited_environment(environment),
    )
    if done.returncode not in allowed:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        said = words[0] if words else f"exit code {done.returncode}"
        raise GitError(f"git {arguments[0]} failed: {said}")
    return done.returncode, done.stdout
