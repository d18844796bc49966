"""Results: kept as JSON while they are collected, shown as a Markdown table."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

START, END = "<!-- results -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Result:
    """One line: what was measured, Git-Theta's value, git-lfs's where there is one, the number that counts, and its limit."""

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


def save(path: Path, results: list[Result]) -> None:
    """Add results to those in ``path``; a later one replaces an earlier one of the same key."""
    known = {result.key: result for result in load(path)}
    known.update((result.key, result) for result in results)
    path.write_text(
        json.dumps({"date": datetime.date.today().isoformat(), "results": [asdict(known[key]) for key in sorted(known)]}, indent=1)
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
        lines.append(f"| {result.what} | {result.ours} | {result.theirs} | {value} | {limit} | {'yes' if result.met else '**no**'} |")
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
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
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
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment}).stdout.strip()
