"""Finding a constant factor, applied several times."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from update_examples import FLOATS, payload, random_tensor, round_trip, tensor, weights

from git_theta.core import dtypes
from git_theta.errors import PayloadError
from git_theta.updates.delta import Delta
from git_theta.updates.prediction.decay import MAX_STEPS, Decay, find


def bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(f"<u{array.itemsize}")


@pytest.mark.parametrize(
    ("factor", "steps"), [(1 - 2e-7, 5), (1 - 2e-7, 30), (0.999, 5), (0.9, 3), (0.5, 1), (1.25, 4)]
)
def test_finds_weight_decay(factor: float, steps: int) -> None:
    base = weights((20000,))
    target = base.copy()
    for _ in range(steps):
        target *= np.float32(factor)
    target[::5] += weights((4000,), 1, 1e-4)
    found = find(bits(target), bits(base), "f32")
    assert found == Decay(float(np.float32(factor)), steps)


def test_finds_an_interpolation_towards_zero_by_fused_multiply_add() -> None:
    base = weights((20000,))
    target = base
    for _ in range(4):  # m + w (0 - m) rounded once
        target = (target.astype(np.float64) * (1 - float(np.float32(0.1)))).astype(np.float32)
    found = find(bits(target), bits(base), "f32")
    assert found is not None
    assert (found.apply(bits(base), "f32") == bits(target)).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_finds_a_single_scaling_in_every_type(dtype: str) -> None:
    base = weights((20000,)).astype(dtypes.numpy_dtype(dtype))
    target = (base.astype(np.float64) * 0.75).astype(base.dtype)
    found = find(bits(target), bits(base), dtype)
    assert found is not None
    assert (found.apply(bits(base), dtype) == bits(target)).mean() > 0.99


def test_finds_nothing_in_an_ordinary_change() -> None:
    base = weights((20000,))
    assert find(bits(base + weights((20000,), 1, 1e-4)), bits(base), "f32") is None
    assert find(bits(base), bits(base), "f32") is None
    assert find(bits(weights((20000,), 2)), bits(base), "f32") is None


@pytest.mark.parametrize("dtype", FLOATS)
def test_any_bits_can_be_decayed_and_odd_ones_stay(dtype: str) -> None:
    one = random_tensor(dtype, (5000,), 1).bits()
    for decay in (
        Decay(0.999, 7),
        Decay(1 - float(np.float32(0.1)), 2),
        Decay(2.0**-16, 2),
        Decay(1.37, 60),
    ):
        assert decay.valid
        out = decay.apply(one, dtype)
        with np.errstate(all="ignore"):
            values = one.view(dtypes.numpy_dtype(dtype)).astype(np.float64)
        odd = ~np.isfinite(values) | (values == 0)
        assert (out[odd] == one[odd]).all()
        if dtype == "f32" and decay.steps == 7:
            plain = (np.abs(values) > 1e-20) & (np.abs(values) < 1e20)
            expected = values[plain].astype(np.float32)
            for _ in range(7):
                expected = (expected.astype(np.float64) * 0.999).astype(np.float32)
            assert (out[plain] == bits(expected)).all()


def test_native_and_wide_products_round_alike() -> None:
    """A float32 product is rounded from the exact one, and so is one by way of float64, which holds
    it exactly.
    """
    base = bits(weights((10000,)))
    factor = float(np.float32(0.9))
    wide = (base.view(np.float32).astype(np.float64) * factor).astype(np.float32)
    assert (Decay(factor, 1).apply(base, "f32") == bits(wide)).all()


@pytest.mark.parametrize(
    ("factor", "steps"),
    [
        (0.9, 0),
        (0.9, MAX_STEPS + 1),
        (0.9, 2**60),
        (0.5, 33),
        (0.0, 1),
        (-1.0, 2),
        (np.nan, 1),
        (np.inf, 1),
    ],
)
def test_out_of_range(factor: float, steps: int) -> None:
    assert not Decay(factor, steps).valid


def test_decay_is_stored_and_checked() -> None:
    base = weights((300, 200))
    target = base * np.float32(0.9) * np.float32(0.9)
    encoded = round_trip(Delta(), tensor(target), tensor(base))
    assert encoded.size < 500
    broken = bytearray(payload(encoded))
    assert broken[0] == 8
    broken[1:9] = b"\xff" * 8
    with pytest.raises(PayloadError, match="range"):
        Delta().decode(memoryview(bytes(broken)), tensor(target).spec, tensor(base))


def test_bf16_moments() -> None:
    base = weights((40000,)).astype(ml_dtypes.bfloat16)
    target = base
    for _ in range(5):
        target = (target.astype(np.float32) * np.float32(0.9)).astype(ml_dtypes.bfloat16)
    found = find(bits(target), bits(base), "bf16")
    assert found is not None
    assert (found.apply(bits(base), "bf16") == bits(target)).mean() > 0.5
