from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.checkpoints.opaque import PIECE, OpaqueFormat
from git_theta.core.contracts import CheckpointFormat
from git_theta.core.source import BytesSource


class Sized:
    """A source of which only the size may be asked."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        raise AssertionError("nothing needs to be read")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("nothing needs to be read")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, []),
        (1, [("bytes", 1)]),
        (PIECE, [("bytes", PIECE)]),
        (PIECE + 1, [("bytes.0", PIECE), ("bytes.1", 1)]),
        (2 * PIECE, [("bytes.0", PIECE), ("bytes.1", PIECE)]),
    ],
)
def test_pieces(size: int, expected: list[tuple[str, int]]) -> None:
    layout = OpaqueFormat().scan(Sized(size))
    assert [(extent.name, extent.length) for extent in layout.extents] == expected
    assert layout.format == "opaque"


@given(st.integers(0, 1 << 40))
def test_pieces_cover_the_file(size: int) -> None:
    extents = OpaqueFormat().scan(Sized(size)).extents
    assert sum(extent.length for extent in extents) == size
    assert all(before.end == after.offset for before, after in pairwise(extents))
    assert all(
        0 < extent.length <= PIECE and extent.shape == (extent.length,) for extent in extents
    )


@given(st.binary(max_size=100))
def test_claims_everything(data: bytes) -> None:
    assert OpaqueFormat().sniff(data)
    assert OpaqueFormat().scan(BytesSource(data)).size == len(data)


def test_is_a_format() -> None:
    assert isinstance(OpaqueFormat(), CheckpointFormat)
