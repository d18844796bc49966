"""TensorFlow's checkpoints: ``x.data-00000-of-00001`` holds nothing but values, ``x.index`` says
which.

The index is a table as LevelDB writes it (``table_format.md`` of its documents), uncompressed:
blocks of keys with shared prefixes. Its values are protocol buffers, ``BundleHeaderProto`` under
the empty key and ``BundleEntryProto`` under each tensor's name
(``tensorflow/core/protobuf/tensor_bundle.proto``). Only the values file is cut; the index is a
small file of plain bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from git_theta.checkpoints.assemble import NAME_LIMIT, NAMES_LIMIT, assemble, bounded, raw, shaped
from git_theta.checkpoints.cursor import Cursor
from git_theta.checkpoints.opaque import OpaqueFormat
from git_theta.core.layout import Extent, Layout
from git_theta.core.source import BytesSource, Source
from git_theta.errors import FormatError

MAGIC = 0xDB4775248B80FB57
INDEX_LIMIT = 256 << 20
ENTRIES_LIMIT = 1_000_000
_FOOTER = 48
_VARIABLE = "/.ATTRIBUTES/VARIABLE_VALUE"
_NAME = re.compile(r"(.+)\.data-(\d{5})-of-(\d{5})\Z")
_RAW = {7, 20, 21}  # strings, resources, variants
TYPES = {
    1: "f32",
    2: "f64",
    3: "i32",
    4: "u8",
    5: "i16",
    6: "i8",
    8: "c64",
    9: "i64",
    10: "bool",
    11: "i8",
    12: "u8",
    13: "i32",
    14: "bf16",
    15: "i16",
    16: "u16",
    17: "u16",
    18: "c128",
    19: "f16",
    22: "u32",
    23: "u64",
    24: "f8_e5m2",
    25: "f8_e4m3fn",
    26: "f8_e4m3fnuz",
    28: "f8_e5m2fnuz",
}


class TfCheckpointFormat:
    """The values file of a TensorFlow checkpoint.

    Alone it says nothing of itself, and is plain bytes.
    """

    name = "tf-checkpoint"
    suffixes: tuple[str, ...] = ()

    def sniff(self, head: bytes) -> bool:
        """False: any bytes can be such a file."""
        return False

    def scan(self, source: Source) -> Layout:
        """Pieces of plain bytes."""
        return Layout(self.name, source.size, OpaqueFormat().scan(source).extents)

    def sibling(self, name: str) -> str:
        """The index of a values file called ``name``; empty for other files."""
        match = _NAME.match(name)
        return f"{match[1]}.index" if match else ""

    def scan_beside(self, source: Source, name: str, sibling: Source) -> Layout:
        """One extent per tensor of the file called ``name``, as its index says.

        :class:`FormatError` when the index is broken, or of another file.
        """
        match = _NAME.match(name)
        if match is None:
            raise FormatError("a TensorFlow checkpoint's file has another name")
        if sibling.size > INDEX_LIMIT:
            raise FormatError(f"an index of {sibling.size} bytes is larger than {INDEX_LIMIT}")
        entries = _entries(sibling)
        key, value = next(entries, (b"", b""))
        header = _fields(value) if not key else {}
        if _number(header, 1) != int(match[3]):
            raise FormatError("the index is that of another file")
        extents = list(bounded(_extents(entries, int(match[2]), bool(_number(header, 2)))))
        if max((extent.end for extent in extents), default=0) != source.size:
            raise FormatError("the index is that of another file")
        return assemble(self.name, source.size, extents)


def _extents(entries: Iterator[tuple[bytes, bytes]], shard: int, big: bool) -> Iterator[Extent]:
    """The tensors in file number ``shard``; ``big``: its values are big-endian."""
    for key, value in entries:
        fields = _fields(value)
        if key and _number(fields, 3) == shard and _number(fields, 5):
            yield _extent(key, fields, big)


def _extent(key: bytes, fields: dict[int, list[int | bytes]], big: bool) -> Extent:
    kind, offset, length = (_number(fields, number) for number in (1, 4, 5))
    name = key[: 4 * NAME_LIMIT].decode("utf-8", "replace").removesuffix(_VARIABLE)[:NAME_LIMIT]
    if big or kind in _RAW or kind not in TYPES:
        return raw(name, offset, length)
    return shaped(name, TYPES[kind], _shape(fields), offset, length)


def _shape(fields: dict[int, list[int | bytes]]) -> list[int]:
    return [
        _number(_fields(dimension), 1) if isinstance(dimension, bytes) else -1
        for message in fields.get(2, [])
        for dimension in (_fields(message).get(2, []) if isinstance(message, bytes) else ())
    ]


# -- the table -------------------------------------------------------------------------------------


def _entries(source: Source) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values, in order."""
    if source.size < _FOOTER:
        raise _broken(f"it has only {source.size} bytes")
    footer = Cursor(BytesSource(source.read(source.size - _FOOTER, _FOOTER)), "TensorFlow index")
    for _ in range(2):
        footer.varint()
    offset, length = footer.varint(), footer.varint()
    footer.position = _FOOTER - 8
    if footer.uint(8) != MAGIC:
        raise _broken("it does not end as a table does")
    count = letters = last = 0
    for _, handle in _block(source, offset, length):
        cursor = Cursor(BytesSource(handle), "TensorFlow index")
        offset, length = cursor.varint(), cursor.varint()
        if offset < last:
            raise _broken("its blocks are not in order, or overlap")
        last = offset + length
        for item in _block(source, offset, length):
            count += 1
            letters += len(item[0])
            if count > ENTRIES_LIMIT or letters > NAMES_LIMIT:
                raise _broken(f"it has more than {ENTRIES_LIMIT} entries, or very long keys")
            yield item


