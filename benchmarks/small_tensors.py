"""What many small tensors cost: ``small_tensors.py --folder FOLDER``.

Processor seconds of git and all that it starts, the least of several runs; objects; and what a
clone fetches after many commits, beside what it needs.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from measuring import run
from repositories import Repository, environment
from safetensors.numpy import save_file

from git_theta.core.manifest import parse

RUNS, SHARES, COMMITS = 3, (0.01, 0.05, 0.5, 1.0), 100


def tensors(count: int, seed: int = 0, side: int = 32) -> dict[str, np.ndarray]:
    """``count`` fp32 tensors of 4 * side² bytes."""
    random = np.random.default_rng(seed)
    return {
        f"experts.{number:06}.weight": random.standard_normal((side, side), dtype=np.float32)
        * np.float32(0.02)
        for number in range(count)
    }


def add_and_status(folder: Path, own: Mapping[str, str], count: int) -> tuple[float, float, int]:
    """Processor seconds of ``git add`` and of ``git status`` after a touch; objects stored."""
    added, asked, objects = [], [], 0
    for _ in range(RUNS):
        repository = Repository.new(folder / "many", "theta", own)
        file = repository.path / "model.safetensors"
        save_file(tensors(count), file)
        added.append(run(["git", "add", "-A"], repository.path, own).cpu)
        run(["git", "commit", "-qm", "first"], repository.path, own)
        file.touch()
        asked.append(run(["git", "status", "--short"], repository.path, own).cpu)
        objects = sum(1 for _ in repository.objects.glob("*/*/*"))
    return min(added), min(asked), objects


def small_models(folder: Path, own: Mapping[str, str]) -> float:
    """Processor seconds of adding a model of 1 MB with 16 tensors, beside git-lfs's: the median of
    ratios.
    """
    seconds: dict[str, list[float]] = {"theta": [], "lfs": []}
    repositories = {name: Repository.new(folder / name, name, own) for name in seconds}
    for number in range(24):
        save_file(tensors(16, number, side=128), folder / "model.safetensors")
        for name, repository in repositories.items():
            shutil.copy(folder / "model.safetensors", repository.path / f"{number}.safetensors")
            command = ["git", "add", f"{number}.safetensors"]
            seconds[name].append(run(command, repository.path, own).cpu)
    return statistics.median(
        ours / theirs for ours, theirs in zip(seconds["theta"], seconds["lfs"], strict=True)
    )


def fetched(folder: Path, own: Mapping[str, str], share: float) -> tuple[float, float]:
    """What a clone of HEAD fetches / what it needs, after commits that change a share of 400
    tensors each; and all that is stored / the first version.
    """
    random = np.random.default_rng(1)
    repository = Repository.new(folder / "share", "theta", own)
    model = tensors(400)
    first = 0
    for _ in range(COMMITS + 1):
        save_file(model, repository.path / "model.safetensors")
        run(["git", "add", "-A"], repository.path, own)
        run(["git", "commit", "-qm", "next"], repository.path, own)
        first = first or repository.stored()
        for name in random.choice(list(model), max(1, round(share * 400)), replace=False):
            step = random.standard_normal((32, 32), dtype=np.float32)
            model[name] = model[name] + step * np.float32(2e-5)
    manifest = parse(
        subprocess.check_output(
            ["git", "show", ":model.safetensors"], cwd=repository.path, env=dict(own)
        )
    )
    entries = (manifest.skeleton, *manifest.entries)
    needed = sum(place.length for place in {p for entry in entries for p in entry.ranges})
    return sum(manifest.objects().values()) / needed, repository.stored() / first


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    own = environment(folder)
    add, status, objects = add_and_status(folder, own, 20_000)
    more, _, _ = add_and_status(folder, own, 100_000)
    print(f"| `git add` of 20,000 tensors of 4 KiB | {add:.2f} s CPU | 4 |")
    print(f"| `git status` after a touch | {status:.2f} s CPU | 0.6 |")
    print(f"| 100,000 of them / 20,000 | {more / add:.2f} | 5.5 |")
    print(f"| objects of the 20,000 | {objects} | 30 |")
    print(f"| `git add` of 1 MB in 16 tensors / git-lfs | {small_models(folder, own):.2f} | 2.4 |")
    for share in SHARES:
        ratio, all_bytes = fetched(folder, own, share)
        print(
            f"| after {COMMITS} commits that change {share:.0%}: fetched / needed; stored / first |"
            f" {ratio:.2f}; {all_bytes:.1f} | 1.5 |"
        )


if __name__ == "__main__":
    main()
