"""Running git-lfs, the program: what it is told, and in which environment."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from git_theta.git.command import call, find, inherited_environment, launch, run_code
from git_theta.git.config import config_file


def version(cwd: Path | None = None) -> tuple[int, int] | None:
    """The release (3, 3) of the git-lfs that git finds; None where it finds none."""
    code, words = run_code(["lfs", "version"], cwd=cwd, allowed=range(256))
    match = re.match(rb"git-lfs/(\d+)\.(\d+)", words)
    return None if code or not match else (int(match[1]), int(match[2]))


def works() -> bool:
    """Whether git finds a git-lfs that runs."""
    return run_code(["lfs", "version"], allowed=range(256))[0] == 0


def release() -> str | None:
    """What the git-lfs on PATH calls its release, empty if it does not work; None without one."""
    program = find("git-lfs")
    if program is None:
        return None
    done = subprocess.run(
        [program, "version"], env=inherited_environment(), capture_output=True, check=False
    )
    words = done.stdout.decode("utf-8", "replace").split()
    return words[0].removeprefix("git-lfs/") if words else ""


def pre_push(name: str, url: str, updates: bytes) -> int:
    """Do what git-lfs's own pre-push hook does with git's list of ``updates``; its exit code."""
    return call(["lfs", "pre-push", name, url], input=updates).returncode


def push(
    remote: str,
    ids: Sequence[str],
    from_stdin: bool,
    output: int | IO[bytes],
    cwd: Path,
    environment: Mapping[str, str],
) -> int:
    """Send the objects ``ids``; the exit code. What git-lfs says goes to ``output``."""
    asked = ["lfs", "push", "--object-id", remote]
    return call(
        [*asked, "--stdin"] if from_stdin else [*asked, *ids],
        cwd=cwd,
        input=("\n".join(ids) + "\n").encode("ascii") if from_stdin else b"",
        stdout=output,
        stderr=output,
        env=environment,
    ).returncode


def filter_process(
    errors: IO[bytes], cwd: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """git-lfs's filter, to be spoken to as git does; its complaints go to ``errors``."""
    return launch(
        ["lfs", "filter-process"],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
    )


def configured(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment that gives git (and git-lfs) further settings, beside those that the
    environment gives already.
    """
    count = os.environ.get("GIT_CONFIG_COUNT", "")
    first = int(count) if count.isdigit() else 0
    environment = {"GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, (key, value) in enumerate(settings.items(), first):
        environment[f"GIT_CONFIG_KEY_{number}"] = key
        environment[f"GIT_CONFIG_VALUE_{number}"] = value
    return environment


def lfs_folder(git_dir: Path) -> Path:
    """Where a repository on this machine keeps its Git LFS objects."""
    named = config_file.of_git_dir(git_dir, "lfs.storage", "path")
    return git_dir / (named or "lfs") / "objects"
