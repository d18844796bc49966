"""ONNX: what is found, what is refused, what is never opened."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from cutting import contents, cut, mutants, survives, told

from git_theta.checkpoints import onnx
from git_theta.checkpoints.onnx import OnnxFormat
from git_theta.core.contracts import CheckpointFormat
from git_theta.core.source import BytesSource
from git_theta.errors import FormatError

FORMAT = OnnxFormat()
SMALL = (Path(__file__).parents[2] / "data" / "formats" / "small.onnx").read_bytes()


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def model(*tensors: bytes) -> bytes:
    return (
        field(1, 8) + field(2, b"test") + field(7, b"".join(field(5, tensor) for tensor in tensors))
    )


def test_is_a_format() -> None:
    assert isinstance(FORMAT, CheckpointFormat)


def test_what_onnx_writes() -> None:
    layout = cut(FORMAT, SMALL)
    assert told(layout) == {
        "c.value": "i64[3]",
        "inner.value": "f32[2]",
        "inner.value#2": "f32[2]",
        "w": "f32[3, 4]",
        "floats": "f32[2, 2]",
        "doubles": "f64[3]",
        "coded": "u8[3]",
        "brain": "bf16[2, 3]",
        "sparse": "f32[2]",
        "sparse.indices": "i64[2]",
    }
    assert contents(layout, SMALL)["floats"] == struct.pack("<4f", 1, 2, 3, 4)
    assert b"../../etc/passwd" in SMALL, (
        "a tensor that lies elsewhere has no bytes here, and is not looked for"
    )


def test_fields_in_any_order_and_dimensions_one_by_one() -> None:
    tensor = (
        field(9, bytes(24))
        + field(8, b"t")
        + field(2, 1)
        + field(1, 2)
        + field(1, 3)
        + b"\x2d\0\0\0\0"
    )
    assert told(cut(FORMAT, model(tensor))) == {"t": "f32[2, 3]"}


@pytest.mark.parametrize(
    "dims",
    [[2**63, 2], [2**62, 2**62, 0], [7], [1] * 65],
    ids=["huge", "huge beside zero", "wrong size", "too many"],
)
def test_dimensions_that_lie(dims: list[int]) -> None:
    tensor = (
        field(1, b"".join(map(varint, dims))) + field(2, 1) + field(8, b"t") + field(9, bytes(8))
    )
    assert told(cut(FORMAT, model(tensor))) == {"t": "u8[8]"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SMALL[:-1], "beyond|announced"),
        (model(field(1, 1) + b"\x4a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), "beyond"),
        (model(b"\x0b"), "no known kind"),
        (model(b"\x0a\x02\x01\x80"), "announced"),
        (field(1, 8) + b"\x12" + b"\xff" * 10 + b"\x01", "64 bits"),
    ],
)
def test_broken_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        FORMAT.scan(BytesSource(data))


def test_graphs_in_graphs_without_end() -> None:
    inner = b""
    for _ in range(100):
        inner = field(1, field(5, field(6, inner)))
    with pytest.raises(FormatError, match="deep"):
        FORMAT.scan(BytesSource(field(1, 8) + field(7, inner)))


def test_very_many_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "FIELDS_LIMIT", 100)
    with pytest.raises(FormatError, match="more than 100"):
        FORMAT.scan(BytesSource(field(1, 8) + field(7, b"") * 200))


@pytest.mark.parametrize(
    "head",
    [b"", b"\x08", b"\x08\x01\x12\x03a\0b", b"\x80\x02}", b"PK\3\4", b"\x08\x08\x12\x04test", b"{"],
)
def test_other_files_are_not_claimed(head: bytes) -> None:
    assert not FORMAT.sniff(head)


def test_damaged_files() -> None:
    assert min(survives(FORMAT, mutants([SMALL], 1500)))
