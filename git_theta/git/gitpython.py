"""GitPython, told which git to run. Imported when it is first needed: neither the filter nor a hook
needs it.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from git_theta.errors import GitError
from git_theta.git.command import git
from git_theta.git.repository import Repository

if TYPE_CHECKING:
    from git import Repo

_EXECUTABLE = "GIT_PYTHON_GIT_EXECUTABLE"


def open_repo(repository: Repository) -> Repo:
    """The repository as GitPython has it, running the git that Git-Theta runs.

    A user's own setting of GitPython stays as it is. :class:`GitError` where GitPython cannot open
    the repository.
    """
    kind = _our_repo(git())
    try:
        return kind(repository.worktree or repository.git_dir)
    except (OSError, ValueError) as error:
        raise GitError(f"GitPython cannot open {repository.git_dir}: {error}") from None


def _command_error() -> type[Exception]:
    from git.exc import GitCommandError

    return GitCommandError


@cache
def _our_repo(executable: str) -> type[Repo]:
    """GitPython's class of repositories, with the git at ``executable``."""
    before = os.environ.get(_EXECUTABLE)
    # While it is imported, GitPython runs what this names, else a bare "git"
    os.environ[_EXECUTABLE] = executable
    try:
        import git as gitpython
    finally:
        if before is None:
            del os.environ[_EXECUTABLE]
        else:
            os.environ[_EXECUTABLE] = before

    class _Program(gitpython.Git):
        GIT_PYTHON_GIT_EXECUTABLE = executable

    class _Repo(gitpython.Repo):
        GitCommandWrapperType = _Program

    return _Repo


def set_tag(repository: Repository, name: str, target: str) -> None:
    """Let the tag ``name``, a name that git allows, name the commit ``target``, whatever it named
    before. It is no tag object, whatever ``tag.gpgSign`` says.
    """
    with open_repo(repository) as repo:
        try:
            repo.git.update_ref(f"refs/tags/{name}", target)
        except _command_error() as error:
            raise GitError(f"the tag {name} cannot be set: {error}") from None
