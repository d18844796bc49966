"""What the verbs of one command share: repository, settings, store, threads, and what is known of
earlier versions.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from git_theta.core.manifest import Manifest, ObjectRef, dump, object_refs, parse_if_manifest
from git_theta.core.resources.memory import keep_buffers
from git_theta.errors import UsageError
from git_theta.git.config import required_release
from git_theta.git.history.blobs import BlobReader
from git_theta.git.repository import Repository
from git_theta.store.local import LocalStore
from git_theta.workflows.progress import Progress, Unwatched

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from types import TracebackType

    from git_theta.settings import Settings


@dataclass
class Session:
    """One command's view of a repository.

    ``executor`` spreads the work on tensors; by default threads of this process. ``warn`` receives
    one-line messages for the user, ``progress`` how far long work is. ``only_compares`` says
    whether what is cleaned is compared and not kept. ``cwd`` is where git is run; None: the current
    directory (for git's own children it has set everything up there).
    """

    repository: Repository
    settings: Settings
    warn: Callable[[str], None]
    executor: Executor | None = None
    cwd: Path | None = None
    progress: Progress = field(default_factory=Unwatched)
    only_compares: Callable[[], bool] = field(default=lambda: False)
    _own: list[Executor] = field(default_factory=list)
    _others: list[LocalStore] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Then nobody waits for a tensor that takes long
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        for executor in self._own:
            executor.shutdown(wait=not interrupted, cancel_futures=True)
        for name in ("store", "blobs"):
            if name in self.__dict__:
                self.__dict__[name].close()
        for store in self._others:
            store.close()

    @property
    def threads(self) -> int:
        """How many tensors are worked on at a time."""
        return self.settings.threads or max(1, min(32, os.cpu_count() or 1))

    @cached_property
    def store(self) -> LocalStore:
        """The local object store."""
        return LocalStore(
            self.repository.objects, self.repository.alternates(), self.settings.shared_bits
        )

    @cached_property
    def blobs(self) -> BlobReader:
        """Reads what git stores."""
        return BlobReader(self.repository, self.cwd)

    def hold(self, store: LocalStore) -> None:
        """Let nobody delete objects of ``store``, another repository's, until the session ends."""
        store.hold()
        self._others.append(store)

    def keep_for(self, process: int) -> None:
        """Keep others from deleting other repositories' objects until ``process`` has ended."""
        for store in self._others:
            store.keep_for(process)

    def require_release(self) -> None:
        """:class:`~git_theta.errors.UsageError` if the repository asks for a newer release: then
        nothing new may be stored.
        """
        if self._refusal is not None and not self.only_compares():
            raise self._refusal

    @cached_property
    def _refusal(self) -> UsageError | None:
        try:
            required_release.check(self.repository, self.blobs.read)
        except UsageError as error:
            return error
        return None

    def hand_out(self, manifest: Manifest) -> bytes:
        """The text of ``manifest`` for git to keep.

        The objects that it needs, however old, are as young as new ones now: prune spares them
        until a commit or index names them.
        """
        return self.hand_out_text(dump(manifest))

    def hand_out_text(self, text: bytes) -> bytes:
        """As :meth:`hand_out`, for a manifest that is text already."""
        self.store.hold()
        self.store.rely_on(ObjectRef(*item) for item in object_refs(text).items())
        return text

    def pool(self) -> Executor:
        """The executor to spread work on."""
        with self._lock:
            if self.executor is None:
                from git_theta.core.resources.threads import Threads

                keep_buffers()
                self.executor = Threads(self.threads, "git-theta")
                self._own.append(self.executor)
            return self.executor

    def manifest(self, name: str) -> Manifest | None:
        """The manifest that git stores under ``name`` (``HEAD:path``, ``:path``, a blob id); None
        if it is none.
        """
        text = self.blobs.read(name)
        return parse_if_manifest(text) if text is not None else None

    def known_texts(self, path: str) -> list[bytes]:
        """What the index and HEAD hold at ``path``, the index first."""
        names = (f":0:{path}", f":2:{path}", f":3:{path}", f"HEAD:{path}")
        texts = [text for name in names if (text := self.blobs.read(name)) is not None]
        return list(dict.fromkeys(texts))

    def known_manifests(self, path: str, last: bytes = b"") -> list[Manifest]:
        """What the index and HEAD hold at ``path``, the index first, and the manifest that it had
        ``last``: where lines are reused and bases are found.
        """
        found: list[Manifest] = []
        for text in dict.fromkeys([*self.known_texts(path), last]):
            manifest = parse_if_manifest(text)
            if manifest is not None and not any(map(manifest.same_content, found)):
                found.append(manifest)
        return found

    def full_path(self, path: str) -> Path:
        """Where the file that git calls ``path`` lies in the working tree."""
        return (self.repository.worktree or Path.cwd()) / path


def scratch_index(session: Session) -> Path:
    """A fresh path for an index that is thrown away."""
    session.repository.cache.mkdir(parents=True, exist_ok=True)
    return session.repository.cache / f"merge-index-{session.store.temporary_path().name}"
