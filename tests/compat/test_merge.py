"""Merging with real git: what merges by itself, conflicts, strategies, many branches, recipes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gitrepo import PATIENCE
from merging import MODEL, Branches, Tensors, average, model, moved, same, total
from small_models import safetensors_file, torch_file
from terminal import interruptible

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are POSIX scripts")
BASE = model()


@pytest.fixture(scope="module")
def repo_once(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str], bin_folder: Path
) -> Branches:
    repo = Branches.make(tmp_path_factory.mktemp("once") / "repo", environment, bin_folder)
    repo.save("base", BASE, a__txt=b"a\n", b__txt=b"b\n")
    return repo


@pytest.fixture
def repo(repo_once: Branches, tmp_path: Path) -> Branches:
    """On main: BASE, two ordinary files."""
    return repo_once.copy(tmp_path / "repo")


@pytest.fixture(scope="module")
def conflict_once(repo_once: Branches) -> tuple[Branches, Tensors, Tensors]:
    repo = repo_once.copy(repo_once.path.with_name("conflict"))
    theirs = repo.branch(
        "theirs", moved(BASE, 3, "layer1", "layer2", "layer3.bias"), b__txt=b"b\ntheirs\n"
    )
    ours = repo.save("ours", moved(BASE, 2, "layer0", "layer1"), a__txt=b"a\nours\n")
    return repo, ours, theirs


@pytest.fixture
def conflict(
    repo: Branches, conflict_once: tuple[Branches, Tensors, Tensors]
) -> tuple[Tensors, Tensors]:
    """On main layers 0 and 1 changed, on 'theirs' 1, 2 and the bias: layer 1 conflicts."""
    once, ours, theirs = conflict_once
    once.copy(repo.path)
    return ours, theirs


# What merges by itself


def test_changes_of_one_side_merge_and_no_object_is_read(repo: Branches) -> None:
    theirs = repo.branch("theirs", moved(BASE, 3, "layer2"))
    ours = repo.save("ours", moved(BASE, 2, "layer0"))
    hidden = repo.store.rename(repo.store.with_name("hidden"))
    repo.git("merge", "-q", "-m", "merged", "theirs", GIT_THETA_SKIP_SMUDGE="1")
    shutil.rmtree(repo.store, ignore_errors=True)
    hidden.rename(repo.store)
    repo.git("checkout", "-q", "--", MODEL)
    repo.git("rm", "-q", "--cached", MODEL)
    repo.git("reset", "-q", "--hard")
    assert same(repo.tensors(), {**ours, "layer2.weight": theirs["layer2.weight"]})
    assert "merge" not in repo.manifest(f"HEAD:{MODEL}").headers
    repo.settled()
    assert "no model with a recorded merge" in repo.told("verify-merge")


def test_equal_changes_and_removals_merge(repo: Branches) -> None:
    both = moved(BASE, 5, "layer1")
    less = {name: value for name, value in both.items() if name != "layer3.bias"}
    repo.branch("theirs", less)
    repo.save("ours", moved(both, 6, "layer0"))
    repo.git("merge", "-q", "-m", "merged", "theirs")
    merged = repo.tensors()
    assert "layer3.bias" not in merged
    assert np.array_equal(merged["layer1.weight"], both["layer1.weight"])
    repo.settled()


def test_added_tensors_of_both_sides_are_all_there_in_a_file_built_anew(repo: Branches) -> None:
    here, there = np.ones((4, 4), np.float32), np.zeros(3, np.float16)
    repo.branch("theirs", {**BASE, "theirs.new": there})
    repo.save("ours", {**BASE, "ours.new": here})
    repo.git("merge", "-q", "-m", "merged", "theirs")
    assert same(repo.tensors(), {**BASE, "ours.new": here, "theirs.new": there})
    repo.settled()


def test_added_tensors_in_torch_files(repo: Branches) -> None:
    torch = pytest.importorskip("torch")
    repo.write("m.pt", torch_file(BASE))
    repo.git("add", "m.pt")
    repo.git("commit", "-qm", "pt")
    repo.git("checkout", "-qb", "theirs")
    repo.commit("theirs", m__pt=torch_file({**BASE, "theirs": np.ones(30, np.float32)}))
    repo.git("checkout", "-q", "main")
    repo.commit("ours", m__pt=torch_file({**BASE, "ours": np.zeros(20, np.float32)}))
    repo.git("merge", "-q", "-m", "merged", "theirs")
    loaded = torch.load(repo.path / "m.pt", weights_only=True)
    assert set(loaded) == {*BASE, "ours", "theirs"}
    assert same(
        {name: value.numpy() for name, value in loaded.items()},
        {**BASE, "theirs": np.ones(30, np.float32), "ours": np.zeros(20, np.float32)},
    )
    repo.settled()


def test_counters_follow_ours_with_a_notice(repo: Branches) -> None:
    repo.branch("theirs", {**BASE, "step": np.array([300])})
    repo.save("ours", {**BASE, "step": np.array([200])})
    done = repo.run(["git", "merge", "-m", "merged", "theirs"])
    assert done.returncode == 0
    assert b"a counter is not merged, the first side's is kept: step" in done.stderr
    assert repo.tensors()["step"] == [200]
    repo.settled()


def test_a_reshaped_tensor_conflicts_unless_only_one_side_touched_it(repo: Branches) -> None:
    longer = np.ones((40, 32), np.float32)
    repo.branch("theirs", {**BASE, "layer0.weight": longer})
    repo.save("ours", moved(BASE, 2, "layer1"))
    repo.git("merge", "-q", "-m", "one", "theirs")
    assert repo.tensors()["layer0.weight"].shape == (40, 32)
    repo.git("reset", "-q", "--hard", "HEAD~1")
    repo.save("ours too", moved(BASE, 2, "layer0"))
    said = repo.fails("merge", "theirs")
    assert "layer0.weight: reshaped: f32[32,32], f32[40,32]" in said
    assert "needs one type and shape on all sides" in repo.told("resolve", "-s", "average", code=1)
    repo.told("resolve", "-s", "average", "-o", "rows=common")
    value = repo.tensors()["layer0.weight"]
    assert value.shape == (40, 32)
    assert np.array_equal(value[32:], longer[32:])
    assert np.array_equal(
        value[:32], average(moved(BASE, 2, "layer0")["layer0.weight"], longer[:32])
    )
    repo.git("commit", "-qm", "merged")
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()


def test_types_that_differ_conflict(repo: Branches) -> None:
    repo.branch("theirs", {**BASE, "layer0.weight": BASE["layer0.weight"].astype(np.float16)})
    repo.save("ours", moved(BASE, 2, "layer0"))
    assert "layer0.weight: element types differ: f32[32,32], f16[32,32]" in repo.fails(
        "merge", "theirs"
    )
    repo.told("resolve", "--theirs")
    assert repo.tensors()["layer0.weight"].dtype == np.float16
    repo.git("commit", "-qm", "merged")
    repo.settled()


def test_tied_weights_are_merged_once_and_stay_tied(repo: Branches) -> None:
    torch = pytest.importorskip("torch")

    def tied(seed: int) -> bytes:
        import io

        shared = torch.from_numpy(moved(BASE, seed, "layer0")["layer0.weight"])
        out = io.BytesIO()
        torch.save({"embed": shared, "head": shared, "other": torch.zeros(20)}, out)
        return out.getvalue()

    repo.commit("pt", m__pt=tied(1))
    repo.git("checkout", "-qb", "theirs")
    repo.commit("theirs", m__pt=tied(2))
    repo.git("checkout", "-q", "main")
    repo.commit("ours", m__pt=tied(3))
    said = repo.fails("merge", "theirs")
    assert "1 tensor changed on several sides" in said
    repo.told("resolve", "-s", "average")
    loaded = torch.load(repo.path / "m.pt", weights_only=True)
    assert loaded["embed"].data_ptr() == loaded["head"].data_ptr()
    wanted = average(*(moved(BASE, seed, "layer0")["layer0.weight"] for seed in (3, 2)))
    assert np.array_equal(loaded["head"].numpy(), wanted)
    repo.git("commit", "-qm", "merged")
    repo.settled()


def test_different_formats_are_a_clear_conflict(repo: Branches) -> None:
    repo.write("m.pt", torch_file(BASE))
    repo.git("add", "m.pt")
    repo.git("commit", "-qm", "pt")
    repo.git("checkout", "-qb", "theirs")
    repo.commit("theirs", m__pt=torch_file(moved(BASE, 3, "layer0")))
    repo.git("checkout", "-q", "main")
    repo.commit("ours", m__pt=safetensors_file(moved(BASE, 2, "layer1")))
    said = repo.fails("merge", "theirs")
    assert "the sides are files of different formats (safetensors, torch-zip)" in said
    assert "git theta resolve m.pt" in said
    repo.git("merge", "--abort")
    repo.settled()


# Conflicts


def test_without_a_strategy_a_conflict_lists_tensors_and_commands(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    said = repo.fails("merge", "theirs")
    assert "model.safetensors: 1 tensor changed on several sides:" in said
    assert "layer1.weight: changed on 2 sides: f32[32,32]" in said
    assert "git theta resolve model.safetensors -s STRATEGY" in said
    assert "--ours, --theirs, --base" in said
    assert "git add model.safetensors" in said
    assert "CONFLICT (content): Merge conflict in model.safetensors" in said
    assert same(repo.tensors(), conflict[0])
    assert "layer1.weight" in repo.told("resolve", code=1)
    repo.git("merge", "--abort")
    assert same(repo.tensors(), conflict[0])
    repo.settled()


def test_resolve_in_steps(repo: Branches, conflict: tuple[Tensors, Tensors]) -> None:
    ours = repo.save("more", moved(conflict[0], 9, "layer2", "layer3.bias"))
    assert "3 tensors changed on several sides" in repo.fails("merge", "theirs")
    said = repo.told("resolve", MODEL, "--params", "*.bias", "--ours", code=1)
    assert "1 tensor settled so far" in said
    assert "2 tensors changed on several sides" in said
    assert len(repo.records()) == 1
    repo.told("resolve", "--params", "layer1.*", "--base", code=1)
    said = repo.told("resolve", "-s", "slerp", "-o", "t=0")
    assert "model.safetensors: resolved and staged (3 tensors)" in said
    assert repo.records() == []
    merged = repo.tensors()
    for name, value in (
        ("layer3.bias", ours),
        ("layer1.weight", BASE),
        ("layer2.weight", ours),
        ("layer0.weight", ours),
    ):
        assert np.array_equal(merged[name], value[name]), name
    repo.git("commit", "-qm", "merged")
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()


def test_what_rules_settled_is_kept_for_each_model(repo: Branches) -> None:
    other = "other.safetensors"
    repo.commit(
        "rules", **{".theta__toml": b'[[merge]]\nparams = "layer1*"\nstrategy = "average"\n'}
    )
    repo.save("other", BASE, other)
    theirs = moved(BASE, 3, "layer1", "layer2")
    repo.branch("theirs", theirs)
    repo.git("checkout", "-q", "theirs")
    repo.save("both", theirs, other)
    repo.git("checkout", "-q", "main")
    ours = repo.save("ours", moved(BASE, 2, "layer1", "layer2"))
    repo.save("both", ours, other)
    assert "1 tensor changed on several sides" in repo.fails("merge", "theirs")
    assert len(repo.records()) == 2
    repo.told("resolve", "--theirs")
    for path in (MODEL, other):
        merged = repo.tensors(path)
        assert np.array_equal(
            merged["layer1.weight"], average(ours["layer1.weight"], theirs["layer1.weight"])
        )
        assert np.array_equal(merged["layer2.weight"], theirs["layer2.weight"])
    repo.git("commit", "-qm", "merged")
    assert repo.told("verify-merge").count("verified, the same bytes") == 2
    assert repo.records() == []
    # Without a working tree there is nothing to go on with.
    repo.git("reset", "-q", "--hard", "HEAD~1")
    repo.git("config", "core.bare", "true")
    done = repo.run(["git", "merge-tree", "--write-tree", "main", "theirs"])
    assert done.returncode == 1
    repo.git("config", "core.bare", "false")
    assert repo.records() == []
    repo.settled()


def test_what_is_settled_is_swept_after_an_abort(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    repo.save("more", moved(conflict[0], 9, "layer2"))
    repo.fails("merge", "theirs")
    repo.told("resolve", "--params", "layer1*", "--ours", code=1)
    repo.git("merge", "--abort")
    repo.settled()
    # Another merge: what was settled then does not count.
    repo.save("more still", moved(repo.tensors(), 10, "layer1"))
    repo.fails("merge", "theirs")
    assert "layer1.weight" in repo.told("resolve", code=1)
    repo.told("resolve", "--params", "layer2*", "--ours", code=1)
    assert len(repo.records()) == 1
    repo.told("resolve", "--theirs")
    assert repo.records() == []
    repo.git("commit", "-qm", "merged")
    repo.settled()


def test_an_aborted_merge_begun_again_begins_anew(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    ours = repo.save("more", moved(conflict[0], 9, "layer2"))
    repo.fails("merge", "theirs")
    repo.told("resolve", "--params", "layer1*", "--base", code=1)
    repo.git("merge", "--abort")
    said = repo.fails("merge", "theirs")
    assert "2 tensors changed on several sides" in said
    assert repo.records() == []
    said = repo.told("resolve", "--params", "layer2*", "--ours", code=1)
    assert "layer1.weight: changed on 2 sides" in said
    repo.told("resolve", "--ours")
    assert np.array_equal(repo.tensors()["layer1.weight"], ours["layer1.weight"])
    repo.git("commit", "-qm", "merged")
    repo.settled()


def test_what_is_settled_survives_prune(repo: Branches, conflict: tuple[Tensors, Tensors]) -> None:
    ours = repo.save("more", moved(conflict[0], 9, "layer2"))
    repo.fails("merge", "theirs")
    repo.told("resolve", "--params", "layer1*", "-s", "average", code=1)
    repo.told("prune", "--now")
    repo.told("resolve", "--ours")
    merged = repo.tensors()
    assert np.array_equal(
        merged["layer1.weight"], average(ours["layer1.weight"], conflict[1]["layer1.weight"])
    )
    repo.git("commit", "-qm", "merged")
    repo.settled()


@pytest.mark.parametrize("side", ["ours", "theirs"])
@pytest.mark.parametrize("how", ["resolve", "merge", "many"])
def test_a_changed_mode_is_merged_too(
    repo: Branches, conflict: tuple[Tensors, Tensors], side: str, how: str
) -> None:
    repo.git("branch", "third", "main~1")
    repo.git("checkout", "-q", "main" if side == "ours" else "theirs")
    repo.git("update-index", "--chmod=+x", MODEL)
    repo.git("commit", "-qm", "executable")
    repo.git("checkout", "-q", "--force", "main")
    if how == "resolve":
        repo.fails("merge", "theirs")
        repo.told("resolve", "-s", "average")
        repo.git("commit", "-qm", "merged")
    else:
        repo.save("apart", moved(BASE, 5, "layer3"), "other.safetensors")
        repo.git("branch", "-f", "third")
        repo.git("reset", "-q", "--hard", "HEAD~1")
        repo.told(
            "merge",
            "theirs",
            *(["third"] if how == "many" else []),
            "-s",
            "average",
            "-m",
            "merged",
        )
    assert repo.git("ls-files", "--stage", MODEL).startswith(b"100755")
    assert os.access(repo.path / MODEL, os.X_OK)
    repo.settled()


@pytest.mark.parametrize(("flag", "winner"), [("--ours", 0), ("--theirs", 1)])
def test_taking_a_side_takes_it_for_conflicts_alone(
    repo: Branches, conflict: tuple[Tensors, Tensors], flag: str, winner: int
) -> None:
    repo.fails("merge", "theirs")
    repo.told("resolve", flag)
    ours, theirs = conflict
    wanted = {**ours, "layer1.weight": conflict[winner]["layer1.weight"]}
    wanted.update({name: theirs[name] for name in ("layer2.weight", "layer3.bias")})
    assert same(repo.tensors(), wanted)
    repo.git("commit", "-qm", "merged")
    repo.settled()


def test_a_model_that_one_side_deleted_is_a_matter_of_git(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    repo.git("checkout", "-q", "theirs")
    repo.git("rm", "-q", MODEL)
    repo.git("commit", "-qm", "gone")
    repo.git("checkout", "-q", "main")
    assert "CONFLICT (modify/delete)" in repo.fails("merge", "theirs")
    for words in ([], ["--ours"], [MODEL, "--theirs"]):
        said = repo.told("resolve", *words, code=1)
        assert (
            f"{MODEL} was deleted by them and changed by us; 'git add' keeps the file that is"
            " there, 'git rm' deletes it" in said
        )
    repo.git("add", MODEL)
    repo.git("commit", "-qm", "kept")
    assert same(repo.tensors(), conflict[0])
    repo.settled()
    repo.git("reset", "-q", "--hard", "HEAD~1")
    repo.git("checkout", "-q", "theirs")
    repo.fails("merge", "main")
    assert f"{MODEL} was deleted by us and changed by them" in repo.told("resolve", code=1)
    repo.git("rm", "-q", MODEL)
    repo.git("commit", "-qm", "still gone")
    repo.settled()


def test_a_model_that_was_renamed_differently_is_a_matter_of_git(repo: Branches) -> None:
    repo.git("branch", "theirs")
    for branch in ("theirs", "main"):
        repo.git("checkout", "-q", branch)
        repo.git("mv", MODEL, f"{branch}.safetensors")
        repo.git("commit", "-qm", "renamed")
    assert "CONFLICT (rename/rename)" in repo.fails("merge", "theirs")
    said = repo.told("resolve", code=1)
    assert f"{MODEL} was renamed or deleted by both" in said
    assert "main.safetensors is here on our side only" in said
    assert "theirs.safetensors is here on their side only" in said
    assert "no model is in conflict that could be merged by tensor" in said
    repo.git("merge", "--abort")
    repo.settled()


def test_adding_a_fixed_file_resolves(repo: Branches, conflict: tuple[Tensors, Tensors]) -> None:
    repo.fails("merge", "theirs")
    mine = moved(BASE, 77)
    repo.write(MODEL, safetensors_file(mine))
    repo.git("add", MODEL)
    repo.git("commit", "-qm", "merged")
    assert same(repo.tensors(), mine)
    repo.settled()


def test_write_models_hands_the_versions_out(
    repo: Branches, conflict: tuple[Tensors, Tensors], tmp_path: Path
) -> None:
    import safetensors.numpy

    said = repo.told("merge", "theirs", "--write-models", str(tmp_path / "three"), code=1)
    assert f"git add {MODEL} && git commit" in said
    folder = tmp_path / "three" / MODEL
    versions = {file.stem: safetensors.numpy.load_file(file) for file in folder.iterdir()}
    assert same(versions["base"], BASE)
    assert same(versions["ours"], conflict[0])
    assert same(versions["theirs"], conflict[1])
    result = {
        name: (
            (versions["ours"][name] + versions["theirs"][name]) / 2
            if name != "step"
            else BASE[name]
        )
        for name in BASE
    }
    repo.write(MODEL, safetensors_file(result))
    repo.git("add", MODEL)
    repo.git("commit", "-qm", "merged")
    assert same(repo.tensors(), result)
    repo.settled()


def test_names_with_spaces_and_folders(repo: Branches) -> None:
    name = "models dir/my model.safetensors"
    repo.save("more", BASE, name)
    repo.branch("theirs", moved(BASE, 3, "layer1"), path=name)
    repo.save("ours", moved(BASE, 2, "layer1"), name)
    assert f"git theta resolve '{name}'" in repo.fails("merge", "theirs")
    repo.at(repo.path / "models dir").theta("resolve", "my model.safetensors", "--theirs")
    repo.git("commit", "-qm", "merged")
    repo.settled()


def test_the_commands_that_are_named_can_be_pasted(repo: Branches) -> None:
    name = "\u043c\u043e\u0434\u0435\u043b\u044c\n'1'.safetensors"
    repo.save("more", BASE, name)
    repo.branch("theirs", moved(BASE, 3, "layer1"), path=name)
    repo.save("ours", moved(BASE, 2, "layer1"), name)
    said = repo.fails("merge", "theirs")
    command = (
        next(line for line in said.splitlines() if "resolve with: " in line)
        .partition("resolve with: ")[2]
        .partition(" -s STRATEGY")[0]
    )
    assert command.isascii()
    arguments = command.removeprefix("git theta ")
    repo.git("-c", 'alias.x=!bash -c "$X"', "x", X=f"git-theta {arguments} --theirs")
    repo.git("commit", "-qm", "merged")
    repo.settled()


def test_nothing_in_conflict_is_said(repo: Branches) -> None:
    assert "no tracked model is in conflict" in repo.told("resolve", "--ours", code=1)


# Strategies, and who chooses them


def test_a_strategy_for_one_merge(repo: Branches, conflict: tuple[Tensors, Tensors]) -> None:
    repo.told("merge", "theirs", "-s", "average", "-m", "averaged")
    ours, theirs = conflict
    assert np.array_equal(
        repo.tensors()["layer1.weight"], average(ours["layer1.weight"], theirs["layer1.weight"])
    )
    assert repo.git("log", "-1", "--format=%s %p").decode().split()[0] == "averaged"
    recipe: Any = repo.manifest(f"HEAD:{MODEL}").headers["merge"]
    assert [rule["strategy"] for rule in recipe["rules"]] == ["average"]
    assert '"params": "*", "strategy": "average"}' in repo.told("show", f"HEAD:{MODEL}")
    assert "verified, the same bytes" in repo.told("verify-merge")
    # The result is stored as a small update of one side.
    entry = repo.manifest(f"HEAD:{MODEL}").by_name["layer1.weight"]
    assert len(entry.chain) > 1
    repo.settled()


def test_rules_in_a_committed_file(repo: Branches, conflict: tuple[Tensors, Tensors]) -> None:
    ours = repo.save("more", moved(conflict[0], 9, "layer2", "layer3.bias"))
    theirs = conflict[1]
    repo.commit(
        "rules",
        **{
            ".theta__toml": (
                b"""
