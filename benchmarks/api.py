"""What the Python API costs: importing it, loading a tensor and a model, saving one.

``api.py [--folder FOLDER]``.

Needs 6 GiB of disk and 4 of memory. Each measurement runs in a process of its own; times are
medians of a few runs in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import checkpoints
from measuring import run
from repositories import environment
from results import Row, at_once

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
MODEL = "model.safetensors"

# Programs that print seconds. What they import first is not what is measured, except by IMPORT.
IMPORT = """
import time
start = time.perf_counter()
import git_theta
print(time.perf_counter() - start)
import sys
assert "numpy" not in sys.modules
"""
CLOCK = """
import sys, time
import numpy, ml_dtypes, git_theta
def timed(action):
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result
"""
ONE = (
    CLOCK
    + """
from git_theta import load
seconds, found = timed(lambda: load("HEAD", "model.safetensors", sys.argv[1], repo=sys.argv[2]))
assert [array.nbytes for array in found.values()] == [4 << 20]
print(seconds)
"""
)
WHOLE = (
    CLOCK
    + """
seconds, found = timed(lambda: git_theta.load("HEAD", "model.safetensors", repo=sys.argv[2]))
print(seconds)
"""
)
# The raw file into memory by safetensors itself; then every object decoded as for a checkout, in as
# many threads, and dropped.
BASELINE = (
    CLOCK
    + """
import safetensors.numpy
seconds, raw = timed(lambda: safetensors.numpy.load_file(sys.argv[1]))
del raw
from git_theta.api import sessions
from git_theta.workflows import smudge
from git_theta.workflows.restoring.reader import manifest_at
with sessions.session(sys.argv[2]) as session:
    manifest = manifest_at(session, "HEAD", "model.safetensors")
    def decode():
        for piece in smudge.stream(session.store, manifest, session.pool(), session.threads):
            pass
    more, _ = timed(decode)
print(seconds + more)
"""
)
STATE = (
    CLOCK
    + """
import torch, safetensors.torch
state = safetensors.torch.load_file(sys.argv[1])
state = {name: tensor.clone() for name, tensor in state.items()}
"""
)
SAVE = (
    STATE
    + """
seconds, _ = timed(lambda: git_theta.save(state, "model.pt", branch="saved", repo=sys.argv[2]))
print(seconds)
"""
)
ADD = (
    STATE
    + """
import subprocess
def save():
    torch.save(state, sys.argv[2] + "/model.pt")
    subprocess.run(["git", "add", "model.pt"], cwd=sys.argv[2], check=True)
print(timed(save)[0])
"""
)


def measured(folder: Path, mebibytes: int, runs: int) -> list[Row]:
    """(what, value, unit, bound) of each measurement."""
    where = {**environment(folder), "PYTHONPATH": str(ROOT)}
    repository, model = folder / "repository", folder / MODEL
    other = folder / "other.safetensors"
    checkpoints.write(model, "bf16", mebibytes // 4, 4 * MIB)
    checkpoints.write(other, "bf16", mebibytes // 4, 4 * MIB, seed=1)
    repository.mkdir()
    run(["git", "init", "-q", "-b", "main", "."], repository, where)
    (repository / ".gitattributes").write_text(
        "*.safetensors filter=theta -text\n*.pt filter=theta -text\n"
    )
    os.link(model, repository / MODEL)
    run(["git", "add", "."], repository, where)
    run(["git", "commit", "-q", "-m", "model"], repository, where)
    name = json.dumps(f"model.layers.{mebibytes // 64}.block.3.weight")[1:-1]
    programs = {
        "import": (IMPORT, []),
        "one": (ONE, [name, str(repository)]),
        "whole": (WHOLE, [str(model), str(repository)]),
        "baseline": (BASELINE, [str(model), str(repository)]),
        "save": (SAVE, [str(other), str(repository)]),
        "add": (ADD, [str(other), str(repository)]),
    }
    known = objects(repository)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(runs + 1):  # a first round warms up and is dropped
        for key, (program, words) in programs.items():
            os.sync()
            seconds = float(python(program, words, repository, where))
            if number:
                times[key].append(seconds)
            forget(repository, known, where)
    took = {key: statistics.median(values) for key, values in times.items()}
    size = f"{mebibytes / 1024:g} GiB"
    loaded = (
        f"whole model / safetensors' load of the raw file and decoding ({took['baseline']:.2f} s)"
    )
    saved = (
        f"`save` of a {size} state dict as .pt / `torch.save` and `git add` ({took['add']:.2f} s)"
    )
    return [
        ("`import git_theta`", 1000 * took["import"], "ms", 60),
        (
            f"`load` of one tensor of 4 MiB from {size}, after `from git_theta import load`",
            1000 * took["one"],
            "ms",
            50,
        ),
        (loaded, took["whole"] / took["baseline"], "", 1.2),
        (saved, took["save"] / took["add"], "", 0.8),
    ]


def python(program: str, words: list[str], folder: Path, where: Mapping[str, str]) -> str:
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        env=where,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def objects(repository: Path) -> set[Path]:
    """The objects in the store."""
    return set((repository / ".git" / "theta" / "objects").glob("*/*/*"))


def forget(repository: Path, known: set[Path], where: Mapping[str, str]) -> None:
    """Undo a save: nothing of it may help the next."""
    for path in objects(repository) - known:
        path.chmod(0o644)
        path.unlink()
    shutil.rmtree(repository / ".git" / "theta" / "cache", ignore_errors=True)
    run(["git", "update-ref", "-d", "refs/heads/saved"], repository, where)
    run(["git", "rm", "-q", "-f", "--ignore-unmatch", "model.pt"], repository, where)


if __name__ == "__main__":
    sys.exit(at_once(__doc__, measured))
