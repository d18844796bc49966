"""Checkpoints that are folders of files with odd names: Orbax's (OCDBT, written by TensorStore as
Orbax does), file by file.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gitrepo import Repo

ts: Any = pytest.importorskip("tensorstore")


def spec(folder: Path, name: str) -> dict[str, object]:
    return {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": f"file://{folder}/", "path": f"{name}/"},
    }


def write(folder: Path, values: dict[str, np.ndarray]) -> None:
    for name, array in values.items():
        ts.open(
            spec(folder, name),
            create=True,
            delete_existing=True,
            dtype=array.dtype,
            shape=array.shape,
        ).result().write(array).result()


def read(folder: Path, name: str) -> np.ndarray:
    found: np.ndarray = ts.open(spec(folder, name), open=True).result().read().result()
    return found


def test_an_orbax_folder(repo: Repo) -> None:
    repo.write(".gitattributes", b"ckpt/** filter=theta -text\n")
    random = np.random.default_rng(0)
    first = {
        name: random.standard_normal((200, 300), dtype=np.float32)
        for name in ("params.a", "params.b")
    }
    write(repo.path / "ckpt", first)
    repo.git("add", ".")
    repo.git("commit", "-qm", "first")
    assert repo.status() == ""
    second = {"params.a": first["params.a"] + 1}
    write(repo.path / "ckpt", second)
    repo.git("add", "-A")
    repo.git("commit", "-qm", "second")
    for revision, values in (("HEAD~1", first), ("HEAD", first | second)):
        shutil.rmtree(repo.path / "ckpt")
        repo.git("restore", "--source", revision, "--worktree", "--", "ckpt")
        for name, array in values.items():
            assert np.array_equal(read(repo.path / "ckpt", name), array), (revision, name)
    repo.assert_clean()
