"""Remembers which manifest a working-tree file has, by the file's stat data, so that it need not be
read to know.

A throw-away speed-up: deleting it changes no result. An entry is believed only if size, inode,
mtime and ctime are the same to the nanosecond, and it is made only for a file that had been left
alone for longer than its file system's clock can tell apart.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from git_theta.core.digest import digest
from git_theta.core.source import stamp

_FINE = 50_000_000  # ns: above any kernel's tick
_COARSE = 2_000_000_000  # ns: file systems that keep whole (or even) seconds


class StatCache:
    """Manifests by path, under ``folder``. Trouble with the cache is never an error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "stat"

    def get(self, path: str, status: os.stat_result) -> bytes | None:
        """The manifest of the file at ``path``, if it is sure to be as it was when it was last
        read.
        """
        facts, text = self._entry(path)
        return text if facts == [*stamp(status)] else None

    def last(self, path: str) -> bytes:
        """The manifest that ``path`` last had, whatever the file is now; empty if that is not
        known.
        """
        return self._entry(path)[1]

    def _entry(self, path: str) -> tuple[list[object], bytes]:
        """What the file was when it was read, and its manifest (empty when there is none, or none
        that is whole).
        """
        with suppress(OSError, ValueError, RecursionError):
            head, _, text = self._file(path).read_bytes().partition(b"\n")
            fields = json.loads(head)
            if isinstance(fields, list) and fields[:1] == [path] and fields[-1:] == [digest(text)]:
                return fields[1:-1], text
        return [], b""

    def put(self, path: str, status: os.stat_result, read_since_ns: int, manifest: bytes) -> None:
        """Remember that the file with ``status``, read from ``read_since_ns`` (wall clock) on, has
        this manifest.
        """
        newest = max(status.st_mtime_ns, status.st_ctime_ns)
        margin = _COARSE if status.st_mtime_ns % 1_000_000_000 == 0 else _FINE
        if newest + margin > read_since_ns:
            return
        self._write(path, [*stamp(status)], manifest)

    def expect(self, path: str, manifest: bytes) -> None:
        """Remember that ``path`` is about to get the content that ``manifest`` describes, so that
        cleaning it gives that very manifest.

        ``git merge -s recursive`` asks for that before its index holds the result, and stops if it
        gets another manifest.
        """
        self._write(path, [], manifest)

    def _write(self, path: str, facts: list[int], manifest: bytes) -> None:
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._file(path)
            temporary = file.with_name(f"{file.name}.{os.getpid()}")
            head = json.dumps([path, *facts, digest(manifest)]).encode("ascii")
            temporary.write_bytes(head + b"\n" + manifest)
            temporary.replace(file)

    def _file(self, path: str) -> Path:
        return self._folder / digest(path.encode("utf-8", "surrogateescape"))[:32]


def now() -> int:
    """The wall clock in nanoseconds, as file times have it."""
    return time.time_ns()
