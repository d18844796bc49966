"""Rounding once, checked against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merge_references import BF16, F16, F32, F64, FP8, rounded

from git_theta.merges.numerics.rounding import BlockScratch, narrow, supported, to_odd, widen

NARROW = (BF16, F16, *FP8)


def one(value: float, dtype: np.dtype) -> int:
    """The bits of ``value`` rounded by the code under test."""
    out = np.empty(1, dtype)
    narrow(np.array([value]), out)
    return int(out.view(f"u{dtype.itemsize}")[0])


@lru_cache
def non_negative(dtype: np.dtype) -> np.ndarray:
    with np.errstate(all="ignore"):
        return (
            np.arange(1 << (8 * dtype.itemsize - 1), dtype=f"u{dtype.itemsize}")
            .view(dtype)
            .astype(np.float64)
        )


def nearest(value: float, dtype: np.dtype) -> int:
    """The bits by exact arithmetic: the nearest of all the type's values, of two the one with the
    even code.
    """
    if math.isnan(value):
        eight = dict(zip(FP8, (0x7F, 0x7E, 0x80, 0x80), strict=True))
        return int({BF16: 0x7FC0, F16: 0x7E00, **eight}[dtype])
    top = 1 << (8 * dtype.itemsize - 1)
    table = non_negative(dtype)
    last = int(np.flatnonzero(np.isfinite(table))[-1])
    infinite = last + 1 if last + 1 < top and math.isinf(table[last + 1]) else None
    sign = math.copysign(1, value) < 0
    overflow = infinite if infinite is not None else (0x7F if top > last + 1 else None)
    if math.isinf(value):
        code = overflow
    else:
        exact, low, high = Fraction(abs(value)), 0, last
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if Fraction(table[middle]) <= exact else (low, middle - 1)
        below = Fraction(table[low])
        above = Fraction(table[low + 1]) if low < last else 2 * below - Fraction(table[low - 1])
        up = (
            (exact - below, low % 2 == 0) > (above - exact, False)
            if exact - below != above - exact
            else low % 2 == 1
        )
        code = low + up
        code = overflow if code > last else code
    if code is None:  # the types without -0 and infinity have one NaN
        return 0x80
    if sign and dtype in FP8[2:]:
        return code | top if code else 0
    return code | (top if sign else 0)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@given(bits=st.integers(0, 2**64 - 1))
def test_any_float64(dtype: np.dtype, bits: int) -> None:
    value = float(np.uint64(bits).view(np.float64))
    assert one(value, dtype) == nearest(value, dtype)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@given(data=st.data())
def test_next_to_the_middles(dtype: np.dtype, data: st.DataObject) -> None:
    """Near and exactly on the middle of two neighbours, where rounding twice goes wrong."""
    code = data.draw(st.integers(0, (1 << (8 * dtype.itemsize - 1)) - 2))
    with np.errstate(all="ignore"):
        low, high = (
            float(x)
            for x in np.array([code, code + 1], f"u{dtype.itemsize}").view(dtype).astype(np.float64)
        )
    if not (math.isfinite(low) and math.isfinite(high)):
        return
    middle = low + (high - low) / 2
    value = middle + data.draw(st.sampled_from([0.0, 1.0, -1.0])) * (
        high - low
    ) * 2.0 ** -data.draw(st.integers(2, 44))
    value *= data.draw(st.sampled_from([1.0, -1.0]))
    assert one(value, dtype) == nearest(value, dtype)


def test_rounding_twice_would_be_wrong_here() -> None:
    value = 1 + 2**-8 + 2**-40  # above the middle of 1 and 1 + 2^-7, by less than float32 shows
    assert float(np.float64(value).astype(np.float32).astype(ml_dtypes.bfloat16)) == 1.0
    assert one(value, BF16) == one(1 + 2**-7, BF16)
    assert one(-value, BF16) == one(-1 - 2**-7, BF16)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_every_value_survives(dtype: np.dtype) -> None:
    codes = np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    wide = widen(codes.view(dtype), np.empty(codes.size))
    out = np.empty(codes.size, dtype)
    narrow(wide, out)
    number = ~np.isnan(wide)
    assert np.array_equal(out.view(codes.dtype)[number], codes[number])
    assert len({int(code) for code in out.view(codes.dtype)[~number]}) == 1


@given(st.lists(st.floats(), min_size=1, max_size=40), st.booleans())
def test_blocks_of_mixed_values(values: list[float], reuse: bool) -> None:
    """Few or many inexact values in a block take different ways to the same result; scratch memory
    leaves no traces.
    """
    scratch = BlockScratch(64) if reuse else None
    block = np.array(values)
    for _ in range(2):
        for dtype in NARROW:
            out = np.empty(block.size, dtype)
            narrow(block, out, scratch)
            assert [int(code) for code in out.view(f"u{dtype.itemsize}")] == [
                one(value, dtype) for value in values
            ]


@given(st.floats(allow_nan=False))
def test_to_odd_is_exact_or_odd_and_next_to_the_value(value: float) -> None:
    result = float(to_odd(np.array([value]))[0])
    if result != value:
        assert int(np.float32(result).view(np.uint32)) & 1
        with np.errstate(all="ignore"):
            below, above = (
                float(np.nextafter(np.float32(result), np.float32(end)))
                for end in (-np.inf, np.inf)
            )
        assert below < value < above


@given(st.floats())
def test_wide_types_are_rounded_by_the_processor_and_nan_is_one_pattern(value: float) -> None:
    for dtype in (F32, F64):
        with np.errstate(all="ignore"):
            expected = np.array([value]).astype(dtype)
        if math.isnan(value):
            expected = np.array(
                [0x7FC00000 if dtype == F32 else 0x7FF8 << 48], f"u{dtype.itemsize}"
            ).view(dtype)
        assert one(value, dtype) == int(expected.view(f"u{dtype.itemsize}")[0])


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_the_tests_own_rounding(values: list[float]) -> None:
    for dtype in NARROW:
        bits = rounded(np.array(values), dtype).view(f"u{dtype.itemsize}")
        for code, value in zip(bits, values, strict=True):
            expected = nearest(value, dtype)
            assert int(code) == expected or (
                math.isnan(float(np.array([expected], bits.dtype).view(dtype)[0]))
            )


def test_types_that_are_not_computed_with() -> None:
    assert all(map(supported, (F32, F64, *NARROW)))
    for dtype in (
        np.dtype(np.int8),
        np.dtype(np.bool_),
        np.dtype(ml_dtypes.float8_e8m0fnu),
        np.dtype(np.complex64),
    ):
        assert not supported(dtype)


def test_nothing_to_round() -> None:
    narrow(np.empty(0), np.empty(0, BF16))