# biases stay
[[merge]]
params = "*.bias"
strategy = "ours"

[[merge]]
path = "elsewhere/*"
strategy = "theirs"

[[merge]]
params = "layer1.*"
strategy = "average"
options = { weights = [3, 1] }

[[merge]]
strategy = "task_arithmetic"
options = { lambda = 0.5 }
"""
            )
        },
    )
    repo.git("merge", "-q", "-m", "merged", "theirs")
    merged = repo.tensors()
    assert np.array_equal(merged["layer3.bias"], ours["layer3.bias"])
    wanted = (ours["layer1.weight"].astype(np.float64) * 3 + theirs["layer1.weight"]) / 4
    assert np.array_equal(merged["layer1.weight"], wanted.astype(np.float32))
    base, one, two = (side["layer2.weight"].astype(np.float64) for side in (BASE, ours, theirs))
    assert np.array_equal(
        merged["layer2.weight"], (base + 0.5 * ((one - base) + (two - base))).astype(np.float32)
    )
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b'[[merge]]\nstrategy = "average"\n\n[[merge]]\nparamz = "x"\nstrategy = "ours"\n',
            "line 5: unknown key 'paramz'",
        ),
        (b'[[merge]]\nstrategy = "average"\noptions = { weight = 1 }\n', "line 1: "),
        (b"\n[merges]\nx = 1\n", "line 2: unknown key 'merges'"),
        (b'[[merge]]\nstrategy = "evil:module"\n', "there is no merge strategy 'evil:module'"),
        (b'[[merge]]\nparams = "x"\n', "line 1: the rule names no strategy"),
        (b"[[merge]\n", "at line 1"),
        (b"[[merge]]\nstrategy = 3\n", "line 2: 'strategy' must be a string"),
    ],
)
def test_mistakes_in_the_file_are_conflicts_that_name_the_line(
    repo: Branches, conflict: tuple[Tensors, Tensors], text: bytes, message: str
) -> None:
    repo.commit("rules", **{".theta__toml": text})
    said = repo.fails("merge", "theirs")
    assert ".theta.toml" in said
    assert message in said
    assert "CONFLICT" in said
    repo.git("merge", "--abort")
    repo.settled()


def test_precedence(repo: Branches, conflict: tuple[Tensors, Tensors]) -> None:
    ours, theirs = (side["layer1.weight"] for side in conflict)

    def merged(*command: str) -> np.ndarray:
        (
            repo.git("merge", "-q", "-m", "m", "theirs")
            if not command
            else repo.told("merge", "theirs", "-m", "m", *command)
        )
        value = repo.tensors()["layer1.weight"]
        repo.settled()
        repo.git("reset", "-q", "--hard", "HEAD~1")
        return value

    repo.git("config", "theta.merge.strategy", "theirs")
    assert np.array_equal(merged(), theirs)
    repo.commit("rules", **{".theta__toml": b'[[merge]]\nstrategy = "ours"\n'})
    assert np.array_equal(merged(), ours)
    assert np.array_equal(merged("-s", "average"), average(ours, theirs))
    # What --params leaves open follows the file.
    assert np.array_equal(merged("-s", "average", "--params", "layer0*"), ours)
    # A file whose rules are for other models leaves the setting in force.
    repo.commit("rules", **{".theta__toml": b'[[merge]]\npath = "other"\nstrategy = "ours"\n'})
    assert np.array_equal(merged(), theirs)


def test_unknown_strategies_and_options_change_nothing(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    assert "there is no merge strategy 'nonsense'" in repo.told(
        "merge", "theirs", "-s", "nonsense", code=1
    )
    assert "densiti" in repo.told("merge", "theirs", "-s", "ties", "-o", "densiti=1", code=1)
    repo.settled()
    assert repo.git("rev-parse", "-q", "--verify", "HEAD").decode().strip() == repo.head()


@pytest.mark.parametrize(
    "words",
    [["-X", "theirs"], ["-Xtheirs"], ["--strategy-option", "theirs"], ["--strategy-option=theirs"]],
    ids=str,
)
def test_options_of_git_merge_are_handed_on(
    repo: Branches, conflict: tuple[Tensors, Tensors], tmp_path: Path, words: list[str]
) -> None:
    repo.commit("clash", b__txt=b"b\nours\n")
    (tmp_path / "message").write_text("from a file\n")
    repo.told(
        "merge",
        *words,
        "theirs",
        "-s",
        "average",
        "-F",
        str(tmp_path / "message"),
        "--no-ff",
        "--quiet",
    )
    assert repo.read("b.txt") == b"b\ntheirs\n"
    assert repo.git("log", "-1", "--format=%s") == b"from a file\n"
    assert np.array_equal(
        repo.tensors()["layer1.weight"], average(*(side["layer1.weight"] for side in conflict))
    )
    repo.settled()


def test_a_merge_is_ended_as_with_git(repo: Branches, conflict: tuple[Tensors, Tensors]) -> None:
    repo.told("merge", "theirs", code=1)
    repo.told("merge", "--abort")
    repo.settled()
    repo.told("merge", "theirs", code=1)
    repo.told("resolve", "--ours")
    repo.told("merge", "--continue", GIT_EDITOR="true")
    assert len(repo.git("log", "-1", "--format=%P").split()) == 2
    repo.settled()
    assert "name at least one branch" in repo.told("merge", "--no-ff", code=2)


def test_branches_with_no_common_ancestor(repo: Branches) -> None:
    repo.git("checkout", "-q", "--orphan", "theirs")
    theirs = repo.save("theirs", moved(BASE, 3))
    repo.git("checkout", "-q", "main")
    repo.told("merge", "theirs", "-s", "average", "--allow-unrelated-histories", "-m", "m")
    assert np.array_equal(
        repo.tensors()["layer0.weight"], average(BASE["layer0.weight"], theirs["layer0.weight"])
    )
    assert "verified" in repo.told("verify-merge")
    repo.settled()


def test_two_models_that_are_strangers_are_not_put_together(repo: Branches) -> None:
    """Both replaced the model by another architecture: nothing is common but the path."""
    random = np.random.default_rng(5)
    mine, other = (
        {f"{name}.weight": random.standard_normal((8, 8)).astype(np.float32)}
        for name in ("conv", "attention")
    )
    repo.branch("theirs", other)
    repo.save("ours", mine)
    said = repo.fails("merge", "theirs")
    assert "conv.weight: the sides' models have no common ancestor: f32[8,8], none" in said
    assert "a tensor that one side does not have; take ours or theirs" in repo.told(
        "resolve", "-s", "average", code=1
    )
    repo.told("resolve", "--theirs")
    assert same(repo.tensors(), other)
    repo.git("commit", "-qm", "merged")
    assert "verified" in repo.told("verify-merge")
    repo.settled()


# Rebase and its kin


def test_rebase(repo: Branches, conflict: tuple[Tensors, Tensors]) -> None:
    ours, theirs = conflict
    assert "CONFLICT" in repo.fails("rebase", "theirs")
    repo.told("resolve", "-s", "average")
    repo.git("-c", "core.editor=true", "rebase", "--continue")
    assert np.array_equal(
        repo.tensors()["layer1.weight"], average(ours["layer1.weight"], theirs["layer1.weight"])
    )
    assert np.array_equal(repo.tensors()["layer0.weight"], ours["layer0.weight"])
    assert repo.git("rev-list", "--count", "theirs..HEAD") == b"1\n"
    repo.settled()


def test_cherry_pick_adds_a_task_vector_and_revert_subtracts_it(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    repo.git("config", "theta.merge.strategy", "task_arithmetic")
    ours, theirs = conflict
    repo.git("cherry-pick", "theirs")

    def wide(values: Tensors) -> np.ndarray:
        return values["layer1.weight"].astype(np.float64)

    wanted = wide(BASE) + (wide(ours) - wide(BASE)) + (wide(theirs) - wide(BASE))
    picked = repo.tensors()
    assert np.array_equal(picked["layer1.weight"], wanted.astype(np.float32))
    assert np.array_equal(picked["layer2.weight"], theirs["layer2.weight"])
    repo.settled()
    later = repo.save("train on", moved(picked, 20))
    repo.git("revert", "--no-edit", "HEAD~1")
    back = wide(picked) + (wide(later) - wide(picked)) + (wide(ours) - wide(picked))
    assert np.array_equal(repo.tensors()["layer1.weight"], back.astype(np.float32))
    repo.settled()
    repo.git("revert", "--no-edit", "HEAD~1")
    repo.settled()


def test_stash_pop(repo: Branches) -> None:
    mine = moved(BASE, 2, "layer0", "layer1")
    repo.write(MODEL, safetensors_file(mine))
    repo.git("stash", "-q")
    other = repo.save("other", moved(BASE, 3, "layer2"))
    repo.git("stash", "pop", "-q")
    assert same(repo.tensors(), {**mine, "layer2.weight": other["layer2.weight"]})
    repo.git("stash", "-q")
    other = repo.save("again", moved(other, 4, "layer1"))
    assert "CONFLICT" in repo.fails("stash", "pop")
    repo.told("resolve", "--theirs")
    assert np.array_equal(repo.tensors()["layer1.weight"], mine["layer1.weight"])
    repo.git("commit", "-qm", "stashed")
    repo.git("stash", "drop", "-q")
    repo.settled()


def test_merge_tree_in_a_bare_repository(repo: Branches, tmp_path: Path) -> None:
    theirs = repo.branch("theirs", moved(BASE, 3, "layer2"))
    repo.save("ours", moved(BASE, 2, "layer0"))
    tree = repo.git("merge-tree", "--write-tree", "main", "theirs").decode().split()[0]
    merged = repo.manifest(f"{tree}:{MODEL}")
    assert (
        merged.by_name["layer2.weight"].digest
        == repo.manifest(f"theirs:{MODEL}").by_name["layer2.weight"].digest
    )
    assert theirs
    repo.git("clone", "-q", "--bare", ".", str(tmp_path / "bare"))
    bare = repo.at(tmp_path / "bare")
    bare.git(
        "config", "merge.theta.driver", repo.git("config", "merge.theta.driver").decode().strip()
    )
    # Attributes of a bare repository come from its own file.
    (tmp_path / "bare" / "info" / "attributes").write_bytes(b"*.safetensors merge=theta\n")
    assert bare.git("merge-tree", "--write-tree", "main", "theirs").decode().split()[0] == tree
    repo.save("conflicting", moved(repo.tensors(), 8, "layer2"))
    done = repo.run(["git", "merge-tree", "--write-tree", "main", "theirs"])
    assert done.returncode == 1
    assert b"layer2.weight" in done.stderr + done.stdout
    repo.settled()


# Many branches


@pytest.fixture
def three(repo: Branches) -> list[Tensors]:
    """main and branches b1, b2 changed layer 0; each another ordinary file, too."""
    one = repo.branch("b1", moved(BASE, 11, "layer0", "layer1"), b1__txt=b"1\n", a__txt=b"a\nb1\n")
    two = repo.branch("b2", moved(BASE, 12, "layer0", "layer2"), b2__txt=b"2\n", b__txt=b"b\nb2\n")
    return [repo.save("ours", moved(BASE, 10, "layer0"), c__txt=b"c\n"), one, two]


def test_several_branches_make_one_commit(repo: Branches, three: list[Tensors]) -> None:
    repo.told("merge", "b1", "b2", "-s", "average", "-m", "three")
    merged = repo.tensors()
    assert np.array_equal(
        merged["layer0.weight"], average(*(side["layer0.weight"] for side in three))
    )
    assert np.array_equal(merged["layer1.weight"], three[1]["layer1.weight"])
    assert np.array_equal(merged["layer2.weight"], three[2]["layer2.weight"])
    assert [repo.read(f"{name}.txt") for name in ("a", "b", "c", "b1", "b2")] == [
        b"a\nb1\n",
        b"b\nb2\n",
        b"c\n",
        b"1\n",
        b"2\n",
    ]
    assert len(repo.git("log", "-1", "--format=%P").split()) == 3
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()
    first = repo.blob(f"HEAD:{MODEL}")
    repo.git("reset", "-q", "--hard", "HEAD~1")
    repo.git("config", "theta.merge.strategy", "average")
    repo.git("merge", "-q", "-s", "theta", "-m", "three", "b2", "b1")
    assert same(repo.tensors(), merged)
    assert repo.blob(f"HEAD:{MODEL}") != b"" != first
    assert len(repo.git("log", "-1", "--format=%P").split()) == 3
    repo.settled()


@pytest.mark.parametrize(
    "strategy", ["average", "ties", "dare_linear", "breadcrumbs", "model_stock", "karcher"]
)
def test_the_order_of_branches_does_not_matter(
    repo: Branches, three: list[Tensors], strategy: str
) -> None:
    results = []
    for order in (["b1", "b2"], ["b2", "b1"]):
        repo.told("merge", *order, "-s", strategy, "-m", "three")
        results.append(repo.tensors()["layer0.weight"])
        repo.git("reset", "-q", "--hard", "HEAD~1")
    assert results[0].tobytes() == results[1].tobytes()


def test_many_branches_without_a_strategy_change_nothing(
    repo: Branches, three: list[Tensors]
) -> None:
    before = repo.head()
    said = repo.told("merge", "b1", "b2", code=2)
    assert "layer0.weight: changed on 3 sides" in said
    assert "git theta merge b1 b2 -s STRATEGY" in said
    assert repo.head() == before
    repo.settled()


def test_conflicts_in_ordinary_files_are_reported(repo: Branches, three: list[Tensors]) -> None:
    repo.git("checkout", "-q", "b2")
    repo.commit("clash", a__txt=b"a\nb2 says otherwise\n")
    repo.git("checkout", "-q", "main")
    before = repo.head()
    said = repo.told("merge", "b1", "b2", "-s", "average", code=2)
    assert "1 other files conflict (a.txt)" in said or "1 other file conflicts (a.txt)" in said
    assert repo.head() == before
    repo.settled()


def test_one_branch_by_the_theta_strategy_is_an_ordinary_merge(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    assert "CONFLICT" in repo.fails("merge", "-s", "theta", "theirs")
    repo.told("resolve", "--ours")
    repo.git("commit", "-qm", "merged")
    repo.settled()


# Recipes


def test_tampering_is_found(repo: Branches, conflict: tuple[Tensors, Tensors]) -> None:
    repo.told("merge", "theirs", "-s", "average", "-m", "m")
    merged = repo.tensors()
    text = repo.blob(f"HEAD:{MODEL}")
    recipe = text.split(b"\n")
    other = moved(merged, 50, "layer1")
    repo.write(MODEL, safetensors_file(other))
    repo.git("add", MODEL)
    tampered = repo.blob(f":{MODEL}").split(b"\n")
    header = [line for line in recipe if b"merge" in line[:6]]
    assert header
    joined = b"\n".join([*tampered[:1], *_headers_with(tampered, header)])
    blob = repo.git("hash-object", "-w", "--stdin", "--no-filters", stdin=joined).decode().strip()
    repo.git("update-index", "--cacheinfo", f"100644,{blob},{MODEL}")
    repo.git("commit", "-q", "--amend", "-m", "tampered")
    said = repo.told("verify-merge", code=1)
    assert "differs in 1 tensor, first layer1.weight" in said
    assert json.loads(repo.theta_run("verify-merge", "--json").stdout)[0]["differing"] == [
        "layer1.weight"
    ]


def _headers_with(tampered: list[bytes], header: list[bytes]) -> list[bytes]:
    rest = [line for line in tampered[1:] if line[:6] != header[0][:6]]
    at = next(i for i, line in enumerate(rest) if line.startswith(b"skeleton"))
    return [*rest[: at + 1], *header, *rest[at + 1 :]]


def test_verifying_from_a_folder_and_among_odd_names(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    for name in (":100644 100644", ":", "sub/one.txt"):
        repo.write(name, b"x")
    repo.git("add", ".")
    repo.git("commit", "-qm", "odd")
    repo.told("merge", "theirs", "-s", "average", "-m", "m")
    assert (
        "model.safetensors: verified, the same bytes"
        in repo.at(repo.path / "sub").theta("verify-merge").decode()
    )
    assert "'nonsense' is not a branch or commit" in repo.told("verify-merge", "nonsense", code=1)
    squashed = repo.git("commit-tree", "HEAD^{tree}", "-m", "squashed").decode().strip()
    assert "its inputs are not in the history any more" in repo.told(
        "verify-merge", squashed, code=1
    )


def test_after_a_squash_it_says_why(repo: Branches, conflict: tuple[Tensors, Tensors]) -> None:
    repo.told("merge", "theirs", "-s", "average", "-m", "m")
    assert "verified" in repo.told("verify-merge")
    tree = repo.git("rev-parse", "HEAD^{tree}").decode().strip()
    squashed = repo.git("commit-tree", tree, "-m", "squashed").decode().strip()
    said = repo.told("verify-merge", squashed, code=1)
    assert "cannot be verified: its inputs are not in the history any more" in said


def test_every_strategy_that_needs_nothing_more_verifies(repo: Branches) -> None:
    """A tensor and a rule for each."""
    listed = json.loads(repo.theta("strategies", "--json"))
    names = [row["name"] for row in listed if row["name"] not in ("fisher", "permute")]
    assert len(names) > 20
    random = np.random.default_rng(8)
    base = {name: random.standard_normal((24, 16)).astype(np.float32) for name in names}
    options = {"nearswap": "t = 0.01"}
    rules = [
        f'[[merge]]\nparams = "{name}"\nstrategy = "{name}"\noptions = {{ {options.get(name, "")}'
        " }\n"
        for name in names
    ]
    repo.save("base", base, "all.safetensors", **{".theta__toml": "\n".join(rules).encode()})
    theirs = repo.branch("theirs", moved(base, 3), path="all.safetensors")
    ours = repo.save("ours", moved(base, 2), "all.safetensors")
    repo.git("merge", "-q", "-m", "m", "theirs")
    merged = repo.tensors("all.safetensors")
    assert np.array_equal(merged["ours"], ours["ours"])
    assert np.array_equal(merged["theirs"], theirs["theirs"])
    assert np.array_equal(merged["base"], base["base"])
    recipe: Any = repo.manifest("HEAD:all.safetensors").headers["merge"]
    assert {rule["strategy"] for rule in recipe["rules"]} == set(names)
    # Regmean is among them
    assert "verified, to two units in the last place" in repo.told("verify-merge")
    repo.settled()


# Statistics beside the model


def test_fisher_uses_the_tracked_sibling(repo: Branches) -> None:
    random = np.random.default_rng(4)
    fisher = {
        who: {"layer1.weight": random.random((32, 32)).astype(np.float32)}
        for who in ("ours", "theirs")
    }
    theirs = moved(BASE, 3, "layer1")
    repo.branch("theirs", theirs)
    repo.git("checkout", "-q", "theirs")
    repo.save("fisher", fisher["theirs"], "model.fisher.safetensors")
    repo.git("checkout", "-q", "main")
    ours = repo.save("ours", moved(BASE, 2, "layer1"))
    said = repo.told("merge", "theirs", "-s", "fisher", code=1)
    assert "needs 'fisher' statistics" in said
    repo.git("merge", "--abort")
    repo.save("fisher", fisher["ours"], "model.fisher.safetensors")
    repo.fails("merge", "theirs")
    repo.told("resolve", MODEL, "-s", "fisher")
    a, b = (fisher[who]["layer1.weight"].astype(np.float64) for who in ("ours", "theirs"))
    wanted = (a * ours["layer1.weight"] + b * theirs["layer1.weight"]) / (a + b)
    assert np.array_equal(repo.tensors()["layer1.weight"], wanted.astype(np.float32))
    assert np.array_equal(
        repo.tensors("model.fisher.safetensors")["layer1.weight"], (a + b).astype(np.float32)
    )
    repo.git("commit", "-qm", "merged")
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()


def test_diloco_keeps_its_velocity_beside_the_model(repo: Branches, three: list[Tensors]) -> None:
    repo.told("merge", "b1", "b2", "-s", "diloco", "-m", "outer step 1")
    base, *sides = [BASE["layer0.weight"].astype(np.float64)] + [
        side["layer0.weight"].astype(np.float64) for side in three
    ]
    gradient = total(base - side for side in sides) / 3
    velocity = repo.tensors("model.velocity.safetensors")
    assert np.array_equal(velocity["layer0.weight"], gradient.astype(np.float32))
    merged = repo.tensors()
    assert np.allclose(merged["layer0.weight"], base - 0.7 * (gradient + 0.9 * gradient), atol=1e-6)
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()
    # The next step goes on from it: of two branches, and by resolve.
    for how in ("merge", "resolve"):
        start = repo.head()
        one = moved(merged, 21, "layer0")
        two = moved(merged, 22, "layer0")
        repo.git("checkout", "-q", "-B", "next", "main")
        repo.save("two", two)
        repo.git("checkout", "-q", "main")
        repo.save("one", one)
        if how == "merge":
            repo.told("merge", "next", "-s", "diloco", "-m", "outer step 2")
        else:
            repo.fails("merge", "next")
            repo.told("resolve", "-s", "diloco")
            repo.git("commit", "-qm", "outer step 2")
        now = merged["layer0.weight"].astype(np.float64)
        second = sum(now - side["layer0.weight"] for side in (one, two)) / 2
        wanted = 0.9 * velocity["layer0.weight"].astype(np.float64) + second
        assert np.array_equal(
            repo.tensors("model.velocity.safetensors")["layer0.weight"], wanted.astype(np.float32)
        )
        assert "verified, the same bytes" in repo.told("verify-merge")
        assert len(repo.git("log", "-1", "--format=%P").split()) == 2
        repo.settled()
        repo.git("reset", "-q", "--hard", start)


def test_permute_reorders_theirs_first(repo: Branches) -> None:
    pytest.importorskip("scipy")
    random = np.random.default_rng(7)
    net: Tensors = {
        "fc1.weight": random.standard_normal((24, 16)).astype(np.float32),
        "fc1.bias": random.standard_normal(24).astype(np.float32),
        "fc2.weight": random.standard_normal((10, 24)).astype(np.float32),
        "fc2.bias": random.standard_normal(10).astype(np.float32),
    }
    order = random.permutation(24)
    shuffled = {
        "fc1.weight": net["fc1.weight"][order],
        "fc1.bias": net["fc1.bias"][order],
        "fc2.weight": np.ascontiguousarray(net["fc2.weight"][:, order]),
        "fc2.bias": net["fc2.bias"],
    }
    repo.save("before", moved(net, 3), "net.safetensors")
    repo.branch("theirs", shuffled, path="net.safetensors")
    repo.save("ours", net, "net.safetensors")
    repo.told("merge", "theirs", "-s", "permute", "-m", "matched")
    assert same(repo.tensors("net.safetensors"), net)
    assert "verified, to two units in the last place" in repo.told("verify-merge")
    repo.settled()
    repo.git("reset", "-q", "--hard", "HEAD~1")
    said = repo.told("merge", "theirs", "-s", "permute", "--params", "fc1*", code=1)
    assert "let permute alone merge this model" in said
    repo.git("merge", "--abort")
    repo.settled()


# Choosing by score


def test_the_best_of_a_sweep_is_merged(
    repo: Branches, conflict: tuple[Tensors, Tensors], tmp_path: Path
) -> None:
    script = tmp_path / "score.py"
    wanted = average(conflict[0]["layer1.weight"], conflict[1]["layer1.weight"])
    np.save(tmp_path / "wanted.npy", wanted)
    script.write_text(
        "import sys, numpy, safetensors.numpy as s\nw ="
        f" numpy.load({str(tmp_path / 'wanted.npy')!r})\nprint('of 1 model')\nprint('score',"
        " -float(abs(s.load_file(sys.argv[1])['layer1.weight'].astype('f8') - w).mean()))\n"
    )
    command = f"{sys.executable} {script} {{checkpoint}}"
    words = ["merge", "theirs", "-s", "theirs,average", "--eval", command, "-m", "best"]
    before, tree = repo.head(), repo.read(MODEL)
    rows = json.loads(repo.theta(*words, "--dry-run", "--json"))
    assert [row["strategy"] for row in rows] == ["theirs", "average"]
    assert [row["best"] for row in rows] == [False, True]
    assert rows[1]["score"] == 0
    assert repo.head() == before
    assert repo.read(MODEL) == tree
    repo.settled()
    said = repo.told(
        *words[:2],
        "-s",
        "task_arithmetic",
        "--sweep",
        "lambda=0:1:0.25",
        "--eval",
        command,
        "-m",
        "swept",
    )
    assert said.count("task_arithmetic") >= 5
    recipe: Any = repo.manifest(f"HEAD:{MODEL}").headers["merge"]
    assert recipe["rules"][0]["options"]["lambda"] == 0.5
    assert "verified" in repo.told("verify-merge")
    repo.settled()
    repo.git("reset", "-q", "--hard", before)
    assert "no candidate could be scored" in repo.told(
        *words[:4], "--eval", "exit 3 # {checkpoint}", code=1
    )
    assert repo.head() == before
    assert "{checkpoint}" in repo.told(*words[:4], "--eval", "true", code=2)
    repo.settled()


def test_dry_run_says_what_would_conflict(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    before = repo.head()
    said = repo.told("merge", "theirs", "--dry-run", code=1)
    assert "1 changed" in said
    assert "layer1.weight" in said
    assert "No tensor would be left in conflict" in repo.told(
        "merge", "theirs", "--dry-run", "-s", "average"
    )
    assert repo.head() == before
    repo.settled()


# Faults


def test_missing_objects_are_named_and_leave_a_conflict(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    entry = repo.manifest(f"theirs:{MODEL}").by_name["layer1.weight"]
    known = {ref.oid for ref in repo.manifest(f"HEAD:{MODEL}").by_name["layer1.weight"].objects}
    lost = next(ref.oid for ref in entry.objects if ref.oid not in known)
    place = repo.objects()[lost]
    data = place.read_bytes()
    place.unlink()
    said = repo.told("merge", "theirs", "-s", "average", code=1)
    assert lost[:12] in said
    assert "layer1.weight" in said
    assert "CONFLICT" in said
    place.write_bytes(data)
    place.chmod(0o444)
    repo.told("resolve", "-s", "average")
    repo.git("commit", "-qm", "merged")
    repo.settled()


PLUGIN = """\
import numpy as np
from git_theta.plugins.hookspecs import hookimpl

