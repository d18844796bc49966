"""fsck and prune: nothing that anything needs is deleted, everything that is wrong is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import sharing
from gitrepo import Repo
from sharing import World, changed, forget, model, needed_by

from git_theta.core.manifest import dump_chain


@pytest.fixture
def world(tmp_path: Path, environment: Mapping[str, str]) -> World:
    return World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=False)


@pytest.fixture
def one(world: World) -> Repo:
    """A repository with one commit, pushed."""
    repo = world.start()
    repo.commit("first", model__safetensors=model(1))
    repo.git("push", "-q", "origin", "main")
    return repo


def prune(repo: Repo, *options: str) -> str:
    return repo.theta("prune", "--now", *options).decode()


def lose(repo: Repo, oid: str) -> bytes:
    path = next(repo.store.glob(f"*/*/{oid}"))
    data = path.read_bytes()
    path.unlink()
    return data


# prune


def test_prune_deletes_what_nothing_needs_and_says_how_much(one: Repo) -> None:
    kept = one.object_ids()
    one.commit("second", model__safetensors=changed(model(1), 0, 5))
    extra = one.object_ids() - kept
    assert extra
    one.git("reset", "-q", "--hard", "HEAD~1")
    # The reflog needs them
    assert "Would delete 0 objects" in one.theta("prune", "--now", "--dry-run").decode()
    forget(one)
    # And they are young
    assert "Would delete 0 objects" in one.theta("prune", "--dry-run").decode()
    said = one.theta("prune", "--now", "--dry-run", "-v").decode()
    assert all(oid in said for oid in extra)
    assert one.object_ids() == kept | extra
    assert f"Deleted {len(extra)} object" in prune(one)
    assert one.object_ids() == kept
    one.assert_clean()
    one.git("checkout", "-q", "HEAD")


STATES = [
    "branch",
    "tag",
    "note",
    "detached",
    "stash",
    "dropped-stash-in-reflog",
    "index",
    "conflict",
    "worktree-head",
    "worktree-index",
    "worktree-detached",
    "worktree-reflog",
    "reflog",
    "orig-head",
    "fetch-head",
    "merge-head",
    "cherry-pick-head",
    "rebase",
    "rebase-todo",
    "autostash",
    "bisect",
    "replaced",
    "manifest-in-worktree",
    "remote-branch",
]


@pytest.mark.parametrize("state", STATES)
def test_prune_keeps_what_anything_needs(world: World, one: Repo, state: str) -> None:
    newer = changed(model(1), 0, 5)
    before = one.object_ids()
    second = one.commit("second", model__safetensors=newer)
    precious = one.object_ids() - before
    assert precious
    one.git("reset", "-q", "--hard", "HEAD~1")
    bring_about(state, one, one.at(world.folder / "tree"), newer, second)
    if state not in ("reflog", "worktree-reflog", "dropped-stash-in-reflog", "stash"):
        forget(one)
    if state.endswith("-head") and state not in ("worktree-head",):
        name = state.upper().replace("-", "_")
        text = f"{second}\t\tbranch 'x' of elsewhere\n" if name == "FETCH_HEAD" else f"{second}\n"
        (one.common / name).write_text(text)
    prune(one)
    assert precious <= one.object_ids()


def bring_about(  # noqa: C901 - a case for each state
    state: str, one: Repo, tree: Repo, newer: bytes, second: str
) -> None:
    """Have only ``state`` name the commit ``second``, or its model ``newer``."""
    if state == "branch":
        one.git("branch", "b", second)
    elif state == "tag":
        one.git("tag", "-a", "-m", "t", "t", second)
    elif state == "note":
        one.git("update-ref", "refs/anything/at/all", second)
    elif state == "detached":
        one.git("checkout", "-q", "--detach", second)
    elif state in ("stash", "dropped-stash-in-reflog"):
        one.write("model.safetensors", newer)
        one.git("stash", "-q")
        if state != "stash":
            one.write("notes.txt", b"x")
            one.git("add", "notes.txt")
            one.git("stash", "-q")
    elif state == "index":
        one.write("model.safetensors", newer)
        one.git("add", "model.safetensors")
        one.write("model.safetensors", model(1))
    elif state == "conflict":
        blobs = [
            one.git("rev-parse", f"{commit}:model.safetensors").decode().strip()
            for commit in ("main", second)
        ]
        lines = [
            f"100644 {blob} {stage}\tmodel.safetensors\n"
            for blob, stage in ((blobs[0], 1), (blobs[0], 2), (blobs[1], 3))
        ]
        one.git("rm", "-q", "--cached", "model.safetensors")
        one.git("update-index", "--index-info", stdin="".join(lines).encode())
        assert "UU model.safetensors" in one.status()
    elif state.startswith("worktree"):
        one.git("worktree", "add", "-q", "--detach", str(tree.path))
        if state == "worktree-index":
            tree.write("model.safetensors", newer)
            tree.git("add", "model.safetensors")
        elif state == "worktree-reflog":
            tree.git("checkout", "-q", second)
            tree.git("checkout", "-q", "main~0")
        else:
            tree.git("checkout", "-q", *(["-b", "w"] if state == "worktree-head" else []), second)
    elif state in ("orig-head", "fetch-head", "merge-head", "cherry-pick-head"):
        pass
    elif state in ("rebase", "rebase-todo", "autostash"):
        one.git("checkout", "-q", "-b", "topic", second)
        one.write("notes.txt", b"x")
        one.git("add", "notes.txt")
        one.git("commit", "-qm", "third")
        if state == "autostash":
            one.git("reset", "-q", "--hard", "HEAD~2")
            one.write("notes.txt", b"y")
            one.git("add", "notes.txt")
            one.git("commit", "-qm", "other")
            one.write("model.safetensors", newer)
        editor = {
            "GIT_SEQUENCE_EDITOR": "sed -i -e '1s/^pick/edit/'"
            if state != "rebase-todo"
            else "sed -i -e '1i break'"
        }
        onto = "HEAD~1" if state == "autostash" else "HEAD~2"
        one.under(editor).run(["git", "rebase", "-q", "-i", "--autostash", onto])
        assert (one.common / "rebase-merge").is_dir()
        one.git("update-ref", "-d", "refs/heads/topic")
        if state == "rebase-todo":
            one.git("checkout", "-q", "--detach", "main")
    elif state == "bisect":
        one.git("update-ref", "refs/bisect/bad", second)
    elif state == "replaced":
        one.git("branch", "b", second)
        one.git("replace", second, "main")
    elif state == "manifest-in-worktree":
        one.write("copy.safetensors", one.blob(f"{second}:model.safetensors"))
    elif state == "remote-branch":
        one.git("update-ref", "refs/remotes/origin/x", second)


def test_prune_makes_a_later_add_store_the_objects_again(one: Repo) -> None:
    """The cache knows the file's manifest; the objects are gone.

    Adding it must not trust the cache.
    """
    newer = changed(model(1), 0, 5)
    before = one.object_ids()
    one.write("model.safetensors", newer)
    time.sleep(0.2)
    one.git("add", "model.safetensors")
    one.git("status")
    one.git("reset", "-q")
    forget(one)
    prune(one)
    assert one.object_ids() == before
    one.git("add", "model.safetensors")
    assert needed_by(one, one.git("write-tree").decode().strip()) <= one.object_ids()


def test_prune_waits_for_a_running_add(world: World, one: Repo) -> None:
    """While the filter of another git command is alive, nothing is deleted."""
    one.write("model.safetensors", changed(model(1), 0, 5))
    process = subprocess.Popen(
        [sys.executable, "-m", "git_theta", "filter-process"],
        cwd=one.path,
        env=dict(one.environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def packet(text: str) -> bytes:
        return b"%04x" % (len(text) + 5) + text.encode() + b"\n"

    process.stdin.write(
        packet("git-filter-client")
        + packet("version=2")
        + b"0000"
        + packet("capability=clean")
        + b"0000"
    )
    process.stdin.write(
        packet("command=clean")
        + packet("pathname=x.unknown")
        + b"0000"
        + b"000esome bytes"
        + b"0000"
    )
    process.stdin.flush()
    answer = b""
    while b"status=success" not in answer:
        assert b"status=error" not in answer
        answer += process.stdout.read(1) or pytest.fail("the filter has ended")
    done = one.theta_run("prune", "--now")
    assert done.returncode == 1
    assert b"another git command is using the store" in done.stderr
    process.stdin.close()
    process.stdout.read()
    process.stdout.close()
    process.wait()
    prune(one)


def test_precious_objects_and_newer_manifests_forbid_it(one: Repo) -> None:
    one.git("config", "core.repositoryFormatVersion", "1")
    one.git("config", "extensions.preciousObjects", "true")
    done = one.theta_run("prune", "--now")
    assert done.returncode == 1
    assert b"preciousObjects" in done.stderr
    one.git("config", "--unset", "extensions.preciousObjects")
    newer = one.blob("HEAD:model.safetensors").replace(b"manifest 1\n", b"manifest 9\n")
    blob = one.git("hash-object", "-w", "--stdin", stdin=newer).decode().strip()
    one.git("update-index", "--add", "--cacheinfo", f"100644,{blob},newer.safetensors")
    done = one.theta_run("prune", "--now")
    assert done.returncode == 1
    assert b"upgrade" in done.stderr


def test_verify_remote_frees_what_the_remote_has_and_nothing_else(world: World, one: Repo) -> None:
    first = needed_by(one, "HEAD")
    one.commit("before the second", model__safetensors=model(22))
    first |= needed_by(one, "HEAD")
    one.commit("second", model__safetensors=model(2))
    one.git("push", "-q", "origin", "main")
    one.commit("third", model__safetensors=changed(model(2), 0, 9))
    unpushed = needed_by(one, "HEAD") - needed_by(one, "HEAD~1")
    old = first - needed_by(one, "HEAD~1", "HEAD")
    damaged = sorted(old)[0]
    for path in world.remote.glob(f"*/objects/*/*/{damaged}"):
        size = path.stat().st_size
        path.unlink()
        path.write_bytes(b"x" * size)
    said = one.theta("prune", "--now", "--verify-remote").decode()
    assert "verified to be at the remote" in said
    assert one.object_ids() == needed_by(one, "HEAD") | {damaged}
    assert unpushed <= one.object_ids()
    one.assert_clean()


def test_a_bare_repository_is_pruned_too(world: World, one: Repo) -> None:
    one.git("clone", "-q", "--bare", ".", str(world.folder / "bare.git"))
    bare = one.at(world.folder / "bare.git")
    bare.git("config", "remote.origin.url", world.url)
    shutil.copytree(one.store, bare.store)
    assert "Deleted 0 objects" in prune(bare)
    assert "all is well" in bare.theta("fsck", "--all").decode()
    assert "needed by nothing" in prune(bare, "--verify-remote")


def test_git_gc_git_lfs_prune_and_worktree_removal_cost_nothing(world: World, one: Repo) -> None:
    one.commit("second", model__safetensors=model(2))
    one.git("worktree", "add", "-q", "../tree", "-b", "w")
    tree = one.at(world.folder / "tree")
    tree.commit("third", model__safetensors=model(3))
    before = one.object_ids()
    if shutil.which("git-lfs"):
        one.git("lfs", "prune", "--force")
    one.git("gc", "-q", "--prune=now")
    one.git("worktree", "remove", "--force", str(tree.path))
    assert one.object_ids() == before
    one.git("checkout", "-q", "w")
    assert one.read("model.safetensors") == model(3)
    one.git("checkout", "-q", "main~1")
    assert one.read("model.safetensors") == model(1)


def test_a_borrower_keeps_working_until_its_lender_forgets(world: World, one: Repo) -> None:
    borrower = sharing.clone(
        str(one.path), world.folder / "borrower", world.environment, "--shared"
    )
    assert borrower.object_ids() == set()
    borrower.commit("own", model__safetensors=model(7))
    assert borrower.read("model.safetensors") == model(7)
    assert prune(borrower).startswith("Deleted 0 objects")
    assert "borrow" not in prune(one)


# fsck


def test_fsck_of_a_sound_repository(one: Repo) -> None:
    one.commit("second", model__safetensors=changed(model(1), 0, 2))
    for words in ([], ["--all"], ["HEAD~1"], ["HEAD~1..HEAD"]):
        said = one.theta("fsck", *words).decode()
        assert "all is well" in said
    one.git("push", "-q", "origin", "main")
    assert "all is well" in one.theta("fsck", "--all", "--remote").decode()


def test_fsck_finds_and_repairs_a_missing_object(world: World, one: Repo) -> None:
    name = "layer.2.weight"
    oid = one.manifest("HEAD:model.safetensors").by_name[name].objects[0].oid
    data = lose(one, oid)
    done = one.theta_run("fsck")
    said = done.stdout.decode()
    assert done.returncode == 1
    assert all(
        word in said for word in ("missing", oid, name, "model.safetensors", one.head()[:12])
    )
    assert "Repaired 1 object" in one.theta("fsck", "--repair").decode()
    assert next(one.store.glob(f"*/*/{oid}")).read_bytes() == data
    one.assert_clean()


def test_fsck_makes_lost_objects_again_from_the_working_tree(world: World, one: Repo) -> None:
    one.git("remote", "remove", "origin")
    one.commit("second", model__safetensors=model(4))
    lost = {
        ref.oid
        for entry in one.manifest("HEAD:model.safetensors").entries
        for ref in entry.chain[0].objects
    }
    kept = {oid: lose(one, oid) for oid in lost}
    assert "Repaired" in one.theta("fsck", "--repair").decode()
    for oid, data in kept.items():
        assert next(one.store.glob(f"*/*/{oid}")).read_bytes() == data
    one.assert_clean()


def test_fsck_keeps_what_it_can_make_of_a_lost_object(world: World, one: Repo) -> None:
    """A tensor in it is gone for good: the version that needs only the others is whole."""
    one.git("remote", "remove", "origin")
    data = changed(model(1), 3, 4)
    one.commit("second", model__safetensors=data)
    (oid,) = needed_by(one, "HEAD~1")
    kept = lose(one, oid)
    done = one.theta_run("fsck", "--repair")
    assert done.returncode == 1
    assert f"partial  object {oid}" in done.stdout.decode()
    assert "can be read, but it cannot be pushed" in done.stdout.decode()
    (one.path / "model.safetensors").unlink()
    one.git("checkout", "--", "model.safetensors")
    assert one.read("model.safetensors") == data
    one.assert_clean()
    one.git("remote", "add", "empty", sharing.bare(world.folder / "empty.git", world.environment))
    assert oid in one.git_fails("push", "empty", "main")
    one.git("remote", "remove", "empty")
    assert "layer.3.weight" in one.git_fails("checkout", "HEAD~1")
    place = one.store / oid[:2] / oid[2:4] / oid
    place.write_bytes(kept)
    assert "all is well" in one.theta("fsck", "--all").decode()


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "grow"])
def test_fsck_finds_and_replaces_a_damaged_object(world: World, one: Repo, how: str) -> None:
    entry = one.manifest("HEAD:model.safetensors").by_name["layer.4.weight"]
    oid = entry.objects[0].oid
    path = next(one.store.glob(f"*/*/{oid}"))
    data = path.read_bytes()
    bad = {
        "flip": data[:-1] + bytes([data[-1] ^ 4]),
        "truncate": data[:-3],
        "empty": b"",
        "grow": data + b"x",
    }[how]
    path.unlink()
    path.write_bytes(bad)
    path.chmod(0o444)
    done = one.theta_run("fsck")
    assert done.returncode == 1
    assert "damaged" in done.stdout.decode()
    assert oid in done.stdout.decode()
    one.theta("fsck", "--repair")
    assert next(one.store.glob(f"*/*/{oid}")).read_bytes() == data
    assert (one.common / "theta" / "damaged" / oid).read_bytes() == bad
    one.assert_clean()


def test_fsck_counts_every_version_that_a_lost_object_spoils(one: Repo) -> None:
    for number in range(3):
        one.commit(str(number), model__safetensors=changed(model(1), 0, 20 + number))
    one.git("remote", "remove", "origin")
    (one.path / "model.safetensors").unlink()
    oid = one.manifest("HEAD:model.safetensors").by_name["layer.5.weight"].objects[0].oid
    lose(one, oid)
    done = one.theta_run("fsck", "--all")
    assert done.returncode == 1
    assert "and 3 more versions" in done.stdout.decode()
    assert one.theta_run("fsck", "--all", "--repair").returncode == 1


def test_fsck_finds_a_tensor_that_is_not_what_its_line_says(one: Repo) -> None:
    text = one.blob("HEAD:model.safetensors")
    manifest = one.manifest("HEAD:model.safetensors")
    a, b = (manifest.by_name[f"layer.{number}.weight"] for number in (0, 1))
    mine, other = (f" {dump_chain(entry.chain)}\n".encode() for entry in (a, b))
    lied = text.replace(mine, other)
    assert lied != text
    blob = one.git("hash-object", "-w", "--stdin", stdin=lied).decode().strip()
    one.git("update-index", "--cacheinfo", f"100644,{blob},model.safetensors")
    done = one.theta_run("fsck")
    assert done.returncode == 1
    assert "layer.0.weight" in done.stdout.decode()
    assert "digest" in done.stdout.decode() or "damaged" in done.stdout.decode()


def test_fsck_reports_a_broken_manifest(one: Repo) -> None:
    broken = one.blob("HEAD:model.safetensors").replace(b"f32[", b"f99[", 1)
    blob = one.git("hash-object", "-w", "--stdin", stdin=broken).decode().strip()
    one.git("update-index", "--add", "--cacheinfo", f"100644,{blob},broken.safetensors")
    done = one.theta_run("fsck")
    assert done.returncode == 1
    assert "broken manifest" in done.stdout.decode()
    assert "broken.safetensors" in done.stdout.decode()
    prune(one)
    assert needed_by(one, "HEAD") <= one.object_ids()


def test_fsck_reports_a_manifest_that_makes_no_file(one: Repo) -> None:
    """As 'git add -p' can make one, of a file whose tensors have become more."""
    text = one.blob("HEAD:model.safetensors")
    line = text.splitlines(keepends=True)[-1]
    one.write("model.safetensors", changed(model(1), 0, 5))
    one.git("add", "model.safetensors")
    one.git("commit", "-qm", "sound")
    assert b"all is well" in one.theta("fsck")
    mixed = text + b"another." + line
    size = next(part for part in text.splitlines(keepends=True) if part.startswith(b"size "))
    for number, made in enumerate((mixed.replace(size, b"size 99999999\n"), mixed, text + line)):
        blob = one.git("hash-object", "-w", "--stdin", stdin=made).decode().strip()
        one.git("update-index", "--add", "--cacheinfo", f"100644,{blob},mixed{number}.safetensors")
    done = one.theta_run("fsck")
    assert done.returncode == 1
    said = done.stdout.decode()
    assert "mixed0.safetensors: it is no whole file: the skeleton is cut for" in said
    assert "mixed1.safetensors: line 4: the tensors hold" in said
    assert "mixed2.safetensors: line" in said
    assert said.count("broken manifest") == 3
    (one.path / "mixed0.safetensors").unlink(missing_ok=True)
    assert "was a part of its manifest staged?" in one.git_fails(
        "checkout", "--", "mixed0.safetensors"
    )


@pytest.mark.parametrize("server", [False, True], ids=["folder", "git-lfs"])
def test_fsck_of_the_remote(tmp_path: Path, environment: Mapping[str, str], server: bool) -> None:
    if server and shutil.which("git-lfs") is None:
        pytest.skip("git-lfs is not installed")
    world = World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server)
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    one.commit("second", model__safetensors=changed(model(1), 0, 2))
    one.git("push", "-q", "origin", "main")
    assert "all is well" in one.theta("fsck", "--remote").decode()
    first, second = sorted(needed_by(one, "HEAD"))
    for path in world.server.glob(f"*/objects/*/*/{first}"):
        path.unlink()
    for path in world.server.glob(f"*/objects/*/*/{second}"):
        size = path.stat().st_size
        path.unlink()
        path.write_bytes(b"y" * size)
    done = one.theta_run("fsck", "--remote")
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    assert sorted({line.split()[2].rstrip(",") for line in lines}) == [first, second]
    assert {line.split()[0] for line in lines} <= {"missing", "damaged"}
    one.theta("push", "origin", "--all")
    assert not list(one.common.glob("git-theta-*"))
