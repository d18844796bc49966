"""Git's config: the settings it holds for Git-Theta, and single values with their origin."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from git_theta import settings
from git_theta.git.command import run, run_code
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


def get(
    key: str, where: Repository | Path | None = None, kind: Literal["bool", "path"] | None = None
) -> str | None:
    """The value of ``key`` in force, with ``kind`` as git reads it (``true`` or ``false``, a whole
    path); None if there is none.
    """
    return _one(["config", *_typed(kind), "--null", "--get", key], _folder(where))


def of_git_dir(git_dir: Path, key: str, kind: Literal["bool", "path"] | None = None) -> str | None:
    """As :func:`get`, in the repository ``git_dir``; None where there is no repository."""
    asked = ["--git-dir", str(git_dir), "config", *_typed(kind), "--null", "--get", key]
    return _one(asked, None)


def _typed(kind: str | None) -> list[str]:
    return [] if kind is None else [f"--type={kind}"]


def _one(asked: list[str], cwd: Path | None) -> str | None:
    code, raw = run_code(asked, cwd=cwd, allowed=(0, 1, 128))
    return None if code else os.fsdecode(raw).removesuffix("\0")


def wants_colour(slot: str, terminal: bool) -> bool:
    """Whether git would colour what the setting ``slot`` (``color.diff``) is about."""
    asked = ["config", "--get-colorbool", slot, "true" if terminal else "false"]
    return run(asked, allowed=(0, 1)).strip() == b"true"


def pager() -> str:
    """The command line of the pager that git would use."""
    return os.fsdecode(run(["var", "GIT_PAGER"])).strip()


def add_value(scope: Scope, key: str, text: str, where: Repository | Path | None = None) -> None:
    """Give ``key`` the value ``text`` in ``scope``, beside those it has there."""
    run(["config", f"--{scope}", "--add", key, text], cwd=_folder(where))


def write_file(file: Path, key: str, text: str, *, beside: bool = False) -> None:
    """Give ``key`` the value ``text`` in a config file of its own; with ``beside``, one more."""
    how = "--add" if beside else "--replace-all"
    run(["config", "--file", str(file), how, key, text])


def remove_section(scope: Scope, section: str, where: Repository | Path | None = None) -> None:
    """Remove a section from ``scope``; one that is not there is no error."""
    run(["config", f"--{scope}", "--remove-section", section], cwd=_folder(where), allowed=(0, 128))


def unset(
    scope: Scope, key: str, text: str | None = None, where: Repository | Path | None = None
) -> None:
    """Remove the value ``text`` of ``key`` (None: all of them) from ``scope``; one that is gone
    already is no error.
    """
    exactly = [] if text is None else ["--fixed-value"]
    pattern = [] if text is None else [text]
    run(
        ["config", f"--{scope}", *exactly, "--unset-all", key, *pattern],
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
