"""Models of several files: split another way they cost nothing, and are compared as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gitrepo import Repo
from safetensors.numpy import save_file

INDEX = "model.safetensors.index.json"


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        f"layers.{number}.weight": random.standard_normal((64, 64), dtype=np.float32)
        for number in range(6)
    }


def write(repo: Repo, tensors: dict[str, np.ndarray], count: int) -> None:
    """As save_pretrained does it: shards and an index, or one file."""
    for old in repo.path.glob("model*.safetensors*"):
        old.unlink()
    if count == 1:
        save_file(tensors, repo.path / "model.safetensors", {"format": "pt"})
        return
    names, places = list(tensors), {}
    for number in range(count):
        part = (
            names[number::count]
            if count > 3
            else names[number * len(names) // count : (number + 1) * len(names) // count]
        )
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        save_file({name: tensors[name] for name in part}, repo.path / file, {"format": "pt"})
        places.update(dict.fromkeys(part, file))
    (repo.path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def commit(repo: Repo, message: str) -> None:
    repo.git("add", "-A")
    repo.git("commit", "-qm", message)


def compared(repo: Repo, *words: str) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads(repo.theta("diff", "--json", *words))["models"]
    return models


@pytest.fixture
def sharded(repo: Repo) -> Repo:
    write(repo, weights(), 2)
    commit(repo, "two")
    return repo


@pytest.mark.parametrize("count", [1, 3, 4])
def test_split_another_way_nothing_is_stored_and_nothing_changed(sharded: Repo, count: int) -> None:
    before = sharded.object_ids()
    tensors = {
        place
        for name in ("1", "2")
        for e in sharded.manifest(f"HEAD:model-0000{name}-of-00002.safetensors").entries
        for place in e.ranges
    }
    assert len(tensors) == 6
    write(sharded, weights(), count)
    sharded.git("add", "-A")
    staged = compared(sharded, "HEAD", "--group")
    commit(sharded, "others")
    assert sharded.status() == ""
    skeletons = set()
    for file in sharded.path.glob("model*.safetensors"):
        manifest = sharded.manifest(f"HEAD:{file.name}")
        assert {place for entry in manifest.entries for place in entry.ranges} <= tensors
        skeletons |= {ref.oid for ref in manifest.skeleton.objects}
    assert sharded.object_ids() - before <= skeletons
    for models in (
        staged,
        compared(sharded, "HEAD~1", "HEAD", "--", INDEX),
        compared(sharded, "HEAD~1", "HEAD", "."),
    ):
        (model,) = models
        assert model["path"] == INDEX
        assert model["changes"] == []
        assert model["unchanged"] == 6


def test_one_tensor_of_one_shard(sharded: Repo) -> None:
    changed = weights()
    changed["layers.4.weight"][0, 0] += 1
    write(sharded, changed, 2)
    for words in ([INDEX], ["--group"], ["HEAD", "--", INDEX]):
        (model,) = compared(sharded, *words)
        assert (model["path"], model["unchanged"]) == (INDEX, 5)
    write(sharded, changed, 3)
    commit(sharded, "both at once")
    (model,) = compared(sharded, "HEAD~1", "HEAD", "--group")
    assert [
        (item["name"], item["kind"], item["statistics"]["changed"]) for item in model["changes"]
    ] == [("layers.4.weight", "modified", 1)]
    assert b"1 modified of 6 tensors, 5 unchanged" in sharded.theta(
        "diff", "HEAD~1", "HEAD", "--group"
    )
    assert len(compared(sharded, "HEAD~1", "HEAD")) > 1


def test_added_and_deleted_as_one(sharded: Repo) -> None:
    (model,) = compared(sharded, "HEAD~1", "HEAD", "--group")
    assert [item["kind"] for item in model["changes"]] == ["added"] * 6
    for file in sharded.path.glob("model*"):
        file.unlink()
    (model,) = compared(sharded, "HEAD", "--group")
    assert [item["kind"] for item in model["changes"]] == ["removed"] * 6


def test_ls_files_lists_it_as_one(sharded: Repo) -> None:
    sharded.commit(
        "alone", other__safetensors=(sharded.path / "model-00001-of-00002.safetensors").read_bytes()
    )
    lines = sharded.theta("ls-files", "--group").decode().splitlines()
    assert [line.split()[0] for line in lines[1:3]] == [INDEX, "other.safetensors"]
    assert lines[1].split()[1:3] == ["safetensors", "6"]
    assert sharded.theta("ls-files", "HEAD", "--", INDEX).decode().splitlines()[1].split()[2] == "6"
    long = sharded.theta("ls-files", "-l", INDEX).decode()
    assert all(f"layers.{number}.weight" in long for number in range(6))
    (model,) = json.loads(sharded.theta("ls-files", "--json", INDEX))
    assert model["files"] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert (model["tensors"], model["missing"]) == (6, 0)
    assert len(sharded.theta("ls-files").decode().splitlines()) == 5


def test_the_index_of_a_model_in_a_folder(repo: Repo) -> None:
    inner = Repo(repo.path / "deep" / "er", repo.environment)
    inner.path.mkdir(parents=True)
    write(inner, weights(), 2)
    commit(repo, "first")
    changed = weights()
    changed["layers.0.weight"] *= 2
    write(inner, changed, 2)
    for where, words in (
        (repo, ["deep/er"]),
        (repo, [f"deep/er/{INDEX}"]),
        (inner, [INDEX]),
        (inner, ["."]),
    ):
        (model,) = compared(where, *words)
        assert model["path"] == f"deep/er/{INDEX}"
        assert model["unchanged"] == 5
    assert Path(INDEX).name in inner.theta("ls-files", ".").decode()
