"""What each kind of change costs, and how fast: ``updates.py HISTORY [--chain FILE...]``.

HISTORY holds checkpoints of one small model: base, base.bf16, dense, dense.bf16, dense2, lora,
lora-factors, sparse, head, trim (.safetensors) and train-1, train-2 (.pt). Rows whose files are
missing are left out. Everything is decoded again and compared. ``--chain`` takes the versions of
one checkpoint, oldest first, and compares storing each against the one before with storing each
against the first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from git_theta.checkpoints.safetensors import SafetensorsFormat
from git_theta.checkpoints.torch.zip_format import TorchZipFormat
from git_theta.core.contracts import Encoded, Level, Update
from git_theta.core.source import FileSource
from git_theta.core.tensors import Tensor
from git_theta.updates import low_rank
from git_theta.updates.choose import choose
from git_theta.updates.delta import Delta
from git_theta.updates.dense import Dense
from git_theta.updates.ia3 import IA3
from git_theta.updates.low_rank import LowRank
from git_theta.updates.patch import Patch
from git_theta.updates.sparse import Sparse

UPDATES: tuple[Update, ...] = (Dense(), Delta(), Sparse(), LowRank(), IA3(), Patch())
COMMITS: tuple[tuple[str, str, Level, float], ...] = (
    ("base.bf16", "dense.bf16", "default", 0.12),
    ("base.bf16", "dense.bf16", "best", 0.10),
    ("base.bf16", "dense.bf16", "fast", 1.0),
    ("base", "dense", "default", 0.385),
    ("base", "dense", "best", 0.385),
    ("base", "dense2", "default", 0.385),
    ("dense", "dense2", "default", 1.0),
    ("base", "lora", "default", 0.02),
    ("base", "sparse", "default", 0.012),
    ("base", "head", "default", 0.08),
    ("dense", "trim", "default", 0.01),
    ("trim", "dense", "default", 0.01),
    ("base", "base.bf16", "default", 0.01),
    ("base.bf16", "base", "default", 1.0),
    ("train-1", "train-2", "default", 1.0),
    ("train-1", "train-2", "best", 1.0),
)


@dataclass
class Cost:
    """What storing a checkpoint took, times as processor time of one thread."""

    file: int
    stored: int = 0
    encoding: float = 0.0
    decoding: float = 0.0
    coded: int = 0
    used: Counter[str] = field(default_factory=Counter)

    def add(
        self, tensor: Tensor, base: Tensor | None, update: Update, encoded: Encoded, seconds: float
    ) -> None:
        """Count one tensor, and decode it to see whether it comes back."""
        payload = memoryview(b"".join(encoded.chunks))
        start = time.thread_time()
        decoded = update.decode(payload, tensor.spec, base)
        self.decoding += time.thread_time() - start
        if memoryview(decoded).cast("B") != memoryview(tensor.data).cast("B"):
            raise SystemExit(f"{update.name} is not exact for {tensor.spec}")
        self.encoding += seconds
        self.stored += len(payload)
        self.coded += tensor.spec.nbytes
        self.used[update.name] += 1

    def row(self, what: str, limit: float) -> str:
        """A line of the table."""
        share, used = (
            self.stored / self.file,
            ", ".join(f"{count} {name}" for name, count in self.used.most_common()),
        )
        speeds = (
            f"{self.coded / seconds / 1e6:.0f}" if seconds else "-"
            for seconds in (self.encoding, self.decoding)
        )
        return (
            f"| {what} | {share:.4f} | {f'{limit:g}' if limit < 1 else ''} | {' | '.join(speeds)} |"
            f" {used} |"
        )


def load(folder: Path, name: str) -> dict[str, Tensor] | None:
    """The tensors of a checkpoint, or None where it is missing."""
    for suffix, scanner in ((".safetensors", SafetensorsFormat()), (".pt", TorchZipFormat())):
        path = folder / (name + suffix)
        if path.exists():
            with FileSource(path) as source:
                layout = scanner.scan(source)
                return {
                    e.name: Tensor(e.dtype, e.shape, source.read(e.offset, e.length))
                    for e in layout.extents
                }
    return None


def commit(old: Mapping[str, Tensor], new: Mapping[str, Tensor], level: Level) -> Cost:
    """Store ``new`` against ``old``, tensor by tensor; equal ones cost nothing."""
    cost = Cost(sum(tensor.spec.nbytes for tensor in new.values()))
    for name, tensor in new.items():
        base = old.get(name)
        if tensor == base or tensor.spec.nbytes <= 64:
            continue
        start = time.thread_time()
        update, encoded = choose(tensor, base, UPDATES, level)
        cost.add(tensor, base, update, encoded, time.thread_time() - start)
    return cost


def given(old: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> Cost:
    """Add the factors to ``old`` and store what comes out."""
    cost = Cost(sum(tensor.spec.nbytes for tensor in old.values()))
    for name, base in old.items():
        if f"{name}/R" in factors:
            start = time.thread_time()
            tensor, encoded = low_rank.encode_given(
                None, base, factors[f"{name}/R"].array(), factors[f"{name}/C"].array()
            )
            cost.add(tensor, base, LowRank(), encoded, time.thread_time() - start)
    return cost


def commits(folder: Path) -> Iterator[str]:
    """The table of :data:`COMMITS`."""
    yield (
        "| commit | stored / file | at most | encode MB/s | decode MB/s | updates"
        " |\n|---|---|---|---|---|---|"
    )
    for first, second, level, limit in COMMITS:
        old, new = load(folder, first), load(folder, second)
        if old is not None and new is not None:
            yield commit(old, new, level).row(
                f"{first} → {second}{'' if level == 'default' else f', {level}'}", limit
            )
    old, factors = load(folder, "base"), load(folder, "lora-factors")
    if old is not None and factors is not None:
        yield given(old, factors).row("base → lora, given as factors", 0.005)


def speeds(folder: Path) -> Iterator[str]:
    """How fast one large matrix is coded by one processor, and how much of the time goes into
    choosing.
    """
    yield (
        "\n| 64 MiB of base → dense | delta encode MB/s | decode MB/s | dense encode MB/s |"
        " choosing / encoding |\n|---|---|---|---|---|"
    )
    for suffix in (".bf16", ""):
        old, new = load(folder, f"base{suffix}"), load(folder, f"dense{suffix}")
        if old is None or new is None:
            continue
        names = [
            name
            for name, tensor in new.items()
            if len(tensor.shape) == 2 and tensor.shape[0] < 10000 and tensor.dtype != "i64"
        ]
        base, tensor = (_large([tensors[name] for name in names]) for tensors in (old, new))
        encoded = Delta().encode(tensor, base, "default")
        assert encoded is not None
        payload = memoryview(b"".join(encoded.chunks))
        encode = _seconds(Delta().encode, tensor, base, "default")
        decode = _seconds(Delta().decode, payload, tensor.spec, base)
        dense = _seconds(Dense().encode, tensor, None, "default")
        choice = _seconds(choose, tensor, base, UPDATES, "default")
        size = tensor.spec.nbytes / 1e6
        yield (
            f"| {tensor.spec} | {size / encode:.0f} | {size / decode:.0f} | {size / dense:.0f} |"
            f" {choice / encode - 1:.2f} |"
        )


def _large(tensors: list[Tensor]) -> Tensor:
    data = b"".join(bytes(tensor.data) for tensor in tensors)
    data = (data * (1 + (64 << 20) // len(data)))[: 64 << 20]
    columns = 4096
    return Tensor(
        tensors[0].dtype, (len(data) // tensors[0].bits().itemsize // columns, columns), data
    )


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    """Processor time of this thread, the least of five runs."""
    times = []
    for _ in range(5):
        start = time.thread_time()
        work(*arguments)
        times.append(time.thread_time() - start)
    return min(times)


def chains(files: list[Path]) -> Iterator[str]:
    """Two shapes of a chain: each version against the one before, or against the first."""
    versions = [load(path.parent, path.stem) or {} for path in files]
    yield "\n| version | against the one before | against the first |\n|---|---|---|"
    totals, decoding = [0.0, 0.0], [0.0, 0.0]
    for number in range(1, len(versions)):
        costs = [commit(versions[base], versions[number], "default") for base in (number - 1, 0)]
        for place, cost in enumerate(costs):
            totals[place] += cost.stored / cost.file
            decoding[place] = decoding[place] + cost.decoding if place == 0 else cost.decoding
        yield (
            f"| {number} | {costs[0].stored / costs[0].file:.4f} |"
            f" {costs[1].stored / costs[1].file:.4f} |"
        )
    yield f"| all | {totals[0]:.4f} | {totals[1]:.4f} |"
    yield f"\nDecoding the last one's updates: {decoding[0]:.2f} s and {decoding[1]:.2f} s."


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("history", type=Path)
    parser.add_argument("--chain", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    parts = (
        [chains(arguments.chain)]
        if arguments.chain
        else [commits(arguments.history), speeds(arguments.history)]
    )
    print(f"numpy {np.__version__}, one thread of coding")
    for part in parts:
        for line in part:
            print(line, flush=True)


if __name__ == "__main__":
    main()
