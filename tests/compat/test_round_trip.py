"""What goes into git comes out of it, byte for byte, whichever way it comes out; and git sees
nothing to do afterwards.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gitrepo import ATTRIBUTES, Repo
from small_models import (
    DTYPES,
    VERSIONS,
    Tensors,
    cast,
    checkpoints,
    safetensors_file,
    torch_file,
    trained,
    weights,
)

from git_theta.core.manifest import NOTICE

Files = dict[str, bytes]
PACKET = 65516  # bytes of content in one full packet between git and the filter
IN_MEMORY = 4 << 20  # larger content is streamed beside the file in the working tree


@dataclass(frozen=True)
class History:
    """A repository with a commit (and tag) for each version of four models, and what the models'
    files were.
    """

    repo: Repo
    versions: Mapping[str, Files]


def make_versions() -> dict[str, Files]:
    versions: dict[str, Files] = {version: {} for version in VERSIONS}
    for label, dtype in DTYPES.items():
        for version, files in checkpoints(dtype).items():
            versions[version].update(
                {f"model.{label}.{suffix}": data for suffix, data in files.items()}
            )
    return versions


def commit_versions(repo: Repo, versions: Mapping[str, Files]) -> None:
    for version, files in versions.items():
        for name, data in files.items():
            repo.write(name, data)
        repo.git("add", ".")
        repo.git("commit", "-qm", version)
        repo.git("tag", version)
        repo.assert_clean()


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]) -> History:
    repo = Repo.create(tmp_path_factory.mktemp("history") / "repo", environment)
    versions = make_versions()
    commit_versions(repo, versions)
    return History(repo, versions)


@pytest.fixture
def clone(history: History, tmp_path: Path) -> Repo:
    history.repo.git("clone", "-q", str(history.repo.path), str(tmp_path / "clone"))
    return history.repo.at(tmp_path / "clone")


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def assert_holds(repo: Repo, files: Mapping[str, bytes]) -> None:
    """The working tree has exactly these models, and git agrees that it is unchanged."""
    assert digests({name: repo.read(name) for name in files}) == digests(files)
    repo.assert_clean()


# Every version, every way out


def test_checkout(history: History, clone: Repo) -> None:
    for version in (*VERSIONS, "head", "base"):
        clone.git("checkout", "-q", version)
        assert_holds(clone, history.versions[version])


def test_checkout_of_paths(history: History, clone: Repo) -> None:
    names = list(history.versions["trim"])
    clone.git("checkout", "-q", "dense", "--", *names)
    assert digests({name: clone.read(name) for name in names}) == digests(history.versions["dense"])
    clone.git("checkout", "-q", "HEAD", "--", *names)
    assert_holds(clone, history.versions["trim"])
    for name in names:
        (clone.path / name).unlink()
    clone.git("restore", ".")
    assert_holds(clone, history.versions["trim"])


def test_theta_checkout(history: History, clone: Repo) -> None:
    for version in VERSIONS:
        clone.git("checkout", "-q", version, GIT_THETA_SKIP_SMUDGE="1")
        assert all(
            clone.read(name).startswith(b"git-theta manifest 1\n")
            for name in history.versions[version]
        )
        clone.theta("checkout")
        assert_holds(clone, history.versions[version])


def test_theta_checkout_of_paths_restores_what_the_index_has(history: History, clone: Repo) -> None:
    files = history.versions["trim"]
    first, *others = files
    for name in files:
        clone.write(name, b"changed")
    clone.theta("checkout")
    assert {clone.read(name) for name in files} == {b"changed"}, (
        "without a path no change of the user's is lost"
    )
    clone.theta("checkout", first)
    assert clone.read(first) == files[first]
    assert {clone.read(name) for name in others} == {b"changed"}
    clone.theta("checkout", ".")
    assert_holds(clone, files)


def test_clone_without_content_then_theta_checkout(history: History, tmp_path: Path) -> None:
    there = history.repo.at(tmp_path / "there")
    history.repo.git(
        "clone", "-q", str(history.repo.path), str(there.path), GIT_THETA_SKIP_SMUDGE="1"
    )
    assert there.read("model.fp32.pt") == there.blob("HEAD:model.fp32.pt")
    assert not there.object_ids()
    assert there.status() == ""
    there.theta("checkout")
    assert_holds(there, history.versions["trim"])


@pytest.mark.parametrize(
    "options",
    [[], ["--no-hardlinks"], ["--no-local"], ["--depth=1", "--no-local"], ["--shared"]],
    ids=str,
)
def test_clone(history: History, tmp_path: Path, options: list[str]) -> None:
    there = history.repo.at(tmp_path / "there")
    source = history.repo.path.as_uri() if "--no-local" in options else str(history.repo.path)
    history.repo.git("clone", "-q", *options, source, str(there.path))
    assert_holds(there, history.versions["trim"])
    if "--shared" in options:
        assert not there.object_ids(), "what the alternate has is read there"
    if "--depth=1" not in options:
        there.git("checkout", "-q", "base")
        assert_holds(there, history.versions["base"])


def test_clone_with_reference(history: History, tmp_path: Path) -> None:
    there = history.repo.at(tmp_path / "there")
    history.repo.git(
        "clone",
        "-q",
        "--reference",
        str(history.repo.path),
        history.repo.path.as_uri(),
        str(there.path),
    )
    assert not there.object_ids()
    third = history.repo.at(tmp_path / "third")
    history.repo.git("clone", "-q", "--shared", str(there.path), str(third.path))
    assert not third.object_ids(), "alternates of alternates count too"
    assert_holds(third, history.versions["trim"])


def test_copied_folder(history: History, tmp_path: Path) -> None:
    there = history.repo.at(tmp_path / "there")
    shutil.copytree(history.repo.path, there.path)
    assert_holds(there, history.versions["trim"])
    there.git("checkout", "-q", "head")
    assert_holds(there, history.versions["head"])


def test_worktree(history: History, clone: Repo, tmp_path: Path) -> None:
    clone.git("worktree", "add", "-q", str(tmp_path / "tree"), "dense")
    tree = clone.at(tmp_path / "tree")
    assert_holds(tree, history.versions["dense"])
    before = clone.object_ids()
    new = safetensors_file(trained(weights(), 77))
    tree.commit("in the worktree", model__fp32__safetensors=new)
    assert clone.object_ids() > before, "objects lie in the common folder"
    clone.git("checkout", "-q", tree.head())
    assert clone.read("model.fp32.safetensors") == new
    clone.assert_clean()


def test_submodule(history: History, repo: Repo) -> None:
    repo.git("submodule", "add", "-q", str(history.repo.path), "models")
    repo.git("commit", "-qm", "submodule")
    inner = repo.at(repo.path / "models")
    assert_holds(inner, history.versions["trim"])
    new = safetensors_file(trained(weights(), 78))
    inner.commit("in the submodule", model__fp32__safetensors=new)
    assert (repo.path / ".git/modules/models/theta/objects").is_dir()
    inner.git("checkout", "-q", "base")
    assert_holds(inner, history.versions["base"])
    repo.git("submodule", "update", "-q")
    assert_holds(inner, history.versions["trim"])
    inner.git("checkout", "-q", "dense", GIT_THETA_SKIP_SMUDGE="1")
    inner.theta("checkout")
    assert_holds(inner, history.versions["dense"])


def test_recursive_clone(history: History, repo: Repo, tmp_path: Path) -> None:
    repo.git("submodule", "add", "-q", str(history.repo.path), "models")
    repo.git("commit", "-qm", "submodule")
    repo.git("clone", "-q", "--recurse-submodules", str(repo.path), str(tmp_path / "there"))
    assert_holds(repo.at(tmp_path / "there" / "models"), history.versions["trim"])


def test_archive(history: History, clone: Repo) -> None:
    with tarfile.open(
        fileobj=io.BytesIO(clone.git("archive", "--format=tar", "train-1"))
    ) as archive:
        for name, data in history.versions["train-1"].items():
            member = archive.extractfile(name)
            assert member is not None
            assert member.read() == data


def test_cat_file_with_filters(history: History, clone: Repo) -> None:
    for name, data in history.versions["head"].items():
        assert clone.git("cat-file", "--filters", f"head:{name}") == data


# What people do with commits


def test_stash(history: History, clone: Repo) -> None:
    name, files = "model.fp32.safetensors", history.versions["trim"]
    changed, untracked = history.versions["base"][name], safetensors_file(trained(weights(), 79))
    clone.write(name, changed)
    clone.write("new.pt", untracked)
    clone.git("stash", "-q", "--include-untracked")
    assert not (clone.path / "new.pt").exists()
    assert_holds(clone, files)
    clone.git("stash", "pop", "-q")
    assert clone.read(name) == changed
    assert clone.read("new.pt") == untracked
    assert clone.status() == f" M {name}\n?? new.pt\n"
    clone.git("add", name)
    clone.git("stash", "-q")
    assert clone.read(name) == files[name]
    clone.git("stash", "pop", "-q", "--index")
    assert clone.read(name) == changed
    assert clone.status() == f"M  {name}\n?? new.pt\n"


def test_rebase_and_cherry_pick(history: History, clone: Repo) -> None:
    ours, theirs = (
        history.versions["base"]["model.fp32.pt"],
        history.versions["base"]["model.bf16.safetensors"],
    )
    clone.git("checkout", "-qb", "topic", "train-2")
    clone.commit("topic", model__fp32__pt=ours)
    topic = clone.head()
    clone.git("checkout", "-qb", "other", "train-2")
    clone.commit("other", model__bf16__safetensors=theirs)
    other = clone.head()
    clone.git("rebase", "-q", "other", "topic")
    both = {**history.versions["train-2"], "model.fp32.pt": ours, "model.bf16.safetensors": theirs}
    assert_holds(clone, both)
    clone.git("checkout", "-q", "other")
    clone.git("cherry-pick", topic)
    assert_holds(clone, both)
    clone.git("revert", "--no-edit", "HEAD")
    assert_holds(clone, {**history.versions["train-2"], "model.bf16.safetensors": theirs})
    assert other != clone.head()


def test_amend_squash_and_gc(history: History, clone: Repo) -> None:
    name = "model.fp32.safetensors"
    clone.write(name, history.versions["base"][name])
    clone.git("commit", "-qam", "again the base")
    clone.write(name, history.versions["train-1"][name])
    clone.git("commit", "-qa", "--amend", "--no-edit")
    files = {**history.versions["trim"], name: history.versions["train-1"][name]}
    assert_holds(clone, files)
    clone.git("reset", "-q", "--soft", "base")
    clone.git("commit", "-qm", "squashed")
    for tag in VERSIONS:
        clone.git("tag", "-d", tag)
    clone.git("remote", "remove", "origin")
    clone.git("reflog", "expire", "--expire=all", "--all")
    clone.git("gc", "-q", "--prune=now")
    clone.git("repack", "-qad")
    for model in files:
        (clone.path / model).unlink()
    clone.git("checkout", "-q", "--", ".")
    assert_holds(clone, files)


def test_merge_of_different_files_and_fast_forward(history: History, clone: Repo) -> None:
    clone.git("checkout", "-qb", "topic", "head")
    clone.git("merge", "-q", "--ff-only", "train-2")
    assert_holds(clone, history.versions["train-2"])
    clone.commit("topic", model__fp32__pt=history.versions["base"]["model.fp32.pt"])
    clone.git("merge", "-q", "--no-edit", "-s", "ours", "trim")
    assert_holds(
        clone,
        {**history.versions["train-2"], "model.fp32.pt": history.versions["base"]["model.fp32.pt"]},
    )


def test_bisect_walks_through_versions(history: History, clone: Repo) -> None:
    clone.git("bisect", "start", "trim", "base")
    clone.git("bisect", "good")
    assert clone.status() == ""
    clone.git("bisect", "reset")
    assert_holds(clone, history.versions["trim"])


# What is stored


def test_unchanged_tensors_add_no_object(repo: Repo) -> None:
    base = weights()
    repo.commit("base", model__safetensors=safetensors_file(base), model__pt=torch_file(base))
    before = repo.object_ids()
    first = repo.manifest("HEAD:model.safetensors")
    head = trained(base, 3, only="head")
    repo.commit("head", model__safetensors=safetensors_file(head))
    assert len(repo.object_ids() - before) == 1
    second = repo.manifest("HEAD:model.safetensors")
    changed = [
        entry.name
        for entry, earlier in zip(second.entries, first.entries, strict=True)
        if entry != earlier
    ]
    assert changed == ["head.weight"]
    assert repo.git("diff", "--numstat", "HEAD~", "--", "model.safetensors").split()[:2] == [
        b"1",
        b"1",
    ]
    repo.assert_clean()


def test_a_copy_under_another_name_shares_objects(repo: Repo) -> None:
    base = weights()
    data = safetensors_file(trained({**base, "wider": np.ones((10, 300), np.float32)}, 2))
    repo.commit("one", a__safetensors=safetensors_file(base))
    repo.commit("a change of all tensors and the header", a__safetensors=data)
    before = repo.object_ids()
    repo.commit("two", b__safetensors=data)
    assert repo.object_ids() == before
    assert repo.blob("HEAD:a.safetensors") == repo.blob("HEAD:b.safetensors")


def test_rename_and_copy_are_seen_as_such(history: History, clone: Repo) -> None:
    before = clone.object_ids()
    clone.git("mv", "model.fp32.safetensors", "renamed.safetensors")
    assert clone.git("diff", "--cached", "--name-status", "-M").split() == [
        b"R100",
        b"model.fp32.safetensors",
        b"renamed.safetensors",
    ]
    clone.git("commit", "-qm", "renamed")
    files = dict(history.versions["trim"])
    files["renamed.safetensors"] = files.pop("model.fp32.safetensors")
    assert_holds(clone, files)
    assert clone.object_ids() == before


def test_executable_bit(repo: Repo) -> None:
    if os.name == "nt":
        pytest.skip("Windows has no executable bit")
    data = safetensors_file(weights())
    repo.write("model.safetensors", data).chmod(0o755)
    repo.git("add", ".")
    repo.git("commit", "-qm", "executable")
    assert repo.git("ls-files", "-s", "model.safetensors").startswith(b"100755 ")
    ways: list[Callable[[], bytes]] = [
        lambda: repo.git("checkout", "-q", "--", "."),
        lambda: repo.theta("checkout", "model.safetensors"),
    ]
    for restore in ways:
        (repo.path / "model.safetensors").unlink()
        restore()
        assert (repo.path / "model.safetensors").stat().st_mode & 0o111
        assert_holds(repo, {"model.safetensors": data})
    repo.git("update-index", "--chmod=-x", "model.safetensors")
    repo.git("commit", "-qm", "plain")
    repo.git("checkout", "-q", "--", ".")
    assert not (repo.path / "model.safetensors").stat().st_mode & 0o111
    assert_holds(repo, {"model.safetensors": data})


# What git knows of a file


def test_touched_file_is_still_unchanged(history: History, clone: Repo) -> None:
    before = clone.object_ids()
    for name in history.versions["trim"]:
        os.utime(clone.path / name, ns=(1_600_000_000_000_000_000, 1_600_000_000_000_000_000))
    assert clone.status() == ""
    clone.git("add", "--renormalize", ".")
    assert clone.status() == ""
    assert clone.object_ids() == before


def test_deleting_the_cache_changes_nothing(history: History, clone: Repo) -> None:
    for _ in range(2):
        shutil.rmtree(clone.common / "theta" / "cache", ignore_errors=True)
        for name, data in history.versions["trim"].items():
            clone.write(name, data)
        assert clone.status() == ""
    assert_holds(clone, history.versions["trim"])


def test_diff_without_a_driver_speaks_per_tensor(repo: Repo) -> None:
    base = weights()
    repo.commit("base", model__safetensors=safetensors_file(base))
    repo.write("model.safetensors", safetensors_file(trained(base, 3, only="head")))
    shown = repo.git("diff").decode()
    assert [line.split()[0] for line in shown.splitlines() if line[0] in "+-"][2:] == [
        "-head.weight",
        "+head.weight",
    ]
    assert repo.git("diff", "--stat").decode().splitlines()[0].split() == [
        "model.safetensors",
        "|",
        "2",
        "+-",
    ]
    assert not repo.leftovers()


def test_hash_object_is_what_add_would_store(repo: Repo) -> None:
    data = safetensors_file(weights())
    repo.commit("base", model__safetensors=data)
    blob = repo.git("rev-parse", "HEAD:model.safetensors")
    repo.write("elsewhere", data)
    assert repo.git("hash-object", "model.safetensors") == blob
    assert repo.git("hash-object", "--path=model.safetensors", "elsewhere") == blob
    assert repo.git("hash-object", "--path=model.safetensors", "--stdin", stdin=data) == blob
    assert repo.git("hash-object", "--path=new.safetensors", "--stdin", stdin=data) == blob
    assert repo.git("hash-object", "--no-filters", "model.safetensors") != blob
    repo.git(
        "update-index", "--add", "--cacheinfo", f"100644,{blob.decode().strip()},copy.safetensors"
    )
    repo.git("checkout", "-q", "--", "copy.safetensors")
    assert repo.read("copy.safetensors") == data


@pytest.mark.parametrize("dtype", DTYPES)
def test_content_that_is_not_the_files_own(repo: Repo, dtype: str) -> None:
    """Git may clean something else under a path's name; what it sends counts, not what lies in the
    working tree.
    """
    base = cast(weights(), DTYPES[dtype])
    data = safetensors_file(base)
    repo.write("model.safetensors", data)
    contents = []
    for place in (len(data) - 1, len(data) // 2, len(data) - 2 * base["steps"].nbytes - 2000):
        changed = bytearray(data)
        changed[place] ^= 1
        contents.append(bytes(changed))
    contents.append(safetensors_file({**base, "zz": np.arange(5 << 18, dtype=np.float32)}))
    contents.append(safetensors_file({"a": base["head.weight"]}))
    for content in contents:
        blob = (
            repo.git("hash-object", "-w", "--path=model.safetensors", "--stdin", stdin=content)
            .decode()
            .strip()
        )
        repo.git("update-index", "--add", "--cacheinfo", f"100644,{blob},out.safetensors")
        repo.git("checkout", "-q", "--force", "--", "out.safetensors")
        assert repo.read("out.safetensors") == content
    assert repo.read("model.safetensors") == data
    assert not repo.leftovers()
    repo.objects()


def test_empty_files(repo: Repo) -> None:
    """An empty file is an empty blob to git; a .safetensors file cannot be empty, though: something
    went wrong when it was written.
    """
    assert "git-theta: model.safetensors: " in repo.git_fails(
        "hash-object", "--path=model.safetensors", "--stdin", stdin=b""
    )
    repo.commit("empty", a__pt=b"", b__bin=b"")
    assert_holds(repo, {"a.pt": b"", "b.bin": b""})
    for name in ("a.pt", "b.bin"):
        (repo.path / name).unlink()
    repo.git("checkout", "-q", "--", ".")
    assert repo.read("a.pt") == repo.read("b.bin") == b""
    (repo.path / "a.pt").unlink()
    repo.theta("checkout")
    assert repo.read("a.pt") == b""


def test_index_versions_and_split_index(repo: Repo) -> None:
    """``git theta checkout`` tells the index that the file is up to date, whatever kind of index it
    is.
    """
    data = safetensors_file(weights())
    repo.commit("one", **{"a__safetensors": data, "sub/ü b__safetensors": data})
    files = {"a.safetensors": data, "sub/ü b.safetensors": data}
    for kind in (
        ["--index-version=2"],
        ["--index-version=4"],
        ["--split-index"],
        ["--no-split-index", "--index-version=3"],
    ):
        repo.git("update-index", *kind)
        for name in files:
            (repo.path / name).unlink()
        repo.theta("checkout")
        assert_holds(repo, files)
        repo.git("fsck", "--no-dangling")
    repo.git("update-index", "--skip-worktree", "a.safetensors")
    repo.theta("checkout", ".")
    repo.git("update-index", "--no-skip-worktree", "a.safetensors")
    assert_holds(repo, files)


# Kinds of repositories


def test_sha256_repository(tmp_path: Path, environment: Mapping[str, str]) -> None:
    repo = Repo.create(tmp_path / "repo", environment, "--object-format=sha256")
    versions = {
        version: {"m.safetensors": safetensors_file(trained(weights(), seed))}
        for seed, version in enumerate(("one", "two"))
    }
    commit_versions(repo, versions)
    for version, files in versions.items():
        repo.git("checkout", "-q", version)
        assert_holds(repo, files)
        (repo.path / "m.safetensors").unlink()
        repo.theta("checkout")
        assert_holds(repo, files)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no groups like these")
@pytest.mark.parametrize("mask", [0o077, 0o022])
@pytest.mark.parametrize("option", ["group", "all", "0660", "0640"])
def test_shared_repository(
    tmp_path: Path, environment: Mapping[str, str], option: str, mask: int
) -> None:
    """Whoever may read git's objects may read ours, and nobody else."""
    before = os.umask(mask)
    try:
        repo = Repo.create(tmp_path / "repo", environment, f"--shared={option}")
        repo.commit("one", model__safetensors=safetensors_file(weights()))
    finally:
        os.umask(before)
    loose, *_ = (repo.common / "objects").glob("??/*")
    for path in repo.objects().values():
        assert path.stat().st_mode == loose.stat().st_mode
    folders = [
        repo.common / "theta",
        *(
            path
            for path in (repo.common / "theta").rglob("*")
            if path.is_dir() and "cache" not in path.parts
        ),
    ]
    for folder in folders:
        assert folder.stat().st_mode == loose.parent.stat().st_mode, (
            f"{folder} is {folder.stat().st_mode:o}"
        )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_private_umask_is_respected(tmp_path: Path, environment: Mapping[str, str]) -> None:
    before = os.umask(0o077)
    try:
        repo = Repo.create(tmp_path / "repo", environment)
        repo.commit("one", model__safetensors=safetensors_file(weights()))
    finally:
        os.umask(before)
    for path in (repo.common / "theta").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, f"{path} can be seen by others"


