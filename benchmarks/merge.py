"""What merging costs: one-sided changes, planning many tensors, averaging two large models.

``merge.py [--folder FOLDER]``.

Needs 8 GiB of disk. Times are medians of a few runs in turn; merges are made by ``git merge-tree``,
so no file is checked out.
"""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from measuring import Side, Timing, in_turn, median, run
from results import Row, at_once

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
TENSORS = 32
MODEL = "model.safetensors"


def measured(folder: Path, mebibytes: int, runs: int) -> list[Row]:
    """(what, value, unit, bound) of each measurement."""
    repository, environment = prepared(folder, mebibytes)
    objects = repository / ".git" / "theta" / "objects"
    hidden = objects.with_name("hidden")

    def merge_tree(branch: str) -> Timing:
        return run(["git", "merge-tree", "--write-tree", "main", branch], repository, environment)

    objects.rename(hidden)  # no object can be read
    one_sided = median(
        in_turn(runs, merge=Side(lambda: None, lambda: merge_tree("one-side")))["merge"]
    ).wall
    hidden.rename(objects)

    known = {path.name for path in objects.glob("*/*/*")}

    def forget() -> None:
        for path in objects.glob("*/*/*"):
            if path.name not in known:
                path.unlink()

    def theta() -> Timing:
        return run(
            [
                "git",
                "-c",
                "theta.merge.strategy=average",
                "merge-tree",
                "--write-tree",
                "ours",
                "all",
            ],
            repository,
            environment,
        )

    def plain() -> Timing:
        files = [folder / "ours", folder / "theirs", folder / "averaged"]
        return run([sys.executable, "-c", NUMPY, *map(str, files)], folder, environment)

    timings = in_turn(
        runs,
        theta=Side(forget, theta),
        numpy=Side(lambda: (folder / "averaged").unlink(missing_ok=True), plain),
    )
    peaks = [int(line) for line in (folder / "peaks").read_text().split()]
    ratio = median(timings["theta"]).wall / median(timings["numpy"]).wall
    size = f"{mebibytes / 1024:g} GiB"
    return [
        (f"merge of one-sided changes, {size} bf16, its objects out of reach", one_sided, "s", 0.5),
        ("plan of 20,000 tensors (processor time)", plan_seconds(runs), "s", 1.0),
        (f"average of two {size} bf16 models, peak memory", max(peaks) / MIB, "MiB", 1024),
        (
            (
                "the same, time / reading, averaging and writing with numpy"
                f" ({median(timings['numpy']).wall:.1f} s)"
            ),
            ratio,
            "",
            2.0,
        ),
    ]


NUMPY = """
import sys, ml_dtypes, numpy as np
one, other = (np.fromfile(name, ml_dtypes.bfloat16) for name in sys.argv[1:3])
mean = (one.astype(np.float32) + other.astype(np.float32)) / 2
mean.astype(ml_dtypes.bfloat16).tofile(sys.argv[3])
"""


def prepared(folder: Path, mebibytes: int) -> tuple[Path, Mapping[str, str]]:
    """A repository: ``main`` and ``one-side`` changed a tensor each, ``ours`` and ``all`` every
    tensor.
    """
    repository = folder / "repository"
    repository.mkdir()
    python = shlex.quote(sys.executable)
    config = folder / "gitconfig"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONPATH": str(ROOT),
    }
    peak = shlex.join([sys.executable, str(ROOT / "benchmarks" / "peak.py"), str(folder / "peaks")])

    def git(*words: str) -> None:
        run(["git", *words], repository, environment)

    git("init", "-q", "-b", "main", ".")
    for key, value in (
        ("user.name", "Bench"),
        ("user.email", "bench@example.com"),
        ("filter.theta.process", f"{python} -m git_theta filter-process"),
        ("filter.theta.required", "true"),
        ("merge.theta.driver", f"{peak} {python} -m git_theta merge-driver %O %A %B %P"),
    ):
        git("config", "--global", key, value)
    (repository / ".gitattributes").write_text("*.safetensors filter=theta merge=theta -text\n")
    elements = mebibytes * MIB // TENSORS // 2
    random = np.random.default_rng(0)
    base = [
        (random.standard_normal(elements, dtype=np.float32) * 0.02).astype(ml_dtypes.bfloat16)
        for _ in range(TENSORS)
    ]

    def trained(number: int) -> np.ndarray:
        noise = np.random.default_rng(number).standard_normal(elements, dtype=np.float32) * 1e-4
        return (base[number % TENSORS].astype(np.float32) + noise).astype(ml_dtypes.bfloat16)

    write(repository / MODEL, base.__getitem__, elements)
    git("add", "-A")
    git("commit", "-qm", "base")
    for branch, start, changed in (
        ("one-side", "main", {TENSORS + 1}),
        ("all", "main", set(range(TENSORS, 2 * TENSORS))),
    ):
        git("checkout", "-q", "-b", branch, start)

        def stored(i: int, changed: set[int] = changed) -> np.ndarray:
            return trained(TENSORS + i) if TENSORS + i in changed else base[i]

        write(repository / MODEL, stored, elements)
        git("commit", "-qam", branch)
        if branch == "all":
            shutil.copyfile(repository / MODEL, folder / "theirs")
        git("checkout", "-q", "-f", "main")
    git("checkout", "-q", "-b", "ours")
    write(repository / MODEL, lambda i: trained(2 * TENSORS + i), elements)
    shutil.copyfile(repository / MODEL, folder / "ours")
    git("commit", "-qam", "ours")
    git("checkout", "-q", "-f", "main")
    write(repository / MODEL, lambda i: trained(2 * TENSORS) if i == 0 else base[i], elements)
    git("commit", "-qam", "one tensor")
    return repository, environment


def write(path: Path, tensor: Callable[[int], np.ndarray], elements: int) -> None:
    """A safetensors file of ``TENSORS`` matrices, one at a time."""
    import json

    size = elements * 2
    header = {
        f"layer{i}.weight": {
            "dtype": "BF16",
            "shape": [elements // 1024, 1024],
            "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(TENSORS)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number in range(TENSORS):
            file.write(tensor(number).view(np.uint8).data)


def plan_seconds(runs: int) -> float:
    """Time planning a merge of three manifests of 20,000 tensors, a third changed on each side."""
    sys.path.insert(0, str(ROOT))
    from git_theta.core.manifest import Entry, Manifest, ObjectRef
    from git_theta.core.manifest import Link as Step
    from git_theta.merges.plan import plan

    def manifest(side: int) -> Manifest:
        entries = []
        for number in range(20_000):
            version = side if side and number % 3 in (0, side) else 0
            identity = f"{number * 8 + version:064x}"
            entries.append(
                Entry(
                    f"layer{number}.weight",
                    "f32",
                    (64, 64),
                    identity,
                    (Step("dense", (ObjectRef(identity, 16384).whole,)),),
                )
            )
        return Manifest(
            "safetensors",
            20_000 * 16384,
            Entry.of_inline("skeleton", "u8", (0,), b""),
            tuple(entries),
            {},
        )

    seconds = []
    for _ in range(runs):
        versions = [manifest(side) for side in range(3)]
        start = time.process_time()
        decided = plan(versions[0], versions[1:])
        seconds.append(time.process_time() - start)
        assert len(decided.conflicts) == 6667
    return statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(at_once(__doc__, measured))
