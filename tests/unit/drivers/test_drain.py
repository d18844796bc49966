from __future__ import annotations

import bisect
import contextlib
import os
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_theta.core.source import FileSource
from git_theta.drivers import drain
from git_theta.errors import GitError, StoreError
from git_theta.git import pktline

FULL = pktline.MAX_DATA


class Pipe:
    """Git's end of a pipe: ``data`` in reads that end at the given positions (and at the end of a
    buffer).
    """

    def __init__(self, data: bytes, cuts: Sequence[int] = ()) -> None:
        self.data, self.position = data, 0
        self.cuts = sorted({*cuts, len(data)})

    def readinto(self, buffer: memoryview) -> int:
        end = self.cuts[min(bisect.bisect_right(self.cuts, self.position), len(self.cuts) - 1)]
        piece = self.data[self.position : min(end, self.position + len(buffer))]
        buffer[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)

    def read(self, count: int) -> bytes:
        piece = self.data[self.position : self.position + count]
        self.position += len(piece)
        return piece

    def drop(self, count: int) -> None:
        if len(self.read(count)) != count:
            raise EOFError


def sent(data: bytes, *sizes: int) -> bytes:
    """``data`` as git could send it: packets of the given sizes, then full ones, then the flush."""
    parts, position = [], 0
    for size in sizes:
        piece = data[position : position + size]
        position += len(piece)
        parts += [b"%04x" % (len(piece) + 4), piece] if piece else []
    parts += [bytes(part) for part in pktline.packets(data[position:])]
    return b"".join([*parts, pktline.FLUSH])


def windows(content: drain.IncomingFile) -> bytes:
    return b"".join(window.tobytes() for window in content.windows())


@pytest.mark.parametrize("sizes", [(), (1,), (5, 5), (3, 9, 1)])
def test_cut_at_every_byte(sizes: tuple[int, ...]) -> None:
    data = b"0004 0000 fff0 packets"
    raw = sent(data, *sizes)
    for first in range(len(raw) + 1):
        for second in range(first, len(raw) + 1):
            content = drain.IncomingFile(Pipe(raw, [first, second]))
            assert windows(content) == data
            assert content.finished


def test_one_byte_at_a_time() -> None:
    data = os.urandom(FULL + 100)
    assert windows(drain.IncomingFile(Pipe(sent(data), range(70_000)))) == data


@given(
    st.integers(0, 20 * FULL + 5),
    st.lists(st.integers(0, 20 * FULL), max_size=8),
    st.lists(st.integers(1, FULL), max_size=3),
    st.integers(0, 3 * FULL),
)
@settings(max_examples=60)
def test_any_size_in_any_reads(size: int, cuts: list[int], sizes: list[int], limit: int) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    content = drain.IncomingFile(Pipe(sent(data, *sizes), cuts))
    begun = content.collect(limit)
    assert content.finished == (begun == data and len(data) <= limit) or len(begun) > limit
    assert begun + windows(content) == data
    assert content.finished
    assert windows(content) == b""
    content.skip()


@pytest.mark.parametrize(
    "size", [FULL * count + more for count in (1, 2, 15, 16, 17, 31, 32, 33) for more in (-1, 0, 1)]
)
def test_sizes_around_full_packets(size: int) -> None:
    data = os.urandom(size)
    for cuts in ((), range(0, size, 60_000), range(0, size, FULL + 4)):
        assert windows(drain.IncomingFile(Pipe(sent(data), cuts))) == data


def test_giving_up_and_taking_the_rest() -> None:
    """Whatever fails, git's content must be taken to its end."""
    data = os.urandom(40 * FULL + 17)
    pipe = Pipe(sent(data), range(0, len(data), 100_000))
    content = drain.IncomingFile(pipe)
    for _ in content.windows():
        break
    content.skip()
    assert content.finished
    assert pipe.position == len(pipe.data)


@given(st.integers(0, 3 * FULL), st.data())
@settings(max_examples=40)
def test_a_stream_that_ends_early(size: int, data: st.DataObject) -> None:
    raw = sent(bytes(size))
    end = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises((EOFError, GitError)):
        windows(drain.IncomingFile(Pipe(raw[:end])))
    with pytest.raises((EOFError, GitError)):
        drain.IncomingFile(Pipe(raw[:end])).collect(10 * FULL)


def test_more_behind_the_end_is_an_error() -> None:
    with pytest.raises(GitError):
        windows(drain.IncomingFile(Pipe(sent(bytes(FULL)) + b"more")))


# Comparing with the file in the working tree


def compare(
    tmp_path: Path, held: bytes | None, data: bytes, begun: int = 0, cuts: Sequence[int] = ()
) -> tuple[bool, bytes | None]:
    """What ``drain.compare`` says, and what is in the spool."""
    path, spool = tmp_path / "file", tmp_path / "spool"
    spool.unlink(missing_ok=True)
    if held is not None:
        path.write_bytes(held)
    file = FileSource(path) if held is not None else None
    content = drain.IncomingFile(Pipe(sent(data), cuts))
    head = content.collect(begun - 1) if begun else b""
    try:
        same = drain.compare(content, file, spool, head)
    finally:
        if file is not None:
            file.close()
    assert content.finished
    return same, spool.read_bytes() if spool.exists() else None


@pytest.mark.parametrize(
    "size", [0, 1, 1000, FULL - 1, FULL, FULL + 1, 16 * FULL, 16 * FULL + 1, 40 * FULL]
)
@pytest.mark.parametrize("begun", [0, 1, 2 * FULL])
def test_the_same_content_is_not_spooled(tmp_path: Path, size: int, begun: int) -> None:
    data = os.urandom(size)
    assert compare(tmp_path, data, data, begun) == (True, None)
    assert compare(tmp_path, data, data, begun, range(0, size, 99_999)) == (True, None)