def test_bare_repository_with_a_worktree(history: History, tmp_path: Path) -> None:
    bare = history.repo.at(tmp_path / "bare.git")
    history.repo.git("clone", "-q", "--bare", str(history.repo.path), str(bare.path))
    bare.git("config", "remote.origin.url", str(history.repo.path))
    bare.git("worktree", "add", "-q", str(tmp_path / "tree"), "train-1")
    assert_holds(bare.at(tmp_path / "tree"), history.versions["train-1"])


def test_separate_git_dir_and_environment(history: History, tmp_path: Path) -> None:
    tree, folder = tmp_path / "tree", tmp_path / "folder.git"
    history.repo.git(
        "clone", "-q", "--separate-git-dir", str(folder), str(history.repo.path), str(tree)
    )
    there = history.repo.at(tree)
    assert_holds(there, history.versions["trim"])
    variables = {"GIT_DIR": str(folder), "GIT_WORK_TREE": str(tree)}
    outside = history.repo.at(tmp_path).under(variables)
    outside.git("checkout", "-q", "dense")
    assert_holds(there, history.versions["dense"])
    new = safetensors_file(trained(weights(), 80))
    there.write("new.safetensors", new)
    outside.git("add", "-A")
    assert outside.git("status", "--porcelain") == b"A  new.safetensors\n"
    (tree / "new.safetensors").unlink()
    outside.git("checkout", "--", "new.safetensors")
    assert there.read("new.safetensors") == new
    assert not (tmp_path / "theta").exists()


