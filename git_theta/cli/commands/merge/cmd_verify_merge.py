"""``git theta verify-merge``: prove that a merge commit holds what its recipe says."""

from __future__ import annotations

import json
from dataclasses import astuple

import click

from git_theta.cli.output import Command, path, plural, warn
from git_theta.core.names import display
from git_theta.git.config.config_file import load_settings
from git_theta.git.repository import discover


@click.command(
    name="verify-merge",
    cls=Command,
    examples="""
git theta verify-merge            # the commit that is checked out
git theta verify-merge v2.0
""",
)
@click.argument("revision", metavar="[REV]", default="HEAD")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def verify_merge(revision: str, as_json: bool) -> int:
    """Compute the merges recorded in REV again, from their inputs, and compare bit for bit.

    A merge by a strategy writes its recipe into the manifest: strategy, options, seed, and the
    identities of its inputs. The exit code is 0 when every recorded merge of REV gives the same
    bytes, 1 when one does not or cannot be computed any more.
    """
    from git_theta.terminal.bars import Bars
    from git_theta.workflows.merging.verify import verify
    from git_theta.workflows.session import Session

    repository = discover()
    with Session(repository, load_settings(repository), warn, progress=Bars()) as session:
        verdicts = verify(session, revision)
    if as_json:
        rows = [
            dict(
                zip(
                    ("path", "same", "differing", "problem", "tolerance"),
                    astuple(verdict),
                    strict=True,
                )
            )
            for verdict in verdicts
        ]
        click.echo(json.dumps(rows, indent=2))
    elif not verdicts:
        click.echo(f"{path(revision)} holds no model with a recorded merge.")
    for verdict in () if as_json else verdicts:
        if verdict.same and verdict.tolerance:
            click.echo(
                f"{path(verdict.path)}: verified, to two units in the last place where the strategy"
                " needs LAPACK"
            )
        elif verdict.same:
            click.echo(f"{path(verdict.path)}: verified, the same bytes")
        elif verdict.problem:
            click.echo(f"{path(verdict.path)}: cannot be verified: {verdict.problem}")
        else:
            count, first = (
                plural(len(verdict.differing), "tensor"),
                display(verdict.differing[0], 80),
            )
            click.echo(f"{path(verdict.path)}: differs in {count}, first {first}")
    return 0 if all(verdict.same for verdict in verdicts) else 1
