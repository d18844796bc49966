"""Whole tensors by small blocks of float64: element-wise formulas, sums and order statistics.

A block and its companions stay in the processor's cache, and the memory above the inputs and the
result is a few blocks. Every result is fixed by IEEE 754 alone: only single additions,
multiplications, divisions and square roots are used, in an order that depends on nothing but the
tensor's size (no BLAS, no numpy reduction over floats, no fused operations).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cmp_to_key

import numpy as np

from git_theta.merges.numerics.rounding import BlockScratch, narrow, widen

BLOCK = 1 << 15
"""Elements a block (256 KiB of float64); a multiple of 8, as the random masks want."""

Kernel = Callable[[int, list[np.ndarray]], np.ndarray]
"""Gets a block's first element number and one float64 block an input, all its own.

Returns the result's block, maybe one of them.
"""

_GATHER = 1 << 18
_DIGIT = 12


def flat(array: np.ndarray) -> np.ndarray:
    """The real numbers of ``array`` in C order, 1-D; complex numbers count as two.

    A view where ``array`` is contiguous.
    """
    plain = np.ascontiguousarray(array).reshape(-1)
    return plain.view(f"f{plain.dtype.itemsize // 2}") if plain.dtype.kind == "c" else plain


def columns(array: np.ndarray) -> int:
    """Length of a row of :func:`flat`: the last axis (1 where there is none)."""
    last = array.shape[-1] if array.ndim else 1
    return last * 2 if array.dtype.kind == "c" else last


def blocks(inputs: Sequence[np.ndarray], row: int = 1) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(first element, float64 blocks) over all ``inputs`` (equal sizes).

    Blocks hold whole rows of ``row`` elements.

    The blocks are overwritten at the next step.
    """
    sources = [flat(array) for array in inputs]
    size = sources[0].size if sources else 0
    step = max(1, BLOCK // max(row, 1)) * max(row, 1)
    buffers = [np.empty(min(step, size)) for _ in sources]
    for start in range(0, size, step):
        stop = min(start + step, size)
        yield (
            start,
            [
                widen(source[start:stop], buffer[: stop - start])
                for source, buffer in zip(sources, buffers, strict=True)
            ],
        )


def elementwise(
    like: np.ndarray, inputs: Sequence[np.ndarray], kernel: Kernel, row: int = 1
) -> np.ndarray:
    """A new array of ``like``'s shape and type, computed block by block and rounded once."""
    result = np.empty(like.shape, like.dtype)
    target = flat(result)
    scratch = None
    for start, parts in blocks(inputs, row):
        with np.errstate(all="ignore"):
            values = kernel(start, parts)
        scratch = scratch or BlockScratch(values.size)
        narrow(values, target[start : start + values.size], scratch)
    return result


def tree_sum(values: np.ndarray) -> np.ndarray:
    """Sums along the last axis by halving: always the same additions for the same length.

    Overwrites ``values`` (float64).
    """
    length = values.shape[-1]
    if not length:
        return np.zeros(values.shape[:-1])
    while length > 1:
        half = (length + 1) // 2
        values[..., : length - half] += values[..., half:length]
        length = half
    return values[..., 0]


def total(partial: Sequence[float]) -> float:
    """The sum of the blocks' sums, correctly rounded (so in any order); infinities and NaN as IEEE
    adds them.
    """
    try:
        return math.fsum(partial)
    except (OverflowError, ValueError):
        finite = sum(value for value in partial if not math.isfinite(value))
        return (
            finite
            if not math.isfinite(finite)
            else math.copysign(math.inf, sum(value / 2 for value in partial))
        )


def gram(inputs: Sequence[np.ndarray], shift: np.ndarray | None = None) -> list[list[float]]:
    """All inner products of ``inputs`` (each less ``shift`` where given), as a symmetric matrix."""
    count = len(inputs)
    sums: dict[tuple[int, int], list[float]] = {
        (i, j): [] for i in range(count) for j in range(i, count)
    }
    for _, parts in blocks([*inputs, *([] if shift is None else [shift])]):
        with np.errstate(all="ignore"):
            if shift is not None:
                for part in parts[:count]:
                    np.subtract(part, parts[count], out=part)
            for (i, j), partial in sums.items():
                partial.append(float(tree_sum(parts[i] * parts[j])))
    matrix = {pair: total(partial) for pair, partial in sums.items()}
    return [[matrix[min(i, j), max(i, j)] for j in range(count)] for i in range(count)]


def order_statistics(
    values: Callable[[], Iterator[np.ndarray]], size: int, ranks: Sequence[int]
) -> list[float]:
    """The values with the given ranks (0: the smallest) among ``size`` non-negative numbers (NaN
    counts as the largest).

    ``values`` yields them block by block and is called a few times, so that nothing of the tensor's
    size is kept: a histogram of the leading bits finds the bucket of each rank, until what is left
    of it fits in memory.
    """
    if not size:
        return [0.0 for _ in ranks]
    if size <= _GATHER:
        everything = np.sort(np.concatenate([_bits(block) for block in values()]))
        return [float(everything[rank : rank + 1].view(np.float64)[0]) for rank in ranks]
    found: dict[int, float] = {}
    leading = _histogram(values, 0, 64)
    for rank in ranks:
        if rank not in found:
            found[rank] = _descend(values, rank, leading)
    return [found[rank] for rank in ranks]


def _descend(values: Callable[[], Iterator[np.ndarray]], rank: int, counts: np.ndarray) -> float:
    prefix, rest = 0, 64
    while True:
        ends = np.cumsum(counts)
        digit = int(np.searchsorted(ends, rank, side="right"))
        rank -= int(ends[digit - 1]) if digit else 0
        width = min(_DIGIT, rest)
        rest -= width
        prefix = (prefix << width) | digit
        if not rest:
            return float(np.uint64(prefix).view(np.float64))
        if counts[digit] <= _GATHER:
            inside = [
                bits[(bits >> np.uint64(rest)) == np.uint64(prefix)]
                for bits in map(_bits, values())
            ]
            return float(np.sort(np.concatenate(inside))[rank : rank + 1].view(np.float64)[0])
        counts = _histogram(values, prefix, rest)


def _histogram(values: Callable[[], Iterator[np.ndarray]], prefix: int, rest: int) -> np.ndarray:
    """How often each next digit occurs among the numbers whose bits above the lowest ``rest`` are
    ``prefix``.
    """
    width = min(_DIGIT, rest)
    counts = np.zeros(1 << width, np.int64)
    for bits in map(_bits, values()):
        chosen = bits if rest == 64 else bits[(bits >> np.uint64(rest)) == np.uint64(prefix)]
        digits = chosen >> np.uint64(rest - width)
        if rest < 64:
            digits &= np.uint64((1 << width) - 1)
        counts += np.bincount(digits.view(np.int64), minlength=1 << width)
    return counts


def _bits(block: np.ndarray) -> np.ndarray:
    # Non-negative floats order as their bits do; + 0.0 makes -0.0 a plain zero.
    return (block + 0.0).view(np.uint64)


def canonical(sides: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> list[int]:
    """The sides' numbers in an order that depends on their contents alone: by raw bytes, then
    weight.

    Sums taken in it are the same whichever way round the branches are named. Two sides need none:
    adding commutes.
    """
    order = list(range(len(sides)))
    if len(sides) < 3:
        return order
    raw = [flat(side).view(np.uint8) for side in sides]
    weight = list(weights) if weights is not None else [0.0] * len(sides)

    def compare(i: int, j: int) -> int:
        return _compare(raw[i], raw[j]) or (weight[i] > weight[j]) - (weight[i] < weight[j])

    return sorted(order, key=cmp_to_key(compare))


def _compare(left: np.ndarray, right: np.ndarray) -> int:
    for start in range(0, left.size, 8 * BLOCK):
        a, b = left[start : start + 8 * BLOCK], right[start : start + 8 * BLOCK]
        if not np.array_equal(a, b):
            at = int(np.argmax(a != b))
            return -1 if a[at] < b[at] else 1
    return 0
