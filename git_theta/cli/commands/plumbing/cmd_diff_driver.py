"""``git theta diff-driver``: what 'git diff' runs.

``__main__`` starts it without click; this is its entry in the help.
"""

from __future__ import annotations

import click

from git_theta.cli.output import Command


@click.command(name="diff-driver", cls=Command)
@click.argument(
    "arguments",
    nargs=-1,
    required=True,
    metavar="PATH OLD-FILE OLD-HEX OLD-MODE NEW-FILE NEW-HEX NEW-MODE",
)
def diff_driver(arguments: tuple[str, ...]) -> int:
    """The diff driver that git runs by itself.

    'git diff' calls it for tracked models, as 'git theta install' configured (see GIT_EXTERNAL_DIFF
    in 'git help git'). It prints a summary by tensors, the same that 'git theta diff' shows; 'git
    diff --no-ext-diff' prints the change of the manifest instead. It is not for use by hand.
    """
    from git_theta.drivers.diff_driver import main

    return main(arguments)
