"""Attributes files of the past: lines are added, exchanged and taken out; everything else stays to
the byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from git_theta.errors import GitError
from git_theta.git.repository import Repository
from git_theta.workflows.maintenance.rewrite_attributes import Tracking, untracked

NOWHERE = Repository(Path(), Path(), None, 40)
LINE = b"*.pt filter=theta diff=theta merge=theta -text\n"


def tracked(data: bytes | None, *patterns: str) -> bytes | None:
    return Tracking(NOWHERE, patterns or ("*.pt",), []).apply(".gitattributes", data)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, LINE),
        (b"", LINE),
        (b"*.txt text\n", b"*.txt text\n" + LINE),
        (b"*.txt text", b"*.txt text\n" + LINE),
        (b"*.txt text\r\n", b"*.txt text\r\n" + LINE.replace(b"\n", b"\r\n")),
        (LINE, LINE),
        (
            (
                b"*.pt filter=lfs diff=lfs merge=lfs -text\n*.png filter=lfs diff=lfs merge=lfs"
                b" -text\n"
            ),
            b"*.png filter=lfs diff=lfs merge=lfs -text\n" + LINE,
        ),
        (
            b"*.pt filter=lfs diff=lfs merge=lfs -text lockable\n",
            b"*.pt filter=lfs diff=lfs merge=lfs -text lockable\n" + LINE,
        ),
        (b"# \xff\n*.pt binary\n", b"# \xff\n*.pt binary\n" + LINE),
    ],
)
def test_at_the_top(before: bytes | None, after: bytes) -> None:
    assert tracked(before) == after
    assert tracked(after) == after


def test_a_folder_without_such_a_file_gets_none() -> None:
    assert Tracking(NOWHERE, ["*.pt"], ["sub/a.pt"]).apply("sub/.gitattributes", None) is None
    assert (
        Tracking(NOWHERE, ["*.pt"], ["a.pt"]).apply("sub/.gitattributes", b"*.pt binary\n")
        == b"*.pt binary\n"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        (b"", b""),
        (LINE, None),
        (LINE + b"*.txt text\n", b"*.txt text\n"),
        (b"*.pt filter=theta -text eol=lf\n", b"*.pt eol=lf\n"),
        (b"# nothing of ours", b"# nothing of ours"),
    ],
)
def test_the_way_back(before: bytes | None, after: bytes | None) -> None:
    assert untracked(".gitattributes", before, lfs=False) == after


def test_the_way_back_to_git_lfs() -> None:
    lfs = b"*.pt filter=lfs diff=lfs merge=lfs -text\n"
    assert untracked(".gitattributes", LINE, lfs=True) == lfs
    assert untracked(".gitattributes", cast("bytes", tracked(lfs)), lfs=True) == lfs
    assert untracked(".gitattributes", b"x y\n", lfs=True) == b"x y\n"


def test_a_pattern_that_git_would_ignore_is_refused() -> None:
    with pytest.raises(GitError, match="shorter patterns"):
        tracked(None, "x" * 2100)
