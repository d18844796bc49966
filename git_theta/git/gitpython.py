"""Tags and notes through GitPython, told which git to run.

Of GitPython its way of running git is used (:class:`git.Git`), which works wherever git does. Its
own reading is not: it finds refs and objects in their files, so that in a repository with SHA-256
``repo.head.commit`` and ``repo.tags`` fail, and it can neither read reftables nor settings that
come from the environment. So everything else asks git itself, in the modules beside this one:
commits, refs that move by compare-and-swap, and remotes, which the filter and the hooks also need.
Neither of these may wait for GitPython to be imported; it is imported when it is first needed.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from git_theta.errors import GitError
from git_theta.git.command import git

if TYPE_CHECKING:
    from git import Git

_EXECUTABLE = "GIT_PYTHON_GIT_EXECUTABLE"


def program(folder: Path) -> Git:
    """GitPython's way to run git in ``folder``: the git that Git-Theta runs.

    A user's own setting of GitPython stays as it is.
    """
    return _our_git(git())(folder)


def set_tag(name: str, target: str, folder: Path) -> None:
    """Let the tag ``name``, a name that git allows, name the commit ``target``, whatever it named
    before. It is no tag object, whatever ``tag.gpgSign`` says.

    :class:`GitError` if git refuses.
    """
    try:
        program(folder).update_ref(f"refs/tags/{name}", target)
    except _command_error() as error:
        raise GitError(f"the tag {name} cannot be set: {_reason(error)}") from None


def set_note(namespace: str, target: str, text: str, folder: Path) -> None:
    """Give the commit ``target`` the note ``text`` in ``refs/notes/<namespace>``, in place of one
    it has there.

    :class:`GitError` if git refuses.
    """
    with tempfile.TemporaryFile() as file:  # as an argument it could be too long
        file.write(text.encode())
        file.seek(0)
        asked = ["add", "-f", "-F", "-", target]
        try:
            program(folder).notes(f"--ref={namespace}", *asked, istream=file)
        except _command_error() as error:
            raise GitError(f"git notes failed: {_reason(error)}") from None


def _command_error() -> type[Exception]:
    from git.exc import CommandError

    return CommandError


def _reason(error: Exception) -> str:
    """What git said, in one line."""
    said = str(getattr(error, "stderr", "")).strip()
    lines = said.removeprefix("stderr: ").strip().strip("'").splitlines()
    return lines[0] if lines else type(error).__name__


@cache
def _our_git(executable: str) -> type[Git]:
    """GitPython's class of programs, with the git at ``executable``."""
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

    return _Program
