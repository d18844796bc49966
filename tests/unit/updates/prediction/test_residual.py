"""Differences of integers, and the order in which they are coded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.contracts import Level
from git_theta.errors import PayloadError
from git_theta.updates import floats, planes
from git_theta.updates.prediction import residual

WIDTHS = (1, 2, 4, 8)


def integers(width: int, count: int, seed: int) -> np.ndarray:
    return np.frombuffer(np.random.default_rng(seed).bytes(width * count), np.dtype(f"<u{width}"))


@given(st.sampled_from(WIDTHS), st.integers(0, 2**31), st.integers(0, 40))
def test_unfolding_is_the_inverse_of_folding(width: int, seed: int, count: int) -> None:
    target, prediction = integers(width, count, seed), integers(width, count, seed + 1)
    folded = np.empty_like(target)
    residual.fold(target, prediction, folded)
    residual.unfold(folded, prediction)
    assert (folded == target).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_small_differences_of_either_sign_fold_to_small_numbers(width: int) -> None:
    kind = np.dtype(f"<u{width}")
    prediction = np.full(7, 100, kind)
    folded = np.empty_like(prediction)
    residual.fold(np.array([100, 99, 101, 98, 102, 50, 150], kind), prediction, folded)
    assert folded.tolist() == [0, 1, 2, 3, 4, 99, 100]


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
def test_zigzag(kind: type[np.signedinteger]) -> None:
    values = np.array([0, -1, 1, -2, np.iinfo(kind).min, np.iinfo(kind).max], kind)
    folded = residual.zigzag(values)
    assert folded.tolist()[:4] == [0, 1, 2, 3]
    assert (residual.unzigzag(folded.copy()) == values).all()


COUNTS = (0, 1, 1000, planes.BLOCK, planes.BLOCK + 1, 4 * planes.BLOCK + 3)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("width", "group"), [(2, ""), (2, "bf16"), (1, "f8_e5m2"), (1, "")])
@pytest.mark.parametrize("level", ["default", "best"])
def test_coding_is_exact_at_every_block_edge(
    count: int, width: int, group: str, level: Level
) -> None:
    prediction = integers(width, count, 1)
    target = prediction + (integers(1, count, 2) % 5).astype(prediction.dtype)
    chunks = residual.encode(
        residual.reading(target), residual.reading(prediction), count, level, group
    )
    payload = memoryview(b"head" + b"".join(bytes(chunk) for chunk in chunks) + b"tail")
    out = residual.allocate(payload, 4, count, width)
    assert residual.decode(payload, 4, out, residual.reading(prediction), group) == len(payload) - 4
    assert (out == target).all()


@pytest.mark.parametrize("group", sorted(floats.EXPONENTS))
def test_every_type_can_be_grouped(group: str) -> None:
    width = {"f1": 2, "bf": 2, "c3": 2, "f3": 4, "c6": 4, "f6": 8, "c1": 8, "f8": 1}[group[:2]]
    target, prediction = integers(width, 5000, 3), integers(width, 5000, 4)
    payload = memoryview(
        b"".join(
            map(
                bytes,
                residual.encode(
                    residual.reading(target), residual.reading(prediction), 5000, "best", group
                ),
            )
        )
    )
    out = np.empty_like(target)
    residual.decode(payload, 0, out, residual.reading(prediction), group)
    assert (out == target).all()


def test_grouping_makes_changes_of_one_size_smaller() -> None:
    random = np.random.default_rng(0)
    base = random.standard_normal(200_000).astype(np.float32)
    target = (base + random.standard_normal(200_000).astype(np.float32) * np.float32(1e-3)).view(
        np.uint32
    )
    read, predict = residual.reading(target), residual.reading(base.view(np.uint32))
    plain, grouped = (
        sum(map(len, residual.encode(read, predict, 200_000, "default", group)))
        for group in ("", "f32")
    )
    assert grouped < 0.95 * plain


def test_nothing_is_allocated_for_a_count_the_payload_cannot_hold() -> None:
    with pytest.raises(PayloadError, match="too small"):
        residual.allocate(memoryview(bytes(100)), 0, 1 << 40, 4)


def test_chunks_do_not_share_memory_that_is_used_again() -> None:
    """Planes that do not shrink are passed on as they are; the next block must not touch them."""
    target, prediction = integers(1, planes.BLOCK * 2, 7), integers(1, planes.BLOCK * 2, 8)
    chunks = list(
        residual.encode(
            residual.reading(target), residual.reading(prediction), len(target), "default"
        )
    )
    out = np.empty_like(target)
    residual.decode(
        memoryview(b"".join(bytes(chunk) for chunk in chunks)), 0, out, residual.reading(prediction)
    )
    assert (out == target).all()
