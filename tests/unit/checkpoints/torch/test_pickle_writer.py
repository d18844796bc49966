from __future__ import annotations

import collections
import io
import pickle
import pickletools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.checkpoints.torch import pickle_writer
from git_theta.checkpoints.torch.pickle_reader import (
    Call,
    Global,
    Items,
    Long,
    Pairs,
    Persistent,
    read,
)
from git_theta.checkpoints.torch.pickle_writer import write
from git_theta.errors import FormatError

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.sampled_from(
        [
            255,
            256,
            65535,
            65536,
            2**31 - 1,
            2**31,
            -1,
            -(2**31),
            -(2**31) - 1,
            2**2039,
            2**2040,
            "\ud800",
        ]
    )
)
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.lists(inner, max_size=5).map(tuple)
        | st.sets(st.integers())
        | st.frozensets(st.text())
        | st.binary().map(bytearray)
        | st.dictionaries(st.text(), inner).map(collections.OrderedDict)
    ),
    max_leaves=20,
)


@given(_values, st.integers(0, 5))
def test_pickle_loads_what_was_read_and_written(value: Any, protocol: int) -> None:
    written = write(read(pickle.dumps(value, protocol)))
    assert pickle.loads(written) == value
    pickletools.dis(written, out=io.StringIO())
    again = write(read(written))
    assert pickle.loads(again) == value
    assert write(read(again)) == again


class Thing:
    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]


class Keyed:
    got: tuple[tuple[int, ...], dict[str, int]]

    def __new__(cls, *arguments: int, **keywords: int) -> Keyed:
        made = super().__new__(cls)
        made.got = (arguments, keywords)
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[int, ...], dict[str, int]]:
        return self.got


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_written_as_they_were(protocol: int) -> None:
    for value in (
        Thing([1, Thing(None)]),
        collections.deque([1, 2], 3),
        collections.Counter("aab"),
        1 + 2j,
        range(3),
    ):
        assert pickle.loads(write(read(pickle.dumps(value, protocol)))) == value
    if protocol >= 2:
        assert pickle.loads(write(read(pickle.dumps(Keyed(1, a=2), protocol)))).got == (
            (1,),
            {"a": 2},
        )


def test_sharing_and_cycles_are_kept() -> None:
    shared = Thing([1])
    cycle: list[Any] = [2]
    cycle.append(cycle)
    looped: tuple[list[Any]] = ([],)
    looped[0].append(looped)
    again = pickle.loads(
        write(read(pickle.dumps({"a": shared, "b": [shared], "c": cycle, "d": looped})))
    )
    assert again["a"] is again["b"][0]
    assert again["c"][1] is again["c"]
    assert again["d"][0][0][0][0] is again["d"][0][0]


def test_many_shared_values_need_long_indices() -> None:
    values: list[Any] = [[number] for number in range(400)]
    again = pickle.loads(
        write(read(pickle.dumps([values, values[::-1], {"k": "k" * 3}, *["k" * 3] * 3])))
    )
    assert again[0][399] is again[1][0]


@pytest.mark.parametrize("protocol", [2, 5])
def test_long_texts_and_bytes(protocol: int) -> None:
    value = ["é" * 70_000, b"\xff" * 70_000, bytearray(70_000)]
    assert pickle.loads(write(read(pickle.dumps(value, protocol)))) == value


def test_deep_values_need_no_recursion() -> None:
    deep: Any = ()
    for _ in range(20_000):
        deep = [Pairs([0, (Call(Global("a", "b"), deep),)])]
    assert len(write(deep)) > 20_000


def test_values_made_on_the_way_are_not_mixed_up() -> None:
    tree = [Items([number], frozen=number % 2 == 1) for number in range(500)] + [
        bytes([number % 256]) for number in range(500)
    ]
    assert pickle.loads(write(tree)) == [{number} for number in range(500)] + [
        bytes([number % 256]) for number in range(500)
    ]


def test_references_are_written_as_such() -> None:
    assert read(write([Persistent(("storage", 1))]))[0] == Persistent(("storage", 1))
    assert read(write([Long("X", memoryview(b"ab"))])) == ["ab"]


@pytest.mark.parametrize(
    "tree",
    [Global("a\nb", "c"), Global("a", "b\n"), read(b"\x82\7."), read(b"\x97."), object(), {1: 2}],
)
def test_what_cannot_be_written_is_refused(tree: Any) -> None:
    with pytest.raises(FormatError):
        write([tree])


def test_the_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_writer, "OUTPUT_LIMIT", 1000)
    with pytest.raises(FormatError, match="more than 1000 bytes"):
        write(list(range(1000)))
