"""ia3: factors per channel, found or given."""

from __future__ import annotations

import numpy as np
import pytest
from update_examples import FLOATS, payload, random_tensor, round_trip, tensor, weights

from git_theta.core import dtypes
from git_theta.core.tensors import Tensor
from git_theta.errors import PayloadError, UsageError
from git_theta.updates.delta import Delta
from git_theta.updates.ia3 import IA3, encode_given

SHAPES = [
    ((90, 1), (90, 120)),
    ((1, 120), (90, 120)),
    ((12, 1, 1, 1), (12, 20, 3, 3)),
    ((1, 20, 1, 1), (12, 20, 3, 3)),
    ((4, 30, 1), (4, 30, 50)),
]


def scaled(base: Tensor, factors: np.ndarray) -> Tensor:
    """What a framework computes: in float32 (f64: in float64), rounded to the type."""
    array = base.array()
    wide = np.float64 if base.dtype == "f64" else np.float32
    return Tensor.from_array((array.astype(wide) * factors.astype(wide)).astype(array.dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("factors", "shape"), SHAPES)
def test_finds_what_scaled_the_channels(
    dtype: str, factors: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    base = tensor(weights(shape), dtype)
    new = scaled(base, 1 + weights(factors, 1, 0.1))
    encoded = round_trip(IA3(), new, base)
    assert encoded.note == f"channels={np.prod(factors)}"
    assert encoded.size < 0.25 * round_trip(Delta(), new, base).size


@pytest.mark.parametrize("step", [2, 3, 5])
def test_pruned_channels(step: int) -> None:
    base = tensor(weights((64, 200)))
    mask = np.ones((64, 1), np.float32)
    mask[::step] = 0
    assert round_trip(IA3(), scaled(base, mask), base).size < 400


def test_what_scaling_leaves_is_exact() -> None:
    base = tensor(weights((100, 100)))
    noise = scaled(base, 1 + weights((1, 100), 1, 0.1)).array() + weights((100, 100), 2, 1e-5)
    noise[3, 4], noise[5, 6], noise[7, 8] = np.nan, -0.0, np.inf
    encoded = round_trip(IA3(), Tensor.from_array(noise), base)
    assert encoded.size < 0.85 * round_trip(Delta(), Tensor.from_array(noise), base).size


def test_declines_other_changes() -> None:
    base = tensor(weights((100, 100)))
    for new in (
        tensor(weights((100, 100)) + weights((100, 100), 1, 1e-3)),
        tensor(weights((100, 100), 4)),
        base,
        tensor(weights((100,))),
    ):
        assert IA3().encode(new, base, "default") is None
    assert (
        IA3().encode(random_tensor("i32", (9, 9), 1), random_tensor("i32", (9, 9), 2), "default")
        is None
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "shape", [(6, 1, 1), (1, 7, 1), (1, 1, 8), (8,), (7, 1), (7, 8), (6, 7, 8), (), (1,), (6, 1, 8)]
)
def test_given_factors_broadcast(dtype: str, shape: tuple[int, ...]) -> None:
    base = tensor(weights((6, 7, 8)), dtype)
    factors = 1 + weights(shape, 1, 0.3)
    new, encoded = encode_given(None, base, factors)
    assert bytes(IA3().decode(payload(encoded), new.spec, base)) == bytes(new.data)
    product = base.array().astype(np.float64) * factors.astype(np.float64)
    expected = (product.astype(np.float32) if dtype == "bf16" else product).astype(
        base.array().dtype
    )
    assert bytes(new.data) == bytes(Tensor.from_array(expected).data)
    other = Tensor.from_array(expected + dtypes.numpy_dtype(dtype).type(0.01))
    same, encoded = encode_given(other, base, factors)
    assert same is other
    assert bytes(IA3().decode(payload(encoded), new.spec, base)) == bytes(other.data)


def test_any_base_can_be_scaled() -> None:
    """NaN, infinity and factors of one leave the base's bits alone."""
    base = random_tensor("f32", (50, 40), 3)
    new, encoded = encode_given(None, base, np.array([[1.0] * 20 + [2.0] * 20]))
    assert bytes(IA3().decode(payload(encoded), new.spec, base)) == bytes(new.data)
    old = base.bits().reshape(50, 40)
    assert (new.bits().reshape(50, 40)[:, :20] == old[:, :20]).all()
    odd = ~np.isfinite(base.array())
    assert (new.bits().reshape(50, 40)[odd] == old[odd]).all()


@pytest.mark.parametrize(
    "factors",
    [np.ones(5), np.ones((7, 1)), np.ones((1, 1, 8)), np.array([np.nan]), np.array([np.inf])],
)
def test_given_factors_that_do_not_fit(factors: np.ndarray) -> None:
    with pytest.raises(UsageError):
        encode_given(None, tensor(weights((6, 8))), factors)


def test_given_to_a_type_that_has_no_products() -> None:
    with pytest.raises(UsageError, match="float tensor"):
        encode_given(None, random_tensor("i8", (4,), 1), np.ones(4))


def test_factors_that_are_not_finite_are_refused() -> None:
    base = tensor(weights((6, 8)))
    _, encoded = encode_given(None, base, np.full((1, 8), 3.0))
    data = bytearray(payload(encoded))
    data[3:] = (b"\0\0\0\0" + b"\xff" * 8) * 4
    with pytest.raises(PayloadError, match="finite"):
        IA3().decode(memoryview(bytes(data)), base.spec, base)
