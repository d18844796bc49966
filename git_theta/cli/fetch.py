"""``git theta fetch`` and ``git theta pull``."""

from __future__ import annotations

from pathlib import Path

import click

from git_theta.cli.output import Command, path, plural, size
from git_theta.cli.sharing import count, open_session, remote_or_default, split
from git_theta.errors import UsageError


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
@click.option("--params", metavar="GLOB", help="Only tensors whose name matches; '*' matches any characters.")
@click.option("--recent", is_flag=True, help="Whatever moved in the last days on any branch or tag (theta.recentDays).")
@click.option("--all", "everything", is_flag=True, help="What any branch, tag or stash needs, in all of history.")
def fetch(words: tuple[str, ...], params: str | None, recent: bool, everything: bool) -> int:
    """Bring the objects that models need into the local store.

    Without REV: what the index and HEAD need. Nothing that is here already is fetched again. The working tree is left alone; 'git
    theta pull' writes the models too. Without REMOTE, every remote is asked in turn, the current branch's first.
    """
    from git_theta.workflows import fetch as work

    with open_session() as session:
        remote, revisions = split(session.repository, words)
        if everything and revisions:
            raise UsageError("--all means every revision; name none beside it")
        needed: dict[str, int] = {}
        if revisions or everything:
            needed |= work.of_revisions(session, revisions, params, everything)
        if recent:
            needed |= work.of_recent(session, session.settings.recent_days, params)
        if not (revisions or everything or recent):
            needed |= work.of_checkout(session, params)
        outcome = work.fetch(session, needed, remote)
    if params is not None and not needed:
        raise UsageError(f"no stored tensor matches '{path(params)}'; 'git theta show REV:PATH' lists a model's tensors")
    if outcome.lacking:
        fetched = f"Fetched {count(outcome.fetched)}; " if outcome.fetched else ""
        click.echo(f"git-theta: {fetched}{count(outcome.lacking)} of {len(needed):,} could not be had", err=True)
        return 1
    here = f"all {plural(outcome.needed, 'object')} are here" if outcome.needed else "no objects are needed"
    click.echo(f"Fetched {count(outcome.fetched)}." if outcome.fetched else f"Nothing to fetch: {here}.")
    return 0


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

    For a clone or checkout that left manifests in place of models. Files that you changed stay as they are. Commits are not fetched: that
    is what 'git pull' does, objects included.
    """
    from git_theta.workflows import checkout
    from git_theta.workflows import fetch as work
    from git_theta.workflows.progress import Progress

    with open_session() as session:
        chosen = remote_or_default(session.repository, remote) if remote is not None else None
        outcome = work.fetch(session, work.of_checkout(session), chosen)
        targets = checkout.plan(session, (), Path.cwd())
        progress = Progress()
        progress.begin("Writing models", sum(target.manifest.size for target in targets))
        try:
            written = checkout.checkout(session, targets, progress.advance)
        finally:
            progress.end()
    for name, error in written.failed:
        click.echo(f"git-theta: {path(name)}: {error}", err=True)
    if not quiet and not outcome.fetched and not written.written and not written.failed:
        click.echo("Nothing to do: every model is in place.")
    elif not quiet:
        fetched = f"Fetched {count(outcome.fetched)}; wrote " if outcome.fetched else "Wrote "
        total = sum(target.manifest.size for target in written.written)
        click.echo(f"{fetched}{plural(len(written.written), 'model')}, {size(total)}.")
    return 1 if written.failed else 0
