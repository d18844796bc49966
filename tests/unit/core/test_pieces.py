"""Bytes in pieces read as if they were put together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.source import PiecesSource
from git_theta.errors import FormatError


@given(st.lists(st.binary(max_size=9), max_size=6), st.data())
def test_reading_is_slicing(pieces: list[bytes], data: st.DataObject) -> None:
    whole, source = b"".join(pieces), PiecesSource(pieces)
    assert source.size == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    assert source.read(start, stop - start) == whole[start:stop]
    buffer = bytearray(stop - start)
    source.read_into(start, memoryview(buffer))
    assert buffer == whole[start:stop]


def test_outside_is_an_error() -> None:
    source = PiecesSource([b"ab", b"", memoryview(b"c")])
    for offset, length in ((0, 4), (4, 0), (-1, 1), (1, -1)):
        with pytest.raises(FormatError):
            source.read(offset, length)
