"""Strategies that weigh the sides by how they agree: sce, model_stock, ram, ramplus_tl,
arcee_fusion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from git_theta.core.contracts import MergeCase, Option
from git_theta.merges.numerics import elementary
from git_theta.merges.numerics.blocks import (
    blocks,
    canonical,
    elementwise,
    flat,
    order_statistics,
    total,
    tree_sum,
)
from git_theta.merges.options import number
from git_theta.merges.strategies.formula import Formula
from git_theta.merges.strategies.sparsify import magnitudes, row_length, share
from git_theta.merges.strategies.spherical import inner_products
from git_theta.merges.strategies.task_vectors import elected_mean, in_order, moved


def _ordered(case: MergeCase) -> list[np.ndarray]:
    """The base, then the sides in an order that depends on their contents only."""
    assert case.base is not None
    return [case.base, *(case.sides[i] for i in canonical(case.sides))]


def _deltas(parts: list[np.ndarray]) -> list[np.ndarray]:
    for part in parts[1:]:
        np.subtract(part, parts[0], out=part)
    return parts[1:]


def _sce(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    """Select, Calculate, Erase: FuseChat, arXiv 2408.07990.

    Keep the ``select_topk`` of the positions where the sides' changes vary (by variance over the
    sides, equal ones alike); weigh each side by the mean square of what it keeps; elect signs by
    the plain sum and average what agrees by those weights.
    """
    inputs = _ordered(case)
    cutoff = _variance_cutoff(inputs, number(options, "select_topk"))
    squares: list[list[float]] = [[] for _ in case.sides]
    for _, parts in blocks(inputs):
        with np.errstate(all="ignore"):
            for side, delta in enumerate(_selected(_deltas(parts), cutoff)):
                squares[side].append(float(tree_sum(delta * delta)))
    energies = [total(partial) for partial in squares]
    whole = total(energies)
    weights = (
        [energy / whole for energy in energies]
        if whole > 0 and math.isfinite(whole)
        else [1.0] * len(energies)
    )

    def kernel(_: int, parts: list[np.ndarray]) -> np.ndarray:
        base = parts[0]
        deltas = _selected(_deltas(parts), cutoff)
        sign = np.sign(in_order(deltas))
        agreeing = [np.where(delta * sign > 0, delta, 0.0) for delta in deltas]
        for delta, weight in zip(agreeing, weights, strict=True):
            np.multiply(delta, weight, out=delta)
        change = elected_mean(agreeing, weights)
        np.putmask(change, np.isnan(sign), np.nan)
        return moved(base, change)

    return elementwise(case.sides[0], inputs, kernel)


def _variance_cutoff(inputs: Sequence[np.ndarray], topk: float) -> float:
    if topk >= 1:
        return 0.0

    def variances() -> Iterator[np.ndarray]:
        for _, parts in blocks(inputs):
            with np.errstate(all="ignore"):
                yield _variance(_deltas(parts))

    size = flat(inputs[0]).size
    varying = sum(int(np.count_nonzero(variance)) for variance in variances())
    return order_statistics(variances, size, [size - share(topk, varying)])[0] if varying else 0.0


def _variance(deltas: Sequence[np.ndarray]) -> np.ndarray:
    """The variance over the sides, times the square of their number: the sum of squared differences
    of all pairs.

    Without a rounded mean, equal values give an exact 0, and the same set of values the same result
    whichever side holds which.
    """
    result = np.zeros_like(deltas[0])
    for i, delta in enumerate(deltas):
        for other in deltas[i + 1 :]:
            difference = delta - other
            difference *= difference
            result += difference
    return result


def _selected(deltas: list[np.ndarray], cutoff: float) -> list[np.ndarray]:
    if cutoff > 0:
        dropped = _variance(deltas) < cutoff
        for delta in deltas:
            np.putmask(delta, dropped, 0.0)
    return deltas


def _model_stock(case: MergeCase, _: Mapping[str, object]) -> np.ndarray:
    """Model Stock, arXiv 2403.19522: t mean(W) + (1-t) W0, t = n c / (1 + (n-1) c), c the mean
    pairwise cosine of the changes.

    A change of length 0 has cosine 0. Where the sides move apart (c < -1/(2(n-1))) the formula
    nears its pole and would throw the result far behind the base; the base is kept then.
    """
    inputs = _ordered(case)
    sides, count = inputs[1:], len(case.sides)
    products = inner_products(case, sides, case.base)
    norms = [math.sqrt(products[i][i]) for i in range(count)]
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    cosines = [
        max(-1.0, min(1.0, products[i][j] / norms[i] / norms[j])) if norms[i] and norms[j] else 0.0
        for i, j in pairs
    ]
    mean = total(cosines) / len(pairs)
    t = count * mean / (1 + (count - 1) * mean) if mean >= -0.5 / (count - 1) else 0.0

    def kernel(_: int, parts: list[np.ndarray]) -> np.ndarray:
        base, average = parts[0], in_order(parts[1:])
        average /= count
        average -= base
        average *= t
        return moved(base, average)

    return elementwise(case.sides[0], inputs, kernel)


def _ram(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    """Elements changed (by more than ``epsilon``) on one side: that change; on several: their mean.

    RAM, arXiv 2601.13572.
    """
    return _merge_changed(case, number(options, "epsilon"), [1.0] * len(case.sides))


def _ramplus(case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
    """As ram, but what only side i changed is multiplied by 1 + r clip(shared_i / unique_i, 0,
    alpha): RAM+ per tensor, arXiv 2601.13572.

    shared_i and unique_i count the elements of this tensor that side i changed together with others
    and alone.
    """
    epsilon = number(options, "epsilon")
    inputs = _ordered(case)
    shared, unique = [0] * len(case.sides), [0] * len(case.sides)
    for _, parts in blocks(inputs):
        with np.errstate(all="ignore"):
            changed, counts = _changed(_deltas(parts), epsilon)
        for side, mask in enumerate(changed):
            shared[side] += int(np.count_nonzero(mask & (counts > 1)))
            unique[side] += int(np.count_nonzero(mask & (counts == 1)))
    overlap = [both / alone if alone else 0.0 for both, alone in zip(shared, unique, strict=True)]
    return _merge_changed(
        case,
        epsilon,
        [1.0 + number(options, "r") * min(part, number(options, "alpha")) for part in overlap],
    )


def _merge_changed(case: MergeCase, epsilon: float, factors: Sequence[float]) -> np.ndarray:
    """``factors`` belong to the sides in canonical order."""

    def kernel(_: int, parts: list[np.ndarray]) -> np.ndarray:
        base, deltas = parts[0], _deltas(parts)
        changed, counts = _changed(deltas, epsilon)
        alone = counts == 1
        result = np.zeros_like(base)
        for delta, mask, factor in zip(deltas, changed, factors, strict=True):
            scaled = delta if factor == 1.0 else np.where(alone, delta * factor, delta)
            result += np.where(mask, scaled, 0.0)
        result /= np.maximum(counts, 1)
        return moved(base, result)

    return elementwise(case.sides[0], _ordered(case), kernel)


def _changed(deltas: Sequence[np.ndarray], epsilon: float) -> tuple[list[np.ndarray], np.ndarray]:
    # "not <=" and not ">": NaN counts as changed, so that it shows in the result.
    changed = [~(np.abs(delta) <= epsilon) for delta in deltas]
    counts = np.zeros(deltas[0].size, np.int64)
    for mask in changed:
        counts += mask
    return changed, counts


def _arcee_fusion(case: MergeCase, _: Mapping[str, object]) -> np.ndarray:
    """W0 + d where importance >= median + 1.5 (third - first quartile), importance = |d| times the
    KL divergence of its row's softmaxes.

    KL of softmax(W) from softmax(W0) along the last axis, 1e-8 added to both; quantile q is the
    element of rank floor(q (n-1)). Published for a base and one model (MergeKit 0.1, "Arcee
    Fusion"); here each side's important changes are taken, and their mean where both sides have
    one.
    """
    assert case.base is not None
    row = row_length(case.base)
    tests = [_importance_test(case.base, side, row) for side in case.sides]

    def kernel(start: int, parts: list[np.ndarray]) -> np.ndarray:
        base, deltas = parts[0], _deltas(parts)
        result, counts = np.zeros_like(base), np.zeros(base.size)
        for delta, (divergence, threshold) in zip(deltas, tests, strict=True):
            first = start // row
            importance = (
                np.abs(delta).reshape(-1, row) * divergence[first : first + base.size // row, None]
            )
            kept = ~(importance.reshape(-1) < threshold) & (delta != 0)
            result += np.where(kept, delta, 0.0)
            counts += kept
        result /= np.maximum(counts, 1.0)
        return moved(base, result)

    return elementwise(case.base, [case.base, *case.sides], kernel, row)


def _importance_test(base: np.ndarray, side: np.ndarray, row: int) -> tuple[np.ndarray, float]:
    """Per row the divergence, and the threshold of the importance."""
    size = flat(base).size
    if not size:
        return np.zeros(0), 0.0
    parts = []
    for _, (q, p) in blocks([base, side], row):
        with np.errstate(all="ignore"):
            before, after = _softmax(q.reshape(-1, row)) + 1e-8, _softmax(p.reshape(-1, row)) + 1e-8
            parts.append(tree_sum(after * elementary.log(after / before)).copy())
    # Rounding can leave one a little below 0, which the true divergence never is.
    divergence = np.maximum(np.concatenate(parts), 0.0)

    def importances() -> Iterator[np.ndarray]:
        at = 0
        for magnitude in magnitudes(base, side):
            rows = np.arange(at, at + magnitude.size) // row
            yield magnitude * divergence[rows]
            at += magnitude.size

    ranks = [math.floor(quantile * (size - 1)) for quantile in (0.25, 0.5, 0.75)]
    first, median, third = order_statistics(importances, size, ranks)
    return divergence, median + 1.5 * (third - first)


def _softmax(rows: np.ndarray) -> np.ndarray:
    powers = elementary.exp(rows - rows.max(axis=1, keepdims=True))
    result: np.ndarray = powers / tree_sum(powers.copy())[:, None]
    return result


_CHANGED = Option("epsilon", "float", 1e-5, "smallest change that counts", minimum=0, maximum=1e300)

STRATEGIES = (
    Formula(
        "sce",
        "weigh each side by the size of its changes, elect signs",
        _sce,
        (
            Option(
                "select_topk",
                "float",
                1.0,
                "share of the varying positions to keep",
                minimum=1e-6,
                maximum=1,
            ),
        ),
        needs_base=True,
    ),
    Formula(
        "model_stock",
        "between the base and the mean, as far as the sides agree in direction",
        _model_stock,
        needs_base=True,
    ),
    Formula(
        "ram",
        "changes of one side as they are, of several averaged",
        _ram,
        (_CHANGED,),
        needs_base=True,
    ),
    Formula(
        "ramplus_tl",
        "as ram, with changes of one side alone strengthened",
        _ramplus,
        (
            _CHANGED,
            Option("r", "float", 0.1, "how much to strengthen", minimum=0, maximum=100),
            Option("alpha", "float", 0.2, "largest overlap that counts", minimum=0, maximum=100),
        ),
        needs_base=True,
    ),
    Formula(
        "arcee_fusion",
        "only each side's most important changes",
        _arcee_fusion,
        needs_base=True,
        max_sides=2,
    ),
)
