"""Committing while training goes on: one thread at a time does the work, and nothing that goes
wrong there reaches the training loop.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from git_theta.api import arrays, saving, sessions
from git_theta.api.sessions import RepoLike, StrPath
from git_theta.core.names import display
from git_theta.core.source import FileSource
from git_theta.errors import NotCheckedOut, UsageError
from git_theta.git.writing import plumbing
from git_theta.workflows.comparing import metrics as notes
from git_theta.workflows.storing import commit

_LOGGER = logging.getLogger("git_theta.training")


class BackgroundSaver:
    """Saves models to ``branch`` of the repository that ``repo`` lies in, in the background, one
    after the other.

    The branch is made at HEAD where it does not exist. ``best_tag`` is the tag that moves to the
    best model (default: ``best/<branch>``). Use it in a ``with`` statement, or call :meth:`finish`:
    commits that are waiting are made then, and what went wrong is logged. Where neither happens,
    Python does it when it ends. ``commits`` lists what was committed so far, ``errors`` what could
    not be, both in order. Safe to use from several threads.
    """

    def __init__(
        self,
        branch: str | None = None,
        *,
        repo: RepoLike | None = None,
        best_tag: str | None = None,
    ) -> None:
        self.branch = branch
        # The loop may change the current directory
        self.repo = Path.cwd() if repo is None else Path(sessions.place(repo)).absolute()
        self._best_tag = best_tag
        self.commits: list[str] = []
        self.errors: list[str] = []
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: list[Future[None]] = []
        self._told = 0  # errors that were logged
        self._lock = threading.Lock()

    @property
    def best_tag(self) -> str:
        """The tag that moves to the best model."""
        return self._best_tag or f"best/{(self.branch or 'model').removeprefix('refs/heads/')}"

    def save(
        self,
        state_dict: Mapping[str, Any],
        path: StrPath,
        *,
        message: str,
        metrics: Mapping[str, float] | None = None,
        best: bool = False,
    ) -> None:
        """Commit a copy of ``state_dict`` as :func:`git_theta.save` does; ``best`` moves the tag to
        it. Never raises.

        The copy is held in memory until it is committed: a loop that saves faster than that needs
        room for what waits.
        """
        try:
            self._submit({path: copied(state_dict)}, message, metrics, best)
        except Exception as error:
            self.failed(message, error)

    def save_files(
        self,
        files: Mapping[StrPath, StrPath],
        *,
        message: str,
        metrics: Mapping[str, float] | None = None,
        best: bool = False,
    ) -> None:
        """Commit files as :func:`git_theta.save_files` does, as they are now: they may be deleted
        at once. Never raises.

        One that is written in place before it was read is not committed, and that is an error.
        """
        content: dict[StrPath, FileSource] = {}
        try:
            if not files:
                raise UsageError("there is no file to commit")
            for path, file in files.items():
                content[path] = FileSource(file)
            self._submit(content, message, metrics, best)
        except Exception as error:
            for source in content.values():
                source.close()
            self.failed(message, error)

    def failed(self, message: str, error: Exception) -> None:
        """Note that what ``message`` tells of could not be committed; :meth:`finish` logs it."""
        self.errors.append(
            f"'{display(message, 80)}': {display(str(error) or type(error).__name__, 300)}"
        )
        self._finish_at_exit()

    def _finish_at_exit(self) -> None:
        atexit.unregister(self.finish)
        atexit.register(self.finish)

    def finish(self) -> None:
        """Wait until everything is committed, and log what could not be. Never raises."""
        with self._lock:
            pool, self._pool = self._pool, None
            waiting, self._waiting = self._waiting, []
        if pool is not None:
            for future in waiting:
                future.exception()
            pool.shutdown(wait=True)
        atexit.unregister(self.finish)
        new, self._told = self.errors[self._told :], len(self.errors)
        if new:
            _LOGGER.error(
                "%d models could not be committed to %s: %s",
                len(new),
                self.branch or "the branch",
                "; ".join(new),
            )

    def __enter__(self) -> BackgroundSaver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish()

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets, where a framework starts some: all but the work that is going
        on here.
        """
        return {**self.__dict__, "_pool": None, "_waiting": [], "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _submit(
        self,
        files: Mapping[StrPath, Any],
        message: str,
        metrics: Mapping[str, float] | None,
        best: bool,
    ) -> None:
        numbered = dict(metrics or {})
        with self._lock:
            if self._pool is None:
                # Python waits for its work before it ends
                self._pool = ThreadPoolExecutor(1, "git-theta-saver")
                self._finish_at_exit()
            self._waiting = [future for future in self._waiting if not future.done()]
            self._waiting.append(self._pool.submit(self._commit, files, message, numbered, best))

    def _commit(
        self, files: Mapping[StrPath, Any], message: str, metrics: dict[str, float], best: bool
    ) -> None:
        try:
            made = self._saved(files, message)
            self.commits.append(made)
        except Exception as error:
            self.failed(message, error)
            return
        for what in (self._note, self._tag) if best else (self._note,):
            try:  # each by itself: a metric that is no number does not cost the best model its tag
                what(made, metrics)
            except Exception as error:
                self.failed(message, error)

    def _saved(self, files: Mapping[StrPath, Any], message: str) -> str:
        """The commit of ``files``, even if index and working tree, which others use, did not follow
        the branch.
        """
        try:
            return saving.save_files(files, message=message, branch=self.branch, repo=self.repo)
        except NotCheckedOut as error:
            _LOGGER.warning("'%s': %s", display(message, 80), display(str(error), 300))
            return error.commit

    def _note(self, made: str, metrics: Mapping[str, float]) -> None:
        if metrics:
            with sessions.session(self.repo) as session:
                notes.record(session, made, metrics)

    def _tag(self, made: str, _: Mapping[str, float]) -> None:
        with sessions.session(self.repo) as session:
            plumbing.set_tag(self.best_tag, made, commit.folder(session))


