"""HDF5: what is found, what is refused, what is never followed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from cutting import contents, cut, mutants, survives, told

from git_theta.checkpoints import hdf5
from git_theta.checkpoints.hdf5 import Hdf5Format
from git_theta.core.contracts import CheckpointFormat
from git_theta.core.source import BytesSource
from git_theta.errors import FormatError

FORMAT = Hdf5Format()
DATA = Path(__file__).parents[2] / "data" / "formats"
SMALL, LATEST, EXTERNAL, LONG = (
    (DATA / f"{name}.h5").read_bytes() for name in ("small", "latest", "external", "long")
)


def test_is_a_format() -> None:
    assert isinstance(FORMAT, CheckpointFormat)


def test_what_h5py_writes() -> None:
    layout = cut(FORMAT, SMALL)
    many = {f"many/{number:02}": "f32[2]" for number in range(20)}
    chunks = {f"chunked/c/{row}/{column}": "f32[2, 4]" for row in range(3) for column in range(2)}
    assert told(layout) == {
        "layers/dense/vars/0": "f32[3, 4]",
        "layers/dense/vars/1": "f16[4]",
        "hard": "i64[]",
        "big": "u8[3, 4]",
        "flags": "bool[2]",
        "text": "u8[2, 3]",
        "var": "u8[2, 16]",
        "complex": "u8[2, 8]",
        **many,
        **chunks,
    }
    found = contents(layout, SMALL)
    assert found["layers/dense/vars/0"] == struct.pack("<12f", *range(1, 13))
    assert found["chunked/c/0/1"] == struct.pack("<8f", 5, 6, 0, 0, 11, 12, 0, 0)
    assert found["many/07"] == struct.pack("<2f", 7, 8)
    assert next(e for e in layout.extents if e.name == "hard").aliases == ("scalar",)


def test_the_newest_form() -> None:
    layout = cut(FORMAT, LATEST)
    numbered = {f"a/b/n{number}": "f32[2]" for number in range(5)}
    assert told(layout) == {"a/b/w": "f32[3, 4]", "bias": "f64[4]", "one": "f32[4, 4]", **numbered}
    assert contents(layout, LATEST)["one"] == struct.pack("<16f", *range(1, 17))


def test_long_lists_of_links() -> None:
    layout = cut(FORMAT, LONG)
    expected = {
        f"optimizer/vars/{number}": struct.pack("<2f", number, number + 1) for number in range(40)
    }
    assert contents(layout, LONG) == expected


def test_other_files_are_not_followed() -> None:
    assert b"/etc/passwd" in EXTERNAL
    assert told(cut(FORMAT, EXTERNAL)) == {"w": "f32[2]"}
    assert b"/tmp/none.raw" in SMALL
    assert "away" not in told(cut(FORMAT, SMALL))


def replaced(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (SMALL[:-1], "truncated"),
        (SMALL[:20], "announced"),
        (replaced(SMALL, 8, b"\x09"), "version 9"),
        (replaced(SMALL, 13, b"\x03"), "addresses have 3"),
        (replaced(SMALL, 64, struct.pack("<Q", 2**63)), "spoken of"),
        (replaced(SMALL, 64, struct.pack("<Q", 1000)), "no object's header"),
        (SMALL.replace(b"TREE\x00", b"TREE\x05"), "no B-tree"),
        (SMALL.replace(b"HEAP", b"HEAT"), "no heap"),
        (LONG.replace(b"BTHD", b"BTHX"), "no B-tree of names"),
        (LONG.replace(b"BTLF", b"BTLX"), "no B-tree's node"),
        (LONG.replace(b"FRHP", b"FRHX"), "no heap of links"),
        (LONG.replace(b"FHIB", b"FHIX"), "outside of its heap"),
        (SMALL.replace(b"SNOD", b"SNOB"), "no table"),
    ],
)
def test_broken_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        FORMAT.scan(BytesSource(data))


def test_a_group_that_holds_itself() -> None:
    """Every link of one table leads back to the root: each header is read once."""
    data = bytearray(SMALL)
    at = data.index(b"SNOD") + 8 + 8
    data[at : at + 8] = data[64:72]
    assert FORMAT.scan(BytesSource(bytes(data))).size == len(data)


@pytest.mark.parametrize(
    ("limit", "value"),
    [("LINKS_LIMIT", 5), ("STEPS_LIMIT", 2), ("NAMES_LIMIT", 20), ("MESSAGES_LIMIT", 1)],
)
def test_limits(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(hdf5, limit, value)
    with pytest.raises(FormatError, match="more than"):
        FORMAT.scan(BytesSource(SMALL))


def test_damaged_files() -> None:
    assert min(survives(FORMAT, mutants([SMALL, LATEST, EXTERNAL, LONG], 1500)))
