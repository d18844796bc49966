"""The modules that talk to git or read its files, against real git."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from gitrepo import Repo
from small_models import safetensors_file

from git_theta.errors import GitError
from git_theta.git.command import run, run_code
from git_theta.git.history.blobs import BlobReader
from git_theta.git.repository import discover
from git_theta.git.writing import index
from git_theta.settings import Settings
from git_theta.workflows.session import Session

ODD = [
    "plain",
    "with space",
    "größe",
    "-dash",
    "0:zero",
    "2:two",
    ":colon",
    "sub/inner",
    "a\tb",
    "new\nline",
    "*",
    "HEAD",
]
if os.name == "nt":
    ODD = ["plain", "with space", "größe", "-dash", "sub/inner", "HEAD"]


@pytest.fixture(autouse=True)
def isolated(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests call git from this very process."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in repo.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(repo.path)


# Blobs


def test_blobs_by_any_name(repo: Repo) -> None:
    for number, name in enumerate(ODD):
        repo.write(name, b"content %d\n" % number)
    repo.git("add", "-A", GIT_LITERAL_PATHSPECS="1")
    repo.git("commit", "-qm", "odd")
    with BlobReader(discover(repo.path), repo.path) as blobs:
        for number, name in enumerate(ODD):
            expected = b"content %d\n" % number
            assert blobs.read(f"HEAD:{name}") == expected
            assert blobs.read(f":0:{name}") == expected
            oid = repo.git("hash-object", "--stdin", stdin=expected).decode().strip()
            assert blobs.read(oid) == expected
        for absent in (
            "HEAD:nothing",
            ":nothing",
            ":0:nothing",
            "0" * 40,
            "HEAD",
            "HEAD:sub",
            "nobranch:x",
            "",
            "x" * 5000,
            "new\nline",
        ):
            assert blobs.read(absent) is None
        assert blobs.read("HEAD:plain", limit=9) is None
        assert blobs.read("HEAD:plain", limit=10) == b"content 0\n"


def test_blobs_of_any_content(repo: Repo) -> None:
    contents = [b"", b"\n", b"\n\n", b"a blob 5\n", os.urandom(1 << 20), b"x" * 70_000]
    with BlobReader(discover(repo.path), repo.path) as blobs:
        for content in contents * 2:
            oid = repo.git("hash-object", "-w", "--stdin", stdin=content).decode().strip()
            assert blobs.read(oid) == content


def test_blobs_follow_the_index(repo: Repo) -> None:
    with BlobReader(discover(repo.path), repo.path) as blobs:
        assert blobs.read(":0:file") is None
        for number in range(3):
            repo.write("file", b"%d" % number * (number + 1))
            repo.git("add", "file")
            assert blobs.read(":0:file") == b"%d" % number * (number + 1)
        repo.git("rm", "-qf", "file")
        assert blobs.read(":0:file") is None


def test_blobs_from_several_threads(repo: Repo) -> None:
    oids = {
        repo.git("hash-object", "-w", "--stdin", stdin=b"%d" % number * 100).decode().strip(): (
            b"%d" % number * 100
        )
        for number in range(20)
    }
    wrong: list[str] = []
    with BlobReader(discover(repo.path), repo.path) as blobs:

        def work() -> None:
            wrong.extend(
                oid
                for _ in range(20)
                for oid, content in oids.items()
                if blobs.read(oid) != content
            )

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_reader_that_was_closed_reads_again(repo: Repo) -> None:
    blobs = BlobReader(discover(repo.path), repo.path)
    assert blobs.read("HEAD:.gitattributes")
    blobs.close()
    blobs.close()
    assert blobs.read("HEAD:.gitattributes")
    blobs.close()


@pytest.mark.parametrize("name", [name for name in ODD if "*" not in name])
def test_known_manifests(repo: Repo, name: str) -> None:
    """What the index and HEAD hold of a model, the index first, whatever it is called."""
    name += ".safetensors"
    texts = []
    for number in range(2):
        repo.write(name, safetensors_file({"w": np.full(100, number, np.float32)}))
        repo.git("add", "--", name, GIT_LITERAL_PATHSPECS="1")
        texts.append(repo.blob(f":0:{name}"))
        if number == 0:
            repo.git("commit", "-qm", "one")
    with Session(discover(repo.path), Settings(), print) as session:
        found = session.known_manifests(name)
        assert [manifest.identity for manifest in found] == [
            repo.manifest(f":0:{name}").identity,
            repo.manifest(f"HEAD:{name}").identity,
        ]
        assert session.known_manifests("nothing.safetensors") == []
    assert texts[0] != texts[1]


# Commands and repositories


def test_errors_of_git_are_one_line(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(GitError, match="git rev-parse failed: ") as caught:
        run(["rev-parse", "--verify", "nothing"], cwd=repo.path)
    assert "\n" not in str(caught.value)
    assert run_code(["rev-parse", "--verify", "nothing"], cwd=repo.path, allowed=(128,))[0] == 128
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GitError, match="git is not installed"):
        run(["version"])


@pytest.mark.parametrize(("options", "length"), [([], 40), (["--object-format=sha256"], 64)])
def test_discover(
    tmp_path: Path, environment: Mapping[str, str], options: list[str], length: int
) -> None:
    repo = Repo.create(
        tmp_path / ("with space" if os.name == "nt" else "with space\nand a line"),
        environment,
        *options,
    )
    (repo.path / "sub").mkdir()
    for start in (repo.path, repo.path / "sub"):
        found = discover(start)
        assert (
            found.git_dir.resolve() == found.common_dir.resolve() == (repo.path / ".git").resolve()
        )
        assert found.worktree is not None
        assert found.worktree.resolve() == repo.path.resolve()
        assert found.hash_length == length
        assert found.objects.resolve() == (repo.path / ".git/theta/objects").resolve()
    repo.git("worktree", "add", "-q", str(tmp_path / "tree"))
    tree = discover(tmp_path / "tree")
    assert tree.worktree is not None
    assert tree.common_dir.resolve() == (repo.path / ".git").resolve()
    assert tree.git_dir.resolve() == (repo.path / ".git/worktrees/tree").resolve()
    assert tree.objects.resolve() == (repo.path / ".git/theta/objects").resolve()
    assert tree.cache.resolve() == (repo.path / ".git/worktrees/tree/theta/cache").resolve()


def test_discover_bare_and_none(repo: Repo, tmp_path: Path) -> None:
    repo.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    bare = discover(tmp_path / "bare.git")
    assert bare.worktree is None
    assert bare.common_dir.resolve() == (tmp_path / "bare.git").resolve()
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(GitError, match="not inside a git repository"):
        discover(tmp_path / "nowhere")


def test_alternates(
    repo: Repo, tmp_path: Path, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("one", "two", "three")):
        repo.at(repo.path if number == 0 else tmp_path / ("repo", "one", "two")[number]).git(
            "clone", "-q", "--shared", ".", str(tmp_path / name)
        )
    found = [path.resolve() for path in discover(tmp_path / "three").alternates()]
    assert found == [
        (tmp_path / name / ".git/theta/objects").resolve() for name in ("two", "one", "repo")
    ]
    file = tmp_path / "one/.git/objects/info/alternates"
    file.write_text(
        "# a comment\n\n../../../repo/.git/objects\n" + f"{tmp_path}/one/.git/objects\n",
        encoding="utf-8",
    )
    found = [path.resolve() for path in discover(tmp_path / "one").alternates()]
    assert found == [(repo.path / ".git/theta/objects").resolve()], (
        "relative paths count, circles do not"
    )
    monkeypatch.setenv("GIT_ALTERNATE_OBJECT_DIRECTORIES", str(tmp_path / "two/.git/objects"))
    assert [path.resolve() for path in discover(repo.path).alternates()] == [
        (tmp_path / "two/.git/theta/objects").resolve()
    ]


# The index


def entries_of(repo: Repo) -> list[bytes]:
    return repo.git("ls-files", "--stage", "--debug").splitlines()


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("options", [[], ["--object-format=sha256"]], ids=["sha1", "sha256"])
def test_patched_index_is_what_git_would_write(
    tmp_path: Path, environment: Mapping[str, str], version: int, options: list[str]
) -> None:
    """Files of all lengths of names; only the stat data of those that were written changes, and git
    finds them unchanged.
    """
    repo = Repo.create(tmp_path / "other", environment, *options)
    names = [f"{'n' * length}{length}" for length in range(1, 24)] + [
        "sub/a",
        "sub/ab",
        "sub/b/c",
        "größe",
        "x" * 200,
    ]
    for name in names:
        repo.write(name, name.encode())
    repo.git("update-index", f"--index-version={version}")
    repo.git("add", "-A")
    repo.git("commit", "-qm", "many")
    if version == 3:
        # Extended flags: else git writes version 2
        repo.git("update-index", "--skip-worktree", "sub/ab")
        repo.git("update-index", f"--index-version={version}")
    before = entries_of(repo)
    written = {}
    for name in names[::2]:
        (repo.path / name).unlink()
        written[name] = repo.write(name, name.encode()).lstat()
        os.utime(repo.path / name, ns=(10**18, 10**18 + 123_456_789))
        written[name] = (repo.path / name).lstat()
    repository = discover(repo.path)
    raw = repository.index.read_bytes()
    assert raw[4:8] == bytes([0, 0, 0, version])
    assert index.refresh(repository, {**written, "not in the index": (repo.path / "größe").lstat()})
    repo.git("fsck", "--no-dangling")
    assert repo.git("diff-files", "--name-only") == b""
    after = entries_of(repo)
    assert [line for line in after if b"\t" in line and line[:1] != b" "] == [
        line for line in before if b"\t" in line and line[:1] != b" "
    ]
    patched = repository.index.read_bytes()
    assert len(patched) == len(raw)
    assert patched != raw
    repo.git("update-index", "-q", "--really-refresh")
    assert entries_of(repo) == after, "git itself would have put the same there"


def test_index_that_is_not_touched(repo: Repo) -> None:
    repo.commit("one", file=b"x")
    repository, written = discover(repo.path), {"file": (repo.path / "file").lstat()}
    repo.git("update-index", "--split-index")
    before = repository.index.read_bytes()
    assert not index.refresh(repository, written)
    assert repository.index.read_bytes() == before
    repo.git("update-index", "--no-split-index")
    lock = repository.index.with_name("index.lock")
    lock.write_bytes(b"")
    assert not index.refresh(repository, written)
    assert lock.read_bytes() == b"", "another command's lock is left alone"
    lock.unlink()
    assert index.refresh(repository, written)
    assert not lock.exists()
    for damage in (
        before[:50],
        b"DIRC",
        b"",
        b"JUNK" + before[4:],
        before[:4] + b"\0\0\0\x05" + before[8:],
        before[:8] + b"\xff" * 4 + before[12:],
    ):
        repository.index.write_bytes(damage)
        assert not index.refresh(repository, written)
        assert repository.index.read_bytes() == damage
        assert not lock.exists()
    repository.index.unlink()
    assert not index.refresh(repository, written)
    assert not lock.exists()


def test_conflicted_entries_are_left_alone(repo: Repo) -> None:
    repo.commit("base", file=b"base", other=b"other")
    repo.git("checkout", "-qb", "topic")
    repo.commit("theirs", file=b"theirs")
    repo.git("checkout", "-q", "main")
    repo.commit("ours", file=b"ours")
    repo.git_fails("merge", "topic")
    before = repo.git("ls-files", "--unmerged")
    repository = discover(repo.path)
    assert index.refresh(
        repository, {name: (repo.path / name).lstat() for name in ("file", "other")}
    )
    assert repo.git("ls-files", "--unmerged") == before
    repo.git("diff-files")


def test_index_without_a_checksum(repo: Repo) -> None:
    repo.git("config", "index.skipHash", "true")
    repo.commit("one", file=b"x")
    repository = discover(repo.path)
    raw = bytearray(repository.index.read_bytes())
    raw[-20:] = bytes(20)  # as git 2.40 and later write it
    repository.index.write_bytes(raw)
    assert index.refresh(repository, {"file": (repo.path / "file").lstat()})
    assert repository.index.read_bytes()[-20:] == bytes(20)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_the_index_keeps_its_mode(repo: Repo) -> None:
    repo.commit("one", file=b"x")
    repository = discover(repo.path)
    repository.index.chmod(0o664)
    assert index.refresh(repository, {"file": (repo.path / "file").lstat()})
    assert repository.index.stat().st_mode & 0o777 == 0o664
