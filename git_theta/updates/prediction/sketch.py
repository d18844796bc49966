"""Finding out whether two tensors differ by a matrix of low rank, and its factors.

The same arguments give the same factors, whatever BLAS library and however many of its threads:
large products are taken of integers, so small that float64 adds them without rounding in any order;
everything else is element-wise arithmetic and numpy's own sums, which run in one thread. LAPACK is
not used. (Another numpy build may sum in another order and find slightly other factors. That
changes what is stored, never what comes out.)

Method: randomised range finding (Halko, Martinsson and Tropp 2011, section 4) with rows of the
difference itself as the sample, by pivoted Gram-Schmidt; one multiplication by the difference,
which is half a power iteration; then least squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from git_theta.core.contracts import Level
from git_theta.core.tensors import Tensor
from git_theta.updates import floats
from git_theta.updates.prediction import factors

_CHUNK = 512
_NUMBER = 22  # bits of each operand: 2 * 22 + log2(512) = 53
_MANTISSA = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
_FACTOR_BITS = 24  # what a stored number of a factor takes at most, about
_WORTH = 1.0  # bits an element that must be saved


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Two matrices of one shape and float type, as bits."""

    target: np.ndarray
    base: np.ndarray
    dtype: str

    def difference(
        self, rows: slice | np.ndarray, columns: slice | np.ndarray = slice(None)
    ) -> np.ndarray:
        """The target less the base there, as float64; 0 where that is not finite."""
        new, old = self.target[rows][:, columns], self.base[rows][:, columns]
        with np.errstate(invalid="ignore", over="ignore"):
            result = floats.widen(new.reshape(-1), self.dtype)
            result -= floats.widen(old.reshape(-1), self.dtype)
        result[~np.isfinite(result)] = 0.0
        return result.reshape(new.shape)

    def rounding(self, rows: slice | np.ndarray, columns: slice | np.ndarray) -> float:
        """Mean square of the target's rounding error, judged by these elements."""
        with np.errstate(invalid="ignore", over="ignore"):
            values = floats.widen(self.target[rows][:, columns].reshape(-1), self.dtype)
            values[~np.isfinite(values)] = 0.0
            return float((values * values).mean()) * 4.0 ** -_MANTISSA[self.dtype] / 6