@pytest.mark.parametrize("size", [1, FULL, FULL + 1, 16 * FULL, 20 * FULL + 3])
@pytest.mark.parametrize("begun", [0, 1, 2 * FULL])
def test_one_other_byte_anywhere_spools_all_of_it(tmp_path: Path, size: int, begun: int) -> None:
    data = os.urandom(size)
    for place in {
        0,
        size // 2,
        size - 1,
        min(size, FULL) - 1,
        min(size - 1, FULL),
        min(size - 1, 16 * FULL),
    }:
        other = bytearray(data)
        other[place] ^= 1
        assert compare(tmp_path, bytes(other), data, begun) == (False, data)


@pytest.mark.parametrize("size", [0, 1, FULL, 17 * FULL])
@pytest.mark.parametrize("begun", [0, 1, 2 * FULL])
def test_longer_shorter_and_no_file(tmp_path: Path, size: int, begun: int) -> None:
    data = os.urandom(size)
    assert compare(tmp_path, data + b"x", data, begun) == (False, data)
    assert compare(tmp_path, data[:-1], data, begun) == ((False, data) if size else (True, None))
    assert compare(tmp_path, b"", data, begun) == ((False, data) if size else (True, None))
    assert compare(tmp_path, None, data, begun) == (False, data)


def test_a_spool_that_cannot_be_written_is_our_error(tmp_path: Path) -> None:
    content = drain.IncomingFile(Pipe(sent(bytes(3 * FULL))))
    with pytest.raises(StoreError, match="cannot be written"):
        drain.compare(content, None, tmp_path / "no" / "folder" / "spool")
    content.skip()
    assert content.finished


def test_is_content_of(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    with FileSource(path) as file:
        assert drain.is_content_of(file, b"data")
        assert not drain.is_content_of(file, b"dat")
        assert not drain.is_content_of(file, b"dat4")
        assert not drain.is_content_of(file, b"data!")
    assert not drain.is_content_of(None, b"")


@pytest.mark.parametrize("sizes", [(), (1,), (5, 5, 100)])
@pytest.mark.parametrize("size", [0, 1, FULL - 1, FULL, FULL + 1, 3 * FULL + 7])
def test_dropping_counts_and_stops_at_the_end_of_the_file(
    size: int, sizes: tuple[int, ...]
) -> None:
    pipe = Pipe(sent(bytes(size), *sizes) + b"0004next")
    content = drain.IncomingFile(pipe)
    begun = content.collect(3)
    assert len(begun) + content.drop() == size
    assert content.finished
    assert content.drop() == 0
    assert pipe.read(8) == b"0004next"


def test_dropping_a_torn_stream() -> None:
    for raw in (b"", b"00", b"0009abc", b"0009abcde"):
        with pytest.raises((EOFError, GitError)):
            drain.IncomingFile(Pipe(raw)).drop()


@pytest.mark.skipif(not hasattr(os, "pipe"), reason="no pipes")
def test_dropping_from_a_real_pipe() -> None:
    from git_theta.drivers.pipes import Input

    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as source, open(writing, "wb", buffering=0) as target:
        target.write(sent(bytes(30_000)) + b"0005x")
        stream = Input(source)  # opened without a buffer
        content = drain.IncomingFile(stream)
        assert content.drop() == 30_000
        assert stream.read(5) == b"0005x"
        target.close()
        with pytest.raises(EOFError):
            stream.drop(1)
    with open(os.devnull, "rb", buffering=0) as file, pytest.raises(EOFError):
        Input(file).drop(1)


@pytest.mark.skipif(not hasattr(os, "pipe"), reason="no pipes")
@given(
    st.lists(st.integers(1, 3000) | st.sampled_from([65536, 70_001, 1 << 20]), max_size=12),
    st.lists(
        st.tuples(
            st.sampled_from(["read", "readinto", "drop"]), st.integers(1, 5000) | st.just(200_000)
        ),
        max_size=30,
    ),
    st.booleans(),
)
def test_whatever_git_writes_is_read_in_order(
    writes: list[int], reads: list[tuple[str, int]], spliced: bool
) -> None:
    from git_theta.drivers.pipes import Input

    data = random.Random(len(writes)).randbytes(sum(writes))
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb", buffering=0) as target, contextlib.suppress(BrokenPipeError):
            position = 0
            for size in writes:
                position += target.write(data[position : position + size])
            target.write(data[position:])  # what a full pipe did not take

    writer, position = threading.Thread(target=write), 0
    writer.start()
    with open(reading, "rb", buffering=0) as source:
        stream = Input(source)
        stream._movable = stream._movable and spliced
        for kind, count in reads:
            left = len(data) - position
            if kind == "read":
                piece = stream.read(count)
                assert piece == data[position : position + count]
                position += len(piece)
            elif kind == "readinto":
                buffer = bytearray(count)
                got = stream.readinto(memoryview(buffer))
                assert (got > 0) == (left > 0)
                assert buffer[:got] == data[position : position + got]
                position += got
            elif count <= left:
                stream.drop(count)
                position += count
            else:
                with pytest.raises(EOFError):
                    stream.drop(count)
                position = len(data)
        assert stream.read(len(data) + 1) == data[position:]
        for descriptor in (
            stream._nowhere,
            *((stream._own[0].fileno(), stream._own[1]) if stream._own else ()),
        ):
            if descriptor >= 0:
                os.close(descriptor)
    writer.join()