def test_sparse_checkout(history: History, clone: Repo) -> None:
    files = history.versions[VERSIONS[-1]]
    left_out, kept = sorted(files)[:2]
    clone.git("sparse-checkout", "set", "--no-cone", "/*", f"!/{left_out}")
    assert not (clone.path / left_out).exists()
    (clone.path / kept).unlink()
    for command in ("checkout", "pull"):
        clone.theta(command)
        assert clone.read(kept) == files[kept]
        assert not (clone.path / left_out).exists(), command
    clone.assert_clean()
    clone.git("sparse-checkout", "disable")
    assert clone.read(left_out) == files[left_out]
    clone.assert_clean()


def test_temporary_index(repo: Repo, tmp_path: Path) -> None:
    data = safetensors_file(weights())
    repo.write("model.safetensors", data)
    index = str(tmp_path / "index")
    repo.git("add", "model.safetensors", GIT_INDEX_FILE=index)
    assert repo.status() == "?? model.safetensors\n"
    (repo.path / "model.safetensors").unlink()
    repo.theta("checkout", GIT_INDEX_FILE=index)
    assert repo.read("model.safetensors") == data
    assert repo.git("diff-files", "--name-only", GIT_INDEX_FILE=index) == b""


def test_from_a_subfolder(repo: Repo) -> None:
    data = safetensors_file(weights())
    inner = repo.at(repo.path / "a" / "b")
    repo.write("a/b/model.safetensors", data)
    inner.git("add", "model.safetensors")
    inner.git("commit", "-qm", "from within")
    (inner.path / "model.safetensors").unlink()
    inner.theta("checkout", "model.safetensors")
    assert_holds(repo, {"a/b/model.safetensors": data})


