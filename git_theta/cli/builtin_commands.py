"""The commands that come with Git-Theta, registered as a plugin registers its own: to list them
all, and to find clashes.
"""

from __future__ import annotations

from collections.abc import Iterable

import click

from git_theta.cli.main import TARGETS, load
from git_theta.plugins.hookspecs import hookimpl


@hookimpl
def register_commands() -> Iterable[click.Command]:
    """All of them, imported."""
    return [load(name) for name in TARGETS]
