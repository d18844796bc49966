"""The merge strategy: of each element the value of the side that moved it farthest from the base;
of equals, the first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from git_theta.plugin import MergeCase, MergeError, Option


class Largest:
    """Like ``ties`` without its averaging: sides that tuned different parts of a tensor keep them
    all.
    """

    name = "largest"
    summary = "of each element, the value that moved farthest from the base"
    options: tuple[Option, ...] = (
        Option(
            "at_least",
            "float",
            0.0,
            "a change that is not larger than this does not count",
            minimum=0.0,
        ),
    )
    needs_base = True
    min_sides = 2
    max_sides: int | None = None

    def merge(self, case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
        """Computed in float64; :class:`MergeError` for what is no real number."""
        if case.base is None:
            raise MergeError(f"{self.name} needs the common ancestor's value of {case.name}")
        if case.base.dtype.kind in "cb":
            raise MergeError(f"{case.name} is {case.base.dtype}; {self.name} merges real numbers")
        base = case.base.astype(np.float64)
        result, farthest = (
            case.base.copy(),
            np.full(case.base.shape, options["at_least"], np.float64),
        )
        with np.errstate(all="ignore"):
            for side in case.sides:
                moved = np.abs(side.astype(np.float64) - base)
                np.copyto(result, side, where=moved > farthest)
                farthest = np.fmax(farthest, moved)
        return result