# Names


NAMES = [
    "with space.pt",
    "größe/模型 ☃.pt",
    "-leading dash.pt",
    "--.pt",
    "..pt",
    "a=b;c&d$e'f`g!h%i#j^k~l[m]{n}.pt",
    ":(top)colon.pt",
    "deep/" * 20 + "deep.pt",
    "2 two.pt",
    "x" * 200 + ".pt",
]
ODD_NAMES = [
    "line\nbreak.pt",
    'tab\tquote"back\\slash.pt',
    "escape\x1b[31m.pt",
    "*.?.pt",
    "trailing .pt",
]


def test_paths(repo: Repo) -> None:
    names = NAMES if os.name == "nt" else NAMES + ODD_NAMES
    numbered = list(enumerate(names))
    versions = [
        {
            name: torch_file({"w": np.full((64, 8), 2 * number + fill, np.float32)})
            for number, name in numbered
        }
        for fill in (0, 1)
    ]
    for files in versions:
        for name, data in files.items():
            repo.write(name, data)
        repo.git("add", "--", *names, GIT_LITERAL_PATHSPECS="1")
        repo.git("commit", "-qm", "commit")
        assert_holds(repo, files)
    for name in names:
        assert repo.blob(f"HEAD:{name}").startswith(b"git-theta manifest 1\n")
    repo.git("checkout", "-q", "HEAD~")
    assert_holds(repo, versions[0])
    for name in names:
        repo.write(name, b"to be replaced")
    repo.theta("checkout", "--", *names, GIT_LITERAL_PATHSPECS="1")
    assert_holds(repo, versions[0])
    for name in names:
        os.utime(repo.path / name, (1, 1))
    assert repo.status() == ""
    for name in ("-leading dash.pt", "line\nbreak.pt"):
        if name in names:
            blob = repo.git("hash-object", "--stdin", f"--path={name}", stdin=versions[1][name])
            assert blob == repo.git("rev-parse", f"main:{name}")


