"""NumPy's own files: ``.npy`` (an array, or several in a row) and ``.npz`` (a zip archive of them).

The structure is that of ``numpy/lib/_format_impl.py``, versions 1 to 3. The header is a Python dict
in text; it is matched against the one form that NumPy writes and never evaluated.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from git_theta.checkpoints.assemble import assemble, shaped
from git_theta.checkpoints.containers.nested import SourceWindow
from git_theta.checkpoints.containers.stored_zip import is_large, raw_extent
from git_theta.checkpoints.containers.zip_container import ZipEntry, checksums, read_archives
from git_theta.checkpoints.containers.zip_writer import write_archive
from git_theta.checkpoints.cursor import Cursor
from git_theta.core import dtypes
from git_theta.core.layout import Extent, Layout, unique_names
from git_theta.core.names import display
from git_theta.core.source import BytesSource, Source
from git_theta.core.tensors import Buffer, Contents, Tensor
from git_theta.errors import FormatError

MAGIC = b"\x93NUMPY"
HEADER_LIMIT = 1 << 20
ARRAYS_LIMIT = 100_000
_ARRAY = "array"
_DIMENSIONS = 32  # NumPy's limit before 2.0

_STRING = r"'[^'\\\n]*'|\"[^\"\\\n]*\""
_DESCR = re.compile(rf"[{{,]\s*['\"]descr['\"]\s*:\s*({_STRING}|\[)")
_ORDER = re.compile(r"[{,]\s*['\"]fortran_order['\"]\s*:\s*(True|False)\s*[,}]")
_SHAPE = re.compile(
    r"[{,]\s*['\"]shape['\"]\s*:\s*\(((?:\s*\d{1,20}L?\s*,)*(?:\s*\d{1,20}L?)?)\s*\)"
)
_TYPE = re.compile(r"([<>|=]?)([a-zA-Z])(\d{0,9})(?:\[[^\]]*\])?\Z")
_PLAIN = {
    ("b", 1): "bool",
    ("i", 1): "i8",
    ("i", 2): "i16",
    ("i", 4): "i32",
    ("i", 8): "i64",
    ("u", 1): "u8",
    ("u", 2): "u16",
    ("u", 4): "u32",
    ("u", 8): "u64",
    ("f", 2): "f16",
    ("f", 4): "f32",
    ("f", 8): "f64",
    ("c", 8): "c64",
    ("c", 16): "c128",
    ("M", 8): "i64",
    ("m", 8): "i64",
}
_CODES = {
    own: f"{'|' if width == 1 else '<'}{kind}{width}"
    for (kind, width), own in _PLAIN.items()
    if kind not in "Mm"
}
# NumPy has no code of its own for the types of ml_dtypes: it writes them as so many bytes, and so
# do we.
_CODES |= {"bf16": "<V2"} | {name: "<V1" for name in dtypes.names() if name.startswith("f8_")}


@dataclass(frozen=True, slots=True)
class _Array:
    """One array of a file: its header's facts, and where its bytes lie.

    ``code`` is NumPy's own name of its type (``""``: objects or records, of which only the bytes
    are known), ``dtype`` ours (``""``: there is none); ``size`` is an element's, in bytes.
    """

    code: str
    dtype: str
    size: int
    shape: tuple[int, ...]
    fortran: bool
    offset: int
    length: int

    def extent(self, name: str) -> Extent:
        """Its bytes; an array in Fortran's order has its axes reversed here, as its bytes lie."""
        shape = tuple(reversed(self.shape)) if self.fortran else self.shape
        if not self.dtype:
            return shaped(
                name,
                "u8",
                (*shape, self.size) if self.size > 1 else shape,
                self.offset,
                self.length,
            )
        return shaped(name, self.dtype, shape, self.offset, self.length)


