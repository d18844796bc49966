"""Reading git's lists of changed files and of commits."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.errors import GitError
from git_theta.git.history import changes, commits
from git_theta.git.history.changes import FileChange

A, B, ZERO = "a" * 40, "b" * 40, "0" * 40


def test_a_list_of_changed_files() -> None:
    raw = (
        f":100644 100755 {A} {ZERO} M\0x y\0:100644 000000 {A} {ZERO} D\0gone\0:000000 100644"
        f" {ZERO} {B} A\0new\0:100644 100644 {A} {B} R092\0old\0moved\0:000000 000000 {ZERO} {ZERO}"
        " U\0conflict\0"
    ).encode() + b":100644 100644 %b %b M\0\xff\n\0" % (A.encode(), B.encode())
    assert changes.parse(raw) == [
        FileChange("x y", "x y", "100644", "100755", A, "", "M"),
        FileChange("gone", "gone", "100644", "000000", A, None, "D"),
        FileChange("new", "new", "000000", "100644", None, B, "A"),
        FileChange("old", "moved", "100644", "100644", A, B, "R"),
        FileChange("conflict", "conflict", "000000", "000000", None, None, "U"),
        FileChange("\udcff\n", "\udcff\n", "100644", "100644", A, B, "M"),
    ]
    assert changes.parse(b"") == []


@pytest.mark.parametrize(
    "raw",
    [b"rubbish\0", b":100644 100644\0x\0", b":1 2 3 4 M", b":100644 100644 a b R100\0only-one"],
)
def test_a_list_that_is_torn(raw: bytes) -> None:
    with pytest.raises(GitError):
        changes.parse(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_an_error(raw: bytes) -> None:
    for read in (changes.parse, lambda data: list(commits.parse(data, "x"))):
        with contextlib.suppress(GitError):
            read(raw)


def test_a_log() -> None:
    def fields(oid: str, parents: str, *rest: str) -> bytes:
        return "\0".join([oid, parents, *rest]).encode() + b"\0"

    raw = (
        fields(
            "1" * 40, f"{'2' * 40} {'3' * 40}", "Ann", "a@b", "2026-01-01T00:00:00+00:00", "subject"
        )
        + f"\n:100644 100644 {A} {B} M\0path\0".encode()
        + fields("2" * 40, "", "Bob", "b@b", "2025-01-01T00:00:00+00:00", "")
        + f"\n:000000 100644 {ZERO} {A} A\0path\0".encode()
        + fields("3" * 40, "", "", "", "", ":not a change")
    )
    first, second, third = commits.parse(raw, "path")
    assert (first.oid, first.parents, first.author, first.old_blob, first.blob) == (
        "1" * 40,
        ("2" * 40, "3" * 40),
        "Ann",
        A,
        B,
    )
    assert (second.subject, second.old_blob, second.blob) == ("", None, A)
    assert (third.subject, third.old_blob, third.blob) == (":not a change", None, None)
