"""One model in two file formats on two branches: a conflict that says so, or merged by tensor name
where that is asked for.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from merging import Branches, Tensors, average, model, moved, same
from small_models import safetensors_file, torch_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are POSIX scripts")
BASE = model()
CONFLICT = "the sides are files of different formats (safetensors, torch-zip)"


@pytest.fixture(scope="module")
def repo_once(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str], bin_folder: Path
) -> Branches:
    repo = Branches.make(tmp_path_factory.mktemp("once") / "repo", environment, bin_folder)
    repo.commit("base", m__pt=torch_file(BASE))
    repo.git("checkout", "-qb", "theirs")
    repo.commit("theirs", m__pt=torch_file(moved(BASE, 3, "layer0")))
    repo.git("checkout", "-q", "main")
    repo.git("mv", "m.pt", "m.safetensors")
    repo.commit("ours", m__safetensors=safetensors_file(moved(BASE, 2, "layer1")))
    return repo


@pytest.fixture
def repo(repo_once: Branches, tmp_path: Path) -> Branches:
    """m.pt; 'theirs' trained layer 0 in it, main made m.safetensors of it and trained layer 1."""
    return repo_once.copy(tmp_path / "repo")


def merged() -> Tensors:
    """What the fixture's branches make together."""
    return {**moved(BASE, 2, "layer1"), "layer0.weight": moved(BASE, 3, "layer0")["layer0.weight"]}


def by_resolve(repo: Branches) -> None:
    said = repo.fails("merge", "theirs")
    assert (
        f"m.safetensors: {CONFLICT}; 'git theta resolve --by-name' merges them by tensor name"
        in said
    )
    assert "different formats" in repo.told("resolve", "-s", "average", code=1)
    said = repo.told("resolve", "--by-name")
    assert "merged by tensor name; the result is safetensors" in said
    repo.git("commit", "-qm", "merged")


def by_flag_and_strategy(repo: Branches) -> None:
    repo.told("merge", "theirs", "--by-name", "-s", "average", "-m", "merged")


def by_file(repo: Branches) -> None:
    repo.commit("rules", **{".theta__toml": b"by-name = true\n"})
    repo.git("merge", "-q", "-m", "merged", "theirs")


def by_file_beside_a_strategy(repo: Branches) -> None:
    repo.commit("rules", **{".theta__toml": b"by-name = true\n"})
    repo.told("merge", "theirs", "-s", "average", "-m", "merged")


def test_a_converted_file_takes_the_other_branchs_changes(repo: Branches) -> None:
    start = repo.head()
    for ask in (by_resolve, by_flag_and_strategy, by_file, by_file_beside_a_strategy):
        ask(repo)
        assert same(repo.tensors("m.safetensors"), merged()), ask
        assert not (repo.path / "m.pt").exists(), ask
        repo.settled()
        repo.git("reset", "-q", "--hard", start)


def test_the_result_has_the_format_that_was_converted_to_whoever_did(repo: Branches) -> None:
    repo.git("checkout", "-q", "theirs")
    repo.told("merge", "main", "--by-name", "-m", "merged")
    assert repo.manifest("HEAD:m.safetensors").format == "safetensors"
    assert same(repo.tensors("m.safetensors"), merged())
    repo.settled()


def test_conflicting_tensors_go_to_a_strategy_and_the_recipe_is_verified(repo: Branches) -> None:
    repo.git("reset", "-q", "--hard", "HEAD~1")
    repo.git("mv", "m.pt", "m.safetensors")
    ours = moved(BASE, 5, "layer0")
    repo.commit("ours", m__safetensors=safetensors_file(ours))
    said = repo.told("merge", "theirs", "--by-name", code=1)
    assert "1 tensor changed on several sides" in said
    assert "different formats" not in said.split("merged by tensor name")[-1]
    repo.told("resolve", "-s", "average")  # that they are merged by name is remembered
    repo.git("commit", "-qm", "merged")
    theirs = moved(BASE, 3, "layer0")["layer0.weight"]
    wanted = ((ours["layer0.weight"].astype(np.float64) + theirs) / 2).astype(np.float32)
    assert same(repo.tensors("m.safetensors"), {**ours, "layer0.weight": wanted})
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()


