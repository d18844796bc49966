from __future__ import annotations

import collections
import contextlib
import datetime
import pickle
import pickletools
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from git_theta.checkpoints.torch import pickle_reader
from git_theta.checkpoints.torch.pickle_reader import (
    Call,
    Global,
    Items,
    Long,
    Pairs,
    Persistent,
    PickleError,
    Skipped,
    read,
    read_large,
)


def plain(node: Any) -> Any:
    """The tree as the objects it describes, for trees without cycles."""
    if isinstance(node, Pairs):
        return {
            plain(key): plain(value)
            for key, value in zip(node.flat[::2], node.flat[1::2], strict=True)
        }
    if isinstance(node, Items):
        return (frozenset if node.frozen else set)(map(plain, node.flat))
    if isinstance(node, Long):
        return bytes(node.data).decode() if node.kind == "X" else bytes(node.data)
    if isinstance(node, Call):
        return made(node)
    if isinstance(node, list | tuple):
        return type(node)(map(plain, node))
    return node


def made(call: Call) -> Any:
    """The few calls that pickle itself uses for plain values in its old protocols."""
    arguments = plain(call.arguments)
    if call.function.name == "encode":
        return arguments[0].encode(arguments[1])
    kind = {"set": set, "frozenset": frozenset, "bytes": bytes, "bytearray": bytearray}[
        call.function.name
    ]
    return kind(*arguments)


_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.sampled_from([2**31, -(2**31), 2**2100, -(2**64), "\ud800", "\n\\u0041", b"'\"\\", ""])
)
_trees = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner)
        | st.sets(st.integers())
        | st.frozensets(st.integers())
    ),
    max_leaves=20,
)


@given(_trees, st.integers(0, 5), st.booleans())
def test_reads_what_pickle_writes(value: Any, protocol: int, optimized: bool) -> None:
    data = pickle.dumps(value, protocol)
    assert plain(read(pickletools.optimize(data) if optimized else data)) == value


def test_reads_bytearrays_in_protocol_5() -> None:
    assert read(pickle.dumps(bytearray(b"ab"), 5)) == bytearray(b"ab")


@pytest.mark.parametrize("protocol", range(6))
def test_long_texts_are_left_where_they_are(protocol: int) -> None:
    text, data = "é" * 70_000, bytes(range(256)) * 300
    tree = read(pickle.dumps([text, data], protocol))
    assert plain(tree) == [text, data]
    if protocol > 2:
        assert [type(item) for item in tree] == [Long, Long]


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


class Keyed:
    def __getnewargs_ex__(self) -> tuple[tuple[int], dict[str, int]]:
        return (1,), {"a": 2}

    def __new__(cls, *args: int, **keywords: int) -> Keyed:
        return super().__new__(cls)


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_kept_as_recipes(protocol: int) -> None:
    tree = read(pickle.dumps(Point(3), protocol))
    assert type(tree) is Call
    assert plain(tree.states[0]) == {"x": 3}
    named = tree.arguments[0] if protocol < 2 else tree.function
    assert named == Global(__name__, "Point")


@pytest.mark.parametrize("protocol", range(6))
def test_mappings_and_lists_of_other_classes(protocol: int) -> None:
    tree = read(pickle.dumps(collections.OrderedDict(a=1, b=2), protocol))
    assert (tree.function, tree.arguments, tree.pairs) == (
        Global("collections", "OrderedDict"),
        (),
        ["a", 1, "b", 2],
    )
    tree = read(pickle.dumps(collections.deque([1, 2], 5), protocol))
    assert list(tree.items) == [1, 2]
    tree = read(pickle.dumps(datetime.timedelta(1), protocol))
    assert (tree.function.name, tree.arguments) == ("timedelta", (1, 0, 0))


@pytest.mark.parametrize("protocol", [2, 4])
def test_keywords_of_new(protocol: int) -> None:
    tree = read(pickle.dumps(Keyed(), protocol))
    assert type(tree) is Call


def test_shared_and_cyclic_values_stay_so() -> None:
    cycle: list[Any] = [1]
    cycle.append(cycle)
    tree = read(pickle.dumps(cycle))
    assert tree[1] is tree
    shared = [1]
    tree = read(pickle.dumps([shared, shared]))
    assert tree[0] is tree[1]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"I01\n.", True),
        (b"I00\n.", False),
        (b"I-7\n.", -7),
        (b"L12L\n.", 12),
        (b"F1.5\n.", 1.5),
        (b"S'a\\n\\x41'\n.", "a\nA"),
        (b'S"a"\n.', "a"),
        (b"S'\\q\\101\\'\\\\\\t'\n.", "\\qA'\\\t"),
        (b"S'\\xff'\n.", b"\xff"),
        (b"U\2ab.", "ab"),
        (b"U\2\xff\xfe.", b"\xff\xfe"),
        (b"T\2\0\0\0ab.", "ab"),
        (b"Va\\u0041\n.", "aA"),
        (b"cos\nsystem\n.", Global("os", "system")),
        (b"P12\n.", Persistent("12")),
        (b"(I1\nI2\nt.", (1, 2)),
        (b"(I1\nl.", [1]),
        (b"I1\np0\n0g0\n.", 1),
        (b"(I1\n1I2\n.", 2),
        (b"I1\n2\x86.", (1, 1)),
        (b"(0I3\n.", 3),
        (b"\x82\7.", Global("copyreg", "extension 7")),
        (b"\x83\1\1.", Global("copyreg", "extension 257")),
        (b"\x84\1\0\0\0.", Global("copyreg", "extension 1")),
        (b"\x97\x98.", Global("pickle", "out-of-band buffer")),
        (b"N.trailing", None),
    ],
)
def test_single_opcodes(data: bytes, expected: object) -> None:
    assert read(data) == expected


