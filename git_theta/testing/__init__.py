"""Contract suites for plugin authors: plain functions that raise ``AssertionError`` with what went
wrong and where.

In a plugin's tests, with any test runner::

    from git_theta.testing import check_checkpoint_format, check_merge_strategy, check_update

    def test_contract():
        check_update(MyUpdate())
"""

from git_theta.testing.formats import check_checkpoint_format
from git_theta.testing.strategies import check_merge_strategy
from git_theta.testing.unit_kinds import check_unit_kind
from git_theta.testing.updates import Case, check_update

__all__ = [
    "Case",
    "check_checkpoint_format",
    "check_merge_strategy",
    "check_unit_kind",
    "check_update",
]
