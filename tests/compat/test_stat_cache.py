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
