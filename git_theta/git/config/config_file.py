"""Git's config: the settings it holds for Git-Theta, and single values with their origin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from git_theta import settings
from git_theta.git.command import run
from git_theta.git.repository import Repository

Scope = Literal["local", "worktree", "global", "system"]


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a key: None where the key stands alone.

    ``origin`` reads ``file:…`` or ``command line:``.
    """

    key: str
    text: str | None
    scope: str
    origin: str

    @property
    def place(self) -> str:
        """The origin for a person: the file's path, or git's word for what is no file."""
        return self.origin.removeprefix("file:").rstrip(":")


def load_settings(where: Repository | Path | None = None) -> settings.Settings:
    """The settings in force in a repository or folder (default: the current one), by one call of
    git.

    :class:`~git_theta.errors.UsageError` for a value that is not allowed.
    """
    return settings.parse(
        run(
            ["config", "--null", "--get-regexp", settings.PATTERN],
            cwd=_folder(where),
            allowed=(0, 1),
        )
    )


def values(
    pattern: str, scope: Scope | None = None, where: Repository | Path | None = None
) -> list[Value]:
    """All values whose key matches ``pattern`` (a POSIX regular expression), in git's order: the
    last of a key is in force.

    With ``scope`` those set there only, without it those from everywhere. Keys come as git
    normalises them.
    """
    selection = [f"--{scope}"] if scope else []
    raw = run(
        ["config", *selection, "--null", "--show-scope", "--show-origin", "--get-regexp", pattern],
        cwd=_folder(where),
        allowed=(0, 1),
    )
    return parse_values(raw)


def parse_values(raw: bytes) -> list[Value]:
    """What ``git config --null --show-scope --show-origin --get-regexp`` printed."""
    fields = raw.decode("utf-8", "surrogateescape").split("\0")[:-1]
    found = []
    for scope, origin, record in zip(fields[::3], fields[1::3], fields[2::3], strict=True):
        key, separator, text = record.partition("\n")
        found.append(Value(key, text if separator else None, scope, origin))
    return found


def set_value(scope: Scope, key: str, text: str, where: Repository | Path | None = None) -> None:
    """Give ``key`` the one value ``text`` in ``scope``, in place of all it has there."""
    run(["config", f"--{scope}", "--replace-all", key, text], cwd=_folder(where))


def unset(scope: Scope, value: Value, where: Repository | Path | None = None) -> None:
    """Remove ``value`` from ``scope``; other values of its key stay, and one that is gone already
    is no error.
    """
    exactly = [] if value.text is None else ["--fixed-value"]
    pattern = [] if value.text is None else [value.text]
    run(
        ["config", f"--{scope}", *exactly, "--unset-all", value.key, *pattern],
        cwd=_folder(where),
        allowed=(0, 5),
    )


def shared_bits(git_dir: Path) -> int:
    """What ``core.sharedRepository`` makes of permission bits in another repository (see
    :class:`~git_theta.settings.Settings`).
    """
    raw = run(
        [
            "--git-dir",
            str(git_dir),
            "config",
            "--null",
            "--get-regexp",
            r"^core\.sharedrepository$",
        ],
        allowed=(0, 1, 128),
    )
    return settings.parse(raw).shared_bits


def _folder(where: Repository | Path | None) -> Path | None:
    return (where.worktree or where.git_dir) if isinstance(where, Repository) else where
