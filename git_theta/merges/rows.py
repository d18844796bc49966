"""Tables whose sides have different numbers of rows, such as embeddings of vocabularies that grew
apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from git_theta.core.contracts import MergeCase
from git_theta.errors import MergeError
from git_theta.merges.strategies.formula import shown, side_name


def needs_rows(case: MergeCase) -> bool:
    """Whether the sides (or the base) differ in shape."""
    arrays = [*case.sides, *([case.base] if case.base is not None else [])]
    return any(array.shape != case.sides[0].shape for array in arrays)


def merge_rows(
    merge: Callable[[MergeCase], np.ndarray], case: MergeCase, needs_base: bool
) -> tuple[np.ndarray, str]:
    """``merge`` on the rows that all sides have (and the base, where it is needed), the other rows
    from the longest side.

    Of several longest sides the first gives the rest. Returns the array and a notice of what was
    taken from where. :class:`MergeError` where the arrays differ in more than the first dimension,
    or in type. Statistics that have a row for each of their side's are cut likewise; others are
    passed on as they are.
    """
    base = case.base
    arrays = [*case.sides, *([base] if base is not None else [])]
    first = case.sides[0]
    if any(a.ndim < 1 or a.shape[1:] != first.shape[1:] or a.dtype != first.dtype for a in arrays):
        shapes = ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays)
        raise MergeError(
            f"{shown(case)} differs in more than its number of rows ({shapes}); choose ours or"
            " theirs for it"
        )
    if (
        base is not None
        and not needs_base
        and base.shape[0] < min(side.shape[0] for side in case.sides)
    ):
        base = None  # a short base must not hide rows that all sides have
    common = min(a.shape[0] for a in [*case.sides, *([base] if base is not None else [])])
    longest = max(range(len(case.sides)), key=lambda i: case.sides[i].shape[0])
    siblings = {
        name: tuple(map(_rows, values, case.sides, [common] * len(case.sides)))
        for name, values in case.siblings.items()
    }
    part = replace(
        case,
        base=None if base is None else base[:common],
        sides=tuple(side[:common] for side in case.sides),
        siblings=siblings,
    )
    merged = merge(part)
    result = (
        np.concatenate([merged, case.sides[longest][common:]])
        if case.sides[longest].shape[0] > common
        else merged
    )
    taken = result.shape[0] - common
    return (
        result,
        (
            f"{shown(case)}: {common} rows in common merged, {taken} taken from"
            f" {side_name(longest, len(case.sides))}"
        ),
    )


def _rows(value: np.ndarray | None, side: np.ndarray, common: int) -> np.ndarray | None:
    return value[:common] if value is not None and value.shape == side.shape else value
