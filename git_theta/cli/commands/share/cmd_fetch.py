"""``git theta fetch`` and ``git theta pull``."""

from __future__ import annotations

import click

from git_theta.cli import mistracked_notes
from git_theta.cli.commands.share.transfers import count, open_session, remote_or_default, split
from git_theta.cli.output import Command, path, plural, size
from git_theta.errors import UsageError
from git_theta.workflows.restoring import checkout
from git_theta.workflows.sharing import fetch as work


@click.command(
    cls=Command,
    examples="""
git theta fetch                             # what the checked-out commit needs
git theta fetch origin v1.0 experiment      # what these need
git theta fetch main~20..main               # what each of these commits needs
git theta fetch --params 'encoder.layer.3.*'  # those tensors alone
git theta fetch --recent                    # branches and tags of the last days
""",
)
@click.argument("words", metavar="[REMOTE] [REV]...", nargs=-1)
@click.option(
    "--params", metavar="GLOB", help="Only tensors whose name matches; '*' matches any characters."
)
@click.option(
    "--recent",
    is_flag=True,
    help="Whatever moved in the last days on any branch or tag (theta.recentDays).",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="What any branch, tag or stash needs, in all of history.",
)
def fetch(words: tuple[str, ...], params: str | None, recent: bool, everything: bool) -> int:
    """Bring the objects that models need into the local store.

    Without REV: what the index and HEAD need. Nothing that is here already is fetched again. The
    working tree is left alone; 'git theta pull' writes the models too. Without REMOTE, every remote
    is asked in turn, the current branch's first.
    """
    with open_session() as session:
        remote, revisions = split(session.repository, words)
        if everything and revisions:
            raise UsageError("--all means every revision; name none beside it")
        needed = work.Needed()
        if revisions or everything:
            needed.add(work.of_revisions(session, revisions, params, everything))
        if recent:
            needed.add(work.of_recent(session, session.settings.recent_days, params))
        if not (revisions or everything or recent):
            needed.add(work.of_checkout(session, params))
        outcome = work.fetch(session, needed.objects, remote)
    if params is not None and not needed.objects:
        raise UsageError(
            f"no stored tensor matches '{path(params)}'; 'git theta show REV:PATH' lists a model's"
            " tensors"
        )
    if outcome.lacking:
        fetched = f"Fetched {count(outcome.fetched)}; " if outcome.fetched else ""
        click.echo(
            f"git-theta: {fetched}{count(outcome.lacking)} of {len(needed.objects):,} could not"
            " be had",
            err=True,
        )
        return 1
    here = (
        f"all {plural(outcome.needed, 'object')} are here"
        if outcome.needed
        else "no objects are needed"
    )
    click.echo(
        f"Fetched {count(outcome.fetched)}." if outcome.fetched else f"Nothing to fetch: {here}."
    )
    return 1 if needed.unread else 0


@click.command(
    cls=Command,
    examples="""
git theta pull
GIT_THETA_SKIP_SMUDGE=1 git pull && git theta pull   # models beyond git's memory
""",
)
@click.argument("remote", metavar="[REMOTE]", required=False)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of files that were written.")
def pull(remote: str | None, quiet: bool) -> int:
    """Fetch what the checked-out commit needs and write its models.

    For a clone or checkout that left manifests in place of models. Files that you changed stay as
    they are. Commits are not fetched: that is what 'git pull' does, objects included.

    A model at a path that no .gitattributes tracks is not written. The exit code is 1 if a model is
    not in place.
    """
    with open_session() as session:
        chosen = remote_or_default(session.repository, remote) if remote is not None else None
        outcome = work.fetch(session, work.of_checkout(session).objects, chosen)
        plan = checkout.plan(session, ())
        written = checkout.checkout(session, plan.targets)
    failed = mistracked_notes.report_outcome(session.repository, plan, written)
    if outcome.lacking:
        click.echo(
            f"git-theta: {count(outcome.lacking)} of {outcome.needed:,} could not be had", err=True
        )
        failed = True
    if not quiet and not outcome.fetched and not written.written:
        if not failed:
            click.echo(f"Nothing to do: {mistracked_notes.in_place(plan)}.")
    elif not quiet:
        fetched = f"Fetched {count(outcome.fetched)}; wrote " if outcome.fetched else "Wrote "
        total = sum(target.manifest.size for target in written.written)
        click.echo(f"{fetched}{plural(len(written.written), 'model')}, {size(total)}.")
    return 1 if failed else 0
