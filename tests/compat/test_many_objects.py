"""A model of thousands of small objects: more than a command line holds."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import sharing
from sharing import World
from small_models import safetensors_file

TENSORS = 20_500


@pytest.mark.parametrize("server", [False, True], ids=["folder", "git-lfs"])
def test_thousands_of_objects_are_pushed_and_fetched(
    tmp_path: Path, environment: Mapping[str, str], server: bool
) -> None:
    if server and shutil.which("git-lfs") is None:
        pytest.skip("git-lfs is not installed")
    world = World(tmp_path, sharing.with_program(environment, tmp_path / "bin"), server)
    values = np.random.default_rng(0).standard_normal((TENSORS, 20)).astype(np.float32)
    one = world.start()
    data = safetensors_file(
        {f"experts.{number}.weight": value for number, value in enumerate(values)}
    )
    one.commit("many", model__safetensors=data)
    assert len(one.object_ids()) > TENSORS
    trace = tmp_path / "trace"
    one.git("push", "-q", "origin", "main", GIT_TRACE=str(trace))
    assert trace.read_text("utf-8", "replace").count("\n") < TENSORS / 10, (
        "a process or line for each object"
    )
    assert world.objects() == one.object_ids()
    two = world.clone("two")
    assert two.read("model.safetensors") == data
    assert two.object_ids() == one.object_ids()
    world.assert_complete()
