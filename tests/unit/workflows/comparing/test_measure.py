"""The numbers of a diff against plain numpy in extended precision or exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from git_theta.core import dtypes
from git_theta.core.tensors import Tensor
from git_theta.workflows.comparing import measure as module
from git_theta.workflows.comparing.measure import measure

TOLERANCE = 1e-12
FLOATS = ["f64", "f32", "bf16", "f16", "f8_e4m3fn", "f8_e5m2", "f8_e4m3fnuz", "f8_e5m2fnuz"]
INTEGERS = ["u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64"]


def tensor(array: np.ndarray) -> Tensor:
    return Tensor.from_array(np.asarray(array))


def reference(old: np.ndarray, new: np.ndarray) -> dict[str, float]:
    """The definitions, read aloud: exact sums of exact fractions."""
    w = [Fraction(float(x)) for x in old.reshape(-1)]
    v = [Fraction(float(x)) for x in new.reshape(-1)]
    d = [b - a for a, b in zip(w, v, strict=True)]
    oo, nn, dd, on = (
        sum((a * b for a, b in zip(x, y, strict=True)), Fraction(0))
        for x, y in ((w, w), (v, v), (d, d), (w, v))
    )
    out = {
        "norm": root(oo),
        "moved": root(dd),
        "largest": float(max(map(abs, d), default=Fraction(0))),
    }
    out["distance"] = (
        math.nan if not oo or not nn else float(1 - on / (exact_root(oo) * exact_root(nn)))
    )
    return out


def root(value: Fraction) -> float:
    return float(exact_root(value))


def exact_root(value: Fraction) -> Fraction:
    """The square root to some 120 bits."""
    shift = max(0, 240 - (value.numerator.bit_length() - value.denominator.bit_length()))
    shift += shift % 2
    return Fraction(math.isqrt(int(value * 2**shift)), 2 ** (shift // 2))


@given(data=st.data(), dtype=st.sampled_from([*FLOATS, *INTEGERS, "bool"]))
@settings(max_examples=150, deadline=None)
def test_agrees_with_exact_arithmetic(data: st.DataObject, dtype: str) -> None:
    kind = dtypes.numpy_dtype(dtype)
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=6))
    count = math.prod(shape)
    numbers = st.floats(-1e4, 1e4) if dtype not in (*INTEGERS, "bool") else st.integers(0, 100)
    draw = st.lists(numbers, min_size=count, max_size=count)
    with np.errstate(over="ignore"):
        old = np.array(data.draw(draw)).astype(kind).reshape(shape)
        new = np.where(
            np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count))).reshape(
                shape
            ),
            old,
            np.array(data.draw(draw)).astype(kind).reshape(shape),
        )
    new = new.astype(kind)
    finite = np.isfinite(old.astype(np.float64)) & np.isfinite(new.astype(np.float64))
    found = measure(tensor(old), tensor(new))
    assert found is not None
    assert found.elements == count
    width = kind.itemsize
    assert found.changed == sum(
        old.tobytes()[i * width : (i + 1) * width] != new.tobytes()[i * width : (i + 1) * width]
        for i in range(count)
    )
    assert found.nonfinite == int((~finite).sum())
    wanted = reference(old.astype(np.float64)[finite], new.astype(np.float64)[finite])
    assert found.norm == pytest.approx(wanted["norm"], rel=TOLERANCE)
    assert found.moved == pytest.approx(wanted["moved"], rel=TOLERANCE)
    assert found.largest == wanted["largest"]
    w, v = old.astype(np.float64), new.astype(np.float64)
    assert found.new_nan == int((np.isnan(v) & ~np.isnan(w)).sum())
    assert found.new_inf == int((np.isinf(v) & ~np.isinf(w)).sum())
    if not found.moved and found.new_nan + found.new_inf:
        assert math.isnan(found.distance or 0)
        assert math.isnan(found.relative or 0)
    elif math.isnan(wanted["distance"]):
        assert found.distance is None
    else:
        assert found.distance == pytest.approx(wanted["distance"], abs=1e-13)
    rows, channels = zeroed(w, v, dtype)
    assert (found.zero_rows, found.zero_channels) == (rows, channels)


def zeroed(old: np.ndarray, new: np.ndarray, dtype: str) -> tuple[int, int]:
    """Rows and channels that became zero, by the definition alone."""
    if dtype == "bool":
        return 0, 0
    if old.ndim < 2:
        alone = old.size >= 2 and dtype in FLOATS and bool(old.any() and not new.any())
        return int(alone), 0
    gone = [
        (
            sum(
                bool(np.take(old, i, axis).any() and not np.take(new, i, axis).any())
                for i in range(old.shape[axis])
            )
            if old.size // old.shape[axis] >= 2
            else 0
        )
        for axis in range(old.ndim)
    ]
    return gone[0], (
        0 if not new.any() and old[0].size >= 2 else sum(gone[axis] for axis in {1, old.ndim - 1})
    )


@pytest.mark.parametrize("dtype", [*FLOATS, "i8", "c64"])
def test_rows_and_channels_that_became_zero(dtype: str) -> None:
    rng = np.random.default_rng(1)
    old = rng.integers(1, 7, (300, 70, 3)).astype(dtypes.numpy_dtype(dtype))
    old[7] = old[:, :, 1] = 0  # were zero before
    new = old.copy()
    new[[3, 299]] = 0
    new[:, 11] = 0
    new[5, 5, 0] = 0
    found = measure(tensor(old), tensor(new))
    assert found is not None
    assert (found.zero_rows, found.zero_channels) == (2, 1)
    new[:] = 0
    found = measure(tensor(old), tensor(new))
    assert found is not None
    assert (found.zero_rows, found.zero_channels) == (299, 0), "row 7 was zero before"


def test_sparse_tensors_have_no_dead_channels_by_chance() -> None:
    rng = np.random.default_rng(1)
    old = (rng.standard_normal((64, 64)) * (rng.random((64, 64)) < 0.2)).astype(np.float32)
    new = (old * (rng.random((64, 64)) < 0.5)).astype(np.float32)
    found = measure(tensor(old), tensor(new))
    assert found is not None
    assert (found.zero_rows, found.zero_channels) == zeroed(old, new, "f32")


def test_packed_rows_that_became_zero() -> None:
    data = np.random.default_rng(1).integers(1, 255, 34 * 12, np.uint8)
    new = data.copy()
    new[68:136] = 0
    found = measure(Tensor("q8_0", (6, 64), data.data), Tensor("q8_0", (6, 64), new.data))
    assert found is not None
    assert (found.changed, found.zero_rows) == (2, 1)


def test_new_nan_in_rows_that_were_added() -> None:
    old = np.ones((4, 8), np.float32)
    new = np.ones((6, 8), np.float32)
    new[5, 2], new[4, 0] = np.nan, np.inf
    found = measure(tensor(old), tensor(new))
    assert found is not None
    assert (found.new_nan, found.new_inf, found.partial) == (1, 1, True)
    assert math.isnan(found.relative or 0)


@given(
    pairs=st.lists(
        st.tuples(*2 * [st.floats(allow_nan=False, allow_infinity=False)]), min_size=1, max_size=6
    )
)
@settings(max_examples=200, deadline=None)
def test_any_float64_whatever_its_size(pairs: list[tuple[float, float]]) -> None:
    old, new = np.array([w for w, _ in pairs]), np.array([v for _, v in pairs])
    found = measure(tensor(old), tensor(new))
    assert found is not None
    try:
        wanted = reference(old, new)
    except OverflowError:  # a number beyond float64
        assert math.inf in (found.norm, found.moved, found.largest)
        return
    assert found.norm == pytest.approx(wanted["norm"], rel=TOLERANCE, abs=1e-323)
    assert found.moved == pytest.approx(wanted["moved"], rel=TOLERANCE, abs=1e-323)
    assert found.largest == pytest.approx(wanted["largest"], rel=TOLERANCE, abs=1e-323)
    if not math.isnan(wanted["distance"]):
        assert found.distance == pytest.approx(wanted["distance"], abs=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [1, 4095, 4096, 4097, 131_072, 131_073, 400_001])
def test_blocks_do_not_show(dtype: str, count: int) -> None:
    rng = np.random.default_rng(count)
    old = (rng.standard_normal(count) * 0.1).astype(dtypes.numpy_dtype(dtype))
    new = (old.astype(np.float64) * (1 + 0.3 * rng.standard_normal(count))).astype(old.dtype)
    w, v = old.astype(np.longdouble), new.astype(np.longdouble)
    d = v - w
    found = measure(tensor(old), tensor(new), histogram=True)
    assert found is not None
    assert found.norm == pytest.approx(float(np.sqrt(w @ w)), rel=TOLERANCE)
    assert found.moved == pytest.approx(float(np.sqrt(d @ d)), rel=TOLERANCE)
    assert found.largest == float(abs(d).max())
    assert found.relative == pytest.approx(float(np.sqrt(d @ d) / np.sqrt(w @ w)), rel=TOLERANCE)
    assert found.cosine == pytest.approx(float(w @ v / np.sqrt((w @ w) * (v @ v))), abs=1e-14)
    assert found.histogram is not None
    assert sum(n for _, n, _ in found.histogram) == int((d < 0).sum())
    assert sum(p for _, _, p in found.histogram) == int((d > 0).sum())
    for order, negative, positive in found.histogram:
        inside = (abs(d) >= np.ldexp(1.0, order)) & (abs(d) < np.ldexp(1.0, order + 1))
        assert (negative, positive) == (
            int((inside & (d < 0)).sum()),
            int((inside & (d > 0)).sum()),
        )


def test_a_tiny_angle_keeps_its_digits() -> None:
    old = np.random.default_rng(0).standard_normal(100_000)
    across = np.random.default_rng(1).standard_normal(100_000)
    across -= old * (across @ old) / (old @ old)
    for angle in (1e-3, 1e-6, 1e-9):
        new = old + across * angle
        found = measure(tensor(old), tensor(new))
        assert found is not None
        tangent = float(
            np.linalg.norm((new - old).astype(np.longdouble))
            / np.linalg.norm(old.astype(np.longdouble))
        )
        assert found.distance == pytest.approx(
            1 - 1 / math.sqrt(1 + tangent**2) if tangent > 1e-4 else tangent**2 / 2, rel=1e-4
        )


def test_scaling_leaves_the_angle() -> None:
    old = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    found = measure(tensor(old), tensor(old * np.float32(2)))
    assert found is not None
    assert found.distance == pytest.approx(0, abs=1e-15)
    assert found.relative == pytest.approx(1)
    opposite = measure(tensor(old), tensor(-old))
    assert opposite is not None
    assert opposite.cosine == pytest.approx(-1)


@pytest.mark.parametrize(("old", "new", "norm", "moved", "largest"), [
    ([1e300, 1e300], [1e300, -1e300], math.sqrt(2) * 1e300, 2e300, 2e300),
    ([1e-200, 0.0], [3e-200, 0.0], 1e-200, 2e-200, 2e-200),
    ([5e-324, 0.0], [0.0, 0.0], 5e-324, 5e-324, 5e-324),
    ([1.7e308], [-1.7e308], 1.7e308, math.inf, math.inf),
    ([0.0, 1e-300] * 40_000 + [1e300], [0.0, 1e-300] * 40_000 + [2e300], 1e300, 1e300, 1e300),
])  # fmt: skip
def test_no_overflow_and_no_underflow(
    old: list[float], new: list[float], norm: float, moved: float, largest: float
) -> None:
    found = measure(tensor(np.array(old)), tensor(np.array(new)))
    assert found is not None
    assert (found.norm, found.moved) == pytest.approx((norm, moved), rel=1e-12)
    assert found.largest == largest


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    old = np.array([1, np.nan, 2, np.inf, 5, -0.0], np.float32)
    new = np.array([1, 7, 3, np.inf, np.nan, 0.0], np.float32)
    found = measure(tensor(old), tensor(new), histogram=True)
    assert found is not None
    assert (found.elements, found.changed, found.nonfinite) == (6, 4, 3)
    assert found.norm == pytest.approx(math.sqrt(5))
    assert (found.moved, found.largest) == (1, 1)
    assert found.histogram == ((0, 0, 1),)


def test_nans_with_other_payloads_are_changes() -> None:
    old = Tensor("f32", (2,), bytes.fromhex("0000c07f0000c07f"))
    new = Tensor("f32", (2,), bytes.fromhex("0000c07f0100c07f"))
    found = measure(old, new)
    assert found is not None
    assert (found.changed, found.nonfinite, found.moved, found.distance) == (1, 2, 0, None)


def test_zero_norm() -> None:
    zero, one = tensor(np.zeros(3)), tensor(np.ones(3))
    grown, same, gone = measure(zero, one), measure(zero, zero), measure(one, zero)
    assert grown is not None
    assert (grown.relative, grown.cosine) == (math.inf, None)
    assert same is not None
    assert (same.relative, same.cosine, same.fraction) == (0.0, None, 0.0)
    assert gone is not None
    assert (gone.relative, gone.cosine) == (1.0, None)
    empty = measure(tensor(np.zeros((0, 3))), tensor(np.zeros((0, 3))))
    assert empty is not None
    assert (empty.elements, empty.fraction, empty.relative) == (0, 0.0, 0.0)


@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_complex(kind: type) -> None:
    rng = np.random.default_rng(0)
    old: np.ndarray = (rng.standard_normal(70_000) + 1j * rng.standard_normal(70_000)).astype(kind)
    new = old.copy()
    new[::2] += 3 - 4j
    found = measure(tensor(old), tensor(new))
    assert found is not None
    assert (found.elements, found.changed) == (70_000, 35_000)
    assert found.largest == pytest.approx(5, rel=1e-6)
    assert found.norm == pytest.approx(np.linalg.norm(old.astype(complex)), rel=TOLERANCE)
    assert found.moved == pytest.approx(
        np.linalg.norm(new.astype(complex) - old.astype(complex)), rel=TOLERANCE
    )


def test_half_complex_has_values_though_numpy_has_no_such_type() -> None:
    old = Tensor("c32", (2,), np.array([1, 2, 3, 4], np.float16).tobytes())
    new = Tensor("c32", (2,), np.array([1, 2, 6, 8], np.float16).tobytes())
    found = measure(old, new)
    assert found is not None
    assert (found.elements, found.changed, found.largest, found.moved) == (2, 1, 5, 5)


def test_packed_types_are_compared_in_blocks() -> None:
    old = Tensor("q4_0", (2, 32), bytes(36))
    new = Tensor("q4_0", (2, 32), bytes(20) + b"\1" + bytes(15))
    found = measure(old, new)
    assert found is not None
    assert (found.elements, found.changed, found.comparable, found.relative) == (2, 1, False, None)
    pairs = measure(Tensor("f4_e2m1", (3, 2), b"abc"), Tensor("f4_e2m1", (3, 2), b"axx"))
    assert pairs is not None
    assert (pairs.elements, pairs.changed) == (3, 2)


@pytest.mark.parametrize("old_type", FLOATS)
@pytest.mark.parametrize("new_type", FLOATS)
def test_between_types_values_count(old_type: str, new_type: str) -> None:
    values = np.random.default_rng(0).standard_normal((40, 50))
    old, new = (
        values.astype(dtypes.numpy_dtype(old_type)),
        values.astype(dtypes.numpy_dtype(new_type)),
    )
    found = measure(tensor(old), tensor(new))
    assert found is not None
    w, v = old.astype(float), new.astype(float)
    assert found.changed == int((w != v).sum())
    assert found.moved == pytest.approx(np.linalg.norm(v - w), rel=TOLERANCE, abs=0)


def test_grown_rows_are_compared_as_far_as_both_go() -> None:
    old = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    new = np.concatenate([old * np.float32(1.5), np.ones((28, 8), np.float32)])
    for first, second in ((old, new), (new, old)):
        found = measure(tensor(first), tensor(second))
        assert found is not None
        assert (found.elements, found.partial) == (800, True)
    assert measure(tensor(old), tensor(new)).relative == pytest.approx(0.5, rel=1e-6)  # type: ignore[union-attr]
    assert measure(tensor(old), tensor(old[:, :4])) is None
    flat = measure(tensor(old), tensor(old.reshape(-1)))
    assert flat is not None
    assert (flat.changed, flat.partial) == (0, False)


def test_odd_booleans() -> None:
    found = measure(Tensor("bool", (3,), b"\0\1\2"), Tensor("bool", (3,), b"\0\1\1"))
    assert found is not None
    assert (found.changed, found.moved) == (1, 0.0)


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16"])
@pytest.mark.parametrize("rank", [1, 4, 16, 40])
def test_rank_of_a_merged_adapter(dtype: str, rank: int) -> None:
    rng = np.random.default_rng(rank)
    old = (rng.standard_normal((384, 512)) * 0.03).astype(dtypes.numpy_dtype(dtype))
    change = (
        rng.standard_normal((384, rank))
        @ rng.standard_normal((rank, 512))
        * (0.01 / math.sqrt(rank))
    )
    new = (old.astype(np.float64) + change).astype(old.dtype)
    found = measure(tensor(old), tensor(new))
    assert found is not None
    assert found.rank == rank


@pytest.mark.parametrize("dtype", ["f64", "f32", "bf16", "f16"])
def test_no_rank_where_it_is_full(dtype: str) -> None:
    rng = np.random.default_rng(0)
    old = (rng.standard_normal((300, 400)) * 0.03).astype(dtypes.numpy_dtype(dtype))
    for size in (1e-4, 1e-3, 1e-1):
        new = (old.astype(np.float64) * (1 + size * rng.standard_normal(old.shape))).astype(
            old.dtype
        )
        found = measure(tensor(old), tensor(new))
        assert found is not None
        assert found.rank is None


def test_rank_of_a_few_changed_rows() -> None:
    old = np.random.default_rng(0).standard_normal((5000, 64)).astype(np.float32)
    new = old.copy()
    new[[7, 1234, 4000]] += np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    found = measure(tensor(old), tensor(new))
    assert found is not None
    assert found.rank == 3


def test_no_rank_for_vectors_scalars_and_integers() -> None:
    for old in (
        np.zeros(100, np.float32),
        np.zeros((), np.float32),
        np.zeros((64, 64), np.int32),
        np.zeros((3, 64), np.float32),
    ):
        found = measure(tensor(old), tensor(old + old.dtype.type(1)))
        assert found is not None
        assert found.rank is None


def test_rank_with_what_is_not_finite() -> None:
    old = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32)
    new = old + np.outer(np.ones(128), np.arange(128)).astype(np.float32)
    new[3, 3] = np.nan
    found = measure(tensor(old), tensor(new))
    assert found is not None
    assert found.nonfinite == 1
    assert found.rank in (1, 2, 3, None)


def test_packed_and_unpacked_have_nothing_in_common() -> None:
    assert measure(Tensor("q4_0", (32,), bytes(18)), tensor(np.zeros(32, np.float32))) is None
    found = measure(tensor(np.zeros(3, np.complex64)), tensor(np.zeros(3, np.float32)))
    assert found is not None
    assert not found.comparable


def test_float8_tables_hold_every_value() -> None:
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu"):
        kind = getattr(ml_dtypes, name)
        every = np.arange(256, dtype=np.uint8).view(kind)
        found = measure(tensor(every), tensor(every[::-1].copy()), rank=False)
        assert found is not None
        w, v = every.astype(float), every[::-1].astype(float)
        fine = np.isfinite(w) & np.isfinite(v)
        assert found.nonfinite == int((~fine).sum())
        assert found.moved == pytest.approx(np.linalg.norm((v - w)[fine]), rel=TOLERANCE)


def test_the_block_is_a_multiple_of_the_lane() -> None:
    assert module._BLOCK % module._LANE == 0
