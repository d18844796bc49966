from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.errors import GitError
from git_theta.git import pktline

LINES = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=30)


def packed(data: bytes) -> bytes:
    return b"".join(bytes(part) for part in pktline.packets(data))


@given(st.lists(LINES, max_size=5))
def test_a_list_comes_back(lines: list[str]) -> None:
    stream = io.BytesIO(b"".join(map(pktline.text, lines)) + pktline.FLUSH + b"behind")
    assert pktline.read_list(stream) == lines
    assert stream.read() == b"behind"


@given(st.binary(max_size=20).map(lambda name: name.replace(b"\n", b"")))
def test_names_of_any_bytes_come_back(name: bytes) -> None:
    line = "pathname=" + name.decode("utf-8", "surrogateescape")
    assert pktline.text(line) == b"%04x" % (len(name) + 14) + b"pathname=" + name + b"\n"
    assert pktline.read_list(io.BytesIO(pktline.text(line) + pktline.FLUSH)) == [line]


@pytest.mark.parametrize("size", [0, 1, 65515, 65516, 65517, 131032, 131033])
def test_content_comes_back(size: int) -> None:
    data = bytes(range(256)) * 600
    data = data[:size]
    raw = packed(data)
    stream, parts = io.BytesIO(raw + pktline.FLUSH), []
    while (packet := pktline.read_packet(stream)) is not None:
        assert 0 < len(packet) <= pktline.MAX_DATA
        parts.append(packet)
    assert b"".join(parts) == data
    assert len(raw) == size + 4 * -(-size // pktline.MAX_DATA)


def test_packets_do_not_copy() -> None:
    data = bytearray(100)
    _, piece = pktline.packets(data)
    data[0] = 7
    assert bytes(piece)[0] == 7


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"0",
        b"00",
        b"000",
        b"0001",
        b"0002",
        b"0003",
        b"fff1",
        b"ffff",
        b"zzzz",
        b"-001",
        b" 010",
        b"0x10",
        b"1_00",
        b"+010",
    ],
)
def test_broken_heads(head: bytes) -> None:
    if head:
        with pytest.raises(GitError, match="broken packet"):
            pktline.length(head)
    else:
        with pytest.raises(EOFError):
            pktline.read_packet(io.BytesIO(head))


@pytest.mark.parametrize(
    ("head", "size"), [(b"0000", 0), (b"0004", 4), (b"000a", 10), (b"000A", 10), (b"fff0", 65520)]
)
def test_heads(head: bytes, size: int) -> None:
    assert pktline.length(head) == size


def test_a_stream_that_ends_within_a_packet() -> None:
    with pytest.raises(GitError, match="ended within a packet"):
        pktline.read_packet(io.BytesIO(b"0010abc"))


def test_a_list_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pktline, "LIST_LIMIT", 100)
    assert len(pktline.read_list(io.BytesIO(pktline.text("12345") * 10 + pktline.FLUSH))) == 10
    with pytest.raises(GitError, match="larger than 100 bytes"):
        pktline.read_list(io.BytesIO(pktline.text("12345") * 11))
