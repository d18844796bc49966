"""Races, with their windows held open on purpose: nothing that anyone needs is deleted, nobody's
lock is removed, no command is wrong.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pausing
import pytest
import racing
from gitrepo import PATIENCE, Repo
from sharing import World, changed, forget, model, needed_by

import git_theta
from git_theta.training import BackgroundSaver
from git_theta.workflows.storing import commit as committing

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs locks on folders")
BUSY = "another git command is using the store"


class Window:
    """A place at which a process of ours waits, while others work."""

    def __init__(self, folder: Path, at: str, when: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        asked = {"patience": 20.0, "pauses": [{"at": at, "when": when, "folder": str(folder)}]}
        (folder / "asked.json").write_text(json.dumps(asked))
        self.environment = {pausing.VARIABLE: str(folder / "asked.json")}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, repo: Repo, *words: str, wait: bool = True) -> None:
        """Start a command, and wait until it is at the place."""
        environment = {**repo.environment, **self.environment}
        self.process = subprocess.Popen(
            words, cwd=repo.path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while not (self.folder / "reached").exists():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.005)

    def end(self) -> tuple[str, int]:
        """Let it go on; what it printed, and its exit code."""
        (self.folder / "go").touch()
        assert self.process is not None
        out, said = self.process.communicate(timeout=PATIENCE)
        assert b"Traceback" not in said, said
        return (out + said).decode(), self.process.returncode


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Callable[[str, str], Window]]:
    made: list[Window] = []

    def make(at: str, when: str) -> Window:
        made.append(Window(tmp_path / f"window{len(made)}", at, when))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.end()


@pytest.fixture
def world(tmp_path: Path, environment: Mapping[str, str]) -> World:
    world = World(tmp_path, environment, server=False)
    world.environment = racing.held(world.environment, tmp_path / "bin")
    return world


@pytest.fixture
def one(world: World) -> Repo:
    repo = world.start()
    repo.commit("first", model__safetensors=model(1))
    repo.git("push", "-q", "origin", "main")
    return repo


def asked(world: World, **facts: object) -> dict[str, str]:
    """The environment of a command that finds things ``facts`` as :mod:`pausing` has them."""
    path = world.folder / f"asked-{len(list(world.folder.glob('asked-*')))}.json"
    path.write_text(json.dumps(facts))
    return {pausing.VARIABLE: str(path)}


def everything_is_old(world: World) -> dict[str, str]:
    """The environment of a command to which all that is there now is older than a day."""
    time.sleep(0.05)
    return asked(world, began=time.time())


def program(repo: Repo, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return repo.under(environment).run([*racing.PROGRAM, *words])


def pruned(repo: Repo, *words: str, **environment: str) -> str:
    done = program(repo, "prune", *words, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def left_behind(world: World, one: Repo) -> tuple[Repo, set[str]]:
    """The remote, where a second version of the model lies that no ref names any more; here the
    branch has it.
    """
    one.commit("second", model__safetensors=changed(model(1), 0, 5))
    one.git("push", "-q", "origin", "main:topic")
    remote = Repo(world.remote, world.environment)
    remote.git("update-ref", "-d", "refs/heads/topic")
    return remote, needed_by(one, "HEAD") - needed_by(one, "HEAD~1")


# A push and a prune at the remote


def test_a_prune_at_the_remote_waits_for_a_push(
    world: World, one: Repo, window: Callable[[str, str], Window]
) -> None:
    """The push has found that old objects are there, which only its own commit will need."""
    remote, relied = left_behind(world, one)
    time.sleep(0.05)
    old = asked(world, began=time.time(), patience=0.1)
    push = window("git_theta.store.folder:FolderPlace.lacking", "after")
    push.start(one, "git", "push", "-q", "origin", "main")
    for words in ([], ["--now"]):
        done = program(remote, "prune", *words, **old)
        assert done.returncode == 1
        assert BUSY in done.stderr.decode()
    said, code = push.end()
    assert code == 0, said
    assert relied <= world.objects()
    world.assert_complete()


def test_a_prune_at_the_remote_waits_until_git_has_moved_the_branch(
    world: World, one: Repo
) -> None:
    """The hook has ended; git sends the commits, and the remote's own hook takes its time."""
    remote, relied = left_behind(world, one)
    hook = world.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        f"#!/bin/sh\ncat >/dev/null\ntouch {world.folder}/reached\nwhile ! test -e"
        f" {world.folder}/go; do sleep 0.01; done\n"
    )
    hook.chmod(0o755)
    process = subprocess.Popen(
        ["git", "push", "-q", "origin", "main"], cwd=one.path, env=dict(one.environment)
    )
    while not (world.folder / "reached").exists():
        assert process.poll() is None
        time.sleep(0.005)
    done = program(remote, "prune", "--now", **asked(world, patience=0.1))
    (world.folder / "go").touch()
    assert process.wait(100) == 0
    assert BUSY in done.stderr.decode()
    assert relied <= world.objects()
    assert "Deleted 0 objects" in pruned(remote, "--now")  # nobody holds it for longer


