"""Training with the real Trainer and the real Lightning: every save is a commit, the best is
tagged, and nothing disturbs training.
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gitrepo import PATIENCE, ROOT, Repo
from small_models import safetensors_file

import git_theta
from git_theta.training import BackgroundSaver

EXAMPLES = ROOT / "examples" / "training"


@pytest.fixture(autouse=True)
def inside(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own environment is that of the repositories."""
    for key, value in repo.environment.items():
        if key != "PYTHONWARNINGS":
            monkeypatch.setenv(key, value)


def branch(repo: Repo, name: str) -> list[str]:
    return repo.git("rev-list", "--reverse", f"main..{name}").decode().split()


# The saver


def test_a_saver_commits_copies_in_order(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = np.zeros(500, np.float32)
    monkeypatch.chdir(repo.path)
    with BackgroundSaver("runs/a", best_tag="best") as saver:
        monkeypatch.chdir(tmp_path)  # the saver stays where it was made
        for step in range(4):
            weight += 1
            saver.save(
                {"w": weight},
                "m.safetensors",
                message=f"Step {step}",
                metrics={"step": step},
                best=step == 2,
            )
    assert saver.errors == []
    assert saver.commits == branch(repo, "runs/a")
    for step, commit in enumerate(saver.commits):
        assert (git_theta.load(commit, "m.safetensors", repo=repo.path)["w"] == step + 1).all()
    assert repo.git("rev-parse", "best").decode().strip() == saver.commits[2]
    assert [step.metrics for step in git_theta.log("m.safetensors", "runs/a", repo=repo.path)] == [
        {"step": n} for n in (3, 2, 1, 0)
    ]
    repo.assert_clean()


def test_a_saver_never_raises_and_reports(
    repo: Repo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.ERROR, "git_theta.training"),
        BackgroundSaver("runs/b", repo=repo.path) as saver,
    ):
        saver.save({"w": "text"}, "m.safetensors", message="no tensor")
        saver.save({"w": np.ones(9)}, "m.h6", message="not tracked")
        saver.save_files({"m.safetensors": tmp_path / "nowhere"}, message="no file")
        saver.save_files({"m.pt": tmp_path, "config.json": tmp_path / "no"}, message="a folder")
        saver.save({"w": np.ones(99)}, "m.safetensors", message="good", metrics={"loss": "low"})  # type: ignore[dict-item]
        saver.save({"w": np.ones(98)}, "m.safetensors", message="good", metrics={"loss": 1})
    assert [error.partition(":")[0] for error in sorted(saver.errors)] == [
        "'a folder'",
        "'good'",
        "'no file'",
        "'no tensor'",
        "'not tracked'",
    ]
    assert saver.commits == branch(repo, "runs/b")
    assert len(saver.commits) == 2
    (record,) = caplog.records
    assert "5 models could not be committed to runs/b: " in record.message
    assert "git theta track m.h6" in record.message
    with BackgroundSaver("runs/c", repo=tmp_path) as nowhere:
        nowhere.save({}, "x", message="")  # no repository at all
    assert len(nowhere.errors) == 1
    repo.assert_clean()


def test_files_may_be_deleted_but_not_changed(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from git_theta.api import saving

    go, real = threading.Event(), saving.save_files

    def later(*arguments: Any, **options: Any) -> str:
        assert go.wait(PATIENCE)
        return real(*arguments, **options)

    monkeypatch.setattr(saving, "save_files", later)
    content = safetensors_file({"w": np.arange(3000)})
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1, 1))
    with BackgroundSaver("runs/d", repo=repo.path) as saver:
        saver.save_files(
            {"m.safetensors": tmp_path / "one", "config.json": tmp_path / "one"}, message="deleted"
        )
        saver.save_files({"m.safetensors": tmp_path / "two"}, message="written again")
        (tmp_path / "one").unlink()
        (tmp_path / "two").write_bytes(safetensors_file({"w": np.arange(3000)[::-1]}))
        go.set()
    assert len(saver.commits) == 1
    assert (git_theta.load("runs/d", "m.safetensors", repo=repo.path)["w"] == np.arange(3000)).all()
    assert repo.blob("runs/d:config.json") == content
    (error,) = saver.errors
    assert "was written while it was read" in error