def test_old_ways_to_make_objects() -> None:
    for data in (b"(I1\nios\nsystem\n.", b"(cos\nsystem\nI1\no."):
        call = read(data)
        assert (call.function, call.arguments, call.kind) == (Global("os", "system"), (1,), "R")


def test_nothing_named_in_a_pickle_is_touched(tmp_path: Any) -> None:
    target = tmp_path / "made"
    for data in (
        f"cos\nmkdir\n(V{target}\ntR.".encode(),
        f"cbuiltins\nopen\n(V{target}\nVw\ntR.".encode(),
        b"cgit_theta_module_that_is_not_there\nf\n)R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x05false\x85R.",
    ):
        assert type(read(data)) is Call
    assert not target.exists()


# -- hostile input ---------------------------------------------------------------------------------

DAMAGED = {
    "empty": b"",
    "no stop": b"N",
    "stop without a value": b".",
    "unknown opcode": b"\xff.",
    "protocol 6": b"\x80\x06N.",
    "pop from nothing": b"0.",
    "mark missing": b"Nt.",
    "memo never set": b"h\0.",
    "memo hole": b"Nq\5h\2.",
    "memo index of 4 GiB": b"Nr\xff\xff\xff\xff.",
    "memo index in text": b"Np999999999999999999\n.",
    "memo index no number": b"Np-1\n.",
    "string longer than the pickle": b"X\xff\xff\xff\x7fa.",
    "string of 2^64": b"\x8d" + b"\xff" * 8 + b".",
    "bytes of 2^63": b"\x8e" + b"\xff" * 7 + b"\x7f.",
    "bytearray of 2^63": b"\x96" + b"\xff" * 7 + b"\x7f.",
    "integer longer than the pickle": b"\x8b\xff\xff\xff\x7f.",
    "not UTF-8": b"X\1\0\0\0\xff.",
    "line without end": b"cos",
    "odd number of keys and values": b"(Nd.",
    "key of no mapping": b"NNNs.",
    "item of no list": b"NNa.",
    "state of no object": b"NNb.",
    "items of no set": b"]\x94(N\x90.",
    "global of no text": b"NN\x93.",
    "string without quotes": b"Sab\n.",
    "5,000 digits": b"I" + b"9" * 5000 + b"\n.",
    "no number": b"Ix\n.",
    "truncated float": b"G\0\0.",
    "item of a frozen set": b"(N\x91(N\x90.",
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_pickles_are_refused(case: str) -> None:
    with pytest.raises(PickleError) as caught:
        read(DAMAGED[case])
    assert str(caught.value).isprintable()


def laughs(levels: int) -> bytes:
    """A list of lists of lists … whose printed form would have 10^levels elements."""
    return (
        b"]("
        + b"K\1" * 10
        + b"e"
        + b"".join(b"q%c0](" % n + b"h%c" % n * 10 + b"e" for n in range(levels))
        + b"."
    )


def colliding(count: int) -> bytes:
    """A dict whose integer keys all have the hash 0."""
    modulus = 2**61 - 1
    keys = (number * modulus for number in range(count))
    return (
        b"\x80\x02}("
        + b"".join(b"\x8a\x0a" + key.to_bytes(10, "little") + b"N" for key in keys)
        + b"u."
    )


BOMBS = {
    "memo": b"N" + b"r\xff\xff\x7f\0" + b".",
    "memo again and again": (
        b"N" + b"".join(b"r" + struct.pack("<I", index) for index in range(0, 2**22, 2**16)) + b"."
    ),
    "memo as large as allowed": b"N" * 200_000 + b"r" + struct.pack("<I", 200_006) + b".",
    "one long key again and again": (
        b"}X\xff\xff\0\0" + b"k" * 65535 + b"q\0]q\1" + b"s" + b"h\0h\1s" * 30_000 + b"."
    ),
    "one path again and again": (
        b"}K\0" + b"}X\xe8\3\0\0" + b"k" * 1000 + b"](" + b"]" * 30_000 + b"es" + b"s."
    ),
    "billion laughs": laughs(200),
    "tuples of tuples as a key": b"}K\1" + b"2\x86" * 100_000 + b"Ns.",
    "tuple in itself as a key": b"(]q\0h\0\x85q\1ah\1N}NNs.",
    "keys that collide": colliding(50_000),
    "100,000 lists in each other": b"]" * 100_000 + b"a" * 99_999 + b".",
    "100,000 tuples in each other": b"N" + b"\x85" * 100_000 + b".",
    "20,000 calls in each other": (
        b"cos\nsystem\nq\0)R"
        + b"\x850h\0N\x85R" * 10
        + b"h\0)R"
        + b"q\1\x85q\x02h\0h\2R" * 20_000
        + b"."
    ),
    "100,000 marks": b"(" * 100_000 + b"N.",
    "doubled list": b"](K\1e" + b"q\0h\0(h\0h\0e" * 20_000 + b".",
    "long integer again and again": (
        b"\x8b\0\0\1\0" + b"\x7f" * 65536 + b"q\0}" + b"h\0Ns" * 50_000 + b"."
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_cost_little(case: str) -> None:
    from git_theta.checkpoints.torch.pickle_tree import views

    data = BOMBS[case]  # were anything quadratic in these, the test would not end
    tracemalloc.start()
    try:
        with contextlib.suppress(PickleError):
            views(read(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 400 * len(data) + (80 << 20)


def test_steps_and_size_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "STEP_LIMIT", 100)
    read(b"N0" * 49 + b"N.")
    with pytest.raises(PickleError, match="more than 100 opcodes"):
        read(b"N0" * 50 + b"N.")
    monkeypatch.setattr(pickle_reader, "SIZE_LIMIT", 100)
    with pytest.raises(PickleError, match="larger than 100"):
        read(b"N0" * 50 + b"N.")


@st.composite
def _mutants(draw: st.DrawFn) -> bytes:
    seed = pickle.dumps(
        {"a": [1, 2.5, None], ("b",): {"c": b"xyz", "d": collections.OrderedDict(e=Point(1))}},
        draw(st.integers(0, 5)),
    )
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 5))):
        where = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(["set", "insert", "delete", "cut", "copy"]))
        if change == "set" and where < len(data):
            data[where] = draw(st.integers(0, 255))
        elif change == "insert":
            data[where:where] = bytes(
                [
                    draw(
                        st.sampled_from(
                            list(b"()]}0121NRbsuaetQ.\x85\x86\x87\x81\x8f\x90\x91\x94\x93cihqpg")
                        )
                    )
                ]
            )
        elif change == "delete":
            del data[where : where + draw(st.integers(1, 6))]
        elif change == "cut":
            del data[where:]
        else:
            start = draw(st.integers(0, len(data)))
            data[where:where] = data[start : start + draw(st.integers(1, 30))]
    return bytes(data)


