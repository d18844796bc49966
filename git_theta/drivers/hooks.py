"""The pre-push hook: before git sends commits, the objects that they need are at the remote, or the push fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from git_theta.errors import TransferError
from git_theta.git import hooks, remotes
from git_theta.git.command import run, run_code
from git_theta.git.config import load_settings
from git_theta.git.repository import Repository, discover
from git_theta.workflows import push
from git_theta.workflows.session import Session


def main(name: str, url: str) -> int:
    """Serve git's pre-push hook on standard input; the exit code."""
    return pre_push(name, url, sys.stdin.buffer.read(), lambda line: print(f"git-theta: warning: {line}", file=sys.stderr))


def pre_push(name: str, url: str, stdin: bytes, say: Callable[[str], None]) -> int:
    """What git calls with the remote's name and URL, and the refs to be updated on standard input. The exit code."""
    repository = discover()
    updates = push.parse_updates(stdin)
    code = _git_lfs(repository, name, url, stdin)
    if code:
        return code
    if all(update.deletes for update in updates):
        return 0
    remote = remotes.read(repository).named(name, url)
    with Session(repository, load_settings(), say) as session:
        plan = push.plan_update(session, remote, updates, subtract=True)
        push.deliver(session, plan)
    return 0


def _git_lfs(repository: Repository, name: str, url: str, stdin: bytes) -> int:
    """Where ours is the only hook, git-lfs found its place taken. Files it tracks must not suffer for that."""
    if hooks.look(repository).state is not hooks.State.OURS or repository.worktree is None:
        return 0
    if not run(["ls-files", "-z", "--", ":(top,attr:filter=lfs)"], cwd=repository.worktree):
        return 0
    if run_code(["lfs", "version"], allowed=range(256))[0]:
        raise TransferError("this repository has Git LFS files, but git-lfs is not installed; install it from https://git-lfs.com")
    return subprocess.run(["git", "lfs", "pre-push", name, url], input=stdin, check=False).returncode
