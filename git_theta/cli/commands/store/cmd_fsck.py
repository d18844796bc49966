"""``git theta fsck``."""

from __future__ import annotations

import click

from git_theta.cli.commands.share.transfers import open_session, remote_or_default
from git_theta.cli.mistracked_notes import lines
from git_theta.cli.output import Command, plural, size
from git_theta.errors import UsageError
from git_theta.git.writing import index
from git_theta.workflows.restoring import mistracked


@click.command(
    cls=Command,
    examples="""
git theta fsck                    # what is checked out
git theta fsck v1.0 main~5..main  # a tag, and each of five commits
git theta fsck --all --repair     # everything, and mend what can be mended
git theta fsck --remote           # what the default remote holds of it, too
""",
)
@click.argument("revisions", metavar="[REV]...", nargs=-1)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="What any ref, reflog, stash, index or worktree needs, in all of history.",
)
@click.option(
    "--remote", "remote_too", is_flag=True, help="Read the objects at the remote as well."
)
@click.option(
    "--from", "remote_name", metavar="REMOTE", help="With --remote: another than the default one."
)
@click.option(
    "--repair",
    is_flag=True,
    help="Fetch what is missing or damaged, or make it again from models at hand.",
)
def fsck(
    revisions: tuple[str, ...],
    everything: bool,
    remote_too: bool,
    remote_name: str | None,
    repair: bool,
) -> int:
    """Check that models can be rebuilt.

    Every object that the manifests need must be here and be what its name says, and every tensor
    must decode to its digest. What is not is listed by tensor, path and commit, and the exit code
    is 1. Without REV: HEAD and the index. A damaged object that is replaced stays in
    .git/theta/damaged.

    Without REV, files in the index that are not stored the way .gitattributes says are problems,
    too: manifests at paths that are not tracked, and tracked files that were committed without
    Git-Theta. Each is listed with the command that mends it.
    """
    from git_theta.workflows.maintenance import fsck as work

    if everything and revisions:
        raise UsageError("--all means every revision; name none beside it")
    with open_session() as session:
        found = work.survey(session, revisions, everything)
        with session.progress.begin("Checking", sum(found.objects.values())) as bar:
            report = work.check(session, found, bar.advance)
        if repair:
            report = work.repair(session, found, report)
        problems, elsewhere = list(report.problems), list[work.Problem]()
        if remote_too or remote_name is not None:
            remote = remote_or_default(session.repository, remote_name)
            elsewhere = work.check_remote(session, found, remote)
        problems = work.locate(session, found, [*problems, *elsewhere])
        otherwise = () if revisions else mistracked.survey(session).found
        unfinished = "" if revisions else index.unfinished(session.repository)
    for problem in problems:
        click.echo(work.describe(problem))
    for line in [*lines(session.repository, otherwise), *filter(None, [unfinished])]:
        click.echo(line)
    if report.repaired:
        click.echo(f"Repaired {plural(len(report.repaired), 'object')}.")
    stored = f"{plural(report.objects, 'object')}, {size(report.bytes)}"
    looked = (
        f"{plural(report.tensors, 'tensor')} of {plural(report.manifests, 'manifest')}, {stored}"
    )
    bad = len(problems) + len(otherwise) + bool(unfinished)
    if not bad:
        click.echo(f"Checked {looked}: all is well.")
        return 0
    hint = ""
    if any(problem.kind == "missing" for problem in report.problems) and not repair:
        hint = "; 'git theta fetch' or 'git theta fsck --repair' may bring what is missing"
    elif any(problem.kind == "missing" for problem in elsewhere):
        hint = "; 'git theta push --all' sends what is missing there"
    elif any(problem.kind == "unnamed" for problem in elsewhere):
        hint = "; 'git theta push --all' names these objects, so that the server keeps them"
    click.echo(f"git-theta: checked {looked}: {plural(bad, 'problem')}{hint}", err=True)
    return 1
