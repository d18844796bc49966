"""GGUF: what is found, what is refused, what is built."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from cutting import contents, cut, mutants, rebuilt, survives, told
from hypothesis import given
from hypothesis import strategies as st

from git_theta.checkpoints import gguf
from git_theta.checkpoints.gguf import GgufFormat
from git_theta.core.contracts import BuildsFiles, CheckpointFormat
from git_theta.core.layout import PartlyBrokenError
from git_theta.core.source import BytesSource
from git_theta.core.tensors import Tensor
from git_theta.errors import FormatError

FORMAT = GgufFormat()
DATA = Path(__file__).parents[2] / "data" / "formats"
SMALL = (DATA / "small.gguf").read_bytes()
BIG = (DATA / "big-endian.gguf").read_bytes()


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def info(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file(
    infos: list[bytes],
    data: bytes,
    keys: tuple[bytes, ...] = (),
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    head = (
        b"GGUF"
        + struct.pack("<IQQ", version, len(infos), len(keys))
        + b"".join(keys)
        + b"".join(infos)
    )
    return head + bytes(-len(head) % alignment) + data


def test_is_a_format_that_builds() -> None:
    assert isinstance(FORMAT, CheckpointFormat)
    assert isinstance(FORMAT, BuildsFiles)


def test_what_ggufs_own_writer_writes() -> None:
    assert told(cut(FORMAT, SMALL)) == {
        "token_embd.weight": "f32[3, 32]",
        "blk.0.attn_q.weight": "q8_0[2, 64]",
        "blk.0.attn_k.weight": "q4_0[2, 64]",
        "half": "f16[5]",
        "brain": "bf16[2, 3]",
    }
    layout = cut(FORMAT, SMALL)
    assert contents(layout, SMALL)["half"] == struct.pack("<5e", 1, 2, 3, 4, 5)


def test_big_endian_values_are_plain_bytes() -> None:
    layout = cut(FORMAT, BIG)
    assert told(layout) == {"w": "u8[48]"}
    assert contents(layout, BIG)["w"][:8] == struct.pack(">2f", 1, 2)


@pytest.mark.parametrize("version", [2, 3])
def test_alignment_and_order_of_offsets(version: int) -> None:
    key = text("general.alignment") + struct.pack("<II", 4, 8)
    data = file(
        [info("b", (2,), offset=8), info("a", (1,))],
        struct.pack("<4f", 1, 0, 2, 3),
        (key,),
        version,
        8,
    )
    assert contents(cut(FORMAT, data), data) == {
        "a": struct.pack("<f", 1),
        "b": struct.pack("<2f", 2, 3),
    }


def test_values_of_all_kinds_are_passed_over() -> None:
    keys = [
        text(f"k{kind}") + struct.pack("<I", kind) + bytes(width)
        for kind, width in gguf._WIDTHS.items()
    ]
    keys.append(text("words") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("") + text("é"))
    keys.append(
        text("nested")
        + struct.pack("<IIQ", 9, 9, 2)
        + struct.pack("<IQ", 0, 3)
        + b"abc"
        + struct.pack("<IQ", 8, 1)
        + text("x")
    )
    data = file([info("t", ())], bytes(4), tuple(keys))
    assert told(cut(FORMAT, data)) == {"t": "f32[]"}


def test_unknown_types_reach_to_the_next_tensor() -> None:
    data = file([info("a", (64,), 99), info("b", (1,), 0, 64)], bytes(70))
    assert told(cut(FORMAT, data)) == {"a": "u8[64]", "b": "f32[1]"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGUF\x03", "announced"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "claims"),
        (file([info("a", (1,)), info("a", (1,), 0, 32)], bytes(64)), "two tensors"),
        (file([info("a", (8,)), info("b", (8,))], bytes(64)), "overlaps"),
        (file([info("a", (8,))], bytes(31)), "beyond the end"),
        (file([info("a", (8,), 0, 4)], bytes(64)), "multiple of 32"),
        (file([info("a", (2**40, 2**40))], b""), "overflows"),
        (file([info("a", (2**62, 2**62, 0))], b""), "overflows"),
        (file([info("a", (2**63,))], b""), "overflows"),
        (file([info("a", (1,) * 5)], bytes(4)), "5 dimensions"),
        (file([info("a", (16, 2), 8)], bytes(34)), "blocks of 32"),
        (file([], b"", (text("general.alignment") + struct.pack("<II", 4, 24),)), "power of two"),
        (file([], b"", (text("general.alignment") + struct.pack("<II", 4, 0),)), "power of two"),
        (file([], b"", (text("general.alignment") + struct.pack("<IQ", 10, 32),)), "32 bits"),
        (file([], b"", (text("k") + struct.pack("<I", 13),)), "unknown type 13"),
        (file([], b"", (text("k") + bytes(5),) * 2), "two keys"),
        (file([], b"", (text("k") + struct.pack("<IIQ", 9, 8, 2**40),)), "array of"),
        (file([], b"", (text("k") + struct.pack("<IIQ", 9, 4, 2**62),)), "announced"),
        (
            file([], b"", (text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50,)),
            "deep",
        ),
        (
            file([], b"", (text("k") + struct.pack("<IIQ", 9, 8, 1) + struct.pack("<Q", 2**63),)),
            "announced",
        ),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 2**63), "name of"),
    ],
)
def test_broken_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        FORMAT.scan(BytesSource(data))


def test_damaged_files() -> None:
    refused, accepted = survives(FORMAT, mutants([SMALL, BIG], 1500))
    assert refused
    assert accepted


TENSORS = {
    "w": Tensor("f32", (3, 2), struct.pack("<6f", *range(6))),
    "q": Tensor("q8_0", (2, 32), bytes(range(68))),
    "scalar": Tensor("i64", (), struct.pack("<q", -1)),
    "none": Tensor("f16", (0,), b""),
}


def test_built_files_hold_what_was_asked_for() -> None:
    data = bytes(FORMAT.build(TENSORS, None))
    layout = cut(FORMAT, data)
    assert contents(layout, data) == {name: bytes(tensor.data) for name, tensor in TENSORS.items()}


def test_keys_and_values_are_taken_over() -> None:
    layout = cut(FORMAT, SMALL)
    same = {e.name: Tensor(e.dtype, e.shape, SMALL[e.offset : e.end]) for e in layout.extents}
    assert FORMAT.build(same, BytesSource(SMALL)) == SMALL
    header = gguf._read(BytesSource(SMALL))
    data = bytes(FORMAT.build(TENSORS, BytesSource(SMALL)))
    assert data[24 : header.keys_end] == SMALL[24 : header.keys_end]


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=15),
        st.lists(st.integers(0, 4), max_size=4),
        max_size=5,
    )
)
def test_scan_is_the_inverse_of_build(shapes: dict[str, list[int]]) -> None:
    tensors = {}
    for number, (name, shape) in enumerate(shapes.items()):
        count = 1
        for size in shape:
            count *= size
        tensors[name] = Tensor("i16", tuple(shape), bytes([number]) * 2 * count)
    data = bytes(FORMAT.build(tensors, None))
    layout = cut(FORMAT, data)
    assert {
        e.name: Tensor(e.dtype, e.shape, data[e.offset : e.end]) for e in layout.extents
    } == tensors


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": Tensor("u8", (1,), b"a")}, "cannot hold"),
        ({"a" * 64: Tensor("i8", (1,), b"a")}, "63 bytes"),
        ({"\ud800": Tensor("i8", (1,), b"a")}, "63 bytes"),
        ({"a": Tensor("i8", (1, 1, 1, 1, 1), b"a")}, "5 dimensions"),
        ({"a": Tensor("q8_0", (32, 1), bytes(34))}, "blocks of 32"),
    ],
)
def test_what_cannot_be_built(tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        FORMAT.build(tensors, None)


def test_big_endian_files_are_not_written() -> None:
    with pytest.raises(FormatError, match="big-endian"):
        FORMAT.build({}, BytesSource(BIG))


def test_a_file_that_is_cut_short_keeps_the_tensors_that_are_whole() -> None:
    data = file(
        [info("a", (4,)), info("b", (8,), offset=32), info("c", (4,), offset=64)], bytes(range(80))
    )
    with pytest.raises(
        PartlyBrokenError, match=r"tensor b reaches beyond.*2 of 3 tensors are cut short"
    ) as caught:
        FORMAT.scan(BytesSource(data[:-30]))
    layout = caught.value.layout
    assert told(layout) == {"a": "f32[4]"}
    assert rebuilt(layout, data[:-30]) == data[:-30]