def find(tensor: Tensor, base: Tensor, level: Level) -> factors.Factors | None:
    """The factors of ``tensor - base``, seen as a matrix of shape[0] rows, when they save at least
    a bit an element; else None.
    """
    if (
        tensor.dtype not in floats.KINDS
        or tensor.dtype != base.dtype
        or tensor.shape != base.shape
        or len(tensor.shape) < 2
    ):
        return None
    rows = tensor.shape[0]
    if not rows or min(rows, tensor.bits().size // rows) < 16:
        return None
    pair = _Pair(tensor.bits().reshape(rows, -1), base.bits().reshape(rows, -1), tensor.dtype)
    with np.errstate(all="ignore"):  # squares may overflow; what is not finite is then declined
        rank = _probe(pair, level)
        directions = _row_directions(pair, rank) if rank else None
        return None if directions is None else _fit(pair, directions)


def _spread(count: int, wanted: int) -> np.ndarray:
    """About ``wanted`` indices below ``count``, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def _probe(pair: _Pair, level: Level) -> int:
    """Up to which rank to look, after a look at a small submatrix of the difference; 0 where that
    is not of low rank.

    Its side decides which ranks are noticed (up to two thirds of it), and grows with the matrix so
    that this stays cheap.
    """
    rows, columns = pair.target.shape
    size = rows * columns
    side = (
        192
        if level == "best" or size >= 1 << 26
        else 112
        if size >= 1 << 22
        else 64
        if size >= 1 << 20
        else 40
    )
    across, down = _spread(columns, side), _spread(rows, side)
    block = pair.difference(down, across)
    filled = min(np.count_nonzero(block.any(axis=0)), np.count_nonzero(block.any(axis=1)))
    most = min(2 * filled // 3, min(rows, columns) // 2)
    if most < 4:
        return 0
    floor = pair.rounding(down, across)
    energies, _ = _orthogonalise(block, most, floor)
    return most if _best_rank(energies, floor, (rows, columns)) else 0


def _orthogonalise(
    block: np.ndarray, most: int, floor: float
) -> tuple[list[float], list[np.ndarray]]:
    """Gram-Schmidt over the rows of ``block`` (used up), the longest first, for at most so many
    steps.

    Returns the mean square of what is left after 0, 1, … steps, not counting the row and the
    direction that each step makes zero, and the directions. Ends early when the rest is mere
    rounding, or when five steps on end no longer shrink it.
    """
    energies, found = [float((block * block).mean())], []
    norms = np.einsum("ij,ij->i", block, block)
    for step in range(1, most + 1):
        row = int(norms.argmax())
        if not norms[row] > 0.0:
            break
        direction = block[row] / math.sqrt(norms[row])
        block -= np.multiply.outer(np.einsum("ij,j->i", block, direction), direction)
        norms = np.einsum("ij,ij->i", block, block)
        found.append(direction)
        energies.append(float(norms.sum()) / ((block.shape[0] - step) * (block.shape[1] - step)))
        if energies[-1] < floor or (
            step > 8 and energies[-1] > 0.8 * energies[-6] and energies[-1] < 0.1 * energies[0]
        ):
            break
    return energies, found


def _best_rank(energies: list[float], floor: float, shape: tuple[int, int]) -> int:
    """The rank that saves most bits: half the logarithm of what the mean square shrinks by, against
    the factors' size; 0 for too few.
    """
    rows, columns = shape
    if not energies[0] > 0.0 or not math.isfinite(energies[0]):
        return 0
    saved = []
    for rank, energy in enumerate(energies):
        shrunk = 0.5 * math.log2(energies[0] / max(energy, floor, energies[0] * 2.0**-100))
        saved.append(rows * columns * shrunk - rank * (rows + columns) * _FACTOR_BITS)
    most = max(saved)
    if most < _WORTH * rows * columns:
        return 0
    # Beyond that it is noise that is fitted
    return next(rank for rank, bits in enumerate(saved) if bits >= 0.98 * most)


def _row_directions(pair: _Pair, rank: int) -> np.ndarray | None:
    """Orthonormal rows (rank x columns) that span the rows of the difference, from a sample of its
    rows.
    """
    rows, columns = pair.target.shape
    for wanted in (96, 2 * rank + 32):
        sample = _spread(rows, wanted)
        floor = pair.rounding(sample, slice(None))
        energies, found = _orthogonalise(
            pair.difference(sample), min(len(sample) * 2 // 3, rank), floor
        )
        best = _best_rank(energies, floor, (rows, columns))
        if best:
            return np.array(found[:best])
    return None


def _fit(pair: _Pair, directions: np.ndarray) -> factors.Factors | None:
    """The factors whose left one spans what the difference maps ``directions`` to, and whose right
    one fits best.
    """
    rows, columns = pair.target.shape
    images = np.zeros((len(directions), rows))
    step = max(1, min(_CHUNK, (1 << 19) // columns))
    aims, aim_scales = _integers(directions)
    for start in range(0, rows, step):
        numbers, scale = _integer_block(pair.difference(slice(start, start + step)))
        for first in range(0, columns, _CHUNK):
            part = slice(first, first + _CHUNK)
            images[:, start : start + step] += (aims[:, part] @ numbers[:, part].T) * (
                aim_scales * scale
            )
    left = _orthonormal(images)
    aims, aim_scales = _integers(left)
    right = np.zeros((len(left), columns))
    for start in range(0, rows, step):
        numbers, scale = _integer_block(pair.difference(slice(start, start + step)))
        right += (aims[:, start : start + step] @ numbers) * (aim_scales * scale)
    fixed = factors.fix(left.T, right)
    return None if fixed is None else _trim(pair, fixed, left.T, right)


def _trim(
    pair: _Pair, fixed: factors.Factors, left: np.ndarray, right: np.ndarray
) -> factors.Factors | None:
    """The factors with no more bits than the rest's size warrants; None when the rest is not small,
    judged by 96 rows and columns.
    """
    rows, columns = pair.target.shape
    down, across = _spread(rows, 96), _spread(columns, 96)
    block = pair.difference(down, across)
    energy = float((block * block).mean())
    block -= factors.product(fixed, down, across)
    rest = max(float((block * block).mean()), pair.rounding(down, across))
    if not _best_rank([energy] * fixed.rank + [rest], 0.0, (rows, columns)):
        return None
    bits = max(8, math.ceil(0.5 * math.log2(energy / rest)) + 4)
    return fixed if bits >= factors.BITS else factors.fix(left, right, bits)


def _integers(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row as integers of at most 22 bits (held in float64) and what to multiply them by (a
    column).
    """
    exponents = np.frexp(np.abs(matrix).max(axis=1, keepdims=True))[1] - _NUMBER
    return np.rint(np.ldexp(matrix, -exponents)), np.ldexp(1.0, exponents)


def _integer_block(block: np.ndarray) -> tuple[np.ndarray, float]:
    exponent = int(np.frexp(np.abs(block).max(initial=0.0))[1]) - _NUMBER
    return np.rint(np.ldexp(block, -exponent)), math.ldexp(1.0, exponent)


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    """The rows made orthonormal, in order (modified Gram-Schmidt); what depends on earlier ones
    becomes zero.
    """
    result = rows.copy()
    for number in range(len(result)):
        norm = math.sqrt(float((result[number] * result[number]).sum()))
        if norm == 0.0:
            continue
        result[number] /= norm
        rest = result[number + 1 :]
        rest -= (rest * result[number]).sum(axis=1)[:, None] * result[number]
    return result
