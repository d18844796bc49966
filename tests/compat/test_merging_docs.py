"""The guide's example of revert and cherry-pick, and the runnable example, do what they say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from gitrepo import PATIENCE, ROOT
from merging import MODEL, Branches, model, moved, programs
from small_models import safetensors_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the programs are POSIX scripts")


def test_picked_and_reverted(tmp_path: Path, environment: Mapping[str, str]) -> None:
    text = (ROOT / "docs" / "merging.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- picked and reverted -->\n```console\n(.*?)```", text, re.DOTALL)
    assert block is not None
    commands = [shlex.split(line.removeprefix("$ "), comments=True) for line in block[1].splitlines()]
    assert [words[1] for words in commands] == ["config", "cherry-pick", "commit", "revert"]
    repo = Branches.make(tmp_path / "repo", environment, programs(tmp_path / "bin"))
    base = repo.save("base", model())
    tuned = repo.branch("fine-tuned", moved(base, 1))
    before = repo.save("went on", moved(base, 2))
    wide = {name: value.astype(np.float64) for name, value in base.items()}
    states = []
    for words in commands:
        if words[1] == "commit":
            repo.write(MODEL, safetensors_file(moved(repo.tensors(), 3)))
        repo.git(*words[1:])
        states.append(repo.tensors())
    _, picked, later, reverted = states
    for name in (name for name in base if name != "step"):
        task = tuned[name] - wide[name]
        assert np.abs(picked[name] - (before[name] + task)).max() < 1e-6
        assert np.abs(reverted[name] - (later[name] - task)).max() < 1e-6
    repo.settled()


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
        label, *values = re.split(r"\s{2,}", line.strip())
        scores[label] = [float(value.rstrip("%")) for value in values]
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
