"""What the filter remembers of files never outweighs what the index holds."""

from __future__ import annotations

import time
from pathlib import Path

from gitrepo import Repo
from small_models import safetensors_file, trained, weights


def test_a_file_that_was_cleaned_before_the_index_knew_its_name(repo: Repo, tmp_path: Path) -> None:
    model = weights()
    repo.commit("one", a__safetensors=safetensors_file(model))
    repo.commit("two", a__safetensors=safetensors_file(trained(model, 2)))
    repo.git("clone", "-q", ".", str(tmp_path / "clone"))
    clone = repo.at(tmp_path / "clone")
    blob = clone.git("rev-parse", ":a.safetensors").decode().strip()
    (clone.path / "a.safetensors").rename(clone.path / "b.safetensors")
    clone.git("update-index", "--force-remove", "a.safetensors")
    time.sleep(0.2)  # the cache takes no file that has just been touched
    alone = clone.git("hash-object", "--path=b.safetensors", "b.safetensors").decode().strip()
    assert alone != blob, "stored without regard to its history: that is what this test needs"
    clone.git("update-index", "--add", "--cacheinfo", f"100644,{blob},b.safetensors")
    assert clone.status() == "R  a.safetensors -> b.safetensors\n"


def _objects(repo: Repo) -> set[Path]:
    return {
        path for path in (repo.path / ".git" / "theta" / "objects").rglob("*") if path.is_file()
    }


def test_objects_deleted_behind_our_back_are_stored_again(repo: Repo) -> None:
    repo.commit("one", a__safetensors=safetensors_file(weights()))
    before = _objects(repo)
    time.sleep(0.2)
    (repo.path / "a.safetensors").touch()
    time.sleep(0.2)
    repo.git("add", "a.safetensors")  # now the cache knows the file
    for path in before:
        path.unlink()
    repo.git("update-index", "--force-remove", "a.safetensors")
    repo.git("add", "a.safetensors")
    assert _objects(repo) == before
    assert repo.status() == ""


def test_a_lost_update_is_named_and_can_be_made_again(repo: Repo) -> None:
    model = weights()
    repo.commit("one", a__safetensors=safetensors_file(model))
    first = _objects(repo)
    repo.commit("two", a__safetensors=safetensors_file(trained(model, 2)))
    updates = _objects(repo) - first
    assert b" delta(" in repo.git("show", ":a.safetensors")
    for path in updates:
        path.unlink()
    time.sleep(0.2)
    (repo.path / "a.safetensors").touch()
    done = repo.run(["git", "add", "a.safetensors"])
    assert done.returncode == 0
    assert b"are not here; 'git theta fsck --repair'" in done.stderr
    assert repo.status() == ""
    repo.theta("fsck", "--repair")
    assert _objects(repo) == first | updates