def test_prune_keeps_what_became_needed_meanwhile(
    world: World, one: Repo, window: Callable[[str, str], Window]
) -> None:
    """A branch is moved behind our back, by a git that knows nothing of Git-Theta, between the plan
    and the deletions.
    """
    remote, relied = left_behind(world, one)
    prune = window("git_theta.workflows.maintenance.prune:_planned", "after")
    prune.start(remote, *racing.PROGRAM, "prune", "--now")
    one.git("push", "-q", "--no-verify", "origin", "main")
    said, code = prune.end()
    assert code == 0, said
    assert "Deleted 0 objects" in said
    assert relied <= world.objects()


def test_prune_keeps_what_was_touched_meanwhile(
    world: World, one: Repo, window: Callable[[str, str], Window]
) -> None:
    """Somebody on whom our locks have no effect relies on an object."""
    remote, left = left_behind(world, one)
    relied, *_ = sorted(left)
    prune = window("git_theta.workflows.maintenance.prune:_planned", "after")
    prune.start(remote, *racing.PROGRAM, "prune", "--now")
    time.sleep(0.05)
    os.utime(next(world.remote.glob(f"theta/objects/*/*/{relied}")))
    said, code = prune.end()
    assert code == 0, said
    assert f"Deleted {len(left) - 1} object" in said
    assert world.objects() & left == {relied}


# A prune here


