"""NumPy's files: what is found, refused and built. NumPy reads and writes them here."""

from __future__ import annotations

import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from cutting import contents, cut, mutants, survives, told
from hypothesis import given
from hypothesis import strategies as st

from git_theta.checkpoints.numpy_files import MAGIC, NpyFormat, NpzFormat
from git_theta.core.contracts import BuildsFiles, CheckpointFormat
from git_theta.core.source import BytesSource
from git_theta.core.tensors import Tensor
from git_theta.errors import FormatError

NPY, NPZ = NpyFormat(), NpzFormat()
DATA = Path(__file__).parents[2] / "data" / "formats"
ARRAYS = {path.stem: path.read_bytes() for path in sorted(DATA.glob("*.npy"))}
SMALL, PACKED = (DATA / "small.npz").read_bytes(), (DATA / "packed.npz").read_bytes()


def npy(header: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode("latin-1") + data


def test_are_formats_that_build() -> None:
    for fmt in (NPY, NPZ):
        assert isinstance(fmt, CheckpointFormat)
        assert isinstance(fmt, BuildsFiles)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", {"array": "f32[3, 4]"}),
        ("fortran", {"array": "f32[4, 3]"}),
        ("big", {"array": "u8[3, 8]"}),
        ("objects", {"array": "u8[159]"}),
        ("records", {"array": "u8[60]"}),
        ("bfloat", {"array": "u8[2, 3, 2]"}),
        ("two", {"array": "f32[2]", "array#2": "i64[1, 2]"}),
        ("version3", {"array": "u16[2, 2]"}),
    ],
)
def test_what_numpy_writes(name: str, expected: dict[str, str]) -> None:
    assert told(cut(NPY, ARRAYS[name])) == expected


def test_archives() -> None:
    layout = cut(NPZ, SMALL)
    assert told(layout) == {
        "w": "f32[4, 3]",
        "layer/b": "f64[3]",
        "n": "i64[]",
        "f": "f32[5, 2]",
        "s": "u8[12]",
    }
    assert len(layout.checksums) == 5
    with np.load(io.BytesIO(SMALL)) as arrays:
        assert {
            name: arrays[name].T.tobytes() if name == "f" else arrays[name].tobytes()
            for name in arrays
        } == contents(layout, SMALL)
    assert told(cut(NPZ, PACKED)) == {}


def test_entries_that_are_no_arrays_are_plain_bytes() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("bad.npy", b"no array")
        file.writestr("note.txt", b"hello")
        file.writestr("folder/", b"")
    assert told(cut(NPZ, target.getvalue())) == {"bad": "u8[8]", "note.txt": "u8[5]"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x93NUMPY", "announced"),
        (npy("{}", version=b"\4\0"), "version 4.0"),
        (npy("{'descr': '<f4'}"), "does not say"),
        (npy("__import__('os').system('x')"), "does not say"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", bytes(11)), "announced"),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }"),
            "overflows",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"), "does not say"),
        (npy("{'descr': '<f4', 'fortran_order': 1, 'shape': (1,), }"), "does not say"),
        (b"\x93NUMPY\2\0" + struct.pack("<I", 2**31), "claims"),
    ],
)
def test_broken_arrays_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        NPY.scan(BytesSource(data))


def test_what_python_2_wrote() -> None:
    data = npy("{'descr': '<i2', 'fortran_order': False, 'shape': (3L, 1L), }", b"abcdef")
    assert told(cut(NPY, data)) == {"array": "i16[3, 1]"}


def test_a_header_made_to_be_slow() -> None:
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1, " * 20_000 + "x"
    with pytest.raises(FormatError, match="does not say"):
        NPY.scan(BytesSource(npy(text)))


def test_damaged_files() -> None:
    assert min(survives(NPY, mutants(list(ARRAYS.values()), 1500)))
    assert min(survives(NPZ, mutants([SMALL, PACKED], 1000)))


