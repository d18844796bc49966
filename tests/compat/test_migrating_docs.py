"""Every block of the guides to migrating and to clusters runs as it stands."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import sharing
from gitrepo import ROOT, Repo
from sharing import changed, model
from small_models import safetensors_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the blocks are for a POSIX shell")
GUIDE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- run: (\w+) -->\n```console\n(.*?)```", GUIDE, re.DOTALL)


def prepared(tmp_path: Path, environment: Mapping[str, str], kind: str) -> Repo:
    """A repository with three versions of a model, in the state that a block starts from."""
    programs = sharing.with_program(environment, tmp_path / "bin")
    path = tmp_path / "repo"
    path.mkdir()
    repo = Repo(path, {**programs, "GIT_PAGER": "cat"})
    repo.git("init", "-q", ".")
    for version in range(3):
        repo.commit(f"version {version}", model__safetensors=changed(model(1), version, version), notes__txt=b"%d" % version)
    repo.git("tag", "-a", "-m", "one", "v1.0")
    if kind != "raw":
        repo.theta("migrate", "import")
    if kind == "published":
        repo.git("remote", "add", "origin", sharing.bare(tmp_path / "remote.git", programs))
        repo.git("config", "push.autoSetupRemote", "true")
    return repo


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_block_runs(tmp_path: Path, environment: Mapping[str, str], number: int) -> None:
    pytest.importorskip("git_filter_repo")
    kind, text = BLOCKS[number]
    repo = prepared(tmp_path, environment, kind)
    files = {name: repo.read(name) for name in ("model.safetensors", "notes.txt")}
    old = repo.run(["git", "for-each-ref", "--format=%(objectname)", "refs/git-theta/before-import/heads"]).stdout.decode().strip()
    commands = [line.removeprefix("$ ") for line in text.splitlines()]
    assert all(line.startswith("$ ") for line in text.splitlines())
    for command in commands:
        done = repo.run(["sh", "-c", command])
        assert done.returncode == 0, (command, done.stderr.decode())
    assert repo.status() == ""
    assert {name: repo.read(name) for name in files} == files
    if "reset -q --hard" in text:
        assert repo.head() == old
    if "gc -q" in text:
        assert repo.run(["git", "cat-file", "-e", old]).returncode
    if "ls-files" in text or "fsck" in text:
        assert repo.manifest("HEAD:model.safetensors").entries
    if "untrack" in text or "export" in text:
        assert repo.blob("HEAD:model.safetensors") == files["model.safetensors"]
    if kind == "published":
        clone = sharing.clone((tmp_path / "remote.git").as_uri(), tmp_path / "clone", repo.environment)
        assert clone.read("model.safetensors") == files["model.safetensors"]
        assert clone.manifest("v1.0:model.safetensors").entries


def test_there_are_blocks_of_every_kind() -> None:
    assert {kind for kind, _ in BLOCKS} == {"raw", "migrated", "published"}
    assert GUIDE.count("```console") == len(BLOCKS)


def test_a_process_reads_its_slice(repo: Repo, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- run: reading -->\n```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    matrix = np.arange(600, dtype=np.float32).reshape(30, 20)
    repo.commit("model", model__safetensors=safetensors_file({"layers.0.mlp.weight": matrix}))
    repo.theta("export", "HEAD:model.safetensors", str(tmp_path / "out"))
    seen: dict[str, object] = {"EXPORT": f"file://{tmp_path}/out/", "number": 1, "count": 3}
    exec(block[1], seen)
    assert np.array_equal(seen["mine"], matrix[10:20])  # type: ignore[arg-type]
