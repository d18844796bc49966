"""A repository for the examples: the folder given on the command line, or a new one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def prepared() -> Path:
    """A repository in which checkpoints are tracked by Git-Theta, which is committed."""
    folder = Path(
        sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="git-theta-training-")
    )
    folder.mkdir(parents=True, exist_ok=True)

    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=folder, check=True)

    git("init", "--quiet", "--initial-branch=main")
    subprocess.run(
        [sys.executable, "-m", "git_theta", "track", "*.safetensors", "*.ckpt"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    git("add", ".gitattributes")
    git(
        "-c",
        "user.name=Example",
        "-c",
        "user.email=example@example.com",
        "commit",
        "--quiet",
        "--message=Track checkpoints",
    )
    for key, value in (("user.name", "Example"), ("user.email", "example@example.com")):
        git("config", key, value)
    return folder


def show(folder: Path, branch: str, path: str) -> None:
    """What 'git theta log' tells of the run."""
    subprocess.run([sys.executable, "-m", "git_theta", "log", branch, path], cwd=folder, check=True)
