"""Taking one side whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from git_theta.core.contracts import MergeCase
from git_theta.merges.items import BASE
from git_theta.merges.strategies.formula import Formula


def _ours(case: MergeCase, _: Mapping[str, object]) -> np.ndarray:
    return case.sides[0]


def _theirs(case: MergeCase, _: Mapping[str, object]) -> np.ndarray:
    return case.sides[1]


def _base(case: MergeCase, _: Mapping[str, object]) -> np.ndarray:
    assert case.base is not None
    return case.base


STRATEGIES = (
    Formula(
        "ours",
        "keep the value of the branch merged into",
        _ours,
        min_sides=1,
        order_free=False,
        numbers=False,
        takes=0,
    ),
    Formula(
        "theirs",
        "take the value of the branch being merged",
        _theirs,
        max_sides=2,
        order_free=False,
        numbers=False,
        takes=1,
    ),
    Formula(
        "base",
        "go back to the value of the common ancestor",
        _base,
        needs_base=True,
        min_sides=1,
        numbers=False,
        takes=BASE,
    ),
)
