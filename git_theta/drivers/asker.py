"""Who asks the filter for a file's content: a git command that writes files, or one that only shows
differences.

Before git calls a diff driver it has the filter smudge both versions into temporary files: for a
model that is two full rebuilds whose result our driver would not read. The request looks just like
that of ``git checkout-index`` or ``git cat-file --filters``, which must have the content. What
tells them apart is the asking process. It is found as the ancestor that holds the writing end of
our own standard input (on Linux, where that can be seen), so a git command further up cannot be
taken for it. Only a command that never writes to a working tree gets a manifest, and only if the
driver that will read it is ours; in every case of doubt the content is given.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache

from git_theta.drivers import ancestors
from git_theta.errors import GitError
from git_theta.git.config import attributes, config_file

DRIVER = "diff-driver"
_SHOWING = {"diff", "diff-files", "diff-index", "diff-tree", "log", "show", "whatchanged"}
_COMPARING = {"status", "checkout", "switch", "restore", "reset", "describe"}
_WITH_VALUE = {
    "-C",
    "-c",
    "--git-dir",
    "--work-tree",
    "--namespace",
    "--config-env",
    "--attr-source",
    "--super-prefix",
}
_WITHOUT_VALUE = {
    "-p",
    "-P",
    "--paginate",
    "--no-pager",
    "--bare",
    "--no-replace-objects",
    "--no-lazy-fetch",
    "--no-optional-locks",
    "--no-advice",
    "--literal-pathspecs",
    "--glob-pathspecs",
    "--noglob-pathspecs",
    "--icase-pathspecs",
}
_DRIVERS = r"^diff\.theta\.(command|textconv)$"
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh"}
_HOPS = 4  # processes between git and us: a shell, a wrapper script or two


def wants_manifest(request: Mapping[str, str]) -> bool:
    """Whether the smudge ``request`` comes from git's diff machinery, for our own diff driver."""
    if not request.get("blob") or not {"ref", "treeish", "can-delay"}.isdisjoint(request):
        return False
    return only_shows(asker()) and _driver_is_ours() and _diffed_by_us(request.get("pathname", ""))


def shows_working_tree() -> bool:
    """Whether what is to be cleaned is a file of the working tree that a diff is to be made of, and
    nothing will be stored under its hash.
    """
    arguments = asker()
    return only_shows(arguments) and "--no-index" not in arguments


def only_compares() -> bool:
    """Whether what is cleaned is only compared with what the index holds."""
    arguments = asker()
    return only_shows(arguments) or _command(arguments)[:1] in {(name,) for name in _COMPARING}


def is_diff() -> bool:
    """Whether it is ``git diff`` itself, whose output is for reading: what it is told of a file
    ends up nowhere else.
    """
    return _command(asker())[:1] == ("diff",)


def only_shows(arguments: Sequence[str]) -> bool:
    """Whether git with these ``arguments`` (its own name first) shows differences and cannot write
    to a working tree.
    """
    command = _command(tuple(arguments))
    return command[:1] != () and (command[0] in _SHOWING or command[:2] == ("stash", "show"))


@cache
def _command(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Git's command in ``arguments`` with what follows it; nothing where that is in doubt."""
    if not arguments:
        return ()
    name = os.path.basename(arguments[0]).removesuffix(".exe")
    rest = list(arguments[1:])
    if name.startswith("git-"):
        rest.insert(0, name.removeprefix("git-"))
    elif name != "git":
        return ()
    while rest and rest[0].startswith("-"):
        option, equals, _ = rest.pop(0).partition("=")
        if option in _WITH_VALUE:
            del rest[: 0 if equals else 1]
        elif option not in _WITHOUT_VALUE or equals:
            return ()
    return tuple(rest)


@cache
def asker() -> tuple[str, ...]:
    """The arguments of the git process that talks to us, its name first; nothing where that cannot
    be told for sure.
    """
    try:
        if sys.platform == "linux":
            return _by_pipe()
        return _by_parents() if os.name == "posix" else ()
    except ancestors.FAULTS:
        return ()


def _by_pipe() -> tuple[str, ...]:
    pipe = os.readlink("/proc/self/fd/0")
    for ancestor in ancestors.upwards(_HOPS if pipe.startswith("pipe:") else 0):
        if ancestors.writes_to(ancestor.process, pipe):
            return ancestors.arguments(ancestor.process)
    return ()


def _by_parents() -> tuple[str, ...]:
    """Without ``/proc``: the nearest ancestor that is no shell.

    ``ps`` joins arguments with blanks, so those that could hold one are doubt.
    """
    for ancestor in ancestors.upwards(_HOPS):
        words = ancestor.words
        if ancestor.name.lstrip("-") not in _SHELLS:
            plain = next(
                (number for number, word in enumerate(words[1:], 1) if word not in _WITHOUT_VALUE),
                len(words),
            )
            return () if plain == len(words) or words[plain].startswith("-") else words
    return ()


@cache
def _driver_is_ours() -> bool:
    """Whether ``diff.theta.command`` is our driver, and no ``textconv`` of the user's would read
    the content instead.
    """
    try:
        found = {item.key: item.text or "" for item in config_file.values(_DRIVERS)}
    except GitError:
        return False
    return DRIVER in found.get("diff.theta.command", "") and "diff.theta.textconv" not in found


def _diffed_by_us(path: str) -> bool:
    try:
        return attributes.value("diff", path) == "theta"
    except GitError:
        return False
