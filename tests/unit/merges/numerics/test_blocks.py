from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from merge_references import BF16

from git_theta.merges.numerics import blocks
from git_theta.merges.numerics.blocks import (
    BLOCK,
    canonical,
    columns,
    elementwise,
    flat,
    gram,
    order_statistics,
    total,
    tree_sum,
)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (BLOCK,), (BLOCK + 1,), (3, 20000), (2, 3, 4)])
def test_elementwise_sees_every_element_once_and_in_place(shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    seen = []

    def kernel(start: int, parts: list[np.ndarray]) -> np.ndarray:
        seen.append((start, parts[0].size))
        return parts[0] + start - start

    assert np.array_equal(elementwise(array, [array], kernel), array)
    assert sum(size for _, size in seen) == array.size


@pytest.mark.parametrize("row", [1, 7, 1000, BLOCK, BLOCK + 5])
def test_blocks_hold_whole_rows(row: int) -> None:
    array = np.zeros((5, row))
    assert all(
        start % row == 0 and part.size % row == 0 for start, (part,) in blocks.blocks([array], row)
    )


def test_rows_of_an_array() -> None:
    assert [columns(np.zeros(shape)) for shape in [(), (4,), (3, 5), (3, 0)]] == [1, 4, 5, 0]
    assert columns(np.zeros((3, 5), np.complex64)) == 10
    assert flat(np.zeros((2, 3), np.complex128)).shape == (12,)


@given(st.lists(st.floats(-1e6, 1e6), max_size=70))
def test_tree_sum_adds_up(values: list[float]) -> None:
    assert math.isclose(float(tree_sum(np.array(values))), math.fsum(values), abs_tol=1e-6)


def test_tree_sum_is_the_documented_tree() -> None:
    a, b, c, d, e = 1e16, 1.0, -1e16, 3.0, 0.1
    assert float(tree_sum(np.array([a, b, c, d, e]))) == ((a + d) + c) + (b + e)
    rows = np.arange(12.0).reshape(3, 4)
    assert tree_sum(rows.copy()).tolist() == rows.sum(axis=1).tolist()


@given(st.permutations([1e300, -1e300, 1.0, 2.0**-60, 3.5, -7.25]))
def test_total_does_not_depend_on_the_order(values: list[float]) -> None:
    assert total(values) == 1.0 + 2.0**-60 + 3.5 - 7.25


def test_total_of_special_values() -> None:
    assert total([math.inf, 1.0]) == math.inf
    assert math.isnan(total([math.inf, -math.inf]))
    assert math.isnan(total([math.nan, 1.0]))
    assert total([1.7e308, 1.7e308]) == math.inf
    assert total([-1.7e308, -1.7e308]) == -math.inf


def test_gram_is_the_inner_products() -> None:
    random = np.random.default_rng(0)
    sides = [random.standard_normal((300, 301)) for _ in range(3)]
    base = random.standard_normal((300, 301))
    expected = [[float(np.sum((a - base) * (b - base))) for b in sides] for a in sides]
    np.testing.assert_allclose(gram(sides, base), expected, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(
        gram(sides), [[float(np.sum(a * b)) for b in sides] for a in sides], rtol=1e-12, atol=1e-9
    )


@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 1.0, 1.5, 1e-300, 5e-324, 1e300, math.inf]) | st.floats(0, 2),
        min_size=1,
        max_size=300,
    ),
    st.integers(1, 50),
    st.sampled_from([0, 3, 20, 10**6]),
)
def test_order_statistics_are_those_of_the_sorted_values(
    values: list[float], cut: int, gather: int
) -> None:
    """However little is gathered, down to walking through all the bits."""
    array = np.array(values)
    parts = [array[i : i + cut] for i in range(0, array.size, cut)]
    ranks = sorted({0, array.size // 4, array.size // 2, array.size - 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_GATHER", gather)
        found = order_statistics(lambda: iter(parts), array.size, ranks)
    assert found == [np.sort(array)[rank] for rank in ranks]


def test_nan_ranks_last() -> None:
    parts = [np.array([3.0, np.nan, 1.0])]
    assert order_statistics(lambda: iter(parts), 3, [0, 1]) == [1.0, 3.0]
    assert math.isnan(order_statistics(lambda: iter(parts), 3, [2])[0])
    assert order_statistics(lambda: iter([]), 0, [0, 5]) == [0.0, 0.0]


@given(st.permutations(range(4)))
def test_canonical_order_is_by_content(order: list[int]) -> None:
    random = np.random.default_rng(1)
    sides = [random.standard_normal(5).astype(BF16) for _ in range(3)]
    sides.append(sides[0].copy())
    sides[0][-1] = 1.0
    weights = [0.1, 0.2, 0.3, 0.4]
    plain = [sides[i].tobytes() for i in canonical(sides, weights)]
    turned = [sides[i] for i in order]
    assert [turned[i].tobytes() for i in canonical(turned, [weights[i] for i in order])] == plain


def test_canonical_order_looks_beyond_the_first_block_and_at_weights() -> None:
    a, b = np.zeros(BLOCK * 10), np.zeros(BLOCK * 10)
    b[-1] = 1.0
    assert canonical([b, a, a.copy()], [0.5, 0.2, 0.1]) == [2, 1, 0]
    assert canonical([b, a]) == [0, 1]
