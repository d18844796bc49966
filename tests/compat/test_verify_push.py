"""``git theta verify-push``: a server refuses commits whose models are not complete, whatever tool
pushed them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import sharing
from gitrepo import Repo
from sharing import World, changed, model

from git_theta.core import lfs_pointer
from git_theta.core.manifest import NOTICE

HOOK = "#!/bin/sh\nexec git theta verify-push"
DAMAGED = f"git-theta manifest 1\n{NOTICE}\nformat x\nsize 9\nskeleton u8[0] inline:\n\nrubbish\n"


def guard(world: World, options: str = "") -> None:
    """Have the remote verify what is pushed."""
    hook = world.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"{HOOK}{options}\n", encoding="utf-8")
    hook.chmod(0o755)


def at(folder: Path, environment: Mapping[str, str], *options: str) -> World:
    world = World(folder, sharing.with_program(environment, folder / "bin"), server=False)
    if options:
        shutil.rmtree(world.remote)
        sharing.bare(world.remote, world.environment, *options)
    guard(world)
    return world


@pytest.fixture
def world(tmp_path: Path, environment: Mapping[str, str]) -> World:
    return at(tmp_path, environment)


@pytest.fixture
def one(world: World) -> Repo:
    repo = world.start()
    repo.commit("first", model__safetensors=model(1))
    return repo


def refused(repo: Repo, *refs: str) -> list[str]:
    """Push, as a tool without hooks does; what the server says of it."""
    said = repo.git_fails("push", "-q", "--no-verify", "origin", *refs)
    assert "pre-receive hook declined" in said
    lines = [line.removeprefix("remote: ").strip() for line in said.splitlines()]
    print(said)
    return [line.removeprefix("git-theta: ") for line in lines if line.startswith("git-theta: ")]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, with its size and times, but for what git writes in a push."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for part in ("theta", "lfs", "hooks")
        for path in (folder / part).rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("options", [(), ("--object-format=sha256",)], ids=["sha1", "sha256"])
def test_a_push_without_objects_is_refused_and_one_with_them_passes(
    tmp_path: Path, environment: Mapping[str, str], options: tuple[str, ...]
) -> None:
    world = at(tmp_path, environment, *options)
    repo = Repo.create(tmp_path / "one", world.environment, *options)
    repo.git("remote", "add", "origin", world.url)
    repo.commit("first", model__safetensors=model(1))
    (oid, size), *_ = repo.manifest("HEAD:model.safetensors").objects().items()
    first, *_, last = refused(repo, "main")
    assert first.startswith(f"model.safetensors (commit {repo.head()[:12]}): tensor ")
    assert f"object {oid} ({size:,} bytes) is not in the repository's object store" in first
    assert last.startswith("refused. 'git theta push'")
    assert world.refs() == ""
    repo.theta("push", "origin", "main")
    before = files(world.remote)
    repo.git("push", "-q", "--no-verify", "origin", "main")
    assert world.refs()
    assert files(world.remote) == before, "verify-push only reads"
    repo.git("push", "-q", "--no-verify", "origin", "main:other")
    repo.git("push", "-q", "--no-verify", "origin", ":other")
    assert "other" not in world.refs(), "deleting a ref is fine"


def test_only_new_commits_are_looked_at(world: World, one: Repo) -> None:
    one.theta("push", "origin", "main")
    one.git("push", "-q", "--no-verify", "origin", "main")
    world.forget_objects()
    one.commit("notes", notes__txt=b"nothing of a model")
    one.git("push", "-q", "--no-verify", "origin", "main", "main:refs/heads/second")
    one.commit("second", model__safetensors=changed(model(1), 0, 5))
    assert "object " in refused(one, "main")[0]


def test_every_commit_of_the_push_is_looked_at(world: World, one: Repo) -> None:
    """The middle one lacks an object that the last one does not need."""
    one.theta("push", "origin", "main")
    one.git("push", "-q", "--no-verify", "origin", "main")
    middle = one.commit("second", model__safetensors=changed(model(1), 0, 5))
    one.commit("third", model__safetensors=model(1))
    lines = refused(one, "main")
    assert lines[0].startswith(f"model.safetensors (commit {middle[:12]}): tensor layer.0.weight")


def test_a_damaged_manifest_is_named_with_its_line(world: World, one: Repo) -> None:
    one.theta("push", "origin", "main")
    put(one, "model.safetensors", DAMAGED.encode())
    lines = refused(one, "main")
    assert lines[0].endswith(
        "no valid manifest: line 7: a tensor's line needs a name, a type and where it is stored"
    )
    assert "model.safetensors (commit" in lines[0]
    assert len(lines) == 2


def put(repo: Repo, path: str, data: bytes, mode: str = "100644") -> str:
    """Commit a file as it is, past the filter; the commit."""
    blob = repo.git("hash-object", "-w", "--stdin", stdin=data).decode().strip()
    repo.git("update-index", "--add", "--cacheinfo", f"{mode},{blob},{path}")
    repo.git("commit", "-qm", f"put {len(data)} bytes")
    return repo.head()


def test_files_that_are_not_stored_as_attributes_say_are_refused(world: World, one: Repo) -> None:
    one.theta("push", "origin", "main")
    one.git("push", "-q", "--no-verify", "origin", "main")
    manifest = one.blob("HEAD:model.safetensors")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n"
    raw = put(one, "sub/raw.safetensors", model(2))
    put(one, "sub/raw.safetensors", b"")  # mended later, but the raw one stays in history
    put(one, "pointer.pt", pointer)
    put(one, "copy.txt", manifest)
    put(one, "link.pt", b"model.safetensors", "120000")
    lines = refused(one, "main")
    assert [line.partition(" (commit ")[0] for line in lines[:-1]] == [
        "copy.txt",
        "pointer.pt",
        "sub/raw.safetensors",
    ]
    assert "no .gitattributes tracks the file" in lines[0]
    assert lines[1].endswith("committed without Git-Theta (a Git LFS pointer)")
    assert f"(commit {raw[:12]}): committed without Git-Theta (as it is, " in lines[2]
    guard(world, " --no-attributes")
    one.git("push", "-q", "--no-verify", "origin", "main")


def test_the_attributes_of_each_commit_count(world: World, one: Repo) -> None:
    """Of its own folder's, too; and what was raw before it was tracked is right."""
    one.theta("push", "origin", "main")
    one.git("push", "-q", "--no-verify", "origin", "main")
    put(one, "sub/old.model", model(2))
    put(one, "sub/.gitattributes", b"*.model filter=theta -text\n")
    one.git("push", "-q", "--no-verify", "origin", "main")
    put(one, "sub/new.model", model(3))
    assert refused(one, "main")[0].startswith("sub/new.model (commit ")


