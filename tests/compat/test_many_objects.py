"""A commit of thousands of objects: more than a command line holds."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import sharing
from sharing import World
from small_models import safetensors_file

# Linux gives arguments a quarter of the stack, so that fewer are too many if it is small
LIMITED = ("sh", "-c", 'ulimit -s 512 && exec "$@"', "sh") if sys.platform == "linux" else ()
MODELS = 2_200 if LIMITED or os.name == "nt" else 20_500


@pytest.mark.parametrize("server", [False, True], ids=["folder", "git-lfs"])
def test_thousands_of_objects_are_pushed_and_fetched(
    tmp_path: Path, environment: Mapping[str, str], server: bool
) -> None:
    if server and shutil.which("git-lfs") is None:
        pytest.skip("git-lfs is not installed")
    world = World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server)
    values = np.random.default_rng(0).standard_normal((MODELS, 20)).astype(np.float32)
    one = world.start()
    data = {
        f"adapter{number}__safetensors": safetensors_file({"weight": value})
        for number, value in enumerate(values)
    }
    one.commit("many", **data)
    assert len(one.object_ids()) == MODELS
    if LIMITED:
        assert one.run([*LIMITED, "true", *one.object_ids()]).returncode == 126, "not too many"
    trace = tmp_path / "trace"
    done = one.run([*LIMITED, "git", "push", "-q", "origin", "main"], GIT_TRACE=str(trace))
    assert done.returncode == 0, done.stderr
    assert trace.read_text("utf-8", "replace").count("\n") < MODELS / 10, (
        "a process or line for each object"
    )
    assert world.objects() == one.object_ids()
    two = one.at(tmp_path / "two")
    done = one.run([*LIMITED, "git", "clone", "-q", world.url, str(two.path)])
    assert done.returncode == 0, done.stderr
    for name, content in data.items():
        assert two.read(name.replace("__", ".")) == content
    assert two.object_ids() == one.object_ids()
    world.assert_complete()
