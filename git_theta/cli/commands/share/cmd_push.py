"""``git theta push``, and ``pre-push``, which git runs by itself."""

from __future__ import annotations

import sys

import click

from git_theta.cli.commands.share.transfers import open_session, remote_or_default, split
from git_theta.cli.output import Command, plural, size, warn
from git_theta.errors import UsageError
from git_theta.git.config import push_hook


@click.command(
    cls=Command,
    examples="""
git theta push                   # what the current branch needs
git theta push upstream main v2  # to another remote: a branch and a tag
git theta push --all             # what all of history needs
""",
)
@click.argument("words", metavar="[REMOTE] [REV]...", nargs=-1)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="What any branch, tag or stash needs, in all of history.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be sent.")
def push(words: tuple[str, ...], everything: bool, dry_run: bool) -> int:
    """Send models' objects to a remote by hand.

    'git push' does this by itself, through a hook, before it sends commits; this is for commits
    that went without their objects ('git push
    --no-verify', a hook that was missing) and for a remote whose objects are to be kept somewhere
    new. No branch is moved. Sends what REV (default: HEAD) needs in its own files, and in the
    commits before it that the remote does not have. Of commits that it has, the objects of older
    versions are sent by --all.
    """
    from git_theta.workflows.sharing import pointers
    from git_theta.workflows.sharing import push as work

    with open_session() as session:
        found, revisions = split(session.repository, words)
        remote = found or remote_or_default(session.repository, None)
        if everything and revisions:
            raise UsageError("--all means every revision; name none beside it")
        plan = (
            work.plan_all(session, remote)
            if everything
            else work.plan_revisions(session, remote, revisions or ("HEAD",))
        )
        needed = f"{plural(len(plan.needs), 'object')}, {size(plan.bytes)}"
        if dry_run:
            click.echo(
                f"{needed} would be sent to {remote.title}, as far as they are not there already."
            )
            return 0
        tips = [] if everything else work.resolved(session.repository, revisions or ("HEAD",))
        pointers.deliver(session, plan, tips, thorough=True)
        click.echo(
            f"All of {needed} are at {remote.title}."
            if plan.needs
            else f"Nothing to send to {remote.title}."
        )
        silent = (
            push_hook.silence(push_hook.look(session.repository))
            if session.settings.hook == "auto"
            else ""
        )
        if silent:
            warn(silent)
    return 0


@click.command("pre-push", cls=Command)
@click.argument("name")
@click.argument("url")
def pre_push(name: str, url: str) -> int:
    """Send the objects of commits that git is about to push.

    Git's pre-push hook runs this, with the refs to be pushed on standard input; 'git theta install'
    puts it there. It fails, and with it the push, unless every object has arrived.
    """
    from git_theta.drivers import pre_push_hook

    return pre_push_hook.pre_push(name, url, sys.stdin.buffer.read(), warn)
