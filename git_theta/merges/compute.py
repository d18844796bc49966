"""The third step of a merge, compute: a strategy, built in or a plugin's, called on one tensor.

The one place that trusts nothing it gets back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from git_theta.core.contracts import KeepsState, MergeCase, MergeStrategy, computes
from git_theta.core.names import display
from git_theta.errors import MergeError, ThetaError
from git_theta.merges.check import any_negative, check_finite, check_result
from git_theta.merges.rows import merge_rows, needs_rows
from git_theta.merges.strategies.averages import mean
from git_theta.merges.strategies.formula import computable, described, shown
from git_theta.merges.training_state import never_negative


@dataclass(frozen=True, slots=True)
class Computed:
    """A merged tensor and what the user should hear about it; ``averaged``: in place of the
    strategy, since it cannot be negative. ``statistics`` are those that the strategy leaves.
    """

    array: np.ndarray
    notices: tuple[str, ...] = ()
    averaged: bool = False
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)


def compute(
    strategy: MergeStrategy,
    case: MergeCase,
    options: Mapping[str, object],
    with_state: bool = False,
) -> Computed:
    """Merge ``case``; with ``rows=common`` also where the sides differ in rows.

    ``with_state``: the statistics that the strategy leaves are wanted, too.

    Variances, means of squares and the like are averaged if the strategy moves the base by the
    sides' changes, whose sum may be below 0, or if it made any of them negative.
    :class:`MergeError` when the strategy cannot, fails in any other way, or returns something of
    another shape or type.
    """
    own = {key: value for key, value in options.items() if key != "rows"}
    notices = check_finite(case)
    averaged = []

    def merged(part: MergeCase) -> np.ndarray:
        array, replaced = _kept_positive(strategy, part, own)
        averaged.append(replaced)
        return array

    if options.get("rows") == "common" and needs_rows(case):
        array, taken = merge_rows(merged, case, strategy.needs_base)
        told = (*notices, taken, *check_result(case, array))
    else:
        array = merged(case)
        told = (*notices, *([] if notices else check_result(case, array)))
    left: Mapping[str, np.ndarray] = {}
    if with_state and isinstance(strategy, KeepsState) and not any(averaged):
        left = guarded(strategy, strategy.after, case, own)
    return Computed(array, told, any(averaged), left)


def guarded(strategy: MergeStrategy, call: Callable[..., Any], *arguments: object) -> Any:
    """What a strategy's further method returns; :class:`MergeError` whatever goes wrong in it."""
    try:
        return call(*arguments)
    except ThetaError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {display(str(error) or 'no message', 200)}"
        raise MergeError(
            f"{strategy.name} failed with {what}; resolve it by another strategy"
        ) from error


def _kept_positive(
    strategy: MergeStrategy, case: MergeCase, options: Mapping[str, object]
) -> tuple[np.ndarray, bool]:
    """The strategy's result, or the sides' mean in place of one that must not be negative; and
    whether it is the mean.
    """
    inputs = [*case.sides, *([case.base] if case.base is not None else [])]
    alike = len({(side.shape, side.dtype) for side in case.sides}) == 1 and computable(
        case.sides[0].dtype
    )
    guarded = never_negative(case.name) and alike and not any(map(any_negative, inputs))
    if guarded and strategy.needs_base and computes(strategy):
        return mean(case.sides[0], case.sides, None), True
    array = _call(strategy, case, options)
    if guarded and any_negative(array):
        return mean(case.sides[0], case.sides, None), True
    return array, False


def _call(strategy: MergeStrategy, case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    try:
        result = strategy.merge(case, options)
    except MergeError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {display(str(error) or 'no message', 200)}"
        raise MergeError(
            f"{strategy.name} failed on {shown(case)} with {what}; resolve it by another strategy"
        ) from error
    first = case.sides[0]
    if (
        not isinstance(result, np.ndarray)
        or result.shape != first.shape
        or result.dtype != first.dtype
    ):
        got = described(result) if isinstance(result, np.ndarray) else type(result).__name__
        raise MergeError(
            f"{strategy.name} returned {got} for {shown(case)}, which is {described(first)};"
            " resolve it by another strategy"
        )
    return result
