"""What comes with Git-Theta, by name, without importing it.

The registry's hot path imports the one that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from git_theta.checkpoints.builtin_formats import FALLBACK, make
from git_theta.checkpoints.builtin_formats import FORMATS as FORMATS

if TYPE_CHECKING:
    from git_theta.core.contracts import (
        CheckpointFormat,
        Combination,
        MergeStrategy,
        UnitKind,
        Update,
    )

# The first one stores any tensor, without a base
UPDATES = {
    "dense": "git_theta.updates.dense:Dense",
    "delta": "git_theta.updates.delta:Delta",
    "sparse": "git_theta.updates.sparse:Sparse",
    "low-rank": "git_theta.updates.low_rank:LowRank",
    "ia3": "git_theta.updates.ia3:IA3",
    "patch": "git_theta.updates.patch:Patch",
}
FALLBACK_FORMAT = FALLBACK
FALLBACK_UPDATE = next(iter(UPDATES))

# The statistics that built-in merge strategies declare
STATISTICS: Mapping[str, Combination] = {"fisher": "weighted", "gram": "sum", "velocity": "mean"}
# The strategy, with options, that combines statistics; sums take a weight a side besides
COMBINING: Mapping[Combination, tuple[str, Mapping[str, object]]] = {
    "sum": ("average", {"normalize": False}),
    "weighted": ("average", {"normalize": False}),
    "mean": ("average", {}),
}
TAKES_BASE = "base"  # the strategy that goes back to the common ancestor


def checkpoint_format(name: str) -> CheckpointFormat:
    """The built-in format called ``name``; :class:`KeyError` if there is none."""
    return cast("CheckpointFormat", make(FORMATS[name].target))


def update(name: str) -> Update:
    """The built-in update called ``name``; :class:`KeyError` if there is none."""
    return cast("Update", make(UPDATES[name]))


def merge_strategies() -> tuple[MergeStrategy, ...]:
    """All built-in merge strategies."""
    from git_theta.merges import builtin_strategies

    return tuple(builtin_strategies.strategies())


def unit_kinds() -> tuple[UnitKind, ...]:
    """All built-in kinds of units."""
    from git_theta.merges import units

    return units.KINDS
