"""What looking at changes costs: manifests alone, ``git diff`` of a large model, all statistics.

``diff.py [--folder FOLDER]``.

Needs 8 GiB of disk. Times are medians of a few runs.
"""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
from measuring import Side, in_turn, median, run
from merge import write
from results import Row, at_once

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
TENSORS = 32
MODEL = "model.safetensors"

DECODE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from git_theta.core.manifest import parse
from git_theta.core.resources.memory import keep_buffers
from git_theta.git.history.blobs import BlobReader
from git_theta.git.repository import discover
from git_theta.store.local import LocalStore
from git_theta.workflows.chains import load
repository = discover()
keep_buffers()
store = LocalStore(repository.objects)
with BlobReader(repository) as blobs, ThreadPoolExecutor(2) as pool:
    entries = [entry for name in sys.argv[1:] for entry in parse(blobs.read(name)).entries]
    list(pool.map(lambda entry: len(load(store, entry)), entries))
"""


def environment(folder: Path) -> Mapping[str, str]:
    """A git that knows the filter and the diff driver, and nothing of whoever runs this."""
    python, config = shlex.quote(sys.executable), folder / "gitconfig"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    found = kept | {
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONPATH": str(ROOT),
    }
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    for key, value in (
        ("user.name", "Bench"),
        ("user.email", "bench@example.com"),
        ("filter.theta.process", f"{python} -m git_theta filter-process"),
        ("filter.theta.required", "true"),
        ("diff.theta.command", f"{python} -m git_theta diff-driver"),
    ):
        run(["git", "config", "--global", key, value], folder, found)
    return found


def manifests(folder: Path, runs: int) -> list[Row]:
    """Diff, log and blame of manifests alone."""
    sys.path.insert(0, str(ROOT))
    from git_theta.core.manifest import Entry, Link, Manifest, ObjectRef, dump

    settings, rows = environment(folder), []
    for count, bound in ((300, 0.3), (20_000, 2.0)):
        repository = folder / f"manifests-{count}"
        repository.mkdir()
        run(["git", "init", "-q", "-b", "main", "."], repository, settings)
        for version in range(3):
            entries = []
            for number in range(count):
                mine = version if number % 3 == 0 else 0
                identity = f"{number * 8 + mine:064x}"
                chain = tuple(
                    Link(
                        "delta" if step else "dense",
                        (ObjectRef(f"{number * 8 + step:064x}", 123456).whole,),
                    )
                    for step in range(mine, -1, -1)
                )
                entries.append(
                    Entry(
                        f"model.layers.{number // 10}.mlp.w{number % 10}.weight",
                        "bf16",
                        (1024, 1024),
                        identity,
                        chain,
                    )
                )
            text = dump(
                Manifest(
                    "safetensors",
                    count * 2 * MIB,
                    Entry.of_inline("skeleton", "u8", (0,), b""),
                    tuple(entries),
                    {},
                )
            )
            (repository / MODEL).write_bytes(text)
            run(["git", "add", "-A"], repository, settings)
            run(["git", "commit", "-qm", f"version {version}"], repository, settings)
        for words, limit in (
            (["diff", "--stat", "HEAD~1", "HEAD"], bound),
            (["log", MODEL], 3 * bound),
            (["blame", MODEL], 3 * bound),
        ):
            command = [sys.executable, "-m", "git_theta", *words]
            side = Side(lambda: None, partial(run, command, repository, settings))
            seconds = median(in_turn(runs, it=side)["it"]).wall
            what = " ".join(words[:2] if words[0] == "diff" else [words[0], "of 3 commits"])
            rows.append((f"`git theta {what}`, {count:,} tensors", seconds, "s", limit))
    return rows


def models(folder: Path, mebibytes: int, runs: int) -> list[Row]:
    """``git diff`` with one layer changed, and the statistics of two versions of which every tensor
    differs.
    """
    settings, repository = environment(folder), folder / "model"
    repository.mkdir()

    def git(*words: str) -> None:
        run(["git", *words], repository, settings)

    git("init", "-q", "-b", "main", ".")
    (repository / ".gitattributes").write_text("*.safetensors filter=theta diff=theta -text\n")
    elements = mebibytes * MIB // TENSORS // 2
    random = np.random.default_rng(0)
    base = [
        (random.standard_normal(elements, dtype=np.float32) * 0.02).astype(ml_dtypes.bfloat16)
        for _ in range(TENSORS)
    ]

    def trained(number: int) -> np.ndarray:
        noise = np.random.default_rng(number + 1).standard_normal(elements, dtype=np.float32) * 1e-4
        return (base[number].astype(np.float32) + noise).astype(ml_dtypes.bfloat16)

    model = repository / MODEL
    write(model, base.__getitem__, elements)
    git("add", "-A")
    git("commit", "-qm", "base")
    write(model, trained, elements)
    git("commit", "-qam", "trained")
    size = f"{mebibytes / 1024:g} GiB"
    both = in_turn(
        runs,
        decode=Side(
            lambda: None,
            lambda: run(
                [sys.executable, "-c", DECODE, f"HEAD~1:{MODEL}", f"HEAD:{MODEL}"],
                repository,
                settings,
            ),
        ),
        diff=Side(
            lambda: None,
            lambda: run(
                [sys.executable, "-m", "git_theta", "diff", "HEAD~1", "HEAD"], repository, settings
            ),
        ),
    )
    ratio = median(both["diff"]).wall / median(both["decode"]).wall
    layer = trained(7)
    rows = [
        (
            (
                f"all statistics of two versions, {size} bf16, time / decoding both"
                f" ({median(both['decode']).wall:.1f} s)"
            ),
            ratio,
            "",
            1.5,
        )
    ]
    git("checkout", "-q", "-f", "HEAD~1")

    def edit() -> None:
        write(model, lambda number: layer if number == 7 else base[number], elements)
        time.sleep(0.1)  # so that the file is older than what is noted of it

    def look() -> float:
        return run(["git", "diff"], repository, settings).wall

    first, again = [], []
    for _ in range(runs):
        shutil.rmtree(repository / ".git" / "theta" / "cache", ignore_errors=True)
        edit()
        first.append(look())
        again.append(look())
    rows.append(
        (
            f"`git diff`, {size} bf16, one of {TENSORS} layers changed: the first time",
            statistics.median(first),
            "s",
            1.5,
        )
    )
    rows.append(("the same again", statistics.median(again), "s", 1.5))
    return rows


if __name__ == "__main__":
    sys.exit(
        at_once(
            __doc__,
            lambda folder, mebibytes, runs: [
                *manifests(folder, runs),
                *models(folder, mebibytes, runs),
            ],
        )
    )
