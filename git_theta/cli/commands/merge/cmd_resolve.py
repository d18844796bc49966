"""``git theta resolve``: settle the tensors that a merge left in conflict."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from git_theta.cli.output import Command, path, plural, warn
from git_theta.cli.patterns import warn_unmatched
from git_theta.errors import UsageError
from git_theta.git.config.config_file import load_settings
from git_theta.git.repository import discover


@click.command(
    cls=Command,
    examples="""
git theta resolve                                      # what is open (a terminal: step by step)
git theta resolve -s average                           # all conflicting tensors of all models
git theta resolve model.pt --params '*.bias' --ours    # some of them
git theta resolve model.pt -s ties -o density=0.3      # the rest
git commit
""",
)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option(
    "-s",
    "--strategy",
    metavar="NAME",
    help="Merge by this strategy ('git theta strategies' lists them).",
)
@click.option(
    "-o", "--option", "words", metavar="KEY=VALUE", multiple=True, help="An option of the strategy."
)
@click.option("--ours", "side", flag_value="ours", help="Take our value.")
@click.option("--theirs", "side", flag_value="theirs", help="Take their value.")
@click.option("--base", "side", flag_value="base", help="Go back to the common ancestor's value.")
@click.option(
    "--params",
    metavar="GLOB",
    default="*",
    show_default=True,
    help="Only tensors whose name matches.",
)
@click.option("--by-name", is_flag=True, help="Merge files of different formats by tensor name.")
def resolve(
    paths: tuple[str, ...],
    strategy: str | None,
    words: tuple[str, ...],
    side: str | None,
    params: str,
    by_name: bool,
) -> int:
    """Settle tensors that a merge, rebase, cherry-pick, revert or stash left in conflict.

    What is settled is remembered until the merge is committed or aborted, so it can be done in
    several steps. When nothing is left, the model is staged and written; then go on with git ('git
    commit', 'git rebase --continue', ...). To take a file of your own instead, put it in place and
    'git add' it. The exit code is 1 while something is open.
    """
    if strategy and side:
        raise click.UsageError("give -s or one of --ours, --theirs, --base")
    if words and not strategy:
        raise click.UsageError("-o belongs to -s")
    from git_theta.drivers.merge_driver import stopped_siblings
    from git_theta.terminal.bars import Bars
    from git_theta.workflows.merging import merge_rules
    from git_theta.workflows.merging import resolve as work
    from git_theta.workflows.merging.auxiliary import tracked_for
    from git_theta.workflows.merging.outcome import describe
    from git_theta.workflows.session import Session

    repository = discover()
    if repository.worktree is None:
        raise UsageError("this repository has no working tree, so nothing is in conflict")
    chosen = strategy or side
    rules = merge_rules.Rules(
        (merge_rules.from_words(chosen, words, params),) if chosen else (), by_name=by_name
    )
    still_open, names = 0, set[str]()
    with Session(repository, load_settings(repository), warn, progress=Bars()) as session:
        for name, versions in work.conflicted(session, paths, Path.cwd()).items():
            if not chosen and _interactive() and tracked_for(session, name) is None:
                from git_theta.cli.commands.merge.resolve_terminal import ask

                rules = ask(session, name, versions, by_name)
            merged = work.resolve(session, name, versions, rules, stopped_siblings(session, name))
            names.update(name for item in merged.plan.items for name in (item.name, *item.aliases))
            for notice in merged.notices:
                click.echo(f"{path(name)}: {notice}", err=True)
            if merged.manifest is not None:
                click.echo(
                    f"{path(name)}: resolved and staged ({plural(len(merged.resolved), 'tensor')})."
                )
                continue
            still_open += 1
            if merged.resolved:
                click.echo(
                    f"{path(name)}: {plural(len(merged.resolved), 'tensor')} settled so far.",
                    err=True,
                )
            for line in describe(name, merged, shown=20 if not chosen else 5):
                click.echo(line, err=True)
    warn_unmatched(params, names)
    return 1 if still_open else 0


def _interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
