"""What revisions mean: the objects they name, their parents, and how they are related."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from git_theta.git.command import run, run_code
from git_theta.git.repository import Repository

Kind = Literal["object", "commit", "tree"]


def find(
    revision: str, kind: Kind | None = None, where: Repository | Path | None = None
) -> str | None:
    """The object that ``revision`` names, with ``kind`` the commit or tree it leads to; None when
    there is none.
    """
    shown = f"{revision}^{{{kind}}}" if kind else revision
    asked = ["rev-parse", "--quiet", "--verify", "--end-of-options", shown]
    if isinstance(where, Repository):
        code, text = run_code(["--git-dir", str(where.git_dir), *asked], allowed=(0, 1, 128))
    else:
        code, text = run_code(asked, cwd=where, allowed=(0, 1, 128))
    return None if code else text.decode("ascii", "replace").strip()


def in_range(text: str, repository: Repository) -> list[str]:
    """The objects that a revision or range names, excluded ones with ``^``; empty for none."""
    asked = ["--git-dir", str(repository.git_dir), "rev-parse", "--revs-only", text]
    code, names = run_code(asked, allowed=(0, 128))
    return [] if code else names.decode("ascii").split()


def parents(revision: str, cwd: Path | None = None) -> list[str]:
    """The parents of a commit."""
    asked = ["rev-list", "--parents", "--max-count=1", revision]
    return run(asked, cwd=cwd).decode("ascii").split()[1:]


def parents_of_change(revision: str, path: str, cwd: Path | None = None) -> list[str]:
    """The parents of the last commit up to ``revision`` that changed ``path`` (from the top), as
    the history of that file has them; empty when there is none.
    """
    asked = ["rev-list", "--parents", "--max-count=1", "--end-of-options", revision, "--"]
    code, out = run_code([*asked, f":(top,literal){path}"], cwd=cwd, allowed=(0, 128, 129))
    return out.decode("ascii", "replace").split()[1:] if code == 0 else []


def is_ancestor(earlier: str, later: str, cwd: Path | None = None) -> bool:
    """Whether the commit ``later`` holds the commit ``earlier``."""
    asked = ["merge-base", "--is-ancestor", earlier, later]
    return run_code(asked, cwd=cwd, allowed=(0, 1))[0] == 0
