"""Committing while training goes on: one thread at a time does the work, and nothing that goes wrong there reaches the training loop."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from git_theta.api import arrays, saving, sessions
from git_theta.api.sessions import StrPath
from git_theta.core.names import display
from git_theta.core.source import FileSource
from git_theta.git import writing
from git_theta.workflows import metrics as notes

_LOGGER = logging.getLogger("git_theta.training")


class BackgroundSaver:
    """Saves models to ``branch`` of the repository that ``repo`` lies in, in the background, one after the other.

    The branch is made at HEAD where it does not exist. ``best_tag`` is the tag that moves to the best model (default: ``best/<branch>``).
    Use it in a ``with`` statement, or call :meth:`finish`: commits that are waiting are made then, and what went wrong is logged.
    ``commits`` lists what was committed so far, ``errors`` what could not be, both in order. Safe to use from several threads.
    """

    def __init__(self, branch: str | None = None, *, repo: StrPath | None = None, best_tag: str | None = None) -> None:
        self.branch = branch
        self.repo = Path.cwd() if repo is None else Path(repo).absolute()  # the loop may change the current directory
        self.best_tag = best_tag or f"best/{(branch or 'model').removeprefix('refs/heads/')}"
        self.commits: list[str] = []
        self.errors: list[str] = []
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[Future[None]] = []
        self._lock = threading.Lock()

    def save(
        self, state_dict: Mapping[str, Any], path: StrPath, *, message: str, metrics: Mapping[str, float] | None = None, best: bool = False
    ) -> None:
        """Commit a copy of ``state_dict`` as :func:`git_theta.save` does; ``best`` moves the tag to it. Never raises."""
        try:
            content: Mapping[StrPath, saving.Content] = {path: _copied(state_dict)}
        except Exception as error:
            self._failed(message, error)
            return
        self._submit(content, message, metrics, best)

    def save_files(
        self, files: Mapping[StrPath, StrPath], *, message: str, metrics: Mapping[str, float] | None = None, best: bool = False
    ) -> None:
        """Commit files as :func:`git_theta.save_files` does, as they are now: they may be deleted at once. Never raises.

        One that is written in place before it was read is not committed, and that is an error.
        """
        content: dict[StrPath, saving.Content] = {}
        try:
            for path, file in files.items():
                content[path] = FileSource(file)
        except OSError as error:
            for source in content.values():
                if isinstance(source, FileSource):
                    source.close()
            self._failed(message, error)
            return
        self._submit(content, message, metrics, best)

    def finish(self) -> None:
        """Wait until everything is committed, and log what could not be. Never raises."""
        with self._lock:
            pool, self._pool = self._pool, None
            waiting, self._waiting = self._waiting, []
        if pool is not None:
            for future in waiting:
                future.exception()
            pool.shutdown(wait=True)
        if self.errors:
            _LOGGER.error(
                "%d models could not be committed to %s: %s", len(self.errors), self.branch or "the branch", "; ".join(self.errors)
            )

    def __enter__(self) -> BackgroundSaver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.finish()

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets, where a framework starts some: all but the work that is going on here."""
        return {**self.__dict__, "_pool": None, "_waiting": [], "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _submit(self, files: Mapping[StrPath, saving.Content], message: str, metrics: Mapping[str, float] | None, best: bool) -> None:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "git-theta-saver")  # Python waits for its work before it ends
            self._waiting = [future for future in self._waiting if not future.done()]
            self._waiting.append(self._pool.submit(self._commit, files, message, dict(metrics or {}), best))

    def _commit(self, files: Mapping[StrPath, saving.Content], message: str, metrics: dict[str, float], best: bool) -> None:
        try:
            made = saving.save_files(files, message=message, branch=self.branch, repo=self.repo)
            self.commits.append(made)
            with sessions.session(self.repo) as session:
                if metrics:
                    notes.record(session, made, metrics)
                if best:
                    writing.set_tag(self.best_tag, made, session.cwd or session.repository.git_dir)
        except Exception as error:
            self._failed(message, error)

    def _failed(self, message: str, error: Exception) -> None:
        self.errors.append(f"'{display(message, 80)}': {display(str(error) or type(error).__name__, 300)}")


def _copied(value: Any) -> Any:
    """A state dict that training does not change any more: tensors copied to the processor's memory, the rest as it is."""
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    if arrays.is_torch(value):
        return value.detach().to("cpu", copy=True)
    return value.copy() if hasattr(value, "__array__") and hasattr(value, "copy") else value


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of ``values`` that are numbers, 0-dimensional tensors too."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, int | float):
            found[name] = value
        elif arrays.is_torch(value) and value.numel() == 1:
            found[name] = value.item()
    return found


def default_branch(folder: str | os.PathLike[str]) -> str:
    """The branch of a run that writes to ``folder``: ``runs/<its name>``, in letters that git allows."""
    letters = (letter if letter.isalnum() or letter in "-_" else "-" for letter in Path(folder).resolve().name)
    return f"runs/{''.join(letters).strip('-') or 'run'}"
