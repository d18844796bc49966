"""The tutorial does what it says: every block is run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from documented import World, blocks
from gitrepo import Repo
from merging import programs

import git_theta

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are POSIX scripts")
PAGE = "docs/tutorial.md"


@pytest.fixture
def shell(tmp_path: Path, environment: Mapping[str, str]) -> Repo:
    """A folder, and a user who has installed Git-Theta's programs but not configured anything."""
    settings = tmp_path / "gitconfig"
    settings.write_text(
        "[user]\n\tname = A U Thor\n\temail = author@example.com\n", encoding="utf-8"
    )
    path = f"{programs(tmp_path / 'bin')}{os.pathsep}{environment['PATH']}"
    (tmp_path / "here").mkdir()
    return Repo(
        tmp_path / "here", {**environment, "PATH": path, "GIT_CONFIG_GLOBAL": str(settings)}
    )


def test_the_tutorial(shell: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    world, values, said = (
        World(shell.path.parent, dict(shell.environment), shell.path),
        dict[str, object](),
        list[str](),
    )
    for key, value in shell.environment.items():
        if key != "PYTHONWARNINGS":
            monkeypatch.setenv(key, value)
    for block in blocks(PAGE):
        if block.language == "python":
            monkeypatch.chdir(world.here)
            exec(compile(block.text, PAGE, "exec"), values)
            continue
        for command in block.commands:
            done = world.shell(command)
            said.append(done.stdout + done.stderr)
            assert done.returncode == (1 if command == "git merge other" else 0), said[-1]
    repo = world.repo
    assert any("head.weight: changed on 2 sides" in each for each in said)
    heads = [
        git_theta.load(rev, "model.safetensors", repo=repo.path)["head.weight"]
        for rev in ("HEAD", "HEAD~1", "other")
    ]
    assert np.abs(heads[0] - (heads[1] + heads[2]) / 2).max() < 1e-6
    merged = git_theta.load("HEAD~1", "model.safetensors", repo=repo.path)
    first = git_theta.load("deeper~1", "model.safetensors", repo=repo.path)
    changed = sorted(
        name for name, value in merged.items() if not np.array_equal(value, first[name])
    )
    assert changed == ["head.weight", "layers.0.weight"]
    repo.assert_clean()
