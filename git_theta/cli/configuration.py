"""What ``git theta install`` writes into git's config, and how to tell it from what others wrote there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from git_theta.git import config, pktline
from git_theta.git.config import Scope, Value

PATTERN = r"^(filter\.theta\..*|diff\.theta\..*|merge\.theta\..*|merge\.theta-ancestors\..*|alias\.theta)$"
MARK = ": written by git theta install; "
PROCESS = "filter.theta.process"
REQUIRED = "filter.theta.required"
MERGE = "merge.theta.driver"
ANCESTORS = "merge.theta-ancestors.driver"
DIFF = "diff.theta.command"
ALIAS = "alias.theta"
_PATIENCE = 20  # seconds

# What the first Git-Theta (0.2) wrote. It calls programs that no longer exist.
_OBSOLETE = {
    "filter.theta.clean": "git-theta-filter clean %f",
    "filter.theta.smudge": "git-theta-filter smudge %f",
    "merge.theta.name": "Merge Models with Git-Theta",
    "merge.theta.driver": "git-theta-merge %O %A %B %P",
    "diff.theta.command": "git-theta-diff",
}
_PLAIN = {  # what is ours without carrying the mark
    "merge.theta.name": "Git-Theta: tensor by tensor",
    "merge.theta.recursive": "theta-ancestors",  # where histories crossed, git first merges their common ancestors, by this driver
    "merge.theta-ancestors.name": "Git-Theta: tensor by tensor, of common ancestors",
    "diff.theta.xfuncname": r"^([^ ]+) [a-z0-9_]+\[",  # each tensor's line: 'git log -L :NAME:FILE' follows a tensor
}
_SINGLE_SHOT = ("filter.theta.clean", "filter.theta.smudge")  # git ignores them beside a process; they would mislead a reader


@dataclass(frozen=True, slots=True)
class Change:
    """What installing or removing means for one scope: values to write, keys to remove, and values of others in the way."""

    write: tuple[tuple[str, str], ...] = ()
    remove: tuple[Value, ...] = ()
    foreign: tuple[Value, ...] = ()


def program(argv0: str) -> tuple[str, ...]:
    """The words that start this Git-Theta from anywhere: the installed script where there is one, else this Python.

    The script that was called comes first: a link in a folder of its own outlives an upgrade of what it points to.
    """
    suffix = ".exe" if os.name == "nt" else ""
    called = Path(argv0)
    named = called if called.stem == "git-theta" and called.parent != Path() else None
    for candidate in (named, Path(sysconfig.get_path("scripts"), "git-theta"), Path(sys.executable).parent / "git-theta"):
        if candidate is not None:
            found = candidate.with_name("git-theta" + suffix)
            if found.is_file() and os.access(found, os.X_OK):
                return (Path(os.path.abspath(found)).as_posix(),)
    return (Path(sys.executable).as_posix(), "-P", "-m", "git_theta")  # -P: nothing is imported from the current folder


def command(words: Sequence[str], arguments: str) -> str:
    """A line of sh that runs ``git-theta ARGUMENTS``: the recorded program if it is there, else the one on PATH, else a message."""
    more = "".join(f" {quote(word)}" for word in words[1:])
    return f'{MARK}p={quote(words[0])}; test -x "$p" && exec "$p"{more} {arguments}; {_on_path(arguments)}'


def driver(words: Sequence[str], arguments: str) -> str:
    """As :func:`command`, for a value in which git replaces ``%O`` and the like."""
    return command([word.replace("%", "%%") for word in words], arguments)


def alias(words: Sequence[str]) -> str:
    """The alias that makes ``git theta`` work where ``git-theta`` is not on PATH.

    Git runs an alias at the top of the working tree and may leave ``GIT_DIR`` set without ``GIT_WORK_TREE``, so that the
    current folder would pass for the top; the alias goes back to the user's folder with both set.
    """
    more = "".join(f" {quote(word)}" for word in words[1:])
    return (
        f"!{MARK}"
        'f() { test -n "$GIT_DIR" && test -z "$GIT_WORK_TREE$GIT_IMPLICIT_WORK_TREE" && export GIT_WORK_TREE="$PWD"; '
        f'cd -- "${{GIT_PREFIX:-.}}" || exit; p={quote(words[0])}; test -x "$p" && exec "$p"{more} "$@"; '
        f"""{_on_path('"$@"')}; }}; f"""
    )


def _on_path(arguments: str) -> str:
    message = "git-theta was moved or removed from PATH (it was $p); run 'git-theta install' again"
    return f'command -v git-theta >/dev/null || {{ echo "{message}" >&2; exit 127; }}; exec git-theta {arguments}'


def quote(word: str) -> str:
    """``word`` as one word of sh."""
    return "'" + word.replace("'", "'\\''") + "'"


def wanted(words: Sequence[str], skip_smudge: bool) -> dict[str, str]:
    """Every value that ``install`` writes, the alias aside."""
    return {
        PROCESS: command(words, "filter-process --skip" if skip_smudge else "filter-process"),
        REQUIRED: "true",
        **_PLAIN,
        MERGE: driver(words, "merge-driver %O %A %B %P"),
        ANCESTORS: driver(words, "merge-driver --ancestors %O %A %B %P"),
        DIFF: command(words, 'diff-driver "$@"').removesuffix(' "$@"'),  # git itself puts the arguments behind the last command
    }


def is_ours(value: Value) -> bool:
    """Whether ``install`` wrote this value, in this release or an earlier one. ``required`` does not tell by itself."""
    marked = (value.text or "").removeprefix("!").startswith(MARK)
    return marked or _is_obsolete(value) or (value.text is not None and _PLAIN.get(value.key) == value.text)


def _is_obsolete(value: Value) -> bool:
    return value.text is not None and _OBSOLETE.get(value.key) == value.text


def plan_install(present: Sequence[Value], words: Sequence[str], skip_smudge: bool, alias_taken: bool) -> Change:
    """How to install in a scope that holds ``present``. ``alias_taken``: some scope has a ``git theta`` of the user's own."""
    desired = wanted(words, skip_smudge)
    if not alias_taken:
        desired[ALIAS] = alias(words)
    write = tuple((key, text) for key, text in desired.items() if [value.text for value in present if value.key == key] != [text])
    remove = tuple(value for value in present if value.key not in desired and _is_obsolete(value))
    clashing = tuple(value for value in present if value.key in (*desired, *_SINGLE_SHOT) and value not in remove)
    return Change(write, remove, tuple(value for value in clashing if value.text != desired.get(value.key) and not is_ours(value)))


