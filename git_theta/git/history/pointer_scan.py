"""The objects that a history of Git LFS pointers names.

Only a blob's content counts, as it does for the servers that collect objects: a blob is a pointer
if its bytes are exactly those of one. Everything else in such a history (other files, subtrees,
symbolic links, submodules, odd names) is ignored. Nothing is checked out, and no blob larger than a
pointer is read, so a hostile history costs time in proportion to its objects, and no memory.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from git_theta.core import lfs_pointer
from git_theta.core.manifest import ObjectRef
from git_theta.errors import GitError
from git_theta.git.command import inherited_environment, launch

LIMIT = 4_000_000
"""Pointers above which a history is refused."""


def named(
    git_dir: Path,
    tips: Sequence[str],
    exclude: Sequence[str] = (),
    *,
    hidden: Sequence[str] = (),
    limit: int = LIMIT,
) -> Iterator[ObjectRef]:
    """Each object that an exact pointer names in a commit reachable from ``tips`` and not from
    ``exclude`` (object ids), once.

    ``git_dir`` is the repository's folder, which may be bare. Git gets the environment without the
    variables ``hidden``. :class:`GitError` if a tip is missing or damaged, or for more than
    ``limit`` pointers.
    """
    if not tips:
        return
    with tempfile.TemporaryFile() as blobs:
        count = 0
        for blob in _of_pointer_size(git_dir, tips, exclude, hidden):
            count += 1
            if count > limit:
                raise GitError(
                    f"commit {tips[0][:12]} and those before it hold more than {limit:,} Git LFS"
                    " pointers; they are not read"
                )
            blobs.write(blob + b"\n")
        if count:
            blobs.seek(0)
            yield from _parsed(git_dir, blobs, hidden)


def unnamed(
    git_dir: Path,
    tips: Sequence[str],
    wanted: Iterable[ObjectRef],
    *,
    hidden: Sequence[str] = (),
    limit: int = LIMIT,
) -> list[ObjectRef]:
    """Those of ``wanted``, in their order, that :func:`named` does not give for ``tips``."""
    left = dict.fromkeys(wanted)
    if left:
        for ref in named(git_dir, tips, hidden=hidden, limit=limit):
            left.pop(ref, None)
    return list(left)


def _git(
    git_dir: Path, hidden: Sequence[str], *arguments: str, stdin: IO[bytes]
) -> subprocess.Popen[bytes]:
    own = {"GIT_GRAFT_FILE": os.devnull, "GIT_NO_LAZY_FETCH": "1"}
    return launch(
        ["--git-dir", str(git_dir), "--no-replace-objects", *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=inherited_environment(own, hidden),
    )


def _of_pointer_size(
    git_dir: Path, tips: Sequence[str], exclude: Sequence[str], hidden: Sequence[str]
) -> Iterator[bytes]:
    """The ids of all blobs of the history that are as large as a pointer."""
    walk = ["rev-list", "--objects", "--no-object-names", "--filter=object:type=blob"]
    look = ["cat-file", "--buffer", "--batch-check=%(objectname) %(objecttype) %(objectsize)"]
    with tempfile.TemporaryFile() as names:
        asked = [*tips, *(f"^{tip}" for tip in exclude)]
        names.write("".join(f"{name}\n" for name in asked).encode("ascii"))
        names.seek(0)
        with _git(git_dir, hidden, *walk, "--stdin", stdin=names) as walker:
            listed = cast(IO[bytes], walker.stdout)
            with _git(git_dir, hidden, *look, stdin=listed) as looker:
                listed.close()
                try:
                    for line in cast(IO[bytes], looker.stdout):
                        words = line.split()
                        if len(words) == 3 and words[1] == b"blob":
                            size = int(words[2])
                            if lfs_pointer.SMALLEST <= size <= lfs_pointer.LARGEST:
                                yield words[0]
                    looked = looker.wait()
                finally:
                    looker.kill()
                    walker.kill()
            if walker.wait() or looked:
                raise GitError(
                    f"the Git LFS pointers of commit {tips[0][:12]} cannot be read; 'git fsck' may"
                    " report why"
                )


def _parsed(git_dir: Path, blobs: IO[bytes], hidden: Sequence[str]) -> Iterator[ObjectRef]:
    with _git(git_dir, hidden, "cat-file", "--buffer", "--batch", stdin=blobs) as process:
        stdout = cast(IO[bytes], process.stdout)
        try:
            for line in stdout:
                words = line.split()
                if len(words) != 3:
                    raise GitError("git cat-file stopped; 'git fsck' may report why")
                size = int(words[2])
                data = stdout.read(size + 1)
                if len(data) != size + 1:
                    raise GitError("git cat-file stopped; 'git fsck' may report why")
                found = lfs_pointer.parse(data[:-1])
                if found is not None:
                    yield ObjectRef(*found)
        finally:
            process.kill()
