"""The zip reader, and the format that takes any zip archive."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.checkpoints.containers import stored_zip, zip_container
from git_theta.checkpoints.containers.stored_zip import SKELETON_LIMIT, StoredZipFormat
from git_theta.checkpoints.containers.zip_container import DIRECTORY_LIMIT, read_archives
from git_theta.core.contracts import CheckpointFormat
from git_theta.core.layout import Layout
from git_theta.core.source import BytesSource
from git_theta.errors import FormatError

FORMAT = StoredZipFormat()
CONTENT = {"r/a": b"first", "r/b": b"", "r/é": b"third" * 20, "last": bytes(64)}


class Pipe(io.RawIOBase):
    """A file that cannot seek: zipfile then writes data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.data += memoryview(data)  # type: ignore[arg-type]
        return memoryview(data).nbytes  # type: ignore[arg-type]


def archive(
    content: dict[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
    streamed: bool = False,
    comment: bytes = b"",
) -> bytes:
    target: io.RawIOBase | io.BytesIO = Pipe() if streamed else io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as file:
        file.comment = comment
        for name, data in (CONTENT if content is None else content).items():
            file.writestr(zipfile.ZipInfo(name), data, method)
    return bytes(target.data) if isinstance(target, Pipe) else target.getvalue()  # type: ignore[union-attr]


def scan(data: bytes) -> Layout:
    return FORMAT.scan(BytesSource(data))


def contents(data: bytes) -> dict[str, bytes]:
    return {extent.name: data[extent.offset : extent.end] for extent in scan(data).extents}


def patched(
    data: bytes, signature: bytes, number: int, offset: int, form: str, value: object
) -> bytes:
    """``data`` with a field changed in record ``number`` (from 0, or from -1 at the end) that
    starts with ``signature``.
    """
    starts = [at for at in range(len(data)) if data.startswith(signature, at)]
    changed = bytearray(data)
    struct.pack_into(form, changed, starts[number] + offset, value)
    return bytes(changed)


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


@pytest.mark.parametrize("streamed", [False, True])
def test_every_stored_entry_is_an_extent(streamed: bool) -> None:
    data = archive(streamed=streamed)
    assert contents(data) == CONTENT
    assert {extent.dtype for extent in scan(data).extents} == {"u8"}
    assert scan(data).format == "stored-zip"


@pytest.mark.parametrize("streamed", [False, True])
def test_checksums_behind_the_data_are_proposed(streamed: bool) -> None:
    data = archive(streamed=streamed)
    sums = scan(data).checksums
    assert len(sums) == len(CONTENT) * (2 if streamed else 1)
    for check in sums:
        assert int.from_bytes(data[check.offset : check.offset + 4], "little") == zlib.crc32(
            data[check.start : check.start + check.length]
        )
        assert check.offset >= check.start + check.length


def test_compressed_entries_stay_in_the_skeleton() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("packed", b"x" * 1000, zipfile.ZIP_DEFLATED)
        file.writestr("plain", b"y" * 10)
        file.writestr("folder/", b"")
    assert contents(target.getvalue()) == {"plain": b"y" * 10}
    assert len(scan(target.getvalue()).checksums) == 2  # of the plain ones


def test_a_large_compressed_entry_is_an_extent_of_its_own() -> None:
    import random

    content = {"packed": random.Random(1).randbytes(SKELETON_LIMIT + 1)}
    layout = scan(archive(content, zipfile.ZIP_DEFLATED))
    assert [extent.name for extent in layout.extents] == ["packed"]
    assert layout.extents[0].length > SKELETON_LIMIT
    assert layout.checksums == ()


def test_encrypted_entries_stay_in_the_skeleton() -> None:
    data = patched(patched(archive(), LOCAL, 0, 6, "<H", 1), CENTRAL, 0, 8, "<H", 1)
    assert set(contents(data)) == set(CONTENT) - {"r/a"}


def test_names_in_no_valid_utf8_are_read_as_cp437() -> None:
    data = archive({"x\x7e": b"1"}).replace(b"x\x7e", b"x\xff")
    assert contents(data) == {"x\xa0": b"1"}


def test_an_empty_archive_has_no_extents() -> None:
    assert scan(archive({})).extents == ()
    assert FORMAT.sniff(archive({}))


@pytest.mark.parametrize(
    "data",
    [
        archive(comment=b"a comment"),
        archive(comment=b"PK\5\6" + bytes(12)),
        archive() + b"\n",
        archive() + bytes(60_000),
        b"#!/bin/sh\n" + archive(),
        b"PK\3\4" * 30 + archive(),
    ],
)
def test_bytes_around_the_archive_do_no_harm(data: bytes) -> None:
    assert contents(data) == CONTENT


def test_bytes_between_entries_do_no_harm() -> None:
    data = archive({"a": b"1", "b": b"2"}, streamed=True)
    second, directory = data.index(LOCAL, 4), data.index(CENTRAL)
    for gap in (1, 40, 64, 65, 1000):
        moved = data[:second] + bytes(gap) + data[second:]
        moved = patched(moved, CENTRAL, 1, 42, "<I", second + gap)
        moved = patched(moved, END, 0, 16, "<I", directory + gap)
        assert contents(moved) == {"a": b"1", "b": b"2"}
        assert len(scan(moved).checksums) == 4


def test_archives_behind_each_other_are_all_read() -> None:
    data = (
        archive({"a": b"1", "b": b"22"}, streamed=True)
        + archive({"a": b"333"})
        + archive({"c": b"4"}, streamed=True)
    )
    assert contents(data) == {"a": b"1", "b": b"22", "a#2": b"333", "c": b"4"}
    assert len(scan(data).checksums) == 2 * 2 + 1 + 2
    assert [len(found.entries) for found in read_archives(BytesSource(data))] == [2, 1, 1]
    assert contents(b"junk" + archive({"a": b"1"}) + archive({"b": b"2"})) == {"a": b"1", "b": b"2"}


def test_an_archive_in_front_that_is_not_sound_is_refused() -> None:
    with pytest.raises(FormatError):
        scan(archive().replace(LOCAL, b"PK\3\5", 1) + archive())


def test_the_number_of_archives_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_container, "ARCHIVES_LIMIT", 3)
    assert len(contents(archive({"a": b""}) * 3)) == 3
    with pytest.raises(FormatError, match="more than 3 archives"):
        scan(archive({"a": b""}) * 4)


