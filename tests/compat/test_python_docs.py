"""The guides to Python, plugins and clusters: every block of code is run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import textwrap
from pathlib import Path

import documented
import numpy as np
import pytest
from documented import World
from gitrepo import ROOT, Repo
from small_models import safetensors_file

import git_theta
from git_theta.core.contracts import Encoded, MergeStrategy, Update
from git_theta.core.tensors import Tensor
from git_theta.plugins import registry

FENCE = re.compile(r"^( *)(?:<!-- (.*?) -->\n\1)?```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def python_of(name: str, label: str) -> str:
    """The block of Python that follows a comment."""
    found = re.search(
        rf"<!-- {label} -->\n```python\n(.*?)```",
        (ROOT / "docs" / name).read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert found is not None
    return found[1]


def blocks(name: str) -> list[tuple[str, str]]:
    """Every block of Python in a document, with what the comment before it says."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    found = [
        (match[2] or "", textwrap.dedent(match[4]))
        for match in FENCE.finditer(text)
        if match[3] == "python"
    ]
    assert len(found) == text.count("```python")
    assert all(comment.startswith("runs") for comment, _ in found), (
        "a block of Python that no test runs"
    )
    return found


def test_the_guide_to_python_can_be_pasted(repo: Repo) -> None:
    """In a repository that is made by the lines of the page, nothing else being defined."""
    pytest.importorskip("torch")
    environment = {key: value for key, value in repo.environment.items() if key != "PYTHONWARNINGS"}
    world = World(repo.path.parent, {**environment, "HF_HUB_OFFLINE": "1"}, repo.path)
    (setting_up,) = (
        block for block in documented.blocks("docs/python.md") if block.language == "console"
    )
    for command in setting_up.commands:
        done = world.shell(
            command.replace("git theta", f"{shlex.quote(sys.executable)} -m git_theta")
        )
        assert done.returncode == 0, done.stderr
    pasted = []
    for comment, code in blocks("python.md"):
        needed = comment.removeprefix("runs").removeprefix(" with ")
        if not needed or importlib.util.find_spec(needed) is not None:
            pasted.append(code)
    world.python(pasted)
    made = world.repo
    assert made.git("log", "-1", "--format=%s").strip() == b"Bring the experiment in"
    assert made.git("rev-parse", "best/runs/mine") == made.git("rev-parse", "runs/mine")
    assert git_theta.log("model.safetensors", repo=made.path)[0].metrics == {"accuracy": 0.93}
    assert made.git("ls-tree", "-r", "--name-only", "experiment").split()[-2:] == [
        b"tuned/config.json",
        b"tuned/model.safetensors",
    ]
    made.assert_clean()


def test_the_guide_to_clusters_reads_a_slice(repo: Repo, tmp_path: Path) -> None:
    matrix = np.arange(600, dtype=np.float32).reshape(30, 20)
    repo.commit("model", model__safetensors=safetensors_file({"layers.0.mlp.weight": matrix}))
    repo.theta("export", "HEAD:model.safetensors", str(tmp_path / "out"))
    seen: dict[str, object] = {"EXPORT": f"file://{tmp_path}/out/", "number": 1, "count": 3}
    exec(python_of("clusters.md", "run: reading"), seen)
    assert np.array_equal(seen["mine"], matrix[10:20])  # type: ignore[arg-type]


def test_the_guide_to_plugins_runs() -> None:
    from git_theta.checkpoints.safetensors import SafetensorsFormat
    from git_theta.updates.sparse import Sparse

    class MyUpdate(Sparse):
        name = "mine"

    array = np.arange(5000.0)
    tensor, base = Tensor.from_array(np.where(array == 7, 8, array)), Tensor.from_array(array)
    values: dict[str, object] = {
        "MyUpdate": MyUpdate,
        "MyFormat": SafetensorsFormat,
        "MyStrategy": lambda: registry.merge_strategy("average"),
        "SOUND": safetensors_file({"a": array}),
        "TENSORS": {"a": base},
        "tensor": tensor,
        "base": base,
    }
    hooks, codebook, suites = (code for _, code in blocks("plugins.md"))
    exec(compile(hooks, "docs/plugins.md", "exec"), values)
    (update,) = values["register_updates"]()  # type: ignore[operator]
    assert isinstance(update, Update)
    assert isinstance(update.encode(tensor, base, "default"), Encoded)
    for block in (codebook, suites):
        exec(compile(block, "docs/plugins.md", "exec"), values)
    values["test_contracts"]()  # type: ignore[operator]
    assert isinstance(registry.merge_strategy("average"), MergeStrategy)


def test_the_guide_to_plugins_names_every_hook_and_contract() -> None:
    from git_theta import testing
    from git_theta.plugins import hookspecs

    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    for name in [name for name in vars(hookspecs) if name.startswith("register_")] + [
        n for n in testing.__all__ if n.startswith("check_")
    ]:
        assert f"`{name}`" in text
    for kind in registry._KINDS:
        for attribute in kind.attributes:
            assert f"`{attribute}" in text or kind.title == "command", attribute


def test_the_guide_to_python_names_every_public_name() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    from git_theta import training

    for name in {*git_theta.__all__, *training.__all__} - {"__version__", "Checkpoint"}:
        assert re.search(rf"\b{name}\b", text), name
