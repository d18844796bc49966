from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core import varint
from git_theta.errors import PayloadError

NUMBERS = st.integers(0, 2**63 - 1)


@given(st.lists(NUMBERS), st.binary(max_size=3))
def test_parse_is_the_inverse_of_dump(numbers: list[int], behind: bytes) -> None:
    data = b"".join(map(varint.dump, numbers)) + behind
    position, found = 0, []
    for _ in numbers:
        value, position = varint.parse(memoryview(data), position)
        found.append(value)
    assert found == numbers
    assert data[position:] == behind


@given(NUMBERS)
def test_encoding_is_the_shortest(number: int) -> None:
    assert len(varint.dump(number)) == max(1, -(-number.bit_length() // 7))


@pytest.mark.parametrize(
    ("number", "data"),
    [
        (0, b"\0"),
        (127, b"\x7f"),
        (128, b"\x80\1"),
        (300, b"\xac\2"),
        (2**63 - 1, b"\xff" * 8 + b"\x7f"),
    ],
)
def test_examples(number: int, data: bytes) -> None:
    assert varint.dump(number) == data
    assert varint.parse(data, 0) == (number, len(data))


@given(NUMBERS, st.data())
def test_cut_short(number: int, data: st.DataObject) -> None:
    whole = varint.dump(number)
    with pytest.raises(PayloadError):
        varint.parse(whole[: data.draw(st.integers(0, len(whole) - 1))], 0)


@pytest.mark.parametrize("data", [b"\xff" * 10, b"\x80" * 9 + b"\1", b"\xff" * 1000])
def test_too_large(data: bytes) -> None:
    with pytest.raises(PayloadError):
        varint.parse(data, 0)


@given(st.binary(max_size=12))
def test_any_bytes_give_a_number_below_2_to_the_63_or_an_error(data: bytes) -> None:
    try:
        value, position = varint.parse(data, 0)
    except PayloadError:
        return
    assert 0 <= value < 2**63
    assert 0 < position <= len(data)
