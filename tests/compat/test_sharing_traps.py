"""Remotes that are not what they seem, and work that no commit names yet: nothing is left behind,
lost, or opened.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import sharing
from gitrepo import Repo
from sharing import World, changed, forget, model, needed_by, objects_at

from git_theta.git.history import roots
from git_theta.git.repository import discover

needs_git_lfs = pytest.mark.skipif(
    shutil.which("git-lfs") is None, reason="git-lfs is not installed"
)


@pytest.fixture
def world(tmp_path: Path, environment: Mapping[str, str]) -> World:
    return World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=False)


@pytest.fixture
def one(world: World) -> Repo:
    """A repository with two commits, pushed."""
    repo = world.start()
    repo.commit("first", model__safetensors=model(1))
    repo.commit("second", model__safetensors=changed(model(1), 0, 2))
    repo.git("push", "-q", "origin", "main")
    return repo


# A push that succeeds has delivered everything


@pytest.mark.parametrize("refs", ["main", "main:topic"])
def test_a_remote_that_leads_elsewhere_by_now(world: World, one: Repo, refs: str) -> None:
    """The tracking refs are those of the old place."""
    elsewhere = world.folder / "elsewhere.git"
    one.git("remote", "set-url", "origin", sharing.bare(elsewhere, world.environment))
    one.git("push", "-q", "origin", refs)
    assert objects_at(elsewhere) == needed_by(one, "HEAD", "HEAD~1")


def test_a_remote_that_was_made_anew(world: World, one: Repo) -> None:
    shutil.rmtree(world.remote)
    sharing.bare(world.remote, world.environment)
    one.git("push", "-q", "origin", "main:topic")
    world.assert_complete()
    assert world.objects() == needed_by(one, "HEAD", "HEAD~1")


def test_a_remote_that_lacks_what_a_tracking_ref_promises(world: World, one: Repo) -> None:
    """An older copy of the remote has some of the branch."""
    older = world.folder / "older.git"
    sharing.bare(older, world.environment)
    one.git("push", "-q", older.as_uri(), "HEAD~1:refs/heads/main")
    one.git("remote", "set-url", "origin", older.as_uri())
    one.commit("third", model__safetensors=changed(model(1), 1, 3))
    one.git("push", "-q", "origin", "main")
    assert objects_at(older) == needed_by(one, "HEAD", "HEAD~1", "HEAD~2")


def test_every_push_url_gets_everything(world: World, one: Repo) -> None:
    second = world.folder / "second.git"
    for url in (world.url, sharing.bare(second, world.environment)):
        one.git("remote", "set-url", "--add", "--push", "origin", url)
    one.git("push", "-q", "origin", "main", "main:topic")
    assert objects_at(second) == world.objects() == needed_by(one, "HEAD", "HEAD~1")
    one.commit("third", model__safetensors=changed(model(1), 1, 3))
    one.git("push", "-q", "origin", "main")
    assert objects_at(second) == world.objects() == needed_by(one, "HEAD", "HEAD~1", "HEAD~2")


def test_fetches_from_one_place_and_pushes_to_another(world: World, one: Repo) -> None:
    """What came from the project is not in the fork yet."""
    two = world.clone("two")
    fork = world.folder / "fork.git"
    two.git("remote", "set-url", "--push", "origin", sharing.bare(fork, world.environment))
    two.git("push", "-q", "origin", "main:topic")
    assert objects_at(fork) == needed_by(one, "HEAD", "HEAD~1")


def test_a_push_by_the_url_that_is_for_fetching(world: World, one: Repo) -> None:
    second = world.folder / "second.git"
    one.git("remote", "set-url", "--push", "origin", sharing.bare(second, world.environment))
    one.commit("third", model__safetensors=changed(model(1), 1, 3))
    one.git("push", "-q", world.url, "main")
    world.assert_complete()
    assert objects_at(second) == set()


@needs_git_lfs
def test_a_new_branch_brings_its_own_objects_alone(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    """Those of the branch that it left are not sent again, nor are old ones fetched for that."""
    world = World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=True)
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    one.commit("second", model__safetensors=changed(model(1), 0, 2))
    one.git("push", "-q", "origin", "main")
    two = world.clone("two")
    had = two.object_ids()
    two.git("checkout", "-q", "-b", "topic")
    two.commit("third", model__safetensors=changed(model(1), 1, 3))
    world.forget_objects()
    two.git("push", "-q", "origin", "topic")
    assert world.objects() == two.object_ids() - had != set()


@pytest.mark.parametrize("kind", ["storage", "emptied", "no-verify"])
def test_objects_that_are_not_where_they_are_taken_to_be(
    world: World, one: Repo, kind: str
) -> None:
    """A place for objects that is new, or was emptied, or never got those of the version before:
    the next push shows it.
    """
    place = world.remote
    if kind == "storage":
        place = world.folder / "storage"
        place.mkdir()
        one.theta("remote", "set", "origin", place.as_uri())
    elif kind == "emptied":
        shutil.rmtree(world.remote / "theta")
    else:
        one.commit("third", model__safetensors=model(7))
        one.git("push", "-q", "--no-verify", "origin", "main")
        assert not needed_by(one, "HEAD") <= world.objects()
    one.commit(
        "last",
        model__safetensors=changed(one.read("model.safetensors"), 3, 8),
        other__safetensors=model(3),
    )
    one.git("push", "-q", "origin", "main")
    assert needed_by(one, "HEAD") <= {path.name for path in place.rglob("*") if path.is_file()}
    two = world.clone(
        "two", *(["-c", f"remote.origin.thetaUrl={place.as_uri()}"] if kind == "storage" else [])
    )
    assert two.read("model.safetensors") == one.read("model.safetensors")


def test_what_was_pushed_without_the_hook_can_be_sent_by_hand(world: World, one: Repo) -> None:
    one.commit("third", model__safetensors=model(7))
    one.commit("fourth", model__safetensors=model(8))
    one.git("push", "-q", "--no-verify", "origin", "main")
    one.theta("push")
    assert needed_by(one, "HEAD") <= world.objects()
    done = one.theta_run("fsck", "--all", "--remote")
    assert done.returncode == 1
    assert b"git theta push --all" in done.stderr
    one.theta("push", "--all")
    world.assert_complete()
    assert "all is well" in one.theta("fsck", "--all", "--remote").decode()


def test_by_hand_too(world: World, one: Repo) -> None:
    elsewhere = world.folder / "elsewhere.git"
    one.git("remote", "set-url", "origin", sharing.bare(elsewhere, world.environment))
    one.theta("push", "origin", "main")
    assert objects_at(elsewhere) == needed_by(one, "HEAD", "HEAD~1")


@pytest.mark.parametrize(
    "words",
    ["HEAD^{/the first}:refs/heads/found", "main:refs/heads/a\u2028b", "main:refs/heads/a\u0085b"],
)
def test_what_is_pushed_may_have_any_name(world: World, words: str) -> None:
    one = world.start()
    one.commit("the first", model__safetensors=model(1))
    one.git("push", "-q", "origin", words)
    assert len(world.refs().split("\n")) == 2
    world.assert_complete()


@pytest.mark.parametrize("kind", ["blob", "tree"])
def test_a_tag_of_what_is_no_commit(world: World, kind: str) -> None:
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    one.git("tag", "t", "HEAD:model.safetensors" if kind == "blob" else "HEAD^{tree}")
    one.git("push", "-q", "origin", "t")
    assert world.objects() == needed_by(one, "HEAD")


def test_a_replaced_manifest_is_pushed_as_it_is(world: World) -> None:
    """``git push`` sends the object that was replaced, not its replacement."""
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    one.commit("second", model__safetensors=model(2))
    one.git("replace", "HEAD:model.safetensors", "HEAD~1:model.safetensors")
    one.git("push", "-q", "origin", "main")
    world.assert_complete()


def test_a_push_by_hand_mends_what_is_damaged_in_a_folder(world: World, one: Repo) -> None:
    victim = sorted(world.remote.glob("theta/objects/*/*/*"))[0]
    size = victim.stat().st_size
    victim.unlink()
    victim.write_bytes(b"x" * size)
    assert one.theta_run("fsck", "--all", "--remote").returncode == 1
    one.theta("push", "--all")
    world.assert_complete()  # each with the bytes of its name
    assert "all is well" in one.theta("fsck", "--all", "--remote").decode()


@needs_git_lfs
def test_git_lfs_files_of_another_branch_are_pushed_though_our_hook_was_first(world: World) -> None:
    one = world.start()
    one.commit("ours", model__safetensors=model(1))
    one.git("config", "filter.lfs.process", "git-lfs filter-process")
    one.git("checkout", "-q", "-b", "side")
    one.write(
        ".gitattributes",
        one.read(".gitattributes") + b"*.dat filter=lfs diff=lfs merge=lfs -text\n",
    )
    one.git("add", ".gitattributes")
    one.commit("theirs", big__dat=b"pointer me" * 100)
    one.git("checkout", "-q", "main")
    one.git("push", "-q", "origin", "side")
    assert len(world.objects()) == len(one.object_ids()) + 1


@needs_git_lfs
def test_a_damaged_copy_in_git_lfs_storage_is_not_sent(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    world = World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=True)
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    oid, path = sorted(one.objects().items())[0]
    docked = one.common / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    docked.parent.mkdir(parents=True)
    docked.write_bytes(b"x" * path.stat().st_size)
    one.git("push", "-q", "origin", "main")
    assert world.objects() == one.object_ids()  # each with the bytes of its name


@needs_git_lfs
def test_the_server_that_lfsconfig_names_is_the_one_that_is_checked(world: World) -> None:
    server = world.folder / "server.git"
    one = world.start()
    one.write(".lfsconfig", f"[lfs]\n\turl = {sharing.bare(server, world.environment)}\n".encode())
    one.git("add", ".lfsconfig")
    one.commit("first", model__safetensors=model(1))
    assert "git theta remote confirm" in one.git_fails("push", "-q", "origin", "main")
    one.theta("remote", "confirm", "--yes")
    one.git("push", "-q", "origin", "main")
    assert objects_at(server) == needed_by(one, "HEAD")
    assert "all is well" in one.theta("fsck", "--remote").decode()
    two = world.clone("two", "-c", f"theta.confirmedUrl={server.as_uri()}")
    assert two.read("model.safetensors") == model(1)


@needs_git_lfs
def test_a_folder_keeps_its_models_beside_a_remote_with_storage_for_all(
    world: World, one: Repo
) -> None:
    """--with-lfs makes git-theta the transfer agent for every remote.

    A remote that is a folder needs none for models.
    """
    storage = world.folder / "storage"
    storage.mkdir()
    one.git("remote", "add", "cloud", sharing.bare(world.folder / "cloud.git", world.environment))
    one.theta("remote", "set", "cloud", storage.as_uri(), "--with-lfs")
    one.commit("third", model__safetensors=changed(model(1), 1, 3))
    one.git("push", "-q", "origin", "main")
    assert world.objects() == needed_by(one, "HEAD", "HEAD~1", "HEAD~2")


# Fetching


def test_what_a_remote_borrows_is_found(world: World, one: Repo) -> None:
    """A forge's forks are such: the objects are with the repository they were made from."""
    fork = world.folder / "fork.git"
    one.git("clone", "-q", "--bare", "--shared", str(world.remote), str(fork))
    two = sharing.clone(fork.as_uri(), world.folder / "two", world.environment)
    assert two.read("model.safetensors") == one.read("model.safetensors")
    two.commit("third", model__safetensors=changed(model(1), 1, 3))
    two.git("push", "-q", "origin", "main")
    assert objects_at(fork) == needed_by(two, "HEAD") - world.objects()


