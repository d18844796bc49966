"""Branches that merged each other before: several common ancestors, which are merged first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from merging import Branches, Tensors, average, model, moved, same

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are POSIX scripts")
BASE = model()


@pytest.fixture(scope="module")
def crossed_once(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str], bin_folder: Path
) -> tuple[Branches, Tensors, Tensors]:
    repo = Branches.make(tmp_path_factory.mktemp("once") / "repo", environment, bin_folder)
    repo.save("base", BASE)
    one = repo.branch("one", moved(BASE, 11, "layer0", "layer1"))
    two = repo.branch("two", moved(BASE, 12, "layer0", "layer2"))
    repo.git("branch", "of-one", "one")
    for name, other in (("one", "two"), ("two", "of-one")):
        repo.git("checkout", "-q", name)
        repo.fails("merge", other)
        repo.told("resolve", "--ours")
        repo.git("commit", "-qm", f"{name} with {other}")
    return repo, one, two


@pytest.fixture
def crossed(
    crossed_once: tuple[Branches, Tensors, Tensors], tmp_path: Path
) -> tuple[Branches, Tensors, Tensors]:
    """'one' changed layers 0 and 1, 'two' layers 0 and 2; each merged the other, and each kept its
    own layer 0.
    """
    once, one, two = crossed_once
    return once.copy(tmp_path / "repo"), one, two


def test_what_was_settled_in_two_ways_conflicts(crossed: tuple[Branches, Tensors, Tensors]) -> None:
    repo, one, two = crossed
    said = repo.fails("merge", "one")
    # Nobody is told of the merge of the ancestors
    assert said.count("changed on several sides") == 1
    assert "1 tensor changed on several sides" in said
    assert "layer0.weight: changed on 2 sides" in said
    assert "layer0.weight" in repo.told("resolve", code=1)
    repo.told("resolve", "-s", "task_arithmetic")
    wide = [values["layer0.weight"].astype(np.float64) for values in (BASE, two, one)]
    wanted = (wide[0] + ((wide[1] - wide[0]) + (wide[2] - wide[0]))).astype(np.float32)
    both = {"layer1.weight": one["layer1.weight"], "layer2.weight": two["layer2.weight"]}
    assert same(repo.tensors(), {**BASE, **both, "layer0.weight": wanted})
    repo.git("commit", "-qm", "merged")
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()


def test_a_change_taken_back_after_both_had_it_stays_taken_back(
    crossed: tuple[Branches, Tensors, Tensors],
) -> None:
    repo, _, two = crossed
    repo.save("without it", {**repo.tensors(), "layer1.weight": BASE["layer1.weight"]})
    repo.fails("merge", "one")
    repo.told("resolve", "--ours")
    assert same(repo.tensors(), {**two, "layer1.weight": BASE["layer1.weight"]})
    repo.git("merge", "--abort")
    repo.settled()


@pytest.mark.parametrize("strategy", ["ours", "average"])
def test_with_a_strategy(crossed: tuple[Branches, Tensors, Tensors], strategy: str) -> None:
    repo, one, two = crossed
    assert "No tensor would be left in conflict" in repo.told(
        "merge", "one", "-s", strategy, "--dry-run"
    )
    repo.told("merge", "one", "-s", strategy, "-m", "merged")
    mean = ((one["layer0.weight"].astype(np.float64) + two["layer0.weight"]) / 2).astype(np.float32)
    wanted = two["layer0.weight"] if strategy == "ours" else mean
    both = {"layer1.weight": one["layer1.weight"], "layer2.weight": two["layer2.weight"]}
    assert same(repo.tensors(), {**BASE, **both, "layer0.weight": wanted})
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()


def test_without_a_working_tree_and_many_at_once(
    crossed: tuple[Branches, Tensors, Tensors],
) -> None:
    repo, one, two = crossed
    assert "layer0.weight: changed on 2 sides" in repo.told("merge", "one", "--dry-run", code=1)
    repo.git("checkout", "-q", "-b", "three", "main")
    three = repo.save("three", moved(BASE, 13, "layer0", "layer3"))
    assert "layer0.weight: changed on 3 sides" in repo.told("merge", "one", "two", code=2)
    repo.told("merge", "one", "two", "-s", "average", "-m", "all")
    mean = average(*(side["layer0.weight"] for side in (three, one, two)))
    assert np.array_equal(repo.tensors()["layer0.weight"], mean)
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()


def test_added_in_two_ways(crossed: tuple[Branches, Tensors, Tensors]) -> None:
    """What is in neither's past: the common ancestors' merge leaves it out."""
    repo, _, _ = crossed
    repo.git("checkout", "-q", "-B", "left", "main")
    repo.save("left", {**BASE, "new": np.full(40, 1, np.float32)})
    repo.git("branch", "-f", "of-left")
    repo.git("checkout", "-q", "-B", "right", "main")
    repo.save("right", {**BASE, "new": np.full(40, 2, np.float32)})
    for name, other in (("left", "right"), ("right", "of-left")):
        repo.git("checkout", "-q", name)
        repo.fails("merge", other)
        repo.told("resolve", "--ours")
        repo.git("commit", "-qm", f"{name} with {other}")
    assert "new: added on 2 sides: f32[40]" in repo.fails("merge", "left")
    repo.told("resolve", "-s", "average")
    assert np.array_equal(repo.tensors()["new"], np.full(40, 1.5, np.float32))
    repo.git("commit", "-qm", "merged")
    repo.settled()
