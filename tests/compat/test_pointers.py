"""Objects that forges keep: what their collectors would delete after each kind of push."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import serving
import sharing
from gitrepo import Repo
from http_world import SECRET, HttpWorld, collected_by_gitea, collected_by_gitlab, needed_sizes
from sharing import changed, model

pytest.importorskip("giftless", reason="giftless is the Git LFS server")
pytest.importorskip("jwt", reason="giftless takes its tokens")
if shutil.which("git-lfs") is None:
    pytest.skip("git-lfs is not installed", allow_module_level=True)

REF = "refs/theta/objects"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("lfs-server")
    with serving.lfs(folder, SECRET) as port:
        yield port, folder


@pytest.fixture
def world(
    tmp_path: Path, environment: Mapping[str, str], server: tuple[int, Path]
) -> Iterator[HttpWorld]:
    with serving.proxy(server[0]) as between:
        yield HttpWorld(
            tmp_path, sharing.with_program(environment, tmp_path / "bin"), between, server[1]
        )


@pytest.fixture
def one(world: HttpWorld) -> Repo:
    repo = world.start()
    repo.commit("first", model__safetensors=model(1))
    return repo


def remote(world: HttpWorld) -> Repo:
    return Repo(world.remote, world.environment)


def assert_kept(world: HttpWorld, bare: Repo | None = None) -> dict[str, int]:
    """Every object that the remote's commits need is there, and no collector deletes any."""
    there = bare or remote(world)
    there.git("gc", "-q", "--prune=now")
    needed = needed_sizes(there)
    assert needed
    assert needed.keys() <= world.objects()
    assert collected_by_gitlab(there, set(needed)) == set()
    assert collected_by_gitea(there, needed) == set()
    return needed


def test_every_push_names_its_objects(world: HttpWorld, one: Repo) -> None:
    one.git("push", "-q", "origin", "main")
    first = assert_kept(world)
    one.commit("second", model__safetensors=changed(model(1), 0, 7))
    one.git("push", "-q", "origin", "main")
    assert len(assert_kept(world)) > len(first)
    assert remote(world).git("rev-list", "--count", REF).strip() == b"2"
    assert b"[skip ci]" in remote(world).git("log", "-1", "--format=%s", REF)


def test_nothing_of_it_shows_in_a_clone(world: HttpWorld, one: Repo) -> None:
    one.git("push", "-q", "-u", "origin", "main")
    two = world.clone("two")
    for repo in (one, two):
        repo.git("fetch", "-q", "origin")
        assert b"theta" not in repo.git("branch", "-a")
        assert repo.git("log", "--all", "--format=%s").split() == [b"first", b"attributes"]
        assert b"theta" not in repo.git("for-each-ref")
        repo.assert_clean()


def test_a_second_clone_adds_what_is_new_alone(world: HttpWorld, one: Repo) -> None:
    one.git("push", "-q", "origin", "main")
    two = world.clone("two")
    two.commit("second", model__safetensors=changed(model(1), 0, 7))
    two.git("push", "-q", "origin", "main")
    assert_kept(world)
    new = remote(world).git("ls-tree", "--name-only", REF).split()
    assert len(new) == len(needed_sizes(two, "HEAD").keys() - needed_sizes(two, "HEAD~1").keys())
