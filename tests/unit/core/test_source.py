from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.source import BytesSource, FileSource
from git_theta.errors import FileChanged, FormatError


@given(st.binary(max_size=50), st.integers(-5, 60), st.integers(-5, 60))
def test_reads_are_exact_or_refused(data: bytes, offset: int, length: int) -> None:
    source = BytesSource(data)
    if offset < 0 or length < 0 or offset + length > len(data):
        with pytest.raises(FormatError, match="outside the file"):
            source.read(offset, length)
    else:
        assert source.read(offset, length) == data[offset : offset + length]
        buffer = bytearray(length)
        source.read_into(offset, memoryview(buffer))
        assert bytes(buffer) == data[offset : offset + length]


def test_any_buffer_will_do() -> None:
    assert BytesSource(memoryview(bytearray(b"abcdefgh")).cast("I")).read(2, 3) == b"cde"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = os.urandom(100_000)
    path.write_bytes(data)
    with FileSource(path) as source:
        assert source.size == len(data)
        assert source.read(99_990, 10) == data[-10:]
        assert source.read(0, 0) == b""
        for offset, length in ((99_991, 10), (-1, 1), (0, 100_001), (0, -1)):
            with pytest.raises(FormatError):
                source.read(offset, length)
    with pytest.raises(ValueError, match="closed"):
        source.read(0, 1)


def test_several_threads(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = os.urandom(1 << 20)
    path.write_bytes(data)
    wrong: list[int] = []
    with FileSource(path) as source:

        def read(start: int) -> None:
            wrong.extend(
                offset
                for offset in range(start, len(data) - 1000, 8000)
                if source.read(offset, 1000) != data[offset : offset + 1000]
            )

        threads = [threading.Thread(target=read, args=(1000 * number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_file_that_becomes_shorter_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    with FileSource(path) as source:
        os.truncate(path, 5_000)
        assert source.read(0, 5_000) == bytes(5_000)
        with pytest.raises(FileChanged, match="at byte 5000"):
            source.read(4_000, 2_000)


def test_a_file_that_grows_stays_as_long_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with FileSource(path) as source:
        with path.open("ab") as file:
            file.write(b"def")
        assert source.size == 3
        with pytest.raises(FormatError):
            source.read(2, 2)
