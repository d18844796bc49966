"""How fast files of each format are added, against safetensors': ``python benchmarks/formats.py
[MiB [RUNS]]`` (500 and 5).

The same tensors are written by each format's own writer and cleaned (cut, hashed, encoded, stored)
into an empty store, in turn with safetensors. The last column is the format's processor time by
safetensors'.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Side, Timing, in_turn, median
from safetensors.numpy import save_file

from git_theta.core.source import FileSource
from git_theta.git.repository import Repository
from git_theta.settings import Settings
from git_theta.workflows.session import Session
from git_theta.workflows.storing.clean import clean

EACH = 16 << 20  # bytes of a tensor


def tensors(mebibytes: int) -> dict[str, np.ndarray]:
    """Normal weights, float32 and float16 by turns."""
    random = np.random.default_rng(0)
    found = {}
    for number in range(max(1, (mebibytes << 20) // EACH)):
        kind = (np.float32, np.float16)[number % 2]
        values = random.standard_normal(EACH // np.dtype(kind).itemsize, np.float32) * 0.02
        found[f"layer.{number}.weight"] = values.astype(kind).reshape(-1, 1024)
    return found


def to_gguf(values: dict[str, np.ndarray], path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for name, array in values.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def to_hdf5(values: dict[str, np.ndarray], path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in values.items():
            file.create_dataset(name.replace(".", "/"), data=array)


def to_torch(values: dict[str, np.ndarray], path: Path) -> None:
    import torch

    torch.save({name: torch.from_numpy(array) for name, array in values.items()}, path)


WRITERS: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "model.gguf": to_gguf,
    "model.npz": lambda values, path: np.savez(path, **values),
    "model.h5": to_hdf5,
    "model.pt": to_torch,
}


def adding(folder: Path, name: str) -> Side:
    """Cleaning the file ``name`` into a store that is empty each time."""
    git = folder / f"{name}.git"

    def fresh() -> None:
        shutil.rmtree(git, ignore_errors=True)
        subprocess.run(["git", "init", "-q", "--bare", git], check=True)

    def add() -> Timing:
        wall, cpu = time.perf_counter(), time.process_time()
        with (
            Session(Repository(git, git, None, 40), Settings(), print) as session,
            FileSource(folder / name) as source,
        ):
            clean(session, name, source, [])
            session.store.flush()
        return Timing(time.perf_counter() - wall, time.process_time() - cpu)

    return Side(fresh, add)


def main(mebibytes: int = 500, runs: int = 5) -> None:
    """Print a line for each format."""
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        values = tensors(mebibytes)
        save_file(values, folder / "model.safetensors")
        print(
            f"{'':18}{'wall':>8}{'cpu':>8}   safetensors: {'wall':>8}{'cpu':>8}  "
            f" {'wall':>6}{'cpu':>6}"
        )
        for file, write in WRITERS.items():
            write(values, folder / file)
            found = in_turn(
                runs, own=adding(folder, file), other=adding(folder, "model.safetensors")
            )
            own, other = median(found["own"]), median(found["other"])
            ratios = f"{own.wall / other.wall:6.2f}{own.cpu / other.cpu:6.2f}"
            print(
                f"{file:18}{own.wall:8.2f}{own.cpu:8.2f}   {'':13}{other.wall:8.2f}{other.cpu:8.2f}"
                f"   {ratios}",
                flush=True,
            )
            (folder / file).unlink()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