def test_a_push_to_a_folder_that_is_gone_says_so(world: World, one: Repo) -> None:
    gone = world.folder / "gone.git"
    one.git("remote", "set-url", "origin", str(gone))
    assert f"origin: {gone} does not exist" in one.theta_run("push", "origin").stderr.decode()


def test_a_clone_of_a_bundle_says_what_is_missing(world: World, one: Repo) -> None:
    bundle = world.folder / "models.bundle"
    one.git("bundle", "create", "-q", str(bundle), "main")
    said = one.git_fails("clone", "-q", "-b", "main", str(bundle), str(world.folder / "two"))
    assert "is not in the store" in said
    two = one.at(world.folder / "two")
    two.git("remote", "add", "other", str(one.path))
    two.git("reset", "-q", "--hard")
    assert two.read("model.safetensors") == one.read("model.safetensors")


# What prune keeps


@pytest.fixture
def precious(one: Repo) -> tuple[str, set[str]]:
    """A commit that only its id is known of by now, and the objects that nothing else needs."""
    before = one.object_ids()
    third = one.commit("third", model__safetensors=changed(model(1), 1, 3))
    one.git("reset", "-q", "--hard", "HEAD~1")
    return third, one.object_ids() - before


@pytest.mark.parametrize("ref", ["refs/worktree/mine", "refs/bisect/bad", "refs/rewritten/onto"])
@pytest.mark.parametrize("of_the_other", [True, False])
def test_refs_that_each_worktree_has_of_its_own(
    world: World, one: Repo, precious: tuple[str, set[str]], ref: str, of_the_other: bool
) -> None:
    third, objects = precious
    one.git("worktree", "add", "-q", "--detach", str(world.folder / "tree"))
    tree = one.at(world.folder / "tree")
    (tree if of_the_other else one).git("update-ref", ref, third)
    forget(one)
    (one if of_the_other else tree).theta("prune", "--now")
    assert objects <= one.object_ids()


