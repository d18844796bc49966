"""The hooks a plugin may implement.

Each returns what the plugin adds; a plugin implements those it needs.

A package offers its plugin module by an entry point in the group ``git_theta``::

    [project.entry-points.git_theta]
    my-plugin = "my_package.git_theta_plugin"
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from git_theta.core.contracts import CheckpointFormat, MergeStrategy, UnitKind, Update

if TYPE_CHECKING:
    import click

hookspec = pluggy.HookspecMarker("git_theta")
hookimpl = pluggy.HookimplMarker("git_theta")
"""The decorator that marks a function of a plugin's module as the hook of the same name."""


@hookspec
def register_checkpoint_formats() -> Iterable[CheckpointFormat]:  # type: ignore[empty-body]  # a hook
    """The checkpoint formats this plugin reads, tried before the generic zip and plain bytes."""


@hookspec
def register_updates() -> Iterable[Update]:  # type: ignore[empty-body]  # a hook
    """The updates this plugin adds to those tried at ``git add``: ways to store a tensor."""


@hookspec
def register_merge_strategies() -> Iterable[MergeStrategy]:  # type: ignore[empty-body]  # a hook
    """The merge strategies this plugin adds to those that can be chosen by name."""


@hookspec
def register_unit_kinds() -> Iterable[UnitKind]:  # type: ignore[empty-body]  # a hook
    """The kinds of units this plugin adds: tensors that a merge takes from one side together."""


@hookspec
def register_commands() -> Iterable[click.Command]:  # type: ignore[empty-body]  # a hook
    """The click commands this plugin adds below ``git theta``."""
