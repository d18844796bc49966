"""Writing to a repository without its working tree: blobs, commits, refs by compare-and-swap, and
notes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from git_theta.core.names import display
from git_theta.errors import GitError, UsageError
from git_theta.git import gitpython
from git_theta.git.command import run, run_code
from git_theta.git.config import config_file
from git_theta.git.history import listing, revisions
from git_theta.git.repository import Repository


@dataclass(frozen=True, slots=True)
class Branch:
    """Where a commit is to go: the ref ``name`` (``HEAD`` itself where it is detached) and the
    commit it has, if any.

    ``here``: it is what this working tree has checked out. ``start`` is the commit that a new
    commit stands on: the ref's, or for a new branch HEAD's.
    """

    name: str
    tip: str | None
    start: str | None
    here: bool

    @property
    def shown(self) -> str:
        """The branch's name for a message."""
        return display(self.name.removeprefix("refs/heads/"), 100)


def branch(repository: Repository, name: str | None, cwd: Path) -> Branch:
    """The branch called ``name`` (None: the one that is checked out); it need not exist.

    :class:`UsageError` for a name that git does not allow; :class:`GitError` for a branch that
    another working tree has checked out.
    """
    code, said = run_code(["symbolic-ref", "-q", "HEAD"], cwd=cwd, allowed=(0, 1))
    current = os.fsdecode(said.rstrip(b"\n")) if code == 0 else "HEAD"
    ref = current if name is None else f"refs/heads/{name.removeprefix('refs/heads/')}"
    if name is not None and run_code(["check-ref-format", ref], cwd=cwd, allowed=(0, 1))[0]:
        raise UsageError(
            f"'{display(name, 100)}' cannot be a branch's name ('git help check-ref-format' tells"
            " the rules)"
        )
    tip, head = commit(ref, cwd), commit("HEAD", cwd)
    here = ref == current and repository.worktree is not None
    if not here and ref != "HEAD":
        place = os.fsdecode(
            run(["for-each-ref", "--format=%(worktreepath)", ref], cwd=cwd).split(b"\n")[0]
        )
        if place and repository.worktree is not None:
            raise GitError(
                f"branch {display(name or ref, 100)} is checked out at {display(place)}; give that"
                " folder as repo="
            )
    return Branch(ref, tip, tip or head, here)


def commit(revision: str, cwd: Path) -> str | None:
    """The commit that ``revision`` names; None if there is none."""
    return revisions.find(revision, "commit", cwd)


def blob(data: bytes, cwd: Path | None, path: str | None = None) -> str:
    """Store ``data`` as a blob: as it is, or with ``path`` as git's own filters make it."""
    how = ["--no-filters"] if path is None else ["--path", path]
    return run(["hash-object", "-w", "--stdin", *how], cwd=cwd, stdin=data).decode("ascii").strip()


def commit_tree(tree: str, parents: Sequence[str], message: str, cwd: Path) -> str:
    """A commit as the user whom git's config names would make it, signed where ``commit.gpgSign``
    says so.
    """
    words = [word for parent in parents for word in ("-p", parent)]
    signed = config_file.get("commit.gpgSign", cwd, "bool") == "true"
    text = message.strip("\n") + "\n"
    return (
        run(
            ["commit-tree", *(["-S"] if signed else []), tree, *words, "-F", "-"],
            cwd=cwd,
            stdin=text.encode(),
        )
        .decode("ascii")
        .strip()
    )


def move(ref: str, new: str, old: str | None, reason: str, cwd: Path) -> bool:
    """Let ``ref`` name ``new`` if it still names ``old`` (None: if it still does not exist); False
    when somebody else moved it.
    """
    none = "0" * len(new)
    asked = ["update-ref", "--create-reflog", "-m", reason.split("\n", 1)[0], ref, new, old or none]
    code, _ = run_code(asked, cwd=cwd, allowed=(0, 128))
    if code and commit(ref, cwd) == old:  # not moved: something else is wrong, in git's words
        run(asked, cwd=cwd)
    return code == 0


def check_new_tag(name: str, cwd: Path) -> None:
    """:class:`UsageError` unless a tag can be called ``name`` and none is."""
    ref = f"refs/tags/{name}"
    if run_code(["check-ref-format", ref], cwd=cwd, allowed=(0, 1))[0]:
        raise UsageError(
            f"'{display(name, 100)}' cannot be a tag's name ('git help check-ref-format' tells the"
            " rules)"
        )
    if commit(ref, cwd) is not None:
        raise UsageError(
            f"there is a tag '{display(name, 100)}' already; delete it first, or choose another"
            " name"
        )


def set_tag(name: str, target: str, cwd: Path) -> None:
    """Let the tag ``name`` name the commit ``target``, whatever it named before."""
    ref = f"refs/tags/{name}"
    if run_code(["check-ref-format", ref], cwd=cwd, allowed=(0, 1))[0]:
        raise UsageError(
            f"'{display(name, 100)}' cannot be a tag's name ('git help check-ref-format' tells the"
            " rules)"
        )
    gitpython.set_tag(name, target, cwd)


def notes(namespace: str, cwd: Path | None) -> Mapping[str, str]:
    """Object → blob of its note in ``refs/notes/<namespace>``; empty when there are none."""
    listed = listing.tree_if_any(f"refs/notes/{namespace}", cwd)
    return {entry.path.replace("/", ""): entry.blob for entry in listed}
