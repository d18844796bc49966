"""tanh-average: the average of models with tanh layers, after the signs of their units agree.

tanh is odd, so a unit computes the same function if its incoming weights, its bias and its outgoing
weights all change their sign. Each side's units are flipped to agree with the first side's, which
takes the whole model; then tensors are averaged one by one, weighted by the precision of each
element if the sides have a statistic ``variance``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from git_theta.plugin import MergeCase, MergeError, MergeStrategy, Option, hookimpl

_IN, _BIAS, _OUT = ".in.weight", ".in.bias", ".out.weight"


class TanhAverage:
    """Averages layers ``x`` of tensors ``x.in.weight`` (units by inputs), ``x.in.bias`` and
    ``x.out.weight`` (outputs by units); other tensors are averaged as they are.
    """

    name = "tanh-average"
    summary = "average, once the signs of tanh units agree; weighted by precision"
    options: tuple[Option, ...] = (
        Option("least", "float", 1e-8, "a smaller variance counts as this one", minimum=0.0),
    )
    needs_base = False
    min_sides = 2
    max_sides: int | None = None
    statistics: Mapping[str, Literal["sum", "weighted", "mean"]] = {"variance": "mean"}

    def prepare(
        self,
        models: Sequence[Mapping[str, np.ndarray]],
        options: Mapping[str, object],
    ) -> tuple[Mapping[str, np.ndarray], ...]:
        """The sides with units flipped as in the first one; arrays that stay are not copied."""
        first, *others = models
        return (first, *(_flipped(first, other) for other in others))

    def merge(self, case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
        """The average in float64; :class:`MergeError` for what is not a real number."""
        kind = case.sides[0].dtype
        if kind.kind != "f" and str(kind) != "bfloat16":
            raise MergeError(f"{case.name} is {kind}; {self.name} averages floats")
        least = options["least"]
        assert isinstance(least, float)
        total = np.zeros(case.sides[0].shape)
        weights = np.zeros(case.sides[0].shape)
        variances = case.siblings.get("variance", (None,) * len(case.sides))
        known = all(one is not None and one.shape == total.shape for one in variances)
        with np.errstate(all="ignore"):
            for side, variance in zip(case.sides, variances, strict=True):
                weight = np.ones(total.shape)
                if known and variance is not None:
                    weight = 1 / np.maximum(variance.astype(np.float64), least)
                total += weight * side.astype(np.float64)
                weights += weight
            return np.asarray(total / weights).astype(kind)


def _flipped(
    first: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
    """``other`` with each unit flipped whose weights point away from those in ``first``."""
    result = dict(other)
    for name in first:
        layer = name.removesuffix(_IN)
        parts = [layer + part for part in (_IN, _BIAS, _OUT)]
        if layer == name or any(part not in first for part in parts):
            continue
        into, bias, out = (other[part] for part in parts)
        if into.ndim != 2 or out.ndim != 2 or not len(into) == len(bias) == out.shape[1]:
            continue
        away = [_product(first[name][unit], into[unit]) < 0 for unit in range(len(into))]
        signs = np.where(away, -1, 1)
        result[parts[0]] = into * signs[:, None].astype(into.dtype)
        result[parts[1]] = bias * signs.astype(bias.dtype)
        result[parts[2]] = out * signs.astype(out.dtype)
    return result


def _product(one: np.ndarray, other: np.ndarray) -> float:
    """The scalar product, the same on every machine: each term rounded once, the sum exact."""
    terms = (one.astype(np.float64) * other.astype(np.float64)).reshape(-1)
    return math.fsum(terms) if np.isfinite(terms).all() else 0.0


@hookimpl
def register_merge_strategies() -> Iterable[MergeStrategy]:
    """Called by Git-Theta if this package is installed."""
    return [TanhAverage()]
