"""Measures Git-Theta beside git-lfs, in one run on one machine: ``run.py MEASURE... --folder DIR
[--models DIR]``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import checkpoints
import handshake
import results
from measuring import Side, in_turn, median, run
from repositories import Repository, environment
from results import Result

MIB = 1 << 20
ONE = 1 << 30


@dataclass(frozen=True)
class Bench:
    """What the measures share: a scratch folder, the environment git runs in, how often to repeat,
    and real models.
    """

    folder: Path
    environment: dict[str, str]
    runs: int
    models: Path | None

    def model(self, name: str, dtype: str, tensors: int, nbytes: int) -> Path:
        """A synthetic checkpoint, made once."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            checkpoints.write(path, dtype, tensors, nbytes)
        return path

    def pair(self, model: Path) -> dict[str, Repository]:
        """Two repositories whose working trees hold the model, which is not added yet."""
        both = {
            name: Repository.new(self.folder / name, name, self.environment)
            for name in ("theta", "lfs")
        }
        for repository in both.values():
            repository.put(model, "model.safetensors")
        return both


def add(bench: Bench) -> Iterator[Result]:
    """``git add`` of a new 1 GiB checkpoint: nothing is in HEAD, index, store or cache."""
    for dtype in ("bf16", "fp32"):
        both = bench.pair(bench.model(f"1g-{dtype}", dtype, 32, 32 * MIB))
        yield from _compared(
            bench, f"a-{dtype}", f"`git add`, new 1 GiB checkpoint, {dtype}", 0.5, _add_sides(both)
        )
        _remove(both)


def stored(bench: Bench) -> Iterator[Result]:
    """Bytes stored for a real model."""
    if bench.models is None:
        raise SystemExit(
            "this takes --models: a folder with base.safetensors, base.bf16.safetensors and"
            " base.fp16.safetensors"
        )
    for dtype, name, limit in (
        ("bf16", "base.bf16", 0.68),
        ("fp32", "base", 0.83),
        ("fp16", "base.fp16", 0.855),
    ):
        repository = Repository.new(bench.folder / "theta", "theta", bench.environment)
        model = repository.put(bench.models / f"{name}.safetensors", "model.safetensors")
        repository.git("add", model.name)
        size, ours = model.stat().st_size, repository.stored()
        yield Result(
            f"b-{dtype}",
            f"bytes stored / file, real model, {dtype}",
            f"{ours:,} B",
            f"{size:,} B",
            ours / size,
            limit,
        )
        repository.remove()


def status(bench: Bench) -> Iterator[Result]:
    """``git status`` after ``touch``: the content must be read again to see that it is the same."""
    both = _committed(bench, bench.model("1g-bf16", "bf16", 32, 32 * MIB))
    sides = {
        name: Side(
            partial(os.utime, repository.path / "model.safetensors"),
            partial(repository.git, "status"),
        )
        for name, repository in both.items()
    }
    yield from _compared(bench, "c-status", "`git status` after `touch`, 1 GiB, bf16", 0.3, sides)
    _remove(both)


def checkout(bench: Bench) -> Iterator[Result]:
    """``git checkout`` and ``git theta checkout`` of a file that is not there."""
    both = _committed(bench, bench.model("1g-bf16", "bf16", 32, 32 * MIB))
    theta, lfs = both["theta"], both["lfs"]

    def side(repository: Repository, *command: str) -> Side:
        def prepare() -> None:
            (repository.path / "model.safetensors").unlink(missing_ok=True)

        return Side(prepare, lambda: repository.git(*command, "model.safetensors"))

    timings = in_turn(
        bench.runs,
        theta=side(theta, "checkout", "--"),
        lfs=side(lfs, "checkout", "--"),
        direct=side(theta, "theta", "checkout"),
    )
    yield results.compared("d-checkout", "`git checkout`, 1 GiB, bf16", 0.8, timings)
    direct = {**timings, "theta": timings["direct"]}
    yield results.compared(
        "d-direct", "`git theta checkout` / `git checkout` with git-lfs, same file", 0.4, direct
    )
    _remove(both)


