"""Which files are parts of one model."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from git_theta.core.shards import groups, is_index, pathspecs

PATHS = [
    "a/model-00001-of-00002.safetensors",
    "a/model-00002-of-00002.safetensors",
    "a/model.safetensors",
    "b/model-00001-of-00002.safetensors",
    "b/model.bin",
    "ckpt/__0_0.distcp",
    "ckpt/__1_0.distcp",
    "ckpt/.metadata",
    "tf/x.data-00000-of-00002",
    "tf/x.data-00001-of-00002",
    "tf/x.index",
    "tf/y.index",
    "q-00001-of-00003.gguf",
    "not-0001-of-0003.gguf",
]


def test_groups() -> None:
    assert groups(PATHS) == {
        "a/model.safetensors.index.json": PATHS[:3],
        "b/model.safetensors.index.json": PATHS[3:4],
        "ckpt/.metadata": ["ckpt/.metadata", *PATHS[5:7]],
        "tf/x.index": PATHS[8:11],
        "q.gguf.index.json": ["q-00001-of-00003.gguf"],
    }
    assert all(map(is_index, groups(PATHS)))
    assert not any(map(is_index, PATHS[:4]))


@pytest.mark.parametrize("special", ["", "we[i]rd*?"])
def test_pathspecs_find_the_parts(tmp_path: Path, special: str) -> None:
    paths = [special + path for path in PATHS]
    # No configuration, list of ignored files or repository of whoever runs this
    env = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "XDG_"))}
    env |= {"HOME": str(tmp_path / "home"), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "init", "-q", tmp_path], check=True, env=env)
    for path in [*paths, "ax/model-00001-of-00002.safetensors"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True, env=env)
    for index, parts in groups(paths).items():
        asked = pathspecs([index])
        done = subprocess.run(
            ["git", "ls-files", "-z", "--", *asked[1:]],
            cwd=tmp_path,
            env=env,
            check=True,
            capture_output=True,
        )
        assert set(done.stdout.decode().split("\0")[:-1]) == set(parts) - {index}
    assert pathspecs(["a/b.safetensors", ":(top)x.index"]) == ["a/b.safetensors", ":(top)x.index"]
