"""Partial use, resuming, and what happens when objects cannot be had."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import sharing
from gitrepo import Repo
from sharing import World, changed, model, needed_by

if shutil.which("git-lfs") is None:
    pytest.skip("git-lfs is not installed", allow_module_level=True)


@pytest.fixture(params=[False, True], ids=["folder", "git-lfs"])
def world(request: pytest.FixtureRequest, tmp_path: Path, environment: Mapping[str, str]) -> World:
    return World(
        tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=request.param
    )


@pytest.fixture
def manifests(world: World) -> Repo:
    """A clone that holds manifests only, of a repository with three versions of a model."""
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    one.git("tag", "v1")
    one.commit("second", model__safetensors=changed(model(1), 0, 50))
    one.commit("third", model__safetensors=changed(model(1), 1, 60))
    one.git("push", "-q", "origin", "main", "v1")
    return world.clone("two", GIT_THETA_SKIP_SMUDGE="1")


def test_a_clone_of_manifests_becomes_whole(world: World, manifests: Repo) -> None:
    assert manifests.read("model.safetensors").startswith(b"git-theta manifest ")
    assert manifests.object_ids() == set()
    assert manifests.status() == ""
    said = manifests.theta("pull").decode()
    assert "wrote 1 model" in said
    assert manifests.read("model.safetensors") == changed(model(1), 1, 60)
    manifests.assert_clean()
    assert manifests.object_ids() == needed_by(manifests, "HEAD")


def test_fetch_of_tensors_by_name(manifests: Repo) -> None:
    manifest = manifests.manifest("HEAD:model.safetensors")
    manifests.theta("fetch", "--params", "layer.[12].*")
    assert manifests.object_ids() == {
        ref.oid
        for name in ("layer.1.weight", "layer.2.weight")
        for ref in manifest.by_name[name].objects
    }
    assert manifests.object_ids() < needed_by(manifests, "HEAD~1", "HEAD")
    manifests.theta("fetch", "--params", "*.0.weight", "HEAD~1")
    assert manifests.object_ids() == needed_by(manifests, "HEAD~1", "HEAD")
    done = manifests.theta_run("fetch", "--params", "nothing.*")
    assert done.returncode == 1
    assert b"no stored tensor matches" in done.stderr


def test_fetch_of_revisions_and_ranges(world: World, manifests: Repo) -> None:
    manifests.theta("fetch", "v1")
    assert manifests.object_ids() == needed_by(manifests, "v1")
    assert manifests.theta("fetch", "origin", "v1").decode().startswith("Nothing to fetch")
    manifests.theta("fetch", "v1..main")
    assert manifests.object_ids() == needed_by(manifests, "v1", "main~1", "main")
    shutil.rmtree(manifests.store)
    manifests.theta("fetch", "--recent")
    assert manifests.object_ids() == needed_by(manifests, "v1", "main~1", "main")
    for words in (["nowhere"], ["--all", "v1"], ["--", "-x"]):
        done = manifests.theta_run("fetch", *words)
        assert done.returncode != 0
        assert len(done.stderr.splitlines()) <= 2


def test_fetch_all_brings_all_of_history(world: World, manifests: Repo) -> None:
    manifests.theta("fetch", "--all")
    assert manifests.object_ids() == needed_by(manifests, "v1", "main~1", "main") == world.objects()


def test_recent_leaves_old_history_out(world: World, manifests: Repo) -> None:
    manifests.git("config", "theta.recentDays", "2")
    old = {"GIT_COMMITTER_DATE": "2020-01-01T00:00:00", "GIT_AUTHOR_DATE": "2020-01-01T00:00:00"}
    manifests.git("checkout", "-q", "--orphan", "ancient", GIT_THETA_SKIP_SMUDGE="1")
    manifests.under(old).git("commit", "-qm", "old")
    manifests.git("checkout", "-q", "--detach", "v1", GIT_THETA_SKIP_SMUDGE="1")
    manifests.git("remote", "remove", "origin")
    manifests.git("tag", "-d", "v1")
    manifests.git("branch", "-D", "main")
    assert manifests.theta("fetch", "--recent").decode().startswith("Nothing to fetch")


def test_objects_that_are_here_are_never_fetched_again(world: World) -> None:
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    one.git("push", "-q", "origin", "main")
    one.commit("second", model__safetensors=changed(model(1), 0, 2))
    one.git("push", "-q", "origin", "main")
    two = world.clone("two", "--reference", str(one.path))
    assert two.read("model.safetensors") == changed(model(1), 0, 2)
    assert two.object_ids() == set()  # borrowed
    world.forget_objects()
    two.git("checkout", "-q", "HEAD~1")
    assert two.read("model.safetensors") == model(1)


def test_an_interrupted_fetch_goes_on_where_it_stopped(world: World, manifests: Repo) -> None:
    whole = sorted(needed_by(manifests, "HEAD"))
    hidden = world.folder / "hidden"
    hidden.mkdir()
    there = {path.name: path for path in world.server.glob("*/objects/*/*/*")}
    for oid in whole[:1]:
        there[oid].rename(hidden / oid)
    done = manifests.theta_run("fetch")
    assert done.returncode == 1
    assert b"1 object" in done.stderr
    assert manifests.object_ids() == set(whole[1:])
    for oid in whole[:1]:
        (hidden / oid).rename(there[oid])
    for oid in whole[1:]:
        there[oid].unlink()
    manifests.theta("pull")
    assert manifests.read("model.safetensors") == changed(model(1), 1, 60)


def test_a_checkout_without_its_objects_fails_and_says_why(world: World, manifests: Repo) -> None:
    world.forget_objects()
    manifests.git("checkout", "-q", "--orphan", "empty", GIT_THETA_SKIP_SMUDGE="1")
    manifests.git("rm", "-qrf", ".", GIT_THETA_SKIP_SMUDGE="1")
    said = manifests.git_fails("checkout", "main")
    assert "model.safetensors" in said
    assert "layer" in said or "skeleton" in said
    manifests.git("checkout", "-q", "-f", "main", GIT_THETA_SKIP_SMUDGE="1")
    done = manifests.theta_run("pull")
    assert done.returncode == 1
    assert b"model.safetensors" in done.stderr
    assert manifests.read("model.safetensors").startswith(b"git-theta manifest ")


def test_on_missing_manifest_leaves_a_clone_usable(world: World, manifests: Repo) -> None:
    world.forget_objects()
    config = ["-c", "theta.onMissing=manifest"]
    two = world.clone("three", *config)
    text = two.read("model.safetensors")
    assert text == two.blob("HEAD:model.safetensors")
    assert two.status() == ""
    two.git("add", "model.safetensors")
    assert two.status() == ""
    two.git("checkout", "-q", "v1")
    assert two.read("model.safetensors") == two.blob("v1:model.safetensors")
    two.write("notes.txt", b"still works")
    two.git("add", ".")
    two.git("commit", "-qm", "other work")
    two.git("push", "-q", "origin", "HEAD:refs/heads/other")
    first = manifests.at(world.folder / "one")
    first.theta("push", "origin", "--all")
    two.git("checkout", "-q", "main")
    two.theta("pull")
    assert two.read("model.safetensors") == changed(model(1), 1, 60)
    two.assert_clean()


def test_a_damaged_object_at_the_remote_is_refused(world: World, manifests: Repo) -> None:
    victim = sorted(needed_by(manifests, "HEAD"))[0]
    path = next(
        path
        for path in (
            *world.server.glob("lfs/objects/*/*/*"),
            *world.server.glob("theta/objects/*/*/*"),
        )
        if path.name == victim
    )
    data = path.read_bytes()
    path.chmod(0o644)
    path.unlink()  # it may be a link of the object in the first clone
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = manifests.theta_run("pull")
    assert done.returncode == 1
    assert victim.encode() in done.stderr
    assert victim not in manifests.object_ids()
    assert len(manifests.objects()) == len(needed_by(manifests, "HEAD")) - 1
    assert manifests.read("model.safetensors").startswith(b"git-theta manifest ")
    path.unlink()
    path.write_bytes(data)
    manifests.theta("pull")
    assert manifests.read("model.safetensors") == changed(model(1), 1, 60)


def test_objects_of_a_second_remote_are_found(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    world = World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=False)
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    other = world.folder / "other.git"
    one.git("remote", "add", "other", sharing.bare(other, world.environment))
    one.git("push", "-q", "other", "main")
    world.forget_objects()
    two = Repo.create(world.folder / "two", world.environment)
    two.git("remote", "add", "origin", world.url)
    two.git("remote", "add", "other", other.as_uri())
    two.git("fetch", "-q", "other")
    two.git("checkout", "-q", "-b", "theirs", "other/main")
    assert two.read("model.safetensors") == model(1)


def test_fetch_works_from_a_subfolder_and_with_a_relative_remote(
    world: World, manifests: Repo
) -> None:
    manifests.git("remote", "set-url", "origin", "../remote.git")
    folder = manifests.path / "sub" / "folder"
    folder.mkdir(parents=True)
    manifests.at(folder).theta("fetch")
    assert manifests.object_ids() == needed_by(manifests, "HEAD")
    manifests.at(folder).theta("pull")
    assert manifests.read("model.safetensors") == changed(model(1), 1, 60)
