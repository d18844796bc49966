"""``git theta filter-process``: what git runs.

``__main__`` starts it without click; this is its entry in the help.
"""

from __future__ import annotations

import click

from git_theta.cli.output import Command


@click.command(name="filter-process", cls=Command)
@click.option("--skip", is_flag=True, help="Leave manifests as they are at checkout.")
def filter_process(skip: bool) -> int:
    """The filter that git runs by itself.

    Git starts it once a command, as 'git theta install' configured, and sends it the tracked files
    to store or restore (see 'Long Running Filter Process' in 'git help attributes'). It is not for
    use by hand.

    With GIT_THETA_SKIP_SMUDGE=1 in the environment, checkouts leave the manifests in place of the
    models.
    """
    from git_theta.drivers.filter_process import main

    return main(["--skip"] if skip else [])