def test_a_saver_can_be_sent_to_another_process(repo: Repo) -> None:
    with BackgroundSaver("runs/e", repo=repo.path) as saver:
        saver.save({"w": np.ones(99)}, "m.safetensors", message="here")
        other = pickle.loads(pickle.dumps(saver))
    with other:
        other.save({"w": np.zeros(99)}, "m.safetensors", message="there")
    assert other.errors == []
    assert repo.git("log", "--format=%s", "main..runs/e").split() == [b"there", b"here"]


def test_whatever_is_saved_nothing_is_raised(repo: Repo, tmp_path: Path) -> None:
    with BackgroundSaver("runs/f", repo=repo.path) as saver:
        saver.save({"w": np.ones(9)}, "m.safetensors", message="metrics", metrics=[("loss",)])  # type: ignore[arg-type]
        saver.save_files({}, message="nothing")
        saver.save_files({"m.safetensors": None}, message="none")  # type: ignore[dict-item]
    assert [error.partition(":")[0] for error in saver.errors] == [
        "'metrics'",
        "'nothing'",
        "'none'",
    ]
    assert saver.commits == []


def test_copies_are_what_was_given() -> None:
    torch = pytest.importorskip("torch")
    from git_theta.training.background import copied

    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(network.parameters())
    state = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "size": torch.Size([2, 3]),
    }
    state["model"]["tied"] = state["model"]["0.weight"]
    copy = copied(state)
    assert (
        copy["model"]["tied"].data_ptr()
        == copy["model"]["0.weight"].data_ptr()
        != state["model"]["tied"].data_ptr()
    )
    assert copy["model"]["0.bias"].data_ptr() != copy["model"]["1.bias"].data_ptr()
    assert type(copy["model"]) is type(state["model"])
    assert copy["model"]._metadata == state["model"]._metadata
    assert copy["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert copy["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    with torch.no_grad():
        network[0].weight += 1
    assert not torch.equal(copy["model"]["0.weight"], state["model"]["0.weight"])


AT_THE_END = """
import sys
import numpy as np
from git_theta.training import BackgroundSaver
saver = BackgroundSaver("runs/end", repo=sys.argv[1])
for number in range(3):
    layers = {f"layer{n}": np.full(1 << 20, number + n, np.float32) for n in range(6)}
    saver.save(layers, "m.safetensors", message=f"Step {number}")
saver.save({"a": np.ones(3)}, "m.h6", message="not tracked")
"""


def test_a_program_that_just_ends_loses_nothing(repo: Repo) -> None:
    done = repo.run([sys.executable, "-c", AT_THE_END, str(repo.path)])
    assert done.returncode == 0, done.stderr
    assert b"1 models could not be committed to runs/end: 'not tracked'" in done.stderr
    assert repo.git("log", "--format=%s", "main..runs/end").decode().splitlines() == [
        "Step 2",
        "Step 1",
        "Step 0",
    ]
    found = git_theta.load("runs/end", "m.safetensors", repo=repo.path)
    assert [value[0] for value in found.values()] == [2, 3, 4, 5, 6, 7]


def test_the_branch_of_a_run() -> None:
    from git_theta.training.background import default_branch

    assert default_branch("/a/out/my run.1") == "runs/my-run-1"
    assert default_branch("/a/lightning_logs/version_3/checkpoints") == "runs/version_3"
    assert default_branch("/") == "runs/run"


def test_the_trainers_callback_on_every_rank_and_without_a_checkpoint(
    repo: Repo, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from git_theta.training import ThetaCallback

    folder = tmp_path / "out" / "checkpoint-3"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors_file({"w": np.arange(300)}))
    arguments = SimpleNamespace(output_dir=str(tmp_path / "out"))
    callback = ThetaCallback(repo=repo.path)
    callback.on_train_begin(arguments, None, None)
    # Another process; the first; a checkpoint that is not there
    for step, first in ((3, False), (3, True), (4, True)):
        logs = [{"step": step, "loss": 0.5, "note": "text"}]
        state = SimpleNamespace(
            is_world_process_zero=first,
            global_step=step,
            log_history=logs,
            best_model_checkpoint=str(folder),
        )
        callback.on_save(arguments, state, None)
    callback.on_train_end(arguments, None, None)
    assert callback.saver.commits == branch(repo, "runs/out")
    (error,) = callback.saver.errors
    assert error.startswith("'Step 4': ")
    (saved,) = git_theta.log("model/model.safetensors", "runs/out", repo=repo.path)
    assert saved.metrics == {"step": 3, "loss": 0.5}
    assert repo.git("rev-parse", "best/runs/out").decode().strip() == callback.saver.commits[0]


def test_lightnings_callback_on_every_rank_and_when_metrics_fail(
    repo: Repo, tmp_path: Path
) -> None:
    pytest.importorskip("pytorch_lightning")
    from git_theta.training import ThetaCheckpoint

    class Trainer(SimpleNamespace):
        def save_checkpoint(self, path: str, weights_only: bool | None = None) -> None:
            Path(path).write_bytes(safetensors_file({"w": np.arange(300)}))

    checkpoint = ThetaCheckpoint(
        dirpath=tmp_path / "sine", path="m.safetensors", repo=repo.path, branch="runs/sine"
    )
    for step, first, metrics in ((1, False, {}), (2, True, {"loss": 1}), (3, True, None)):
        path = str(tmp_path / f"{step}.ckpt")
        trainer = Trainer(
            is_global_zero=first,
            global_step=step,
            current_epoch=0,
            callback_metrics=metrics,
            loggers=[],
        )
        checkpoint._save_checkpoint(trainer, path)
        assert Path(path).exists()
    checkpoint.saver.finish()
    assert checkpoint.saver.commits == branch(repo, "runs/sine")
    assert len(checkpoint.saver.commits) == 1
    (error,) = checkpoint.saver.errors
    assert error.startswith("'Step 3': ")


def test_only_what_is_named_is_imported() -> None:
    code = (
        "import sys, git_theta.training; assert not {'torch', 'transformers', 'pytorch_lightning',"
        " 'numpy'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    with pytest.raises(AttributeError):
        _ = git_theta.training.nothing_such


# The examples, which are what the frameworks are tried with


def run(name: str, folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, folder],
        env={**environment, "PYTHONWARNINGS": "default", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "could not be committed" not in done.stderr
    return done.stdout


def test_a_plain_loop(tmp_path: Path, environment: Mapping[str, str]) -> None:
    pytest.importorskip("torch")
    said = run("plain.py", tmp_path / "run", environment)
    repo = Repo(tmp_path / "run", environment)
    steps = git_theta.log("sine.safetensors", "runs/sine", repo=repo.path)
    assert [step.metrics["epoch"] for step in steps] == [4, 3, 2, 1, 0]
    best = min(steps, key=lambda step: step.metrics["loss"])
    assert repo.git("rev-parse", "best/runs/sine").decode().strip() == best.commit.oid
    assert "epoch 4, loss " in said
    assert "The best one's loss is 0.0" in said
    repo.assert_clean()


def test_the_trainer(tmp_path: Path, environment: Mapping[str, str]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from safetensors.numpy import load_file

    said = run("trainer.py", tmp_path / "run", environment)
    assert "3 commits, 0 errors" in said
    repo = Repo(tmp_path / "run", environment)
    path = "counting/model.safetensors"
    steps = git_theta.log(path, "runs/counting", repo=repo.path)
    assert [(step.commit.subject, step.metrics["epoch"]) for step in steps] == [
        ("Step 12", 3),
        ("Step 8", 2),
        ("Step 4", 1),
    ]
    best = min(steps, key=lambda step: step.metrics["eval_loss"])
    assert repo.git("rev-parse", "best/runs/counting").decode().strip() == best.commit.oid
    assert b'"n_embd": 32' in repo.blob("runs/counting:counting/config.json")
    # Rotation left the last checkpoint, which is what was committed last; the earlier ones are in
    # git only.
    (kept,) = (tmp_path / "run" / "out" / "counting").glob("checkpoint-*/model.safetensors")
    wanted, found = load_file(kept), git_theta.load("runs/counting", path, repo=repo.path)
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    assert repo.status() == "?? out/\n"


def test_lightning(tmp_path: Path, environment: Mapping[str, str]) -> None:
    pytest.importorskip("pytorch_lightning")
    said = run("lightning_run.py", tmp_path / "run", environment)
    assert "3 commits, 0 errors" in said
    repo = Repo(tmp_path / "run", environment)
    steps = git_theta.log("sine.ckpt", "runs/sine", repo=repo.path)
    assert [step.metrics["epoch"] for step in steps] == [2, 1, 0]
    best = min(steps, key=lambda step: step.metrics["val_loss"])
    assert repo.git("rev-parse", "best/runs/sine").decode().strip() == best.commit.oid
    (kept,) = (tmp_path / "run" / "out" / "sine").glob("*.ckpt")  # one is kept: the best
    repo.git("checkout", "-q", "best/runs/sine", "--", "sine.ckpt")
    assert repo.read("sine.ckpt") == kept.read_bytes()
