"""Fixtures for the tests that run real git."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from gitrepo import Repo, isolated_environment
from merging import programs

if shutil.which("git") is None:
    pytest.skip("git is not installed", allow_module_level=True)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of all these tests' git commands."""
    return isolated_environment(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ``PATH`` with our programs: git finds the merge strategy there."""
    return programs(tmp_path_factory.mktemp("programs") / "bin")


@pytest.fixture
def repo(tmp_path: Path, environment: Mapping[str, str]) -> Repo:
    """A new repository with Git-Theta as the filter of *.safetensors, *.pt and *.bin."""
    return Repo.create(tmp_path / "repo", environment)
