"""Reading git's listings."""

from __future__ import annotations

from git_theta.git.history import listing
from git_theta.git.history.contents import BlobContent
from git_theta.git.history.listing import TrackedFile

A, B, C, D = (letter * 40 for letter in "abcd")


def test_the_index() -> None:
    rows = [
        f"100644 {A} 0\tmodel.pt",
        f"100755 {B} 0\tsub/my model\n.pt",
        f"120000 {C} 0\tlink",
        f"160000 {D} 0\tsubmodule",
        *(f"100644 {blob} {stage}\tboth.pt" for stage, blob in ((1, A), (2, B), (3, C))),
        *(f"100644 {blob} {stage}\ttheirs.pt" for stage, blob in ((1, A), (3, C))),
    ]
    printed = "".join(f"{row}\x00" for row in rows)
    entries = list(listing.parse(printed.encode()))
    assert [(entry.path, entry.stage) for entry in entries[3:6]] == [
        ("submodule", 0),
        ("both.pt", 1),
        ("both.pt", 2),
    ]
    assert listing.one_each(entries) == [
        TrackedFile("model.pt", "100644", A),
        TrackedFile("sub/my model\n.pt", "100755", B),
        TrackedFile("link", "120000", C),
        TrackedFile("both.pt", "100644", B, 2),
        TrackedFile("theirs.pt", "100644", A, 1),
    ]
    assert list(listing.parse(b"")) == []


def test_an_index_with_tags_and_a_tree() -> None:
    tagged = f"S 100644 {A} 0\taway\0H 120000 {B} 0\tlink\0M 100644 {C} 3\tx\0".encode()
    assert list(listing.parse(tagged)) == [
        TrackedFile("away", "100644", A, left_out=True),
        TrackedFile("link", "120000", B),
        TrackedFile("x", "100644", C, 3),
    ]
    rows = (f"100755 blob {A}\ta b\n", f"040000 tree {B}\tsub", f"160000 commit {C}\tm")
    tree = b"".join(row.encode() + b"\x00" for row in rows)
    entries = list(listing.parse(tree + f"100644 blob {D}\t".encode() + b"\xff\0"))
    assert [entry.blob for entry in entries if entry.is_blob] == [A, D]
    assert entries[3].path == "\udcff"
    assert listing.by_blob(entries) == {A: "a b\n", D: "\udcff"}


def test_what_a_blob_is() -> None:
    assert BlobContent(100, b"git-theta manifest 1\n").is_manifest
    assert not BlobContent(100, b"PK\3\4").is_manifest
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    assert BlobContent(130, pointer).is_lfs_pointer
    assert not BlobContent(5000, pointer).is_lfs_pointer
