"""Refreshing the index: the entries' stat data, and the lock, which is removed by whoever made it
and by nobody else.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import pytest

from git_theta.git.repository import Repository
from git_theta.git.writing import index


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    entry = (
        struct.pack(">10I", *[0] * 6, 0o100644, 0, 0, 0) + bytes(20) + struct.pack(">H", 1) + b"m\0"
    )
    data = struct.pack(">4sII", b"DIRC", 2, 1) + entry.ljust(72, b"\0")
    (tmp_path / "index").write_bytes(data + hashlib.sha1(data).digest())
    (tmp_path / "m").write_bytes(b"model")
    return Repository(tmp_path, tmp_path, tmp_path, 40)


@pytest.fixture
def lock(repository: Repository) -> Path:
    return repository.index.with_name("index.lock")


def refreshed(repository: Repository) -> bool:
    return index.refresh(repository, {"m": (repository.git_dir / "m").stat()})


def test_the_size_is_in_the_index_then(repository: Repository, lock: Path) -> None:
    assert refreshed(repository)
    assert struct.unpack(">10I", repository.index.read_bytes()[12:52])[9] == len(b"model")
    assert not lock.exists()


def test_a_lock_that_was_made_after_ours_stays(
    repository: Repository, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(source: Path, target: Path) -> None:
        rename(source, target)
        lock.write_bytes(b"theirs")

    rename = os.replace
    monkeypatch.setattr(os, "replace", replace)
    assert refreshed(repository)
    assert lock.read_bytes() == b"theirs"


def test_a_lock_that_took_the_place_of_ours_stays(
    repository: Repository, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        lock.unlink()
        lock.write_bytes(b"theirs")

    before = repository.index.read_bytes()
    monkeypatch.setattr(os, "fsync", fsync)
    assert not refreshed(repository)
    assert lock.read_bytes() == b"theirs"
    assert repository.index.read_bytes() == before


@pytest.mark.parametrize("trouble", ["version", "disk", "interrupted"])
def test_ours_goes_whatever_happens(
    repository: Repository, lock: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "no space") if trouble == "disk" else KeyboardInterrupt

    if trouble == "version":
        repository.index.write_bytes(b"DIRC\0\0\0\x09" + bytes(40))
    else:
        monkeypatch.setattr(os, "fsync", fail)
    if trouble == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            refreshed(repository)
    else:
        assert not refreshed(repository)
    assert not lock.exists()


def test_a_lock_of_someone_else_is_left_alone(repository: Repository, lock: Path) -> None:
    lock.write_bytes(b"theirs")
    assert not refreshed(repository)
    assert lock.read_bytes() == b"theirs"
