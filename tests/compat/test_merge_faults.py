"""Objects that are elsewhere or lost, and interruptions, at the time of a merge."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from gitrepo import PATIENCE
from merging import MODEL, Branches, Tensors, average, model, moved, same
from terminal import interruptible

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
    return repo_once.copy(tmp_path / "repo")


@pytest.fixture(scope="module")
def sides_once(repo_once: Branches) -> tuple[Branches, list[Tensors]]:
    repo = repo_once.copy(repo_once.path.with_name("sides"))
    branches = [
        repo.branch(name, moved(BASE, seed, "layer1")) for name, seed in (("one", 3), ("two", 4))
    ]
    return repo, [repo.save("ours", moved(BASE, 2, "layer1")), *branches]


@pytest.fixture
def sides(repo: Branches, sides_once: tuple[Branches, list[Tensors]]) -> list[Tensors]:
    """main, 'one' and 'two' changed layer 1."""
    once, sides = sides_once
    once.copy(repo.path)
    return list(sides)


def middle(sides: list[Tensors]) -> np.ndarray:
    return average(*(side["layer1.weight"] for side in sides))


def test_objects_are_fetched_by_whatever_merges(
    repo: Branches, sides: list[Tensors], tmp_path: Path
) -> None:
    start = repo.head()
    repo.git("config", "theta.merge.strategy", "average")
    repo.lend(tmp_path / "remote.git")
    lent = repo.object_ids()
    assert not lent
    # The driver; git then checks the result out.
    repo.git("merge", "-q", "-m", "merged", "one")
    assert np.array_equal(repo.tensors()["layer1.weight"], middle(sides[:2]))
    # Only what it needs.
    third = repo.manifest(f"two:{MODEL}").by_name["layer1.weight"].objects[0].oid
    assert third not in repo.object_ids()
    assert "verified, the same bytes" in repo.told("verify-merge")
    repo.settled()
    # Several branches at once, with nothing here again.
    repo.git("reset", "-q", "--hard", start)
    for file in (*repo.store.glob("*/*/*"), *(repo.common / "lfs" / "objects").glob("*/*/*")):
        file.unlink()
    repo.told("merge", "one", "two", "-s", "average", "-m", "three")
    assert np.array_equal(repo.tensors()["layer1.weight"], middle(sides))
    repo.settled()


def test_what_no_remote_has_is_named_in_one_line_and_the_merge_goes_on_later(
    repo: Branches, sides: list[Tensors], tmp_path: Path
) -> None:
    remote = tmp_path / "remote.git"
    repo.lend(remote)
    lost = repo.manifest(f"one:{MODEL}").by_name["layer1.weight"].objects[0].oid
    places = [*remote.glob(f"*/objects/*/*/{lost}")]
    assert places
    for place in places:
        place.rename(tmp_path / "kept")
    for command in (
        ["-c", "theta.merge.strategy=average", "merge", "one"],
        ["theta", "merge", "one", "-s", "average"],
    ):
        said = repo.fails(*command)
        lines = [line for line in said.splitlines() if lost in line]
        assert len(lines) == 1, said
        assert "layer1.weight" in lines[0]
        assert "CONFLICT" in said
        repo.git("merge", "--abort")
        assert same(repo.tensors(), sides[0])
        repo.settled()
    said = repo.told("merge", "one", "two", "-s", "average", code=2)
    assert lost in said
    repo.settled()
    repo.fails("merge", "one")
    assert lost in repo.told("resolve", "-s", "average", code=1)
    (tmp_path / "kept").rename(places[0])
    repo.told("resolve", "-s", "average")
    repo.git("commit", "-qm", "merged")
    assert np.array_equal(repo.tensors()["layer1.weight"], middle(sides[:2]))
    repo.settled()


SLOW = """\
import os, pathlib, time
from git_theta.plugins.hookspecs import hookimpl

class Slow:
    name, summary, options, needs_base, min_sides, max_sides = "slow", "sleeps", (), False, 2, None
    def merge(self, case, options):
        pathlib.Path(os.environ["STARTED"]).write_text("yes")
        time.sleep(600)

