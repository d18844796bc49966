"""Flax's MessagePack files: what is found, what is refused, what is built."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from cutting import contents, cut, mutants, survives, told
from hypothesis import given
from hypothesis import strategies as st

from git_theta.checkpoints import flax_msgpack
from git_theta.checkpoints.flax_msgpack import FlaxMsgpackFormat
from git_theta.core.contracts import BuildsFiles, CheckpointFormat
from git_theta.core.source import BytesSource
from git_theta.core.tensors import Tensor
from git_theta.errors import FormatError

FORMAT = FlaxMsgpackFormat()
SMALL = (Path(__file__).parents[2] / "data" / "formats" / "small.msgpack").read_bytes()


def tensors(data: bytes) -> dict[str, Tensor]:
    return {
        e.name: Tensor(e.dtype, e.shape, data[e.offset : e.end])
        for e in FORMAT.scan(BytesSource(data)).extents
    }


def test_is_a_format_that_builds() -> None:
    assert isinstance(FORMAT, CheckpointFormat)
    assert isinstance(FORMAT, BuildsFiles)


def test_what_flax_writes() -> None:
    layout = cut(FORMAT, SMALL)
    assert told(layout) == {
        "params/dense/kernel": "f32[4, 3]",
        "params/dense/bias": "bf16[3]",
        "params/big/chunks/0": "f32[4]",
        "params/big/chunks/1": "f32[2]",
        "step": "i32[]",
        "long": "i64[100]",
    }
    assert contents(layout, SMALL)["step"] == struct.pack("<i", 7)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SMALL[:-1], "announced"),
        (b"\x81\xa1a\xc1", "starts no value"),
        (b"\xdf\xff\xff\xff\xff", "values are announced"),
        (b"\xdd\xff\xff\xff\xff", "values are announced"),
        (b"\x81\x90\x00", "no text"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "announced"),
        (b"\x91" * 1000, "deep"),
        (b"", "announced"),
    ],
)
def test_broken_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        FORMAT.scan(BytesSource(data))


def test_very_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flax_msgpack, "VALUES_LIMIT", 100)
    with pytest.raises(FormatError, match="more than 100"):
        FORMAT.scan(BytesSource(b"\xdc\x01\x00" + bytes(256)))


@pytest.mark.parametrize(
    "inner",
    [
        b"",
        b"\x92\x90\xa3",
        b"\x93\x91\xff\xa4bool\xc4\x01\0",
        b"\x93\x91\x05\xa4bool\xc4\x01\0",
        b"\x93\x90\xa1?\xc4\x01",
    ],
)
def test_arrays_flax_would_not_write_are_plain_bytes(inner: bytes) -> None:
    data = b"\x81\xa1a\xc7" + bytes([len(inner)]) + b"\x01" + inner
    (extent,) = cut(FORMAT, data).extents
    assert (extent.name, extent.dtype) == ("a", "u8")


@pytest.mark.parametrize(
    "head",
    [b"", b"\x80", b"\x80\x02}q\0", b"\x81\xa1a\x01", b"\x91\xd4\x01\0", b"{", b"\x81\x01\xd4\x03"],
)
def test_other_files_are_not_claimed(head: bytes) -> None:
    assert not FORMAT.sniff(head)


def test_damaged_files() -> None:
    assert min(survives(FORMAT, mutants([SMALL], 1500)))


def test_a_file_built_from_its_own_tensors_is_the_same() -> None:
    assert bytes(FORMAT.build(tensors(SMALL), BytesSource(SMALL))) == SMALL


def test_other_values_stay() -> None:
    new = {
        "params/dense/kernel": Tensor("f32", (2, 2), bytes(16)),
        "extra/x": Tensor("f64", (), bytes(8)),
    }
    data = bytes(FORMAT.build(new, BytesSource(SMALL)))
    assert tensors(data) == new
    msgpack = pytest.importorskip("msgpack")
    tree = msgpack.unpackb(data, strict_map_key=False)
    assert tree["note"] == "text"
    assert tree["list"] == [1, None, True, -5, 70000, {"a": b"x"}]
    assert msgpack.unpackb(tree["params"]["dense"]["kernel"].data) == [[2, 2], "float32", bytes(16)]


@given(
    st.dictionaries(
        st.text("abc\u00e9", min_size=1, max_size=40),
        st.tuples(
            st.sampled_from(["u8", "f32", "bf16", "bool", "i64"]),
            st.lists(st.integers(0, 3) | st.just(200), max_size=3),
        ),
        max_size=4,
    )
)
def test_scan_is_the_inverse_of_build(wanted: dict[str, tuple[str, list[int]]]) -> None:
    made = {}
    for name, (dtype, shape) in wanted.items():
        size = {"u8": 1, "bool": 1, "bf16": 2, "f32": 4, "i64": 8}[dtype]
        for length in shape:
            size *= length
        made[f"{name}/w"] = Tensor(dtype, tuple(shape), bytes(size))
    assert tensors(bytes(FORMAT.build(made, None))) == made


def test_arrays_above_the_limit_are_written_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flax_msgpack, "CHUNK", 10)
    data = bytes(FORMAT.build({"w": Tensor("f32", (2, 3), bytes(range(24)))}, None))
    assert told(cut(FORMAT, data)) == {
        "w/chunks/0": "f32[2]",
        "w/chunks/1": "f32[2]",
        "w/chunks/2": "f32[2]",
    }


@pytest.mark.parametrize(
    ("made", "like", "message"),
    [
        ({"a": Tensor("q8_0", (32,), bytes(34))}, None, "cannot hold"),
        ({"a": Tensor("u8", (), b"a"), "a/b": Tensor("u8", (), b"a")}, None, "stands where"),
        ({"a/b": Tensor("u8", (), b"a"), "a": Tensor("u8", (), b"a")}, None, "called so"),
        ({"note": Tensor("u8", (), b"a")}, SMALL, "called so"),
        ({"a": Tensor("u8", (), b"a")}, b"\x01", "no map"),
        ({"a": Tensor("u8", (), b"a")}, b"\x82\xa1a\x01\xa1a\x01", "key twice"),
        ({"a": Tensor("u8", (), b"a")}, b"\x81\xa1b\x91\xd4\x01\x00", "in lists"),
    ],
)
def test_what_cannot_be_built(made: dict[str, Tensor], like: bytes | None, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        FORMAT.build(made, None if like is None else BytesSource(like))
