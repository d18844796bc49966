"""The commits that changed a file, by one ``git log``: who, when, what it is called there, and the
blob each has.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from git_theta.errors import GitError
from git_theta.git.command import run

_FORMAT = "%H%x00%P%x00%an%x00%ae%x00%aI%x00%s"
_FIELDS = 6
_RENAMES = 64


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that changed the file at ``path``.

    ``parents`` are the nearest earlier commits that changed it, as ``git log --parents`` rewrites
    them. ``blob`` is None where the commit deleted the file, ``old_blob`` (that of the first
    parent) where it added it. ``date`` is the author's, in ISO 8601.
    """

    oid: str
    parents: tuple[str, ...]
    author: str
    email: str
    date: str
    subject: str
    path: str
    old_blob: str | None
    blob: str | None

    @property
    def hexsha(self) -> str:
        """The commit's id, under GitPython's name for it."""
        return self.oid


def of_file(
    path: str, revisions: Sequence[str] = (), cwd: Path | None = None, count: int | None = None
) -> list[Commit]:
    """The commits in ``revisions`` (HEAD, if none) that changed the file ``path`` (from the top), a
    commit before its parents.

    Merges count where they differ from every parent. Where the file was renamed, its history goes
    on under the old name.
    """
    found: dict[str, Commit] = {}
    queue = [(path, list(revisions))]
    for name, where in queue:
        limit = [] if count is None else [f"--max-count={max(0, count - len(found))}"]
        commits = _log(name, where, limit, cwd)
        origins = {
            commit.oid: _origin(commit, cwd) for commit in commits if commit.old_blob is None
        }
        renamed = {
            oid: origin
            for oid, origin in origins.items()
            if origin is not None and len(queue) < _RENAMES
        }
        for commit in _reached(commits, renamed):
            origin = renamed.get(commit.oid)
            if commit.oid in found:
                continue
            found[commit.oid] = commit if origin is None else _continued(commit, origin, cwd)
            if origin is not None:
                queue.append((origin, [f"{commit.oid}^@"]))
        if count is not None and len(found) >= count:
            break
    return list(found.values())


def _reached(commits: Sequence[Commit], ends: Container[str]) -> list[Commit]:
    """Those of ``commits`` that the newest reaches without going through one of ``ends``."""
    inner = {parent for commit in commits for parent in commit.parents}
    wanted = {commit.oid for commit in commits if commit.oid not in inner}
    for commit in commits:  # children come first
        if commit.oid in wanted and commit.oid not in ends:
            wanted.update(commit.parents)
    return [commit for commit in commits if commit.oid in wanted]


def _log(
    path: str, revisions: Sequence[str], options: Sequence[str], cwd: Path | None
) -> list[Commit]:
    arguments = [
        "log",
        "-z",
        "--topo-order",
        "--parents",
        "--raw",
        "--no-abbrev",
        "--no-renames",
        "--diff-merges=first-parent",
        *options,
    ]
    raw = run(
        [
            *arguments,
            f"--format={_FORMAT}",
            "--end-of-options",
            *revisions,
            "--",
            f":(top,literal){path}",
        ],
        cwd=cwd,
    )
    # Git adds roots of the simplified history
    changing = [commit for commit in parse(raw, path) if commit.old_blob or commit.blob]
    known = {commit.oid for commit in changing}
    return [
        replace(commit, parents=tuple(oid for oid in commit.parents if oid in known))
        for commit in changing
    ]


def parse(raw: bytes, path: str) -> Iterator[Commit]:
    """What ``git log -z --raw`` printed for one file."""
    tokens = raw.split(b"\0")
    position = 0
    while position + _FIELDS <= len(tokens):
        fields = [
            token.decode("utf-8", "replace") for token in tokens[position : position + _FIELDS]
        ]
        position += _FIELDS
        old, new = None, None
        while position < len(tokens) and tokens[position].lstrip(b"\n").startswith(b":"):
            words = tokens[position].decode("ascii", "replace").strip().lstrip(":").split(" ")
            if len(words) != 5:
                raise GitError("git's log cannot be read")
            old, new = (None if set(word) == {"0"} else word for word in words[2:4])
            position += 2
        oid = fields[0].split(" ")[0].strip()
        yield Commit(
            oid,
            tuple(fields[1].split()),
            fields[2],
            fields[3],
            fields[4],
            fields[5],
            path,
            old,
            new,
        )


def blobs(
    revision: str, pathspecs: Sequence[str], count: int, cwd: Path | None = None
) -> list[str]:
    """The blobs, old and new, that the last ``count`` commits up to ``revision`` changed at
    ``pathspecs``, the newest first.
    """
    asked = ["log", f"--max-count={count}", "-m", "--format=", "--raw", "--no-renames"]
    more = ["--no-abbrev", "-z", "--end-of-options", revision, "--", *pathspecs]
    return list(dict.fromkeys(_blobs(run([*asked, *more], cwd=cwd))))


def _blobs(log: bytes) -> Iterator[str]:
    """The blobs, old and new, in the output of ``git log --raw -z``."""
    fields = iter(log.decode("utf-8", "surrogateescape").split("\0"))
    for field in fields:
        if field.lstrip("\n").startswith(":"):
            next(fields, "")  # the path, which may begin like this too
            for mode, blob in zip(field.lstrip("\n:").split()[:2], field.split()[2:4], strict=True):
                if blob.strip("0") and mode != "160000":
                    yield blob


def _origin(commit: Commit, cwd: Path | None) -> str | None:
    """What the file that ``commit`` added was called before, if git takes it for a renamed one."""
    raw = run(
        [
            "diff-tree",
            "-r",
            "-z",
            "-M",
            "--raw",
            "--no-abbrev",
            "--diff-filter=R",
            "--no-commit-id",
            commit.oid,
        ],
        cwd=cwd,
    )
    tokens = raw.split(b"\0")
    for number in range(0, len(tokens) - 2, 3):
        if tokens[number + 2] == os.fsencode(commit.path):
            return os.fsdecode(tokens[number + 1])
    return None


def _continued(commit: Commit, origin: str, cwd: Path | None) -> Commit:
    """The commit that renamed the file, joined to the history that it had under its old name
    ``origin``.
    """
    earlier = _log(origin, [f"{commit.oid}^@"], ["--max-count=1"], cwd)
    parents = tuple(item.oid for item in earlier)
    blob = next((item.blob for item in earlier), None)
    return replace(commit, parents=parents, old_blob=blob)