@pytest.mark.skipif(sys.platform != "linux", reason="only here may a file name be any bytes")
def test_path_that_is_not_utf8(repo: Repo) -> None:
    name = os.fsdecode(b"latin-\xe4.pt")
    data = torch_file({"w": np.ones((64, 8), np.float32)})
    repo.write(name, data)
    repo.git("add", ".")
    repo.git("commit", "-qm", "latin")
    (repo.path / name).unlink()
    repo.git("checkout", "-q", "--", ".")
    assert_holds(repo, {name: data})
    (repo.path / name).unlink()
    repo.theta("checkout")
    assert_holds(repo, {name: data})


# Manifests and other content


def test_manifests_pass_through(history: History, clone: Repo) -> None:
    for name in history.versions["trim"]:
        clone.write(name, clone.blob(f"HEAD:{name}"))
    clone.git("add", ".")
    assert clone.status() == ""
    clone.theta("checkout", ".")
    assert_holds(clone, history.versions["trim"])
    shutil.copy(clone.path / "model.fp32.pt", clone.path / "raw")
    clone.write("copy.pt", clone.blob("HEAD:model.fp32.pt"))
    clone.git("add", "copy.pt")
    clone.git("commit", "-qm", "a manifest is a model")
    (clone.path / "copy.pt").unlink()
    clone.git("checkout", "-q", "--", "copy.pt")
    assert clone.read("copy.pt") == clone.read("raw")


