"""The manifests in a part of history: found by content, as attributes may have said something else
in an older commit.

``git rev-list --objects`` names the blobs, one pass of ``git cat-file --batch`` reads them. Nothing
is asked per commit.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from git_theta.core.manifest import MAGIC, is_manifest
from git_theta.errors import GitError
from git_theta.git.command import launch, run, run_code
from git_theta.git.history import listing, revisions
from git_theta.git.history.blobs import SIZE_LIMIT
from git_theta.git.repository import Repository

_SMALLEST = len(MAGIC) + 60  # no manifest is shorter than its header
# Larger blobs are looked at one by one, so that git need not send them whole to be dropped
_WHOLE = 16 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A manifest that git stores: its blob, a path at which it was found, and its text."""

    blob: str
    path: str
    text: bytes


def blobs(
    repository: Repository,
    include: Iterable[str],
    exclude: Iterable[str] = (),
    options: Sequence[str] = (),
    grafted: bool = False,
) -> dict[str, str]:
    """Blob → a path of it: what is reachable from ``include`` and not from ``exclude``, both object
    ids.

    Those of ``exclude`` that are unknown here are ignored. ``options`` are further ones of ``git
    rev-list``. With ``grafted``, commits have the parents that ``info/grafts`` gives them.
    """
    wanted = _range(include, exclude)
    if not wanted.strip() and not options:
        return {}
    arguments = [
        "rev-list",
        "--objects",
        "--ignore-missing",
        "--filter=object:type=blob",
        "--filter-provided-objects",
    ]
    listed = git(repository, [*arguments, *options, "--stdin"], wanted, grafted)
    found: dict[str, str] = {}
    for line in listed.split(b"\n"):
        oid, _, path = line.partition(b" ")
        if oid:
            found.setdefault(oid.decode("ascii"), path.decode("utf-8", "surrogateescape"))
    return found


def manifests(repository: Repository, named: dict[str, str]) -> Iterator[Found]:
    """Those of the blobs ``named`` (blob → path) that are manifests, in their order."""
    sizes = [
        (oid, size) for oid, size in _sizes(repository, named) if _SMALLEST <= size <= SIZE_LIMIT
    ]
    small = [oid for oid, size in sizes if size <= _WHOLE]
    for oid, data in _contents(repository, small):
        if is_manifest(data):
            yield Found(oid, named[oid], data)
    for oid, size in sizes:
        if size > _WHOLE:
            data = _large(repository, oid)
            if data:
                yield Found(oid, named[oid], data)


def tree_blobs(repository: Repository, revision: str) -> dict[str, str]:
    """Blob → path of the files in the tree of one revision."""
    # As 'git checkout' would have it, replacements included
    return listing.by_blob(listing.tree(f"{revision}^{{tree}}", where=repository))


def index_blobs(repository: Repository, index: Path | None = None) -> dict[str, str]:
    """Blob → path of everything in the index in force, or in the file ``index``; the sides of
    conflicts included.
    """
    if repository.worktree is None:
        return {}
    return listing.by_blob(listing.index((), repository.worktree, file=index))


def resolve(repository: Repository, revision: str) -> str | None:
    """The object that a revision names; None when there is none."""
    return revisions.find(revision, "object", repository)


def count(repository: Repository, include: Iterable[str], exclude: Iterable[str]) -> int:
    """How many commits are reachable from ``include`` and not from ``exclude``; what is unknown
    here is ignored.
    """
    return int(
        git(
            repository,
            ["rev-list", "--count", "--ignore-missing", "--stdin"],
            _range(include, exclude),
        )
    )


def named(git_dir: Path, oids: Sequence[str]) -> list[str]:
    """Those of ``oids`` that a ref of the repository in ``git_dir`` names."""
    if not oids:
        return []
    _, listed = run_code(
        ["--git-dir", str(git_dir), "for-each-ref", "--format=%(objectname)"], allowed=range(256)
    )
    there = set(listed.decode("ascii").split())
    return [oid for oid in oids if oid in there]


def commits(repository: Repository, names: Iterable[str]) -> list[str]:
    """The commits that ``names`` (object ids) are, or as tags name; those of something else are
    left out.
    """
    return (
        git(repository, ["rev-list", "--no-walk", "--ignore-missing", "--stdin"], _range(names, []))
        .decode("ascii")
        .split()
    )


def mentioned(repository: Repository, text: str, revisions: Sequence[str], pathspec: str) -> bool:
    """Whether ``text`` stands in a file that matches, in one of ``revisions``."""
    for start in range(0, len(revisions), 500):
        some = revisions[start : start + 500]
        asked = [
            "--git-dir",
            str(repository.git_dir),
            "grep",
            "-q",
            "-F",
            "-e",
            text,
            *some,
            "--",
            pathspec,
        ]
        if not run_code(asked, allowed=(0, 1))[0]:
            return True
    return False


def commit_of(repository: Repository, blob: str) -> str:
    """The abbreviated id of the newest commit, on any ref, that brought or took away a blob; empty
    when there is none.
    """
    found = git(repository, ["log", "--all", "-1", "--format=%h", f"--find-object={blob}"])
    return found.decode("ascii").strip()