def test_the_index_behind_the_one_of_a_hook(one: Repo, precious: tuple[str, set[str]]) -> None:
    third, objects = precious
    shutil.copy(one.common / "index", one.common / "other-index")
    one.git("checkout", "-q", third, "--", "model.safetensors")
    forget(one)
    one.theta("prune", "--now", GIT_INDEX_FILE=str(one.common / "other-index"))
    assert objects <= one.object_ids()


def test_a_replaced_manifest(one: Repo, precious: tuple[str, set[str]]) -> None:
    third, objects = precious
    one.git("branch", "b", third)
    one.git("replace", f"{third}:model.safetensors", "HEAD:model.safetensors")
    forget(one)
    one.theta("prune", "--now")
    assert objects <= one.object_ids()


@pytest.mark.parametrize("kind", ["itself", "borrower", "storage"])
def test_a_remote_that_has_no_copy_of_its_own(world: World, one: Repo, kind: str) -> None:
    """What is 'at the remote' is this very file."""
    one.commit("of another kind", model__safetensors=model(77))
    place = one.path
    if kind == "borrower":
        place = world.folder / "borrower.git"
        one.git("clone", "-q", "--bare", "--shared", ".", str(place))
    one.git("remote", "add", "other", str(place))
    if kind == "storage":
        one.theta("remote", "set", "other", one.store.as_uri())
    one.git("fetch", "-q", "other")
    before = one.object_ids()
    done = one.theta_run("prune", "--now", "--verify-remote", "--from", "other")
    assert done.returncode == 0
    assert b"could not be verified" in done.stderr
    assert one.object_ids() == before


