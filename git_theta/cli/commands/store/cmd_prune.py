"""``git theta prune``."""

from __future__ import annotations

import click

from git_theta.cli.commands.share.transfers import count, open_session, remote_or_default
from git_theta.cli.output import Command, table


@click.command(
    cls=Command,
    examples="""
git theta prune --dry-run        # what would go
git theta prune                  # what nothing needs any more
git theta prune --verify-remote  # and what only older commits need, if the remote has it
""",
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be deleted.")
@click.option(
    "--verify-remote",
    "elsewhere",
    is_flag=True,
    help=(
        "Delete, too, what only older, pushed commits need, once the remote is verified to have it."
    ),
)
@click.option(
    "--from",
    "remote_name",
    metavar="REMOTE",
    help="With --verify-remote: another than the default one.",
)
@click.option("--now", is_flag=True, help="Spare no object for being younger than a day.")
@click.option("-v", "--verbose", is_flag=True, help="List the objects.")
def prune(dry_run: bool, elsewhere: bool, remote_name: str | None, now: bool, verbose: bool) -> int:
    """Delete objects that nothing needs from the local store.

    Kept is whatever a branch, tag, stash, reflog, index or unfinished merge or rebase of any
    worktree needs, and what is younger than a day, as a commit may be about to need it. Git keeps
    reflogs for 30 to 90 days; 'git reflog expire' shortens that.
    """
    from git_theta.workflows.maintenance import prune as work

    with open_session() as session:
        remote = (
            remote_or_default(session.repository, remote_name)
            if elsewhere or remote_name is not None
            else None
        )
        plan = work.plan(session, now, remote) if dry_run else work.prune(session, now, remote)
    if verbose:
        rows = [(ref.oid, f"{ref.size:,}", why.value) for ref, why in plan.delete]
        for line in table(rows, right=(1,)):
            click.echo(line)
    word = "Would delete" if dry_run else "Deleted"
    for why in work.Why:
        chosen = plan.chosen(why)
        if chosen or why is work.Why.UNNEEDED:
            click.echo(f"{word} {count(chosen)}: {why.value}.")
    young = f", and {count(plan.young)} for being younger than a day (--now)" if plan.young else ""
    click.echo(f"Kept {plan.needed:,} that are needed{young}.")
    if plan.unverified:
        click.echo(
            f"git-theta: {plan.unverified:,} more could not be verified at"
            f" {remote.title if remote else 'the remote'} and stay",
            err=True,
        )
    if dry_run and plan.chosen(work.Why.UNNEEDED):
        click.echo(
            "Repositories that borrow from this one (git clone --shared or --reference) are not"
            " looked at: they may still need these."
        )
    return 0
