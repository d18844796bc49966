"""Interpolation along arcs: slerp for two sides, the Fréchet (Karcher) mean of directions for any
number.

All angles come from the sides' inner products, and every result is a combination of the sides. So a
tensor is read twice, block by block, and never held in float64; the iteration itself works on a
handful of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from git_theta.core.contracts import MergeCase, Option
from git_theta.errors import MergeError
from git_theta.merges.numerics.blocks import canonical, elementwise, gram, total
from git_theta.merges.numerics.elementary import acos, cos, sin
from git_theta.merges.options import number, per_side
from git_theta.merges.strategies.averages import WEIGHTS, mean
from git_theta.merges.strategies.formula import Formula, shown

_NEARLY_PARALLEL = 0.9995


def _slerp(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    """sin((1-t) o)/sin o A + sin(t o)/sin o B, o the angle between A and B; (1-t) A + t B where
    |cos o| > 0.9995 or a side is 0.

    Shoemake 1985, "Animating rotation with quaternion curves".
    """
    t = number(options, "t")
    products = inner_products(case)
    norms = [math.sqrt(products[0][0]), math.sqrt(products[1][1])]
    if not all(norms):
        return combine(case.sides, [1.0 - t, t])
    cosine = max(-1.0, min(1.0, products[0][1] / norms[0] / norms[1]))
    if abs(cosine) > _NEARLY_PARALLEL:
        return combine(case.sides, [1.0 - t, t])
    angle = acos(cosine)
    return combine(case.sides, [sin((1.0 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)])


def _karcher(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    """The point m of the unit sphere that minimises sum w angle(m, W/|W|)^2, times sum w |W| (w
    scaled to sum 1).

    Gradient steps from the normalised mean direction: m <- exp_m(sum w log_m(u)) until one is
    shorter than ``tol`` (Karcher 1977; Buss and Fillmore 2001). Sides that are all zero have no
    direction and count in the norm only. Directions that cancel out have no such mean: the plain
    average is taken.
    """
    order = canonical(case.sides, per_side(options, "weights", len(case.sides)))
    sides = [case.sides[i] for i in order]
    weights = per_side(options, "weights", len(case.sides)) or (1.0,) * len(sides)
    ordered = [weights[i] for i in order]
    if min(ordered) < 0 or not any(ordered):
        raise MergeError(
            f"{shown(case)}: a mean of directions needs weights of 0 or more, not all 0"
        )
    products = inner_products(case, sides)
    whole = total(ordered)
    norms = [math.sqrt(products[i][i]) for i in range(len(sides))]
    length = total([weight / whole * norm for weight, norm in zip(ordered, norms, strict=True)])
    usable = [i for i, norm in enumerate(norms) if norm and ordered[i]]
    if not usable:
        return mean(sides[0], sides, ordered)
    units = [[products[i][j] / norms[i] / norms[j] for j in usable] for i in usable]
    shares = [ordered[i] for i in usable]
    direction = _frechet_mean(
        units,
        [share / total(shares) for share in shares],
        number(options, "tol"),
        int(number(options, "max_iter")),
    )
    if direction is None:
        return mean(sides[0], sides, ordered)
    return combine(
        [sides[i] for i in usable],
        [length * c / norms[i] for c, i in zip(direction, usable, strict=True)],
    )


def _frechet_mean(
    units: list[list[float]], weights: list[float], tol: float, max_iter: int
) -> list[float] | None:
    """Coefficients of the mean direction in the unit vectors whose inner products are ``units``;
    None where there is none.
    """
    point = list(weights)
    size = _length(point, units)
    if size < tol:
        return None
    point = [c / size for c in point]
    for _ in range(max_iter):
        step = [0.0] * len(point)
        for k, weight in enumerate(weights):
            cosine = max(
                -1.0, min(1.0, total([c * u for c, u in zip(point, units[k], strict=True)]))
            )
            angle = acos(cosine)
            if angle < tol:
                continue
            if sin(angle) < tol:
                return None  # opposite: every direction away from the point is as short
            scale = weight * angle / sin(angle)
            step = [s - scale * cosine * c for s, c in zip(step, point, strict=True)]
            step[k] += scale
        size = _length(step, units)
        if size < tol:
            break
        point = [cos(size) * c + sin(size) / size * s for c, s in zip(point, step, strict=True)]
        size = _length(point, units)
        point = [c / size for c in point]
    return point


def _length(point: list[float], units: list[list[float]]) -> float:
    squares = total(
        [
            a * b * u
            for a, row in zip(point, units, strict=True)
            for b, u in zip(point, row, strict=True)
        ]
    )
    return math.sqrt(max(0.0, squares))


def inner_products(
    case: MergeCase, sides: Sequence[np.ndarray] | None = None, shift: np.ndarray | None = None
) -> list[list[float]]:
    """Inner products of the sides (less ``shift``); :class:`MergeError` where NaN or Inf makes one
    meaningless.
    """
    products = gram(case.sides if sides is None else sides, shift)
    if not all(math.isfinite(product) for row in products for product in row):
        raise MergeError(
            f"{shown(case)} holds NaN, infinite or too large values, so its norm is undefined;"
            " resolve it by ours, theirs or average"
        )
    return products


def combine(sides: Sequence[np.ndarray], factors: Sequence[float]) -> np.ndarray:
    """The sum of f W, added in the order given."""

    def kernel(_: int, parts: list[np.ndarray]) -> np.ndarray:
        for part, factor in zip(parts, factors, strict=True):
            np.multiply(part, factor, out=part)
            if part is not parts[0]:
                parts[0] += part
        return parts[0]

    return elementwise(sides[0], sides, kernel)


_KARCHER = (
    WEIGHTS,
    Option("max_iter", "int", 10, "steps at most", minimum=1, maximum=1000),
    Option(
        "tol",
        "float",
        1e-5,
        "length of a step (radians) at which to stop",
        minimum=1e-12,
        maximum=1,
    ),
)

STRATEGIES = (
    Formula(
        "slerp",
        "interpolation along the arc between two sides",
        _slerp,
        (
            Option(
                "t", "float", 0.5, "how far to go from ours (0) to theirs (1)", minimum=0, maximum=1
            ),
        ),
        max_sides=2,
        order_free=False,
    ),
    Formula(
        "karcher",
        "mean of the sides' directions on the sphere, at their mean norm",
        _karcher,
        _KARCHER,
    ),
    Formula("multislerp", "another name of karcher", _karcher, _KARCHER),
)
