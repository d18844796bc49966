from __future__ import annotations

import decimal
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from git_theta.merges.numerics.elementary import acos, cos, exp, log, sin


def units(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest error in units in the last place."""
    return float(np.max(np.abs(found - expected) / np.spacing(np.abs(expected))))


def test_exponential() -> None:
    x = np.concatenate([np.linspace(-700, 700, 20001), np.linspace(-1e-3, 1e-3, 101)])
    exact = np.array(
        [float(decimal.Decimal(float(value)).exp(decimal.Context(prec=40))) for value in x]
    )
    assert units(exp(x), exact) <= 2
    assert exp(np.array([0.0, -1e9, -np.inf])).tolist() == [1.0, 0.0, 0.0]
    assert np.isnan(exp(np.array([np.nan]))).all()


def test_logarithm() -> None:
    x = np.concatenate([np.logspace(-300, 300, 20001), 1 + np.linspace(-1e-2, 1e-2, 1001)])
    exact = np.array(
        [float(decimal.Decimal(float(value)).ln(decimal.Context(prec=40))) for value in x]
    )
    assert units(log(x), exact) <= 4
    assert log(np.array([1.0])).tolist() == [0.0]
    assert np.isnan(log(np.array([np.nan]))).all()


@given(st.floats(-1, 1))
def test_arc_cosine(c: float) -> None:
    assert math.isclose(acos(c), math.acos(c), rel_tol=4e-16, abs_tol=0)


@given(st.floats(0, math.pi))
def test_sine_and_cosine(x: float) -> None:
    assert math.isclose(sin(x), math.sin(x), rel_tol=4e-16, abs_tol=1e-300)
    assert math.isclose(cos(x), math.cos(x), rel_tol=4e-16, abs_tol=1e-300)


def test_the_callers_decimal_settings_do_not_matter() -> None:
    expected = acos(0.1), sin(1.0), cos(2.0)
    with decimal.localcontext() as context:
        context.prec = 3
        assert (acos(0.1), sin(1.0), cos(2.0)) == expected


def test_known_bits() -> None:
    """Fixed for ever: recorded merges depend on them."""
    assert (acos(0.25), sin(0.5), cos(0.5)) == (
        1.318116071652818,
        0.479425538604203,
        0.8775825618903728,
    )
    assert exp(np.array([-1.0]))[0] == 0.36787944117144233
    assert log(np.array([3.0]))[0] == 1.0986122886681098