def memory(bench: Bench) -> Iterator[Result]:
    """The peak of the filter's own memory for 4 GiB in 128 tensors: cleaning, smudging, and ``git
    theta checkout``.
    """
    model = bench.model("4g-bf16", "bf16", 128, 32 * MIB)
    repository = Repository.new(bench.folder / "theta", "theta", bench.environment)
    log = bench.folder / "peaks"
    log.unlink(missing_ok=True)
    wrapper = (
        f"{sys.executable} {Path(__file__).with_name('peak.py')} {log} {sys.executable} -m"
        " git_theta"
    )
    repository.git("config", "filter.theta.process", f"{wrapper} filter-process")
    os.link(model, repository.path / "model.safetensors")
    repository.git("add", "model.safetensors")
    repository.git("commit", "-q", "-m", "model")
    for command in (["git", "checkout", "--"], [*wrapper.split(), "checkout"]):
        (repository.path / "model.safetensors").unlink()
        run([*command, "model.safetensors"], repository.path, bench.environment)
    names = ("cleaning", "smudging", "`git theta checkout`")
    peaks = [int(line) for line in log.read_text().split()]
    if len(peaks) != len(names):
        raise SystemExit(f"expected {len(names)} measurements of memory, got {len(peaks)}")
    for name, peak in zip(names, peaks, strict=True):
        key = f"e-{name.strip('`').replace(' ', '-')}"
        yield Result(
            key,
            f"peak memory {name}, 4 GiB in 128 tensors",
            f"{peak / MIB:.0f} MiB",
            "",
            peak / MIB,
            512,
            "MiB",
        )
    repository.remove()
    model.unlink()


def small(bench: Bench) -> Iterator[Result]:
    """``git add`` of a 1 MB checkpoint: mostly the time it takes to start."""
    both = bench.pair(bench.model("1m-fp32", "fp32", 8, 128 << 10))
    yield from _compared(
        bench, "f-small", "`git add`, new 1 MB checkpoint", 3.0, _add_sides(both), repeat=4
    )
    _remove(both)


def ready(bench: Bench) -> Iterator[Result]:
    """From the start of the filter to its answer, in an environment with torch and 200 more
    packages.
    """
    python = handshake.environment_with_packages(bench.folder / "many-packages")
    subprocess.run(
        [python, "-c", "import git_theta; import importlib.util as u; assert u.find_spec('torch')"],
        check=True,
    )
    repository = Repository.new(bench.folder / "theta", "theta", bench.environment)
    # As 'git theta install' records it
    command = f"'{python}' -I '{handshake.START}' filter-process"
    times = [
        handshake.ready(command, repository.path, bench.environment)
        for _ in range(4 * bench.runs + 1)
    ][1:]
    lfs = [
        handshake.ready("git-lfs filter-process", repository.path, bench.environment)
        for _ in range(4 * bench.runs + 1)
    ][1:]
    ours, theirs = (1000 * statistics.median(values) for values in (times, lfs))
    what = "filter ready to answer, torch and 200 packages installed"
    yield Result("f-ready", what, f"{ours:.0f} ms", f"{theirs:.0f} ms", ours, 150, "ms")
    shutil.rmtree(bench.folder / "many-packages")
    repository.remove()


def many(bench: Bench) -> Iterator[Result]:
    """``git add`` of ten times the tensors."""
    repositories = []
    for name, count in (("few", 2000), ("many", 20000)):
        repositories.append(Repository.new(bench.folder / name, "theta", bench.environment))
        repositories[-1].put(bench.model(f"{name}-fp32", "fp32", count, 4096), "model.safetensors")
    few, many = repositories
    sides = {name: _add_side(repository) for name, repository in (("few", few), ("many", many))}
    timings = in_turn(bench.runs, **sides)
    ours, base = median(timings["many"]), median(timings["few"])
    what = "`git add`, 20,000 small tensors / 2,000 (4 KiB each)"
    yield Result(
        "g-many", what, f"{ours.wall:.2f} s / {base.wall:.2f} s", "", ours.wall / base.wall, 11
    )
    for repository in repositories:
        repository.remove()


def skeleton(bench: Bench) -> Iterator[Result]:
    """What the second commit of a training checkpoint adds to the skeleton."""
    from git_theta.core.manifest import parse

    if bench.models is None:
        raise SystemExit("this takes --models: a folder with train-1.pt and train-2.pt")
    repository = Repository.new(bench.folder / "theta", "theta", bench.environment)
    sizes = []
    for name in ("train-1.pt", "train-2.pt"):
        repository.put(bench.models / name, "train.pt")
        repository.git("add", "train.pt")
        repository.git("commit", "-q", "-m", name)
        shown = subprocess.run(
            ["git", "show", "HEAD:train.pt"],
            cwd=repository.path,
            env=bench.environment,
            capture_output=True,
            check=True,
        )
        entry = parse(shown.stdout).skeleton
        sizes.append((entry.chain[0].size if entry.chain else entry.nbytes, entry.nbytes))
    (first, raw), (second, _) = sizes
    what = f"skeleton of the next training step / of the first ({raw:,} B before coding)"
    yield Result("h-skeleton", what, f"{second:,} B / {first:,} B", "", second / first, 0.05)
    repository.remove()