def commits_of(repository: Repository, wanted: set[str]) -> dict[str, str]:
    """Blob → the abbreviated id of the newest commit, on any ref, that put it into the tree."""
    if not wanted:
        return {}
    form = [
        "log",
        "--all",
        "--format=%H",
        "--raw",
        "-r",
        "-m",
        "--root",
        "--no-renames",
        "--no-abbrev",
        "-z",
    ]
    found: dict[str, str] = {}
    commit = ""
    fields = iter(git(repository, form).decode("utf-8", "surrogateescape").split("\0"))
    for item in fields:
        head = item.lstrip("\n")
        if not head.startswith(":"):
            commit = head or commit
            continue
        next(fields, "")  # the path
        blob = head.split(" ")[3]
        if blob in wanted:
            found.setdefault(blob, commit[:12])
    return found


def recent_tips(repository: Repository, days: int) -> list[str]:
    """What those branches, remote branches and tags name that moved in the last ``days`` days."""
    limit = time.time() - days * 86400
    form = "--format=%(objectname) %(creatordate:unix)"
    listed = git(
        repository, ["for-each-ref", form, "refs/heads", "refs/remotes", "refs/tags"]
    ).decode("ascii")
    rows = (line.split(" ") for line in listed.splitlines())
    return list(
        dict.fromkeys(row[0] for row in rows if len(row) == 2 and row[1] and int(row[1]) >= limit)
    )


def replaced(
    repository: Repository, include: Iterable[str], exclude: Iterable[str], new: Iterable[str]
) -> dict[str, str]:
    """What the manifests ``new`` came from: blob → path of the versions that stood in the parents
    of the new commits' files.

    Those that are new themselves are left out, so all of these are reachable from ``exclude``.
    """
    fresh = set(new)
    listed = git(repository, ["rev-list", "--ignore-missing", "--stdin"], _range(include, exclude))
    changes = git(
        repository,
        [
            "diff-tree",
            "--stdin",
            "-r",
            "-m",
            "--root",
            "--no-renames",
            "--raw",
            "--abbrev=64",
            "-z",
        ],
        listed,
    )
    found: dict[str, str] = {}
    removed: dict[str, str] = {}
    added = False
    fields = iter(changes.decode("utf-8", "surrogateescape").split("\0"))
    for head in fields:
        if not head.startswith(":"):  # the commit that the changes behind it belong to
            found.update(removed if added else {})
            removed, added = {}, False
            continue
        path = next(fields)
        _, _, old, after, status = head.split(" ")
        if after in fresh and status == "A":
            added = True
        elif after in fresh and old not in fresh:
            found[old] = path
        elif status == "D" and old not in fresh:  # perhaps renamed
            removed[old] = path
    found.update(removed if added else {})
    return found


def _range(include: Iterable[str], exclude: Iterable[str]) -> bytes:
    return ("\n".join([*include, *(f"^{oid}" for oid in exclude)]) + "\n").encode("ascii")


def git(
    repository: Repository, arguments: Sequence[str], stdin: bytes = b"", grafted: bool = False
) -> bytes:
    """What a git command prints that looks at the repository's own objects, wherever the current
    folder is.

    Replacements of objects are not looked at, nor, unless ``grafted``, other parents.
    """
    own = None if grafted else {"GIT_GRAFT_FILE": os.devnull}
    return run(
        [*own_objects(repository), *arguments],
        stdin=stdin,
        environment=own,
    )


def own_objects(repository: Repository) -> list[str]:
    """The options with which git looks at a repository's own objects, not at replacements; it gives
    no advice on a file of grafts, which would be taken for its reason if it fails.
    """
    advice = ["-c", "advice.graftFileDeprecated=false"]
    return ["--git-dir", str(repository.git_dir), *advice, "--no-replace-objects"]


def _sizes(repository: Repository, named: Iterable[str]) -> list[tuple[str, int]]:
    listed = git(
        repository,
        ["cat-file", "--buffer", "--batch-check=%(objectname) %(objecttype) %(objectsize)"],
        ("\n".join(named) + "\n").encode("ascii"),
    )
    rows = (line.split(" ") for line in listed.decode("ascii").splitlines())
    return [(row[0], int(row[2])) for row in rows if len(row) == 3 and row[1] == "blob"]


def _contents(repository: Repository, oids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The bytes of blobs, in order.

    The names go in through a file: nobody has to feed a pipe while the other is read.
    """
    if not oids:
        return
    with tempfile.TemporaryFile() as names:
        names.write("\n".join(oids).encode("ascii") + b"\n")
        names.seek(0)
        command = [
            "--git-dir",
            str(repository.git_dir),
            "--no-replace-objects",
            "cat-file",
            "--buffer",
            "--batch",
        ]
        with launch(command, stdin=names, stdout=subprocess.PIPE) as process:
            stdout = cast(IO[bytes], process.stdout)
            try:
                for oid in oids:
                    words = stdout.readline().split()
                    if len(words) != 3:
                        raise GitError(
                            f"git cat-file stopped at object {oid}; 'git fsck' may tell why"
                        )
                    size = int(words[2])
                    data = stdout.read(size + 1)
                    if len(data) != size + 1:
                        raise GitError(
                            f"git cat-file stopped within object {oid}; 'git fsck' may tell why"
                        )
                    yield oid, data[:-1]
            finally:
                process.kill()


def _large(repository: Repository, oid: str) -> bytes:
    """A large blob if it is a manifest, else nothing."""
    command = [
        "--git-dir",
        str(repository.git_dir),
        "--no-replace-objects",
        "cat-file",
        "blob",
        oid,
    ]
    with launch(command, stdout=subprocess.PIPE) as process:
        stdout = cast(IO[bytes], process.stdout)
        head = stdout.read(256)
        data = head + stdout.read() if is_manifest(head) else b""
        process.kill()
    return data
