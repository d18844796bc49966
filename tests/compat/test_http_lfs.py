"""A real Git LFS server over HTTP (giftless), which wants a token, and everything that can go wrong
on the way to it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import serving
import sharing
from gitrepo import Repo
from http_world import SECRET, HttpWorld
from sharing import changed, model, needed_by

pytest.importorskip("giftless", reason="giftless is the Git LFS server")
pytest.importorskip("jwt", reason="giftless takes its tokens")
if shutil.which("git-lfs") is None:
    pytest.skip("git-lfs is not installed", allow_module_level=True)

DATA = bytes(range(256)) * 400


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


def test_models_and_ordinary_files_go_to_the_server_and_back(world: HttpWorld, one: Repo) -> None:
    one.git("lfs", "track", "*.dat")
    one.git("add", ".gitattributes")
    one.commit("data", big__dat=DATA)
    one.git("push", "-q", "origin", "main")
    assert world.objects() == one.object_ids() | {hashlib.sha256(DATA).hexdigest()}
    two = world.clone("two")
    assert two.read("model.safetensors") == model(1)
    assert two.read("big.dat") == DATA
    two.assert_clean()
    two.commit("second", model__safetensors=changed(model(1), 0, 101))
    sent = world.between.count("PUT")
    two.git("push", "-q", "origin", "main")
    assert (
        world.between.count("PUT") - sent
        == len(needed_by(two, "HEAD") - needed_by(two, "HEAD~1"))
        == 1
    )
    one.git("pull", "-q", "--ff-only", "origin", "main")
    assert one.read("model.safetensors") == changed(model(1), 0, 101)
    one.assert_clean()
    one.theta("fsck", "--remote")


def test_wrong_credentials_move_no_ref(world: HttpWorld, one: Repo) -> None:
    world.let_in("some other secret that the server does not know")
    said = one.git_fails("push", "origin", "main")
    assert "git-lfs could not deliver" in said
    assert world.refs() == ""
    assert world.objects() == set()
    world.let_in(SECRET)
    one.git("push", "-q", "origin", "main")
    assert world.objects() == one.object_ids()
    world.let_in("some other secret that the server does not know")
    two = world.clone("two", "--no-checkout")
    assert "did not deliver" in two.git_fails("checkout", "-f", "main")
    assert two.object_ids() == set()
    world.let_in(SECRET)
    two.git("checkout", "-q", "-f", "main")
    assert two.read("model.safetensors") == model(1)


@pytest.mark.parametrize("fault", ["503", "507", "down"])
def test_a_server_that_fails_gets_no_ref_and_the_next_push_completes(
    world: HttpWorld, one: Repo, fault: str
) -> None:
    upload = fault == "507"  # a full disk shows when the bytes come
    world.between.fault = lambda method, path, number: (
        fault if method == "PUT" or not upload else ""
    )
    if fault == "down":
        world.between.fault = lambda method, path, number: "cut"
    said = one.git_fails("push", "origin", "main")
    assert "git-lfs could not deliver" in said
    assert world.refs() == ""
    assert world.objects() == set()
    assert one.leftovers() == []
    world.healed()
    one.git("push", "-q", "origin", "main")
    world.assert_complete()


def test_a_push_that_was_cut_off_goes_on(world: HttpWorld, one: Repo) -> None:
    one.commit("second", model__safetensors=model(2))
    world.between.fault = lambda method, path, number: (
        "403" if method == "PUT" and world.between.count("PUT") > 1 else ""
    )
    one.git_fails("push", "origin", "main")
    assert world.refs() == ""
    arrived = world.objects()
    assert 0 < len(arrived) < len(one.object_ids())
    world.healed()
    world.between.seen.clear()
    one.git("push", "-q", "origin", "main")
    assert world.between.count("PUT") == len(one.object_ids()) - len(arrived)
    world.assert_complete()


@pytest.mark.parametrize("fault", ["503", "cut", "slow"])
def test_what_passes_is_got_over(world: HttpWorld, one: Repo, fault: str) -> None:
    faulty = set[str]()

    def once(method: str, path: str, number: int) -> str:
        """The first transfer of each object goes wrong."""
        if method not in ("PUT", "GET") or (key := f"{method} {path}") in faulty or len(faulty) > 2:
            return ""
        faulty.add(key)
        return fault

    world.between.fault = once
    one.git("push", "-q", "origin", "main")
    world.assert_complete()
    faulty.clear()
    assert world.clone("two").read("model.safetensors") == model(1)
    assert faulty


@pytest.mark.parametrize("fault", ["wrong", "cut"])
def test_a_fetch_that_fails_stores_nothing_corrupt_and_goes_on_later(
    world: HttpWorld, one: Repo, fault: str
) -> None:
    one.git("push", "-q", "origin", "main")
    victim = sorted(one.object_ids())[0]
    two = world.clone("two", "--no-checkout")
    world.between.fault = lambda method, path, number: (
        fault if method == "GET" and victim in path else ""
    )
    said = two.git_fails("checkout", "-f", "main")
    assert victim in said
    assert "model.safetensors" in said
    assert two.object_ids() == one.object_ids() - {victim}
    two.objects()
    assert not (two.path / "model.safetensors").exists()
    assert not list(two.common.glob(f"lfs/objects/*/*/{victim}"))
    world.healed()
    world.between.seen.clear()
    two.git("checkout", "-q", "-f", "main")
    assert world.between.count("GET") == 1
    assert two.read("model.safetensors") == model(1)
    two.assert_clean()


def test_an_object_that_is_damaged_at_the_server_is_found_and_sent_again(
    world: HttpWorld, one: Repo
) -> None:
    one.git("push", "-q", "origin", "main")
    victim = next(path for path in sorted(world.storage.rglob("*")) if path.is_file())
    good = victim.read_bytes()
    victim.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    report = one.theta_run("fsck", "--remote")
    assert report.returncode != 0
    assert victim.name.encode() in report.stdout + report.stderr
    two = world.clone("two", "--no-checkout")
    assert victim.name in two.git_fails("checkout", "-f", "main")
    assert victim.name not in two.objects()
    victim.unlink()
    one.theta("push", "--all")
    assert victim.read_bytes() == good
    two.git("checkout", "-q", "-f", "main")
    two.assert_clean()


def test_verify_push_asks_the_server(world: HttpWorld, one: Repo) -> None:
    """With git's credentials, in requests that send nothing."""
    url = f"http://127.0.0.1:{world.between.port}/org/{world.name}.git/info/lfs"

    def verify(where: str = url) -> tuple[int, str]:
        done = one.theta_run("verify-push", "HEAD", "--lfs", where)
        return done.returncode, done.stderr.decode()

    first, *_ = one.manifest("HEAD:model.safetensors").objects()
    code, told = verify()
    assert code == 1
    assert f"model.safetensors (commit {one.head()[:12]}): tensor " in told
    assert f"object {first} (" in told
    assert f"is not in {url}" in told
    one.theta("push", "origin", "main")
    before = world.objects()
    assert verify() == (0, "")
    assert verify(url + "/") == (0, "")
    assert world.objects() == before
    world.between.fault = lambda method, path, number: "500" if number == 1 else ""
    assert verify() == (0, ""), "a fault that passes"
    world.healed()
    code, told = verify(f"http://127.0.0.1:{world.between.port}/nothing")
    assert code == 1
    assert "/nothing (404: it has none of them, or the URL is wrong)" in told
    world.between.fault = lambda method, path, number: "302"
    code, told = verify()
    assert code == 1
    assert "redirects elsewhere (302), which is not followed" in told
    world.healed()
    world.let_in("another-secret-that-is-quite-as-long-as-the-first")
    code, told = verify()
    assert code == 1
    assert "does not let us in" in told
    assert told.count("\n") == 1
