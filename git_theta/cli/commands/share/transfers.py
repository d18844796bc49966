"""What push, fetch, pull, fsck and prune have in common: the session, the remote that is meant, how
they report.
"""

from __future__ import annotations

from collections.abc import Iterable

from git_theta.cli.output import plural, size, warn
from git_theta.core.manifest import ObjectRef
from git_theta.errors import UsageError
from git_theta.git.config import remotes
from git_theta.git.config.config_file import load_settings
from git_theta.git.config.remotes import Remote
from git_theta.git.repository import Repository, discover
from git_theta.terminal.bars import Bars
from git_theta.workflows.session import Session


def open_session() -> Session:
    """The current repository's, with warnings on standard error."""
    repository = discover()
    return Session(repository, load_settings(repository), warn, progress=Bars())


def remote_or_default(repository: Repository, name: str | None) -> Remote:
    """The remote called ``name`` (or the one with that URL), else the default one;
    :class:`UsageError` where there is none.
    """
    known = remotes.read(repository)
    if name is not None:
        return known.named(name)
    if known.default is None:
        raise UsageError("this repository has no remote; 'git remote add origin URL' gives it one")
    return known.default


def split(repository: Repository, words: tuple[str, ...]) -> tuple[Remote | None, tuple[str, ...]]:
    """``[REMOTE] [REV]...``: the first word is a remote if it names one, else everything is a
    revision.
    """
    found = remotes.read(repository).find(words[0]) if words else None
    return (found, words[1:]) if found is not None else (None, words)


def count(refs: Iterable[ObjectRef]) -> str:
    """For example ``3 objects, 1.2 MB``."""
    every = list(refs)
    return f"{plural(len(every), 'object')}, {size(sum(ref.size for ref in every))}"