def test_tensors_added_on_both_sides_make_a_new_file(repo: Branches) -> None:
    repo.git("checkout", "-q", "theirs")
    there = {**moved(BASE, 3, "layer0"), "theirs.new": np.ones(30, np.float32)}
    repo.commit("more", m__pt=torch_file(there))
    repo.git("checkout", "-q", "main")
    here = {**moved(BASE, 2, "layer1"), "ours.new": np.zeros((3, 7), np.float16)}
    repo.commit("more", m__safetensors=safetensors_file(here))
    repo.told("merge", "theirs", "--by-name", "-m", "merged")
    assert same(
        repo.tensors("m.safetensors"),
        {**merged(), "theirs.new": there["theirs.new"], "ours.new": here["ours.new"]},
    )
    repo.settled()


def test_one_path_with_another_format_in_it(repo: Branches) -> None:
    """Where no file is renamed: the torch format wins, as it is the one that was converted to."""
    torch = pytest.importorskip("torch")
    repo.commit("base", n__safetensors=safetensors_file(BASE))
    repo.git("checkout", "-qb", "torch")
    repo.commit("torch", n__safetensors=torch_file(moved(BASE, 3, "layer0")))
    repo.git("checkout", "-q", "main")
    repo.commit("ours too", n__safetensors=safetensors_file(moved(BASE, 2, "layer1")))
    assert CONFLICT in repo.fails("merge", "torch")
    repo.git("merge", "--abort")
    repo.told("merge", "torch", "--by-name", "-m", "merged")
    loaded = torch.load(io.BytesIO(repo.read("n.safetensors")), weights_only=True)
    assert same({name: value.numpy() for name, value in loaded.items()}, merged())
    repo.settled()


def test_several_branches_in_two_formats(repo: Branches) -> None:
    """Without a common ancestor's file: each of three branches adds the model, one of them as
    torch's.
    """
    start = repo.head()
    sides = [moved(BASE, seed, "layer2") for seed in (31, 32, 33)]
    for number, make in ((1, torch_file), (2, safetensors_file)):
        repo.git("checkout", "-qb", f"b{number}", start)
        repo.commit(f"b{number}", n__safetensors=make(sides[number]))
    repo.git("checkout", "-q", "main")
    repo.commit("b0", n__safetensors=safetensors_file(sides[0]))
    before = repo.head()
    assert CONFLICT in repo.told("merge", "b1", "b2", "-s", "average", code=2)
    assert repo.head() == before
    repo.told("merge", "b1", "b2", "-s", "average", "--by-name", "-m", "merged")
    wanted = average(*(side["layer2.weight"] for side in sides))
    assert np.array_equal(repo.tensors("n.safetensors")["layer2.weight"], wanted)
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()


def test_a_file_that_nobody_understands_has_no_names_to_merge_by(repo: Branches) -> None:
    repo.commit("base", n__safetensors=safetensors_file(BASE))
    repo.git("checkout", "-qb", "noise")
    repo.git("config", "theta.onInvalid", "store")
    repo.commit("noise", n__safetensors=np.random.default_rng(0).bytes(70_000))
    repo.git("checkout", "-q", "main")
    repo.commit("more", n__safetensors=safetensors_file(moved(BASE, 7, "layer1")))
    said = repo.told("merge", "noise", "--by-name", code=1)
    assert "the tensors of opaque files are not known; take one side whole" in said
    assert "CONFLICT" in said
    assert "are not known" in repo.told("resolve", "--by-name", "-s", "average", code=1)
    repo.git("merge", "--abort")
    repo.settled()
