from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core.layout import Checksum, Extent, Layout, unique_names
from git_theta.errors import FormatError


def extent(name: str, offset: int, length: int, *aliases: str) -> Extent:
    return Extent(name, "u8", (length,), offset, length, aliases)


def test_what_is_accepted() -> None:
    Layout("x", 0, ())
    Layout("x", 10, (extent("a", 0, 4), extent("empty", 4, 0), extent("b", 4, 6)))
    Layout(
        "x",
        20,
        (extent("a", 4, 3, "tied"), extent("b", 7, 2)),
        (Checksum(0, 0, 0), Checksum(9, 4, 3)),
    )
    Layout("x", 4, (extent("empty", 2, 0),), (Checksum(0, 0, 0),))


@pytest.mark.parametrize(
    "extents",
    [
        (extent("a", 0, 4), extent("b", 3, 2)),
        (extent("b", 4, 2), extent("a", 0, 4)),
        (extent("a", 0, 11),),
        (extent("a", 11, 0),),
        (extent("a", -1, 2),),
        (extent("a", 0, 1), extent("a", 1, 1)),
        (extent("a", 0, 1), extent("b", 1, 1, "a")),
        (extent("a", 0, 1, "a"),),
        (Extent("a", "f32", (2,), 0, 4),),
        (Extent("a", "f32", (-1,), 0, -4),),
        (Extent("a", "f33", (1,), 0, 4),),
        (Extent("a", "f32", (2**62,), 0, 2**64),),
    ],
    ids=range(12),
)
def test_bad_extents(extents: tuple[Extent, ...]) -> None:
    with pytest.raises(FormatError):
        Layout("x", 10, extents)


@pytest.mark.parametrize(
    "checksums",
    [
        (Checksum(7, 0, 7),),
        (Checksum(-1, 0, 0),),
        (Checksum(0, 0, 1),),
        (Checksum(0, -1, 1),),
        (Checksum(0, 0, -1),),
        (Checksum(0, 0, 0), Checksum(2, 0, 0)),
        (Checksum(6, 0, 0), Checksum(0, 0, 0)),
        (Checksum(3, 0, 0),),
        (Checksum(4, 0, 0),),
        (Checksum(5, 0, 0),),
    ],
    ids=range(10),
)
def test_bad_checksums(checksums: tuple[Checksum, ...]) -> None:
    with pytest.raises(FormatError):
        Layout("x", 10, (extent("a", 4, 2),), checksums)


def test_a_checksum_field_behind_an_empty_tensor_may_not_lie_in_the_next_one() -> None:
    with pytest.raises(FormatError, match="checksum"):
        Layout("x", 10, (extent("empty", 2, 0), extent("a", 3, 2)), (Checksum(0, 0, 0),))


def test_names_in_messages_are_harmless() -> None:
    with pytest.raises(FormatError) as caught:
        Layout("x", 1, (extent("\x1b[31m\n" * 1000, 0, 2),))
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@given(st.lists(st.sampled_from(["x", "y", "x#2", "x#3", "x#2#2", ""]), max_size=12))
def test_unique_names(names: list[str]) -> None:
    unique = unique_names(names)
    assert len(unique) == len(names) == len(set(unique))
    assert all(new.startswith(old) for new, old in zip(unique, names, strict=True))
    for number, name in enumerate(names):
        if name not in names[:number] and name not in unique[:number]:
            assert unique[number] == name


def test_unique_names_of_many_equal_ones() -> None:
    assert unique_names(["x"] * 20_000)[-1] == "x#20000"
