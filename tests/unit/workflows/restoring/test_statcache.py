from __future__ import annotations

import os
from pathlib import Path

import pytest

from git_theta.core.manifest import Entry, Manifest, dump
from git_theta.core.source import stamp
from git_theta.workflows.restoring.statcache import StatCache, now

TEXT = dump(Manifest("opaque", 3, Entry.of_inline("skeleton", "u8", (3,), bytes(3)), (), {}))
LATER = 10_000_000_000  # ns


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.write_bytes(b"abc")
    return path


def read_at(path: Path) -> int:
    status = path.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns) + LATER


def test_what_is_put_is_got(tmp_path: Path, file: Path) -> None:
    cache = StatCache(tmp_path / "cache")
    assert cache.get("model", file.stat()) is None
    assert cache.last("model") == b""
    cache.put("model", file.stat(), read_at(file), TEXT)
    assert cache.get("model", file.stat()) == TEXT
    assert StatCache(tmp_path / "cache").get("model", file.stat()) == TEXT
    assert cache.last("model") == TEXT
    assert cache.get("other", file.stat()) is None


@pytest.mark.parametrize(
    "name", ["with space", "line\nbreak", "größe", "\udcff", "-x", "a" * 5000, "../../up", ""]
)
def test_names_are_no_paths(tmp_path: Path, file: Path, name: str) -> None:
    cache = StatCache(tmp_path / "cache")
    cache.put(name, file.stat(), read_at(file), TEXT)
    assert cache.get(name, file.stat()) == TEXT
    assert [path.parent for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [
        tmp_path / "cache" / "stat"
    ]


def test_any_change_of_the_file_is_seen(tmp_path: Path, file: Path) -> None:
    cache = StatCache(tmp_path / "cache")
    os.utime(file, ns=(1_000_000_001, 1_000_000_001))
    status = file.stat()
    cache.put("model", status, read_at(file), TEXT)
    os.utime(file, ns=(1_000_000_001, 1_000_000_002))
    assert cache.get("model", file.stat()) is None, "another mtime"
    os.utime(file, ns=(1_000_000_001, 1_000_000_001))
    if os.name != "nt":
        assert stamp(file.stat()) != stamp(status), "the ctime tells that the mtime was set back"
        assert cache.get("model", file.stat()) is None
    file.write_bytes(b"abcd")
    assert cache.get("model", file.stat()) is None, "another size"
    assert cache.last("model") == TEXT, "but what it last was is known"


def test_a_file_written_lately_is_not_remembered(tmp_path: Path, file: Path) -> None:
    """It could be written again within the same tick of the clock, and look the same."""
    cache = StatCache(tmp_path / "cache")
    cache.put("model", file.stat(), now(), TEXT)
    newest = max(file.stat().st_mtime_ns, file.stat().st_ctime_ns)
    cache.put("model", file.stat(), newest + 1_000_000, TEXT)
    assert cache.get("model", file.stat()) is None


def test_whole_seconds_need_a_longer_rest(tmp_path: Path, file: Path) -> None:
    """Where a file system keeps whole seconds, two of them must have passed."""
    cache = StatCache(tmp_path / "cache")
    os.utime(file, ns=(0, (file.stat().st_ctime_ns // 10**9 + 5) * 10**9))
    newest = file.stat().st_mtime_ns
    cache.put("model", file.stat(), newest + 1_000_000_000, TEXT)
    assert cache.get("model", file.stat()) is None
    cache.put("model", file.stat(), newest + 2_100_000_000, TEXT)
    assert cache.get("model", file.stat()) == TEXT


def test_what_a_path_is_about_to_get_is_known_but_never_taken_for_a_file(
    tmp_path: Path, file: Path
) -> None:
    cache = StatCache(tmp_path / "cache")
    cache.put("model", file.stat(), read_at(file), TEXT)
    cache.expect("model", TEXT)
    assert cache.last("model") == TEXT
    assert cache.get("model", file.stat()) is None


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\n",
        b"[]\n",
        b"{}\n" + TEXT,
        b"[" * 100_000,
        b"null\n",
        b"\xff\xfe",
        b'["model"]\n' + TEXT,
    ],
)
def test_a_damaged_cache_is_no_error(tmp_path: Path, file: Path, damage: bytes) -> None:
    cache = StatCache(tmp_path / "cache")
    cache.put("model", file.stat(), read_at(file), TEXT)
    (entry,) = (tmp_path / "cache" / "stat").iterdir()
    whole = entry.read_bytes()
    for content in (
        damage,
        whole[:-1],
        whole[: len(whole) // 2],
        whole.replace(b"opaque", b"0paque"),
    ):
        entry.write_bytes(content)
        assert cache.get("model", file.stat()) is None
        assert cache.last("model") == b""
    entry.write_bytes(whole)
    assert cache.get("model", file.stat()) == TEXT


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path, file: Path) -> None:
    (tmp_path / "cache").write_bytes(b"in the way")
    cache = StatCache(tmp_path / "cache")
    cache.put("model", file.stat(), read_at(file), TEXT)
    assert cache.get("model", file.stat()) is None
    assert cache.last("model") == b""
