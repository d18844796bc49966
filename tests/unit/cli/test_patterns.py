"""Patterns as a user gives them, from wherever they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from git_theta.cli.patterns import PatternPlace, resolve
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
        ("*.pt", PatternPlace("", "*.pt")),
        ("./*.pt", PatternPlace("", "*.pt")),
        ("models/*.pt", PatternPlace("", "models/*.pt")),
        ("/model.pt", PatternPlace("", "/model.pt")),
        ("sub", PatternPlace("", "sub/**")),
        ("sub/", PatternPlace("", "sub/**")),
        ("sub[1]", PatternPlace("", "sub\\[1]/**")),
        ("absent/", PatternPlace("", "absent/**")),
        (".", PatternPlace("", "*")),
        ("[attr]*.pt", PatternPlace("", "[atr]*.pt")),
        ("my model.pt", PatternPlace("", "my model.pt")),
    ],
)
def test_from_the_top(pattern: str, place: PatternPlace, top: Path) -> None:
    assert resolve(pattern, top, top) == place


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("*.pt", PatternPlace("sub", "*.pt")),
        ("../*.pt", PatternPlace("", "*.pt")),
        ("../sub/x.pt", PatternPlace("sub", "x.pt")),
        ("../../work tree/x.pt", PatternPlace("", "x.pt")),
        ("deep/", PatternPlace("sub", "deep/**")),
        ("..", PatternPlace("", "*")),
        (".", PatternPlace("sub", "*")),
    ],
)
def test_from_a_folder(pattern: str, place: PatternPlace, top: Path) -> None:
    assert resolve(pattern, top / "sub", top) == place


def test_whole_paths(top: Path) -> None:
    assert resolve(f"{top.as_posix()}/x.pt", top, top) == PatternPlace("", "x.pt")
    assert resolve(f"{top.as_posix()}/sub/*.pt", top, top) == PatternPlace("", "sub/*.pt")
    assert resolve(f"{top.as_posix()}/sub/deep/", top / "sub", top) == PatternPlace(
        "sub", "deep/**"
    )
    assert resolve(f"{top.as_posix()}/x.pt", top / "sub", top) == PatternPlace("", "x.pt")


@pytest.mark.skipif(os.name == "nt", reason="names that Windows does not allow")
@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("a*.pt", "a\\*.pt"),
        ("[ab].pt", "\\[ab].pt"),
        ("!x.pt", "\\!x.pt"),
        ("a\\b.pt", "a\\\\b.pt"),
        ("[attr]x", "\\[attr]x"),
    ],
)
def test_the_name_of_a_file_means_that_file(name: str, pattern: str, top: Path) -> None:
    (top / name).write_text("")
    assert resolve(name, top, top) == PatternPlace("", pattern)


def test_through_a_symbolic_link(top: Path, tmp_path: Path) -> None:
    try:
        (tmp_path / "link").symlink_to(top, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    assert resolve("*.pt", tmp_path / "link" / "sub", top) == PatternPlace("sub", "*.pt")
    assert resolve(f"{tmp_path.as_posix()}/link/x.pt", top, top) == PatternPlace("", "x.pt")


@pytest.mark.parametrize("pattern", ["", "../x", "../../x", "!*.pt"])
def test_what_cannot_be_tracked(pattern: str, top: Path) -> None:
    with pytest.raises(UsageError):
        resolve(pattern, top, top)


def test_a_file_elsewhere_is_not_taken_for_a_pattern(top: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.pt").write_text("")
    with pytest.raises(UsageError, match="lies outside the repository"):
        resolve(f"{tmp_path.as_posix()}/outside.pt", top, top)


def test_a_place_for_a_person() -> None:
    assert str(PatternPlace("", "*.pt")) == '"*.pt"'
    assert str(PatternPlace("", "my *.pt")) == '"my *.pt"'
    assert str(PatternPlace("", "x\x1b[2J")).isprintable()
    assert PatternPlace("", "*.pt").file == ".gitattributes"
    assert PatternPlace("a/b", "*.pt").file == "a/b/.gitattributes"
