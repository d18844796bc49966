"""What a merge should tell its user about the values: NaN and infinities on a side, and ones that
the merge made.
"""

from __future__ import annotations

import numpy as np

from git_theta.core.contracts import MergeCase, MergeStrategy, is_reproducible
from git_theta.merges.numerics.blocks import BLOCK, blocks, flat
from git_theta.merges.numerics.rounding import widen
from git_theta.merges.strategies.formula import computable, shown, side_name

_FRACTION_BITS = {
    "float64": 52,
    "float32": 23,
    "float16": 10,
    "bfloat16": 7,
    "float8_e4m3fn": 3,
    "float8_e4m3fnuz": 3,
    "float8_e5m2": 2,
    "float8_e5m2fnuz": 2,
}
_EXPONENT = {
    "float64": 0x7FF << 52,
    "float32": 0xFF << 23,
    "float16": 0x1F << 10,
    "bfloat16": 0xFF << 7,
}


def check_finite(case: MergeCase) -> list[str]:
    """A notice for each side (and the base) that holds NaN or infinite values.

    Types without any give none.
    """
    named = [(side_name(i, len(case.sides)), side) for i, side in enumerate(case.sides)]
    if case.base is not None:
        named.append(("the base", case.base))
    notices = []
    for who, array in named:
        nans, infinities = count_special(array)
        if nans or infinities:
            notices.append(f"{who} of {shown(case)} holds {_counted(nans, infinities)}")
    return notices


def check_result(case: MergeCase, result: np.ndarray) -> list[str]:
    """A notice when ``result`` holds NaN or infinite values though no input does: the merge left
    the type's range.
    """
    nans, infinities = count_special(result)
    if not (nans or infinities) or check_finite(case):
        return []
    return [
        f"merging {shown(case)} gave {_counted(nans, infinities)}: the values left the range of"
        f" {result.dtype}"
    ]


def same_merge(strategy: MergeStrategy, recorded: np.ndarray, repeated: np.ndarray) -> bool:
    """Whether a repeated merge gives what was recorded: the same bytes.

    For strategies that say they are not ``reproducible`` (LAPACK, BLAS), within two units in the
    last place of the type, or 1e-9 of the tensor's largest value.
    """
    if recorded.dtype != repeated.dtype or recorded.shape != repeated.shape:
        return False
    one, other = flat(recorded), flat(repeated)
    if is_reproducible(strategy) or not computable(recorded.dtype):
        return bool(np.array_equal(one.view(np.uint8), other.view(np.uint8)))
    largest, unit = 0.0, 2.0 ** -_FRACTION_BITS[one.dtype.name]
    for _, (values,) in blocks([one]):
        largest = max(largest, float(np.abs(values[np.isfinite(values)]).max(initial=0.0)))
    for _, (a, b) in blocks([one, other]):
        with np.errstate(all="ignore"):
            near = np.abs(a - b) <= 2 * unit * np.maximum(np.abs(a), np.abs(b)) + 1e-9 * largest
        if not (near | (a == b) | (np.isnan(a) & np.isnan(b))).all():
            return False
    return True


def count_special(array: np.ndarray) -> tuple[int, int]:
    """How many NaN and how many infinite values ``array`` holds (0, 0 for types that are not
    floats).
    """
    nans = infinities = 0
    if not computable(array.dtype):
        return 0, 0
    values = flat(array)
    step = 4 * BLOCK
    for start in range(0, values.size, step):
        part = values[start : start + step]
        if _suspect(part):
            wide = widen(part, np.empty(part.size))
            nans += int(np.count_nonzero(np.isnan(wide)))
            infinities += int(np.count_nonzero(np.isinf(wide)))
    return nans, infinities


def any_negative(array: np.ndarray) -> bool:
    """Whether a real value of ``array`` is below 0 (not -0, and not NaN); False for types without
    real numbers.
    """
    if array.dtype.kind == "c" or not computable(array.dtype):
        return False
    return any(bool((values < 0).any()) for _, (values,) in blocks([flat(array)]))


def _suspect(part: np.ndarray) -> bool:
    """Whether some element's exponent bits are all ones, which in most types makes it NaN or
    infinite; True where that is unknown.
    """
    mask = _EXPONENT.get(part.dtype.name)
    if mask is None:
        return True
    bits = part.view(f"u{part.dtype.itemsize}")
    return bool(((bits & bits.dtype.type(mask)) == mask).any())


def _counted(nans: int, infinities: int) -> str:
    parts = [f"{nans} NaN"] if nans else []
    if infinities:
        parts.append(f"{infinities} infinite value{'s' if infinities > 1 else ''}")
    return " and ".join(parts)
