"""The plugin that comes with Git-Theta: it registers what is built in through the same hooks as any
other.
"""

from __future__ import annotations

from collections.abc import Iterable

from git_theta.core.contracts import CheckpointFormat, MergeStrategy, UnitKind, Update
from git_theta.plugins import tables
from git_theta.plugins.hookspecs import hookimpl


@hookimpl
def register_checkpoint_formats() -> Iterable[CheckpointFormat]:
    """All built-in formats, in the order in which they are tried."""
    return [tables.checkpoint_format(name) for name in tables.FORMATS]


@hookimpl
def register_updates() -> Iterable[Update]:
    """All built-in updates."""
    return [tables.update(name) for name in tables.UPDATES]


@hookimpl
def register_merge_strategies() -> Iterable[MergeStrategy]:
    """All built-in merge strategies."""
    return tables.merge_strategies()


@hookimpl
def register_unit_kinds() -> Iterable[UnitKind]:
    """All built-in kinds of units."""
    return tables.unit_kinds()
