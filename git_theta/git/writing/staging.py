"""Changing index and working tree through git's own commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from git_theta.git.command import call, run
from git_theta.git.history.listing import TrackedFile


def add(paths: Sequence[str]) -> int:
    """Let ``git add`` stage ``paths`` in the current folder; its exit code. It speaks itself."""
    return call(["add", "--", *paths]).returncode


def put(
    files: Mapping[str, tuple[str, str]],
    cwd: Path | None = None,
    *,
    index: Path | None = None,
) -> None:
    """Give paths their (mode, blob) in the index (or in the index file ``index``), as resolved.

    Mode ``000000`` takes a path out.
    """
    lines = "".join(f"{mode} {blob}\t{path}\0" for path, (mode, blob) in files.items())
    _feed(lines, cwd, index)


def restore(
    path: str, hash_length: int, before: Iterable[TrackedFile], cwd: Path | None = None
) -> None:
    """Give ``path`` the entries in the index that it had ``before``, of all stages."""
    lines = [f"0 {'0' * hash_length}\t{path}\0"]
    lines += [f"{entry.mode} {entry.blob} {entry.stage}\t{entry.path}\0" for entry in before]
    _feed("".join(lines), cwd, None)


def _feed(lines: str, cwd: Path | None, index: Path | None) -> None:
    run(
        ["update-index", "--add", "-z", "--index-info"],
        cwd=cwd,
        stdin=_bytes(lines),
        environment=None if index is None else {"GIT_INDEX_FILE": str(index)},
    )


def leave_out(paths: Sequence[str], cwd: Path | None = None) -> None:
    """Mark paths of the index as those that a sparse checkout does not write."""
    asked = ["update-index", "-z", "--skip-worktree", "--stdin"]
    run(asked, cwd=cwd, stdin=_bytes(_joined(paths)))


def look_again(cwd: Path | None = None) -> None:
    """Have git compare the index with the working tree; what it finds is no error."""
    run(["update-index", "-q", "--refresh"], cwd=cwd, allowed=(0, 1, 128))


def write_out(paths: Sequence[str], cwd: Path | None = None) -> None:
    """Have git write the files ``paths`` of the index to the working tree, over what is there."""
    if paths:
        asked = ["checkout-index", "-f", "-u", "-z", "--stdin"]
        run(asked, cwd=cwd, stdin=_bytes(_joined(paths)))


def switch(old: str, new: str, cwd: Path | None = None) -> None:
    """Let index and working tree go from the commit or tree ``old`` to ``new``.

    :class:`~git_theta.errors.GitError`, with nothing changed, where that would overwrite something.
    """
    run(["read-tree", "-m", "-u", old, new], cwd=cwd)


def read_into(index: Path, tree: str | None, cwd: Path | None = None) -> None:
    """Make the file ``index`` a whole index of ``tree`` (None: of nothing)."""
    plain = ["-c", "core.splitIndex=false", "-c", "index.sparse=false"]
    environment = {"GIT_INDEX_FILE": str(index)}
    run([*plain, "read-tree", tree or "--empty"], cwd=cwd, environment=environment)


def write_tree(index: Path, cwd: Path | None = None) -> str:
    """The tree of the index file ``index``."""
    written = run(["write-tree"], cwd=cwd, environment={"GIT_INDEX_FILE": str(index)})
    return written.decode("ascii").strip()


def _joined(paths: Sequence[str]) -> str:
    return "".join(f"{path}\0" for path in paths)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
