"""``git theta convert``: what it writes is loaded by the frameworks themselves."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from gitrepo import Repo
from loading import READERS, by_numpy, same
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

DATA = Path(__file__).parents[1] / "data"
PLAIN: dict[str, np.ndarray] = {
    "block.0.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "block.0.bias": np.arange(4, dtype=np.float16),
    "steps": np.arange(3, dtype=np.int64),
}


@pytest.fixture
def repo(tmp_path: Path, environment: dict[str, str]) -> Repo:
    return Repo.create(tmp_path / "repo", environment)


@pytest.fixture
def bare(tmp_path: Path, environment: dict[str, str]) -> Repo:
    """A folder that is in no repository."""
    (tmp_path / "plain").mkdir()
    return Repo(tmp_path / "plain", environment)


@pytest.mark.parametrize("first", READERS)
def test_every_format_to_every_other(bare: Repo, first: str) -> None:
    save_file(PLAIN, bare.path / "start.safetensors")
    bare.theta(
        "convert",
        "start.safetensors",
        f"a.{first}",
        *(["--force"] if first == "safetensors" else []),
    )
    for second, load in READERS.items():
        target = f"b.{second}"
        bare.theta("convert", f"a.{first}", target)
        same(load(bare.path / target), PLAIN)


def test_a_revision_and_the_working_tree(repo: Repo) -> None:
    torch = pytest.importorskip("torch")
    for value in (1.0, 2.0):
        torch.save({"w": torch.full((40, 40), value)}, repo.path / "model.pt")
        repo.git("add", "model.pt")
        repo.git("commit", "-qm", str(value))
    torch.save({"w": torch.full((40, 40), 3.0)}, repo.path / "model.pt")
    for name, value in (("HEAD~1:model.pt", 1.0), ("HEAD:./model.pt", 2.0), ("model.pt", 3.0)):
        repo.theta("convert", name, "new.safetensors", "--force")
        assert (load_file(repo.path / "new.safetensors")["w"] == value).all()
    repo.git("checkout", "-q", "-f", "HEAD", "--", "model.pt", GIT_THETA_SKIP_SMUDGE="1")
    (repo.path / "model.pt").unlink()
    repo.git("checkout", "-q", "--", "model.pt", GIT_THETA_SKIP_SMUDGE="1")
    assert repo.read("model.pt").startswith(b"git-theta")
    repo.theta("convert", "model.pt", "new.safetensors", "--force")
    assert (load_file(repo.path / "new.safetensors")["w"] == 2.0).all()
    said = repo.theta_run("convert", "HEAD:none.pt", "x.safetensors").stderr.decode()
    assert "there is no 'none.pt' in HEAD" in said


def test_a_training_state(bare: Repo) -> None:
    torch = pytest.importorskip("torch")
    (bare.path / "training.pt").write_bytes((DATA / "torch" / "training.pt").read_bytes())
    said = bare.theta("convert", "training.pt", "out.safetensors", "--all").decode()
    for left in (
        "optimizer.param_groups.0.lr",
        "epoch",
        "rng.python.0",
        "model.head.weight = model.embed.weight",
    ):
        assert f"  {left}\n" in said
    model = torch.load(bare.path / "training.pt", weights_only=False)["model"]
    with safe_open(bare.path / "out.safetensors", "pt") as file:
        # As safetensors.torch.save_model has it
        assert file.metadata() == {"format": "pt", "model.head.weight": "model.embed.weight"}
        for name, tensor in model.items():
            if name != "head.weight":
                assert torch.equal(file.get_tensor(f"model.{name}"), tensor)


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
def test_ties_views_and_what_torch_alone_knows(bare: Repo) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(12.0).reshape(3, 4)
    half = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    state = {
        "a": base,
        "tied": base,
        "turned": base.t(),
        "part": base[:, 1:3],
        "half": half,
        "wide": base[0].expand(5, 4),
    }
    state |= {
        "scaled": torch.quantize_per_tensor(base, 0.5, 2, torch.quint8),
        "conj": torch.view_as_complex(torch.ones(6, 2)).conj(),
    }
    torch.save(state, bare.path / "old.bin", _use_new_zipfile_serialization=False)
    torch.save(state, bare.path / "new.bin")
    for name in ("old.bin", "new.bin"):
        said = bare.theta("convert", name, "out.safetensors", "--force").decode()
        assert all(
            word in said
            for word in ("tied = a", "wide (expanded", "scaled (quantized", "conj (conjugated")
        ), said
        found = load_file(bare.path / "out.safetensors")
        assert found["turned"].tolist() == base.t().tolist()
        assert found["part"].tolist() == base[:, 1:3].tolist()
        assert found["half"].view(np.uint16).tolist() == half.view(torch.uint16).tolist()
        assert set(found) == {"a", "turned", "part", "half"}
    bare.theta("convert", "old.bin", "again.pt")
    loaded = torch.load(bare.path / "again.pt", weights_only=True)
    assert loaded["a"].data_ptr() == loaded["tied"].data_ptr()
    assert torch.equal(loaded["half"], half)


def test_no_pickled_code_runs(bare: Repo) -> None:
    torch = pytest.importorskip("torch")

    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(bare.path / "harm"),)

    torch.save({"w": torch.ones(2), "bad": Bad()}, bare.path / "bad.pt")
    assert "  bad\n" in bare.theta("convert", "bad.pt", "good.safetensors").decode()
    assert not (bare.path / "harm").exists()
    assert list(load_file(bare.path / "good.safetensors")) == ["w"]


def test_what_does_not_fit_is_refused_or_dropped(bare: Repo) -> None:
    save_file(
        {"w": np.ones(3, np.float32), "b": np.ones(3, ml_dtypes.bfloat16)},
        bare.path / "a.safetensors",
    )
    refused = bare.theta_run("convert", "a.safetensors", "a.npz")
    assert refused.returncode
    assert (
        refused.stderr == b"git-theta: a npz file cannot hold b (bf16[3]); --drop leaves them out\n"
    )
    assert not (bare.path / "a.npz").exists()
    assert b"  b (bf16[3])\n" in bare.theta("convert", "a.safetensors", "a.npz", "--drop")
    same(by_numpy(bare.path / "a.npz"), {"w": np.ones(3, np.float32)})
    (bare.path / "a.onnx").write_bytes((DATA / "formats" / "small.onnx").read_bytes())
    (bare.path / "a.txt").write_bytes(b"junk")
    assert (
        b"no checkpoint of a known format"
        in bare.theta_run("convert", "a.txt", "h.safetensors").stderr
    )
    assert (
        b"onnx files cannot be converted"
        in bare.theta_run("convert", "a.onnx", "h.safetensors").stderr
    )


def test_nothing_is_replaced_unasked(bare: Repo) -> None:
    save_file(PLAIN, bare.path / "a.safetensors")
    (bare.path / "b.npz").write_bytes(b"mine")
    refused = bare.theta_run("convert", "a.safetensors", "b.npz")
    assert refused.stderr == b"git-theta: b.npz exists already; --force replaces it\n"
    assert bare.read("b.npz") == b"mine"
    bare.theta("convert", "a.safetensors", "b.npz", "--force")
    same(by_numpy(bare.path / "b.npz"), PLAIN)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((bare.path / "b.npz").stat().st_mode) == 0o666 & ~mask
    (bare.path / "folder.npz").mkdir()
    assert (
        b"is a folder" in bare.theta_run("convert", "a.safetensors", "folder.npz", "--force").stderr
    )
    assert b"does not say its format" in bare.theta_run("convert", "a.safetensors", "b.xyz").stderr
    assert b"cannot be written" in bare.theta_run("convert", "a.safetensors", "none/b.npz").stderr
    (bare.path / "cut.pt").write_bytes((DATA / "torch" / "training.pt").read_bytes()[:3000])
    assert b"broken" in bare.theta_run("convert", "cut.pt", "c.npz").stderr
    assert sorted(path.name for path in bare.path.iterdir()) == [
        "a.safetensors",
        "b.npz",
        "cut.pt",
        "folder.npz",
    ]
