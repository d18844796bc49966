from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from git_theta.core import skeleton, varint
from git_theta.core.layout import Checksum, Extent, Layout
from git_theta.core.source import BytesSource
from git_theta.errors import PayloadError


@dataclass(frozen=True)
class Case:
    """A file, where its tensors lie, and which checksums a format would propose."""

    data: bytes
    layout: Layout


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Random files: tensors (empty ones too), gaps, and checksum fields in the gaps: true ones,
    false ones, of ranges that hold others.
    """
    runs = draw(
        st.lists(
            st.tuples(st.sampled_from(["tensor", "gap", "true", "false"]), st.integers(0, 40)),
            max_size=12,
        )
    )
    data = bytearray()
    extents: list[Extent] = []
    checksums: list[Checksum] = []
    for kind, length in runs:
        if kind == "tensor":
            extents.append(Extent(f"t{len(extents)}", "u8", (length,), len(data), length))
            data += draw(st.binary(min_size=length, max_size=length))
        elif kind == "gap":
            data += draw(st.binary(min_size=length, max_size=length))
        else:
            edges = sorted(
                {
                    0,
                    len(data),
                    *(e.offset for e in extents),
                    *(e.end for e in extents),
                    *(c.offset for c in checksums),
                }
            )
            place = st.sampled_from(edges) | st.integers(0, len(data))
            start, end = sorted((draw(place), draw(place)))
            checksums.append(Checksum(len(data), start, end - start))
            value = (
                zlib.crc32(data[start:end])
                if kind == "true"
                else draw(st.sampled_from([0, 1 << 31]))
            )
            data += value.to_bytes(4, "little")
    return Case(bytes(data), Layout("test", len(data), tuple(extents), tuple(checksums)))


def cut(case: Case) -> bytes:
    covered = skeleton.covered(case.layout)
    contents = [case.data[extent.offset : extent.end] for extent in case.layout.extents]
    sums = [
        zlib.crc32(content) if wanted else None
        for content, wanted in zip(contents, covered, strict=True)
    ]
    return skeleton.cut(case.layout, BytesSource(case.data), sums)


def splice(parsed: skeleton.Skeleton, tensors: Sequence[bytes]) -> bytes:
    splicer = skeleton.Splicer(parsed, len(tensors))
    needed = skeleton.needed(parsed, len(tensors))
    out = bytearray()
    for piece in parsed.pieces:
        assert piece.offset == len(out)
        if piece.tensor >= 0:
            out += tensors[piece.tensor]
            splicer.sums[piece.tensor] = (
                zlib.crc32(tensors[piece.tensor]) if needed[piece.tensor] else None
            )
        elif piece.checksum >= 0:
            out += splicer.checksum(piece.checksum)
        else:
            assert piece.data is not None
            out += piece.data
        assert piece.end == len(out)
    return bytes(out)


@given(cases())
@example(Case(b"", Layout("test", 0, ())))
@example(Case(bytes(4), Layout("test", 4, (Extent("t", "u8", (0,), 4, 0),), (Checksum(0, 0, 0),))))
def test_splice_is_the_inverse_of_cut(case: Case) -> None:
    extents = case.layout.extents
    parsed = skeleton.parse(cut(case), len(case.data), [extent.length for extent in extents])
    assert (
        splice(parsed, [case.data[extent.offset : extent.end] for extent in extents]) == case.data
    )
    assert [(p.offset, p.length) for p in parsed.pieces if p.tensor >= 0] == [
        (e.offset, e.length) for e in extents if e.length
    ]


@given(cases(), st.data())
def test_other_tensors_get_true_checksums(case: Case, data: st.DataObject) -> None:
    """Derived fields follow the tensors: so the next step's skeleton is the same, though its
    checksums are not.
    """
    extents = case.layout.extents
    parsed = skeleton.parse(cut(case), len(case.data), [extent.length for extent in extents])
    tensors = [data.draw(st.binary(min_size=e.length, max_size=e.length)) for e in extents]
    spliced = splice(parsed, tensors)
    for check in parsed.checksums:
        value = zlib.crc32(spliced[check.start : check.start + check.length])
        assert spliced[check.offset : check.offset + 4] == value.to_bytes(4, "little")
    again = Case(spliced, Layout("test", len(spliced), extents, parsed.checksums))
    assert cut(again) == cut(
        Case(case.data, Layout("test", len(case.data), extents, parsed.checksums))
    )


def test_fields_that_are_true_sums_cost_no_bytes() -> None:
    data = bytearray(b"head" + bytes(range(100)))
    data += zlib.crc32(data[4:]).to_bytes(4, "little")
    data += zlib.crc32(data).to_bytes(4, "little")
    extents = (Extent("t", "u8", (100,), 4, 100),)
    layout = Layout("test", len(data), extents, (Checksum(104, 4, 100), Checksum(108, 0, 108)))
    assert skeleton.covered(layout) == [True]
    text = cut(Case(bytes(data), layout))
    assert text.endswith(b"head")
    assert len(text) == 2 + 1 + 2 * 3 + 4
    parsed = skeleton.parse(text, len(data), [100])
    assert len(parsed.checksums) == 2
    data[-1] ^= 1
    parsed = skeleton.parse(cut(Case(bytes(data), layout)), len(data), [100])
    assert len(parsed.checksums) == 1, "a field with another value keeps its bytes"


def test_a_sum_that_is_not_known_or_covers_half_a_tensor_keeps_its_bytes() -> None:
    data = (
        bytes(100)
        + zlib.crc32(bytes(100)).to_bytes(4, "little")
        + zlib.crc32(bytes(50)).to_bytes(4, "little")
    )
    layout = Layout(
        "test",
        len(data),
        (Extent("t", "u8", (100,), 0, 100),),
        (Checksum(100, 0, 100), Checksum(104, 0, 50)),
    )
    for sums, derived in (([zlib.crc32(bytes(100))], 1), ([None], 0)):
        text = skeleton.cut(layout, BytesSource(data), sums)
        parsed = skeleton.parse(text, len(data), [100])
        assert len(parsed.checksums) == derived
        assert splice(parsed, [bytes(100)]) == data


@given(
    cases(),
    st.lists(
        st.tuples(st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 3)),
        min_size=1,
        max_size=4,
    ),
    st.integers(-9, 9),
)
def test_a_damaged_skeleton_is_refused_or_builds_a_file_of_the_right_size(
    case: Case, changes: list[tuple[int, bytes, int]], more: int
) -> None:
    text = bytearray(cut(case))
    for place, new, drop in changes:
        where = place % (len(text) + 1)
        text[where : where + drop] = new
    lengths, size = [extent.length for extent in case.layout.extents], max(0, len(case.data) + more)
    with suppress(PayloadError):
        parsed = skeleton.parse(bytes(text), size, lengths)
        assert len(splice(parsed, [bytes(length) for length in lengths])) == size


@given(st.binary(max_size=60), st.integers(0, 200), st.lists(st.integers(0, 100), max_size=4))
def test_any_bytes(data: bytes, size: int, lengths: list[int]) -> None:
    for text in (data, bytes([len(lengths)]) + data):
        with suppress(PayloadError):
            parsed = skeleton.parse(text, size, lengths)
            assert len(splice(parsed, [bytes(length) for length in lengths])) == size


def numbers(*values: int) -> bytes:
    return b"".join(map(varint.dump, values))


@pytest.mark.parametrize(
    ("data", "size", "lengths"),
    [
        (b"", 0, []),
        (numbers(1, 0), 0, []),
        (numbers(0, 2**62), 0, []),
        (numbers(1, 0, 2**62), 10, [5]),
        (numbers(1, 0, 0), 10, [2**62]),
        (numbers(1, 0, 0) + bytes(4), 10, [5]),
        (numbers(1, 0, 0) + bytes(6), 10, [5]),
        (numbers(0, 1, 4, 5, 0), 8, []),
        (numbers(0, 1, 4, 3, 4), 8, []),
        (numbers(1, 1, 0, 2, 2, 2), 12, [8]),
        (numbers(0, 2, 0, 0, 0, 2**62, 0, 0), 8, []),
    ],
    ids=range(11),
)
def test_refused(data: bytes, size: int, lengths: list[int]) -> None:
    with pytest.raises(PayloadError):
        skeleton.parse(data, size, lengths)


def test_checksums_that_would_cover_the_file_too_often_are_refused() -> None:
    """Nested containers need a few passes; a thousand over a large file would only cost time."""
    count, gap = 100, 1000
    offsets = [gap + 4 * number for number in range(count)]
    fields = numbers(
        *(
            value
            for number, offset in enumerate(offsets)
            for value in (gap if number == 0 else 0, offset, offset)
        )
    )
    data = numbers(0, count) + fields + bytes(gap)
    with pytest.raises(PayloadError, match="too many times"):
        skeleton.parse(data, gap + 4 * count, [])


def test_proposals_that_cover_the_file_too_often_are_not_taken() -> None:
    size, count = 1000, 100
    checks = tuple(Checksum(size + 4 * number, 0, size + number) for number in range(count))
    data = bytes(size + 4 * count)
    assert (
        skeleton.parse(
            skeleton.cut(Layout("x", len(data), (), checks), BytesSource(data), []), len(data), []
        ).checksums
        == ()
    )


def test_half_a_tensor_under_a_derived_checksum_is_refused_when_it_is_spliced() -> None:
    data = numbers(1, 1, 0, 10, 10, 5)
    parsed = skeleton.parse(data, 14, [10])
    splicer = skeleton.Splicer(parsed, 1)
    splicer.sums[0] = 0
    with pytest.raises(PayloadError, match="part of a tensor"):
        splicer.checksum(0)


def test_a_long_gap_under_a_checksum_takes_linear_time() -> None:
    """Thirty mebibytes of other bytes, summed in pieces without copying what lies behind each."""
    size = 30 << 20
    data = bytes(size) + zlib.crc32(bytes(size)).to_bytes(4, "little")
    layout = Layout("test", len(data), (), (Checksum(size, 0, size),))
    parsed = skeleton.parse(skeleton.cut(layout, BytesSource(data), []), len(data), [])
    assert len(parsed.checksums) == 1
    assert splice(parsed, []) == data


def test_deeply_nested_checksums() -> None:
    """Each covers the one before and no more, ten thousand times."""
    data, checks = bytearray(8), []
    for _ in range(10_000):
        checks.append(Checksum(len(data), len(data) - 8, 8))
        data += zlib.crc32(data[-8:]).to_bytes(4, "little")
    case = Case(bytes(data), Layout("test", len(data), (), tuple(checks)))
    parsed = skeleton.parse(cut(case), len(data), [])
    assert len(parsed.checksums) == 10_000
    assert splice(parsed, []) == case.data


def test_twenty_thousand_tensors() -> None:
    count = 20_000
    extents = tuple(Extent(f"t{number}", "u8", (3,), 7 * number, 3) for number in range(count))
    checks = tuple(Checksum(7 * number + 3, 7 * number, 3) for number in range(count))
    data = (b"abc" + zlib.crc32(b"abc").to_bytes(4, "little")) * count
    case = Case(data, Layout("test", len(data), extents, checks))
    parsed = skeleton.parse(cut(case), len(data), [3] * count)
    assert splice(parsed, [b"abc"] * count) == data
