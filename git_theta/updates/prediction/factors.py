"""A low-rank matrix whose product is the same on every machine.

A floating-point matrix product depends on the order of its additions, hence on the BLAS library and
its threads. So each factor is held in fixed point: integers of at most 22 bits and one power of two
per row (left factor) or column (right factor). An element of the product is then a sum of ``rank``
integers below 2^44, times one power of two common to all of them. For a rank of at most 512 no
partial sum passes 2^53, the largest range in which float64 holds every integer. So float64 computes
the product without any rounding, whatever the order, fused or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from git_theta.core import varint
from git_theta.core.contracts import Level
from git_theta.core.tensors import Buffer
from git_theta.errors import PayloadError
from git_theta.updates import floats, planes
from git_theta.updates.prediction import residual

BITS = 22
MAX_RANK = 512
_LOWEST, _HIGHEST = -500, 400  # of the powers of two: products stay normal numbers of float64


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """``left`` (rows x rank) times 2^``left_scale`` (rows) and ``right`` (rank x columns) times
    2^``right_scale`` (columns).
    """

    left: np.ndarray
    left_scale: np.ndarray
    right: np.ndarray
    right_scale: np.ndarray

    @property
    def rank(self) -> int:
        """Number of columns of the left factor."""
        return int(self.left.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the product."""
        return int(self.left.shape[0]), int(self.right.shape[1])


def fix(left: np.ndarray, right: np.ndarray, bits: int = BITS) -> Factors | None:
    """``left`` (rows x rank) and ``right`` (rank x columns), all finite, in fixed point of ``bits``
    bits; None for numbers beyond 2^400.
    """
    left_fixed, right_fixed = (
        _fix_rows(np.asarray(left, np.float64), bits),
        _fix_rows(np.asarray(right, np.float64).T, bits),
    )
    if left_fixed is None or right_fixed is None:
        return None
    return Factors(*left_fixed, np.ascontiguousarray(right_fixed[0].T), right_fixed[1])


def _fix_rows(values: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray] | None:
    largest = np.abs(values).max(axis=1, initial=0.0)
    scale = np.frexp(largest)[1].astype(np.int64) - bits
    if (scale > _HIGHEST).any():
        return None
    scale = np.where((largest == 0) | (scale < _LOWEST), _LOWEST, scale)
    numbers = np.rint(np.ldexp(values, -scale[:, None].astype(np.int32)))
    limit = 2**bits - 1
    return np.clip(numbers, -limit, limit).astype(np.int32), scale.astype(np.int16)


def predict(factors: Factors, base: residual.Read, dtype: str) -> residual.Read:
    """The elements of base + product, added in float64 and rounded once to ``dtype``.

    Where the product is zero, or the sum is not finite, the base's own bits stay.
    """
    columns = factors.shape[1]
    left, right = _values(factors)

    def read(start: int, stop: int) -> np.ndarray:
        before = base(start, stop)
        added = np.empty(stop - start, np.float64)
        for rows, cells, place in _pieces(start, stop, columns):
            size = (rows.stop - rows.start) * (cells.stop - cells.start)
            np.matmul(
                left[rows],
                right[:, cells],
                out=added[place : place + size].reshape(rows.stop - rows.start, -1),
            )
        unchanged = added == 0
        with np.errstate(all="ignore"):  # a signalling NaN of the base is nobody's fault
            added += floats.widen(before, dtype)
        return floats.settle(added, before, unchanged, dtype)

    return read


def product(factors: Factors, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The product's elements in these rows and columns, exactly."""
    left, right = _values(factors)
    return np.asarray(np.matmul(left[rows], right[:, columns]))


def _values(factors: Factors) -> tuple[np.ndarray, np.ndarray]:
    """Both factors as float64.

    Their powers of two are common to all terms of an element, so they keep the product exact.
    """
    left = np.ldexp(factors.left.astype(np.float64), factors.left_scale[:, None].astype(np.int32))
    return left, np.ldexp(
        factors.right.astype(np.float64), factors.right_scale[None, :].astype(np.int32)
    )


def _pieces(start: int, stop: int, columns: int) -> Iterator[tuple[slice, slice, int]]:
    """Elements ``start`` to ``stop`` of a matrix as rectangles: rows, columns, and where they begin
    in the result.
    """
    position = start
    while position < stop:
        row, column = divmod(position, columns)
        whole = (stop - position) // columns
        if column or not whole:
            end = min(columns, column + stop - position)
            yield slice(row, row + 1), slice(column, end), position - start
            position += end - column
        else:
            yield slice(row, row + whole), slice(0, columns), position - start
            position += whole * columns


def dump(factors: Factors, level: Level) -> Iterator[Buffer]:
    """The chunks of ``factors``: rank (varint), then as byte planes left (rank by rank), right, and
    both scales, all zigzagged.
    """
    yield varint.dump(factors.rank)
    for numbers in (factors.left.T, factors.right, factors.left_scale, factors.right_scale):
        yield from planes.encode(residual.zigzag(np.ascontiguousarray(numbers).reshape(-1)), level)


def parse(payload: memoryview, position: int, shape: tuple[int, int]) -> tuple[Factors, int]:
    """What :func:`dump` wrote for a matrix of ``shape``, and the position behind it;
    :class:`PayloadError` for anything else.
    """
    rows, columns = shape
    rank, position = varint.parse(payload, position)
    if not 0 < rank <= min(MAX_RANK, rows, columns):
        raise PayloadError(f"a rank of {rank} does not fit a matrix of {rows} by {columns}")
    parts = []
    for count, width in ((rank * rows, 4), (rank * columns, 4), (rows, 2), (columns, 2)):
        folded, position = residual.take(payload, position, count, width)
        numbers = residual.unzigzag(folded)
        low, high = (-(2**BITS) + 1, 2**BITS - 1) if width == 4 else (_LOWEST, _HIGHEST)
        if int(numbers.min()) < low or int(numbers.max()) > high:
            raise PayloadError("a factor holds a number out of range")
        parts.append(numbers)
    left, right, left_scale, right_scale = parts
    return Factors(
        np.ascontiguousarray(left.reshape(rank, rows).T),
        left_scale,
        right.reshape(rank, columns),
        right_scale,
    ), position