def test_a_manifest_that_is_none_is_refused(repo: Repo) -> None:
    for text in (
        b"git-theta manifest 1\n",
        f"git-theta manifest 1\n{NOTICE}\nformat x\nsize 3\n".encode(),
        b"git-theta manifest 2\nwhatever\n",
    ):
        repo.write("model.pt", text)
        said = repo.git_fails("add", "model.pt")
        assert "git-theta: model.pt: line " in said
        assert repo.status() == "?? model.pt\n"


def test_committed_raw_before_it_was_tracked(repo: Repo) -> None:
    """Content that git holds as it is stays readable; the next add stores it by tensors."""
    data = safetensors_file(weights())
    repo.write(".gitattributes", b"")
    repo.commit("raw", model__safetensors=data)
    repo.git("add", ".gitattributes")
    repo.git("commit", "-qm", "no attributes")
    repo.write(".gitattributes", ATTRIBUTES.encode())
    repo.git("add", ".gitattributes")
    repo.git("commit", "-qm", "attributes")
    (repo.path / "model.safetensors").unlink()
    repo.git("checkout", "-q", "--", "model.safetensors")
    assert repo.read("model.safetensors") == data
    repo.git("add", "--renormalize", "model.safetensors")
    assert repo.blob(":model.safetensors").startswith(b"git-theta manifest 1\n")
    repo.git("commit", "-qm", "stored by tensors")
    assert_holds(repo, {"model.safetensors": data})
    repo.git("checkout", "-q", "HEAD~2")
    assert repo.read("model.safetensors") == data