class NpyFormat:
    """Arrays written by ``numpy.save``."""

    name = "npy"
    suffixes: tuple[str, ...] = (".npy",)

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` starts as such a file does."""
        return head.startswith(MAGIC)

    def scan(self, source: Source) -> Layout:
        """One extent ``array`` (several in a row: ``array#2``, …); :class:`FormatError` for a
        header that NumPy never writes.

        Arrays of objects are plain bytes to the end of the file; they are pickles, and are not
        read.
        """
        return assemble(self.name, source.size, [array.extent(_ARRAY) for array in _arrays(source)])

    def contents(self, source: Source) -> Contents:
        """The arrays in C order."""
        arrays = list(_arrays(source))
        return _contents(source, zip(unique_names(_ARRAY for _ in arrays), arrays, strict=True))

    def build(self, tensors: Mapping[str, Tensor], like: Source | None) -> Buffer:
        """A file with the one tensor that ``tensors`` must hold, in the order of axes that ``like``
        has.
        """
        if list(tensors) != [_ARRAY]:
            raise FormatError(f"a .npy file holds one tensor, called {_ARRAY}")
        old = _known(_read(like, 0), "the array") if like is not None else None
        return b"".join(_member(_ARRAY, tensors[_ARRAY], old))


class NpzFormat:
    """Archives written by ``numpy.savez``."""

    name = "npz"
    suffixes: tuple[str, ...] = (".npz",)

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` starts with a zip entry whose name ends in ``.npy``."""
        end = 30 + int.from_bytes(head[26:28], "little")
        return head.startswith(b"PK\3\4") and head[30:end].endswith(b".npy")

    def scan(self, source: Source) -> Layout:
        """One extent per array that is not compressed, named as NumPy names it;
        :class:`FormatError` for a broken archive.

        Compressed arrays stay in the skeleton unless they are large; other entries are plain bytes.
        """
        archives = read_archives(source)
        entries = [entry for archive in archives for entry in archive.entries]
        extents = [extent for entry in entries for extent in _entry_extents(source, entry)]
        return assemble(self.name, source.size, extents, checksums(archives))

    def contents(self, source: Source) -> Contents:
        """The arrays in C order; those that are compressed are not read."""
        arrays: list[tuple[str, _Array]] = []
        others: list[str] = []
        for entry in (entry for archive in read_archives(source) for entry in archive.entries):
            if not entry.plain or not entry.name.endswith(".npy"):
                others.append(f"{entry.name} ({'no array' if entry.plain else 'compressed'})")
                continue
            array = _read(SourceWindow(source, entry.offset, entry.length), 0)
            arrays.append(
                (
                    entry.name.removesuffix(".npy"),
                    replace(array, offset=entry.offset + array.offset),
                )
            )
        found = _contents(source, arrays)
        return Contents(found.tensors, (*others, *found.others))

    def build(self, tensors: Mapping[str, Tensor], like: Source | None) -> Buffer:
        """An archive of ``tensors`` in their order, not compressed.

        From ``like``: which arrays have Fortran's order.

        :class:`FormatError` when ``like`` holds what is no plain array, or for types that NumPy
        cannot hold.
        """
        old = _plain_arrays(like) if like is not None else {}
        if cut := next((name for name in tensors if "\0" in name), None):
            raise FormatError(
                f"an .npz file cannot hold the name {display(cut, 80)}: NumPy reads it to its zero"
                " byte only"
            )
        if not tensors:
            # The shortest archive; NumPy takes no zip64 record for one
            return b"PK\5\6" + bytes(18)
        data = write_archive(
            [
                (f"{name}.npy", _member(name, tensor, old.get(name)))
                for name, tensor in tensors.items()
            ]
        )
        _check(data, tensors)
        return data


def _broken(reason: str) -> FormatError:
    return FormatError(f"the NumPy file is broken: {reason}")


def _arrays(source: Source) -> Iterator[_Array]:
    """The arrays that ``source`` starts with, one behind the other."""
    position = 0
    for number in range(ARRAYS_LIMIT):
        if number and (
            source.size - position < len(MAGIC) or source.read(position, len(MAGIC)) != MAGIC
        ):
            return
        array = _read(source, position)
        yield array
        position = array.offset + array.length
    raise _broken(f"it holds more than {ARRAYS_LIMIT} arrays")


def _read(source: Source, position: int) -> _Array:
    cursor = Cursor(source, "NumPy file", position)
    if cursor.take(6) != MAGIC:
        raise _broken("it does not start with NumPy's mark")
    version = cursor.take(2)
    if version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise _broken(f"version {version[0]}.{version[1]} is unknown")
    length = cursor.uint(2 if version[0] == 1 else 4)
    if length > HEADER_LIMIT:
        raise _broken(f"its header claims {length} bytes, more than {HEADER_LIMIT}")
    text = cursor.take(length).decode("utf-8" if version[0] == 3 else "latin-1", "replace")
    descr, order, shape = _DESCR.search(text), _ORDER.search(text), _SHAPE.search(text)
    if not (descr and order and shape and text.lstrip().startswith("{")):
        raise _broken("its header does not say descr, fortran_order and shape")
    sizes = tuple(
        int(size.strip().removesuffix("L")) for size in shape[1].split(",") if size.strip()
    )
    count = dtypes.count(sizes)
    dtype, size = _type(descr[1])
    if not size:  # an array of objects or of records: to the end, which is all that is known of it
        return _Array(
            "",
            "",
            1,
            (source.size - cursor.position,),
            False,
            cursor.position,
            source.size - cursor.position,
        )
    start = cursor.skip(count * size)
    return _Array(descr[1][1:-1], dtype, size, sizes, order[1] == "True", start, count * size)


def _type(descr: str) -> tuple[str, int]:
    """Own name (``""``: only bytes) and size of an element; (``""``, 0) where the text does not
    tell the size.
    """
    match = _TYPE.match(descr[1:-1])
    if not match:
        return "", 0
    order, kind, digits = match.groups()
    size = int(digits or "0") * (4 if kind == "U" else 1)
    if kind not in "biufcMmSUVa" or not digits:
        return "", 0
    own = _PLAIN.get((kind, size), "")
    return (own if size == 1 or order != ">" else ""), size


def _entry_extents(source: Source, entry: ZipEntry) -> list[Extent]:
    if not entry.plain:
        return [raw_extent(entry.name, entry)] if is_large(entry) else []
    if entry.name.endswith("/"):
        return []
    if entry.name.endswith(".npy"):
        name = entry.name.removesuffix(".npy")
        try:
            array = _read(SourceWindow(source, entry.offset, entry.length), 0)
        except FormatError:
            return [raw_extent(name, entry)]  # the archive may be of use without this entry
        extent = array.extent(name)
        return [
            Extent(name, extent.dtype, extent.shape, entry.offset + extent.offset, extent.length)
        ]
    return [raw_extent(entry.name, entry)]


def _contents(source: Source, arrays: Iterable[tuple[str, _Array]]) -> Contents:
    import numpy as np

    tensors: dict[str, Tensor] = {}
    others: list[str] = []
    for name, array in arrays:
        if not array.dtype:
            others.append(f"{name} ({array.code or 'objects or records'})")
            continue
        data: Buffer = source.read(array.offset, array.length)
        if array.fortran and array.length and len(array.shape) > 1:
            if len(array.shape) > _DIMENSIONS:
                raise _broken(f"{name[:80]!a} has {len(array.shape)} dimensions")
            width = dtypes.get(array.dtype).block_bytes
            data = np.frombuffer(data, f"V{width}").reshape(array.shape[::-1]).T.tobytes()
        if array.code[1:2] in ("M", "m"):
            others.append(f"{name} (that its numbers are times, {array.code})")
        tensors[name] = Tensor(array.dtype, array.shape, data)
    return Contents(tensors, tuple(others))


def _plain_arrays(like: Source) -> dict[str, _Array]:
    """The arrays of an archive by name; :class:`FormatError` when something in it cannot be written
    again from tensors alone.
    """
    found: dict[str, _Array] = {}
    for entry in (entry for archive in read_archives(like) for entry in archive.entries):
        shown = display(entry.name, 80)
        if not entry.plain or not entry.name.endswith(".npy"):
            raise FormatError(
                f"entry {shown} is compressed or no array, so this .npz file cannot be written anew"
            )
        found[entry.name.removesuffix(".npy")] = _known(
            _read(SourceWindow(like, entry.offset, entry.length), 0), f"entry {shown}"
        )
    return found


def _known(array: _Array, what: str) -> _Array:
    if not array.code:
        raise FormatError(f"{what} holds objects or records, so this file cannot be written anew")
    return array


def _member(name: str, tensor: Tensor, old: _Array | None) -> list[Buffer]:
    """The ``.npy`` file of a tensor, in the order of axes of the ``old`` one."""
    shape, descr = tensor.shape, _CODES.get(tensor.dtype)
    if (
        old is not None
        and not old.dtype
        and tensor.dtype == "u8"
        and (old.size <= 1 or shape[-1:] == (old.size,))
    ):
        # Text, big-endian values, types of ml_dtypes
        shape, descr = shape[:-1] if old.size > 1 else shape, old.code
    elif old is not None and old.dtype == tensor.dtype and old.code[:1] != ">":
        descr = old.code  # times and spans of time, too
    if descr is None:
        raise FormatError(
            f"tensor {display(name, 80)} is {tensor.dtype}, which a NumPy file cannot hold"
        )
    fortran = old is not None and old.fortran and len(shape) > 1
    sizes = ", ".join(map(str, reversed(shape) if fortran else shape)) + (
        "," if len(shape) == 1 else ""
    )
    text = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({sizes}), }}".encode()
    text += b" " * (-(11 + len(text)) % 64) + b"\n"
    return [MAGIC + b"\1\0" + struct.pack("<H", len(text)) + text, tensor.data]


def _check(data: Buffer, tensors: Mapping[str, Tensor]) -> None:
    """:class:`FormatError` unless the archive just built holds every tensor as asked for."""
    found = {extent.name: extent.length for extent in NpzFormat().scan(BytesSource(data)).extents}
    if found != {name: tensor.spec.nbytes for name, tensor in tensors.items()}:
        raise FormatError(
            "these tensors cannot be written as .npz: they would be read back under other names"
        )