def finetune(bench: Bench) -> Iterator[Result]:
    """``git add`` of a fine-tuned 1 GiB model over its base, made of real ones."""
    if bench.models is None:
        raise SystemExit(
            "this takes --models: a folder with base.bf16.safetensors and dense.bf16.safetensors"
        )
    base, tuned = bench.folder / "1g-base.safetensors", bench.folder / "1g-dense.safetensors"
    for source, target in (("base.bf16", base), ("dense.bf16", tuned)):
        checkpoints.enlarge(bench.models / f"{source}.safetensors", target, ONE)
    both = _committed(bench, base)
    sides = {}
    for name, repository in both.items():
        repository.keep()
        before = repository.stored()
        repository.put(tuned, "model.safetensors")
        time.sleep(0.2)
        repository.git("add", "model.safetensors")
        if name == "theta":
            ours, size = repository.stored() - before, tuned.stat().st_size
        sides[name] = Side(repository.restore, partial(repository.git, "add", "model.safetensors"))
    yield from _compared(bench, "i-finetune", "`git add` of a fine-tune, 1 GiB, bf16", 0.6, sides)
    yield Result(
        "i-stored", "bytes stored for it / file", f"{ours:,} B", f"{size:,} B", ours / size, 0.12
    )
    _remove(both)
    base.unlink()
    tuned.unlink()


def chain(bench: Bench) -> Iterator[Result]:
    """``git checkout`` of a model stored as a chain of eight, and of one stored dense."""
    if bench.models is None:
        raise SystemExit(
            "this takes --models: a folder with base.safetensors and dense.safetensors"
        )
    repositories = {
        name: Repository.new(bench.folder / name, "theta", bench.environment)
        for name in ("chain", "dense")
    }
    model = bench.folder / "between.safetensors"
    for step in range(9):
        checkpoints.between(
            bench.models / "base.safetensors", bench.models / "dense.safetensors", step / 8, model
        )
        for name, repository in repositories.items():
            if name == "chain" or step == 8:
                repository.put(model, "model.safetensors")
                repository.git("add", "model.safetensors")
                repository.git("commit", "-q", "-m", f"step {step}")
    sides = {
        name: Side(
            (repository.path / "model.safetensors").unlink,
            partial(repository.git, "checkout", "--", "model.safetensors"),
        )
        for name, repository in repositories.items()
    }
    timings = in_turn(bench.runs, **sides)
    longest, dense = median(timings["chain"]), median(timings["dense"])
    what = "`git checkout` of a chain of 8 / of a dense copy, 90 MB, fp32"
    yield Result(
        "j-chain",
        what,
        f"{longest.wall:.2f} s / {dense.wall:.2f} s",
        "",
        longest.wall / dense.wall,
        4,
    )
    _remove(repositories)
    model.unlink()


MEASURES: dict[str, Callable[[Bench], Iterator[Result]]] = {
    name.__name__: name
    for name in (
        add,
        stored,
        status,
        checkout,
        memory,
        small,
        ready,
        many,
        skeleton,
        finetune,
        chain,
    )
}


def _add_side(repository: Repository) -> Side:
    return Side(repository.forget, lambda: repository.git("add", "model.safetensors"))


def _add_sides(both: dict[str, Repository]) -> dict[str, Side]:
    return {name: _add_side(repository) for name, repository in both.items()}


def _committed(bench: Bench, model: Path) -> dict[str, Repository]:
    both = bench.pair(model)
    time.sleep(2)  # an index as young as its files would make git read them again
    for repository in both.values():
        repository.git("add", "model.safetensors")
        repository.git("commit", "-q", "-m", "model")
    return both


def _compared(
    bench: Bench, key: str, what: str, limit: float, sides: dict[str, Side], repeat: int = 1
) -> Iterator[Result]:
    yield results.compared(key, what, limit, in_turn(repeat * bench.runs, **sides))


def _remove(both: dict[str, Repository]) -> None:
    for repository in both.values():
        repository.remove()


def main() -> int:
    """Measure what the command line asks for and print a table; 1 when a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models",
        type=Path,
        help="folder with real checkpoints, for 'stored', 'skeleton', 'finetune' and 'chain'",
    )
    return results.collect(
        parser,
        "results.json",
        MEASURES,
        lambda folder, asked: Bench(
            folder, environment(folder), asked.runs, asked.models and asked.models.resolve()
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
