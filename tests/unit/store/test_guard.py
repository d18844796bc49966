"""Locks of a store: as POSIX has them, and as Windows has them, played out here."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from git_theta.errors import StoreError
from git_theta.store import guard


class Windows:
    """What ``msvcrt.locking`` does: a byte belongs to one open file until that is closed."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.held: dict[int, range] = {}
        self.fault = 0

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        assert mode == self.LK_NBLCK
        if self.fault:
            raise OSError(self.fault, os.strerror(self.fault))
        start = os.lseek(descriptor, 0, os.SEEK_CUR)
        wanted = range(start, start + count)
        for taken in self.held.values():
            if max(taken.start, wanted.start) < min(taken.stop, wanted.stop):
                raise PermissionError(errno.EACCES, "Permission denied")
        self.held[descriptor] = wanted

    def close(self, descriptor: int) -> None:
        self.held.pop(descriptor, None)
        os.close(descriptor)


@pytest.fixture(params=["posix", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Windows:
    windows = Windows()
    if request.param == "windows":
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setitem(sys.modules, "msvcrt", windows)
        seen = {name: getattr(os, name) for name in dir(os)}
        monkeypatch.setattr(guard, "os", SimpleNamespace(**{**seen, "close": windows.close}))
    elif sys.platform == "win32":
        pytest.skip("no flock here")
    monkeypatch.setattr(guard, "_PATIENCE", 0.0)
    return windows


def held(folder: Path) -> int:
    descriptor = guard.hold(folder)
    assert descriptor is not None
    return descriptor


def test_many_hold_a_store_and_one_deletes(system: Windows, tmp_path: Path) -> None:
    descriptors = [held(tmp_path) for _ in range(3)]
    for descriptor in descriptors:
        with guard.if_alone(tmp_path) as alone:
            assert alone is False
        with pytest.raises(StoreError, match="another git command"), guard.exclusive(tmp_path):
            pytest.fail("held by others")
        system.close(descriptor)
    with guard.exclusive(tmp_path), guard.if_alone(tmp_path) as alone:
        assert alone is False
    with guard.if_alone(tmp_path) as alone:
        assert alone is True
    with guard.exclusive(tmp_path):
        pass


def test_turns_are_taken_and_given_back(system: Windows, tmp_path: Path) -> None:
    for _ in range(2):
        with guard.turn(tmp_path), guard.if_alone(tmp_path) as alone:
            assert alone is False
    with guard.if_alone(tmp_path) as alone:
        assert alone is True
    assert system.held == {}


def test_without_the_folder_nothing_is_held(system: Windows, tmp_path: Path) -> None:
    assert guard.hold(tmp_path / "none") is None
    with guard.if_alone(tmp_path / "none") as alone:
        assert alone is None
    with pytest.raises(StoreError, match="cannot be read"), guard.exclusive(tmp_path / "none"):
        pytest.fail("there is nothing to hold")
    assert system.held == {}


@pytest.mark.parametrize("system", ["windows"], indirect=True)
def test_a_file_system_without_locks_stops_nobody(system: Windows, tmp_path: Path) -> None:
    system.fault = errno.ENOSYS
    assert guard.hold(tmp_path) is None
    with guard.if_alone(tmp_path) as alone:
        assert alone is None
    with guard.exclusive(tmp_path), guard.turn(tmp_path):
        pass
