"""Opening the repository that a call is about."""

from __future__ import annotations

import os
import posixpath
import warnings
from pathlib import Path
from typing import Protocol

from git_theta.core.names import display
from git_theta.errors import UsageError
from git_theta.git.config.config_file import load_settings
from git_theta.git.repository import Repository, discover
from git_theta.terminal.bars import Bars
from git_theta.workflows.session import Session

StrPath = str | os.PathLike[str]


class GitRepo(Protocol):
    """What is asked of a repository given as an object: GitPython's ``git.Repo`` has it."""

    @property
    def git_dir(self) -> StrPath:
        """The repository's own folder."""

    @property
    def working_tree_dir(self) -> StrPath | None:
        """The top of its working tree; None where it is bare."""


class GitCommit(Protocol):
    """What is asked of a commit given as an object: ``git.Commit`` and ``Step.commit`` have it."""

    @property
    def hexsha(self) -> str:
        """The commit's id."""


RepoLike = str | os.PathLike[str] | GitRepo
Revision = str | GitCommit


def revision(given: Revision) -> str:
    """What git calls ``given``: a text as it is, of a commit its id."""
    return given if isinstance(given, str) else given.hexsha


def place(repo: RepoLike) -> str:
    """The folder that ``repo`` names: of a repository its working tree, or its own folder."""
    if isinstance(repo, (str, os.PathLike)):
        return os.fspath(repo)
    return os.fspath(repo.working_tree_dir or repo.git_dir)


class ThetaWarning(UserWarning):
    """Something worth knowing that is no error, such as a checkpoint of no known format that is
    stored whole.
    """


def session(repo: RepoLike | None) -> Session:
    """A session in the repository that ``repo`` lies in (None: the current directory); the caller
    closes it.

    :class:`UsageError` if ``repo`` is a URL, :class:`~git_theta.errors.GitError` if there is no
    such folder or no repository in it.
    """
    folder = None if repo is None else place(repo)
    if folder is not None and "://" in folder:
        raise UsageError(
            f"{display(folder, 400)} is a URL, not a folder: 'git clone' it first, and"
            " name the clone's folder"
        )
    repository = discover(None if folder is None else Path(folder))
    return Session(
        repository,
        load_settings(repository),
        _warn,
        cwd=repository.worktree or repository.git_dir,
        progress=Bars(),
    )


def from_top(repository: Repository, path: StrPath) -> str:
    """``path`` as git calls it: from the top of the repository, which it counts from unless it is
    absolute.

    :class:`UsageError` when it leads outside.
    """
    text = os.fspath(path)
    if os.path.isabs(text):
        if repository.worktree is None:
            raise UsageError(
                f"{display(text)}: in a repository without a working tree, give the path from"
                " its top"
            )
        text = os.path.relpath(os.path.realpath(text), os.path.realpath(repository.worktree))
    name = posixpath.normpath(text.replace(os.sep, "/"))
    if name in (".", "..") or name.startswith(("../", "/")):
        raise UsageError(f"{display(os.fspath(path))} is not a file of the repository")
    return name


def _warn(line: str) -> None:
    warnings.warn(line, ThetaWarning, stacklevel=2)
