"""``git theta migrate``: have all of history stored by Git-Theta, or no longer."""

from __future__ import annotations

import click

from git_theta.cli.commands.share.transfers import open_session
from git_theta.cli.output import Command, path, plural, size, warn
from git_theta.core.earlier_release import ADVICE
from git_theta.errors import UsageError
from git_theta.git.config import config_file
from git_theta.workflows.maintenance import migrate as work
from git_theta.workflows.maintenance.migrate import Summary


@click.command(
    cls=Command,
    examples="""
git theta migrate import --dry-run                  # what it would bring
git theta migrate import                            # every branch and tag
git theta migrate import --include "*.safetensors" main
git theta migrate export                            # the way back, to whole files in git
git theta migrate export --lfs                      # or to Git LFS
""",
)
@click.argument("direction", type=click.Choice(["import", "export"]))
@click.argument("refs", metavar="[REF]...", nargs=-1)
@click.option(
    "--include",
    "include",
    metavar="GLOB",
    multiple=True,
    help="Import the files it matches, as in .gitattributes; repeatable.",
)
@click.option("--lfs", is_flag=True, help="Export to Git LFS instead of to git itself.")
@click.option(
    "-n",
    "--dry-run",
    is_flag=True,
    help="Do all the work, then throw it away and say what it would have brought.",
)
def migrate(
    direction: str, refs: tuple[str, ...], include: tuple[str, ...], lfs: bool, dry_run: bool
) -> None:
    """Rewrite history from whole files or Git LFS pointers to Git-Theta, or back.

    Every version of every model in all commits of the given branches and tags (by default: all of
    them) is stored anew, as the difference from the version before; .gitattributes says so in every
    commit. Authors, dates, messages and tags stay. Commits get new ids, so their signatures are
    dropped; those before the first model keep both. Without --include: the suffixes of known
    formats that history has checkpoints under.

    The old history stays under refs/git-theta/before-import until you delete it. This needs
    git-filter-repo (pip install git-filter-repo).
    """
    from git_theta.git.config import programs

    importing = direction == "import"
    if include and not importing:
        raise click.UsageError("--include goes with import; export takes every model")
    if lfs and importing:
        raise click.UsageError("--lfs goes with export; import sees by itself what Git LFS has")
    if importing and not programs.is_set_up(programs.in_force()):
        raise UsageError("git is not configured to use Git-Theta; run 'git theta install' first")
    with open_session() as session:
        if importing:
            summary = work.import_history(session, include, refs, dry_run)
        else:
            summary = work.export_history(session, refs, lfs, dry_run)
    _report(summary, dry_run)
    if lfs and summary.kept and not config_file.values(r"^filter\.lfs\.(process|smudge)$"):
        warn(
            "the models are Git LFS pointers now, and Git LFS is not set up here: 'git lfs"
            " install', then 'git lfs checkout'"
        )


def _report(summary: Summary, dry_run: bool) -> None:
    if not summary.versions:
        click.echo("Nothing to migrate: history holds no such models.")
    if summary.patterns:
        click.echo(f"Tracked: {' '.join(map(path, summary.patterns))}")
    would = "would take" if dry_run else "take"
    models = (
        f"{plural(summary.versions, 'version')} of {plural(summary.paths, 'model')},"
        f" {size(summary.whole)} as files"
    )
    click.echo(
        f"{models}: they took {size(summary.before)} and {would}"
        f" {size(summary.after)}{_saving(summary)}."
    )
    click.echo(
        f"{'Would rewrite' if dry_run else 'Rewrote'} {plural(summary.commits, 'commit')} and"
        f" {plural(summary.refs, 'ref')}."
    )
    if summary.signatures:
        click.echo(
            f"{'Would drop' if dry_run else 'Dropped'} {plural(summary.signatures, 'signature')},"
            " made for the old ids."
        )
    if summary.old_metadata:
        warn(f"left as it is: {plural(summary.old_metadata, 'version')} with {ADVICE}")
    for name in summary.left:
        warn(
            f"{path(name)} is not tracked by Git-Theta after all; 'git check-attr filter' and"
            " .git/info/attributes may tell why"
        )
    if summary.kept:
        _say_what_is_left(summary.kept)


def _saving(summary: Summary) -> str:
    if not summary.before:
        return ""
    share = 100 - 100 * summary.after / summary.before
    return (
        f" ({share:.0f} % less)"
        if share >= 0.5
        else f" ({-share:.0f} % more)"
        if share <= -0.5
        else ""
    )


def _say_what_is_left(kept: str) -> None:
    refs = f"git for-each-ref --format='update refs/%(refname:lstrip=3) %(objectname)' {kept}"
    click.echo(
        f"""\
The old history is still there, under {kept}. To get back to it, and to delete it once you are sure:
  {refs} | git update-ref --stdin; git reset --hard
  git for-each-ref --format='delete %(refname)' {kept} | git update-ref --stdin
  git reflog expire --expire=now --all; git gc --prune=now; git theta prune
Others must clone anew, or reset their branches, after: git push --force --all; \
git push --force --tags"""
    )
