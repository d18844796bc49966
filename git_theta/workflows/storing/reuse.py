"""What the rest of the repository knows of a tensor: the other tracked models, and every tensor
stored here before.

Asked only for tensors that the model's own earlier versions do not answer for: a model new under
its path, renamed tensors, shards split another way, averaged copies.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from git_theta.core.manifest import Entry, Manifest, dump_chain, parse_chain
from git_theta.core.tensors import Spec
from git_theta.errors import ManifestError, ThetaError
from git_theta.git.history import listing

if TYPE_CHECKING:
    import sqlite3

    from git_theta.core.manifest import Link
    from git_theta.workflows.session import Session

# Other models that are looked at; beyond that a repository is a collection, not a history
_MODELS = 64


class Elsewhere:
    """Other models of the index, and the log of stored tensors.

    Whatever is missing or damaged here only costs bytes.

    ``path`` is the model that asks. The model that the user said it descends from (``theta-base``
    in ``.gitattributes``) is looked at first.
    """

    def __init__(self, session: Session, path: str) -> None:
        self._session = session
        self._path = path
        self._lock = threading.Lock()
        self._models: list[Manifest] | None = None
        self._log = TensorLog(session)

    def close(self) -> None:
        """Release the log."""
        self._log.close()

    def chain(self, digest: str, spec: Spec) -> tuple[Link, ...] | None:
        """How a tensor with these very bytes is stored already, under whatever name."""
        for manifest in self._others():
            entry = manifest.by_digest.get((digest, spec.dtype))
            if entry is not None and entry.shape == spec.shape:
                return entry.chain
        chain = self._log.get(digest, spec)
        if chain and not self._session.store.missing(ref for link in chain for ref in link.objects):
            return chain
        return None

    def bases(self, name: str, spec: Spec) -> list[Entry]:
        """Tensors of that name and shape in other models, the likeliest ancestor first; another
        dtype will do.
        """
        found = [
            m.by_name[name]
            for m in self._others()
            if name in m.by_name and m.by_name[name].shape == spec.shape
        ]
        return sorted(found, key=lambda entry: entry.dtype != spec.dtype)[:1]

    def skeletons(self) -> list[Entry]:
        """The skeletons of other models, the likeliest ancestor's first."""
        return [manifest.skeleton for manifest in self._others()]

    def remember(self, entries: Iterable[Entry]) -> None:
        """Log how tensors are stored, for later."""
        self._log.put(entries)

    def _others(self) -> Sequence[Manifest]:
        with self._lock:
            if self._models is None:
                self._models = []
                with suppress(ThetaError):
                    self._models = self._read()
            return self._models

    def _read(self) -> list[Manifest]:
        entries = listing.index([":(top,attr:filter=theta)"], self._session.cwd)
        found = {entry.path: entry.blob for entry in entries if not entry.stage}
        paths = [path for path in found if path != self._path]
        base = self._named_base() if paths else None
        paths.sort(key=lambda path: (path != base, _distance(path, self._path), path))
        models = [self._session.manifest(found[path]) for path in paths[:_MODELS]]
        return [model for model in models if model is not None]

    def _named_base(self) -> str | None:
        from git_theta.git.config import attributes

        values = attributes.check(self._session.repository, [self._path], [attributes.BASE])
        return attributes.base_in(values.get(self._path, {}))


def _distance(path: str, other: str) -> int:
    """How far apart two files are in the tree, and how unlike their names: a fine-tune is mostly
    saved beside its base.
    """
    a, b = path.split("/"), other.split("/")
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    same = sum(x == y for x, y in zip(path, other, strict=False))
    return (len(a) + len(b) - 2 * shared) * 1000 - same


class TensorLog:
    """Every tensor that was stored from this worktree: digest and type → chain.

    A cache: deleting it loses nothing.
    """

    def __init__(self, session: Session) -> None:
        self._file = session.repository.cache / "tensors.sqlite"
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def get(self, digest: str, spec: Spec) -> tuple[Link, ...] | None:
        """The chain last logged for a tensor."""
        if self._connection is None and not self._file.exists():
            return None
        import sqlite3

        with self._lock, suppress(sqlite3.Error, OSError, ManifestError):
            row = (
                self._open()
                .execute("SELECT chain FROM tensors WHERE key = ?", (f"{digest} {spec}",))
                .fetchone()
            )
            return parse_chain(row[0]) if row else None
        return None

    def put(self, entries: Iterable[Entry]) -> None:
        """Log the chains of ``entries``."""
        rows = [
            (f"{entry.digest} {entry.spec}", dump_chain(entry.chain))
            for entry in entries
            if entry.chain
        ]
        if rows:
            import sqlite3

            with self._lock, suppress(sqlite3.Error, OSError):
                connection = self._open()
                connection.executemany("INSERT OR REPLACE INTO tensors VALUES (?, ?)", rows)
                connection.commit()

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        if self._connection is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._file, timeout=1.0, check_same_thread=False)
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS tensors (key TEXT PRIMARY KEY, chain TEXT) WITHOUT"
                " ROWID"
            )
        return self._connection