def test_merges_are_looked_at(world: World, one: Repo) -> None:
    one.theta("push", "origin", "main")
    one.git("push", "-q", "--no-verify", "origin", "main")
    one.git("checkout", "-qb", "side")
    one.commit("side", side__txt=b"side")
    one.git("checkout", "-q", "main")
    one.commit("main", main__txt=b"main")
    one.git("merge", "-q", "--no-commit", "--no-ff", "side")
    put(one, "evil.safetensors", b"not a manifest")
    assert refused(one, "main")[0].startswith("evil.safetensors (commit ")


def test_a_tag_of_a_file_is_looked_at(world: World, one: Repo) -> None:
    blob = one.git("hash-object", "-w", "--stdin", stdin=DAMAGED.encode()).decode().strip()
    one.git("tag", "-a", "-m", "a blob", "odd", blob)
    assert refused(one, "odd")[0].startswith(f"blob {blob}: no valid manifest: line 7: ")


def test_replaced_objects_hide_nothing(world: World, one: Repo) -> None:
    one.theta("push", "origin", "main")
    one.git("push", "-q", "--no-verify", "origin", "main")
    good = one.git("rev-parse", "HEAD:model.safetensors").decode().strip()
    bad = one.git("hash-object", "-w", "--stdin", stdin=DAMAGED.encode()).decode().strip()
    put(one, "model.safetensors", DAMAGED.encode())
    one.git("update-ref", f"refs/replace/{bad}", good)
    guard(world, " --no-objects --no-attributes")
    one.git("push", "-q", "--no-verify", "origin", f"{good}:refs/tags/known")
    Repo(world.remote, world.environment).git("update-ref", f"refs/replace/{bad}", good)
    assert "no valid manifest" in refused(one, "main")[0]