@given(
    st.dictionaries(
        st.text("abc/._é0", min_size=1, max_size=6),
        st.tuples(
            st.sampled_from(["bool", "u8", "i8", "u16", "i64", "f16", "f32", "f64", "c128"]),
            st.lists(st.integers(0, 3), max_size=4),
        ),
        max_size=4,
    )
)
def test_numpy_loads_what_is_built(wanted: dict[str, tuple[str, list[int]]]) -> None:
    tensors = {}
    for name, (dtype, shape) in wanted.items():
        size = Tensor(dtype, (0,), b"").array().dtype.itemsize * int(np.prod(shape))
        tensors[name] = Tensor(dtype, tuple(shape), bytes(number % 2 for number in range(size)))
    data = bytes(NPZ.build(tensors, None))
    with np.load(io.BytesIO(data)) as arrays:
        assert {
            name: (arrays[name].dtype, arrays[name].shape, arrays[name].tobytes())
            for name in arrays
        } == {
            name: (tensor.array().dtype, tensor.shape, bytes(tensor.data))
            for name, tensor in tensors.items()
        }
    layout = cut(NPZ, data) if tensors else NPZ.scan(BytesSource(data))
    assert {
        e.name: Tensor(e.dtype, e.shape, data[e.offset : e.end]) for e in layout.extents
    } == tensors


def test_axes_stay_as_numpy_has_them() -> None:
    layout = cut(NPZ, SMALL)
    tensors = {e.name: Tensor(e.dtype, e.shape, SMALL[e.offset : e.end]) for e in layout.extents}
    with (
        np.load(io.BytesIO(SMALL)) as old,
        np.load(io.BytesIO(bytes(NPZ.build(tensors, BytesSource(SMALL))))) as new,
    ):
        assert list(old) == list(new)
        for name in old:
            assert old[name].dtype == new[name].dtype
            np.testing.assert_array_equal(old[name], new[name])
            assert new[name].flags.f_contiguous == old[name].flags.f_contiguous


@pytest.mark.parametrize("name", ["plain", "fortran", "big", "bfloat", "version3"])
def test_one_array_is_built_again(name: str) -> None:
    (extent,) = cut(NPY, ARRAYS[name]).extents
    tensor = Tensor(extent.dtype, extent.shape, ARRAYS[name][extent.offset : extent.end])
    built = np.load(io.BytesIO(bytes(NPY.build({"array": tensor}, BytesSource(ARRAYS[name])))))
    old = np.load(io.BytesIO(ARRAYS[name]))
    assert (built.dtype, built.shape, built.tobytes()) == (old.dtype, old.shape, old.tobytes())


@pytest.mark.parametrize(
    ("tensors", "like", "message"),
    [
        ({"a": Tensor("q8_0", (32,), bytes(34))}, None, "cannot hold"),
        ({"a\0b": Tensor("u8", (1,), b"a")}, None, "zero byte"),
        ({"a": Tensor("u8", (1,), b"a")}, PACKED, "compressed"),
        ({"a": Tensor("u8", (1,), b"a")}, b"no archive", "broken"),
    ],
)
def test_what_cannot_be_built(tensors: dict[str, Tensor], like: bytes | None, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        NPZ.build(tensors, None if like is None else BytesSource(like))


def test_one_file_holds_one_array() -> None:
    with pytest.raises(FormatError, match="one tensor"):
        NPY.build({"other": Tensor("u8", (1,), b"a")}, None)
    for name in ("objects", "records"):
        with pytest.raises(FormatError, match="objects or records"):
            NPY.build({"array": Tensor("u8", (1,), b"a")}, BytesSource(ARRAYS[name]))


def test_times_stay_times() -> None:
    target = io.BytesIO()
    np.savez(target, t=np.array(["2026-01-02", "2026-01-03"], "M8[D]"), span=np.array([3], "m8[s]"))
    like = BytesSource(target.getvalue())
    held, others, _ = NpzFormat().contents(like)
    assert others == (
        "t (that its numbers are times, <M8[D])",
        "span (that its numbers are times, <m8[s])",
    )
    built = np.load(
        io.BytesIO(NpzFormat().build({**held, "n": Tensor("i64", (1,), bytes(8))}, like))
    )
    assert {name: built[name].dtype.str for name in built} == {
        "t": "<M8[D]",
        "span": "<m8[s]",
        "n": "<i8",
    }
    assert str(built["t"][1]) == "2026-01-03"


@pytest.mark.parametrize("rank", [2, 33, 70])
def test_an_array_of_many_dimensions_in_fortrans_order(rank: int) -> None:
    text = f"{{'descr': '<f4', 'fortran_order': True, 'shape': ({'1, ' * (rank - 1)}0), }}"
    for shape in (text, text.replace("0)", "2)")):
        data = MAGIC + b"\1\0" + struct.pack("<H", len(shape)) + shape.encode() + bytes(8)
        with suppress(FormatError):
            (tensor,) = NpyFormat().contents(BytesSource(data)).tensors.values()
            assert len(tensor.shape) == rank