def plan_uninstall(present: Sequence[Value]) -> Change:
    """How to remove from a scope what ``install`` wrote there, and nothing else."""
    ours = [value for value in present if is_ours(value)]
    if any(value.key in (PROCESS, *_SINGLE_SHOT) for value in ours):
        ours += [value for value in present if value.key == REQUIRED and value.text == "true"]
    # What is left under our names is the user's own: a filter, a diff driver, an alias.
    return Change(remove=tuple(ours), foreign=tuple(value for value in present if value not in ours))


def apply(change: Change, scope: Scope, force: bool = False) -> None:
    """Carry out a plan; with ``force`` what is in the way is removed first."""
    for value in (*change.remove, *(change.foreign if force else ())):
        config.unset(scope, value)
    for key, text in change.write:
        config.set_value(scope, key, text)


def in_force() -> dict[str, Value]:
    """The values in force in the current folder, by key."""
    return {value.key: value for value in config.values(PATTERN)}


def is_set_up(now: dict[str, Value]) -> bool:
    """Whether git would run a filter called ``theta`` for tracked files, and insist on it."""
    return bool(now.get(PROCESS) and now[PROCESS].text) and REQUIRED in now and now[REQUIRED].text in (None, "true", "yes", "on", "1")


def recorded_program(text: str) -> str | None:
    """The program's path in a command of ours."""
    _, found, rest = text.partition("; p='")
    return rest.partition("'; test -x")[0].replace("'\\''", "'") if found and MARK in text else None


def is_lost(text: str) -> bool:
    """Whether a command of ours would find no program."""
    path = recorded_program(text)
    return path is not None and not os.access(path, os.X_OK) and shutil.which("git-theta") is None


def summary(value: Value) -> str:
    """A value for a person: of a command of ours, what it runs."""
    path, text = recorded_program(value.text or ""), value.text or ""
    if path is not None and value.key in (MERGE, ANCESTORS):
        path = path.replace("%%", "%")
    if path is None or not is_ours(value):
        return text
    return f"{path} ..." if value.key == ALIAS else f"{path}{' --skip' if ' filter-process --skip' in text else ''}"


def try_filter(command: str) -> str:
    """Start a filter command as git would (by sh) and greet it; what went wrong, ``""`` if it answered."""
    greeting = pktline.text("git-filter-client") + pktline.text("version=2") + pktline.FLUSH
    greeting += pktline.text("capability=clean") + pktline.text("capability=smudge") + pktline.FLUSH
    try:
        # An alias is the one way to have git run a command with its own sh, wherever that is.
        done = subprocess.run(
            ["git", "-c", f"alias.theta-check=!{command}", "theta-check"],
            input=greeting,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it did not answer ({type(error).__name__})"
    if pktline.text("git-filter-server") in done.stdout:
        return ""
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return said[-1].removeprefix("git-theta: ") if said else f"it ended with exit code {done.returncode}"
