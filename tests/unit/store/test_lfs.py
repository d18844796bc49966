"""What a person reads of git-lfs's output."""

from __future__ import annotations

import io

import pytest

from git_theta.store import lfs


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (
            'Uploading LFS objects:   0%\rbatch response: Post "http://h/x": refused\nEOF',
            "batch response: Post 'http://h/x': refused",
        ),
        ("EOF\n\x1b[2Jcleared\n", "\\x1b[2Jcleared"),
        ("\nEOF\n", ""),
    ],
)
def test_the_first_complaint_is_read(said: str, read: str) -> None:
    assert lfs._reason(io.BytesIO(said.encode())) == read
