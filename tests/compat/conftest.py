"""Fixtures for the tests that run real git."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import forking
import pytest
from gitrepo import Repo, isolated_environment
from merging import programs

if shutil.which("git") is None:
    pytest.skip("git is not installed", allow_module_level=True)


# In these, git has Git-Theta's filter and merge driver forked, which takes half the time: they are
# about what comes out, not about how processes start and end.
FORKED = {
    "test_beside",
    "test_cluster",
    "test_convert",
    "test_fetching",
    "test_folders",
    "test_history",
    "test_http_lfs",
    "test_merge",
    "test_merge_by_name",
    "test_merge_commands",
    "test_merge_crossed",
    "test_merge_formats",
    "test_merge_sides",
    "test_merge_statistics",
    "test_migrate",
    "test_mistracked",
    "test_object_storage",
    "test_plumbing",
    "test_pointers",
    "test_python_api",
    "test_round_trip",
    "test_sharded",
    "test_sharing",
    "test_sharing_traps",
    "test_sideload",
    "test_two_clones",
    "test_updates",
}


@pytest.fixture(scope="session")
def starting_environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    environment = isolated_environment(tmp_path_factory.mktemp("home"))
    forking.serve(environment)
    return environment


@pytest.fixture(scope="module")
def environment(
    request: pytest.FixtureRequest, starting_environment: Mapping[str, str]
) -> Mapping[str, str]:
    """The environment of all these tests' git commands."""
    if request.path.stem not in FORKED:
        return starting_environment
    return forking.quick(starting_environment, Path(starting_environment["HOME"]) / "quick")


@pytest.fixture(scope="session")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ``PATH`` with our programs: git finds the merge strategy there."""
    return programs(tmp_path_factory.mktemp("programs") / "bin")


@pytest.fixture
def repo(tmp_path: Path, environment: Mapping[str, str]) -> Repo:
    """A new repository with Git-Theta as the filter of *.safetensors, *.pt and *.bin."""
    return Repo.create(tmp_path / "repo", environment)
