"""GGUF, the files of llama.cpp: a typed header, descriptions of the tensors, then their aligned
bytes (versions 2 and 3).

The structure is that of ggml's ``docs/gguf.md``. Dimensions stand there with the fastest first,
here with the slowest first.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from git_theta.checkpoints.assemble import assemble, raw, shaped
from git_theta.checkpoints.cursor import Cursor
from git_theta.core import dtypes
from git_theta.core.layout import Extent, Layout, PartlyBrokenError
from git_theta.core.names import display
from git_theta.core.source import BytesSource, Source
from git_theta.core.tensors import Buffer, Contents, Tensor
from git_theta.errors import FormatError

MAGIC = b"GGUF"
DIMENSIONS_LIMIT = 4
TENSORS_LIMIT = 1_000_000
KEYS_LIMIT = 1_000_000
STRINGS_LIMIT = 16_000_000  # in arrays; the largest vocabularies have some 300,000
NAME_LIMIT = 1 << 16  # bytes of a key or name
NAME_ROOM = 63  # bytes of a name that ggml can hold
ARRAY_DEPTH = 8

# ggml's numbers of element types. Some that no current release reads (4, 5, 31 to 33, 36 to 38) are
# missing.
TYPES = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    9: "q8_1",
    10: "q2_k",
    11: "q3_k",
    12: "q4_k",
    13: "q5_k",
    14: "q6_k",
    15: "q8_k",
    16: "iq2_xxs",
    17: "iq2_xs",
    18: "iq3_xxs",
    19: "iq1_s",
    20: "iq4_nl",
    21: "iq3_s",
    22: "iq2_s",
    23: "iq4_xs",
    24: "i8",
    25: "i16",
    26: "i32",
    27: "i64",
    28: "f64",
    29: "iq1_m",
    30: "bf16",
    34: "tq1_0",
    35: "tq2_0",
    39: "mxfp4",
}
_NUMBERS = {name: number for number, name in TYPES.items()}
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY, _U32 = 8, 9, 4
_ALIGNMENT = b"general.alignment"


@dataclass(frozen=True, slots=True)
class _Info:
    name: str
    dims: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Header:
    """What stands before the tensors' bytes: keys (``names``) and values from byte 24 to
    ``keys_end``, data from ``data`` on.
    """

    order: Literal["little", "big"]
    version: int
    keys: int
    keys_end: int
    names: tuple[str, ...]
    infos: tuple[_Info, ...]
    alignment: int
    data: int


class GgufFormat:
    """Models in GGUF, quantised or not."""

    name = "gguf"
    suffixes: tuple[str, ...] = (".gguf",)

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` starts as versions 2 and 3 do, in either byte order."""
        return head.startswith(MAGIC) and head[4:8] in (
            b"\2\0\0\0",
            b"\3\0\0\0",
            b"\0\0\0\2",
            b"\0\0\0\3",
        )

    def scan(self, source: Source) -> Layout:
        """One extent per tensor; :class:`FormatError` for whatever llama.cpp would not read safely.

        Tensors of a type unknown here reach to the next one, as plain bytes; so do those of
        big-endian files, of their size.
        """
        header = _read(source)
        infos = sorted(header.infos, key=lambda info: info.offset)
        ends = [*(header.data + info.offset for info in infos[1:]), source.size]
        extents = (
            [_extent(header, info, end) for info, end in zip(infos, ends, strict=True)]
            if infos
            else []
        )
        whole = [extent for extent in extents if extent.end <= source.size]
        if len(whole) < len(extents):
            short = next(extent for extent in extents if extent.end > source.size)
            more = f" ({len(extents) - len(whole)} of {len(extents)} tensors are cut short)"
            error = _broken(
                f"tensor {display(short.name, 80)} reaches beyond the end of the file{more}"
            )
            raise PartlyBrokenError(str(error), assemble(self.name, source.size, whole))
        return assemble(self.name, source.size, extents)

    def contents(self, source: Source) -> Contents:
        """The tensors as they lie, and the keys; of big-endian files and of types unknown here the
        tensors are not among them.
        """
        header = _read(source)
        strange = {
            info.name for info in header.infos if info.kind not in TYPES or header.order == "big"
        }
        named = {info.name for info in header.infos} - strange
        found = [extent for extent in self.scan(source).extents if extent.name in named]
        tensors = {e.name: Tensor(e.dtype, e.shape, source.read(e.offset, e.length)) for e in found}
        return Contents(
            tensors,
            (
                *(f"{name} (of an unknown type, or big-endian)" for name in sorted(strange)),
                *header.names,
            ),
        )

    def build(self, tensors: Mapping[str, Tensor], like: Source | None) -> Buffer:
        """A file with ``tensors`` in their order; keys, values and alignment are those of ``like``.

        :class:`FormatError` for names, types and shapes the format cannot hold, and for a
        big-endian ``like``.
        """
        header = _read(like) if like is not None else None
        if header is not None and header.order == "big":
            raise FormatError("tensors cannot be written into a big-endian GGUF file")
        version, keys, alignment = (
            (header.version, header.keys, header.alignment) if header else (3, 0, 32)
        )
        values = like.read(24, header.keys_end - 24) if like is not None and header else b""
        infos, contents, position = [], list[Buffer](), 0
        for name, tensor in tensors.items():
            infos.append(_info(name, tensor, position))
            padding = -tensor.spec.nbytes % alignment
            contents += [tensor.data, bytes(padding)]
            position += tensor.spec.nbytes + padding
        head = MAGIC + struct.pack("<IQQ", version, len(infos), keys) + values + b"".join(infos)
        data = b"".join([head, bytes(-len(head) % alignment), *contents])
        _check(data, tensors)
        return data