def _block(source: Source, offset: int, length: int) -> Iterator[tuple[bytes, bytes]]:
    if length < 4 or offset + length + 5 > source.size:
        raise _broken(f"a block of {length} bytes at byte {offset} lies outside")
    data = source.read(offset, length + 1)
    if data[-1]:
        raise FormatError("the TensorFlow index is compressed, which TensorFlow never does")
    end = length - 4 - 4 * int.from_bytes(data[length - 4 : length], "little")
    if end < 0:
        raise _broken(f"the block at byte {offset} has no room for its entries")
    cursor, key = Cursor(BytesSource(data[:end]), "TensorFlow index"), b""
    while cursor.position < end:
        shared, own, size = cursor.varint(), cursor.varint(), cursor.varint()
        if shared > len(key):
            raise _broken(f"a key in the block at byte {offset} has no beginning")
        key = key[:shared] + cursor.take(own)
        if len(key) > 1 << 16:
            raise _broken("a key is longer than 65,536 bytes")
        yield key, cursor.take(size)


def _fields(data: bytes) -> dict[int, list[int | bytes]]:
    """A protocol buffer's fields by number: whole numbers, or bytes."""
    cursor, found = Cursor(BytesSource(data), "TensorFlow index"), dict[int, list[int | bytes]]()
    while cursor.position < len(data):
        tag = cursor.varint()
        if tag & 7 == 0:
            value: int | bytes = cursor.varint()
        elif tag & 7 == 2:
            value = cursor.take(cursor.varint())
        elif tag & 7 in (1, 5):
            value = cursor.uint(8 if tag & 7 == 1 else 4)
        else:
            raise _broken(f"a field has the unknown kind {tag & 7}")
        found.setdefault(tag >> 3, []).append(value)
    return found


def _number(fields: dict[int, list[int | bytes]], number: int) -> int:
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise _broken(f"field {number} is no number")
    return value


def _broken(reason: str) -> FormatError:
    return FormatError(f"the TensorFlow index is broken: {reason}")
