"""What Keras writes (with torch as its backend): cut by tensor, and loaded by Keras after a round
trip.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gitrepo import Repo
from safetensors.numpy import load_file

from git_theta.core.digest import digest

pytestmark = pytest.mark.filterwarnings("ignore")  # of Keras and torch

keras: Any = None


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Keras takes seconds to import, which only the process that runs these tests should spend."""
    global keras
    os.environ.setdefault("KERAS_BACKEND", "torch")
    pytest.importorskip("torch")
    keras = pytest.importorskip("keras")


def network() -> Any:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(40), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((30,)), *layers])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 30), np.float32), np.ones((4, 3), np.float32), verbose=0)
    return model


def weights(model: Any) -> list[bytes]:
    return [value.tobytes() for value in model.get_weights()]


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5", "model.h5"])
def test_a_model(repo: Repo, name: str) -> None:
    model = network()
    write, load = (
        (model.save_weights, model.load_weights)
        if "weights" in name
        else (model.save, keras.models.load_model)
    )
    repo.write(".gitattributes", b"*.keras filter=theta -text\n*.h5 filter=theta -text\n")
    file = repo.path / name
    write(str(file))
    repo.git("add", ".")
    repo.git("commit", "-qm", "first")
    manifest, before = repo.manifest(f"HEAD:{name}"), repo.read(name)
    stored = {entry.digest for entry in manifest.entries}
    held = {str(entry.spec) for entry in manifest.entries if entry.dtype == "f32"}
    assert {"f32[30,40]", "f32[40]", "f32[40,3]", "f32[3]"} <= held
    assert {digest(value) for value in weights(model)} <= stored
    if name.endswith(".h5"):
        repo.theta("convert", f"HEAD:{name}", "../out.safetensors")
        assert {
            array.tobytes() for array in load_file(repo.path.parent / "out.safetensors").values()
        } >= set(weights(model))
    size = len(repo.object_ids())
    changed = [value.copy() for value in model.get_weights()]
    changed[0][0, 0] += 1
    wanted = weights(model)
    model.set_weights(changed)
    write(str(file))
    repo.git("commit", "-qam", "second")
    now = repo.manifest(f"HEAD:{name}")
    moved = [
        entry.name for entry in now.entries if entry.digest not in stored and entry.dtype == "f32"
    ]
    assert len(moved) == 1
    assert len(repo.object_ids()) <= size + 4  # the tensor, and what else Keras wrote anew
    repo.git("checkout", "-q", "HEAD~1")
    assert repo.read(name) == before
    assert repo.status() == ""
    loaded = model if "weights" in name else load(str(file), compile=False)
    if loaded is model:
        load(str(file))
    assert weights(loaded) == wanted


def test_sharded_weights(repo: Repo) -> None:
    model = network()
    repo.write(".gitattributes", b"*.h5 filter=theta -text\n")
    model.save_weights(str(repo.path / "big.weights.json"), max_shard_size=0.00001)
    parts = sorted(path.name for path in repo.path.glob("big*.weights.h5"))
    assert len(parts) > 1
    repo.git("add", ".")
    repo.git("commit", "-qm", "shards")
    before = {part: repo.read(part) for part in parts}
    assert all(repo.manifest(f"HEAD:{part}").format == "hdf5" for part in parts)
    for part in parts:
        Path(repo.path, part).unlink()
    repo.git("checkout", "-q", "--", ".")
    assert {part: repo.read(part) for part in parts} == before
    wanted = weights(model)
    model.set_weights([np.zeros_like(value) for value in model.get_weights()])
    model.load_weights(str(repo.path / "big.weights.json"))
    assert weights(model) == wanted
