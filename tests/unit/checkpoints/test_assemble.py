"""From what a parser found to a layout."""

from __future__ import annotations

import pytest

from git_theta.checkpoints import assemble as module
from git_theta.checkpoints.assemble import NAME_LIMIT, assemble, raw, shaped
from git_theta.checkpoints.cursor import Cursor
from git_theta.core.layout import Checksum, Extent
from git_theta.core.source import BytesSource
from git_theta.errors import FormatError


def test_order_and_names() -> None:
    layout = assemble(
        "x", 30, [raw("b", 10, 5), raw("b", 0, 5), raw("n" * 2000, 20, 1)], [Checksum(16, 0, 5)]
    )
    assert [extent.name for extent in layout.extents] == ["b", "b#2", "n" * NAME_LIMIT]
    assert [extent.offset for extent in layout.extents] == [0, 10, 20]


def test_what_is_long_is_not_left_to_the_skeleton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SKELETON_LIMIT", 10)
    monkeypatch.setattr(module, "PIECE", 16)
    layout = assemble("x", 100, [raw("a", 30, 10), raw("b", 50, 5)], [Checksum(70, 30, 10)])
    found = [(extent.name, extent.offset, extent.length) for extent in layout.extents]
    rest = [
        ("rest", 0, 16),
        ("rest#2", 16, 14),
        ("a", 30, 10),
        ("b", 50, 5),
        ("rest#3", 55, 15),
        ("rest#4", 74, 16),
        ("rest#5", 90, 10),
    ]
    assert found == rest


def test_overlapping_tensors_are_refused() -> None:
    with pytest.raises(FormatError, match="overlaps"):
        assemble("x", 10, [raw("a", 0, 5), raw("b", 4, 5)])


@pytest.mark.parametrize(
    ("dtype", "shape", "length", "expected"),
    [
        ("f32", (2, 3), 24, ("f32", (2, 3))),
        ("f32", (2, 3), 20, ("u8", (20,))),
        ("f32", (2**62, 2**62, 0), 0, ("u8", (0,))),
        ("f32", (1,) * 65, 4, ("u8", (4,))),
        ("f4_e2m1", (3,), 2, ("u8", (2,))),
        ("q8_0", (64,), 68, ("q8_0", (64,))),
    ],
)
def test_shapes_that_do_not_fit_are_bytes(
    dtype: str, shape: tuple[int, ...], length: int, expected: tuple[str, tuple[int, ...]]
) -> None:
    extent = shaped("t", dtype, shape, 0, length)
    assert (extent.dtype, extent.shape) == expected
    assert extent == Extent("t", extent.dtype, extent.shape, 0, length)


def test_a_cursor_stays_inside() -> None:
    cursor = Cursor(BytesSource(b"\x01\x02\x03\x80\x01"), "file")
    assert cursor.uint(2) == 0x201
    assert cursor.skip(1) == 2
    assert cursor.varint() == 128
    with pytest.raises(FormatError, match="0 follow"):
        cursor.take(1)
    with pytest.raises(FormatError, match="announced"):
        Cursor(BytesSource(b"abc"), "file").skip(-1)
    with pytest.raises(FormatError, match="64 bits"):
        Cursor(BytesSource(b"\xff" * 20), "file").varint()
