"""Reporting files that git does not store the way the attributes say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import click

from git_theta.cli.output import from_here, path, plural, warn
from git_theta.git.repository import Repository
from git_theta.workflows.restoring import mistracked
from git_theta.workflows.restoring.checkout import CheckoutOutcome, Plan
from git_theta.workflows.restoring.mistracked import Kind, Mistracked

_SHOWN = 5  # of each kind


def lines(repository: Repository, found: Iterable[Mistracked]) -> Iterator[str]:
    """One line for each file: what is wrong, and the command that mends it; of each kind the first
    few.
    """
    by_kind: dict[Kind, list[Mistracked]] = {}
    for item in found:
        by_kind.setdefault(item.kind, []).append(item)
    for items in by_kind.values():
        yield from (
            mistracked.describe(item, partial(from_here, repository)) for item in items[:_SHOWN]
        )
        if len(items) > _SHOWN:
            yield (
                f"... and {plural(len(items) - _SHOWN, 'more file')} likewise; 'git theta ls-files'"
                " lists them"
            )


def report(repository: Repository, found: Sequence[Mistracked]) -> bool:
    """Write the lines to standard error; whether a model is lacking in the working tree because of
    it.
    """
    for line in lines(repository, [item for item in found if item.lacks_model]):
        click.echo(f"git-theta: {line}", err=True)
    for line in lines(repository, [item for item in found if not item.lacks_model]):
        warn(line)
    return any(item.lacks_model for item in found)


def warn_of_links(repository: Repository, links: Sequence[str]) -> None:
    """Warn of symbolic links in the working tree that stand where models should."""
    for name in (from_here(repository, link) for link in links[:_SHOWN]):
        warn(
            f"{path(name)}: a symbolic link, not a model: git stores only where it leads;"
            f" {mistracked.copying(name)}"
        )
    if len(links) > _SHOWN:
        warn(f"... and {plural(len(links) - _SHOWN, 'more symbolic link')} likewise")


def report_outcome(repository: Repository, plan: Plan, outcome: CheckoutOutcome) -> bool:
    """Write to standard error which models are not in place after a checkout, and why; whether
    there is one.
    """
    for name, error in (*plan.refused, *outcome.failed):
        click.echo(f"git-theta: {path(name)}: {error}", err=True)
    return report(repository, plan.found) or bool(plan.refused or outcome.failed)


def in_place(plan: Plan) -> str:
    """What is in place when there was nothing to write."""
    if not plan.models:
        return "the index holds no model"
    if plan.left_out:
        return (
            f"every model is in place but for {plan.left_out:,} that the sparse checkout leaves out"
        )
    return "every model is in place"
