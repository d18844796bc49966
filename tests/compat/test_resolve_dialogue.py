"""``git theta resolve`` at a terminal: what it shows, what it asks, and what the answers do."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from merging import MODEL, Branches, Tensors, average, model, moved, same
from small_models import safetensors_file, torch_file

pytest.importorskip("pty", reason="there are no pseudo terminals here")
from terminal import Played, play

WHICH, HOW = "Enter to stop): ", "How (Enter to stop): "
BASE = model()


@pytest.fixture
def repo(tmp_path: Path, environment: Mapping[str, str], bin_folder: Path) -> Branches:
    repo = Branches.make(tmp_path / "repo", environment, bin_folder)
    repo.save("base", BASE)
    return repo


@pytest.fixture
def conflict(repo: Branches) -> tuple[Tensors, Tensors]:
    """Every float changed on both sides; git has begun to merge."""
    theirs = repo.branch("theirs", moved(BASE, 3))
    ours = repo.save("ours", moved(BASE, 2))
    repo.fails("merge", "theirs")
    return ours, theirs


def resolve(repo: Branches, *answers: tuple[str, str]) -> Played:
    return play(
        [sys.executable, "-m", "git_theta", "resolve"], repo.path, repo.environment, answers
    )


def test_groups_are_shown_with_how_far_they_moved_and_one_choice_is_for_many(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    ours, theirs = conflict
    played = resolve(
        repo, (WHICH, "1\n"), (HOW, "average weights=3,1\n"), (WHICH, "all\n"), (HOW, "theirs\n")
    )
    assert played.code == 0, played.screen
    lines = played.screen.splitlines()
    assert lines[0] == "model.safetensors: 5 tensors in conflict"
    names = [f"layer{i}.weight" for i in range(4)]
    moves = []
    for side in (ours, theirs):
        base, now = (
            np.concatenate([tensors[name].ravel() for name in names]).astype(np.float64)
            for tensors in (BASE, side)
        )
        moves.append(f"{np.linalg.norm(now - base) / np.linalg.norm(base):.2e}")
    assert lines[1].split() == ["#", "tensors", "count", "why", "ours", "moved", "theirs", "moved"]
    assert lines[2].split() == ["1", "layer*.weight", "4", "changed", "on", "2", "sides", *moves]
    assert lines[3].split()[:3] == ["2", "layer3.bias", "1"]
    assert lines[-1] == "model.safetensors: resolved and staged (5 tensors)."
    merged = repo.tensors()
    for name in names:
        wanted = (3 * ours[name].astype(np.float64) + theirs[name]) / 4
        assert np.array_equal(merged[name], wanted.astype(np.float32)), name
    assert np.array_equal(merged["layer3.bias"], theirs["layer3.bias"])
    repo.git("commit", "-qm", "merged")
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()


def test_a_side_for_all_is_that_sides_file(repo: Branches) -> None:
    """Counters, which nobody is asked about, come from there, too."""
    theirs = repo.branch("theirs", {**moved(BASE, 3), "step": np.array([300])})
    repo.save("ours", {**moved(BASE, 2), "step": np.array([200])})
    repo.fails("merge", "theirs")
    assert resolve(repo, (WHICH, "all\n"), (HOW, "theirs\n")).code == 0
    assert same(repo.tensors(), theirs)


def test_mistakes_are_told_and_asked_again(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    played = resolve(
        repo,
        (WHICH, "3\n"),
        ("'3' is not among 1 to 2, nor 'all'", ""),
        (WHICH, "1 x\n"),
        ("'1 x' is not among", ""),
        (WHICH, "1\n"),
        (HOW, "nonsense\n"),
        ("there is no merge strategy 'nonsense'", ""),
        (WHICH, "1\n"),
        (HOW, "ties density=2\n"),
        ("density", ""),
        (WHICH, "1\n"),
        (HOW, "theirs\n"),
        (WHICH, "1\n"),  # another choice for what was chosen already
        (HOW, "ours\n"),
        (WHICH, "2, 2\n"),
        (HOW, "base\n"),
    )
    assert played.code == 0, played.screen
    assert same(repo.tensors(), {**conflict[0], "layer3.bias": BASE["layer3.bias"]})
    repo.git("commit", "-qm", "merged")
    repo.settled()


def test_stopping_keeps_what_was_chosen_for_the_next_time(
    repo: Branches, conflict: tuple[Tensors, Tensors]
) -> None:
    played = resolve(repo, (WHICH, "2\n"), (HOW, "ours\n"), (WHICH, "\n"))
    assert played.code == 1
    assert "1 tensor settled so far" in played.screen
    assert "4 tensors changed on several sides" in played.screen
    played = resolve(repo, (WHICH, "all\n"), (HOW, "\n"))
    assert played.code == 1
    assert "4 tensors in conflict" in played.screen
    assert "layer3.bias" not in played.screen
    played = resolve(repo, (WHICH, "1\n"), (HOW, "average\n"))
    assert played.code == 0
    ours, theirs = conflict
    assert np.array_equal(repo.tensors()["layer3.bias"], ours["layer3.bias"])
    assert np.array_equal(
        repo.tensors()["layer0.weight"], average(ours["layer0.weight"], theirs["layer0.weight"])
    )
    repo.git("commit", "-qm", "merged")
    repo.settled()


@pytest.mark.parametrize("key", ["\x03", "\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_leaving_in_the_middle_changes_nothing(
    repo: Branches, conflict: tuple[Tensors, Tensors], key: str
) -> None:
    before = repo.read(MODEL)
    played = resolve(repo, (WHICH, "2\n"), (HOW, "theirs\n"), (WHICH, key))
    assert played.code == 130, played.screen
    assert repo.records() == []
    assert repo.read(MODEL) == before
    repo.git("merge", "--abort")
    assert same(repo.tensors(), conflict[0])
    repo.settled()


def test_odd_groups_are_described(repo: Branches) -> None:
    """A removal, another shape, NaN, an addition on both sides, a name with escape codes."""
    evil = "evil\x1b[2J.weight"
    base = {**BASE, evil: np.ones(30, np.float32)}
    repo.save("base", base)
    less = {
        name: value
        for name, value in moved(base, 3, "layer0", "layer1", "evil").items()
        if name != "layer3.bias"
    }
    repo.branch(
        "theirs",
        {
            **less,
            "layer1.weight": np.ones((40, 32), np.float32),
            "new.weight": np.ones(30, np.float32),
        },
    )
    ours = moved(base, 2, "layer0", "layer1", "layer3", "evil")
    ours["layer0.weight"][0, 0] = np.nan
    repo.save("ours", {**ours, "new.weight": np.zeros(30, np.float32)})
    repo.fails("merge", "theirs")
    played = resolve(repo, (WHICH, "all\n"), (HOW, "ours\n"))
    assert played.code == 0, played.screen
    assert "\x1b" not in played.screen
    rows = {line.split()[1]: line for line in played.screen.splitlines() if line[:1].isdigit()}
    assert "removed on one side, changed on another" in rows["layer3.bias"]
    assert rows["layer3.bias"].rstrip().endswith("removed")
    assert "NaN or infinite" in rows["layer*.weight"]
    assert "f32[40,32]" in rows["layer*.weight"]
    assert rows["new.weight"].split()[-2:] == ["new", "new"]
    repo.git("commit", "-qm", "merged")
    repo.settled()


def test_files_of_two_formats_are_merged_by_name_where_the_answer_is_yes(repo: Branches) -> None:
    repo.git("checkout", "-qb", "theirs")
    repo.git("rm", "-q", MODEL)
    repo.commit("converted", model__safetensors=torch_file(moved(BASE, 3, "layer1")))
    repo.git("checkout", "-q", "main")
    ours = repo.save("ours", moved(BASE, 2, "layer0"))
    repo.fails("merge", "theirs")
    question = "the sides are safetensors and torch-zip files. Merge them by tensor name? [y/N]: "
    played = resolve(repo, (question, "n\n"))
    assert played.code == 1
    assert "'git theta resolve --by-name'" in played.screen
    played = resolve(repo, (question, "y\n"))
    assert played.code == 0, played.screen
    repo.git("commit", "-qm", "merged")
    assert repo.manifest(f"HEAD:{MODEL}").format == "torch-zip"
    assert repo.manifest(f"HEAD:{MODEL}").by_name["layer0.weight"].digest == _digest(
        repo, ours, "layer0.weight"
    )
    repo.settled()


def _digest(repo: Branches, tensors: Tensors, name: str) -> str:
    repo.write("probe.safetensors", safetensors_file(tensors))
    repo.git("add", "probe.safetensors")
    found = repo.manifest(":probe.safetensors").by_name[name].digest
    repo.git("rm", "-q", "-f", "probe.safetensors")
    return found


def test_objects_that_are_elsewhere_are_fetched_to_be_measured(
    repo: Branches, tmp_path: Path
) -> None:
    repo.branch("theirs", moved(BASE, 3, "layer0"))
    repo.save("ours", moved(BASE, 2, "layer0"))
    repo.fails("merge", "theirs")
    repo.lend(tmp_path / "remote.git")
    played = resolve(repo, (WHICH, "1\n"), (HOW, "ours\n"))
    assert played.code == 0, played.screen
    assert "?" not in next(line for line in played.screen.splitlines() if line.startswith("1"))
    repo.git("commit", "-qm", "merged")
    repo.settled()
