"""The commands around merges say and do what the docs tell: heads that are merged already, octopus,
names that were probably meant.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from merging import MODEL, Branches, Tensors, average, model, moved, same
from small_models import safetensors_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are POSIX scripts")
BASE = model()


@pytest.fixture(scope="module")
def repo_once(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str], bin_folder: Path
) -> Branches:
    repo = Branches.make(tmp_path_factory.mktemp("once") / "repo", environment, bin_folder)
    repo.save("base", BASE)
    return repo


@pytest.fixture
def repo(repo_once: Branches, tmp_path: Path) -> Branches:
    """On main: BASE."""
    return repo_once.copy(tmp_path / "repo")


@pytest.fixture(scope="module")
def sides_once(repo_once: Branches) -> tuple[Branches, dict[str, Tensors]]:
    repo = repo_once.copy(repo_once.path.with_name("sides"))
    one = repo.branch("s1", moved(BASE, 11, "layer0", "layer1"))
    two = repo.branch("s2", moved(BASE, 12, "layer0", "layer2"))
    return repo, {"main": repo.save("ours", moved(BASE, 10, "layer0")), "s1": one, "s2": two}


@pytest.fixture
def sides(repo: Branches, sides_once: tuple[Branches, dict[str, Tensors]]) -> dict[str, Tensors]:
    """main, s1 and s2 changed layer 0, s1 and s2 another one each."""
    once, sides = sides_once
    once.copy(repo.path)
    return dict(sides)


def parents(repo: Branches) -> int:
    return len(repo.git("log", "-1", "--format=%P").split())


@pytest.mark.parametrize(
    "words",
    [
        ["theta", "merge", "s1", "s2", "-s", "average"],
        ["merge", "-s", "theta", "s2"],
        ["merge", "-s", "theta", "s1", "s2"],
    ],
)
def test_of_branches_that_are_merged_already_the_others_are_merged(
    repo: Branches, sides: dict[str, Tensors], words: list[str]
) -> None:
    repo.told("merge", "s1", "-s", "average", "-m", "first")
    first = repo.tensors()
    repo.git("config", "theta.merge.strategy", "average")
    repo.told(*words[1:], "-m", "rest") if words[0] == "theta" else repo.git(*words, "-m", "rest")
    assert parents(repo) == 2
    merged = repo.tensors()
    assert np.array_equal(
        merged["layer0.weight"], average(first["layer0.weight"], sides["s2"]["layer0.weight"])
    )
    assert np.array_equal(merged["layer1.weight"], sides["s1"]["layer1.weight"])
    assert np.array_equal(merged["layer2.weight"], sides["s2"]["layer2.weight"])
    repo.settled()
    assert "verified, the same bytes" in repo.told("verify-merge")


def test_nothing_left_to_merge_and_only_moving_on(
    repo: Branches, sides: dict[str, Tensors]
) -> None:
    repo.told("merge", "s1", "s2", "-s", "average", "-m", "all")
    merged = repo.head()
    for words in (
        ["theta", "merge", "s1", "-s", "average"],
        ["theta", "merge", "s1", "s2", "-s", "average"],
        ["merge", "-s", "theta", "s2", "s1"],
    ):
        said = repo.told(*words[1:]) if words[0] == "theta" else repo.git(*words).decode()
        assert "Already up to date." in said
        assert repo.head() == merged
    assert (
        repo.told("merge", "s1", "s2", "-s", "average", "--dry-run").strip()
        == "Already up to date."
    )
    scored = ["merge", "s1", "-s", "average", "--eval", "echo 1 {checkpoint}"]
    assert repo.told(*scored).strip() == "Already up to date."
    assert json.loads(repo.told(*scored, "--json")) == []
    repo.settled()
    repo.git("reset", "-q", "--hard", "s1")
    assert "Fast-forward" in repo.told("merge", "main@{1}", "-s", "average")
    assert repo.head() == merged
    assert repo.status() == ""


def test_heads_that_another_head_holds_are_no_side_of_their_own(
    repo: Branches, sides: dict[str, Tensors], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the API as by git: two parents, and the older commit of the same branch is not averaged
    in.
    """
    import git_theta

    repo.git("checkout", "-q", "s1")
    older = repo.head()
    newer = repo.save("more", moved(BASE, 13, "layer0"))
    repo.git("checkout", "-q", "main")
    for key, value in repo.environment.items():
        if key != "PYTHONWARNINGS":
            monkeypatch.setenv(key, value)
    git_theta.merge(older, "s1", strategy="average", repo=repo.path)
    assert parents(repo) == 2
    assert np.array_equal(
        repo.tensors()["layer0.weight"],
        average(sides["main"]["layer0.weight"], newer["layer0.weight"]),
    )
    repo.settled()


