"""What this package adds to Git-Theta: the module that its entry point names.

What a hook returns is imported only when it is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from git_theta.plugin import hookimpl

if TYPE_CHECKING:
    import click

    from git_theta.plugin import CheckpointFormat, MergeStrategy, UnitKind, Update


@hookimpl
def register_checkpoint_formats() -> Iterable[CheckpointFormat]:
    """The JSON format."""
    from git_theta_json_weights.format import JsonWeights

    return [JsonWeights()]


@hookimpl
def register_updates() -> Iterable[Update]:
    """Scaling by a number."""
    from git_theta_json_weights.update import Scaled

    return [Scaled()]


@hookimpl
def register_merge_strategies() -> Iterable[MergeStrategy]:
    """What moved farthest."""
    from git_theta_json_weights.strategy import Largest

    return [Largest()]


@hookimpl
def register_unit_kinds() -> Iterable[UnitKind]:
    """Codes and their values."""
    from git_theta_json_weights.units import Codebook

    return [Codebook()]


@hookimpl
def register_commands() -> Iterable[click.Command]:
    """``git theta json-weights``."""
    from git_theta_json_weights.command import json_weights

    return [json_weights]
