"""delta, for every type and many kinds of base."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from update_examples import FLOATS, pairs, payload, random_tensor, round_trip, tensor, weights

from git_theta.core import dtypes
from git_theta.core.contracts import Level
from git_theta.core.tensors import Tensor
from git_theta.errors import PayloadError
from git_theta.updates import planes
from git_theta.updates.delta import Delta
from git_theta.updates.dense import Dense

LEVELS: tuple[Level, ...] = ("fast", "default", "best")


@settings(deadline=None, max_examples=200)
@given(pairs(), st.sampled_from(LEVELS))
def test_any_bits_come_back(pair: tuple[Tensor, Tensor], level: Level) -> None:
    one, other = pair
    for target, base in ((one, other), (other, one)):
        if dtypes.count(target.shape):
            round_trip(Delta(), target, base, level)


@pytest.mark.parametrize("dtype", dtypes.names())
@pytest.mark.parametrize("level", LEVELS)
def test_every_type_at_every_level(dtype: str, level: Level) -> None:
    block = dtypes.get(dtype).block_elements
    shape = (30, 7 * block)
    round_trip(Delta(), random_tensor(dtype, shape, 1), random_tensor(dtype, shape, 2), level)
    same = random_tensor(dtype, shape, 3)
    assert (
        round_trip(Delta(), same, same, level).size
        < 60 + 20 * dtypes.get(dtype).width + same.spec.nbytes // 20
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values(dtype: str) -> None:
    kind = dtypes.numpy_dtype(dtype)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-45, -1e-45, 1.0, 65504.0], np.float32
    ).astype(kind)
    for turn in range(len(special)):
        round_trip(Delta(), Tensor.from_array(special), Tensor.from_array(np.roll(special, turn)))


@pytest.mark.parametrize(
    ("dtype", "limit"), [("bf16", 0.30), ("f16", 0.52), ("f32", 0.65), ("f64", 0.82)]
)
def test_a_fine_tune_costs_what_it_changes(dtype: str, limit: float) -> None:
    base = weights((400, 500)).astype(np.float64)
    changed = base + weights((400, 500), 1, 1e-4)
    encoded = round_trip(Delta(), tensor(changed, dtype), tensor(base, dtype))
    assert encoded.size < limit * 200_000 * dtypes.get(dtype).width
    best = round_trip(Delta(), tensor(changed, dtype), tensor(base, dtype), "best")
    assert best.size < encoded.size
    assert payload(best)[0] & 1, "grouped by exponent, and it says so"
    assert not payload(encoded)[0] & 1


def test_the_note_counts_changed_elements() -> None:
    base = weights((1000,))
    changed = base.copy()
    changed[[3, 5, 900]] += 1
    assert round_trip(Delta(), tensor(changed), tensor(base)).note == "changed=3"


@pytest.mark.parametrize(
    ("source", "target", "limit"),
    [("f32", "bf16", 0.001), ("f32", "f16", 0.001), ("f64", "f32", 0.001), ("bf16", "f32", 0.51)],
)
def test_a_copy_in_another_precision(source: str, target: str, limit: float) -> None:
    wide = tensor(weights((500, 600)), source)
    copy = Tensor.from_array(wide.array().astype(dtypes.numpy_dtype(target)))
    if source == "bf16":
        copy = tensor(weights((500, 600)), "f32")
    encoded = round_trip(Delta(), copy, wide)
    assert encoded.size < limit * copy.spec.nbytes


@pytest.mark.parametrize("source", dtypes.names())
@pytest.mark.parametrize("target", ["f32", "bf16", "u8", "c64", "i16", "q4_0", "f8_e5m2"])
def test_any_other_type_serves_or_is_declined(source: str, target: str) -> None:
    block = max(dtypes.get(source).block_elements, dtypes.get(target).block_elements)
    one, base = random_tensor(target, (4, block), 1), random_tensor(source, (4, block), 2)
    encoded = Delta().encode(one, base, "default")
    if encoded is not None:
        assert bytes(Delta().decode(payload(encoded), one.spec, base)) == bytes(one.data)
    else:
        assert source != target


def test_another_shape_of_as_many_elements() -> None:
    base = weights((60, 50))
    encoded = round_trip(Delta(), tensor(base.reshape(3000)), tensor(base))
    assert encoded.size < 300


def test_more_than_one_block_and_window() -> None:
    count = 4 * planes.BLOCK + 17
    base = weights((count,)).astype(np.float16)
    changed = (base.astype(np.float32) * 1.0001).astype(np.float16)
    for level in LEVELS:
        round_trip(Delta(), Tensor.from_array(changed), Tensor.from_array(base), level)


def test_rows_of_several_blocks_with_new_ones_between() -> None:
    base = weights((5, planes.BLOCK // 2 + 3))
    changed = np.insert(np.delete(base, 3, axis=0), [0, 2], weights((2, base.shape[1]), 5), axis=0)
    encoded = round_trip(Delta(), tensor(changed), tensor(base))
    assert encoded.note == "kept=4,new=2"


def test_declines_what_it_cannot_use() -> None:
    one = tensor(weights((20, 30)))
    assert Delta().encode(one, None, "default") is None
    assert Delta().encode(one, random_tensor("u8", (20, 30), 1), "default") is None
    assert Delta().encode(one, tensor(weights((20, 29))), "default") is None
    assert Delta().encode(tensor(weights((21, 30), 5)), one, "default") is None, (
        "no row has a counterpart"
    )


def test_wrong_bases_and_payloads_are_refused() -> None:
    base, one = tensor(weights((20, 30))), tensor(weights((20, 30)) + np.float32(1e-4))
    good = payload(Delta().encode(one, base, "default"))
    for wrong in (
        None,
        tensor(weights((20, 31))),
        tensor(weights((20, 30)), "bf16"),
        random_tensor("q4_0", (2, 32), 1),
    ):
        with pytest.raises(PayloadError):
            Delta().decode(good, one.spec, wrong)
    for broken in (
        b"",
        b"\x10",
        good[:-1],
        bytes(good) + b"\0",
        b"\x02\x01\x00\x00\x40" + bytes(good[1:]),
        b"\x02\x00" + bytes(good[1:]),
    ):
        with pytest.raises(PayloadError):
            Delta().decode(memoryview(bytes(broken)), one.spec, base)


def test_a_count_that_cannot_be_is_refused_before_memory_is_taken() -> None:
    base = Tensor("u8", (1, 0), b"")
    with pytest.raises(PayloadError):
        Delta().decode(memoryview(b"\x02\x01\x00\x00\x01"), tensor(weights((1, 1))).spec, base)
    with pytest.raises(PayloadError):
        Dense().decode(memoryview(bytes(40)), type(base.spec)("u8", (1 << 40,)), None)
