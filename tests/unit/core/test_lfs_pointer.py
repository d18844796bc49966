"""The exact text of a Git LFS pointer."""

from __future__ import annotations

import pytest

from git_theta.core import lfs_pointer

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
TEXT = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 12345\n" % OID.encode()


def test_a_pointer_is_what_git_lfs_writes() -> None:
    assert lfs_pointer.dump(OID, 12345) == TEXT
    assert lfs_pointer.parse(TEXT) == (OID, 12345)


@pytest.mark.parametrize("size", [0, 9, 10, 10**18 - 1])
def test_every_size_round_trips_within_the_bounds(size: int) -> None:
    text = lfs_pointer.dump(OID, size)
    assert lfs_pointer.parse(text) == (OID, size)
    assert lfs_pointer.SMALLEST <= len(text) <= lfs_pointer.LARGEST


@pytest.mark.parametrize(
    "text",
    [
        TEXT[:-1],
        TEXT + b"\n",
        TEXT.replace(b"\n", b"\r\n"),
        TEXT.replace(b"size 1", b"size 01"),
        TEXT.replace(b"size 1", b"size -1"),
        TEXT.replace(b"size 12345", b"size " + b"1" * 19),
        TEXT.replace(b"4d7a", b"4D7A"),
        TEXT.replace(b"git-lfs", b"hawser"),
        TEXT.replace(b"oid", b"ext-0-x sha256:00\noid"),
        b"",
    ],
)
def test_anything_else_is_not_exact(text: bytes) -> None:
    assert lfs_pointer.parse(text) is None
