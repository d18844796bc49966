"""The runnable example of merging does what the guide says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from gitrepo import PATIENCE, ROOT
from merging import programs

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are POSIX scripts")


def test_the_example_runs(tmp_path: Path, environment: Mapping[str, str]) -> None:
    path = f"{programs(tmp_path / 'bin')}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "merging" / "merge.py"],
        env={**environment, "PATH": path, "OPENBLAS_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    scores = {}
    for line in done.stdout.splitlines()[1:]:
        label, *shares = re.split(r"\s{2,}", line.strip())
        scores[label] = [float(share.rstrip("%")) for share in shares]
    right, left = scores["fine-tuned: right"], scores["fine-tuned: left"]
    merged = [values for label, values in scores.items() if label.startswith("git theta merge")]
    assert len(merged) == 4
    for values in merged:
        assert values[3] > max(right[3], left[3])  # better than either on average
        assert values[1] > left[1]  # it knows of both
        assert values[2] > right[2]
    later = scores["trained on: left"]
    reverted = next(values for label, values in scores.items() if label.startswith("git revert"))
    again = next(values for label, values in scores.items() if label.startswith("git cherry-pick"))
    assert reverted[1] < later[1]
    assert abs(again[1] - later[1]) < 1
    assert not list(tmp_path.glob("git-theta-merging-*"))
