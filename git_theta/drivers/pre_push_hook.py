"""The pre-push hook: before git sends commits, the objects that they need are at the remote, or the
push fails.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence

from git_theta.drivers import ancestors
from git_theta.errors import TransferError
from git_theta.git import lfs_program
from git_theta.git.config import consent, push_hook, remotes
from git_theta.git.config.config_file import load_settings
from git_theta.git.config.remotes import Remote
from git_theta.git.history import listing, manifest_scan
from git_theta.git.repository import Repository, discover
from git_theta.terminal.bars import Bars
from git_theta.workflows.session import Session
from git_theta.workflows.sharing import pointers, push

_ANCESTORS = 32  # that are looked at


def main(name: str, url: str) -> int:
    """Serve git's pre-push hook on standard input; the exit code."""
    return pre_push(
        name,
        url,
        sys.stdin.buffer.read(),
        lambda line: print(f"git-theta: warning: {line}", file=sys.stderr),
    )


def pre_push(name: str, url: str, stdin: bytes, say: Callable[[str], None]) -> int:
    """What git calls with the remote's name and URL, and the refs to be updated on standard input.

    The exit code.
    """
    repository = discover()
    updates = push.parse_updates(stdin)
    tips = [update.local_oid for update in updates if not update.deletes]
    remote = remotes.read(repository).named(name, url)
    if _has_lfs_files(repository, tips):
        code = _git_lfs(repository, remote, name, url, stdin)
        if code:
            return code
    if not tips:
        return 0
    with Session(repository, load_settings(), say, progress=Bars()) as session:
        plan = push.plan_update(session, remote, updates, subtract=True)
        pointers.deliver(session, plan, tips)
        pushing = git_process()
        # It has yet to move the remote's branch, which then tells a prune there what is needed
        if pushing is not None:
            session.keep_for(pushing)
    return 0


def git_process() -> int | None:
    """The git command that we run for: the outermost ancestor that is git; None if there is none,
    or it cannot be found.
    """
    found = None
    with contextlib.suppress(*ancestors.FAULTS):
        for ancestor in ancestors.upwards(_ANCESTORS):
            if ancestor.name == "git":
                found = ancestor.process
    return found


def _has_lfs_files(repository: Repository, tips: Sequence[str]) -> bool:
    """Whether git-lfs has something to do, in the index or in what is pushed, and no hook of its
    own: it found its place taken by ours.
    """
    if push_hook.look(repository).state is not push_hook.State.OURS or repository.worktree is None:
        return False
    if listing.names([":(top,attr:filter=lfs)"], repository.worktree):
        return True
    commits = manifest_scan.commits(repository, tips)
    return bool(commits) and manifest_scan.mentioned(
        repository, "filter=lfs", commits, ":(glob)**/.gitattributes"
    )


def _git_lfs(repository: Repository, remote: Remote, name: str, url: str, stdin: bytes) -> int:
    """What git-lfs's own hook would do; its exit code.

    Its server, too, waits for the user's word where only the repository names it.
    """
    consent.read(repository).agreed_lfs(remote, push=True)
    if not lfs_program.works():
        raise TransferError(
            "this repository has Git LFS files, but git-lfs is not installed; install it from"
            " https://git-lfs.com"
        )
    return lfs_program.pre_push(name, url, stdin)
