"""Patterns as a user gives them, from wherever they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from git_theta.cli.commands.setup.patterns import Place, resolve
from git_theta.errors import UsageError


@pytest.fixture
def top(tmp_path: Path) -> Path:
    root = tmp_path / "work tree"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "sub[1]").mkdir()
    return root


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("*.pt", Place("", "*.pt")),
        ("./*.pt", Place("", "*.pt")),
        ("models/*.pt", Place("", "models/*.pt")),
        ("/model.pt", Place("", "/model.pt")),
        ("sub", Place("", "sub/**")),
        ("sub/", Place("", "sub/**")),
        ("sub[1]", Place("", "sub\\[1]/**")),
        ("absent/", Place("", "absent/**")),
        (".", Place("", "*")),
        ("[attr]*.pt", Place("", "[atr]*.pt")),
        ("my model.pt", Place("", "my model.pt")),
    ],
)
def test_from_the_top(pattern: str, place: Place, top: Path) -> None:
    assert resolve(pattern, top, top) == place


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("*.pt", Place("sub", "*.pt")),
        ("../*.pt", Place("", "*.pt")),
        ("../sub/x.pt", Place("sub", "x.pt")),
        ("../../work tree/x.pt", Place("", "x.pt")),
        ("deep/", Place("sub", "deep/**")),
        ("..", Place("", "*")),
        (".", Place("sub", "*")),
    ],
)
def test_from_a_folder(pattern: str, place: Place, top: Path) -> None:
    assert resolve(pattern, top / "sub", top) == place


def test_whole_paths(top: Path) -> None:
    assert resolve(f"{top.as_posix()}/x.pt", top, top) == Place("", "x.pt")
    assert resolve(f"{top.as_posix()}/sub/*.pt", top, top) == Place("", "sub/*.pt")
    assert resolve(f"{top.as_posix()}/sub/deep/", top / "sub", top) == Place("sub", "deep/**")
    assert resolve(f"{top.as_posix()}/x.pt", top / "sub", top) == Place("", "x.pt")


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not allow")
@pytest.mark.parametrize(
    ("name", "pattern"),
    [("a*.pt", "a\\*.pt"), ("[ab].pt", "\\[ab].pt"), ("!x.pt", "\\!x.pt"), ("a\\b.pt", "a\\\\b.pt"), ("[attr]x", "\\[attr]x")],
)
def test_the_name_of_a_file_means_that_file(name: str, pattern: str, top: Path) -> None:
    (top / name).write_text("")
    assert resolve(name, top, top) == Place("", pattern)


def test_through_a_symbolic_link(top: Path, tmp_path: Path) -> None:
    try:
        (tmp_path / "link").symlink_to(top, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    assert resolve("*.pt", tmp_path / "link" / "sub", top) == Place("sub", "*.pt")
    assert resolve(f"{tmp_path.as_posix()}/link/x.pt", top, top) == Place("", "x.pt")


@pytest.mark.parametrize("pattern", ["", "../x", "../../x", "!*.pt"])
def test_what_cannot_be_tracked(pattern: str, top: Path) -> None:
    with pytest.raises(UsageError):
        resolve(pattern, top, top)


def test_a_file_elsewhere_is_not_taken_for_a_pattern(top: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.pt").write_text("")
    with pytest.raises(UsageError, match="lies outside the repository"):
        resolve(f"{tmp_path.as_posix()}/outside.pt", top, top)


def test_a_place_for_a_person() -> None:
    assert str(Place("", "*.pt")) == '"*.pt"'
    assert str(Place("", "my *.pt")) == '"my *.pt"'
    assert str(Place("", "x\x1b[2J")).isprintable()
    assert Place("", "*.pt").file == ".gitattributes"
    assert Place("a/b", "*.pt").file == "a/b/.gitattributes"