def _broken(reason: str) -> FormatError:
    return FormatError(f"the GGUF file is broken: {reason}")


def _read(source: Source) -> _Header:
    cursor = Cursor(source, "GGUF file")
    if cursor.take(4) != MAGIC:
        raise _broken("it does not start with GGUF")
    version = cursor.uint(4)
    order: Literal["little", "big"] = "little"
    if version & 0xFFFF == 0:
        cursor.order = order = "big"
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in (2, 3):
        raise FormatError(f"the GGUF file is of version {version}; versions 2 and 3 are known")
    tensors, keys = cursor.uint(8), cursor.uint(8)
    if tensors > TENSORS_LIMIT or keys > KEYS_LIMIT:
        raise _broken(f"it claims {tensors} tensors and {keys} keys")
    alignment, key_names = _read_keys(cursor, keys)
    keys_end = cursor.position
    infos = tuple(_read_info(cursor, alignment) for _ in range(tensors))
    names = set[str]()
    for info in infos:
        if info.name in names:
            raise _broken(f"two tensors are called {display(info.name, 80)}")
        names.add(info.name)
    return _Header(
        order,
        version,
        keys,
        keys_end,
        key_names,
        infos,
        alignment,
        -(-cursor.position // alignment) * alignment,
    )


def _name(cursor: Cursor) -> bytes:
    length = cursor.uint(8)
    if length > NAME_LIMIT:
        raise _broken(f"a name of {length} bytes is announced at byte {cursor.position - 8}")
    return cursor.take(length)


def _read_keys(cursor: Cursor, count: int) -> tuple[int, tuple[str, ...]]:
    """Pass over all keys and values; the alignment they ask for (32 bytes if they do not), and the
    keys.
    """
    alignment, seen, budget = 32, dict[bytes, None](), STRINGS_LIMIT
    for _ in range(count):
        key = _name(cursor)
        if key in seen:
            raise _broken(f"two keys are called {display(key.decode('utf-8', 'replace'), 80)}")
        seen[key] = None
        kind = cursor.uint(4)
        if key == _ALIGNMENT:
            if kind != _U32:
                raise _broken("its alignment is not a number of 32 bits")
            alignment = cursor.uint(4)
            if alignment == 0 or alignment & (alignment - 1) or alignment > 1 << 20:
                raise _broken(
                    f"its alignment is {alignment}, which is no power of two (up to 2^20)"
                )
        else:
            budget = _skip_value(cursor, kind, budget, ARRAY_DEPTH)
    return alignment, tuple(key.decode("utf-8", "replace") for key in seen)


def _skip_value(cursor: Cursor, kind: int, budget: int, depth: int) -> int:
    """Pass over a value; how many strings and arrays may still come."""
    if kind in _WIDTHS:
        cursor.skip(_WIDTHS[kind])
    elif kind == _STRING:
        cursor.skip(cursor.uint(8))
    elif kind == _ARRAY and depth:
        inner, count = cursor.uint(4), cursor.uint(8)
        if inner in _WIDTHS:
            cursor.skip(_WIDTHS[inner] * count)
            return budget
        budget -= count
        if budget < 0 or count * 8 > cursor.end - cursor.position:
            raise _broken(f"an array of {count} values is announced at byte {cursor.position - 8}")
        if inner == _STRING:
            _skip_strings(cursor, count)
        else:
            for _ in range(count):
                budget = _skip_value(cursor, inner, budget, depth - 1)
    else:
        raise _broken(
            f"a value before byte {cursor.position} has the unknown type {kind} or is nested too"
            " deeply"
        )
    return budget


def _skip_strings(cursor: Cursor, count: int) -> None:
    # A vocabulary has some 100,000 strings, so they are walked in large blocks, without a call for
    # each.
    length_of = struct.Struct("<Q" if cursor.order == "little" else ">Q").unpack_from
    while count:
        block = cursor.source.read(cursor.position, min(1 << 20, cursor.end - cursor.position))
        at, last = 0, len(block) - 8
        while count and at <= last:
            at += 8 + length_of(block, at)[0]
            count -= 1
        if not at:
            raise _broken("it ends in the middle of an array")
        cursor.skip(at)


def _read_info(cursor: Cursor, alignment: int) -> _Info:
    name = _name(cursor).decode("utf-8", "replace")
    shown, rank = display(name, 80), cursor.uint(4)
    if rank > DIMENSIONS_LIMIT:
        raise _broken(f"tensor {shown} has {rank} dimensions, more than {DIMENSIONS_LIMIT}")
    dims, total = tuple(cursor.uint(8) for _ in range(rank)), 1
    for size in dims:
        total *= size
        if max(total, size) > dtypes.MAX_BYTES:
            raise _broken(f"the shape of tensor {shown} overflows")
    kind, offset = cursor.uint(4), cursor.uint(8)
    if offset % alignment:
        raise _broken(
            f"tensor {shown} lies at byte {offset} of the data, not at a multiple of {alignment}"
        )
    return _Info(name, dims, kind, offset)


def _extent(header: _Header, info: _Info, end: int) -> Extent:
    start, shape = header.data + info.offset, tuple(reversed(info.dims))
    dtype = TYPES.get(info.kind)
    if dtype is None:
        return raw(info.name, start, max(0, end - start))
    block = dtypes.get(dtype).block_elements
    if (info.dims[0] if info.dims else 1) % block:
        raise _broken(
            f"the rows of tensor {display(info.name, 80)} do not fill blocks of {block} {dtype}"
            " values"
        )
    length = dtypes.nbytes(dtype, shape)
    if header.order == "big" and dtypes.get(dtype).block_bytes > 1:
        return raw(info.name, start, length)
    return shaped(info.name, dtype, shape, start, length)


def _info(name: str, tensor: Tensor, position: int) -> bytes:
    shown = display(name, 80)
    if tensor.dtype not in _NUMBERS:
        raise FormatError(f"tensor {shown} is {tensor.dtype}, which a GGUF file cannot hold")
    if len(tensor.shape) > DIMENSIONS_LIMIT:
        raise FormatError(
            f"tensor {shown} has {len(tensor.shape)} dimensions; a GGUF file can hold"
            f" {DIMENSIONS_LIMIT}"
        )
    try:
        label = name.encode()
    except UnicodeEncodeError:
        label = b"\xff" * (NAME_ROOM + 1)
    if len(label) > NAME_ROOM:
        raise FormatError(
            f"a GGUF file cannot hold the name {shown}: it has room for {NAME_ROOM} bytes of UTF-8"
        )
    dims = tuple(reversed(tensor.shape))
    fields = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, _NUMBERS[tensor.dtype], position)
    return struct.pack("<Q", len(label)) + label + fields


def _check(data: bytes, tensors: Mapping[str, Tensor]) -> None:
    """:class:`FormatError` unless the file just built says of every tensor what was asked for."""
    found = {
        extent.name: (extent.dtype, extent.shape)
        for extent in GgufFormat().scan(BytesSource(data)).extents
    }
    if found != {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}:
        raise FormatError(
            "these tensors cannot be written as GGUF: they would be read back as something else"
        )
