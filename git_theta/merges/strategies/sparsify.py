"""Ways to thin out a task vector (a side minus the base) before task vectors are combined.

Each function returns a :data:`Sparsifier`, which changes one block of the task vector in place.
Thresholds are exact order statistics of the magnitudes; elements that tie with a threshold are
treated alike, so results do not depend on the order of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

import numpy as np

from git_theta.core.digest import digest
from git_theta.errors import MergeError
from git_theta.merges.numerics.blocks import blocks, columns, flat, order_statistics
from git_theta.merges.numerics.counter_random import RandomStream, stream
from git_theta.merges.options import number

Sparsifier = Callable[[int, np.ndarray], None]


def nothing(start: int, delta: np.ndarray) -> None:
    """Keep every element."""


def above(cutoff: float) -> Sparsifier:
    """Keep |d| >= ``cutoff`` (NaN is kept, so that it shows in the result)."""

    def apply(_: int, delta: np.ndarray) -> None:
        np.putmask(delta, np.abs(delta) < cutoff, 0.0)

    return apply


def trim(base: np.ndarray, side: np.ndarray, density: float) -> Sparsifier:
    """Keep the top ``density`` of the elements by magnitude: step 1 of TIES, arXiv 2306.01708.

    At least one is kept.
    """
    size = flat(base).size
    kept = share(density, size)
    return above(
        order_statistics(lambda: magnitudes(base, side), size, [size - kept])[0] if size else 0.0
    )


def band(base: np.ndarray, side: np.ndarray, density: float, gamma: float) -> Sparsifier:
    """Drop the top ``gamma`` and the smallest (1 - density - gamma) by magnitude: Model
    Breadcrumbs, arXiv 2312.06795.

    Where gamma leaves less than ``density``, fewer of the top are dropped. Small tensors, of which
    gamma is less than half an element, lose nothing at the top.
    """
    size = flat(base).size
    if not size:
        return nothing
    kept = share(density, size)
    top = min(count_of(gamma, size), size - kept)
    low, high = order_statistics(
        lambda: magnitudes(base, side), size, [size - kept - top, size - 1 - top]
    )

    def apply(_: int, delta: np.ndarray) -> None:
        size_of = np.abs(delta)
        np.putmask(delta, (size_of < low) | (size_of > high), 0.0)

    return apply


def drop(random: RandomStream, density: float) -> Sparsifier:
    """Keep each element with probability ``density`` and divide it by that.

    DARE, arXiv 2311.03099.
    """

    def apply(start: int, delta: np.ndarray) -> None:
        np.putmask(delta, ~random.keep(start, density, delta.size), 0.0)
        delta /= density

    return apply


def magprune(random: RandomStream, density: float, epsilon: float, row: int) -> Sparsifier:
    """Keep an element with a probability p that grows with its rank in its row, and divide it by p:
    DELLA, arXiv 2406.11617.

    p runs evenly from density - epsilon for the smallest magnitude of a row of ``row`` elements to
    density + epsilon for the largest (a row of one: density); equal magnitudes rank in the order of
    their places. Blocks must hold whole rows.
    """
    if not 0 < density - epsilon <= density + epsilon <= 1:
        raise MergeError(
            f"density {density:g} with epsilon {epsilon:g} leaves 0 to 1: choose epsilon below"
            " density and 1 - density"
        )

    def apply(start: int, delta: np.ndarray) -> None:
        rows = delta.reshape(-1, row)
        ranks = np.empty(rows.shape)
        np.put_along_axis(
            ranks,
            np.argsort(np.abs(rows), axis=1, kind="stable"),
            np.arange(row, dtype=np.float64)[None, :],
            axis=1,
        )
        ranks = ranks / (row - 1) if row > 1 else ranks + 0.5
        probability = ((density - epsilon) + 2 * epsilon * ranks).reshape(-1)
        np.putmask(delta, ~random.keep(start, probability, delta.size), 0.0)
        delta /= probability

    return apply


def mask_stream(options: Mapping[str, object], name: str, side: np.ndarray) -> RandomStream:
    """The random numbers for one side of the tensor ``name``: from the seed, the name and the
    digest of the side's bytes.

    By digest and not by place, so that the result is the same whichever way round the branches are
    named.
    """
    return stream(int(number(options, "seed")), name, digest(flat(side).view(np.uint8).data))


def magnitudes(base: np.ndarray, side: np.ndarray) -> Iterator[np.ndarray]:
    """|side - base| by blocks, as float64."""
    for _, (start_value, value) in blocks([base, side]):
        with np.errstate(all="ignore"):
            yield np.abs(value - start_value)


def row_length(array: np.ndarray) -> int:
    """Elements a row; a vector or a scalar is one row."""
    return max(1, columns(array))


def count_of(part: float, size: int) -> int:
    """``part * size`` rounded to the nearest whole number, halves up; ``part`` counts as the
    decimal it was written as.
    """
    return int(Fraction(repr(float(part))) * size + Fraction(1, 2))


def share(density: float, size: int) -> int:
    """How many of ``size`` elements ``density`` keeps: rounded, at least one and at most all."""
    return min(size, max(1, count_of(density, size)))