def test_gits_recursive_strategy_merges_too(repo: Branches, sides: dict[str, Tensors]) -> None:
    """It cleans the merged file before the index holds the result, and goes on only if that gives
    the same manifest.
    """
    repo.git("config", "theta.merge.strategy", "average")
    repo.git("merge", "-q", "-s", "recursive", "-m", "merged", "s1")
    assert np.array_equal(
        repo.tensors()["layer0.weight"],
        average(sides["main"]["layer0.weight"], sides["s1"]["layer0.weight"]),
    )
    repo.settled()
    assert "verified, the same bytes" in repo.told("verify-merge")


def test_octopus_names_the_command_that_merges_by_tensor(
    repo: Branches, sides: dict[str, Tensors]
) -> None:
    before = repo.head()
    said = repo.fails("merge", "s1", "s2", code=2)
    assert (
        f"git-theta: {MODEL}: git's octopus strategy merges its manifest as text; to merge it by"
        " tensor: git theta merge s1 s2 -s STRATEGY" in said
    )
    assert repo.head() == before
    repo.settled()
    assert "'git theta merge A B C -s STRATEGY' merges their models" in repo.told("resolve", code=1)
    repo.told("merge", "s1", "s2", "-s", "average", "-m", "three")
    assert parents(repo) == 3
    # With git's own setting for that, git merge does the same.
    repo.git("reset", "-q", "--hard", before)
    repo.git("config", "pull.octopus", "theta")
    repo.git("config", "theta.merge.strategy", "average")
    repo.git("merge", "-q", "-m", "three", "s1", "s2")
    assert np.array_equal(
        repo.tensors()["layer0.weight"],
        average(*(side["layer0.weight"] for side in sides.values())),
    )
    repo.settled()


def test_a_manifest_that_git_leaves_in_the_working_tree_is_told_of(repo: Branches) -> None:
    """Text merges of manifests succeed if the changed lines lie apart: git then writes the merged
    manifest itself.
    """
    many = {f"layer{i:02}": np.full((32, 32), i, np.float32) for i in range(30)}
    repo.save("many", many)
    start = repo.head()
    changed = {
        name: {**many, f"layer{at:02}": np.full((32, 32), 100 + at, np.float32)}
        for name, at in (("b1", 2), ("b2", 14), ("b3", 27))
    }
    for name, tensors in changed.items():
        repo.branch(name, tensors, start)
    said = repo._said(repo.run(["git", "merge", "-m", "three", "b1", "b2", "b3"]), 0)
    told = f"{MODEL}: git left its manifest in the working tree; write the model with: "
    assert told in said
    command = said.partition(told)[2].splitlines()[0]
    repo.run([sys.executable, "-m", "git_theta", *shlex.split(command)[2:]])
    wanted = {
        **many,
        "layer02": changed["b1"]["layer02"],
        "layer14": changed["b2"]["layer14"],
        "layer27": changed["b3"]["layer27"],
    }
    assert same(repo.tensors(), wanted)
    repo.settled()


def test_a_conflicted_manifest_names_the_command(repo: Branches, sides: dict[str, Tensors]) -> None:
    said = repo.fails("merge", "-s", "resolve", "s1")
    assert "'git merge' without '-s resolve' merges it by tensor" in said
    assert b"<<<<<<<" in repo.read(MODEL)
    said = repo.git_fails("add", MODEL)
    assert "a conflict marker: git merged the manifest as text; 'git theta resolve'" in said
    assert f"{MODEL}: in conflict" in (said := repo.told("checkout", MODEL, code=1))
    assert f"git theta resolve {MODEL}" in said
    repo.told("resolve", "--theirs")
    assert np.array_equal(repo.tensors()["layer0.weight"], sides["s1"]["layer0.weight"])
    repo.git("commit", "-qm", "merged")
    repo.settled()