@pytest.mark.parametrize("limit", [100, 200, 300, 10_000])
def test_long_gaps_are_not_left_to_the_skeleton(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(stored_zip, "SKELETON_LIMIT", limit)
    data = archive({"a": b"1", "b": b"2"}, streamed=True)
    second, directory = data.index(LOCAL, 4), data.index(CENTRAL)
    moved = b"x" * 300 + data[:second] + bytes(250) + data[second:] + b"y" * 305
    moved = patched(moved, CENTRAL, 1, 42, "<I", second + 250)
    moved = patched(moved, END, 0, 16, "<I", directory + 250)
    found = scan(moved).extents
    assert len(scan(moved).checksums) == 4
    rest = [extent.name for extent in found if extent.name.startswith("rest")]
    assert (
        rest == {100: ["rest", "rest#2"], 200: ["rest", "rest#2"], 300: ["rest"], 10_000: []}[limit]
    )


# -- zip64 -----------------------------------------------------------------------------------------


def zip64(
    entries: list[tuple[bytes, int, int]], directory_at: int, **changes: int
) -> tuple[bytes, bytes]:
    """Central directory and end records of ``(name, size, header offset)`` entries, every number in
    its zip64 field.
    """
    central = b"".join(
        struct.pack(
            "<4s6H3I5H2I",
            CENTRAL,
            45,
            45,
            8,
            0,
            0,
            0,
            0,
            2**32 - 1,
            2**32 - 1,
            len(name),
            28,
            0,
            0,
            0,
            0,
            2**32 - 1,
        )
        + name
        + struct.pack("<HHQQQ", 1, 24, size, size, header)
        for name, size, header in entries
    )
    at = directory_at + len(central)
    values = {
        "disk": 0,
        "start": 0,
        "here": len(entries),
        "count": len(entries),
        "size": len(central),
        "offset": directory_at,
    } | changes
    record = struct.pack(
        "<4sQHHIIQQQQ", b"PK\6\6", values.get("length", 44), 45, 45, *list(values.values())[:6]
    )
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, changes.get("locator", at), 1)
    full = struct.pack("<4sHHHHIIH", END, 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    return central, record + locator + full


class Sparse:
    """A huge file of zeros with a few spots written."""

    def __init__(self, size: int, spots: dict[int, bytes]) -> None:
        self.size, self._spots, self.read_bytes = size, sorted(spots.items()), 0

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        self.read_bytes += length
        result = bytearray(length)
        for at, data in self._spots:
            start, end = max(at, offset), min(at + len(data), offset + length)
            if start < end:
                result[start - offset : end - offset] = data[start - at : end - at]
        return bytes(result)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.read(offset, len(buffer))


def local(name: bytes, flags: int = 8) -> bytes:
    return struct.pack("<4sHHHIIIIHH", LOCAL, 45, flags, 0, 0, 0, 0, 0, len(name), 0) + name


def huge(**changes: int) -> Sparse:
    """An archive with an entry of 5 GiB, and one that starts behind it."""
    size, spots = 5 << 30, {0: local(b"big")}
    spots[33 + size] = struct.pack("<4sIQQ", b"PK\7\x08", 0, size, size)
    second = 33 + size + 24
    spots[second] = (
        local(b"small") + b"tiny" + struct.pack("<4sIII", b"PK\7\x08", zlib.crc32(b"tiny"), 4, 4)
    )
    at = second + 35 + 4 + 16
    central, end = zip64([(b"big", size, 0), (b"small", 4, second)], at, **changes)
    spots[at] = central + end
    return Sparse(at + len(central) + len(end), spots)


def test_offsets_and_sizes_over_4_gib() -> None:
    source = huge()
    layout = FORMAT.scan(source)
    assert [(extent.name, extent.offset, extent.length) for extent in layout.extents] == [
        ("big", 33, 5 << 30),
        ("small", 33 + (5 << 30) + 24 + 35, 4),
    ]
    assert len(layout.checksums) == 4
    assert layout.checksums[0].offset == 33 + (5 << 30) + 4
    assert source.read_bytes < 100_000


@pytest.mark.parametrize(
    "changes",
    [
        {"locator": 0},
        {"length": 45},
        {"disk": 1},
        {"start": 1},
        {"here": 1},
        {"count": 3},
        {"size": 1},
        {"offset": 7},
        {"offset": 2**64 - 1},
    ],
)
def test_zip64_records_that_lie_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(FormatError):
        FORMAT.scan(huge(**changes))


def test_sizes_without_their_zip64_field_are_refused() -> None:
    with pytest.raises(FormatError, match="missing"):
        scan(patched(archive(), CENTRAL, 0, 20, "<I", 2**32 - 1))
    with pytest.raises(FormatError, match="directory reaches"):
        scan(patched(archive(), END, 0, 16, "<I", 2**32 - 1))


# -- broken archives -------------------------------------------------------------------------------


def duplicate() -> bytes:
    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w") as file:
        warnings.simplefilter("ignore")
        file.writestr("a", b"1")
        file.writestr("a", b"2")
    return target.getvalue()


REFUSED = {
    "empty": b"",
    "no directory": b"PK\3\4" + bytes(100),
    "only a signature": b"PK\5\6",
    "truncated": archive()[:-1],
    "truncated in the directory": archive()[:-60],
    "too much behind it": archive() + bytes(70_000),
    "a name twice": duplicate(),
    "entries overlap": patched(archive(), CENTRAL, 1, 42, "<I", 0),
    "entry beyond the directory": patched(archive(), CENTRAL, 3, 42, "<I", 10_000),
    "entry reaches into the directory": patched(
        patched(archive(), CENTRAL, 3, 20, "<I", 5000), CENTRAL, 3, 24, "<I", 5000
    ),
    "other name in front": archive().replace(b"last", b"lost", 1),
    "longer name in front": patched(archive(), LOCAL, 0, 26, "<H", 4),
    "no header in front": archive().replace(LOCAL, b"PK\3\5", 1),
    "other method in front": patched(archive(), LOCAL, 0, 8, "<H", 8),
    "other size in front": patched(archive(), LOCAL, 0, 18, "<I", 4),
    "encrypted in the directory alone": patched(archive(), CENTRAL, 0, 8, "<H", 1),
    "stored, but sizes differ": patched(archive(), CENTRAL, 0, 24, "<I", 6),
    "damaged directory": archive().replace(CENTRAL, b"PK\1\3", 1),
    "name longer than the directory": patched(archive(), CENTRAL, -1, 28, "<H", 60_000),
    "too few entries": patched(patched(archive(), END, 0, 8, "<H", 3), END, 0, 10, "<H", 3),
    "too many entries": patched(
        patched(archive(), END, 0, 8, "<H", 60_000), END, 0, 10, "<H", 60_000
    ),
    "several disks": patched(archive(), END, 0, 4, "<H", 1),
    "entry on another disk": patched(archive(), CENTRAL, 0, 34, "<H", 1),
    "directory before the file": patched(archive(), END, 0, 16, "<I", 50_000),
    "directory larger than the file": patched(archive(), END, 0, 12, "<I", 50_000),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_archive_is_refused(case: str) -> None:
    with pytest.raises(FormatError, match="zip archive is broken") as caught:
        scan(REFUSED[case])
    assert str(caught.value).isprintable()


def test_a_huge_directory_is_refused_before_it_is_read() -> None:
    size = DIRECTORY_LIMIT + 46
    end = struct.pack("<4sHHHHIIH", END, 0, 0, 1, 1, size, 0, 0)
    source = Sparse(size + len(end), {0: LOCAL, size: end})
    with pytest.raises(FormatError, match="larger than"):
        FORMAT.scan(source)
    assert source.read_bytes < 100_000


def test_memory_is_bounded_by_the_directory() -> None:
    data = archive({f"n{number}": b"" for number in range(5000)})
    tracemalloc.start()
    try:
        read_archives(BytesSource(data))
        assert tracemalloc.get_traced_memory()[1] < 20 * len(data)
    finally:
        tracemalloc.stop()


@st.composite
def _mutants(draw: st.DrawFn) -> bytes:
    data = bytearray(archive({"a": b"12345", "b/c": b"x" * 9}, streamed=draw(st.booleans())))
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(["set", "flip", "insert", "delete", "cut", "number"]))
        if change == "set" and where < len(data):
            data[where] = draw(st.integers(0, 255))
        elif change == "flip" and where < len(data):
            data[where] ^= 1 << draw(st.integers(0, 7))
        elif change == "insert":
            data[where:where] = draw(
                st.sampled_from(
                    [LOCAL, CENTRAL, END, b"PK\6\6", b"PK\6\7", b"PK\7\x08", b"\0", b"\xff" * 4]
                )
            )
        elif change == "delete":
            del data[where : where + draw(st.integers(1, 20))]
        elif change == "cut":
            del data[where:]
        else:
            data[where : where + 4] = struct.pack(
                "<I", draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, len(data)]))
            )
    return bytes(data)


@given(_mutants())
def test_mutants_are_cut_exactly_or_refused(data: bytes) -> None:
    try:
        layout = scan(data)
    except FormatError as error:
        assert str(error).isprintable()  # noqa: PT017 - both outcomes are fine
        return
    spliced, position = b"", 0
    for extent in layout.extents:
        assert extent.offset >= position
        spliced += data[position : extent.offset] + data[extent.offset : extent.end]
        position = extent.end
    assert spliced + data[position:] == data
    for check in layout.checksums:
        assert check.start + check.length <= check.offset


def test_sniffs_by_the_first_signature() -> None:
    assert FORMAT.sniff(archive()[:4096])
    assert not FORMAT.sniff(b"PK")
    assert not FORMAT.sniff(b"\x80\x02PK\3\4")
    assert isinstance(FORMAT, CheckpointFormat)


def test_scanning_needs_no_numpy() -> None:
    code = (
        "import sys; from git_theta.checkpoints.containers.stored_zip import StoredZipFormat; from"
        " git_theta.core.source import"
        f" BytesSource;StoredZipFormat().scan(BytesSource({archive()!r})); sys.exit('numpy' in"
        " sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