@given(_mutants())
@example(b"")
@settings(max_examples=300)
def test_mutants_are_read_or_refused(data: bytes) -> None:
    from git_theta.checkpoints.torch.pickle_tree import views

    try:
        tree = read(data)
    except PickleError:
        return
    assert views(tree) == []


def large(data: bytes, start: int = 0) -> tuple[Any, int]:
    def source(offset: int, length: int) -> bytes:
        assert length <= pickle_reader._WINDOW
        return data[offset : offset + length]

    return read_large(source, start, len(data))


@given(_trees, st.sampled_from(range(6)), st.binary(max_size=20))
def test_a_large_pickle_is_read_as_a_small_one(value: Any, protocol: int, before: bytes) -> None:
    data = pickle.dumps(value, protocol)
    tree, length = large(before + data + b"more", len(before))
    assert length == len(data)
    assert plain(tree) == plain(read(data))


@pytest.mark.parametrize("protocol", [1, 2, 4, 5])
@pytest.mark.parametrize("window", [3 * pickle_reader.SKIPPED, 1 << 20])
def test_long_values_are_skipped_over(
    protocol: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_reader, "_WINDOW", window)
    text, few = "x" * 70_000, "y" * (pickle_reader.SKIPPED - 1)
    value = {
        "a": text,
        "b": few,
        "again": text,
        "n": 1 << (9000 if protocol > 1 else 90),
        "z": [1, ("w", few), text + "2"],
    }
    tree, length = large(pickle.dumps(value, protocol))
    assert length == len(pickle.dumps(value, protocol))
    found = dict(zip(tree.flat[::2], tree.flat[1::2], strict=True))
    assert (found["a"], found["again"], found["z"][2]) == (
        Skipped(70_000),
        Skipped(70_000),
        Skipped(70_001),
    )
    assert found["a"] is found["again"]
    assert (found["b"], found["z"][:2]) == (few, [1, ("w", few)])
    assert type(found["n"]) is (Skipped if protocol > 1 else int)


def test_what_is_not_skipped_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "SIZE_LIMIT", 10_000)
    data = pickle.dumps([bytes(1 << 20), 1], 4)
    with pytest.raises(PickleError, match="larger than 10000"):
        read(data)
    tracemalloc.start()
    try:
        assert large(data)[0][1] == 1
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(PickleError, match="without its long values"):
        large(pickle.dumps(["x" * 100 + str(number) for number in range(200)], 4))
    with pytest.raises(PickleError, match="ends in the middle"):
        large(data[: 1 << 19])
    with pytest.raises(PickleError, match="0xff"):
        read(b"\xff" + bytes(8) + b".")
