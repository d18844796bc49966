"""What git stores for many files at once: manifests whole, of everything else the beginning and the
size.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, cast

from git_theta.core import earlier_release, lfs_pointer
from git_theta.core.manifest import is_manifest
from git_theta.errors import GitError
from git_theta.git.command import launch, run
from git_theta.git.repository import Repository

HEAD = 1024
# Blobs up to this size come through one process; of larger ones, which git would send whole, the
# head is read alone
_WHOLE = 16 << 20


@dataclass(frozen=True, slots=True)
class BlobContent:
    """A blob of ``size`` bytes; ``data`` is all of it if it is a manifest, else at least its first
    1024 bytes (fewer if it is shorter).
    """

    size: int
    data: bytes

    @property
    def is_manifest(self) -> bool:
        """Whether Git-Theta wrote it."""
        return is_manifest(self.data)

    @property
    def is_old_metadata(self) -> bool:
        """Whether Git-Theta 0.2 wrote it."""
        return earlier_release.is_metadata(self.data)

    @property
    def is_lfs_pointer(self) -> bool:
        """Whether Git LFS wrote it."""
        return lfs_pointer.is_pointer(self.size, self.data)


def read(
    repository: Repository,
    blobs: Iterable[str],
    *,
    limit: int | None = None,
    replaced: bool = True,
) -> Iterator[tuple[str, BlobContent]]:
    """The contents of ``blobs``, each once; those that git has not (as in a partial clone that is
    offline) are left out.

    Of a manifest of more than ``limit`` bytes only the head is read. Without ``replaced``,
    ``refs/replace`` has no effect.
    """
    every = list(dict.fromkeys(blobs))
    where = repository.git_dir
    git = [] if replaced else ["--no-replace-objects"]
    if not every:
        return
    sizes = {}
    for line in (
        run(
            [*git, "cat-file", "--batch-check"],
            cwd=where,
            stdin="\n".join(every).encode("ascii") + b"\n",
        )
        .decode("ascii")
        .splitlines()
    ):
        words = line.split(" ")
        if len(words) == 3 and words[1] == "blob":
            sizes[words[0]] = int(words[2])
    small = [blob for blob in every if sizes.get(blob, _WHOLE + 1) <= _WHOLE]
    yield from _batch(repository, small, git)
    for blob in every:
        size = sizes.get(blob, 0)
        if size > _WHOLE:
            whole = limit is None or size <= limit
            yield blob, BlobContent(size, _large(repository, blob, git, whole))


def _batch(
    repository: Repository, blobs: Sequence[str], git: Sequence[str]
) -> Iterator[tuple[str, BlobContent]]:
    if not blobs:
        return
    with launch(
        [*git, "cat-file", "--batch"],
        cwd=repository.git_dir,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        stdin, stdout = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
        feeder = threading.Thread(target=_feed, args=(stdin, blobs), name="git-theta-feed")
        feeder.start()
        try:
            for blob in blobs:
                words = stdout.readline().split()
                if len(words) != 3:
                    raise GitError(f"git cat-file stopped at blob {blob}")
                size = int(words[2])
                data = stdout.read(size + 1)[:-1]
                yield blob, BlobContent(size, data if is_manifest(data) else data[:HEAD])
        finally:
            process.kill()
            feeder.join()


def _feed(stdin: BinaryIO, blobs: Sequence[str]) -> None:
    try:
        with stdin:
            stdin.write("\n".join(blobs).encode("ascii") + b"\n")
    except OSError:  # the reader has stopped
        pass


def _large(repository: Repository, blob: str, git: Sequence[str], whole: bool) -> bytes:
    with launch(
        [*git, "cat-file", "blob", blob], cwd=repository.git_dir, stdout=subprocess.PIPE
    ) as process:
        stdout = cast(BinaryIO, process.stdout)
        head = stdout.read(HEAD)
        rest = stdout.read() if whole and is_manifest(head) else b""
        process.kill()
    return head + rest
