"""The part of ``install`` and ``uninstall`` that is a repository's, not a config's: the pre-push
hook.
"""

from __future__ import annotations

import click

from git_theta.cli.output import path
from git_theta.errors import GitError
from git_theta.git.config import push_hook
from git_theta.git.config.config_file import Scope
from git_theta.git.history import listing
from git_theta.git.repository import Repository, discover


def put_in(scope: Scope) -> None:
    """Add the hook to the current repository: where the user chose it with the scope, or it has
    models already.
    """
    repository = _current()
    if repository is None or (scope not in ("local", "worktree") and not _has_models(repository)):
        return
    before = push_hook.look(repository)
    if before.present:
        return
    hook = push_hook.install(repository)
    beside = (
        "; the hook that was there still runs" if before.state is not push_hook.State.ABSENT else ""
    )
    click.echo(f"'git push' now sends models' objects first, through {path(hook.path)}{beside}.")


def take_out() -> None:
    """Remove the hook from the current repository, and put back what was there."""
    repository = _current()
    if repository is None:
        return
    hook = push_hook.look(repository)
    if push_hook.uninstall(repository):
        click.echo(f"Removed the hook from {path(hook.path)}.")


def _current() -> Repository | None:
    try:
        return discover()
    except GitError:
        return None


def _has_models(repository: Repository) -> bool:
    if repository.objects.is_dir():
        return True
    return repository.worktree is not None and bool(
        listing.names([":(top,attr:filter=theta)"], repository.worktree)
    )
