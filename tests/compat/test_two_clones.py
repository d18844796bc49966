"""Two clones of one remote that work in turns, at random: whatever they do, nothing is lost and
both end with the same.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import sharing
from gitrepo import Repo
from sharing import World
from small_models import safetensors_file

MODELS = ("a.safetensors", "deep/b.safetensors")
STEPS = 100


class Worker:
    """A clone, whose every operation leaves its working tree clean."""

    def __init__(self, repo: Repo, number: int, choice: random.Random) -> None:
        self.repo = repo
        self.number = number
        self.choice = choice
        self.count = 0
        self.done: dict[str, int] = {}

    def step(self) -> str:
        """One operation at random; its name."""
        weights = {
            "change": 26,
            "push": 11,
            "pull": 9,
            "branch": 8,
            "merge": 9,
            "rebase": 7,
            "stash": 5,
            "prune": 6,
            "gc": 6,
            "revert": 4,
        }
        weights |= {"amend": 4}
        name = self.choice.choices(list(weights), list(weights.values()))[0]
        getattr(self, name)()
        self.done[name] = self.done.get(name, 0) + 1
        assert self.repo.status() == "", name
        return name

    def change(self) -> None:
        """Train one tensor of one model a little, as far as this clone's own tensors go: so no two
        clones conflict.
        """
        self._edit()
        self.repo.git("add", "-A")
        self.repo.git("commit", "-qm", f"{self.number}: change {self.count}")

    def push(self) -> None:
        # Somebody was faster
        if self.repo.run(["git", "push", "-q", "origin", "HEAD:main"]).returncode:
            self.pull()
            self.repo.git("push", "-q", "origin", "HEAD:main")

    def pull(self) -> None:
        self.repo.git(
            "pull",
            "-q",
            *(["--rebase"] if self.choice.random() < 0.4 else ["--no-rebase", "--no-edit"]),
            "origin",
            "main",
        )

    def branch(self) -> None:
        self.count += 1
        self.repo.git("checkout", "-q", "-b", f"topic-{self.count}")
        self.change()
        self.repo.git("checkout", "-q", "main")

    def merge(self) -> None:
        for name in self._topics()[:1]:
            self.repo.git(
                "merge",
                "-q",
                "--no-edit",
                *(["--no-ff"] if self.choice.random() < 0.5 else []),
                name,
            )
            self.repo.git("branch", "-q", "-d", name)

    def rebase(self) -> None:
        for name in self._topics()[-1:]:
            self.repo.git("rebase", "-q", "main", name)
            self.repo.git("checkout", "-q", "main")

    def stash(self) -> None:
        self._edit()
        self.repo.git("stash", "-q")
        if self.choice.random() < 0.5:
            self.pull()
        self.repo.git("stash", "pop", "-q")
        self.repo.git("commit", "-qam", f"{self.number}: stashed {self.count}")

    def prune(self) -> None:
        if self.choice.random() < 0.5:
            self.repo.git("reflog", "expire", "--expire=now", "--all")
        self.repo.theta(
            "prune", "--now", *(["--verify-remote"] if self.choice.random() < 0.5 else [])
        )

    def gc(self) -> None:
        self.repo.git("gc", "-q", "--prune=now")

    def revert(self) -> None:
        """Undo the last commit, if it is one of this clone's own and no merge."""
        subject = self.repo.git("log", "-1", "--format=%s %P").decode()
        if subject.startswith(f"{self.number}:") and len(subject.split()[-2]) < 40:
            self.repo.git("revert", "--no-edit", "HEAD")

    def amend(self) -> None:
        """Change the last commit once more, if nobody else has it yet."""
        subject = self.repo.git("log", "-1", "--format=%s %P").decode()
        pushed = (
            self.repo.run(["git", "merge-base", "--is-ancestor", "HEAD", "origin/main"]).returncode
            == 0
        )
        if subject.startswith(f"{self.number}:") and len(subject.split()[-2]) < 40 and not pushed:
            self._edit()
            self.repo.git("commit", "-qa", "--amend", "--no-edit")

    def _topics(self) -> list[str]:
        return (
            self.repo.git("for-each-ref", "--format=%(refname:short)", "refs/heads/topic-*")
            .decode()
            .split()
        )

    def _edit(self) -> None:
        import safetensors.numpy

        self.count += 1
        name = self.choice.choice(MODELS)
        tensors = safetensors.numpy.load(self.repo.read(name))
        key = f"part{self.number}.layer{self.count % 40}"
        step = np.random.default_rng(1000 * self.number + self.count).standard_normal(
            tensors[key].shape
        )
        tensors[key] = (tensors[key] + 1e-3 * step).astype(tensors[key].dtype)
        self.repo.write(name, safetensors_file(tensors))


def start(seed: int) -> dict[str, bytes]:
    random = np.random.default_rng(seed)
    layers = [f"part{part}.layer{layer}" for part in (1, 2) for layer in range(40)]
    return {
        name: safetensors_file(
            {layer: random.standard_normal(64).astype(np.float32) for layer in layers}
        )
        for name in MODELS
    }


@pytest.mark.parametrize("seed", [1])
def test_two_clones_end_with_the_same(
    tmp_path: Path, environment: Mapping[str, str], seed: int
) -> None:
    world = World(
        tmp_path,
        {**sharing.with_program(environment, tmp_path / "bin"), "GIT_EDITOR": "true"},
        server=False,
    )
    first = world.start()
    first.write(".gitattributes", b"*.safetensors filter=theta diff=theta merge=theta -text\n")
    first.git("config", "merge.theta.driver", "git-theta merge-driver %O %A %B %P")
    for name, data in start(seed).items():
        first.write(name, data)
    first.git("add", ".")
    first.git("commit", "-qm", "start")
    first.git("push", "-q", "-u", "origin", "main")
    second = world.clone("two")
    second.git("config", "merge.theta.driver", "git-theta merge-driver %O %A %B %P")
    choice = random.Random(seed)
    workers = [Worker(first, 1, choice), Worker(second, 2, choice)]
    for _ in range(STEPS):
        choice.choice(workers).step()
    for worker in (*workers, workers[0]):
        worker.pull()
        worker.push()
    assert first.head() == second.head()
    for name in MODELS:
        assert first.read(name) == second.read(name)
    for repo in (first, second):
        assert "all is well" in repo.theta("fsck", "--all", "--repair").decode()
        repo.assert_clean()
    world.assert_complete()
    fresh = world.clone("fresh")
    assert "all is well" in fresh.theta("fsck", "--all", "--repair").decode()
    done = {name for worker in workers for name in worker.done}
    assert done >= {"change", "push", "pull", "merge", "rebase", "stash", "prune", "gc"}
