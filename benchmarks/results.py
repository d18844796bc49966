"""Results: kept as JSON while they are collected, shown as a Markdown table; and the command lines
that ask for them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import Timing, median

Row = tuple[str, float, str, float]
"""What was measured, the value, its unit, and the bound."""

START, END = "<!-- results -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Result:
    """One line: what was measured, Git-Theta's value, git-lfs's where there is one, the number that
    counts, and its limit.
    """

    key: str
    what: str
    ours: str
    theirs: str
    value: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the value is within its limit."""
        return self.value <= self.limit


def compared(key: str, what: str, limit: float, timings: Mapping[str, Sequence[Timing]]) -> Result:
    """The medians of ``timings["theta"]`` and ``timings["lfs"]``; what counts is the ratio of the
    times on the clock.
    """
    ours, theirs = median(timings["theta"]), median(timings["lfs"])
    return Result(key, what, str(ours), str(theirs), ours.wall / theirs.wall, limit)


def collect(
    parser: argparse.ArgumentParser,
    file: str,
    measures: Mapping[str, Callable[[Any], Iterator[Result]]],
    bench: Callable[[Path, argparse.Namespace], object],
) -> int:
    """The command line of benchmarks whose results are kept in ``file``, to be told together; 1
    when a limit is exceeded.

    ``parser`` may have options of its own; each of the ``measures`` is handed what ``bench`` makes
    of the folder and the options.
    """
    parser.add_argument(
        "measures", nargs="*", metavar="MEASURE", help=f"{', '.join(measures)}, or nothing for all"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        required=True,
        help=f"scratch folder (up to 12 GiB), also keeps {file}",
    )
    parser.add_argument(
        "--runs", type=int, default=5, help="runs of each side; medians count (default 5)"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write all collected results into a Markdown file, between its marks",
    )
    parser.add_argument(
        "--report", action="store_true", help="measure nothing, only show what was collected"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.measures) - set(measures)
    if unknown:
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        given = bench(folder, arguments)
        for name in arguments.measures or measures:
            started = time.monotonic()
            for result in measures[name](given):
                save(folder / file, [result])
                print(
                    f"{result.what}: {result.ours} {result.theirs}: {result.value:.3f} (at most"
                    f" {result.limit:g})",
                    flush=True,
                )
            print(
                f"({name}: {time.monotonic() - started:.0f} s, load {os.getloadavg()[0]:.1f})",
                file=sys.stderr,
            )
    found = load(folder / file)
    print(table(found))
    if arguments.write:
        write(arguments.write, found)
    return 0 if all(result.met for result in found) else 1


def at_once(description: str, measured: Callable[[Path, int, int], Iterable[Row]]) -> int:
    """The command line of benchmarks that need nothing but a folder for a while; 1 when a bound is
    not kept.

    ``measured`` is given the folder, the size of the models in MiB, and how often to run each.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--mebibytes", type=int, default=1024, help="size of the models")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="git-theta-bench-", dir=arguments.folder))
    try:
        rows = list(measured(folder, arguments.mebibytes, arguments.runs))
    finally:
        for file in folder.rglob("*"):
            if not file.is_symlink():
                file.chmod(file.stat().st_mode | 0o200)
        shutil.rmtree(folder)
    print("| what | measured | at most | |\n|---|---:|---:|---|")
    for what, value, unit, bound in rows:
        print(
            f"| {what} | {value:.3g} {unit} | {bound:g} {unit} |"
            f" {'yes' if value <= bound else '**no**'} |"
        )
    return int(any(value > bound for _, value, _, bound in rows))


def save(path: Path, results: list[Result]) -> None:
    """Add results to those in ``path``; a later one replaces an earlier one of the same key."""
    known = {result.key: result for result in load(path)}
    known.update((result.key, result) for result in results)
    path.write_text(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "results": [asdict(known[key]) for key in sorted(known)],
            },
            indent=1,
        )
    )


def load(path: Path) -> list[Result]:
    """The results in ``path``; none where there is no such file."""
    if not path.exists():
        return []
    return [Result(**fields) for fields in json.loads(path.read_text())["results"]]


def table(results: list[Result]) -> str:
    """The results as Markdown, with date and machine."""
    lines = ["| what | Git-Theta | git-lfs | result | at most | |", "|---|---:|---:|---:|---:|---|"]
    for result in results:
        value, limit = (_number(number, result.unit) for number in (result.value, result.limit))
        lines.append(
            f"| {result.what} | {result.ours} | {result.theirs} | {value} | {limit} |"
            f" {'yes' if result.met else '**no**'} |"
        )
    return "\n".join(["", f"{datetime.date.today().isoformat()}, {machine()}.", "", *lines, ""])


def _number(value: float, unit: str) -> str:
    return f"{value:.3g}{unit and ' ' + unit}" if value < 1000 else f"{value:.0f} {unit}"


def write(path: Path, results: list[Result]) -> None:
    """Put the table between the two marks in the Markdown file ``path``."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{START}\n{table(results)}\n{END}{after}", encoding="utf-8")


def machine() -> str:
    """Processor, cores, memory, system, and the versions that matter."""
    pages = (
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    )
    parts = [
        f"{_processor()}, {os.cpu_count()} cores, {pages / 2**30:.0f} GiB",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        _version(["git", "--version"], {}).replace("git version", "git"),
        _version(["git", "lfs", "version"], {}).split(" ")[0].replace("/", " "),
    ]
    return "; ".join(parts)


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _version(command: list[str], environment: Mapping[str, str]) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    ).stdout.strip()
