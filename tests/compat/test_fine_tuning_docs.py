"""The tutorial and the guide to fine-tuning do what they say: every block is run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from gitrepo import ROOT, Repo
from merging import programs
from small_models import safetensors_file

import git_theta

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are POSIX scripts")
BLOCK = re.compile(r"<!-- (run|fails)(?:: (\w+))? -->\n```(\w+)\n(.*?)```", re.DOTALL)


def blocks(name: str) -> Iterator[tuple[str, str, str, str]]:
    """Each block of a page: whether it runs or fails, its label, language and text."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield match[1], match[2] or "", match[3], match[4]


@pytest.fixture
def shell(tmp_path: Path, environment: Mapping[str, str]) -> Repo:
    """A folder, and a user who has installed Git-Theta's programs but not configured anything."""
    settings = tmp_path / "gitconfig"
    settings.write_text("[user]\n\tname = A U Thor\n\temail = author@example.com\n[init]\n\tdefaultBranch = main\n", encoding="utf-8")
    path = f"{programs(tmp_path / 'bin')}{os.pathsep}{environment['PATH']}"
    (tmp_path / "here").mkdir()
    return Repo(tmp_path / "here", {**environment, "PATH": path, "GIT_CONFIG_GLOBAL": str(settings)})


def run(repo: Repo, text: str) -> tuple[Repo, list[subprocess.CompletedProcess[bytes]]]:
    """Run the commands of a block; where that led to, and what came of each."""
    done = []
    for line in text.splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[0] == "cd":
            repo = repo.at(repo.path / words[1])
        else:
            done.append(repo.run(words))
    return repo, done


def test_the_tutorial(shell: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, values, said = shell, dict[str, object](), list[str]()
    for key, value in shell.environment.items():
        if key != "PYTHONWARNINGS":
            monkeypatch.setenv(key, value)
    for kind, _, language, text in blocks("tutorial.md"):
        if language == "python":
            monkeypatch.chdir(repo.path)
            exec(compile(text, "docs/tutorial.md", "exec"), values)
            continue
        repo, done = run(repo, text)
        said += [(each.stdout + each.stderr).decode() for each in done]
        assert all((each.returncode == 0) == (kind == "run") for each in done), said[-len(done) :]
    assert any("head.weight: changed on 2 sides" in each for each in said)
    heads = [git_theta.load(rev, "model.safetensors", repo=repo.path)["head.weight"] for rev in ("HEAD", "HEAD~1", "other")]
    assert np.abs(heads[0] - (heads[1] + heads[2]) / 2).max() < 1e-6
    merged = git_theta.load("HEAD~1", "model.safetensors", repo=repo.path)
    first = git_theta.load("deeper~1", "model.safetensors", repo=repo.path)
    changed = sorted(name for name, value in merged.items() if not np.array_equal(value, first[name]))
    assert changed == ["head.weight", "layers.0.weight"]
    repo.assert_clean()


def test_the_guide_to_fine_tuning(shell: Repo) -> None:
    assert shell.run(["git", "theta", "install"]).returncode == 0
    random = np.random.default_rng(3)
    base = {name: random.standard_normal((300, 40)).astype(np.float32) for name in ("body.weight", "head.weight")}
    tuned = {**base, "head.weight": base["head.weight"] + np.float32(0.001)}
    contents = {"base": safetensors_file(base), "tuned": safetensors_file(tuned), "committed": safetensors_file(tuned)}
    for _, label, _, text in blocks("fine-tuning.md"):
        shell.write("model.safetensors", contents.pop(label))
        _, done = run(shell, text)
        assert all(each.returncode == 0 for each in done), [each.stderr for each in done]
    assert not contents
    assert shell.git("log", "--format=%D %s").decode().splitlines()[-1] == "tag: base, main Pretrained model"
    chain = shell.manifest("sentiment:model.safetensors").by_name["head.weight"].chain
    assert [link.update for link in chain] == ["delta", "dense"]
    shell.assert_clean()