def test_the_number_of_lines_is_bounded(world: World, one: Repo) -> None:
    for number in range(80):
        (one.path / f"m{number:02}.pt").write_bytes(b"x")
        blob = one.git("hash-object", "-w", "--stdin", stdin=DAMAGED.encode()).decode().strip()
        one.git("update-index", "--add", "--cacheinfo", f"100644,{blob},m{number:02}.txt")
    one.git("commit", "-qm", "many")
    guard(world, " --no-objects")
    lines = refused(one, "main")
    assert len(lines) == 52
    assert lines[-2] == "there are more faults; these are the first 50"


def test_text_from_files_is_escaped(world: World, one: Repo) -> None:
    one.theta("push", "origin", "main")
    put(one, "bad\x1b[2J\n.pt", b"raw")
    assert refused(one, "main")[0].startswith("bad\\x1b[2J\\x0a.pt (commit ")


# Elsewhere


def test_storage_is_asked_instead(tmp_path: Path, world: World, one: Repo) -> None:
    folder = tmp_path / "storage"
    folder.mkdir()
    guard(world, f" --storage {folder.as_uri()}")
    assert f"is not in {folder.as_uri()}" in refused(one, "main")[0]
    one.theta("remote", "set", "origin", folder.as_uri())
    one.theta("push", "origin", "main")
    one.git("push", "-q", "--no-verify", "origin", "main")


def verify(repo: Repo, *words: str, stdin: bytes = b"") -> tuple[int, str]:
    done = repo.run(["git", "theta", "verify-push", *words], stdin)
    assert not done.stdout
    return done.returncode, done.stderr.decode()


def test_in_ci_revisions_are_named(world: World, one: Repo) -> None:
    """A checkout that has the manifests alone; a single revision means its files."""
    one.theta("push", "origin", "main")
    one.git("push", "-q", "--no-verify", "origin", "main")
    one.commit("second", model__safetensors=changed(model(1), 0, 5))
    one.theta("push", "origin", "main")
    one.git("push", "-q", "--no-verify", "origin", "main")
    job = world.clone("job", "-c", "filter.theta.process=", "-c", "filter.theta.required=false")
    elsewhere = "--storage", (world.remote / "theta" / "objects").as_uri()
    assert verify(job, "HEAD", *elsewhere) == (0, "")
    assert verify(job, "HEAD~1..HEAD", *elsewhere) == (0, "")
    code, told = verify(job, "HEAD")
    assert code == 1
    assert "model.safetensors (commit " in told
    shutil.rmtree(world.remote / "theta")
    (world.remote / "theta" / "objects").mkdir(parents=True)
    assert verify(job, "HEAD~1..HEAD", *elsewhere)[0] == 1
    assert verify(job, "HEAD", "--no-objects") == (0, "")


@pytest.mark.parametrize(
    ("words", "stdin", "reason"),
    [
        (("nowhere",), b"", "there is no revision 'nowhere' here"),
        (("--all",), b"", "No such option"),
        ((), b"rubbish\n", "standard input must hold the lines 'old new ref'"),
        ((), b"\xff\0" * 1000, "standard input must hold the lines 'old new ref'"),
        (("--storage", "x://y"), b"", "object storage; it must start with"),
        (("--lfs", "ftp://y"), b"", "is not the URL of a Git LFS server"),
        (("--lfs", "https://a:b@y"), b"", "holds no user name or password"),
        (("--lfs", "https://y", "--no-objects"), b"", "exclude each other"),
    ],
)
def test_misuse_is_told_apart(one: Repo, words: tuple[str, ...], stdin: bytes, reason: str) -> None:
    code, told = verify(one, *words, stdin=stdin)
    assert code == 2
    assert reason in told


def test_nothing_pushed_is_nothing_wrong(one: Repo) -> None:
    assert verify(one) == (0, "")


# Hostile pushes


def test_a_manifest_too_large_is_not_read(world: World, one: Repo) -> None:
    large = one.path / "large"
    with large.open("wb") as file:
        file.write(DAMAGED.encode())
        file.truncate(300 << 20)
    blob = one.git("-c", "core.compression=1", "hash-object", "-w", "--no-filters", "large")
    large.unlink()
    one.git("update-index", "--add", "--cacheinfo", f"100644,{blob.decode().strip()},m.pt")
    one.git("commit", "-qm", "large")
    assert "a manifest of 315 MB; none is larger than" in refused(one, "main")[0]


