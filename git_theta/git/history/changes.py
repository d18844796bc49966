"""Which files differ between two revisions, the index and the working tree: git's own answer,
without any content being read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from git_theta.core.names import display
from git_theta.errors import GitError, UsageError
from git_theta.git.command import run
from git_theta.git.history import revisions

_COMMON = ["--raw", "-z", "--no-abbrev", "--no-ext-diff", "--no-textconv", "--ignore-submodules"]


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that is not the same on both sides: as ``git diff --raw`` tells it, paths from the top
    of the working tree.

    A blob is None where there is no file on that side; an empty one is a file of the working tree.
    ``status`` is git's letter (``U``: unmerged).
    """

    old_path: str
    new_path: str
    old_mode: str
    new_mode: str
    old_blob: str | None
    new_blob: str | None
    status: str


@dataclass(frozen=True, slots=True)
class Range:
    """What is compared: ``old`` and ``new`` are commits or trees; None as ``new``: the working
    tree, or with ``cached`` the index.

    None as ``old`` is the index (or, with ``cached``, nothing at all: there is no commit yet).
    """

    old: str | None
    new: str | None
    cached: bool = False


def resolve(words: Sequence[str], cached: bool, cwd: Path | None = None) -> Range:
    """What the revisions ``words`` of a command line mean: as in ``git diff``, ``A..B`` and
    ``A...B`` too.
    """
    if len(words) == 1 and ".." in words[0] and not commit(words[0], cwd):
        text = words[0]
        left, dots, right = text.partition("...") if "..." in text else text.partition("..")
        ends = [_tree(word or "HEAD", cwd) for word in (left, right)]
        if dots == "...":
            ends[0] = run(["merge-base", *ends], cwd=cwd).decode("ascii").split("\n")[0]
        words = ends
    if len(words) > 2:
        raise UsageError("at most two revisions can be compared")
    if cached:
        if len(words) == 2:
            raise UsageError("--cached compares the index with one revision")
        if words:
            return Range(_tree(words[0], cwd), None, True)
        return Range("HEAD" if commit("HEAD", cwd) else None, None, True)
    trees = [_tree(word, cwd) for word in words]
    return Range(trees[0] if trees else None, trees[1] if len(trees) > 1 else None)


def is_revision(word: str, cwd: Path | None = None) -> bool:
    """Whether ``word`` names a commit or tree, or a range of commits."""
    if commit(word, cwd):
        return True
    left, dots, right = word.partition("...") if "..." in word else word.partition("..")
    return bool(dots) and all(not end or commit(end, cwd) is not None for end in (left, right))


def commit(word: str, cwd: Path | None = None) -> str | None:
    """The commit or tree that ``word`` names; None if there is none."""
    if word.startswith("-"):
        return None
    return revisions.find(word, "tree", cwd)


def _tree(word: str, cwd: Path | None) -> str:
    if commit(word, cwd) is None:
        raise UsageError(
            f"{display(word, 100)} is neither a revision nor a file; paths come behind '--'"
        )
    return word


def changed(
    asked: Range, paths: Sequence[str], cwd: Path | None = None, hash_length: int = 40
) -> list[FileChange]:
    """The files that differ and match the pathspecs ``paths`` (seen from ``cwd``).

    A file of the working tree counts as different when its stat data is; whether its content is,
    git has not looked.
    """
    tail = ["--", *paths]
    if asked.new is not None:
        assert asked.old is not None
        raw = run(
            ["diff-tree", "-r", "-M", *_COMMON, "--end-of-options", asked.old, asked.new, *tail],
            cwd=cwd,
        )
    elif asked.old is not None or asked.cached:
        old = asked.old or (
            "4b825dc642cb6eb9a060e54bf8d69288fbee4904" if hash_length == 40 else _EMPTY_SHA256
        )
        cached = ["--cached", "-M"] if asked.cached else []
        raw = run(["diff-index", *cached, *_COMMON, "--end-of-options", old, *tail], cwd=cwd)
    else:
        raw = run(["diff-files", *_COMMON, *tail], cwd=cwd)
    return parse(raw)


def of_two_files(old: str, new: str, colour: bool) -> bytes:
    """Git's own line by line diff of two files, which need not be in a repository."""
    how = ["--no-index", "--no-ext-diff", "--no-textconv"]
    shown = "--color=always" if colour else "--no-color"
    return run(["diff", *how, shown, "--", old, new], allowed=(0, 1))


_EMPTY_SHA256 = "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"


def parse(raw: bytes) -> list[FileChange]:
    """What ``git diff --raw -z --no-abbrev`` printed."""
    fields = iter(raw.split(b"\0"))
    found = []
    for head in fields:
        if not head:
            continue
        try:
            old_mode, new_mode, old_blob, new_blob, status = (
                head.decode("ascii").lstrip(":").split(" ")
            )
            path = os.fsdecode(next(fields))
            new_path = os.fsdecode(next(fields)) if status[0] in "RC" else path
        except (ValueError, StopIteration):
            raise GitError("git's list of changed files cannot be read") from None
        old = None if old_mode == "000000" else _blob(old_blob)
        new = None if new_mode == "000000" else _blob(new_blob)
        found.append(FileChange(path, new_path, old_mode, new_mode, old, new, status[0]))
    return found


def _blob(text: str) -> str:
    return "" if set(text) == {"0"} else text
