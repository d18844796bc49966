from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merge_references import philox, uniforms

from git_theta.core.digest import digest
from git_theta.merges.numerics.counter_random import RandomStream, stream
from git_theta.merges.strategies.sparsify import mask_stream


def test_published_vectors_of_the_generator() -> None:
    """Random123's known answers for philox4x64-10; the second has a counter and key of ones."""
    assert philox((0, 0), 0) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]
    ones = (1 << 64) - 1
    generator = np.random.Philox(
        key=np.array([ones, ones], np.uint64),
        counter=np.array([ones - 1, ones, ones, ones], np.uint64),
    )
    assert [int(word) for word in generator.random_raw(4)] == [
        0x87B092C3013FE90B,
        0x438C3C67BE8D0224,
        0x9CC7D7C69CD777B6,
        0xA09CAEBF594F0BA0,
    ]


def test_documented_numbers() -> None:
    """What a release draws, every later one must draw: recorded merges are verified by it."""
    assert stream(0).key == (0x4F76AC8AF486228D, 0xE85D9EC4AAEE9BCB)
    assert stream(7, "layer.weight").key == (0x123695B794669DF6, 0x5AEB848B53D8BC03)
    assert stream(7, "layer.weight").numbers(0, 4).tolist() == [
        2686300618,
        3282784020,
        797547214,
        3283310520,
    ]
    words = [word for counter in (1, 2) for word in philox(stream(7, "layer.weight").key, counter)]
    expected = [half for word in words for half in (word & 0xFFFFFFFF, word >> 32)]
    assert stream(7, "layer.weight").numbers(0, 16).tolist() == expected


@given(st.integers(0, 100), st.integers(0, 60))
def test_any_stretch_is_a_stretch_of_the_whole(start: int, count: int) -> None:
    source = RandomStream((1, 2))
    assert (
        source.numbers(start, count).tolist()
        == source.numbers(0, 200)[start : start + count].tolist()
    )


def test_labels_are_kept_apart() -> None:
    labels: list[tuple[int, list[str]]] = [
        (0, []),
        (0, [""]),
        (0, ["a"]),
        (0, ["a", "b"]),
        (0, ["ab"]),
        (1, ["a"]),
        (0, ["a\0b"]),
        (0, ["\udcff"]),
        (10, ["a"]),
    ]
    assert len({stream(seed, *names).key for seed, names in labels}) == len(labels)


def test_masks_depend_on_seed_name_and_side() -> None:
    side = np.arange(24, dtype=np.float32)
    mask = mask_stream({"seed": 5}, "w", side).numbers(0, 24)
    assert np.array_equal(mask / 2.0**32, uniforms(5, "w", side, 24))
    assert mask_stream({"seed": 5}, "w", side).key == stream(5, "w", digest(side.tobytes())).key
    others = [
        mask_stream({"seed": 6}, "w", side),
        mask_stream({"seed": 5}, "v", side),
        mask_stream({"seed": 5}, "w", side + 1),
    ]
    assert all(not np.array_equal(other.numbers(0, 24), mask) for other in others)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_share_kept(probability: float) -> None:
    kept = int(stream(3, "w").keep(0, probability, 100_000).sum())
    assert (
        abs(kept - 100_000 * probability) < 5 * (100_000 * probability * (1 - probability)) ** 0.5
    )


def test_certainty() -> None:
    assert stream(3).keep(0, 1.0, 10_000).all()
    assert not stream(3).keep(0, 0.0, 10_000).any()
