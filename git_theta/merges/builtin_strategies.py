"""The built-in merge strategies. Importing this module is cheap; calling it imports numpy."""

from __future__ import annotations

from git_theta.core.contracts import MergeStrategy


def strategies() -> tuple[MergeStrategy, ...]:
    """One of each, in the order in which they are listed to people."""
    from git_theta.merges.strategies import (
        averages,
        consensus,
        permutation,
        picks,
        spherical,
        task_vectors,
        weighted_by_statistics,
    )

    families = (
        picks,
        averages,
        spherical,
        task_vectors,
        consensus,
        weighted_by_statistics,
        permutation,
    )
    return tuple(strategy for family in families for strategy in family.STRATEGIES)
