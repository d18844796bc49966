"""``git theta merge-driver``: what git runs for a tracked model that changed on both sides."""

from __future__ import annotations

import click

from git_theta.cli.output import Command


@click.command(name="merge-driver", cls=Command)
@click.argument("base")
@click.argument("ours")
@click.argument("theirs")
@click.argument("path")
@click.option(
    "--ancestors",
    is_flag=True,
    help="They are common ancestors, to be merged before the merge that was asked for.",
)
def merge_driver(base: str, ours: str, theirs: str, path: str, ancestors: bool) -> int:
    """The merge driver that git runs by itself.

    Git calls it as 'git theta install' configured, with three temporary files and the model's path.
    It merges tensor by tensor into the second file and exits with 0, or leaves it as it is, says
    what conflicts, and exits with 1. It is not for use by hand.
    """
    from git_theta.drivers.merge_driver import main

    return main(base, ours, theirs, path, ancestors=ancestors)