def bomb(repo: Repo, levels: int, width: int) -> str:
    """A commit of a few trees that describe width ** levels files."""
    blob = repo.git("hash-object", "-w", "--stdin", stdin=b"x").decode().strip()
    lines = "".join(f"100644 blob {blob}\t{number}\n" for number in range(width))
    tree = repo.git("mktree", stdin=lines.encode()).decode().strip()
    for _ in range(levels - 1):
        lines = "".join(f"040000 tree {tree}\t{number}\n" for number in range(width))
        tree = repo.git("mktree", stdin=lines.encode()).decode().strip()
    return repo.git("commit-tree", "-m", "bomb", tree).decode().strip()


def test_trees_that_describe_too_many_files_are_refused(world: World, one: Repo) -> None:
    guard(world, " --limit 50000")
    one.git("update-ref", "refs/heads/bomb", bomb(one, 12, 10))
    lines = refused(one, "bomb")
    assert lines[0].startswith("there is more to check than 50,000 changed files")


def test_deep_trees_are_no_trouble(world: World, one: Repo) -> None:
    one.git("update-ref", "refs/heads/deep", bomb(one, 1500, 1))
    one.git("push", "-q", "--no-verify", "origin", "deep")


# Pointers


def point(repo: Repo, refs: Mapping[str, int], **others: bytes) -> str:
    """A commit of pointers to objects, and of ``others``."""
    files = {oid[:8]: lfs_pointer.dump(oid, size) for oid, size in refs.items()} | others
    lines = b""
    for name, data in files.items():
        blob = repo.git("hash-object", "-w", "--stdin", stdin=data).decode().strip()
        lines += f"100644 blob {blob}\t{name}\n".encode()
    tree = repo.git("mktree", stdin=lines).decode().strip()
    return repo.git("commit-tree", "-m", "pointers", tree).decode().strip()


@pytest.mark.parametrize("ref", ["refs/theta/objects", "refs/heads/theta/objects"])
def test_each_object_needs_a_pointer_once_there_are_some(world: World, one: Repo, ref: str) -> None:
    one.theta("push", "origin", "main")
    one.git("push", "-q", "--no-verify", "origin", "main")  # nobody uses them yet
    first = one.manifest("HEAD:model.safetensors").objects()
    one.git("push", "-q", "--no-verify", "origin", f"{point(one, first)}:{ref}")
    one.commit("second", model__safetensors=changed(model(1), 0, 5))
    one.theta("push", "origin", "main")
    new = one.manifest("HEAD:model.safetensors").objects().keys() - first.keys()
    lines = refused(one, "main")
    assert len(lines) == 1 + len(new)
    assert lines[0].endswith("has no Git LFS pointer at the ref theta/objects")
    assert lines[0].partition("object ")[2][:64] in new
    guard(world, " --pointers off")
    one.git("push", "-q", "--no-verify", "origin", "main:off")
    guard(world)
    one.git("push", "-q", "--no-verify", "origin", ":off")
    both = one.manifest("HEAD:model.safetensors").objects()
    one.git("push", "-q", "--no-verify", "origin", f"+{point(one, both)}:{ref}", "main")


def test_pointers_can_be_required(world: World, one: Repo) -> None:
    guard(world, " --pointers require")
    one.theta("push", "origin", "main")
    assert "has no Git LFS pointer" in refused(one, "main")[0]


def test_a_commit_of_pointers_holds_nothing_else_and_points_to_what_is_there(
    world: World, one: Repo
) -> None:
    refs = one.manifest("HEAD:model.safetensors").objects()
    (oid, size), *_ = refs.items()
    commit = point(one, refs)
    lines = refused(one, f"{commit}:refs/theta/objects")
    assert lines[0].startswith(f"{oid[:8]} (commit {commit[:12]}): object {oid} ({size:,} bytes)")
    assert lines[0].endswith("is not in the repository's object store")
    one.theta("push", "origin", "main")
    one.git("push", "-q", "--no-verify", "origin", f"{commit}:refs/theta/objects")
    bad = [
        b"",
        b"something",
        lfs_pointer.dump(oid, size) + b"\n",
        lfs_pointer.dump(oid, size).replace(b"\n", b"\r\n"),
        one.blob("HEAD:model.safetensors"),
    ]
    for data in bad:
        commit = point(one, refs, other=data)
        lines = refused(one, f"+{commit}:refs/theta/objects")
        assert lines[0].startswith(f"other (commit {commit[:12]}): not exactly a Git LFS pointer")
        assert len(lines) == 2