def test_a_manifest_in_the_working_tree_of_a_submodule(
    world: World, one: Repo, precious: tuple[str, set[str]]
) -> None:
    outer = Repo.create(world.folder / "outer", world.environment)
    outer.git("submodule", "--quiet", "add", world.url, "inner")
    inner = outer.at(outer.path / "inner")
    assert roots.worktrees(discover(inner.path)) == [inner.path]
    store = outer.common / "modules" / "inner" / "theta" / "objects"
    third, objects = precious
    for oid in objects:
        target = store / oid[:2] / oid[2:4] / oid
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(one.objects()[oid], target)
    inner.write("copy.safetensors", one.blob(f"{third}:model.safetensors"))
    inner.theta("prune", "--now")
    assert objects <= {path.name for path in store.glob("*/*/*")}


def test_working_trees_are_where_they_are(world: World, one: Repo) -> None:
    one.git("init", "-q", "--separate-git-dir", str(world.folder / "apart.git"))
    assert roots.worktrees(discover(one.path)) == [one.path]
    one.git("worktree", "add", "-q", "--detach", str(world.folder / "tree"))
    assert roots.worktrees(discover(one.path)) == [one.path, world.folder / "tree"]
    bare = world.folder / "bare.git"
    one.git("clone", "-q", "--bare", world.url, str(bare))
    assert roots.worktrees(discover(bare)) == []
    one.at(bare).git("worktree", "add", "-q", "--detach", str(world.folder / "of-bare"))
    assert roots.worktrees(discover(world.folder / "of-bare")) == [world.folder / "of-bare"]


def test_what_a_push_relies_on_at_a_remote_is_young_again(world: World, one: Repo) -> None:
    """A push that was refused left its objects there, and is tried again when they are old: nobody
    prunes them before the ref moves.
    """
    third = one.commit("third", model__safetensors=changed(model(1), 1, 3))
    new = needed_by(one, third) - needed_by(one, "HEAD~1")
    one.theta("push", "origin", "main")
    paths = [path for path in world.remote.glob("theta/objects/*/*/*") if path.name in new]
    for path in paths:
        os.utime(path, (1, 1))
    one.git("push", "-q", "origin", "main")
    assert len(paths) == len(new)
    assert all(path.stat().st_mtime > 1 for path in paths)


# What the repository names


def test_a_question_that_nobody_answers_agrees_to_nothing(world: World, one: Repo) -> None:
    one.write(".thetaconfig", b"[theta]\n\turl = s3://models/p\n")
    done = one.theta_run("remote", "confirm")
    assert done.returncode == 1
    assert b"--yes" in done.stderr
    assert "not confirmed" in one.theta("remote").decode()
    done = one.theta_run("remote", "remove", "origin")
    assert done.returncode == 1
    assert b".thetaconfig" in done.stderr
