"""The release of Git-Theta that a repository asks for: ``theta.requires`` in the ``.thetaconfig``
that is committed.

An older one reads what it can, and writes nothing. Only this one number is read here; git opens no
file that the text might include.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from git_theta import __version__
from git_theta.core.names import display
from git_theta.errors import UsageError
from git_theta.git.command import run_code
from git_theta.git.repository import Repository

FILE = ".thetaconfig"
KEY = "theta.requires"
_RELEASE = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,3}\Z")
_LARGEST = 1 << 20  # bytes of a file that is looked at


def check(repository: Repository, read: Callable[[str], bytes | None]) -> None:
    """:class:`~git_theta.errors.UsageError` if the repository asks for a newer release than this.

    Its file is that of the working tree, else the index's, else HEAD's; ``read`` reads the latter.
    """
    wanted = _wanted(_text(repository, read))
    if not wanted:
        return
    if not _RELEASE.match(wanted):
        raise UsageError(
            f"{KEY} in {FILE} is {display(wanted, 60)!r}, not a release such as 1.2; correct it"
        )
    if _numbers(wanted) > _numbers(__version__):
        raise UsageError(
            f"this repository requires Git-Theta {wanted} or newer ({KEY} in {FILE}), and this is"
            f" {__version__}; nothing is stored until you upgrade it"
        )


def _text(repository: Repository, read: Callable[[str], bytes | None]) -> bytes:
    path = repository.worktree / FILE if repository.worktree is not None else None
    if path is not None and path.is_file() and not path.is_symlink():
        with path.open("rb") as file:
            return file.read(_LARGEST)
    found = read(f":{FILE}")
    return (found if found is not None else read(f"HEAD:{FILE}") or b"")[:_LARGEST]


def _wanted(text: bytes) -> str:
    if b"requires" not in text.lower():  # mostly; then git need not be run
        return ""
    asked = ["config", "--file", "-", "--no-includes", "--null", "--get", KEY]
    code, found = run_code(asked, stdin=text, allowed=range(256))
    if code not in (0, 1):
        raise UsageError(f"{FILE} cannot be read as a git config file")
    return found.decode("utf-8", "replace").removesuffix("\0").strip()


def _numbers(release: str) -> list[int]:
    """The numbers that a release begins with, without zeros at their end."""
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", release)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers
