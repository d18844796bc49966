"""The pre-push hook: before git sends commits, the objects that they need are at the remote, or the
push fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from git_theta.errors import TransferError
from git_theta.git.command import call, find, run, run_code
from git_theta.git.config import consent, push_hook, remotes
from git_theta.git.config.config_file import load_settings
from git_theta.git.config.remotes import Remote
from git_theta.git.history import manifest_scan
from git_theta.git.repository import Repository, discover
from git_theta.terminal.bars import Bars
from git_theta.workflows.session import Session
from git_theta.workflows.sharing import push

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
        push.deliver(session, plan)
        pushing = git_process()
        # It has yet to move the remote's branch, which then tells a prune there what is needed
        if pushing is not None:
            session.keep_for(pushing)
    return 0


def git_process() -> int | None:
    """The git command that we run for: the outermost ancestor that is git; None if there is none,
    or it cannot be found.
    """
    found, process = None, os.getppid()
    try:
        for _ in range(_ANCESTORS):
            if process <= 1:
                break
            name, parent = _name_and_parent(process)
            if name == "git":
                found = process
            process = parent
    except (OSError, ValueError, subprocess.SubprocessError):
        pass
    return found


def _name_and_parent(process: int) -> tuple[str, int]:
    if sys.platform == "linux":
        with open(f"/proc/{process}/stat", "rb") as file:
            head, _, rest = file.read().rpartition(b")")
        return os.fsdecode(head.partition(b"(")[2]), int(rest.split()[1])
    if os.name != "posix":
        return "", 0
    listed = subprocess.run(
        [find("ps") or "/bin/ps", "-o", "ppid=,comm=", "-p", str(process)],
        capture_output=True,
        check=True,
        timeout=5,
    ).stdout
    parent, name = os.fsdecode(listed).split(maxsplit=1)
    return os.path.basename(name.strip()), int(parent)


def _has_lfs_files(repository: Repository, tips: Sequence[str]) -> bool:
    """Whether git-lfs has something to do, in the index or in what is pushed, and no hook of its
    own: it found its place taken by ours.
    """
    if push_hook.look(repository).state is not push_hook.State.OURS or repository.worktree is None:
        return False
    if run(["ls-files", "-z", "--", ":(top,attr:filter=lfs)"], cwd=repository.worktree):
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
    if run_code(["lfs", "version"], allowed=range(256))[0]:
        raise TransferError(
            "this repository has Git LFS files, but git-lfs is not installed; install it from"
            " https://git-lfs.com"
        )
    return call(["lfs", "pre-push", name, url], input=stdin).returncode
