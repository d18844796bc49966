"""Calling a merge strategy, built in or a plugin's, on one tensor: the one place that trusts nothing it gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from git_theta.core.contracts import MergeCase, MergeStrategy
from git_theta.core.names import display
from git_theta.errors import MergeError
from git_theta.merges.check import check_finite, check_result
from git_theta.merges.formula import described, shown
from git_theta.merges.rows import merge_rows, needs_rows


@dataclass(frozen=True, slots=True)
class Outcome:
    """A merged tensor and what the user should hear about it."""

    array: np.ndarray
    notices: tuple[str, ...] = ()


def apply(strategy: MergeStrategy, case: MergeCase, options: Mapping[str, object]) -> Outcome:
    """Merge ``case``; with ``rows=common`` also where the sides differ in rows.

    :class:`MergeError` when the strategy cannot, fails in any other way, or returns something of another shape or type.
    """
    own = {key: value for key, value in options.items() if key != "rows"}
    notices = check_finite(case)
    if options.get("rows") == "common" and needs_rows(case):
        array, taken = merge_rows(lambda part: _call(strategy, part, own), case, strategy.needs_base)
        return Outcome(array, (*notices, taken, *check_result(case, array)))
    array = _call(strategy, case, own)
    return Outcome(array, (*notices, *([] if notices else check_result(case, array))))


def _call(strategy: MergeStrategy, case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    try:
        result = strategy.merge(case, options)
    except MergeError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {display(str(error) or 'no message', 200)}"
        raise MergeError(f"{strategy.name} failed on {shown(case)} with {what}; resolve it by another strategy") from error
    first = case.sides[0]
    if not isinstance(result, np.ndarray) or result.shape != first.shape or result.dtype != first.dtype:
        got = described(result) if isinstance(result, np.ndarray) else type(result).__name__
        raise MergeError(f"{strategy.name} returned {got} for {shown(case)}, which is {described(first)}; resolve it by another strategy")
    return result
