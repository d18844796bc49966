"""How long the filter takes until git can send it the first file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

PACKAGES = 200
START = Path(__file__).resolve().parents[1] / "git_theta" / "start.py"
_WELCOME = b"0016git-filter-client\n000eversion=2\n0000"
_OFFER = b"0015capability=clean\n0016capability=smudge\n0015capability=delay\n0000"


def environment_with_packages(folder: Path) -> Path:
    """The Python of a new virtual environment that sees this one's packages (torch, Git-Theta) and
    200 more, as far as metadata goes.
    """
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
    (site / "outer.pth").write_text(f"{sysconfig.get_path('purelib')}\n{_repository()}\n")
    for number in range(PACKAGES):
        name = f"package_{number:03}"
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("")
        info = site / f"{name}-1.{number}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.{number}\n" + "About.\n" * 100
        )
        (info / "RECORD").write_text("".join(f"{name}/module_{line}.py,,\n" for line in range(100)))
        if number % 4 == 0:
            (info / "entry_points.txt").write_text(f"[console_scripts]\n{name}-run = {name}:main\n")
    return python


def _repository() -> Path:
    return Path(__file__).resolve().parents[1]


def ready(command: str, folder: Path, environment: Mapping[str, str]) -> float:
    """Seconds from starting the filter, through a shell as git does, to the last byte of its
    handshake.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(_WELCOME)
        process.stdin.flush()
        _read_list(process)
        process.stdin.write(_OFFER)
        process.stdin.flush()
        _read_list(process)
        seconds = time.perf_counter() - start
        process.stdin.close()
    return seconds


def _read_list(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    while (size := int(process.stdout.read(4), 16)) != 0:
        process.stdout.read(size - 4)