def copied(value: Any, known: dict[Any, Any] | None = None) -> Any:
    """A state dict that training does not change any more: tensors copied to the processor's
    memory, the rest as it is.

    Containers keep their type, and tied tensors their tie: ``known`` has the copies made so far.
    """
    known = {} if known is None else known
    if isinstance(value, Mapping):
        return _same_mapping(value, {key: copied(item, known) for key, item in value.items()})
    if isinstance(value, list | tuple):
        items = [copied(item, known) for item in value]
        return (
            items
            if isinstance(value, list)
            else type(value)(*items)
            if hasattr(value, "_fields")
            else tuple(items)
        )
    if arrays.is_torch(value):
        return _same_tensor(value, known)
    return value.copy() if hasattr(value, "__array__") and hasattr(value, "copy") else value


def _same_mapping(value: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    """``items`` in a mapping such as ``value``: an OrderedDict carries torch's versions of the
    modules as an attribute.
    """
    if type(value) is not OrderedDict:
        return items
    made = OrderedDict(items)
    vars(made).update(vars(value))
    return made


def _same_tensor(value: Any, known: dict[Any, Any]) -> Any:
    """A copy of a torch tensor.

    Those that show the same elements in the same way have one copy.
    """
    import torch

    key: Any = id(value)
    if (
        type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and value.numel()
    ):
        key = (
            value.device,
            value.data_ptr(),
            value.dtype,
            value.shape,
            value.stride(),
            value.is_conj(),
            value.is_neg(),
        )
    if key not in known:
        known[key] = value.detach().to("cpu", copy=True)
    return known[key]


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
    """The branch of a run that writes to ``folder``: ``runs/<its name>``, in letters that git
    allows.

    Lightning calls every run's own folder ``checkpoints``; the one around it has the run's name.
    """
    path = Path(folder).resolve()
    name = path.parent.name if path.name == "checkpoints" else path.name
    letters = (letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
    return f"runs/{''.join(letters).strip('-') or 'run'}"
