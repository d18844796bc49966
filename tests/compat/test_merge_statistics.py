"""Statistics beside a model in merges: they follow the model, whichever command merges it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import copy
from pathlib import Path

import numpy as np
import pytest
from merging import Branches, Tensors, moved, total
from small_models import safetensors_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are POSIX scripts")
NAMES = ("a", "b", "c", "d")
BASE: Tensors = {
    name: np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32) for name in NAMES
}


def fisher(seed: int) -> Tensors:
    random = np.random.default_rng(seed)
    return {name: random.random((8, 8)).astype(np.float32) for name in NAMES}


def gram(seed: int) -> Tensors:
    random = np.random.default_rng(seed)
    inputs = {name: random.standard_normal((30, 8)) for name in NAMES}
    return {name: (x.T @ x).astype(np.float32) for name, x in inputs.items()}


MAKE = {"fisher": fisher, "gram": gram}


def add_up(*arrays: np.ndarray) -> np.ndarray:
    """The sum in float64, rounded once."""
    return total(arrays).astype(np.float32)


class Sides:
    """main and branches s1, s2: all changed ``a``, each one more tensor; all estimated statistics
    of every tensor on their own.
    """

    def __init__(self, repo: Branches, statistic: str) -> None:
        self.repo, self.file = repo, f"model.{statistic}.safetensors"
        repo.save("base", BASE)
        self.models = [moved(BASE, 10 + i, "a", own) for i, own in enumerate("bcd")]
        self.statistics = [MAKE[statistic](20 + i) for i in range(3)]
        repo.git("branch", "start")
        for i, name in enumerate(("main", "s1", "s2")):
            repo.git(
                "checkout",
                "-q",
                *(() if name == "main" else ("-b", name)),
                name if name == "main" else "start",
            )
            repo.save(name, self.models[i])
            repo.save(f"statistics of {name}", self.statistics[i], self.file)
        repo.git("checkout", "-q", "main")
        self.start = repo.head()

    def expect(self, *sides: int, picked: int | None = None) -> None:
        """The statistics are those of merging ``sides``; of ``a``, which all changed, the sum, or
        those of ``picked``.
        """
        found = self.repo.tensors(self.file)
        several = [self.statistics[i] for i in sides]
        assert np.array_equal(
            found["a"],
            add_up(*(s["a"] for s in several)) if picked is None else self.statistics[picked]["a"],
        )
        for i, own in enumerate("bcd"):
            # Weights that one side trained are that side's, and so is what is known of them. Nobody
            # trained others: all evidence counts.
            wanted = self.statistics[i][own] if i in sides else add_up(*(s[own] for s in several))
            assert np.array_equal(found[own], wanted), own

    def settled(self) -> None:
        self.repo.settled()
        assert "verified" in (said := self.repo.told("verify-merge"))
        assert "differ" not in said


@pytest.fixture(scope="module")
def sides_once(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str], bin_folder: Path
) -> Sides:
    folder = tmp_path_factory.mktemp("once") / "repo"
    return Sides(Branches.make(folder, environment, bin_folder), "fisher")


@pytest.fixture
def sides(sides_once: Sides, tmp_path: Path) -> Sides:
    sides = copy(sides_once)
    sides.repo = sides_once.repo.copy(tmp_path / "repo")
    return sides


def merged_by_fisher(sides: Sides, *which: int) -> np.ndarray:
    trust = [sides.statistics[i]["a"].astype(np.float64) for i in which]
    values = [sides.models[i]["a"] for i in which]
    mean: np.ndarray = total(f * w for f, w in zip(trust, values, strict=True)) / total(trust)
    return mean.astype(np.float32)


@pytest.mark.parametrize(
    "how", ["git theta merge", "git merge", "git merge -s theta", "git theta resolve"]
)
def test_fisher_statistics_are_added_up_by_every_command(sides: Sides, how: str) -> None:
    repo = sides.repo
    if how == "git theta merge":
        repo.told("merge", "s1", "-s", "fisher", "-m", "merged")
    elif how == "git theta resolve":
        repo.fails("merge", "s1")
        repo.told("resolve", "-s", "fisher")
        repo.git("commit", "-qm", "merged")
    else:
        repo.git("config", "theta.merge.strategy", "fisher")
        repo.git(*how.split()[1:], "-q", "-m", "merged", "s1")
    assert np.array_equal(repo.tensors()["a"], merged_by_fisher(sides, 0, 1))
    sides.expect(0, 1)
    sides.settled()


def test_three_sides_at_once_and_one_after_the_other_agree(sides: Sides) -> None:
    repo = sides.repo
    repo.told("merge", "s1", "s2", "-s", "fisher", "-m", "merged")
    assert len(repo.git("log", "-1", "--format=%P").split()) == 3
    at_once = repo.tensors()["a"]
    assert np.array_equal(at_once, merged_by_fisher(sides, 0, 1, 2))
    sides.expect(0, 1, 2)
    sides.settled()
    repo.git("reset", "-q", "--hard", sides.start)
    repo.told("merge", "s1", "-s", "fisher", "-m", "first")
    repo.told("merge", "s2", "-s", "fisher", "-m", "second")
    # As if nothing was ever merged before
    np.testing.assert_allclose(repo.tensors()["a"], at_once, rtol=1e-5, atol=1e-6)
    sides.settled()


def test_weights_of_fisher_count_in_the_statistics(sides: Sides) -> None:
    sides.repo.told("merge", "s1", "-s", "fisher", "-o", "weights=3,1", "-m", "merged")
    found = sides.repo.tensors(sides.file)
    assert np.array_equal(
        found["a"],
        add_up(3 * sides.statistics[0]["a"].astype(np.float64), sides.statistics[1]["a"]),
    )
    sides.settled()


@pytest.mark.parametrize("strategy", ["regmean", "average"])
def test_gram_matrices_are_added_up_by_regmean_and_by_any_other(
    tmp_path: Path, environment: Mapping[str, str], bin_folder: Path, strategy: str
) -> None:
    sides = Sides(Branches.make(tmp_path / "repo", environment, bin_folder), "gram")
    sides.repo.told("merge", "s1", "s2", "-s", strategy, "-m", "merged")
    sides.expect(0, 1, 2)
    sides.settled()


def test_rules_of_the_repository_are_for_the_model(sides: Sides) -> None:
    """A rule for some tensors, another that takes a side of others."""
    repo = sides.repo
    rules = b'[[merge]]\nparams = "a"\nstrategy = "theirs"\n\n[[merge]]\nstrategy = "fisher"\n'
    repo.commit("rules", **{".theta__toml": rules})
    repo.git("merge", "-q", "-m", "merged", "s1")
    assert np.array_equal(repo.tensors()["a"], sides.models[1]["a"])
    sides.expect(0, 1, picked=1)
    sides.settled()


@pytest.mark.parametrize(("words", "side"), [(("--ours",), 0), (("--theirs",), 1)])
def test_taking_a_side_of_the_model_takes_its_statistics(
    sides: Sides, words: tuple[str, ...], side: int
) -> None:
    repo = sides.repo
    repo.fails("merge", "s1")
    repo.told("resolve", *words)
    sides.expect(0, 1, picked=side)
    repo.git("commit", "-qm", "merged")
    sides.settled()


def test_statistics_that_were_estimated_anew_meanwhile_stay(sides: Sides) -> None:
    repo = sides.repo
    repo.fails("merge", "s1")
    anew = safetensors_file(fisher(99))
    repo.write(sides.file, anew)
    said = repo.told("resolve", "--theirs")
    assert f"{sides.file} was changed in the working tree" in said
    assert repo.read(sides.file) == anew


def test_a_file_that_is_only_called_like_statistics_is_a_model(sides: Sides) -> None:
    repo = sides.repo
    for name in ("main", "s1"):
        repo.git("checkout", "-q", name)
        repo.save("alone", fisher(50 if name == "main" else 51), "alone.fisher.safetensors")
    repo.git("checkout", "-q", "main")
    repo.told("merge", "s1", "-s", "average", "-m", "merged")
    found = repo.tensors("alone.fisher.safetensors")["a"]
    wanted = (fisher(50)["a"].astype(np.float64) + fisher(51)["a"]) / 2
    assert np.array_equal(found, wanted.astype(np.float32))
    sides.settled()


def test_a_conflict_in_another_file_leaves_what_git_leaves(sides: Sides) -> None:
    repo = sides.repo
    repo.commit("ours", a__txt=b"ours\n")
    repo.git("checkout", "-q", "s1")
    repo.commit("theirs", a__txt=b"theirs\n")
    repo.git("checkout", "-q", "main")
    said = repo.told("merge", "s1", "-s", "fisher", code=1)
    assert "CONFLICT (add/add): Merge conflict in a.txt" in said
    assert repo.status().splitlines()[0] == "AA a.txt"
    sides.expect(0, 1)
    assert np.array_equal(repo.tensors()["a"], merged_by_fisher(sides, 0, 1))
    repo.git("add", "a.txt")
    repo.git("commit", "-qm", "merged")
    sides.settled()


def test_through_the_python_api(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    import git_theta

    for key, value in sides.repo.environment.items():
        if key != "PYTHONWARNINGS":
            monkeypatch.setenv(key, value)
    git_theta.merge("s1", "s2", strategy="fisher", repo=sides.repo.path)
    assert np.array_equal(sides.repo.tensors()["a"], merged_by_fisher(sides, 0, 1, 2))
    sides.expect(0, 1, 2)
    sides.settled()
