"""Task vectors: what each side changed (d = side - base), thinned out, combined and added to the
base.

Task arithmetic, TIES, DARE, Breadcrumbs and DELLA are one pipeline: *sparsify* each d, then either
*sum* them (W0 + lambda sum w d) or *elect* a sign per element and average those that agree with it:
W0 + lambda (sum of w d that agree) / (sum of |w| that agree). The elected sign is that of sum w d;
an exact 0 elects nobody (TIES, arXiv 2306.01708, with sgn 0 = 0). An element that no side changed
keeps the base's bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from git_theta.core.contracts import MergeCase, Option
from git_theta.errors import MergeError
from git_theta.merges.numerics.blocks import canonical, elementwise, flat, order_statistics
from git_theta.merges.options import complete, number, per_side
from git_theta.merges.strategies import sparsify
from git_theta.merges.strategies.averages import WEIGHTS
from git_theta.merges.strategies.formula import Formula, check_case, computable
from git_theta.merges.strategies.sparsify import Sparsifier, row_length

Choose = Callable[[MergeCase, int, Mapping[str, object]], Sparsifier]


class Ties(Formula):
    """TIES; with ``scope=model`` one cutoff a side over the whole model, which :meth:`survey`
    finds.
    """

    __slots__ = ()

    def survey(
        self, cases: Callable[[], Iterable[MergeCase]], options: Mapping[str, object]
    ) -> dict[str, object]:
        """``options`` with ``cutoffs``: per side the magnitude that the top ``density`` of all its
        task vectors' elements reach.

        ``cases``: every tensor of the model, in any order, each with all sides (one that did not
        change equals the base); those that cannot be computed with are skipped. Options that do not
        ask for it come back complete but unchanged.
        """
        settings = complete(self.name, self.options, options)
        if settings["scope"] != "model" or settings["cutoffs"] is not None:
            return settings
        count = size = 0
        for case in cases():
            if computable(case.sides[0].dtype):
                check_case(self, case)
                count, size = max(count, len(case.sides)), size + flat(case.sides[0]).size
        if not size:
            return settings | {"cutoffs": (0.0,) * count}
        rank = size - sparsify.share(number(settings, "density"), size)

        cutoffs = tuple(
            order_statistics(partial(_model_magnitudes, cases, side), size, [rank])[0]
            for side in range(count)
        )
        return settings | {"cutoffs": cutoffs}


def _model_magnitudes(cases: Callable[[], Iterable[MergeCase]], side: int) -> Iterator[np.ndarray]:
    for case in cases():
        if computable(case.sides[0].dtype):
            assert case.base is not None
            yield from sparsify.magnitudes(case.base, case.sides[side])


def _pipeline(
    choose: Choose, elect: bool, by_row: bool = False
) -> Callable[[MergeCase, Mapping[str, object]], np.ndarray]:
    def compute(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
        assert case.base is not None
        weights = per_side(options, "weights", len(case.sides))
        order = canonical(case.sides, weights)
        sparsifiers = [choose(case, side, options) for side in order]
        ordered = [1.0 if weights is None else weights[side] for side in order]
        scale = number(options, "lambda")

        def kernel(start: int, parts: list[np.ndarray]) -> np.ndarray:
            base, deltas = parts[0], parts[1:]
            for delta, sparsifier, weight in zip(deltas, sparsifiers, ordered, strict=True):
                np.subtract(delta, base, out=delta)
                sparsifier(start, delta)
                if weight != 1.0:
                    np.multiply(delta, weight, out=delta)
            change = elected_mean(deltas, ordered) if elect else in_order(deltas)
            if scale != 1.0:
                np.multiply(change, scale, out=change)
            return moved(base, change)

        row = row_length(case.base) if by_row else 1
        return elementwise(
            case.base, [case.base, *(case.sides[side] for side in order)], kernel, row
        )

    return compute


def in_order(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The sum, in a new array."""
    result = parts[0].copy()
    for part in parts[1:]:
        result += part
    return result


