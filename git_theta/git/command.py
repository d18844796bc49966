"""Running git. Always an argument list, never a shell; what git says goes into the error."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from git_theta.errors import GitError


def run(
    arguments: Sequence[str],
    *,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    allowed: Sequence[int] = (0,),
) -> bytes:
    """What ``git ARGUMENTS`` prints; :class:`GitError` with git's own words when its exit code is none of ``allowed``."""
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
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            input=b"" if stdin is None else stdin,
            capture_output=True,
            env=None if environment is None else {**os.environ, **environment},
            check=False,
        )
    except FileNotFoundError:
        raise GitError("git is not installed, or not on PATH") from None
    if done.returncode not in allowed:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        said = words[0] if words else f"exit code {done.returncode}"
        raise GitError(f"git {arguments[0]} failed: {said}")
    return done.returncode, done.stdout
