"""What git lists: the files of a tree, of the index and of the working tree, as values.

The one reader of what ``ls-tree``, ``ls-files`` and ``status`` print with ``-z``. Paths count from
the top of the repository, except where a function says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from git_theta.git.command import run, run_code
from git_theta.git.repository import Repository


@dataclass(frozen=True, slots=True)
class TrackedFile:
    """A path that git has in a tree or the index: its mode and its object.

    ``stage`` is 0, except for a side of an unresolved merge (1: base, 2: ours, 3: theirs).
    ``left_out``: a sparse checkout does not write it.
    """

    path: str
    mode: str
    blob: str
    stage: int = 0
    left_out: bool = False

    @property
    def unmerged(self) -> bool:
        """Whether the index holds several sides of it."""
        return self.stage != 0

    @property
    def is_ordinary(self) -> bool:
        """Whether it is a file, executable or not."""
        return self.mode.startswith("100")

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return self.mode == "120000"

    @property
    def is_blob(self) -> bool:
        """Whether it has content: it is neither a folder nor another repository's commit."""
        return self.mode.startswith(("100", "120"))


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What ``git status`` says of a path: git's letters for the index and for the working tree."""

    path: str
    index: str
    worktree: str

    @property
    def is_untracked(self) -> bool:
        """Whether git does not know the file."""
        return self.index == "?"

    @property
    def is_staged(self) -> bool:
        """Whether the index holds something else than HEAD."""
        return self.index not in " ?"


def literal(path: str) -> str:
    """The pathspec that matches ``path`` (from the top) and nothing else."""
    return f":(top,literal){path}"


def tree(
    revision: str,
    paths: Sequence[str] = (),
    where: Repository | Path | None = None,
    *,
    recursive: bool = True,
) -> list[TrackedFile]:
    """What the commit or tree ``revision`` holds below ``paths`` (plain paths, default: all).

    :class:`~git_theta.errors.GitError` when there is no such revision.
    """
    tail = ["--", *paths] if paths else []
    deep = ["-r"] if recursive else []
    return list(parse(_ask(["ls-tree", *deep, "-z", "--full-tree", revision, *tail], where)))


def tree_if_any(revision: str, where: Path | None = None) -> list[TrackedFile]:
    """As :func:`tree`; empty when there is no such revision."""
    asked = ["ls-tree", "-r", "-z", "--full-tree", revision]
    code, listed = run_code(asked, cwd=where, allowed=(0, 128))
    return [] if code else list(parse(listed))


def index(
    pathspecs: Sequence[str] = (),
    where: Path | None = None,
    *,
    file: Path | None = None,
    unmerged_only: bool = False,
) -> list[TrackedFile]:
    """The entries of the index (or of the index ``file``) that match ``pathspecs``, seen from the
    folder ``where``; default: all below it.
    """
    kind = ["--unmerged"] if unmerged_only else ["-t", "--stage"]
    asked = ["ls-files", *kind, "-z", "--full-name", "--", *pathspecs]
    environment = None if file is None else {"GIT_INDEX_FILE": str(file)}
    return list(parse(run(asked, cwd=where, environment=environment)))


def unmerged(
    pathspecs: Sequence[str] = (), where: Path | None = None
) -> dict[str, dict[int, TrackedFile]]:
    """The paths that the index holds in conflict: path → stage → its version there."""
    found: dict[str, dict[int, TrackedFile]] = {}
    for entry in index(pathspecs, where, unmerged_only=True):
        found.setdefault(entry.path, {})[entry.stage] = entry
    return found


def staged(path: str, where: Path | None = None) -> TrackedFile | None:
    """The index's entry of ``path``; None if there is none, or it is in conflict."""
    return next((entry for entry in index([literal(path)], where) if not entry.stage), None)


