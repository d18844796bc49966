"""What a history of Git LFS pointers names, hostile ones included."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from gitrepo import Repo

from git_theta.core import lfs_pointer
from git_theta.core.manifest import ObjectRef
from git_theta.errors import GitError
from git_theta.git.history import pointer_scan


def ref(number: int) -> ObjectRef:
    return ObjectRef(hashlib.sha256(str(number).encode()).hexdigest(), number)


def text(number: int) -> bytes:
    return lfs_pointer.dump(*ref(number))


def data(content: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(content), content)


def commit(files: Mapping[str, tuple[str, bytes]], reset: bool = False) -> bytes:
    """A commit for git fast-import whose tree is ``files``: path → mode and content."""
    lines = [b"reset refs/theta/objects\n"] if reset else []
    lines += [b"commit refs/theta/objects\ncommitter A <a@b> 1 +0000\n", data(b"pointers")]
    if not reset:
        lines.append(b"")
    lines.append(b"deleteall\n")
    for path, (mode, content) in files.items():
        lines.append(b"M %s inline %s\n%s" % (mode.encode(), path.encode(), data(content)))
    return b"".join(lines) + b"\n"


@pytest.fixture(params=["sha1", "sha256"])
def bare(tmp_path: Path, environment: Mapping[str, str], request: pytest.FixtureRequest) -> Repo:
    (tmp_path / "bare").mkdir()
    repo = Repo(tmp_path / "bare", environment)
    repo.git("init", "-q", "--bare", f"--object-format={request.param}", ".")
    return repo


def tip(repo: Repo) -> str:
    return repo.git("rev-parse", "refs/theta/objects").decode().strip()


def test_the_whole_history_counts_and_what_was_excluded_does_not(bare: Repo) -> None:
    bare.git("fast-import", "--quiet", stdin=commit({"0": ("100644", text(1))}))
    first = tip(bare)
    more = {"0": ("100644", text(2)), "1": ("100644", text(3))}
    stream = commit(more).replace(b"deleteall", b"from " + first.encode() + b"\ndeleteall")
    bare.git("fast-import", "--quiet", stdin=stream)
    assert set(pointer_scan.named(bare.path, [tip(bare)])) == {ref(1), ref(2), ref(3)}
    assert set(pointer_scan.named(bare.path, [tip(bare)], [first])) == {ref(2), ref(3)}
    assert set(pointer_scan.named(bare.path, [first])) == {ref(1)}
    assert list(pointer_scan.named(bare.path, [])) == []
    assert pointer_scan.unnamed(bare.path, [tip(bare)], [ref(5), ref(2), ref(4)]) == [
        ref(5),
        ref(4),
    ]


def test_only_exact_pointers_count(bare: Repo) -> None:
    files = {
        "0": ("100644", text(1)),
        "huge": ("100644", text(2) + bytes(3_000_000)),
        "trailing": ("100644", text(3) + b"\n"),
        "windows": ("100644", text(4).replace(b"\n", b"\r\n")),
        "empty": ("100644", b""),
        "same size": ("100644", bytes(len(text(5)))),
        "link": ("120000", b"/etc/passwd"),
        "deep/er/x": ("100644", text(6)),
        ".gitattributes": ("100644", b"* filter=evil"),
        'odd\\n"name"': ("100755", text(7)),
    }
    bare.git("fast-import", "--quiet", stdin=commit(files))
    assert set(pointer_scan.named(bare.path, [tip(bare)])) == {ref(1), ref(6), ref(7)}


def test_too_many_pointers_are_an_error_before_they_are_read(bare: Repo) -> None:
    files = {str(number): ("100644", text(number)) for number in range(20)}
    bare.git("fast-import", "--quiet", stdin=commit(files))
    assert len(list(pointer_scan.named(bare.path, [tip(bare)], limit=20))) == 20
    with pytest.raises(GitError, match="more than 19 Git LFS pointers"):
        list(pointer_scan.named(bare.path, [tip(bare)], limit=19))


def test_a_tip_that_is_missing_is_an_error(bare: Repo) -> None:
    bare.git("fast-import", "--quiet", stdin=commit({"0": ("100644", text(1))}))
    with pytest.raises(GitError, match="cannot be read"):
        list(pointer_scan.named(bare.path, [tip(bare).translate(str.maketrans("01", "10"))]))


def test_replacements_do_not_hide_pointers(bare: Repo) -> None:
    bare.git("fast-import", "--quiet", stdin=commit({"0": ("100644", text(1))}))
    blob = bare.git("rev-parse", f"{tip(bare)}:0").decode().strip()
    other = bare.git("hash-object", "-w", "--stdin", stdin=b"nothing").decode().strip()
    bare.git("replace", blob, other)
    assert set(pointer_scan.named(bare.path, [tip(bare)])) == {ref(1)}
