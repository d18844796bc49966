from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from git_theta.core import dtypes, objects
from git_theta.core.objects import Header
from git_theta.core.tensors import Spec
from git_theta.errors import FormatError, PayloadError

WORDS = st.from_regex(r"[a-z][a-z0-9_-]{0,30}", fullmatch=True)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    name = draw(st.sampled_from(dtypes.names()))
    shape = tuple(draw(st.lists(st.integers(0, 2**40), max_size=8)))
    try:
        dtypes.nbytes(name, shape)
    except FormatError:
        shape = (0,)
    spec, part = Spec(name, shape), draw(st.integers(0, 4096))
    identity = draw(st.binary(min_size=32, max_size=32)).hex()
    return Header(draw(WORDS), spec, identity, part)


def having(header: Header, payload: bytes) -> Header:
    small = header.spec.nbytes < objects.BUNDLED
    return header._replace(length=len(payload) if small else 0)


@given(headers(), st.binary(max_size=20))
def test_parse_is_the_inverse_of_dump(header: Header, payload: bytes) -> None:
    header = having(header, payload)
    data = objects.dump(header)
    assert objects.parse(memoryview(data + payload)) == (header, len(data))


@given(headers(), st.binary(max_size=20), st.integers(1, 2**40))
def test_a_payload_of_another_length_than_it_says(
    header: Header, payload: bytes, wrong: int
) -> None:
    header = having(header, payload)
    data = objects.dump(header._replace(length=header.length + wrong)) + payload
    with pytest.raises(PayloadError, match="as long as"):
        objects.parse(memoryview(data))


@given(headers(), st.data())
def test_a_header_that_is_cut_short(header: Header, data: st.DataObject) -> None:
    whole = objects.dump(header)
    with pytest.raises(PayloadError):
        objects.parse(memoryview(whole[: data.draw(st.integers(0, len(whole) - 1))]))


@given(headers(), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4))
@example(Header("dense", Spec("f32", (2,)), "00" * 32), [(4, 255)])
def test_damaged_headers(header: Header, changes: list[tuple[int, int]]) -> None:
    data = bytearray(objects.dump(header))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        found, length = objects.parse(memoryview(data))
    except PayloadError:
        return
    assert length <= len(data)
    assert found.spec.nbytes >= 0


@given(st.binary(max_size=40))
def test_any_bytes(data: bytes) -> None:
    for prefix in (b"", b"GTO1", b"GTO1\5dense\3f32"):
        with suppress(PayloadError):
            objects.parse(memoryview(prefix + data))


def test_what_it_looks_like() -> None:
    assert (
        objects.dump(Header("dense", Spec("bf16", (2, 300)), "ab" * 32, 1, 200))
        == b"GTO1\x05dense\x04bf16\x02\x02\xac\x02\x01" + b"\xab" * 32 + b"\xc8\x01"
    )


REST = bytes(33)  # a digest, and no payload


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GTO",
        b"GTO2\x05dense\x03f32\x00\x00" + REST,
        b"GTO1\x00\x03f32\x00\x00" + REST,
        b"GTO1\x05DENSE\x03f32\x00\x00" + REST,
        b"GTO1\x05dens\n\x03f32\x00\x00" + REST,
        b"GTO1\x05dense\x03f31\x00\x00" + REST,
        b"GTO1\x05dense\x03f32\xff" + b"\xff" * 300,
        b"GTO1\x05dense\x03f32\x02" + b"\xff" * 8 + b"\x7f\x02\x00" + REST,
        b"GTO1\x05dense\x07q4_0\x01\x01\x00" + REST,
        b"GTO1\x05dense\x03f32\x00\x00" + REST[:20],
        b"GTO1\x05dense\x03f32\x00\x00" + REST[:-1] + b"\x01",
    ],
    ids=range(12),
)
def test_refused(data: bytes) -> None:
    with pytest.raises(PayloadError):
        objects.parse(memoryview(data))
