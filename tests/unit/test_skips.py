"""With --no-skips, a test that is skipped for want of something is a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TEST = "import pytest\n\ndef test_one():\n    pytest.skip('%s')\n"
WANTING = {
    "test_wanting": TEST % "git-lfs is not installed",
    "test_module": "import pytest\npytest.importorskip('no_such_module')\n",
}
FINE = {
    "test_excused": TEST % "root may write everywhere",
    "test_passes": "def test_it():\n    pass\n",
}


def run(folder: Path, files: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Pytest over ``files``, with the settings of these tests and no plugin but xdist."""
    shutil.copy(CONFTEST, folder)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist.plugin"]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        [*words, "--rootdir", str(folder), *options, str(folder)],
        cwd=folder,
        env={**plain, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "workers"])
def test_a_skip_is_a_failure_if_wanted(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, {**WANTING, **FINE}, "--no-skips", *options)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    told = done.stdout.partition("which --no-skips forbids")[2]
    assert "test_wanting.py::test_one: " in told
    assert "test_module.py: " in told
    assert "test_excused.py:" not in told.partition("short test summary")[0]
    assert " passed" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("files", "options"),
    [({**WANTING, **FINE}, ()), (FINE, ("--no-skips",))],
    ids=["not wanted", "all excused"],
)
def test_a_skip_is_no_failure_otherwise(
    tmp_path: Path, files: dict[str, str], options: tuple[str, ...]
) -> None:
    done = run(tmp_path, files, *options)
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert "which --no-skips forbids" not in done.stdout
    assert " passed" in done.stdout.splitlines()[-1]