@pytest.mark.parametrize("how", ["add", "fetch"])
def test_a_store_that_is_only_being_made(
    world: World, one: Repo, window: Callable[[str, str], Window], how: str
) -> None:
    """There is nothing to delete when the prune begins, and what comes meanwhile is not deleted."""
    two = world.clone("two", "--no-checkout", GIT_THETA_SKIP_SMUDGE="1")
    shutil.rmtree(two.common / "theta", ignore_errors=True)
    if how == "add":
        two.write("model.safetensors", model(2))
        two.git("checkout", "-q", "HEAD", "--", ".gitattributes")
    prune = window("git_theta.workflows.maintenance.prune:_needed", "after")
    prune.start(two, *racing.PROGRAM, "prune", "--now")
    words = (
        ["git", "add", "model.safetensors"]
        if how == "add"
        else [*racing.PROGRAM, "fetch", "origin", "HEAD"]
    )
    process = subprocess.Popen(
        words,
        cwd=two.path,
        env=dict(two.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for _ in range(100):  # without a lock it would end
        if process.poll() is not None:
            break
        time.sleep(0.01)
    assert prune.end()[1] == 0
    said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    needed = needed_by(two, two.git("write-tree").decode().strip() if how == "add" else "HEAD")
    assert needed
    assert needed <= two.object_ids()


@pytest.mark.parametrize("how", ["hash-object", "index-file", "manifest", "other-name"])
def test_what_a_manifest_needs_that_is_handed_out_is_young(
    world: World, one: Repo, how: str
) -> None:
    """Its objects are old, and nothing names them for a while; a plain prune keeps them."""
    data = changed(model(1), 0, 5)
    one.commit("second", model__safetensors=data)
    needed = needed_by(one, "HEAD")
    old = everything_is_old(world)
    if how == "index-file":
        there = one.under({**old, "GIT_INDEX_FILE": str(world.folder / "other-index")})
        there.git("add", "model.safetensors")
        blob = there.git("rev-parse", ":model.safetensors").decode().strip()
    else:
        name = "copy.safetensors" if how == "other-name" else "model.safetensors"
        given = one.blob("HEAD:model.safetensors") if how == "manifest" else data
        blob = (
            one.git("hash-object", "-w", "--path", name, "--stdin", stdin=given, **old)
            .decode()
            .strip()
        )
    one.git("reset", "-q", "--hard", "HEAD~1")
    one.git("rm", "-q", "-r", "--cached", ".")
    one.git("update-ref", "-d", "refs/remotes/origin/main")
    one.git("update-ref", "-d", "refs/heads/main")
    forget(one)
    (one.path / "model.safetensors").unlink()
    pruned(one, **old)
    assert needed <= one.object_ids()
    one.git("update-index", "--add", "--cacheinfo", f"100644,{blob},model.safetensors")
    one.git("checkout-index", "model.safetensors")
    assert one.read("model.safetensors") == data
    one.git("rm", "-q", "--cached", "model.safetensors")
    pruned(one, **everything_is_old(world))
    assert one.object_ids() == set()  # for all that age is what kept them


def test_only_what_the_remote_has_now_may_go_here(world: World, one: Repo) -> None:
    """Somebody has taken our commits off the remote's branch; its objects are there still, but not
    for long.
    """
    first = one.head()
    one.commit("second", model__safetensors=model(2))
    one.git("push", "-q", "origin", "main")
    one.commit("third", model__safetensors=model(3))
    two = world.clone("two")
    two.git("checkout", "-q", "--orphan", "anew")
    two.commit("anew", model__safetensors=model(4))
    two.git("push", "-q", "-f", "origin", "anew:main")
    assert (
        one.git("rev-parse", "origin/main").decode().strip()
        == f"{one.git('rev-parse', 'HEAD~1').decode().strip()}"
    )
    pruned(one, "--now", "--verify-remote")
    remote = Repo(world.remote, world.environment)
    pruned(remote, "--now")
    for commit, seed in ((first, 1), ("main~1", 2), ("main", 3)):
        one.git("checkout", "-q", "--detach", commit)
        assert one.read("model.safetensors") == model(seed)


def test_what_is_being_fetched_is_not_swept_away(
    world: World, one: Repo, window: Callable[[str, str], Window]
) -> None:
    """A link is as old as what it was made of; it is no leftover of a process that is dead."""
    for path in world.remote.glob("theta/objects/*/*/*"):
        os.utime(path, (1, 1))
    two = world.clone("two", GIT_THETA_SKIP_SMUDGE="1")
    fetch = window("git_theta.store.local:LocalStore.flush", "before")
    fetch.start(two, *racing.PROGRAM, "fetch", "origin", "HEAD")
    assert two.leftovers()
    two.write("other.safetensors", model(8))
    two.git("add", "other.safetensors")
    said, code = fetch.end()
    assert code == 0, said
    assert needed_by(two, "HEAD") <= two.object_ids()
    assert two.leftovers() == []


# The attributes


@pytest.mark.parametrize(
    ("words", "left"),
    [(("track", "*.npz"), {"*.npz", "*.onnx"}), (("untrack", "*.bin"), {"*.onnx"})],
)
def test_two_changes_of_the_attributes_at_once(
    one: Repo, window: Callable[[str, str], Window], words: tuple[str, str], left: set[str]
) -> None:
    first = window("git_theta.git.config.attributes:write", "before")
    first.start(one, *racing.PROGRAM, "track", "*.onnx")
    second = subprocess.Popen(
        [*racing.PROGRAM, *words], cwd=one.path, env=one.environment, stdout=subprocess.PIPE
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        second.wait(timeout=3)  # enough to be lost, if it does not wait for the first
    said, code = first.end()
    assert code == 0, said
    second.communicate(timeout=PATIENCE)
    assert second.returncode == 0
    before = {"*.safetensors", "*.pt", "*.bin"}
    found = {line.split()[0] for line in one.read(".gitattributes").decode().splitlines()}
    assert found - before == left
    assert ("*.bin" in found) == (words[0] == "track")


# The index


def test_a_checkout_while_the_index_is_locked(world: World, one: Repo) -> None:
    lock = one.common / "index.lock"
    (one.path / "model.safetensors").unlink()
    lock.write_bytes(b"someone else's")
    done = one.theta_run("checkout", "model.safetensors")
    assert done.returncode == 0, done.stderr
    assert one.read("model.safetensors") == model(1)
    assert lock.read_bytes() == b"someone else's"
    lock.unlink()
    one.assert_clean()


def test_a_saver_while_the_index_is_locked(
    world: World, one: Repo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The commit is there, with its numbers and its tag; that the index did not follow is said."""
    for key, value in one.environment.items():
        if key != "PYTHONWARNINGS":
            monkeypatch.setenv(key, value)
    monkeypatch.setattr(committing, "_PATIENCE", 0.1)
    lock = one.common / "index.lock"
    lock.touch()
    before = one.head()
    with (
        caplog.at_level(logging.WARNING, "git_theta.training"),
        BackgroundSaver(repo=one.path, best_tag="best") as saver,
    ):
        saver.save(
            {"w": np.zeros(500, np.float32)},
            "model.safetensors",
            message="Step",
            metrics={"loss": 1},
            best=True,
        )
    assert lock.exists()
    lock.unlink()
    assert saver.errors == []
    assert saver.commits == [one.head()] != [before]
    assert "not checked out" in caplog.text
    assert one.git("rev-parse", "best").decode().strip() == one.head()
    assert git_theta.log("model.safetensors", repo=one.path)[0].metrics == {"loss": 1}


# Transfers side by side


@pytest.mark.skipif(shutil.which("git-lfs") is None, reason="needs git-lfs")
@pytest.mark.parametrize("first", ["waiting", "sending"])
def test_two_pushes_at_once_through_git_lfs(
    tmp_path: Path, environment: Mapping[str, str], window: Callable[[str, str], Window], first: str
) -> None:
    """They send the same objects; neither takes the other's away."""
    world = World(tmp_path, environment, server=True)
    world.environment = racing.held(world.environment, tmp_path / "bin")
    one = world.start()
    one.commit("first", model__safetensors=model(1))
    waiting = window("git_theta.store.lfs:LfsPlace._push", "before")
    other = window("git_theta.store.lfs:LfsPlace._push", "before")
    waiting.start(one, "git", "push", "-q", "origin", "main:a")
    other.start(one, "git", "push", "-q", "origin", "main:b")
    for push in (waiting, other) if first == "waiting" else (other, waiting):
        said, code = push.end()
        assert code == 0, said
    assert needed_by(one, "HEAD") <= world.objects()
    assert list(one.common.glob("lfs/objects/*/*/*")) == []
    assert one.leftovers() == []


def test_savers_of_two_processes_keep_each_others_metrics(
    world: World, one: Repo, window: Callable[[str, str], Window]
) -> None:
    script = (
        "import sys; from git_theta.api import sessions\n"
        "from git_theta.workflows.comparing import metrics\n"
    )
    script += (
        "with sessions.session(None) as session: metrics.record(session, sys.argv[1], {'loss':"
        " 1})\n"
    )
    commits = [one.commit(str(number), notes__txt=b"%d" % number) for number in range(6)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, commit], cwd=one.path, env=dict(one.environment)
        )
        for commit in commits
    ]
    assert [process.wait(100) for process in running] == [0] * len(commits)
    listed = one.git("notes", "--ref=theta-metrics", "list").decode().split()
    assert set(listed[1::2]) == set(commits)


# All of it


@pytest.mark.parametrize("seed", [1])
def test_everything_at_once(tmp_path: Path, environment: Mapping[str, str], seed: int) -> None:
    """A push, a prune there, a prune here, an add, a fetch and a save.

    By hand: racing.py, with as many rounds as wanted.
    """
    done = {}
    for race in racing.rounds(tmp_path / "race", environment, seed, 6):
        done = race.done
    assert done["push: done"] == done["add: done"] == done["save: done"] == 6