SIZES = sorted(
    {0, 1, 18, 19, 20, 64, 65, 4095, 4096, 4097}
    | {PACKET * count + more for count in (1, 2, 15, 16, 17, 64, 65) for more in (-1, 0, 1)}
    | {IN_MEMORY + more for more in (-1, 0, 1)}
)


def test_sizes_at_the_edges_of_packets(repo: Repo) -> None:
    """Plain bytes of every size at which a buffer might be one byte too short."""
    random = np.random.default_rng(5)
    files = {f"{size}.bin": random.bytes(size) for size in SIZES}
    for name, data in files.items():
        repo.write(name, data)
    repo.git("add", ".")
    repo.git("commit", "-qm", "sizes")
    assert_holds(repo, files)
    for name in files:
        (repo.path / name).unlink()
    repo.git("checkout", "-q", "--", ".")
    assert_holds(repo, files)
    shutil.rmtree(repo.common / "theta" / "cache")
    for name in files:
        os.utime(repo.path / name, (1, 1))
    assert repo.status() == ""
    # Through the spool: the very last byte is another
    for name in (f"{size}.bin" for size in SIZES if size > IN_MEMORY):
        repo.write(name, files[name][:-1] + b"?")
        blob = repo.git("hash-object", "--stdin", f"--path={name}", stdin=files[name])
        assert blob == repo.git("rev-parse", f"HEAD:{name}")


@pytest.mark.parametrize("attribute", ["text=auto", "text"])
def test_attributes_that_convert_line_ends(repo: Repo, attribute: str) -> None:
    """Written behind ours, they win: git gives the filter a manifest whose lines end in another
    way.
    """
    model = safetensors_file(weights(1))
    repo.commit("model", model__safetensors=model)
    before = repo.blob("HEAD:model.safetensors")
    repo.commit(
        "text",
        **{".gitattributes": repo.read(".gitattributes") + f"* {attribute} eol=crlf\n".encode()},
    )
    for command in (["checkout", "-q", "--", "."], ["theta", "checkout"]):
        (repo.path / "model.safetensors").unlink()
        if command[0] == "theta":
            repo.theta(*command[1:])
        else:
            said = repo.run(["git", *command]).stderr.decode()
            assert (
                "git-theta: warning: attributes of model.safetensors have git convert line ends"
                in said
            )
        assert repo.read("model.safetensors") == model
        assert repo.status() == ""
    # A clone that knew no filter left the manifest, its lines ended otherwise.
    repo.write("model.safetensors", before.replace(b"\n", b"\r\n"))
    repo.git("add", "model.safetensors")
    assert repo.blob(":model.safetensors") == before
    repo.theta("checkout")
    assert repo.read("model.safetensors") == model
    repo.assert_clean()


def test_text_among_models_is_not_touched(repo: Repo) -> None:
    data = b"some\r\ntext\r\n" * 1000
    repo.commit("text", model__bin=data, notes__txt=b"plain\n")
    assert repo.blob("HEAD:notes.txt") == b"plain\n"
    assert_holds(repo, {"model.bin": data, "notes.txt": b"plain\n"})


def test_many_small_files_in_one_command(repo: Repo) -> None:
    files = {
        f"{number:03}.pt": torch_file({"w": np.full(100, number, np.float32)})
        for number in range(100)
    }
    for name, data in files.items():
        repo.write(name, data)
    repo.git("add", ".")
    repo.git("commit", "-qm", "many")
    repo.git("rm", "-q", "*.pt")
    repo.git("reset", "-q", "--hard")
    assert_holds(repo, files)


