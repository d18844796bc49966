r"""How far one tensor moved: the numbers of a diff, computed block by block in float64.

With W the old values, W' the new ones and D = W' - W, all taken exactly into float64 (64-bit
integers and complex numbers aside, see below):

- *changed*: elements whose bytes differ (so -0 and 0 differ, and NaNs with other payloads); between
  two element types: whose values differ.
- *relative change*: ‖D‖ / ‖W‖, Frobenius norms. 0 where D is 0, infinite where only W is 0.
- *cosine*: ⟨W, W'⟩ / (‖W‖ ‖W'‖), of which the distance from 1 is kept: where ‖D‖ is below ‖W‖ / 2
  it is computed as (‖D‖² - (‖W'‖ - ‖W‖)²) / (2 ‖W‖ ‖W'‖), which loses few digits when it is tiny.
- *max \|D\|*, and a *histogram* of D by sign and binary order of magnitude.
- *rank*: see :func:`low_rank`.

Elements that are NaN or infinite on either side are counted (*nonfinite*) and left out of
everything but *changed*. Elements that became NaN or infinite are counted too (*new_nan*,
*new_inf*); if there are any and no finite element moved, relative change and cosine are NaN instead
of 0 and 1. Rows and channels that became zero are counted by :func:`emptied`. Booleans are 0 and 1.
Integers beyond 2^53 are rounded to float64 first. Complex tensors are seen as pairs of reals,
except that max \|D\| is of the modulus. Packed and quantised types have no values here: only
*changed* is told, and it counts blocks.

Sums are of float64 products, so relative errors stay near 1e-13 for a billion elements; ranges that
would overflow are scaled by powers of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from git_theta.core import dtypes
from git_theta.core.tensors import Tensor
from git_theta.workflows.comparing.movement import Statistics

_BLOCK = 1 << 17  # elements
_LANE = 4096  # elements summed by one dot product; BLAS starts no threads for so few
_RANK_LIMIT = 64
_SKETCH = _RANK_LIMIT + 8
_PROBE = 128
_ROWS = 1024
_MARGIN = 1.5
_PROBES = 16
_PRECISION = {  # significant bits, exponent of the smallest step
    "f64": (53, -1074),
    "f32": (24, -149),
    "bf16": (8, -133),
    "f16": (11, -24),
    "f8_e4m3fn": (4, -9),
    "f8_e4m3fnuz": (4, -10),
    "f8_e5m2": (3, -16),
    "f8_e5m2fnuz": (3, -17),
}


def measure(
    old: Tensor, new: Tensor, histogram: bool = False, rank: bool = True
) -> Statistics | None:
    """Compare two tensors; None where no element of one answers to an element of the other.

    That is so where their numbers of elements differ, unless they differ in the first dimension
    only: then the leading rows that both have are compared, and rows that were added are searched
    for NaN and infinity.
    """
    count = _comparable(old, new)
    if count is None:
        return None
    kinds = {dtypes.get(old.dtype).kind, dtypes.get(new.dtype).kind}
    if "q" in kinds:
        return _blocks(old, new, count) if old.dtype == new.dtype else None
    return _Comparer(old, new, count, histogram).run(rank)


def _comparable(old: Tensor, new: Tensor) -> int | None:
    """How many leading elements of both answer to each other."""
    first, second = dtypes.count(old.shape), dtypes.count(new.shape)
    if first == second:
        return first
    if len(old.shape) == len(new.shape) > 0 and old.shape[1:] == new.shape[1:]:
        return min(first, second)
    return None


def _blocks(old: Tensor, new: Tensor, count: int) -> Statistics:
    kind = dtypes.get(old.dtype)
    blocks, width = count // kind.block_elements, kind.block_bytes
    first = np.frombuffer(old.data, np.uint8, blocks * width).reshape(blocks, width)
    second = np.frombuffer(new.data, np.uint8, blocks * width).reshape(blocks, width)
    step, changed = max(1, _BLOCK // width), 0
    for start in range(0, blocks, step):
        changed += int(
            np.count_nonzero(
                (first[start : start + step] != second[start : start + step]).any(axis=1)
            )
        )
    rows, channels = emptied(old, new, count) if changed else (0, 0)
    partial = dtypes.count(old.shape) != dtypes.count(new.shape)
    return Statistics(blocks, changed, zero_rows=rows, zero_channels=channels, partial=partial)


def special(tensor: Tensor, start: int = 0) -> tuple[int, int]:
    """Count the elements from ``start`` on that are NaN, and those that are infinite. (0, 0) for
    types that have no such values.
    """
    total = dtypes.count(tensor.shape)
    if dtypes.get(tensor.dtype).kind not in "fc" or start >= total:
        return 0, 0
    values = _Values(tensor)
    room, nan, inf = np.empty(_BLOCK * values.parts), 0, 0
    for first in range(start, total, _BLOCK):
        last = min(first + _BLOCK, total)
        block = room[: (last - first) * values.parts]
        values.put(first, last, block)
        if not np.isfinite(block).all():
            nan += _elements(np.isnan(block), values.parts)
            inf += _elements(np.isinf(block), values.parts)
    return nan, inf


def _elements(marks: np.ndarray, parts: int) -> int:
    """Number of elements of which any part is marked."""
    return int(np.count_nonzero(marks if parts == 1 else marks.reshape(-1, parts).any(axis=1)))


def emptied(old: Tensor, new: Tensor, count: int) -> tuple[int, int]:
    """Count the rows, and the channels, that are all zero now and were not before, in the ``count``
    leading elements.

    A row is one index of the first dimension; a channel, one index of the second or of the last
    dimension. Both have at least two elements. A tensor of one dimension is a single row if its
    elements are floats. If all rows are zero now, no channels are counted. Of packed types only
    rows are looked at: whether all their bytes are zero.
    """
    kind = dtypes.get(new.dtype)
    shape = new.shape
    if len(shape) < 2:
        shape = (1, count) if kind.kind in "fc" else ()
    columns = dtypes.count(shape[1:])
    if (
        not shape
        or columns < 1
        or count < columns
        or count % columns
        or kind.kind == "b"
        or new.dtype == "f8_e8m0fnu"
    ):
        return 0, 0
    rows = count // columns
    if kind.kind == "q":
        width, rest = divmod(columns * kind.block_bytes, kind.block_elements)
        if rest:
            return 0, 0
        count, columns, shape = rows * width, width, (rows, width)
    before, after = (_magnitudes(tensor, count) for tensor in (old, new))
    width = after.size // rows
    found, wide = 0, width >= 2
    if wide:
        found, empty = _emptied(before.reshape(1, rows, -1), after.reshape(1, rows, width))
        wide = empty == rows
    if wide or len(new.shape) < 2 or kind.kind == "q":
        return found, 0
    channels = 0
    for axis in {1, len(shape) - 1}:
        ahead = rows * dtypes.count(shape[1:axis])
        if count // shape[axis] >= 2:
            channels += _emptied(
                before.reshape(ahead, shape[axis], -1), after.reshape(ahead, shape[axis], -1)
            )[0]
    return found, channels


def _magnitudes(tensor: Tensor, count: int) -> _Magnitudes:
    kind = dtypes.get(tensor.dtype)
    bits = tensor.bits()[: count * (2 if kind.kind == "c" else 1)]
    signed = kind.kind in "fc" and not tensor.dtype.endswith("fnuz")
    return _Magnitudes(bits, bits.dtype.type(np.iinfo(bits.dtype).max >> (1 if signed else 0)))


@dataclass(frozen=True, slots=True)
class _Magnitudes:
    """Integers that are zero if the element is, apart from the bits outside of ``mask``."""

    bits: np.ndarray
    mask: np.generic

    @property
    def size(self) -> int:
        return self.bits.size

    def reshape(self, *shape: int) -> _Magnitudes:
        return _Magnitudes(self.bits.reshape(shape), self.mask)

    def any(self, chosen: np.ndarray) -> np.ndarray:
        """Which of the ``chosen`` indices of the middle dimension hold anything but zeros."""
        return np.asarray((np.bitwise_and(self.bits[:, chosen], self.mask) != 0).any(axis=(0, 2)))

    def probe(self, chosen: np.ndarray, number: int) -> np.ndarray:
        """Which of them hold anything but zero at one place."""
        ahead, _, behind = self.bits.shape
        return np.asarray(
            np.bitwise_and(
                self.bits[number * ahead // _PROBES, chosen, number * behind // _PROBES], self.mask
            )
            != 0
        )


def _emptied(before: _Magnitudes, after: _Magnitudes) -> tuple[int, int]:
    """Count the indices of the middle dimension that are all zero in ``after`` but not in
    ``before``, and all that are zero in ``after``.

    Few are: most are ruled out by a look at single elements, so that next to nothing is read.
    """
    ahead, count, behind = after.bits.shape
    left = np.arange(count)
    for number in range(_PROBES):
        left = left[~after.probe(left, number)]
        if not len(left):
            return 0, 0
    step, found, empty = max(1, _BLOCK // max(1, ahead * behind)), 0, 0
    for start in range(0, len(left), step):
        some = left[start : start + step]
        some = some[~after.any(some)]
        empty += len(some)
        found += int(np.count_nonzero(before.any(some))) if len(some) else 0
    return found, empty


class _Values:
    """A tensor's elements as float64 (two each where it is complex), block by block."""

    def __init__(self, tensor: Tensor) -> None:
        kind = dtypes.get(tensor.dtype)
        self.parts = 2 if kind.kind == "c" else 1
        self.itemsize = kind.block_bytes
        self._bytes = np.frombuffer(tensor.data, np.uint8)
        self._bits = tensor.bits()
        part = {"c32": "f16", "c64": "f32", "c128": "f64"}.get(tensor.dtype, tensor.dtype)
        self._table = self._convert = None
        if part == "bf16":
            self._words = np.empty(_BLOCK * self.parts, np.uint32)
        elif kind.block_bytes == 1 and kind.kind == "f":
            self._table = (
                np.arange(256, dtype=np.uint8).view(dtypes.numpy_dtype(part)).astype(np.float64)
            )
        else:
            self._convert = self._bits.view(
                np.bool_ if part == "bool" and self._plain() else dtypes.numpy_dtype(part)
            )
            if part == "bool" and not self._plain():
                self._convert = self._bits != 0

    def _plain(self) -> bool:
        return not self._bits.size or int(self._bits.max()) <= 1

    def put(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write elements ``start`` to ``stop`` into ``out``."""
        start, stop = start * self.parts, stop * self.parts
        if self._convert is not None:
            with np.errstate(invalid="ignore"):  # signalling NaNs
                np.copyto(out, self._convert[start:stop], casting="unsafe")
        elif self._table is not None:
            np.take(self._table, self._bits[start:stop], out=out)
        else:
            words = self._words[: stop - start]
            np.copyto(words, self._bits[start:stop])
            np.left_shift(words, 16, out=words)
            with np.errstate(invalid="ignore"):
                np.copyto(out, words.view(np.float32))

    def differ(self, other: _Values, start: int, stop: int) -> np.ndarray:
        """Which elements ``start`` to ``stop`` have other bytes than ``other``'s, as booleans."""
        word = np.dtype(f"<u{min(self.itemsize, 8)}")
        lo, hi = start * self.itemsize, stop * self.itemsize
        unequal = np.not_equal(self._bytes[lo:hi].view(word), other._bytes[lo:hi].view(word))
        return np.asarray(unequal if self.itemsize <= 8 else unequal.reshape(-1, 2).any(axis=1))


@dataclass(slots=True)
class _Sum:
    """A sum of squares or products as ``value * 2**exponent``, which no float64 can overflow."""

    value: float = 0.0
    exponent: int = 0

    def add(self, value: float, exponent: int = 0) -> None:
        """Add ``value * 2**exponent``."""
        if value == 0.0:
            return
        if self.value == 0.0:
            self.value, self.exponent = value, exponent
        elif exponent > self.exponent:
            self.value, self.exponent = (
                math.ldexp(self.value, self.exponent - exponent) + value,
                exponent,
            )
        else:
            self.value += math.ldexp(value, exponent - self.exponent)

    def at(self, exponent: int) -> float:
        """The sum over ``2**exponent``."""
        return _scaled(self.value, self.exponent - exponent)

    def root(self) -> float:
        """The square root of a sum of squares, whose exponents are even."""
        return _scaled(math.sqrt(self.value), self.exponent // 2)


def _scaled(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


class _Comparer:
    def __init__(self, old: Tensor, new: Tensor, count: int, histogram: bool) -> None:
        self._old, self._new = old, new
        self._count = count
        self._same_type = old.dtype == new.dtype
        self._first, self._second = _Values(old), _Values(new)
        self._parts = max(self._first.parts, self._second.parts)
        self._room = np.empty((3, _BLOCK * self._parts))
        self._wide = bool({old.dtype, new.dtype} & {"f64", "c128"})
        self._oo, self._nn, self._dd, self._on = _Sum(), _Sum(), _Sum(), _Sum()
        self._changed = self._nonfinite = self._new_nan = self._new_inf = 0
        self._largest = 0.0
        self._orders = np.zeros(4096, np.int64) if histogram else None

    def run(self, rank: bool) -> Statistics:
        if self._first.parts != self._second.parts:  # a complex tensor against a real one
            nan, inf = special(self._new)
            return Statistics(self._count, self._count, new_nan=nan, new_inf=inf, comparable=False)
        with np.errstate(all="ignore"):
            for start in range(0, self._count, _BLOCK):
                self._block(start, min(start + _BLOCK, self._count))
            found = self._rank() if rank and self._changed else None
            nan, inf = special(self._new, self._count)  # in rows that were added
            self._new_nan, self._new_inf = self._new_nan + nan, self._new_inf + inf
        rows, channels = emptied(self._old, self._new, self._count) if self._changed else (0, 0)
        return Statistics(
            elements=self._count,
            changed=self._changed,
            nonfinite=self._nonfinite,
            new_nan=self._new_nan,
            new_inf=self._new_inf,
            zero_rows=rows,
            zero_channels=channels,
            norm=self._oo.root(),
            norm_new=self._nn.root(),
            moved=self._dd.root(),
            distance=self._distance(),
            largest=self._largest,
            rank=found,
            histogram=self._histogram(),
            partial=dtypes.count(self._old.shape) != dtypes.count(self._new.shape),
            comparable=True,
        )

    def _rank(self) -> int | None:
        return low_rank(
            self._old,
            self._new,
            self._count,
            self._oo.root(),
            self._dd.root(),
            2 * self._changed > self._count,
        )

    def _block(self, start: int, stop: int) -> None:
        size = (stop - start) * self._parts
        w, d, other = self._room[0, :size], self._room[1, :size], self._room[2, :size]
        self._first.put(start, stop, w)
        moved = True
        if self._same_type:
            changed = int(np.count_nonzero(self._first.differ(self._second, start, stop)))
            self._changed += changed
            moved = changed > 0
        if moved:
            self._second.put(start, stop, other)
            if not self._same_type:
                unequal = (w != other) & ~(np.isnan(w) & np.isnan(other))
                self._changed += int(np.count_nonzero(unequal.reshape(-1, self._parts).any(axis=1)))
            np.subtract(other, w, out=d)
        if self._wide or not self._plain(w, d, other if moved else None):
            self._careful(w, d, other if moved else None)
        if moved and self._orders is not None:
            shifted = np.right_shift(d[d != 0].view(np.int64), 52)
            self._orders += np.bincount(shifted & 0xFFF, minlength=4096)

    def _plain(self, w: np.ndarray, d: np.ndarray, other: np.ndarray | None) -> bool:
        """Add a block up; False, and nothing added, when it holds what is not finite."""
        oo = _dot(w, w)
        if other is None:
            nn = on = oo
            dd = 0.0
        else:
            dd, od = _dot(d, d), _dot(w, d)
            nn, on = oo + 2 * od + dd, oo + od
            if nn < 1e-3 * oo:  # W' is so much smaller than W that the sums cancel
                nn, on = _dot(other, other), _dot(w, other)
        if not math.isfinite(oo + dd):
            return False
        self._oo.add(oo)
        self._nn.add(nn)
        self._on.add(on)
        if other is not None:
            self._dd.add(dd)
            self._largest = max(self._largest, _largest(d, self._parts))
        return True

    def _careful(self, w: np.ndarray, d: np.ndarray, other: np.ndarray | None) -> None:
        """Add a block up without what is not finite, scaled so that squares neither overflow nor
        vanish.
        """
        bad = ~np.isfinite(w) if other is None else ~(np.isfinite(w) & np.isfinite(other))
        if bad.any():
            if other is not None:
                self._new_nan += _elements(np.isnan(other) & ~np.isnan(w), self._parts)
                self._new_inf += _elements(np.isinf(other) & ~np.isinf(w), self._parts)
            whole = np.repeat(bad.reshape(-1, self._parts).any(axis=1), self._parts)
            self._nonfinite += int(np.count_nonzero(whole)) // self._parts
            w[whole] = 0.0
            if other is not None:
                other[whole] = 0.0
                d[whole] = 0.0
        old, by_old = _scale(w)
        new, by_new = (old, by_old) if other is None else _scale(other)
        self._oo.add(_dot(old, old), 2 * by_old)
        self._nn.add(_dot(new, new), 2 * by_new)
        self._on.add(_dot(old, new), by_old + by_new)
        if other is not None:
            halved = not np.isfinite(d).all()
            moved, by_moved = _scale(np.ldexp(other, -1) - np.ldexp(w, -1) if halved else d)
            self._dd.add(_dot(moved, moved), 2 * (by_moved + halved))
            self._largest = max(
                self._largest, _scaled(_largest(moved, self._parts), by_moved + halved)
            )

    def _distance(self) -> float | None:
        """1 - cosine, None where one side is all zero; NaN if no finite element moved, but some are
        not finite any more.
        """
        if (self._new_nan or self._new_inf) and not self._dd.value:
            return math.nan
        if not self._oo.value or not self._nn.value:
            return None
        top = self._oo.exponent
        oo, nn, dd = self._oo.value, self._nn.at(top), self._dd.at(top)
        if dd < 0.25 * oo:
            old, new = math.sqrt(oo), math.sqrt(nn)
            drift = (nn - oo) / (old + new)
            distance = (dd - drift * drift) / (2 * old * new)
        else:
            both = (self._oo.exponent + self._nn.exponent) // 2
            distance = 1 - self._on.at(both) / (
                math.sqrt(self._oo.value) * math.sqrt(self._nn.value)
            )
        return min(max(distance, 0.0), 2.0)

    def _histogram(self) -> tuple[tuple[int, int, int], ...] | None:
        if self._orders is None:
            return None
        both = self._orders.reshape(2, 2048)[:, :2047]  # the last would be NaN and infinity
        orders = np.flatnonzero(both.any(axis=0))
        return tuple(
            (int(order) - 1023, int(both[1, order]), int(both[0, order])) for order in orders
        )


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """The inner product, in float64, of sums over 4096 elements each."""
    whole = len(a) // _LANE * _LANE
    total = 0.0
    if whole:
        first, second = a[:whole].reshape(-1, 1, _LANE), b[:whole].reshape(-1, _LANE, 1)
        total = float(np.add.reduce(np.matmul(first, second), axis=None))
    return total + float(np.dot(a[whole:], b[whole:])) if whole < len(a) else total


def _scale(values: np.ndarray) -> tuple[np.ndarray, int]:
    """``values`` over a power of two that brings the largest near 1, and its exponent (0 where
    squares are safe as they are).
    """
    top = _largest(values, 1)
    exponent = math.frexp(top)[1] if top and not 1e-120 < top < 1e120 else 0
    return (np.ldexp(values, -exponent), exponent) if exponent else (values, 0)


def _largest(d: np.ndarray, parts: int) -> float:
    if parts == 2:
        pairs = d.reshape(-1, 2)
        return float(np.hypot(pairs[:, 0], pairs[:, 1]).max(initial=0.0))
    return max(float(d.max(initial=0.0)), -float(d.min(initial=0.0)))


def low_rank(
    old: Tensor, new: Tensor, count: int, norm: float, moved: float, everywhere: bool = False
) -> int | None:
    """The numerical rank of D as a matrix of (first dimension) x (all others), where it is low;
    else None.

    Low: at most 64 and at most a quarter of the smaller side. The rank is the number of singular
    values above 1.5 times the largest one that rounding alone would give: errors of the element
    type's last digit, independent and evenly spread, make a matrix whose norm is close to s(√m +
    √n), s² = mean(ulp(W')²) / 12 (Geman 1980). Singular values are those of D times a Gaussian
    matrix of 72 columns (Halko, Martinsson and Tropp 2011). Of the rows that changed, 1024 chosen
    by chance stand for all: what has a low rank has it in them too (of a change ``everywhere``, all
    rows count as changed). A random 128 x 128 part of D is tried first. Only for float tensors of
    two or more dimensions.
    """
    if (
        old.dtype not in _PRECISION
        or new.dtype not in _PRECISION
        or len(new.shape) < 2
        or not moved
        or not math.isfinite(norm + moved)
    ):
        return None
    columns = dtypes.count(new.shape[1:])
    rows = count // columns if columns else 0
    limit = min(_RANK_LIMIT, min(rows, columns) // 4)
    if limit < 1 or rows * columns != count:
        return None
    bits, smallest = (
        min(_PRECISION[old.dtype][0], _PRECISION[new.dtype][0]),
        max(_PRECISION[old.dtype][1], _PRECISION[new.dtype][1]),
    )
    # Mean of 1/m² over mantissas m in [1, 2) that are spread evenly by logarithm, as Benford has
    # it: 0.541.
    noise = math.sqrt(
        0.541 * (norm + moved) ** 2 / count * 4.0 ** (1 - bits) / 12 + 4.0**smallest / 12
    )
    rng = np.random.default_rng(20240229)
    difference = _MatrixDifference(old, new, rows, columns)
    changed = np.arange(rows) if everywhere else difference.changed_rows()
    probe = difference.part(_some(changed, _PROBE, rng), _some(np.arange(columns), _PROBE, rng))
    found = np.linalg.svd(probe, compute_uv=False)
    if (
        int(
            np.count_nonzero(
                found > _MARGIN * noise * (math.sqrt(probe.shape[0]) + math.sqrt(probe.shape[1]))
            )
        )
        > limit
    ):
        return None
    chosen = _some(changed, _ROWS, rng)
    sketch = difference.times(
        chosen, rng.standard_normal((columns, min(_SKETCH, columns))).astype(difference.kind)
    )
    found = np.linalg.svd(sketch, compute_uv=False)
    floor = (
        _MARGIN * noise * math.sqrt(columns) * (math.sqrt(len(chosen)) + math.sqrt(sketch.shape[1]))
    )
    rank = int(
        np.count_nonzero(
            found > max(floor, found[0] * np.finfo(difference.kind).eps * math.sqrt(columns))
        )
    )
    return rank if 0 < rank <= limit else None


def _some(numbers: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Up to ``most`` of ``numbers``, chosen by chance, in order."""
    return np.sort(rng.choice(numbers, most, replace=False)) if len(numbers) > most else numbers


class _MatrixDifference:
    """D as a matrix whose parts are made when they are asked for: float64 for tensors of that type,
    else float32.
    """

    def __init__(self, old: Tensor, new: Tensor, rows: int, columns: int) -> None:
        self._rows, self._columns = rows, columns
        self.kind = np.float64 if "f64" in (old.dtype, new.dtype) else np.float32
        self._old, self._new = (_matrix(tensor, rows, columns) for tensor in (old, new))

    def changed_rows(self) -> np.ndarray:
        """The rows in which any byte differs; all, where the types do."""
        if self._old.dtype != self._new.dtype:
            return np.arange(self._rows)
        width = self._columns * self._old.itemsize
        word = np.dtype(f"<u{next(size for size in (8, 4, 2, 1) if width % size == 0)}")
        old, new = self._old.view(word), self._new.view(word)
        step = max(1, _BLOCK // old.shape[1])
        parts = [
            (old[start : start + step] != new[start : start + step]).any(axis=1)
            for start in range(0, self._rows, step)
        ]
        return np.flatnonzero(np.concatenate(parts))

    def part(
        self, rows: slice | np.ndarray, columns: slice | np.ndarray = slice(None)
    ) -> np.ndarray:
        """Some rows and columns of D."""
        moved: np.ndarray = np.subtract(
            self._new[rows][:, columns].astype(self.kind),
            self._old[rows][:, columns].astype(self.kind),
        )
        if not np.isfinite(moved).all():
            moved[~np.isfinite(moved)] = 0
        return moved

    def times(self, rows: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Some rows of D @ right, in float64."""
        out = np.empty((len(rows), right.shape[1]))
        step = max(1, 4 * _BLOCK // self._columns)
        for start in range(0, len(rows), step):
            out[start : start + step] = self.part(rows[start : start + step]) @ right
        return out


def _matrix(tensor: Tensor, rows: int, columns: int) -> np.ndarray:
    return np.frombuffer(tensor.data, dtypes.numpy_dtype(tensor.dtype), rows * columns).reshape(
        rows, columns
    )
