"""What an older Git-Theta does in the repository of a newer one: it names what it does not know
before it fetches anything, and writes nothing where a release is required that it is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import sharing
from gitrepo import Repo
from sharing import World, changed, model


@pytest.fixture
def world(tmp_path: Path, environment: Mapping[str, str]) -> World:
    return World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server=False)


@pytest.fixture
def one(world: World) -> Repo:
    repo = world.start()
    repo.commit("first", model__safetensors=model(1), other__safetensors=model(2))
    repo.git("push", "-q", "origin", "main")
    repo.theta("push", "origin", "main")
    return repo


def from_the_future(repo: Repo) -> None:
    """Commit a manifest whose tensors are stored as two updates that nobody knows."""
    text = repo.blob("HEAD:model.safetensors")
    head, blank, body = text.partition(b"\n\n")
    first, *rest = body.splitlines(keepends=True)
    first = first.replace(b" dense:", b" hologram(dpi=9):")
    rest[0] = rest[0].replace(b" dense:", b" zip-line:")
    text = head + blank + first + b"".join(rest)
    blob = repo.git("hash-object", "-w", "--stdin", stdin=text).decode().strip()
    repo.git("update-index", "--cacheinfo", f"100644,{blob},model.safetensors")
    repo.git("commit", "-qm", "of a later release")
    repo.git("push", "-q", "--no-verify", "origin", "main")


NAMED = r"stored as 'hologram', 'zip-line', unknown to Git-Theta .*; upgrade it, or install the"


def test_unknown_updates_are_named_before_anything_is_fetched(world: World, one: Repo) -> None:
    from_the_future(one)
    two = world.clone("two", GIT_THETA_SKIP_SMUDGE="1")
    assert two.object_ids() == set()
    for words in (
        ("checkout", "model.safetensors"),
        ("export", "HEAD:model.safetensors", str(world.folder / "out")),
        ("convert", "HEAD:model.safetensors", str(world.folder / "out.pt")),
    ):
        done = two.theta_run(*words)
        assert done.returncode == 1, words
        assert re.search(NAMED, done.stderr.decode()), words
        assert two.object_ids() == set(), words
    # As git asks for it
    (two.path / "model.safetensors").unlink()
    assert re.search(NAMED, two.git_fails("checkout", "--", "model.safetensors"))
    assert two.object_ids() == set()


def test_other_models_are_written_all_the_same(world: World, one: Repo) -> None:
    from_the_future(one)
    two = world.clone("two", GIT_THETA_SKIP_SMUDGE="1")
    done = two.theta_run("pull")
    said = done.stderr.decode()
    assert done.returncode == 1
    assert re.search(f"warning: tensors are {NAMED}", said), "before the fetch"
    assert re.search(f"model.safetensors: tensors are {NAMED}", said)
    assert two.read("other.safetensors") == model(2)


def test_objects_may_be_fetched_for_a_later_release(world: World, one: Repo) -> None:
    from_the_future(one)
    two = world.clone("two", GIT_THETA_SKIP_SMUDGE="1")
    done = two.theta_run("fetch")
    assert done.returncode == 0
    assert re.search(f"warning: tensors are {NAMED}", done.stderr.decode())
    assert two.object_ids() == one.object_ids()


def require(repo: Repo, release: str) -> None:
    repo.write(".thetaconfig", f"[theta]\n\trequires = {release}\n".encode())
    repo.git("add", ".thetaconfig")
    repo.git("commit", "-qm", f"require {release}")


REFUSED = "this repository requires Git-Theta 97.3 or newer (theta.requires in .thetaconfig)"


def test_an_older_release_reads_and_stores_nothing(world: World, one: Repo) -> None:
    require(one, "97.3")
    one.git("push", "-q", "--no-verify", "origin", "main")
    two = world.clone("two")
    assert two.read("model.safetensors") == model(1), "reading works"
    two.write("model.safetensors", changed(model(1), 0, 5))
    assert REFUSED in two.git_fails("add", "model.safetensors")
    assert two.theta_run("add", "model.safetensors").returncode != 0
    assert REFUSED in two.git_fails("commit", "-qam", "second")
    assert "model.safetensors" in two.status(), "and so do looking and going back"
    two.git("diff")
    two.git("checkout", "-q", "--", "model.safetensors")
    assert two.status() == ""
    # What git holds is given back, as ever
    (two.path / "model.safetensors").touch()
    two.git("add", "model.safetensors")
    assert two.status() == ""


def test_an_older_release_merges_nothing(world: World, one: Repo) -> None:
    one.theta("install", "--local")
    one.write(".gitattributes", b"*.safetensors filter=theta merge=theta -text\n")
    one.git("commit", "-qam", "merge by tensor")
    one.git("checkout", "-qb", "side")
    one.commit("side", model__safetensors=changed(model(1), 0, 5))
    one.git("checkout", "-q", "main")
    one.commit("main", model__safetensors=changed(model(1), 1, 6))
    require(one, "97.3")
    for words in (("merge", "side"), ("theta", "merge", "side", "-s", "average")):
        done = one.run(["git", *words])
        assert done.returncode != 0
        assert REFUSED in done.stdout.decode() + done.stderr.decode()
        one.run(["git", "merge", "--abort"])


@pytest.mark.parametrize("release", ["0", "0.2", "1", "1.0", "1.0.0", '"1.0"'])
def test_a_release_that_is_new_enough_stores(one: Repo, release: str) -> None:
    require(one, release)
    one.commit("second", model__safetensors=changed(model(1), 0, 5))


@pytest.mark.parametrize("release", ["soon", ">=2", "1.x", "-1", "9" * 40, "\x1b[2J"])
def test_what_is_no_release_is_said(one: Repo, release: str) -> None:
    one.write(".thetaconfig", f"[theta]\n\trequires = {release}\n".encode())
    one.write("model.safetensors", changed(model(1), 0, 5))
    said = one.git_fails("add", "model.safetensors")
    assert "theta.requires in .thetaconfig is " in said
    assert "\x1b" not in said


def test_the_committed_file_counts_where_there_is_none_in_the_working_tree(one: Repo) -> None:
    require(one, "97.3")
    (one.path / ".thetaconfig").unlink()
    one.write("model.safetensors", changed(model(1), 0, 5))
    assert REFUSED in one.git_fails("add", "model.safetensors")


def test_nothing_is_included(one: Repo, tmp_path: Path) -> None:
    (tmp_path / "more").write_text("[theta]\n\trequires = 97.3\n")
    text = f"[include]\n\tpath = {tmp_path / 'more'}\n# requires\n"
    one.write(".thetaconfig", text.encode())
    one.commit("second", model__safetensors=changed(model(1), 0, 5))
