"""Reading small blobs, through one ``git cat-file --batch-command`` that lives as long as its
reader.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import IO

from git_theta.errors import GitError
from git_theta.git.command import call, launch, run_code
from git_theta.git.repository import Repository

SIZE_LIMIT = 256 << 20

_REPEATED = 16 << 20  # bytes of a blob that is held, should it be asked for again


class BlobReader:
    """Reads blobs by any name git understands: ``HEAD:path``, ``:path``, an object id.

    Safe to use from several threads.

    ``cwd`` is where git is run; None: the current directory (as a filter, git has set everything up
    there).
    """

    def __init__(self, repository: Repository, cwd: Path | None = None) -> None:
        self._repository = repository
        self._cwd = cwd
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._index: tuple[int, int, int] | None = None
        self._last: tuple[bytes, bytes] = b"", b""  # id and bytes: index and HEAD mostly agree

    def __enter__(self) -> BlobReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def read(self, name: str, limit: int = SIZE_LIMIT) -> bytes | None:
        """The blob's bytes; None when there is no such blob, or it is larger than ``limit`` (then
        it is no manifest).
        """
        if "\n" in name:
            return self._read_alone(name, limit)
        with self._lock:
            stdin, stdout = self._streams()
            stdin.write(b"info " + os.fsencode(name) + b"\n")
            stdin.flush()
            words = self._reply(stdout)
            if len(words) != 3 or words[1] != b"blob" or int(words[2]) > limit:
                return None
            if words[0] == self._last[0]:
                return self._last[1]
            stdin.write(b"contents " + words[0] + b"\n")
            stdin.flush()
            size = int(self._reply(stdout)[2])
            data = stdout.read(size + 1)
            if len(data) != size + 1:
                raise GitError(f"git cat-file stopped while {name!a} was read")
            if size <= _REPEATED:
                self._last = words[0], data[:-1]
            return data[:-1]

    def _streams(self) -> tuple[IO[bytes], IO[bytes]]:
        index = _stamp(self._repository.index)
        if self._process is not None and (self._index != index or self._process.poll() is not None):
            self._stop()  # it keeps the index it once read
        if self._process is None:
            self._process = launch(
                ["cat-file", "--batch-command"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self._cwd,
            )
            self._index = index
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _reply(self, stdout: IO[bytes]) -> list[bytes]:
        line = stdout.readline()
        if not line.endswith(b"\n"):
            raise GitError("git cat-file stopped (git 2.36 or newer is needed)")
        words = line.split()
        return words if words[-1:] not in ([b"missing"], [b"ambiguous"]) else []

    def _read_alone(self, name: str, limit: int) -> bytes | None:
        code, size = run_code(["cat-file", "-s", name], cwd=self._cwd, allowed=(0, 1, 128))
        if code or int(size) > limit:
            return None
        code, data = run_code(["cat-file", "blob", name], cwd=self._cwd, allowed=(0, 1, 128))
        return None if code else data

    def _stop(self) -> None:
        if self._process is None:
            return
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        self._process.wait()
        self._process = None


def if_any(blob: str) -> bytes | None:
    """The bytes of a blob of the current repository; None if it is not there."""
    code, data = run_code(["cat-file", "blob", blob], allowed=(0, 128))
    return None if code else data


def write(repository: Repository, blob: str, path: Path) -> None:
    """Write a blob of any size to the new file ``path``.

    :class:`GitError` if git cannot read it.
    """
    with path.open("xb") as target:
        command = ["--git-dir", str(repository.git_dir), "cat-file", "blob", blob]
        done = call(command, stdout=target, stderr=subprocess.PIPE)
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise GitError(
            f"blob {blob} cannot be read: {words[0] if words else f'exit code {done.returncode}'}"
        )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
