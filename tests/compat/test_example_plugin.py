"""The example plugin, installed as pip installs it: listed, chosen by plain ``git add``, and missed
where it is not installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gitrepo import ROOT, Repo
from installing import install, with_site
from small_models import safetensors_file

EXAMPLES = sorted((ROOT / "examples").glob("plugin-*"))
EXAMPLE = ROOT / "examples" / "plugin-trim-rows"
WORDS = np.random.default_rng(1).standard_normal((4000, 48)).astype(np.float32)


@pytest.fixture
def with_plugin(repo: Repo, tmp_path: Path) -> Repo:
    """The same repository, where the plugin is installed."""
    install(EXAMPLE, tmp_path / "site")
    return with_site(repo, tmp_path / "site")


def trimmed(*removed: int) -> bytes:
    return safetensors_file({"word.weight": np.delete(WORDS, removed, axis=0), "bias": WORDS[0]})


def test_it_is_listed(with_plugin: Repo, repo: Repo) -> None:
    (line,) = [
        line for line in with_plugin.theta("plugins").decode().splitlines() if "trim-rows" in line
    ]
    assert "git-theta-trim-rows 1.0" in line
    assert b"trim-rows" not in repo.theta("plugins")


def test_git_add_chooses_it(with_plugin: Repo, repo: Repo) -> None:
    contents = [
        trimmed(),
        trimmed(*range(3900, 4000)),
        trimmed(5, *range(700, 800), *range(3900, 4000)),
    ]
    for number, content in enumerate(contents):
        with_plugin.commit(str(number), m__safetensors=content)
    chain = with_plugin.manifest("HEAD:m.safetensors").by_name["word.weight"].chain
    assert [link.update for link in chain] == ["trim-rows", "trim-rows", "dense"]
    assert [link.note for link in chain[:2]] == ["removed=101", "removed=100"]
    assert chain[0].size < 100
    with_plugin.assert_clean()
    for back, content in enumerate(reversed(contents)):
        with_plugin.git("checkout", "-q", f"HEAD~{back}", "--", "m.safetensors")
        assert with_plugin.read("m.safetensors") == content
    with_plugin.git("checkout", "-q", "HEAD", "--", "m.safetensors")
    assert "trim-rows" in with_plugin.git("log", "-p", "--no-textconv").decode()

    # Whoever has not installed it is told so, by name, and loses nothing.
    (repo.path / "m.safetensors").unlink()
    said = repo.git_fails("checkout", "--", "m.safetensors")
    assert "'trim-rows'" in said
    assert "install" in said
    assert not (repo.path / "m.safetensors").exists()
    assert "'trim-rows'" in repo.theta_run("checkout", "m.safetensors").stderr.decode()
    repo.git("checkout", "-q", "HEAD~2", "--", "m.safetensors")
    assert repo.read("m.safetensors") == contents[0]

    # A change added without the plugin does not need it any more.
    repo.write("m.safetensors", trimmed(1, 2))
    repo.git("add", "m.safetensors")
    assert not any(
        link.update == "trim-rows"
        for link in repo.manifest(":m.safetensors").by_name["word.weight"].chain
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_the_own_tests_of_an_example_package_pass(example: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(example / "src")])}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*words, "-c", str(example / "pyproject.toml"), str(example)],
        cwd=example,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
