"""Rows of a base that reappear elsewhere in a tensor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from update_examples import payload, round_trip, tensor, weights

from git_theta.core import dtypes
from git_theta.updates.delta import Delta
from git_theta.updates.prediction import runs
from git_theta.updates.prediction.row_alignment import align, related
from git_theta.updates.prediction.runs import Run


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"<u{array.itemsize}")


TABLE = weights((300, 48))


def test_rows_appended_or_cut_off() -> None:
    assert align(bits(TABLE[:-20]), bits(TABLE), "f32") == [Run(0, 0, 280)]
    assert align(bits(TABLE), bits(TABLE[:-20]), "f32") == [Run(0, 0, 280)]
    assert align(bits(TABLE[20:]), bits(TABLE), "f32") == [Run(0, 20, 280)]


def test_rows_removed_and_put_in_inside() -> None:
    removed = np.delete(TABLE, [5, 6, 7, 200], axis=0)
    assert align(bits(removed), bits(TABLE), "f32") == [
        Run(0, 0, 5),
        Run(5, 8, 192),
        Run(197, 201, 99),
    ]
    assert align(bits(TABLE), bits(removed), "f32") == [
        Run(0, 0, 5),
        Run(8, 5, 192),
        Run(201, 197, 99),
    ]


def test_rows_in_another_order() -> None:
    swapped = np.concatenate([TABLE[150:], TABLE[:150]])
    assert align(bits(swapped), bits(TABLE), "f32") == [Run(0, 150, 150), Run(150, 0, 150)]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_rows_trained_and_removed_at_once(dtype: str) -> None:
    kind = dtypes.numpy_dtype(dtype)
    trained = (TABLE + weights(TABLE.shape, 1, 1e-4)).astype(kind)
    found = align(bits(np.delete(trained, [5, 6, 7, 200], axis=0)), bits(TABLE.astype(kind)), dtype)
    assert found == [Run(0, 0, 5), Run(5, 8, 192), Run(197, 201, 99)]


def test_rows_that_are_all_alike_keep_their_order() -> None:
    padded = TABLE.copy()
    padded[100:140] = 0
    assert align(bits(np.delete(padded, [3], axis=0)), bits(padded), "f32") == [
        Run(0, 0, 3),
        Run(3, 4, 296),
    ]


def test_a_bias_grown_in_the_middle() -> None:
    bias = weights((5000, 1))
    longer = np.insert(bias, 700, 5.0, axis=0)
    found = align(bits(longer), bits(bias), "f32")
    assert sum(run.length for run in found) >= 4990
    assert (found[0].start, found[0].source) == (0, 0)
    assert found[-1].start - found[-1].source == 1


def test_unrelated_rows_have_no_counterpart() -> None:
    assert align(bits(weights((200, 48), 9)), bits(TABLE), "f32") == []
    assert align(bits(TABLE[:0]), bits(TABLE), "f32") == []
    assert align(bits(TABLE), bits(TABLE[:0]), "f32") == []


def test_related() -> None:
    assert related(bits(TABLE), bits(TABLE + np.float32(1e-5)))
    assert not related(bits(np.roll(TABLE, 1, axis=0)), bits(TABLE))


@st.composite
def tables_of_runs(draw: st.DrawFn) -> tuple[int, int, list[Run]]:
    found, start, base_rows = [], 0, draw(st.integers(1, 60))
    for _ in range(draw(st.integers(1, 6))):
        length = draw(st.integers(1, base_rows))
        start += draw(st.integers(0, 3))
        found.append(Run(start, draw(st.integers(0, base_rows - length)), length))
        start += length
    return start + draw(st.integers(0, 3)), base_rows, found


@given(tables_of_runs())
def test_runs_are_parsed_as_dumped(case: tuple[int, int, list[Run]]) -> None:
    rows, base_rows, found = case
    data = memoryview(b"x" + runs.dump(found) + b"y")
    assert runs.parse(data, 1, rows, base_rows) == (found, len(data) - 1)


@given(tables_of_runs(), st.integers(1, 3))
def test_rows_are_put_where_they_belong(case: tuple[int, int, list[Run]], width: int) -> None:
    rows, _, found = case
    table = np.arange(rows * width, dtype=np.uint16)
    spans = [(run.start, run.length) for run in found]
    others = runs.between(found, rows)
    assert sum(length for _, length in spans + others) == rows
    gathered = runs.Gathered(table, spans, width)
    parts = [
        gathered(0, gathered.count),
        runs.Gathered(table, others, width)(0, rows * width - gathered.count),
    ]
    packed = np.concatenate(parts).reshape(rows, width)
    runs.put_in_place(packed, found)
    assert (packed.reshape(-1) == table).all()


@given(tables_of_runs(), st.data())
def test_any_stretch_can_be_gathered(case: tuple[int, int, list[Run]], data: st.DataObject) -> None:
    rows, _, found = case
    table = np.arange(rows * 2, dtype=np.uint16)
    gathered = runs.Gathered(table, [(run.start, run.length) for run in found], 2)
    whole = np.concatenate([table[2 * run.start : 2 * (run.start + run.length)] for run in found])
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start, len(whole)))
    assert (gathered(start, stop) == whole[start:stop]).all()


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8", "u16", "c64", "f8_e4m3fn"])
@pytest.mark.parametrize("rows", [[0], [299], [5, 6, 7, 200], list(range(0, 300, 3))])
def test_a_vocabulary_loses_and_gains_rows(dtype: str, rows: list[int]) -> None:
    table = tensor(TABLE * 400 if dtype in {"i8", "u16"} else TABLE, dtype)
    array = table.array()
    smaller = type(table).from_array(np.delete(array, rows, axis=0))
    encoded = round_trip(Delta(), smaller, table)
    assert encoded.size < 700
    assert encoded.note == f"kept={300 - len(rows)},new=0"
    added = round_trip(Delta(), table, smaller)
    assert added.size < 800 + table.spec.nbytes * len(rows) / 300
    if dtype in {"f32", "u16", "c64"}:  # rows of few bits may chance to be like others
        assert added.note == f"kept={300 - len(rows)},new={len(rows)}"


def test_rows_of_another_float_type() -> None:
    encoded = round_trip(Delta(), tensor(np.delete(TABLE, [40], axis=0), "bf16"), tensor(TABLE))
    assert encoded.size < 500


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 59), min_size=1, max_size=90), st.integers(0, 3))
def test_any_rows_in_any_order_come_back(places: list[int], seed: int) -> None:
    base = weights((60, 20), seed)
    picked = base[places].copy()
    picked[::7] += 1
    encoded = Delta().encode(tensor(picked), tensor(base), "default")
    if encoded is not None:
        assert bytes(Delta().decode(payload(encoded), tensor(picked).spec, tensor(base))) == bytes(
            tensor(picked).data
        )
