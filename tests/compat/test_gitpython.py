"""Tags and notes through GitPython, and GitPython's objects in the API, in every kind of
repository.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import git
import numpy as np
import pytest
from gitrepo import Repo

import git_theta
from git_theta.errors import GitError, UsageError
from git_theta.git import command, gitpython

MODEL = "model.safetensors"
VALUES = {"w": np.arange(300.0)}


def plain(path: Path, environment: Mapping[str, str]) -> Repo:
    return Repo.create(path / "repo", environment)


def sha256(path: Path, environment: Mapping[str, str]) -> Repo:
    return Repo.create(path / "repo", environment, "--object-format=sha256")


def reftable(path: Path, environment: Mapping[str, str]) -> Repo:
    return Repo.create(path / "repo", environment, "--ref-format=reftable")


def bare(path: Path, environment: Mapping[str, str]) -> Repo:
    made = plain(path, environment)
    made.git("clone", "-q", "--bare", ".", str(path / "bare.git"))
    return made.at(path / "bare.git")


def worktree(path: Path, environment: Mapping[str, str]) -> Repo:
    made = plain(path, environment)
    made.git("worktree", "add", "-q", "-b", "linked", str(path / "tree"))
    return made.at(path / "tree")


def separate(path: Path, environment: Mapping[str, str]) -> Repo:
    """A working tree whose repository only the environment names."""
    made = plain(path, environment)
    made.path.joinpath(".git").rename(path / "apart")
    named = {"GIT_DIR": str(path / "apart"), "GIT_WORK_TREE": str(made.path)}
    return Repo(made.path, {**environment, **named})


def _has_reftable() -> bool:
    numbers = command.version().split(".")[:2]
    return tuple(map(int, numbers)) >= (2, 45)


KINDS = [plain, sha256, bare, worktree, separate, *([reftable] if _has_reftable() else [])]
Kind = Callable[[Path, Mapping[str, str]], Repo]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def repo(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Repo:
    kind: Kind = request.param
    made = kind(tmp_path, environment)
    for key, value in made.environment.items():
        if key != "PYTHONWARNINGS":
            monkeypatch.setenv(key, value)
    return made


def test_tags_and_notes(repo: Repo) -> None:
    branch = repo.git("symbolic-ref", "--short", "HEAD").decode().strip()
    if repo.path.suffix == ".git":
        made = git_theta.save(VALUES, MODEL, branch=branch, repo=repo.path)
    else:
        made = git_theta.save_to_git(VALUES, MODEL, tag="v1", repo=repo.path)
        assert repo.git("rev-parse", "refs/tags/v1").decode().strip() == made
    gitpython.set_tag("best", made, repo.path)
    gitpython.set_tag("best", made, repo.path)  # it is there
    assert repo.git("cat-file", "-t", "refs/tags/best") == b"commit\n"
    assert repo.git("rev-parse", "best").decode().strip() == made
    for loss in (0.5, 0.25):
        git_theta.record_metrics(made, {"loss": loss}, repo=repo.path)
    assert repo.git("notes", "--ref=theta-metrics", "show", made) == b'{"loss": 0.25}\n'
    steps = git_theta.log(MODEL, rev=branch, repo=repo.path)
    assert [(step.commit.hexsha, step.metrics) for step in steps] == [(made, {"loss": 0.25})]


def test_a_note_longer_than_an_argument_may_be(repo: Repo) -> None:
    values = {f"layer.{number}.loss": float(number) for number in range(10_000)}
    head = repo.head()
    git_theta.record_metrics(head, values, repo=repo.path)
    assert len(repo.git("notes", "--ref=theta-metrics", "show", head)) > 200_000


def test_what_git_refuses_is_one_line(repo: Repo) -> None:
    calls: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: gitpython.set_tag("v1", "f" * 40, repo.path), "the tag v1 cannot be set: fatal: "),
        (lambda: git_theta.record_metrics("nothing", {"a": 1}, repo=repo.path), "git notes failed"),
    )
    for call, start in calls:
        with pytest.raises((GitError, UsageError), match=start) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert "stderr" not in str(caught.value)


def test_a_repo_of_gitpython_is_taken(repo: Repo) -> None:
    if "GIT_DIR" in repo.environment:  # such a working tree is no repository to GitPython
        return
    opened = git.Repo(repo.path)
    branch = repo.git("symbolic-ref", "--short", "HEAD").decode().strip()
    made = git_theta.save(VALUES, MODEL, branch=branch, repo=opened)
    assert list(git_theta.load(made, MODEL, repo=opened)) == ["w"]
    git_theta.record_metrics(branch, {"loss": 1.0}, repo=opened)
    assert git_theta.log(MODEL, rev=branch, repo=opened)[0].metrics == {"loss": 1.0}


def test_gitpython_runs_our_git_and_keeps_the_users_own(repo: Repo) -> None:
    before = os.environ.get("GIT_PYTHON_GIT_EXECUTABLE")
    program = gitpython.program(repo.path)
    assert command.git() == program.GIT_PYTHON_GIT_EXECUTABLE
    assert Path(command.git()).is_absolute()
    assert os.environ.get("GIT_PYTHON_GIT_EXECUTABLE") == before


def test_reading_and_saving_does_not_wait_for_gitpython(repo: Repo) -> None:
    """Only tags and notes take its import."""
    code = (
        "import sys, git_theta, numpy;"
        f"git_theta.diff('HEAD', repo={str(repo.path)!r}, new='HEAD');"
        " sys.exit('git' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=repo.path, env=repo.environment)
