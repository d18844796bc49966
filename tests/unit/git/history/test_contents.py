"""Reading git's listings."""

from __future__ import annotations

from git_theta.git.history.contents import BlobContent, TrackedFile, in_index

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
    listing = "".join(f"{row}\x00" for row in rows)
    assert in_index(listing.encode()) == [
        TrackedFile("model.pt", "100644", A),
        TrackedFile("sub/my model\n.pt", "100755", B),
        TrackedFile("both.pt", "100644", B, unmerged=True),
        TrackedFile("theirs.pt", "100644", A, unmerged=True),
    ]
    assert in_index(b"") == []


def test_what_a_blob_is() -> None:
    assert BlobContent(100, b"git-theta manifest 1\n").is_manifest
    assert not BlobContent(100, b"PK\3\4").is_manifest
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    assert BlobContent(130, pointer).is_lfs_pointer
    assert not BlobContent(5000, pointer).is_lfs_pointer
