"""Several processes multiply by one matrix of a versioned model, each with the rows that it reads
itself.

    python examples/cluster/cluster.py [--processes 4]

It makes a repository with a small model in a temporary folder, exports it, and starts the
processes. On a cluster the export lies in a bucket (s3://..., gs://...) or on a shared disk, and
``part`` is what each worker does, with its rank in place of ``number``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tensorstore

NAME = "layers.0.mlp.weight"


def open_tensor(export: str, name: str) -> tensorstore.TensorStore:
    """The array of one tensor. Nothing but its metadata is read yet."""
    root = tensorstore.KvStore.open(export).result()
    listed = json.loads(root.read("zarr.json").result().value)["attributes"]["git_theta"]["tensors"]
    path = next(row["path"] for row in listed if row["name"] == name)
    return tensorstore.open(
        {
            "driver": "zarr3",
            "kvstore": root.spec().to_json() | {"path": root.spec().path + path + "/"},
        }
    ).result()


def part(export: str, number: int, count: int, x: np.ndarray) -> tuple[str, np.ndarray]:
    """What process ``number`` of ``count`` does: read its rows, and nothing else, and multiply."""
    weight = open_tensor(export, NAME)
    rows = weight.shape[0]
    start, stop = rows * number // count, rows * (number + 1) // count
    mine = weight[start:stop].read().result()
    return (
        (
            f"process {number}: rows {start} to {stop}, {mine.nbytes:,} of"
            f" {weight.size * weight.dtype.numpy_dtype.itemsize:,} bytes"
        ),
        mine @ x,
    )


def make_export(folder: Path) -> np.ndarray:
    """Commit a model and export that commit; the matrix, to compare."""
    import safetensors.numpy

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=A", "-c", "user.email=a@example.com", *arguments],
            cwd=folder,
            check=True,
        )

    def theta(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "git_theta", *arguments], cwd=folder, check=True)

    matrix = np.random.default_rng(0).standard_normal((3000, 1000)).astype(np.float32)
    git("init", "-q", ".")
    theta("install", "--local")
    (folder / ".gitattributes").write_text(
        "*.safetensors filter=theta diff=theta merge=theta -text\n"
    )
    safetensors.numpy.save_file(
        {NAME: matrix, "layers.0.mlp.bias": matrix[0]}, folder / "model.safetensors"
    )
    git("add", ".")
    git("commit", "-qm", "A model")
    theta("export", "HEAD:model.safetensors", "exported")
    return matrix


def main() -> int:
    """Run it all; 0 if the parts together are the whole."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, default=4)
    count = parser.parse_args().processes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        matrix = make_export(folder)
        x = np.ones(matrix.shape[1], np.float32)
        export = (folder / "exported").as_uri() + "/"
        with ProcessPoolExecutor(count, get_context("spawn")) as pool:
            parts = [
                future.result()
                for future in [
                    pool.submit(part, export, number, count, x) for number in range(count)
                ]
            ]
    for line, _ in parts:
        print(line)
    same = np.allclose(
        np.concatenate([values for _, values in parts]), matrix @ x, rtol=1e-4, atol=1e-3
    )
    print("together: the same as in one process" if same else "together: something else")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
