"""``git theta transfer-agent``."""

from __future__ import annotations

import sys

import click

from git_theta.cli.output import Command, warn


@click.command("transfer-agent", cls=Command)
def transfer_agent() -> int:
    """Move ordinary Git LFS files to and from object storage.

    git-lfs runs this, where 'git theta remote set --with-lfs' has set it up.
    """
    from git_theta.drivers.transfer_agent import serve

    def answer(line: bytes) -> None:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()

    return serve(sys.stdin.buffer, answer, warn)
