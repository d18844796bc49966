"""What a repository still needs: everything that some command could bring back without a remote.

Refs, the reflogs and the indexes of all worktrees are git's own answer. Git's notes of unfinished
and recent work (``MERGE_HEAD``, ``ORIG_HEAD``, ``FETCH_HEAD``, ``AUTO_MERGE``, the state of a
rebase, …) are read here, as ``rev-list`` knows nothing of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from git_theta.core.manifest import MAGIC
from git_theta.git.command import run, run_code
from git_theta.git.history.manifest_scan import Found, git
from git_theta.git.repository import Repository

OPTIONS = ("--all", "--reflog", "--indexed-objects")
SETTLED = Path("theta", "merge")  # below a worktree's git directory
_STATE_FOLDERS = ("rebase-merge", "rebase-apply", "sequencer")
_NOTE = re.compile(r"[A-Z][A-Z0-9_]*\Z")  # MERGE_HEAD and its kind
_OBJECT = re.compile(rb"\b[0-9a-f]{7,64}\b")
_LARGEST = 4 << 20
_OWN_REFS = ("refs/bisect", "refs/rewritten", "refs/worktree")  # of which each worktree has its own


def state_objects(repository: Repository) -> list[str]:
    """The objects named in every worktree's own refs and notes of unfinished and recent work; those
    that do not exist are left out.
    """
    words: set[bytes] = set()
    for folder in git_dirs(repository):
        asked = ["--git-dir", str(folder), "for-each-ref", "--format=%(objectname)", *_OWN_REFS]
        # 128: what a worktree left behind that is gone
        words.update(run_code(asked, allowed=(0, 128))[1].split())
        for path in _notes(folder):
            try:
                if path.stat().st_size <= _LARGEST:
                    words.update(_OBJECT.findall(path.read_bytes()))
            except OSError:
                continue
    if not words:
        return []
    listed = git(
        repository,
        ["cat-file", "--buffer", "--batch-check=%(objectname) %(objecttype)"],
        b"\n".join(sorted(words)) + b"\n",
    )
    rows = (line.split() for line in listed.splitlines())
    return sorted(
        {
            row[0].decode("ascii")
            for row in rows
            if len(row) == 2 and row[1] in (b"commit", b"tree", b"blob", b"tag")
        }
    )


def state(repository: Repository) -> object:
    """What is equal as long as neither a ref, nor an index, nor a note of unfinished work has
    changed, in any worktree.
    """
    facts: list[object] = []
    for folder in git_dirs(repository):
        facts.append(
            run_code(
                ["--git-dir", str(folder), "for-each-ref", "--format=%(refname) %(objectname)"],
                allowed=(0, 128),
            )
        )
        facts += [
            _stamp(path)
            for path in (
                folder / "HEAD",
                folder / "index",
                *_notes(folder),
                folder / "logs" / "HEAD",
            )
        ]
    return (*facts, _stamp(repository.index))


def _stamp(path: Path) -> tuple[str, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path), status.st_ino, status.st_size, status.st_mtime_ns


def git_dirs(repository: Repository) -> list[Path]:
    """The folder of the main worktree's state and of each linked worktree's."""
    linked = repository.common_dir / "worktrees"
    return [
        repository.common_dir,
        *(sorted(path for path in linked.iterdir() if path.is_dir()) if linked.is_dir() else []),
    ]


def worktrees(repository: Repository) -> list[Path]:
    """The working trees that exist."""
    listed = git(repository, ["worktree", "list", "--porcelain"]).decode("utf-8", "surrogateescape")
    found, main = list[Path](), _main_worktree(repository)
    for number, lines in enumerate(block.split("\n") for block in listed.split("\n\n")):
        if lines[0].startswith("worktree ") and "bare" not in lines:
            found.append(
                main
                if main is not None and number == 0
                else Path(lines[0].removeprefix("worktree "))
            )
    return [path for path in found if path.is_dir()]


def _main_worktree(repository: Repository) -> Path | None:
    """Where the main working tree is, if that is known better than by git, which takes it to be
    around the repository's folder: that of a submodule, and one with a separate git directory, is
    not.
    """
    if repository.worktree is not None and repository.git_dir.samefile(repository.common_dir):
        return repository.worktree
    asked = [
        "--git-dir",
        str(repository.common_dir),
        "config",
        "--type=path",
        "--get",
        "core.worktree",
    ]
    named = run(asked, allowed=(0, 1)).decode("utf-8", "surrogateescape").rstrip("\n")
    return repository.common_dir / named if named else None


def stashes(repository: Repository) -> list[str]:
    """The stashed commits, the newest first. ``git stash list`` would want a working tree."""
    if not git(repository, ["for-each-ref", "refs/stash"]):
        return []
    return git(repository, ["rev-list", "--walk-reflogs", "refs/stash"]).decode("ascii").split()


def written_manifests(repository: Repository) -> Iterator[Found]:
    """Manifests that lie in working trees in place of models, whether git knows them or not."""
    for tree in worktrees(repository):
        if not (tree / ".git").exists():
            continue
        there = ["--git-dir", str(tree / ".git"), "--work-tree", str(tree)]
        asked = [
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--",
            ":(top,attr:filter=theta)",
        ]
        for name in dict.fromkeys(run([*there, *asked], cwd=tree).split(b"\0")):
            path = tree / os.fsdecode(name)
            try:
                if (
                    name
                    and path.is_file()
                    and not path.is_symlink()
                    and _starts_like_a_manifest(path)
                ):
                    yield Found("", os.fsdecode(name), path.read_bytes())
            except OSError:
                continue


def settled_manifests(repository: Repository) -> Iterator[Found]:
    """What is settled of models that a merge left in conflict, in every worktree (see
    ``workflows/merging/state.py``).
    """
    for folder in git_dirs(repository):
        for path in sorted((folder / SETTLED).glob("*")):
            try:
                yield Found("", str(path), path.read_bytes().partition(b"\n")[2])
            except OSError:
                continue


def _starts_like_a_manifest(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _notes(folder: Path) -> Sequence[Path]:
    """The files that hold such notes in one worktree's folder."""
    try:
        found = [
            Path(entry.path)
            for entry in os.scandir(folder)
            if _NOTE.match(entry.name) and entry.is_file()
        ]
    except OSError:
        return []
    for name in _STATE_FOLDERS:
        found += [path for path in (folder / name).rglob("*") if path.is_file()]
    return found