class Bad:
    name, summary, options, needs_base, min_sides, max_sides = "bad", "raises", (), False, 2, None
    def merge(self, case, options):
        raise RuntimeError("broken\\x1b[2J inside")

class Wrong(Bad):
    name = "wrong"
    def merge(self, case, options):
        return np.zeros(3)

class Survey(Bad):
    name = "survey"
    def survey(self, cases, options):
        return 1 / 0

class Slow(Bad):
    name = "slow"
    def merge(self, case, options):
        import os, pathlib, time
        pathlib.Path(os.environ["STARTED"]).write_text("yes")
        time.sleep(600)

@hookimpl
def register_merge_strategies():
    return [Bad(), Wrong(), Survey(), Slow()]
"""


def with_plugin(repo: Branches, site: Path) -> str:
    """The module path with the plugin installed."""
    info = site / "bad-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[git_theta]\nbad = bad_plugin\n")
    (site / "bad_plugin.py").write_text(PLUGIN)
    return f"{repo.environment['PYTHONPATH']}{os.pathsep}{site}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad", "RuntimeError: broken"),
        ("wrong", "wrong returned float64[3]"),
        ("survey", "ZeroDivisionError"),
    ],
)
def test_a_strategy_that_fails_leaves_a_conflict(
    repo: Branches, conflict: tuple[Tensors, Tensors], tmp_path: Path, name: str, message: str
) -> None:
    path = with_plugin(repo, tmp_path / "site")
    said = repo.told("merge", "theirs", "-s", name, code=1, PYTHONPATH=path)
    assert message in said
    assert "\x1b" not in said
    assert "CONFLICT" in said
    assert "git theta resolve" in said
    repo.told("resolve", "-s", "average")
    repo.git("commit", "-qm", "merged")
    repo.settled()


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_merge_can_be_aborted(
    repo: Branches, conflict: tuple[Tensors, Tensors], tmp_path: Path, kill: signal.Signals
) -> None:
    started = tmp_path / "started"
    process = subprocess.Popen(
        interruptible(["git", "-c", "theta.merge.strategy=slow", "merge", "theirs"]),
        cwd=repo.path,
        env={
            **repo.environment,
            "PYTHONPATH": with_plugin(repo, tmp_path / "site"),
            "STARTED": str(started),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + PATIENCE
    while not started.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Git first: did its driver end before git hears of this, git would go on and write files
    os.kill(process.pid, kill)
    os.killpg(process.pid, kill)
    process.wait(PATIENCE)
    # What git leaves when it is killed
    for left in (repo.common / "index.lock", *repo.path.glob(".merge_file_*")):
        left.unlink(missing_ok=True)
    if (repo.common / "MERGE_HEAD").exists():
        repo.git("merge", "--abort")
    assert same(repo.tensors(), conflict[0])
    repo.settled()


def test_versions_that_were_committed_without_the_filter(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    repo.git("checkout", "-q", "theirs")
    repo.git(
        "-c",
        "filter.theta.process=",
        "-c",
        "filter.theta.clean=cat",
        "-c",
        "filter.theta.required=false",
        "add",
        "--renormalize",
        MODEL,
    )
    raw = repo.git("hash-object", "-w", "--no-filters", MODEL).decode().strip()
    repo.git("update-index", "--cacheinfo", f"100644,{raw},{MODEL}")
    repo.git("commit", "-qm", "raw")
    repo.git("checkout", "-q", "-f", "main")
    said = repo.fails("merge", "theirs")
    assert "one version was committed without Git-Theta" in said
    assert (
        f"{MODEL} was committed without Git-Theta on one side; put the file you want there"
        in repo.told("resolve", "--ours", code=1)
    )
    repo.git("merge", "--abort")
    repo.settled()


def test_a_damaged_environment_is_a_conflict(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    said = repo.fails("merge", "theirs", GIT_THETA_MERGE='[{"strategy": 1}]')
    assert "merge rules are damaged" in said
    repo.git("merge", "--abort")
    repo.settled()