def parse(listing: bytes) -> Iterator[TrackedFile]:
    """What ``ls-tree -z`` or ``ls-files --stage -z`` (with ``-t``, too) printed."""
    for item in listing.split(b"\0"):
        head, tab, path = item.partition(b"\t")
        if not tab:
            continue
        *tag, mode, second, third = head.decode("ascii").split(" ")
        if second in ("blob", "tree", "commit"):
            yield TrackedFile(os.fsdecode(path), mode, third)
        else:
            yield TrackedFile(os.fsdecode(path), mode, second, int(third), tag in (["S"], ["s"]))


def one_each(entries: Iterable[TrackedFile]) -> list[TrackedFile]:
    """The files and links among ``entries``, one for each path: of an unmerged one our side's."""
    found: dict[str, TrackedFile] = {}
    for entry in entries:
        if entry.is_blob and (entry.stage in (0, 2) or entry.path not in found):
            found[entry.path] = entry
    return list(found.values())


def by_blob(entries: Iterable[TrackedFile]) -> dict[str, str]:
    """Blob → the first path of the ordinary files among ``entries``."""
    found: dict[str, str] = {}
    for entry in entries:
        if entry.is_ordinary:
            found.setdefault(entry.blob, entry.path)
    return found


def names(
    pathspecs: Sequence[str] = (), where: Path | None = None, *, others: bool = False
) -> list[str]:
    """The paths of the index that match ``pathspecs``, seen from ``where``; with ``others`` also
    those of files that could be added. One in conflict is named once for each side.
    """
    more = ["--cached", "--others", "--exclude-standard"] if others else []
    return _paths(run(["ls-files", *more, "-z", "--full-name", "--", *pathspecs], cwd=where))


def unmatched(
    pathspecs: Sequence[str], where: Path | None = None, *, file: Path | None = None
) -> list[str]:
    """Those of ``pathspecs`` that match nothing in the index (or in the index ``file``)."""

    def asked(*words: str) -> bytes | None:
        code, found = run_code(
            ["ls-files", "-z", *words],
            cwd=where,
            environment=None if file is None else {"GIT_INDEX_FILE": str(file)},
            allowed=(0, 1),
        )
        return found if code == 0 else None

    if not pathspecs or asked("--error-unmatch", "--", *pathspecs) is not None:
        return []
    return [pathspec for pathspec in pathspecs if not asked("--", pathspec)]


def is_empty(where: Path | None = None) -> bool:
    """Whether the index holds no file at all, however git is told to read pathspecs."""
    return not run(["--no-literal-pathspecs", "ls-files", "-z", "--", ":/"], cwd=where)


def untracked(pathspecs: Sequence[str], where: Path | None = None) -> list[str]:
    """The files that git does not know and that match, ignored ones too."""
    return _paths(run(["ls-files", "--others", "-z", "--full-name", "--", *pathspecs], cwd=where))


def modified(pathspecs: Sequence[str], where: Path | None = None) -> list[str]:
    """The files whose stat data in the working tree is not the index's; none is looked into."""
    return _paths(run(["diff-files", "--name-only", "-z", "--", *pathspecs], cwd=where))


def is_modified(path: str, where: Path | None = None) -> bool:
    """Whether the file in the working tree is not what the index has."""
    asked = ["diff-files", "--quiet", "--", literal(path)]
    return run_code(asked, cwd=where, allowed=(0, 1))[0] == 1


def status(pathspecs: Sequence[str], where: Path | None = None) -> list[FileStatus]:
    """What ``git status`` tells of the files that match, each file for itself, renames apart."""
    asked = ["status", "--porcelain", "-z", "--no-renames", "-uall", "--", *pathspecs]
    lines = os.fsdecode(run(asked, cwd=where)).split("\0")
    return [FileStatus(line[3:], line[0], line[1]) for line in lines if line]


def _ask(arguments: Sequence[str], where: Repository | Path | None) -> bytes:
    if isinstance(where, Repository):
        return run(["--git-dir", str(where.git_dir), *arguments])
    return run(arguments, cwd=where)


def _paths(raw: bytes) -> list[str]:
    return [os.fsdecode(name) for name in raw.split(b"\0") if name]