def test_names_that_were_probably_meant(repo: Branches, sides: dict[str, Tensors]) -> None:
    before = repo.head()
    assert "no merge strategy 'tie'; did you mean 'ties'?" in repo.told(
        "merge", "s1", "-s", "tie", code=1
    )
    assert "ties has no option 'densty'; did you mean 'density'?" in repo.told(
        "merge", "s1", "-s", "ties", "-o", "densty=1", code=1
    )
    assert (
        "s1 is a branch or commit, and this command takes paths; to switch to it: git checkout s1"
        in repo.told("checkout", "s1", code=1)
    )
    assert "nothing in the index matches s7" in repo.told("checkout", "s7", code=1)
    repo.write(MODEL, b"changed")
    assert "for files of it: git checkout s1 -- " + MODEL in repo.told(
        "checkout", "s1", MODEL, code=1
    )
    assert "nothing in the index matches typo" in repo.told("checkout", MODEL, "typo", code=1)
    assert "nothing in the index matches typo" in repo.told("ls-files", MODEL, "typo", code=1)
    assert repo.read(MODEL) == b"changed"
    repo.git("checkout", "-q", "--", MODEL)
    assert "-X trmi=1 is for a merge of one branch; an option of a strategy" in repo.told(
        "merge", "s1", "s2", "-s", "ties", "-X", "trmi=1", code=2
    )
    assert "density is an option of ties: give it as -o density=0.5" in repo.told(
        "merge", "s1", "-s", "ties", "-X", "density=0.5", code=1
    )
    assert "nzp files cannot be written; did you mean 'npz'?" in repo.told(
        "convert", MODEL, "x.npz", "--to", "nzp", code=1
    )
    repo.git("config", "theta.merge.stategy", "ties")
    assert (
        "not a setting of this release; did you mean 'theta.merge.strategy'?"
        in repo.theta_run("env").stdout.decode()
    )
    repo.commit("rule", **{".theta__toml": b'[[merge]]\nstratgy = "ties"\n'})
    assert "unknown key 'stratgy' in a rule; did you mean 'strategy'?" in repo.fails("merge", "s1")
    repo.git("merge", "--abort")
    repo.git("reset", "-q", "--hard", before)
    repo.fails("merge", "s1")
    said = repo.told("resolve", "--params", "layer0.wieght", "--ours", code=1)
    assert "no tensor is called 'layer0.wieght'; did you mean 'layer0.weight'?" in said
    assert "no tensor is called" not in repo.told("resolve", "--params", "*0.weight", "--ours")
    repo.git("merge", "--abort")
    said = repo.told("merge", "s1", "-s", "average", "--params", "layer0.wieght", code=1)
    assert "no tensor is called 'layer0.wieght'; did you mean 'layer0.weight'?" in said


def test_patterns_that_were_probably_meant(repo: Branches) -> None:
    for pattern, meant in (
        ("safetensors", "'*.safetensors'"),
        ("*.gguff", "'*.gguf'"),
        ("models/*.PT", "'models/*.pt'"),
        (".pt", "'*.pt'"),
    ):
        said = repo.told("track", pattern)
        assert (
            f'"{pattern}" matches no file; did you mean {meant}? To take it out again: git theta'
            f" untrack {shlex.quote(pattern)}" in said
        )
        repo.told("untrack", pattern)
    for pattern in ("*.weights", "later.safetensors", "*.ckpt", MODEL):
        assert "did you mean" not in repo.told("track", pattern)


def test_patterns_that_the_shell_has_expanded(repo: Branches) -> None:
    content = repo.write("one.gguf", b"GGUF").read_bytes()
    note = "Quotes keep a pattern from the shell: git theta track "
    assert f"Note: this file alone is tracked, no new ones. {note}'*.gguf'" in repo.told(
        "track", "one.gguf"
    )
    repo.write("two.gguf", content)
    assert f"Note: these files alone are tracked, no new ones. {note}'*.gguf'" in repo.told(
        "track", "one.gguf", "two.gguf"
    )
    assert "Note" not in repo.told("track", "one.gguf", "two.gguf")  # which is nothing new
    repo.write("three.gguf", content)
    assert "Note" not in repo.told("track", "three.gguf")  # chosen out of several
    assert "Note" not in repo.told("track", "*.gguf")


def test_show_tells_new_bytes_from_shared_ones(repo: Branches, sides: dict[str, Tensors]) -> None:
    def sizes(name: str) -> set[str]:
        return {
            line.split()[0]
            for line in repo.told("show", name).splitlines()
            if line.startswith(("stored", "new", "shared"))
        }

    assert sizes(f"HEAD~1:{MODEL}") == {"stored"}  # the first version
    assert sizes(f"HEAD:{MODEL}") == sizes(MODEL) == {"new", "shared"}
    old, now = (repo.manifest(f"{rev}:{MODEL}").objects() for rev in ("HEAD~1", "HEAD"))
    new = sum(count for oid, count in now.items() if oid not in old)
    assert 0 < new < sum(now.values())
    assert json.loads(repo.theta("show", f"HEAD:{MODEL}", "--json"))["new"] == new
    assert json.loads(repo.theta("show", f"HEAD~1:{MODEL}", "--json"))["new"] == sum(old.values())
    repo.write(MODEL, safetensors_file(moved(sides["main"], 30, "layer3")))
    repo.git("add", MODEL)
    staged = json.loads(repo.theta("show", MODEL, "--json"))
    assert staged["new"] == sum(
        count for oid, count in repo.manifest(f":{MODEL}").objects().items() if oid not in now
    )
    # A merge is new in what none of its parents has.
    repo.git("reset", "-q", "--hard")
    repo.told("merge", "s1", "-s", "average", "-m", "merged")
    every = {
        oid for rev in ("HEAD^1", "HEAD^2") for oid in repo.manifest(f"{rev}:{MODEL}").objects()
    }
    wanted = sum(
        count for oid, count in repo.manifest(f"HEAD:{MODEL}").objects().items() if oid not in every
    )
    assert json.loads(repo.theta("show", f"HEAD:{MODEL}", "--json"))["new"] == wanted > 0
