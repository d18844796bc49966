"""Finding plugins: the quick look at the files agrees with importlib.metadata."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from git_theta.plugins import discovery


def package(folder: Path, name: str, entry_points: str | None) -> None:
    info = folder / f"{name.replace('-', '_')}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    if entry_points is not None:
        (info / "entry_points.txt").write_text(entry_points)


def on_path(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    monkeypatch.setattr(sys, "path", [*map(str, folders)])
    monkeypatch.setattr(
        sys, "meta_path", [finder for finder in sys.meta_path if discovery._standard(finder)]
    )


def test_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "other", "[console_scripts]\nx = y:z\n")
    package(tmp_path, "bare", None)
    on_path(monkeypatch, tmp_path, tmp_path / "absent")
    assert discovery.find() == []


def test_offers_come_by_distribution_then_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path / "one", "zeta", "[git_theta]\na = zeta_module\n")
    package(
        tmp_path / "two",
        "alpha",
        "[console_scripts]\nx = y:z\n\n[git_theta]\nb = alpha_module.sub\na = alpha_module\n",
    )
    on_path(monkeypatch, tmp_path / "one", tmp_path / "two")
    assert [
        (offer.provider, offer.entry_point.name, offer.entry_point.value)
        for offer in discovery.find()
    ] == [
        ("alpha 1.5", "a", "alpha_module"),
        ("alpha 1.5", "b", "alpha_module.sub"),
        ("zeta 1.5", "a", "zeta_module"),
    ]


def test_the_first_of_two_copies_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one", "two"):
        package(tmp_path / folder, "twin", "[git_theta]\np = twin\n")
    on_path(monkeypatch, tmp_path / "one", tmp_path / "two")
    assert len(discovery.find()) == 1


def test_archives_and_other_finders_are_left_to_importlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr(
            "zipped-1.5.dist-info/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 1.5\n"
        )
        target.writestr("zipped-1.5.dist-info/entry_points.txt", "[git_theta]\np = zipped\n")
    on_path(monkeypatch, archive)
    assert [offer.provider for offer in discovery.find()] == ["zipped 1.5"]

    class Finder:
        def find_distributions(self, context: object = None) -> list[object]:
            return []

    on_path(monkeypatch, tmp_path / "empty")
    assert not discovery._any_offered(sys.path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert discovery._any_offered(sys.path)
