"""Exponential, logarithm, sine, cosine and arc cosine whose last bit does not depend on the
machine.

The C library's and numpy's versions differ by a unit in the last place between processors and
releases. Vectors use single IEEE operations only; scalars use decimal arithmetic of 40 digits,
which is specified to the last digit.
"""

from __future__ import annotations

from decimal import Context, Decimal

import numpy as np

_CONTEXT = Context(prec=40)
_TINY = Decimal("1e-42")
_LOG2_E = 1.4426950408889634
# ln 2 in two parts: the first has zeros enough at its end for k * part to be exact.
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10


def exp(x: np.ndarray) -> np.ndarray:
    """The power e^x for float64 ``x`` up to 709, within 2 units in the last place.

    NaN stays NaN.
    """
    x = np.maximum(x, -746.0)
    k = np.rint(x * _LOG2_E)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    result = np.full_like(r, 1.0)
    # Taylor's series by Horner: |r| <= 0.35, so the 14th term is below 2^-57
    for n in range(13, 0, -1):
        result *= r / n
        result += 1.0
    with np.errstate(invalid="ignore", under="ignore"):
        scaled: np.ndarray = np.ldexp(result, np.nan_to_num(k).astype(np.int32))
    return scaled


def log(x: np.ndarray) -> np.ndarray:
    """The natural logarithm of positive float64 ``x``, within 4 units in the last place; NaN stays
    NaN.
    """
    mantissa, exponent = np.frexp(x)
    small = mantissa < 0.7071067811865476
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    k = exponent - small
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.full_like(s, 1.0 / 23.0)
    for n in range(21, 0, -2):  # 2 atanh s: |s| <= 0.172, so the term s^25 is below 2^-63
        series *= square
        series += 1.0 / n
    result: np.ndarray = k * _LN2_HIGH + (2.0 * s * series + k * _LN2_LOW)
    return result


def sin(x: float) -> float:
    """Sine of ``x`` radians (0 to pi), correctly rounded."""
    return float(_series(Decimal(x), 1))


def cos(x: float) -> float:
    """Cosine of ``x`` radians (0 to pi), correctly rounded."""
    return float(_series(Decimal(x), 0))


def acos(c: float) -> float:
    """Arc cosine of ``c`` (-1 to 1) in radians, correctly rounded."""
    exact = Decimal(c)
    top = _CONTEXT.sqrt(_CONTEXT.subtract(1, exact))
    bottom = _CONTEXT.sqrt(_CONTEXT.add(1, exact))
    if not bottom:
        return float(_CONTEXT.multiply(4, _arctan(Decimal(1))))
    ratio = _CONTEXT.divide(top, bottom)  # tan(angle / 2)
    if ratio <= 1:
        return float(_CONTEXT.multiply(2, _arctan(ratio)))
    quarter = _arctan(Decimal(1))
    return float(
        _CONTEXT.multiply(
            2, _CONTEXT.subtract(_CONTEXT.multiply(2, quarter), _arctan(_CONTEXT.divide(1, ratio)))
        )
    )


def _series(x: Decimal, first: int) -> Decimal:
    term = x if first else Decimal(1)
    result, n, square = term, first, _CONTEXT.multiply(x, x)
    while term.copy_abs() > _TINY:
        term = _CONTEXT.divide(_CONTEXT.multiply(term.copy_negate(), square), (n + 1) * (n + 2))
        result = _CONTEXT.add(result, term)
        n += 2
    return result


def _arctan(x: Decimal) -> Decimal:
    halvings = 3
    for _ in range(halvings):  # arctan x = 2 arctan(x / (1 + sqrt(1 + x^2)))
        root = _CONTEXT.sqrt(_CONTEXT.add(1, _CONTEXT.multiply(x, x)))
        x = _CONTEXT.divide(x, _CONTEXT.add(1, root))
    power, square, result, n = x, _CONTEXT.multiply(x, x), x, 1
    while power.copy_abs() > _TINY:
        power = _CONTEXT.multiply(power.copy_negate(), square)
        n += 2
        result = _CONTEXT.add(result, _CONTEXT.divide(power, n))
    return _CONTEXT.multiply(1 << halvings, result)
