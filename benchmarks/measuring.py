"""Running commands and measuring them: wall time, processor time, and the two sides of a comparison
in turn.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    """Seconds on the clock and seconds of processor time, children's children included."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} s ({self.cpu:.2f} s CPU)"


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Timing:
    """Run a command that must succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed in {folder}:\n{done.stderr}")
    return Timing(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


@dataclass(frozen=True)
class Side:
    """One of the things compared: ``prepare`` is not measured, ``action`` is; every run begins with
    the disk's queue empty.
    """

    prepare: Callable[[], object]
    action: Callable[[], Timing]


def in_turn(runs: int, **sides: Side) -> dict[str, list[Timing]]:
    """``runs`` timings of each side, A B A B, so that a change of the machine's load meets both.

    A first round warms up and is dropped.
    """
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for number in range(runs + 1):
        for name, side in sides.items():
            side.prepare()
            os.sync()
            timing = side.action()
            if number:
                timings[name].append(timing)
    return timings


def median(timings: Sequence[Timing]) -> Timing:
    """The median of each measure."""
    return Timing(
        statistics.median(t.wall for t in timings), statistics.median(t.cpu for t in timings)
    )
