"""What ``git theta install`` writes into git's config, and how to tell it from what others wrote
there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from git_theta import isolation
from git_theta.errors import GitError
from git_theta.git import command as git_command
from git_theta.git import pktline
from git_theta.git.config import config_file
from git_theta.git.config.config_file import Scope, Value

PATTERN = (
    r"^(filter\.theta\..*|diff\.theta\..*|merge\.theta\..*|merge\.theta-ancestors\..*"
    r"|alias\.theta)$"
)
MARK = ": written by git theta install; "
PROCESS = "filter.theta.process"
REQUIRED = "filter.theta.required"
MERGE = "merge.theta.driver"
ANCESTORS = "merge.theta-ancestors.driver"
DIFF = "diff.theta.command"
ALIAS = "alias.theta"
_PATIENCE = 20  # seconds
_UNSAFE = re.compile(r"[^\w@%+=:,./-]")
_ISOLATED = ' && exec "$p" -I '

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
    # Where histories crossed, git first merges their common ancestors, by this driver
    "merge.theta.recursive": "theta-ancestors",
    "merge.theta-ancestors.name": "Git-Theta: tensor by tensor, of common ancestors",
    # Each tensor's line: 'git log -L :NAME:FILE' follows a tensor
    "diff.theta.xfuncname": r"^([^ ]+) [a-z0-9_]+\[",
}
# Git ignores them beside a process; they would mislead a reader
_SINGLE_SHOT = ("filter.theta.clean", "filter.theta.smudge")


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """What installing or removing means for one scope: values to write, keys to remove, and values
    of others in the way.
    """

    write: tuple[tuple[str, str], ...] = ()
    remove: tuple[Value, ...] = ()
    foreign: tuple[Value, ...] = ()


def program() -> tuple[str, ...]:
    """The words that start this Git-Theta from anywhere, isolated: see :mod:`git_theta.start`."""
    python, *options, script = isolation.words()
    return (Path(python).as_posix(), *options, Path(script).as_posix())


def strategy_program(folder: Path) -> Path:
    """``folder`` with a program ``git-merge-theta`` that starts this Git-Theta as it was started:
    git finds strategies on PATH alone.
    """
    script = folder / "git-merge-theta"
    # 'python -m git_theta'
    words = (
        program()
        if sys.flags.isolated
        else (Path(sys.executable).as_posix(), "-P", "-m", "git_theta")
    )
    script.write_text(
        f'#!/bin/sh\nexec {" ".join(map(quote, words))} merge-strategy "$@"\n',
        encoding="utf-8",
        newline="\n",
    )
    script.chmod(0o755)
    return folder


def scripts() -> Path:
    """The folder of the program ``git-theta``, for PATH."""
    name = "git-theta.exe" if os.name == "nt" else "git-theta"
    user = sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))
    folders = [
        Path(sys.executable).parent,
        Path(sysconfig.get_path("scripts")),
        Path(user),
        Path(isolation.FOLDER, "bin"),
    ]
    return next((folder for folder in folders if (folder / name).is_file()), folders[0])


def command(words: Sequence[str], arguments: str) -> str:
    """A line of sh that runs ``git-theta ARGUMENTS``: as recorded if Python and package are there,
    else the program on PATH.

    If there is none, or it does not start, one line on standard error says so.
    """
    return f"{MARK}{_recorded(words, arguments)}"


def driver(words: Sequence[str], arguments: str) -> str:
    """As :func:`command`, for a value in which git replaces ``%O`` and the like."""
    return command([word.replace("%", "%%") for word in words], arguments)


def alias(words: Sequence[str]) -> str:
    """The alias that makes ``git theta`` work when ``git-theta`` is not on PATH.

    Git runs an alias at the top of the working tree and may leave ``GIT_DIR`` set without
    ``GIT_WORK_TREE``, so that the current folder would pass for the top; the alias goes back to the
    user's folder with both set.
    """
    return (
        f"!{MARK}"
        'f() { test -n "$GIT_DIR" && test -z "$GIT_WORK_TREE$GIT_IMPLICIT_WORK_TREE" && export'
        ' GIT_WORK_TREE="$PWD"; '
        f"""cd -- "${{GIT_PREFIX:-.}}" || exit; {_recorded(words, '"$@"')}; }}; f"""
    )


def agent(words: Sequence[str]) -> tuple[str, str]:
    """The program and the arguments by which git-lfs starts the transfer agent.

    If it is gone, git-lfs is told so in its protocol.
    """
    message = (
        "git-theta was moved or removed; install it, then run git theta remote set REMOTE URL"
        " --with-lfs again"
    )
    answer = (
        f'read -r line; echo "{{\\"error\\": {{\\"code\\": 1, \\"message\\": \\"{message}\\"}}}}"'
    )
    return "sh", "-c " + quote(_if_there(words, "transfer-agent") + answer)


def _if_there(words: Sequence[str], arguments: str) -> str:
    """Sh that goes on only if the recorded Python or the script is gone."""
    python, *options, script = words
    more = "".join(f"{quote(option) if _UNSAFE.search(option) else option} " for option in options)
    return (
        f'p={quote(python)}; s={quote(script)}; test -x "$p" && test -f "$s" && exec "$p"'
        f' {more}"$s" {arguments}; '
    )


def _recorded(words: Sequence[str], arguments: str) -> str:
    message = (
        "git-theta was moved or removed (it was $s, run by $p); install it, then run 'git theta"
        " install' again"
    )
    return _if_there(words, arguments) + (
        # sh would name itself by this whole line to say that a program is lost.
        f'git-theta --version </dev/null >/dev/null 2>&1 || {{ echo "{message}" >&2; exit 127; }};'
        f" exec git-theta {arguments}"
    )


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
        # Git itself puts the arguments behind the last command
        DIFF: command(words, 'diff-driver "$@"').removesuffix(' "$@"'),
    }


def is_ours(value: Value) -> bool:
    """Whether ``install`` wrote this value, in this release or an earlier one.

    ``required`` does not tell by itself.
    """
    marked = (value.text or "").removeprefix("!").startswith(MARK)
    return (
        marked
        or _is_obsolete(value)
        or (value.text is not None and _PLAIN.get(value.key) == value.text)
    )


def _is_obsolete(value: Value) -> bool:
    return value.text is not None and _OBSOLETE.get(value.key) == value.text


def plan_install(
    present: Sequence[Value], words: Sequence[str], skip_smudge: bool, alias_taken: bool
) -> ConfigChange:
    """How to install in a scope that holds ``present``.

    ``alias_taken``: some scope has a ``git theta`` of the user's own.
    """
    desired = wanted(words, skip_smudge)
    if not alias_taken:
        desired[ALIAS] = alias(words)
    write = tuple(
        (key, text)
        for key, text in desired.items()
        if [value.text for value in present if value.key == key] != [text]
    )
    remove = tuple(value for value in present if value.key not in desired and _is_obsolete(value))
    clashing = tuple(
        value for value in present if value.key in (*desired, *_SINGLE_SHOT) and value not in remove
    )
    return ConfigChange(
        write,
        remove,
        tuple(
            value
            for value in clashing
            if value.text != desired.get(value.key) and not is_ours(value)
        ),
    )


def plan_uninstall(present: Sequence[Value]) -> ConfigChange:
    """How to remove from a scope what ``install`` wrote there, and nothing else."""
    ours = [value for value in present if is_ours(value)]
    if any(value.key in (PROCESS, *_SINGLE_SHOT) for value in ours):
        ours += [value for value in present if value.key == REQUIRED and value.text == "true"]
    # What is left under our names is the user's own: a filter, a diff driver, an alias.
    return ConfigChange(
        remove=tuple(ours), foreign=tuple(value for value in present if value not in ours)
    )


def apply(change: ConfigChange, scope: Scope, force: bool = False) -> None:
    """Carry out a plan; with ``force`` what is in the way is removed first."""
    for value in (*change.remove, *(change.foreign if force else ())):
        config_file.unset(scope, value.key, value.text)
    for key, text in change.write:
        config_file.set_value(scope, key, text)


def in_force() -> dict[str, Value]:
    """The values in force in the current folder, by key."""
    return {value.key: value for value in config_file.values(PATTERN)}


def is_set_up(now: dict[str, Value]) -> bool:
    """Whether git would run a filter called ``theta`` for tracked files, and insist on it."""
    return (
        bool(now.get(PROCESS) and now[PROCESS].text)
        and REQUIRED in now
        and now[REQUIRED].text in (None, "true", "yes", "on", "1")
    )


def is_older(value: Value) -> bool:
    """Whether ``install`` of an earlier release wrote this command: it works, but is not isolated
    from Python's settings.
    """
    return MARK in (value.text or "") and _ISOLATED not in (value.text or "")


def recorded_program(text: str) -> str | None:
    """The path of the program in a command of ours: Python's, or the script's in an older one."""
    return _word(text, "p") if MARK in text else None


def _word(text: str, name: str) -> str | None:
    found = re.search(rf"; {name}='((?:[^']|'\\'')*)';", text)
    return found[1].replace("'\\''", "'") if found else None


def is_lost(text: str) -> bool:
    """Whether a command of ours would find no program."""
    path, script = recorded_program(text), _word(text, "s")
    lost = path is not None and not (
        os.access(path, os.X_OK) and (script is None or os.path.isfile(script))
    )
    return lost and git_command.find("git-theta") is None


def summary(value: Value) -> str:
    """A value for a person: of a command of ours, what it runs."""
    text = value.text or ""
    words = [word for word in (recorded_program(text), _word(text, "s")) if word is not None]
    if value.key in (MERGE, ANCESTORS):
        words = [word.replace("%%", "%") for word in words]
    if not words or not is_ours(value):
        return text
    more = "..." if value.key == ALIAS else "--skip" if " filter-process --skip" in text else ""
    return " ".join([*words, more]).rstrip()


def try_filter(command: str) -> str:
    """Start a filter command as git would (by sh) and greet it; what went wrong, ``""`` if it
    answered.
    """
    greeting = pktline.text("git-filter-client") + pktline.text("version=2") + pktline.FLUSH
    greeting += pktline.text("capability=clean") + pktline.text("capability=smudge") + pktline.FLUSH
    try:
        # An alias is the one way to have git run a command with its own sh, wherever that is.
        done = git_command.call(
            ["-c", f"alias.theta-check=!{command}", "theta-check"],
            input=greeting,
            capture_output=True,
            timeout=_PATIENCE,
        )
    except (OSError, GitError, subprocess.TimeoutExpired) as error:
        return f"it did not answer ({type(error).__name__})"
    if pktline.text("git-filter-server") in done.stdout:
        return ""
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return (
        said[-1].removeprefix("git-theta: ")
        if said
        else f"it ended with exit code {done.returncode}"
    )