class Bad(Slow):
    name = "bad"
    def merge(self, case, options):
        raise SystemExit(3)

@hookimpl
def register_merge_strategies():
    return [Slow(), Bad()]
"""


@pytest.fixture
def plugin(tmp_path: Path, repo: Branches) -> dict[str, str]:
    """An environment in which the strategies of :data:`SLOW` are installed."""
    info = tmp_path / "site" / "slow-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[git_theta]\nslow = slow_plugin\n")
    (tmp_path / "site" / "slow_plugin.py").write_text(SLOW)
    path = os.pathsep.join([repo.environment["PYTHONPATH"], str(tmp_path / "site")])
    return {"PYTHONPATH": path, "STARTED": str(tmp_path / "started")}


def interrupted(
    repo: Branches,
    plugin: Mapping[str, str],
    words: list[str],
    kill: signal.Signals,
    everyone: bool = True,
) -> int:
    """Start ``words``, and kill them (the whole group, or the first process alone) when a strategy
    has begun to compute.
    """
    started = Path(plugin["STARTED"])
    started.unlink(missing_ok=True)
    process = subprocess.Popen(
        interruptible(words),
        cwd=repo.path,
        env={**repo.environment, **plugin},
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
    os.killpg(process.pid, kill) if everyone else os.kill(process.pid, kill)
    code = process.wait(PATIENCE)
    if not everyone:
        os.killpg(process.pid, signal.SIGKILL)
    # What git leaves when it is killed
    for left in (repo.common / "index.lock", *repo.path.glob(".merge_file_*")):
        left.unlink(missing_ok=True)
    return code


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_several_branches_are_interrupted(
    repo: Branches, sides: list[Tensors], plugin: dict[str, str], kill: signal.Signals
) -> None:
    before = repo.head()
    words = [sys.executable, "-m", "git_theta", "merge", "one", "two", "-s", "slow"]
    assert interrupted(repo, plugin, words, kill) != 0
    repo.run(["git", "merge", "--abort"])  # there may be nothing to abort
    assert repo.head() == before
    assert same(repo.tensors(), sides[0])
    assert repo.status() == ""
    repo.told("merge", "one", "two", "-s", "average", "-m", "three")
    assert np.array_equal(repo.tensors()["layer1.weight"], middle(sides))


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGKILL])
def test_resolve_is_interrupted_and_the_merge_is_as_it_was(
    repo: Branches, sides: list[Tensors], plugin: dict[str, str], kill: signal.Signals
) -> None:
    repo.fails("merge", "one")
    before = repo.status()
    assert (
        interrupted(
            repo, plugin, [sys.executable, "-m", "git_theta", "resolve", "-s", "slow"], kill
        )
        != 0
    )
    assert repo.status() == before
    assert same(repo.tensors(), sides[0])
    repo.told("resolve", "-s", "average")
    repo.git("reset", "-q", "--hard")
    repo.fails("merge", "one")
    repo.git("merge", "--abort")
    assert same(repo.tensors(), sides[0])
    assert repo.status() == ""


def test_a_rebase_is_interrupted(
    repo: Branches, sides: list[Tensors], plugin: dict[str, str]
) -> None:
    before = repo.head()
    assert (
        interrupted(
            repo,
            plugin,
            ["git", "-c", "theta.merge.strategy=slow", "rebase", "one"],
            signal.SIGKILL,
        )
        != 0
    )
    repo.git("rebase", "--abort")
    assert repo.head() == before
    assert same(repo.tensors(), sides[0])
    assert repo.status() == ""


def test_a_strategy_that_ends_the_process_leaves_a_conflict(
    repo: Branches, sides: list[Tensors], plugin: dict[str, str]
) -> None:
    said = repo.told("merge", "one", "-s", "bad", code=1, **plugin)
    assert "CONFLICT" in said
    repo.git("merge", "--abort")
    assert same(repo.tensors(), sides[0])
    repo.settled()
