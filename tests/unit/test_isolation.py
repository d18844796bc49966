"""Where a started Git-Theta finds its modules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from git_theta import isolation, start

LIBRARY = ["/usr/lib/python313.zip", "/usr/lib/python3.13", "/usr/lib/python3.13/lib-dynload"]


@pytest.mark.parametrize(
    "packages",
    [
        ["/venv/lib/python3.13/site-packages"],
        ["/usr/local/lib/dist-packages", "/usr/lib/dist-packages"],
        [],
    ],
)
def test_the_installation_comes_after_the_library_and_before_other_packages(
    packages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*LIBRARY, *packages])
    start._add("/home/u/site-packages-of-mine")
    assert sys.path == [*LIBRARY, "/home/u/site-packages-of-mine", *packages]
    start._add("/home/u/site-packages-of-mine")
    start._add("")
    assert len(sys.path) == len(LIBRARY) + 1 + len(packages)


def test_an_installation_in_site_packages_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*LIBRARY, "/venv/site-packages"])
    start._add("/venv/site-packages")
    assert sys.path == [*LIBRARY, "/venv/site-packages"]


def test_the_folder_of_an_editable_installation_for_one_user_is_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import site

    monkeypatch.setattr(site, "USER_SITE", str(tmp_path))
    monkeypatch.setattr(site, "ENABLE_USER_SITE", True)
    assert isolation.second_folder() == ""
    (tmp_path / "git_theta-1.0.dist-info").mkdir()
    assert isolation.second_folder() == str(tmp_path)
    assert isolation.words() == [
        sys.executable,
        "-I",
        "-X",
        f"git-theta-site={tmp_path}",
        start.__file__,
    ]
    code = (
        "import sys; sys.path.append(sys.argv[1]); from git_theta import isolation;"
        " print(isolation.second_folder())"
    )
    command = [*isolation.words()[:-1], "-c", code, isolation.FOLDER]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        == f"{tmp_path}\n"
    )
    monkeypatch.setattr(site, "ENABLE_USER_SITE", False)
    assert isolation.second_folder() == ""
