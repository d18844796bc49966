"""Merging commits without a working tree: common ancestors, trees, and ``git merge-tree``."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from git_theta.errors import GitError, UsageError
from git_theta.git.command import call, run, run_code
from git_theta.git.history import listing, revisions
from git_theta.git.writing import staging


def commit(revision: str, cwd: Path | None = None) -> str:
    """The commit that ``revision`` names; :class:`UsageError` when there is none."""
    if revision.startswith("-"):
        raise UsageError(f"{revision!a} is not a branch or commit")
    found = revisions.find(revision, "commit", cwd)
    if found is None:
        raise UsageError(f"{revision!a} is not a branch or commit of this repository")
    return found


def to_merge(ours: str, heads: Sequence[str], cwd: Path | None = None) -> list[str]:
    """Those of ``heads`` (commits) that a merge into ``ours`` has to take in: in the order given,
    without those that ``ours`` or another of them holds already, as ``git merge`` leaves them out.
    """
    apart = set(run(["merge-base", "--independent", ours, *heads], cwd=cwd).decode("ascii").split())
    return [head for head in dict.fromkeys(heads) if head in apart and head != ours]


def common_bases(commits: Sequence[str], cwd: Path | None = None) -> list[str]:
    """The best common ancestors of all ``commits``: none where their histories have nothing in
    common, several where they crossed.
    """
    _, out = run_code(["merge-base", "--octopus", "--all", *commits], cwd=cwd, allowed=(0, 1))
    return out.decode("ascii").split()


def merged_mode(base: tuple[str, str] | None, sides: Sequence[tuple[str, str]]) -> str:
    """The mode of a file in a merge, of (mode, blob): one that a side changed, else that of all."""
    before = base[0] if base is not None else ""
    return next((mode for mode, _ in sides if mode != before), before)


def blobs(tree: str, cwd: Path | None = None) -> dict[str, tuple[str, str]]:
    """Path → (mode, blob) of every file of a commit or tree."""
    return {
        entry.path: (entry.mode, entry.blob)
        for entry in listing.tree(tree, where=cwd)
        if entry.is_blob
    }


def with_blobs(
    tree: str | None,
    changes: Mapping[str, tuple[str, str]],
    scratch_index: Path,
    cwd: Path | None = None,
) -> str:
    """``tree`` (None: the empty one) with (mode, blob) of some paths set.

    ``scratch_index`` is a file of the caller's to work in.
    """
    staging.read_into(scratch_index, tree, cwd)
    staging.put(changes, cwd, index=scratch_index)
    return staging.write_tree(scratch_index, cwd)


def scratch_commit(tree: str, parents: Sequence[str], cwd: Path | None = None) -> str:
    """A commit that no ref will ever name."""
    who = {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "git-theta"), ("EMAIL", "-"))
    }
    words = [word for parent in parents for word in ("-p", parent)]
    return (
        run(["commit-tree", tree, *words, "-m", "scratch"], cwd=cwd, environment=who)
        .decode("ascii")
        .strip()
    )


def merge_trees(ours: str, theirs: str, cwd: Path | None = None) -> tuple[str, list[str]]:
    """The tree of merging two commits as git would, and the paths in conflict; :class:`GitError`
    before git 2.38.
    """
    code, out = run_code(
        ["merge-tree", "--write-tree", "--name-only", "-z", ours, theirs],
        cwd=cwd,
        allowed=(0, 1, 128, 129),
    )
    if code > 1:
        raise GitError(
            "git cannot merge these without a working tree (git 2.38 or newer is needed)"
        )
    fields = out.decode("utf-8", "surrogateescape").split("\0")
    conflicts = []
    for field in fields[1:]:
        if not field:
            break
        conflicts.append(field)
    return fields[0], conflicts if code else []


def merge(words: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Hand the terminal to ``git merge WORDS``; its exit code."""
    return call(["merge", *words], env=environment).returncode


def merge_recursive(words: Sequence[str]) -> int:
    """Let git merge two commits into index and working tree; its exit code.

    What it and our driver say goes where ours goes.
    """
    return call(["merge-recursive", *words], stdin=subprocess.DEVNULL).returncode
