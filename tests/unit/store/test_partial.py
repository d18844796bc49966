"""Objects that are in the store in part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.digest import object_id
from git_theta.core.manifest import ObjectRange, ObjectRef
from git_theta.errors import ObjectMissing
from git_theta.store.local import LocalStore
from git_theta.store.partial import PartialObject

DATA = os.urandom(1000)
REF = ObjectRef(object_id(DATA), len(DATA))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "theta" / "objects")


def part(start: int, stop: int) -> ObjectRange:
    return ObjectRange(*REF, start, stop - start)


def put(store: LocalStore, *places: ObjectRange) -> None:
    for place in places:
        store.put_part(place, DATA[place.offset : place.offset + place.length])


def test_a_part_can_be_read_alone(store: LocalStore) -> None:
    put(store, part(100, 200), part(300, 400))
    store.flush()
    again = store.again()
    assert again.view(part(100, 200)) == DATA[100:200]
    assert again.view(part(310, 390)) == DATA[310:390], "within what is here"
    for place in (part(0, 100), part(150, 250), part(250, 350), REF.whole):
        with pytest.raises(ObjectMissing):
            again.view(place)
    assert again.missing([REF]) == [REF], "the object itself is not here"
    assert again.lacking([part(100, 200), part(150, 250)]) == [part(150, 250)]
    assert list(again) == []


def test_parts_that_touch_are_one(store: LocalStore) -> None:
    put(store, part(100, 200))
    store.flush()
    put(store, part(200, 300))
    store.flush()
    assert store.again().view(part(150, 250)) == DATA[150:250]


def test_what_was_not_flushed_is_there_for_oneself_only(store: LocalStore) -> None:
    put(store, part(0, 10))
    assert store.view(part(0, 10)) == DATA[:10]
    with pytest.raises(ObjectMissing):
        store.again().view(part(0, 10))
    store.discard()
    with pytest.raises(ObjectMissing):
        store.view(part(0, 10))


def test_an_object_of_which_all_parts_came_is_an_object(store: LocalStore) -> None:
    put(store, part(600, 1000), part(0, 400))
    store.flush()
    assert store.missing([REF]) == [REF]
    put(store, part(400, 600))
    store.flush()
    assert store.missing([REF]) == []
    store.verify(REF)
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == [REF.oid]
    assert list((store.root.parent / "tmp").iterdir()) == []


def test_a_wrong_part_makes_no_object(store: LocalStore) -> None:
    put(store, part(0, 500))
    store.put_part(part(500, 1000), bytes(500))
    store.flush()
    assert store.missing([REF]) == [REF]
    assert store.view(part(0, 500)) == DATA[:500], "what is right stays"
    put(store, part(500, 1000))
    store.flush()
    assert store.missing([REF]) == []


def test_removed_with_its_object(store: LocalStore) -> None:
    put(store, part(0, 500))
    store.flush()
    assert store.touched(REF.oid) is not None
    store.remove(REF.oid)
    assert store.touched(REF.oid) is None
    assert store.again().lacking([part(0, 10)]) == [part(0, 10)]


@pytest.mark.parametrize(
    "tail", [b"", b"0 1000", b"0 2000\n", b"-1 5\n", b"x y\n", b"\xff\n", b"0 0\n"]
)
def test_lines_that_lie(tmp_path: Path, tail: bytes) -> None:
    """Only whole lines count, and none that reaches beyond the object."""
    partial = PartialObject(tmp_path / "object", 1000)
    partial.path.write_bytes(DATA + tail)
    held = partial.read(part(0, 10))
    assert held is None or (tail == b"0 1000" and held == DATA[:10])


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(1, 300)), max_size=8), st.data())
def test_any_parts(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int]], data: st.DataObject
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store") / "objects")
    places = [part(start, min(start + length, 1000)) for start, length in spans]
    here = bytearray(1000)
    for place in places:
        put(store, place)
        here[place.offset : place.offset + place.length] = b"\1" * place.length
        if data.draw(st.booleans()):
            store.flush()
    store.flush()
    start = data.draw(st.integers(0, 999))
    wanted = part(start, data.draw(st.integers(start + 1, 1000)))
    covered = all(here[wanted.offset : wanted.offset + wanted.length])
    assert (store.again().lacking([wanted]) == []) == covered
    if covered:
        assert store.again().view(wanted) == DATA[start : start + wanted.length]
