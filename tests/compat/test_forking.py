"""Forked commands do what started ones do, so that tests may use either."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import forking
import pytest
import sharing
from gitrepo import PATIENCE, Repo

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or any(key.startswith("COVERAGE_") for key in os.environ),
    reason="nothing is forked",
)


@pytest.mark.parametrize(
    "words",
    [["--version"], ["ls-files"], ["nonsense"], ["fsck", "--all"], ["show", "no.pt"], ["convert"]],
)
def test_a_forked_command_ends_as_a_started_one(repo: Repo, words: list[str]) -> None:
    repo.commit("first", model__safetensors=sharing.model(1))
    below = repo.at(repo.path / "below")
    below.path.mkdir()
    for one in (repo, below):
        started = one.run([*forking.PROGRAM, *words])
        forked = one.theta_run(*words)
        assert (forked.returncode, forked.stdout, forked.stderr) == (
            started.returncode,
            started.stdout,
            started.stderr,
        )


def test_a_forked_command_has_its_callers_environment_and_umask(repo: Repo) -> None:
    repo.commit("first", model__safetensors=sharing.model(1))
    assert (
        b"theta.threads" in repo.theta_run("fsck", GIT_CONFIG_PARAMETERS="'theta.threads=x'").stderr
    )
    before = os.umask(0o077)
    try:
        repo.theta("convert", "HEAD:model.safetensors", "out.npz")
    finally:
        os.umask(before)
    assert (repo.path / "out.npz").stat().st_mode & 0o777 == 0o600


def test_a_killed_fork_is_told_from_one_that_fails(repo: Repo, tmp_path: Path) -> None:
    suicide = tmp_path / "git"
    suicide.write_text("#!/bin/sh\nkill -KILL $PPID\n")
    suicide.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{repo.environment['PATH']}"
    assert repo.theta_run("ls-files", PATH=path).returncode == -9


def test_python_is_started_where_it_would_start_differently(repo: Repo) -> None:
    for name in ("PYTHONUTF8", "LC_ALL", "COVERAGE_PROCESS_CONFIG"):
        other = {**repo.environment, name: "1"}
        assert forking.run(["--version"], repo.path, other, PATIENCE) is None
    assert forking.run(["--version"], repo.path, repo.environment, PATIENCE)


def test_git_has_the_filter_forked_or_starts_it(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    repo = Repo.create(tmp_path / "repo", forking.quick(environment, tmp_path / "config"))
    assert b"asking.py" in repo.git("config", "filter.theta.process")
    for seed, more in enumerate(({}, {"LC_ALL": "C.UTF-8"})):
        data = sharing.model(seed)
        repo.write("model.safetensors", data)
        git = repo.under(more).git
        git("add", ".")
        repo.git("commit", "-qm", "changed")
        (repo.path / "model.safetensors").unlink()
        git("checkout", "-q", "--", ".")
        assert repo.read("model.safetensors") == data
        repo.assert_clean()
    repo.write("broken.safetensors", data[:-1])
    assert "git-theta: broken.safetensors: " in repo.git_fails("add", ".")
