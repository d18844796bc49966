"""Floating point that gives the same bits everywhere."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from update_examples import FLOATS

from git_theta.core import dtypes
from git_theta.updates import floats


def patterns(dtype: str) -> np.ndarray:
    """All 16-bit patterns; of the wider types random ones, and those around every edge."""
    width = dtypes.get(dtype).width
    if width == 2:
        return np.arange(1 << 16, dtype=np.uint16)
    kind = np.dtype(f"<u{width}")
    random = np.random.default_rng(5).integers(0, 1 << 8 * width, 20000, dtype=kind, endpoint=False)
    shift, bits = floats.EXPONENTS[dtype]
    edges = (np.arange(1 << bits, dtype=kind) << kind.type(shift)).astype(kind)
    near = [edges, edges + kind.type(1), edges - kind.type(1)]
    return np.concatenate(
        [random, *near, *(part | kind.type(1 << (8 * width - 1)) for part in near)]
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_widening_is_exact_except_for_denormals(dtype: str) -> None:
    bits = patterns(dtype)
    values = bits.view(dtypes.numpy_dtype(dtype))
    with np.errstate(all="ignore"):
        expected = values.astype(np.float64)
    if dtype != "f16":
        expected[floats.exponents(bits, dtype) == 0] = 0.0
    widened = floats.widen(bits, dtype)
    assert np.array_equal(widened, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", FLOATS)
def test_narrowing_is_the_inverse_of_widening(dtype: str) -> None:
    bits = patterns(dtype)
    finite = ~np.isnan(floats.widen(bits, dtype))
    normal = finite & ((floats.exponents(bits, dtype) > 2) | (dtype == "f16"))
    assert (floats.narrow(floats.widen(bits, dtype), dtype)[normal] == bits[normal]).all()


def test_bf16_rounds_as_ml_dtypes_does() -> None:
    bits = patterns("f32")
    values = bits.view(np.float32)
    fine = ~np.isnan(values)
    assert (
        floats.round_to_bf16(bits)[fine] == values[fine].astype(ml_dtypes.bfloat16).view(np.uint16)
    ).all()


@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_narrowing_rounds_to_nearest_even(dtype: str) -> None:
    random = np.random.default_rng(8)
    kind = dtypes.numpy_dtype(dtype)
    values = random.standard_normal(50000) * 2.0 ** random.integers(-10, 10, 50000)
    halfway = (
        values.astype(kind).astype(np.float64)
        + np.nextafter(values.astype(kind), kind.type(np.inf)).astype(np.float64)
    ) / 2
    for case in (values, halfway, -halfway):
        assert (floats.narrow(case, dtype) == case.astype(kind).view(f"<u{kind.itemsize}")).all()


@pytest.mark.parametrize("dtype", ["bf16", "f32", "f64"])
def test_no_result_is_denormal(dtype: str) -> None:
    smallest = 2.0**-1022 if dtype == "f64" else 2.0**-126
    values = np.array([smallest, smallest * 0.75, 2.0**-1074, -smallest * 0.9, -0.0, 0.0])
    bits = floats.narrow(values, dtype)
    assert (floats.exponents(bits, dtype) == 0).all()
    assert (np.left_shift(bits, 1) == 0).all(), "zero of either sign"
    assert (bits >> bits.dtype.type(8 * bits.itemsize - 1)).tolist() == [0, 0, 0, 1, 1, 0]


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=True), st.integers(0, 2**32 - 1), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_settled_values_are_never_nan_unless_they_were(rows: list[tuple[float, int, bool]]) -> None:
    values = np.array([row[0] for row in rows])
    before = np.array([row[1] for row in rows], np.uint32)
    keep = np.array([row[2] for row in rows])
    bits = floats.settle(values, before, keep, "f32")
    stays = keep | ~np.isfinite(values)
    assert (bits[stays] == before[stays]).all()
    assert not np.isnan(bits[~stays].view(np.float32)).any()


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
def test_converting_is_what_casting_does(source: str, target: str) -> None:
    if source == target:
        return
    bits = patterns(source)
    values = bits.view(dtypes.numpy_dtype(source))
    with np.errstate(all="ignore"):
        wide = values.astype(np.float64)
        by_way = values.astype(np.float32) if target == "bf16" else values
        expected = by_way.astype(dtypes.numpy_dtype(target))
    plain = (
        np.isfinite(wide) & (np.abs(wide) > 1e-30)
        if source != "f16" and target != "f16"
        else np.isfinite(wide) & (np.abs(wide) > 1e-7)
    )
    converted = floats.convert(bits, source, target)
    assert (converted[plain] == expected[plain].view(converted.dtype)).all()
    assert (converted[np.isnan(wide)] == 0).all() or (source, target) in {
        ("f32", "bf16"),
        ("bf16", "f32"),
    }
