"""Installing the example plugins for a test, beside the environment that runs it."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from gitrepo import Repo


def install(example: Path, site: Path) -> None:
    """What ``pip install --no-deps`` leaves in a site-packages folder, without a build backend and
    a network.
    """
    project = tomllib.loads((example / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        f"{name} = {target}\n" for name, target in project["entry-points"]["git_theta"].items()
    ]
    (info / "entry_points.txt").write_text("".join(["[git_theta]\n", *lines]))
    for package in (example / "src").iterdir():
        (site / package.name).symlink_to(package, target_is_directory=True)


def with_site(repo: Repo, site: Path) -> Repo:
    """The same repository, where the packages in ``site`` are installed."""
    return Repo(
        repo.path,
        {
            **repo.environment,
            "PYTHONPATH": os.pathsep.join([repo.environment["PYTHONPATH"], str(site)]),
        },
    )