def elected_mean(changes: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Per element, the sum of those weighted ``changes`` whose sign is that of the sum of all, over
    the sum of their |weights|.

    NaN in the sum of all gives NaN. ``changes`` are already multiplied by ``weights``.
    """
    elected = in_order(changes)
    sign = np.sign(elected)
    result, divisor = np.zeros_like(elected), np.zeros_like(elected)
    for change, weight in zip(changes, weights, strict=True):
        agrees = change * sign > 0
        result += np.where(agrees, change, 0.0)
        divisor += agrees * abs(weight)
    np.putmask(divisor, divisor == 0, 1.0)
    result /= divisor
    np.putmask(result, np.isnan(elected), np.nan)
    return result


def moved(base: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The sum base + change, but exactly the base where the change is 0 (which would turn -0 into
    0). Overwrites ``change``.
    """
    still = change == 0
    np.add(base, change, out=change)
    np.putmask(change, still, base)
    return change


def _keep_all(_: MergeCase, __: int, ___: Mapping[str, object]) -> Sparsifier:
    return sparsify.nothing


def _trim(case: MergeCase, side: int, options: Mapping[str, object]) -> Sparsifier:
    assert case.base is not None
    if options["scope"] == "tensor":
        return sparsify.trim(case.base, case.sides[side], number(options, "density"))
    cutoffs = per_side(options, "cutoffs", len(case.sides))
    if cutoffs is None:
        raise MergeError(
            "ties with scope=model needs the cutoffs that a survey of the whole model finds; or use"
            " scope=tensor"
        )
    return sparsify.above(cutoffs[side])


def _drop(case: MergeCase, side: int, options: Mapping[str, object]) -> Sparsifier:
    return sparsify.drop(
        sparsify.mask_stream(options, case.name, case.sides[side]), number(options, "density")
    )


def _band(case: MergeCase, side: int, options: Mapping[str, object]) -> Sparsifier:
    assert case.base is not None
    return sparsify.band(
        case.base, case.sides[side], number(options, "density"), number(options, "gamma")
    )


def _magprune(case: MergeCase, side: int, options: Mapping[str, object]) -> Sparsifier:
    random = sparsify.mask_stream(options, case.name, case.sides[side])
    return sparsify.magprune(
        random, number(options, "density"), number(options, "epsilon"), row_length(case.sides[side])
    )


def _density(default: float) -> Option:
    return Option(
        "density",
        "float",
        default,
        "share of the elements of a task vector to keep",
        minimum=1e-6,
        maximum=1,
    )


_SCALE = Option(
    "lambda", "float", 1.0, "factor of the combined task vector", minimum=-10, maximum=10
)
_SEED = Option(
    "seed",
    "int",
    0,
    "seed of the random masks; recorded with the merge",
    minimum=0,
    maximum=2**63 - 1,
)
_GAMMA = Option(
    "gamma", "float", 0.01, "share of the largest changes to drop", minimum=0, maximum=1
)
_EPSILON = Option(
    "epsilon",
    "float",
    0.15,
    "keep probabilities run from density - epsilon to density + epsilon",
    minimum=0,
    maximum=0.5,
)
_SCOPE = Option(
    "scope",
    "str",
    "tensor",
    "rank changes within each tensor or over the whole model",
    choices=("tensor", "model"),
)
_CUTOFFS = Option(
    "cutoffs", "floats", None, "smallest change kept on each side; found by scope=model", minimum=0
)


def _formula(
    name: str,
    summary: str,
    choose: Choose,
    elect: bool,
    options: tuple[Option, ...] = (),
    by_row: bool = False,
) -> Formula:
    kind = Ties if name == "ties" else Formula
    return kind(
        name,
        summary,
        _pipeline(choose, elect, by_row),
        (*options, _SCALE, WEIGHTS),
        needs_base=True,
        min_sides=1,
    )


_TIES = (_density(0.2), _SCOPE, _CUTOFFS)
_BREADCRUMBS = (_density(0.9), _GAMMA)
_DELLA = (_density(0.5), _EPSILON, _SEED)

STRATEGIES = (
    # Task arithmetic: arXiv 2212.04089.
    _formula(
        "task_arithmetic",
        "base plus the weighted sum of what each side changed",
        _keep_all,
        elect=False,
    ),
    _formula(
        "ties",
        "keep each side's largest changes, elect signs, average those that agree",
        _trim,
        True,
        _TIES,
    ),
    _formula(
        "dare_linear",
        "drop changes at random, rescale the rest, add them up",
        _drop,
        False,
        (_density(0.5), _SEED),
    ),
    _formula(
        "dare_ties",
        "drop changes at random, rescale the rest, elect signs",
        _drop,
        True,
        (_density(0.5), _SEED),
    ),
    _formula(
        "breadcrumbs",
        "drop each side's largest and smallest changes, add up the rest",
        _band,
        False,
        _BREADCRUMBS,
    ),
    _formula(
        "breadcrumbs_ties",
        "drop each side's largest and smallest changes, elect signs",
        _band,
        True,
        _BREADCRUMBS,
    ),
    _formula(
        "della",
        "drop changes at random, small ones more often, elect signs",
        _magprune,
        True,
        _DELLA,
        by_row=True,
    ),
    _formula(
        "della_linear",
        "drop changes at random, small ones more often, add up the rest",
        _magprune,
        False,
        _DELLA,
        by_row=True,
    ),
)
