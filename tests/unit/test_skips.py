"""With --no-skips, a test that is skipped for want of something is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
PASSES = "def test_it():\n    pass\n"
TEST = "import pytest\n\ndef test_one():\n    pytest.skip('%s')\n"
MODULE = "import pytest\npytest.importorskip('no_such_module')\n"


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        (TEST % "git-lfs is not installed", ["--no-skips"], 1),
        (TEST % "git-lfs is not installed", ["--no-skips", "-n", "2"], 1),
        (MODULE, ["--no-skips"], 1),
        (MODULE, ["--no-skips", "-n", "2"], 1),
        (TEST % "git-lfs is not installed", [], 0),
        (TEST % "root may write everywhere", ["--no-skips"], 0),
        (PASSES, ["--no-skips"], 0),
    ],
)
def test_a_skip_is_a_failure_if_wanted(
    tmp_path: Path, text: str, options: list[str], code: int
) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_text.py").write_text(text)
    (tmp_path / "test_passes.py").write_text(PASSES)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        *options,
        str(tmp_path),
    ]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        words, cwd=tmp_path, env=plain, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout
    assert ("which --no-skips forbids" in done.stdout) == bool(code)
    assert " passed" in done.stdout.splitlines()[-1]