def test_threads_change_nothing(repo: Repo, tmp_path: Path, environment: Mapping[str, str]) -> None:
    data = torch_file(weights())
    texts = []
    for threads in ("1", "8"):
        other = Repo.create(tmp_path / threads, environment)
        other.git("config", "theta.threads", threads)
        other.commit("one", model__pt=data)
        texts.append(other.blob("HEAD:model.pt"))
        (other.path / "model.pt").unlink()
        other.theta("checkout")
        assert_holds(other, {"model.pt": data})
    assert texts[0] == texts[1]


# Frameworks


def test_torch_reads_what_comes_back(repo: Repo) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Linear(300, 200), torch.nn.ReLU(), torch.nn.Linear(200, 10)
    ).to(torch.bfloat16)
    module[2].weight.data[0, 0] = float("nan")
    steps = torch.optim.AdamW(module.parameters())
    files: Files = {}
    for epoch in range(2):
        steps.zero_grad()
        module(torch.ones(1, 300, dtype=torch.bfloat16)).nan_to_num().sum().backward()
        steps.step()
        buffer = io.BytesIO()
        state = {
            "model": module.state_dict(),
            "optimizer": steps.state_dict(),
            "epoch": epoch,
            "rng": torch.get_rng_state(),
        }
        torch.save({**state, "tied": [module[0].weight] * 2}, buffer)
        files[f"{epoch}"] = buffer.getvalue()
        repo.commit(f"epoch {epoch}", state__pt=files[f"{epoch}"])
        repo.git("tag", str(epoch))
    manifest = repo.manifest("HEAD:state.pt")
    assert manifest.format == "torch-zip"
    assert {"model.0.weight", "optimizer.state.0.exp_avg"} <= manifest.by_name.keys()
    for tag in ("0", "1", "0"):
        repo.git("checkout", "-q", tag)
        assert_holds(repo, {"state.pt": files[tag]})
        assert torch.load(repo.path / "state.pt", weights_only=True)["epoch"] == int(tag)


def test_every_stored_torch_file(repo: Repo) -> None:
    folder = Path(__file__).parents[1] / "data" / "torch"
    files = {path.name: path.read_bytes() for path in sorted(folder.glob("*.pt"))}
    assert files
    for name, data in files.items():
        repo.write(name, data)
    repo.git("add", ".")
    repo.git("commit", "-qm", "all")
    repo.git("rm", "-q", "--cached", "*.pt")
    repo.git("reset", "-q", "--hard")
    assert_holds(repo, files)


# A real history, when there is one


@pytest.mark.skipif(
    "GIT_THETA_TEST_HISTORY" not in os.environ,
    reason="GIT_THETA_TEST_HISTORY names no folder with real checkpoints",
)
def test_real_history(repo: Repo, tmp_path: Path) -> None:
    """base → dense → head → train-1 → train-2 → trim (and what else is there), read from a folder,
    each under one name per kind.
    """
    folder = Path(os.environ["GIT_THETA_TEST_HISTORY"])
    wanted = ("base", "dense", "dense2", "head", "lora", "sparse", "train-1", "train-2", "trim")
    versions: list[tuple[str, dict[str, Path]]] = []
    for version in wanted:
        kinds = {}
        for kind in ("", ".bf16", ".fp16"):
            for suffix in ("safetensors", "pt"):
                path = folder / f"{version}{kind}.{suffix}"
                if path.is_file():
                    kinds[f"model{kind}.{suffix}"] = path
        versions.append((version, kinds))
    assert any(kinds for _, kinds in versions), f"{folder} holds no checkpoints"
    trees: dict[str, dict[str, str]] = {}
    held: dict[str, str] = {}
    for version, kinds in versions:
        for name, path in kinds.items():
            shutil.copyfile(path, repo.path / name)
            held[name] = _sha256(path)
        repo.git("add", ".")
        repo.git("commit", "-qm", version, "--allow-empty")
        repo.git("tag", version)
        repo.assert_clean()
        trees[version] = dict(held)
    there = repo.at(tmp_path / "there")
    repo.git("clone", "-q", str(repo.path), str(there.path))
    for version, tree in trees.items():
        repo.git("checkout", "-q", version)
        assert {name: _sha256(repo.path / name) for name in tree} == tree
        assert repo.status() == ""
        there.git("checkout", "-q", version, GIT_THETA_SKIP_SMUDGE="1")
        there.theta("checkout")
        assert {name: _sha256(there.path / name) for name in tree} == tree
        assert there.status() == ""
    repo.assert_clean()
    there.assert_clean()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_small_models_are_what_they_claim() -> None:
    """Both ways in are exercised: files that are collected in memory, and larger ones that are
    streamed.
    """
    tensors: Tensors = weights()
    assert (
        len(safetensors_file(cast(tensors, DTYPES["bf16"])))
        < IN_MEMORY
        < len(safetensors_file(tensors))
    )
