from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from git_theta.core import crc32


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_combine(first: bytes, second: bytes) -> None:
    assert crc32.combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(
        first + second
    )


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_combine_is_associative_over_pieces(pieces: list[bytes]) -> None:
    total = 0
    for piece in pieces:
        total = crc32.combine(total, zlib.crc32(piece), len(piece))
    assert total == zlib.crc32(b"".join(pieces))


def test_long_pieces() -> None:
    """Lengths that no test could hold in memory: many zeros, built up by doubling."""
    zeros, length = zlib.crc32(bytes(1 << 16)), 1 << 16
    for _ in range(30):
        zeros, length = crc32.combine(zeros, zeros, length), 2 * length
    assert length == 1 << 46
    halves = crc32.combine(crc32.combine(zlib.crc32(b"a"), zeros, length), zlib.crc32(b"b"), 1)
    other = crc32.combine(zlib.crc32(b"a"), crc32.combine(zeros, zlib.crc32(b"b"), 1), length + 1)
    assert halves == other
