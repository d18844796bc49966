"""Weighted means of elements: average (linear) and nearswap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from git_theta.core.contracts import MergeCase, Option
from git_theta.errors import MergeError
from git_theta.merges.numerics.blocks import canonical, elementwise, total
from git_theta.merges.options import REQUIRED, number, per_side
from git_theta.merges.strategies.formula import Formula

WEIGHTS = Option(
    "weights",
    "floats",
    None,
    "one weight a side, in the order of the sides (default: equal)",
    minimum=-100,
    maximum=100,
)


def mean(
    like: np.ndarray,
    sides: Sequence[np.ndarray],
    weights: Sequence[float] | None,
    normalize: bool = True,
) -> np.ndarray:
    """The weighted mean sum w W / sum w, in float64, as an array of ``like``'s shape and type;
    without weights sum W / n.

    Not normalised: sum w W. Model soups, arXiv 2203.05482 (equal weights).
    """
    order = canonical(sides, weights)
    divisor = float(len(sides)) if weights is None else total(list(weights)) if normalize else 1.0
    if not divisor:
        raise MergeError(
            "the weights add up to 0, so their average is undefined; set normalize=false for a"
            " plain weighted sum"
        )
    ordered = [1.0 if weights is None else weights[i] for i in order]

    def kernel(_: int, parts: list[np.ndarray]) -> np.ndarray:
        result = parts[0]
        for part, weight in zip(parts, ordered, strict=True):
            if weight != 1.0:
                np.multiply(part, weight, out=part)
            if part is not result:
                np.add(result, part, out=result)
        if math.frexp(divisor)[0] == 0.5:  # a power of two: multiplying is as exact, and faster
            np.multiply(result, 1.0 / divisor, out=result)
        else:
            np.divide(result, divisor, out=result)
        return result

    return elementwise(like, [sides[i] for i in order], kernel)


def _average(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    weights = per_side(options, "weights", len(case.sides))
    return mean(case.sides[0], case.sides, weights, normalize=bool(options["normalize"]))


def _nearswap(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    """A + w (B - A) as w B + (1 - w) A, w = clip(t / |A - B|, 0, 1): theirs where it is within
    ``t`` of ours, less of it beyond.
    """
    t = number(options, "t")

    def kernel(_: int, parts: list[np.ndarray]) -> np.ndarray:
        ours, theirs = parts
        # Equal elements divide by zero: infinity, so weight 1, which changes nothing.
        weight = ours - theirs
        np.abs(weight, out=weight)
        np.divide(t, weight, out=weight)
        np.minimum(weight, 1.0, out=weight)
        theirs *= weight
        ours *= np.subtract(1.0, weight, out=weight)
        theirs += ours
        return theirs

    return elementwise(case.sides[0], case.sides, kernel)


_NORMALIZE = Option("normalize", "bool", True, "divide by the sum of the weights")
_AVERAGE = (WEIGHTS, _NORMALIZE)

STRATEGIES = (
    Formula("average", "weighted mean of the sides (model soup)", _average, _AVERAGE, min_sides=1),
    Formula("linear", "another name of average", _average, _AVERAGE, min_sides=1),
    Formula(
        "nearswap",
        "ours, moved to theirs where the two are close",
        _nearswap,
        (
            Option(
                "t",
                "float",
                REQUIRED,
                "distance up to which theirs is taken whole, such as 0.0001",
                minimum=1e-300,
                maximum=1e300,
            ),
        ),
        max_sides=2,
        order_free=False,
    ),
)
