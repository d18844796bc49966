"""Tensors of a torch file by shape and strides, which a hostile file may choose at will."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.checkpoints.torch.pickle_tree import TorchStorage, View
from git_theta.checkpoints.torch.storage_values import array
from git_theta.errors import FormatError

DATA = np.arange(24, dtype=np.float32)


def view(offset: int, shape: tuple[int, ...], strides: tuple[int, ...], numel: int = 24) -> View:
    return View(
        "x",
        TorchStorage("0", "f32", numel),
        offset,
        shape,
        strides,
        math.prod(shape),
        False,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "wanted"),
    [
        (0, (4, 6), (6, 1), DATA.reshape(4, 6)),
        (0, (6, 4), (1, 6), DATA.reshape(4, 6).T),
        (2, (4, 3), (6, 1), DATA.reshape(4, 6)[:, 2:5]),
        (23, (5,), (0,), np.full(5, 23)),
        (7, (), (), np.array(7)),
        (24, (0, 3), (3, 1), np.empty((0, 3))),
    ],
)
def test_views(
    offset: int, shape: tuple[int, ...], strides: tuple[int, ...], wanted: np.ndarray
) -> None:
    found = array(view(offset, shape, strides), DATA.tobytes())
    assert found.shape == wanted.shape
    assert np.array_equal(found, wanted)


SIZES = st.integers(0, 30) | st.sampled_from([1 << 31, 1 << 62])


@given(SIZES, st.lists(st.tuples(SIZES, SIZES), max_size=4), st.sampled_from([24, 23, 1 << 40]))
def test_nothing_beyond_the_storage_is_read(
    offset: int, dimensions: list[tuple[int, int]], numel: int
) -> None:
    shape, strides = (
        tuple(size for size, _ in dimensions),
        tuple(stride for _, stride in dimensions),
    )
    places = offset + sum((size - 1) * stride for size, stride in dimensions)
    try:
        found = array(view(offset, shape, strides, numel), DATA.tobytes())
    except FormatError:
        return
    assert numel == 24
    assert found.shape == shape
    if found.size:
        assert places < 24
        assert float(found.max()) <= places
