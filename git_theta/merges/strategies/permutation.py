"""Git Re-Basin (Ainsworth et al., arXiv 2209.04836): reorder one side's hidden units to match the
other's, then merge.

Two networks trained apart can compute alike with their hidden units in different orders; averaged
as they stand they cancel out. Weight matching finds, per group of units, the order in which theirs
resembles ours most (a linear assignment problem), group after group until none improves. The
reordered side computes exactly what it did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from git_theta.core.contracts import MergeCase, Option
from git_theta.core.names import display
from git_theta.errors import MergeError
from git_theta.merges.options import complete, number
from git_theta.merges.strategies.averages import mean
from git_theta.merges.strategies.formula import Formula, computable
from git_theta.merges.strategies.permutation_spec import AxisGroup, derive
from git_theta.merges.strategies.spherical import STRATEGIES as SPHERICAL

Tensors = Mapping[str, np.ndarray]


class Permute(Formula):
    """The first side stays; the second is reordered by :meth:`prepare`, then both are merged by the
    strategy ``then``.
    """

    __slots__ = ()

    def prepare(
        self, models: Sequence[Tensors], options: Mapping[str, object]
    ) -> tuple[Tensors, ...]:
        """Ours as it is, and theirs with its hidden units in the order of ours.

        :class:`MergeError` when the models' names or shapes differ, or nothing to reorder is
        recognised. Needs scipy.
        """
        settings = complete(self.name, self.options, options)
        if len(models) != 2:
            raise MergeError(f"permute matches 2 sides, not {len(models)}")
        ours, theirs = models
        _check_alike(ours, theirs)
        shapes = {name: array.shape for name, array in ours.items() if computable(array.dtype)}
        groups = derive(shapes, int(number(settings, "heads")), int(number(settings, "kv_heads")))
        orders = match(groups, ours, theirs, int(number(settings, "max_iter")))
        return ours, reorder(groups, orders, theirs)


def match(
    groups: Sequence[AxisGroup], ours: Tensors, theirs: Tensors, max_iter: int = 100
) -> list[np.ndarray]:
    """Per group the order of theirs' units (indices into them) that resembles ours most, by inner
    products of weights.
    """
    linear_sum_assignment = _assignment()
    involved = {place.tensor for group in groups for place in group.places}
    left = {name: np.asarray(ours[name], np.float64) for name in involved}
    right = {name: np.asarray(theirs[name], np.float64) for name in involved}
    bad = [
        name
        for name in sorted(involved)
        if not (np.isfinite(left[name]).all() and np.isfinite(right[name]).all())
    ]
    if bad:
        raise MergeError(
            f"tensor '{display(bad[0], 80)}' holds NaN or infinite values, so units cannot be"
            " matched; use another strategy"
        )
    orders = [np.arange(group.size) for group in groups]
    touching: dict[str, list[tuple[int, int]]] = {name: [] for name in involved}
    for index, group in enumerate(groups):
        for place in group.places:
            touching[place.tensor].append((index, place.axis))
    for _ in range(max_iter):
        improved = False
        for index, group in enumerate(groups):
            likeness = np.zeros((group.size, group.size))
            for place in group.places:
                other = right[place.tensor]
                for neighbour, axis in touching[place.tensor]:
                    if neighbour != index:
                        other = _take(other, axis, groups[neighbour].size, orders[neighbour])
                likeness += (
                    _units(left[place.tensor], place.axis, group.size)
                    @ _units(other, place.axis, group.size).T
                )
            _, order = linear_sum_assignment(likeness, maximize=True)
            places = np.arange(group.size)
            gain = likeness[places, order].sum() - likeness[places, orders[index]].sum()
            if gain > 1e-12 * np.abs(likeness).max(initial=0.0) * group.size:
                orders[index], improved = order, True
        if not improved:
            break
    return orders


def reorder(
    groups: Sequence[AxisGroup], orders: Sequence[np.ndarray], tensors: Tensors
) -> dict[str, np.ndarray]:
    """``tensors`` with each group's units in the given order; exact, since values only change
    places.
    """
    result = dict(tensors)
    for group, order in zip(groups, orders, strict=True):
        if not np.array_equal(order, np.arange(group.size)):
            for place in group.places:
                result[place.tensor] = _take(result[place.tensor], place.axis, group.size, order)
    return result


def _take(array: np.ndarray, axis: int, size: int, order: np.ndarray) -> np.ndarray:
    width = array.shape[axis] // size
    indices = (order[:, None] * width + np.arange(width)[None, :]).reshape(-1)
    taken: np.ndarray = np.take(array, indices, axis=axis)
    return taken


def _units(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """(size, the rest): all weights of each unit along ``axis``."""
    return np.moveaxis(array, axis, 0).reshape(size, -1)


def _check_alike(ours: Tensors, theirs: Tensors) -> None:
    odd = sorted(ours.keys() ^ theirs.keys())
    if odd:
        raise MergeError(
            f"permute needs the same tensors on both sides; '{display(odd[0], 80)}' is on one only"
        )
    for name, array in ours.items():
        if theirs[name].shape != array.shape or theirs[name].dtype != array.dtype:
            raise MergeError(
                "permute needs the same shapes and types on both sides; those of"
                f" '{display(name, 80)}' differ"
            )


def _assignment() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MergeError("permute needs scipy: pip install scipy") from None
    solver: Callable[..., tuple[np.ndarray, np.ndarray]] = linear_sum_assignment
    return solver


def _merge(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    t = number(options, "t")
    if options["then"] == "average":
        return mean(case.sides[0], case.sides, None if t == 0.5 else (1.0 - t, t))
    return next(s for s in SPHERICAL if s.name == options["then"]).merge(case, {"t": t})


STRATEGIES = (
    Permute(
        "permute",
        "reorder theirs' hidden units to match ours, then merge (git re-basin)",
        _merge,
        (
            Option(
                "then",
                "str",
                "average",
                "how to merge the matched sides",
                choices=("average", "slerp"),
            ),
            Option("t", "float", 0.5, "theirs' share of the result", minimum=0, maximum=1),
            Option(
                "heads",
                "int",
                0,
                "attention heads a layer (0: do not reorder heads; not for ALiBi)",
                minimum=0,
                maximum=4096,
            ),
            Option(
                "kv_heads",
                "int",
                0,
                "key and value heads a layer (0: as many as heads)",
                minimum=0,
                maximum=4096,
            ),
            Option(
                "max_iter", "int", 100, "rounds over all groups at most", minimum=1, maximum=10000
            ),
        ),
        max_sides=2,
        reproducible=False,
        order_free=False,
    ),
)
