"""The safetensors format: an 8-byte header length, a JSON header, the tensors' bytes.

What the reference implementation (version 0.8) accepts is accepted here and what it refuses is
refused, with two exceptions: two tensors (or fields of one) of the same name are refused, where the
reference silently keeps the last; and so is the entry of a tensor that is longer than 64 KiB and
not written as all known writers do. The header is read entry by entry, so that a hostile one cannot
take much more memory than its own size.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

from git_theta.checkpoints.assemble import assemble
from git_theta.core import dtypes
from git_theta.core.layout import Extent, Layout, PartlyBrokenError
from git_theta.core.names import display
from git_theta.core.source import BytesSource, Source
from git_theta.core.tensors import Buffer, Contents, Tensor
from git_theta.errors import FormatError, StoreError

HEADER_LIMIT = 100_000_000
# In the library's order
DTYPES = {
    "BOOL": "bool",
    "F4": "f4_e2m1",
    "F6_E2M3": "f6_e2m3",
    "F6_E3M2": "f6_e3m2",
    "U8": "u8",
    "I8": "i8",
    "F8_E5M2": "f8_e5m2",
    "F8_E4M3": "f8_e4m3fn",
    "F8_E8M0": "f8_e8m0fnu",
    "F8_E4M3FNUZ": "f8_e4m3fnuz",
    "F8_E5M2FNUZ": "f8_e5m2fnuz",
    "I16": "i16",
    "U16": "u16",
    "F16": "f16",
    "BF16": "bf16",
    "I32": "i32",
    "U32": "u32",
    "F32": "f32",
    "C64": "c64",
    "F64": "f64",
    "I64": "i64",
    "U64": "u64",
}
_OWN = {own: name for name, own in DTYPES.items()}
_RANKS = {own: rank for rank, own in enumerate(DTYPES.values())}
_METADATA = "__metadata__"
_MAX = 2**64 - 1
# Of one entry; the reference's JSON reader allows 127 with the header's own brace
_DEPTH_LIMIT = 126
_ODD_ENTRY_LIMIT = 1 << 16  # characters of an entry that is not written as every known writer does
_RANK_LIMIT = 64
_ARRAY_RANK_LIMIT = 32  # of numpy before version 2

# Quantifiers are possessive: matching takes time linear in the header whatever it holds.
_SPACE = r"[ \t\n\r]*+"
_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
_INT = r"(?:0|[1-9][0-9]{0,19}+)"
_COLON, _COMMA = rf"{_SPACE}:{_SPACE}", rf"{_SPACE},{_SPACE}"
_ENTRY = re.compile(
    rf'{_SPACE}({_STRING}){_COLON}\{{{_SPACE}"dtype"{_COLON}"([A-Z0-9_]++)"{_COMMA}"shape"{_COLON}'
    rf"\[{_SPACE}((?:{_INT}(?:{_COMMA}{_INT})*+)?){_SPACE}\]"
    rf'{_COMMA}"data_offsets"{_COLON}\[{_SPACE}({_INT}){_COMMA}({_INT}){_SPACE}\]{_SPACE}\}}'
)
_KEY = re.compile(rf"{_SPACE}({_STRING}){_COLON}")
_NULL = re.compile("null")
_OPEN = re.compile(rf"{_SPACE}\{{{_SPACE}")
_CLOSE = re.compile(rf"{_SPACE}\}}")
_NEXT = re.compile(rf"{_SPACE}([,}}])")
_REST = re.compile(rf"{_SPACE}\Z")
_PAIR = re.compile(rf"{_SPACE}({_STRING}){_COLON}({_STRING})")


class SafetensorsFormat:
    """Checkpoints written by the safetensors library, of any framework."""

    name = "safetensors"
    suffixes: tuple[str, ...] = (".safetensors",)

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` starts with a possible header length and an opening brace (white space
        before it is legal).
        """
        if len(head) < 9:
            return False
        length = int.from_bytes(head[:8], "little")
        return 2 <= length <= HEADER_LIMIT and head[8 : 8 + length].lstrip(b" \t\n\r").startswith(
            b"{"
        )

    def scan(self, source: Source) -> Layout:
        """One extent per tensor, in the order of their bytes; :class:`FormatError` for whatever the
        reference refuses.

        A shape that no manifest can hold (more than 64 dimensions, or one of 2^63 and more beside a
        zero) is given flat.
        """
        text, start = _read_header(source)
        entries, _ = _parse(text)
        entries.sort(key=lambda entry: (entry[3], entry[4]))
        position, end, extents = 0, source.size - start, []
        for name, dtype, shape, first, last in entries:
            if first != position or last < first:
                raise _broken(
                    f"tensor {display(name, 80)} lies at bytes {first} to {last}, but should start"
                    f" at byte {position}"
                )
            extents.append(
                Extent(
                    name,
                    dtype,
                    _checked_shape(name, dtype, shape, last - first),
                    start + first,
                    last - first,
                )
            )
            position = last
        if position != end:
            whole = [extent for extent in extents if extent.end <= source.size]
            if position < end:
                reason = (
                    f"its tensors are whole, but {end - position} bytes follow them that belong to"
                    " none"
                )
            else:
                reason = (
                    f"it ends {position - end} bytes too early: {len(extents) - len(whole)} of"
                    f" {len(extents)} tensors are cut short"
                )
            raise PartlyBrokenError(str(_broken(reason)), assemble(self.name, source.size, whole))
        return Layout(self.name, source.size, tuple(extents))

    def contents(self, source: Source) -> Contents:
        """The tensors as they lie, and the keys of ``__metadata__``."""
        metadata = json.loads(_parse(_read_header(source)[0])[1] or "{}")
        tensors = {
            e.name: Tensor(e.dtype, e.shape, source.read(e.offset, e.length))
            for e in self.scan(source).extents
        }
        return Contents(tensors, tuple(f"{_METADATA}.{key}" for key in metadata))

    def noting(self, tied: Mapping[str, str], framework: str) -> Source | None:
        """A file with the ``__metadata__`` that ``safetensors.torch.save_model`` writes: the
        framework, and which names are tied to which; None without a framework.
        """
        if not framework:
            return None
        header = json.dumps({_METADATA: {"format": framework, **tied}}).encode()
        return BytesSource(len(header).to_bytes(8, "little") + header)

    def build(self, tensors: Mapping[str, Tensor], like: Source | None) -> Buffer:
        """A file with ``tensors`` and the ``__metadata__`` of ``like``.

        The tensors are in the order in which the safetensors library writes them, whatever theirs:
        by type, the widest first, then by name. A file without metadata is written by the library
        itself if it can (:func:`library_writes`). :class:`FormatError` for names or types that the
        format cannot hold.
        """
        pieces = self.pieces(tensors, like)
        if like is None and library_writes(tensors, {}):
            from safetensors.numpy import save

            return save({name: tensor.array() for name, tensor in tensors.items()})
        return b"".join(pieces)

    def pieces(self, tensors: Mapping[str, Tensor], like: Source | None) -> list[Buffer]:
        """As :meth:`build`, in pieces that are not put together: the header, and each tensor's own
        bytes.

        The bytes are those that the library would write. The library itself can neither do without
        a copy of the tensors nor keep the text of ``like``'s metadata.
        """
        parts = []
        if like is not None:
            metadata = _parse(_read_header(like)[0])[1]
            if metadata:
                parts.append(f"{json.dumps(_METADATA)}:{metadata}")
        for name, tensor in tensors.items():
            if tensor.dtype not in _OWN:
                raise FormatError(
                    f"tensor {display(name, 80)} is {tensor.dtype}, which a safetensors file cannot"
                    " hold"
                )
            if name == _METADATA:
                raise FormatError(f"a safetensors file cannot hold a tensor called {_METADATA}")
        items, position = sorted(tensors.items(), key=_place), 0
        for name, tensor in items:
            end = position + tensor.spec.nbytes
            shape = ",".join(map(str, tensor.shape))
            parts.append(
                f'{_quoted(name)}:{{"dtype":"{_OWN[tensor.dtype]}","shape":[{shape}],"data_offsets":[{position},{end}]}}'
            )
            position = end
        header = ("{" + ",".join(parts) + "}").encode()
        header += b" " * (-len(header) % 8)
        if len(header) > HEADER_LIMIT:
            raise FormatError(
                f"a safetensors header of {len(header)} bytes is longer than the format allows"
            )
        return [struct.pack("<Q", len(header)) + header, *(tensor.data for _, tensor in items)]

    def write(self, tensors: Mapping[str, Tensor], like: Source | None, path: Path) -> bool:
        """Have the safetensors library write the file, if it can (:func:`library_writes`).

        Its ``save_file`` reads the tensors in place (before 0.8: from one copy of them), and puts a
        new file in the place of ``path``.
        """
        text = "" if like is None else _parse(_read_header(like)[0])[1]
        metadata = json.loads(text) if text else {}
        if not library_writes(tensors, metadata):
            return False
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        arrays = {name: tensor.array() for name, tensor in tensors.items()}
        try:
            save_file(arrays, path, metadata or None)
        except SafetensorError as error:  # such as a full disk
            raise StoreError(display(str(error), 200)) from None
        return True


def library_writes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    """Whether the installed safetensors library writes a file with ``tensors`` and ``metadata``,
    and the same bytes every time.

    It takes numpy arrays, so F4 and F6 are beyond it, as are types that were added after its
    release. It writes the keys of metadata in an order that differs from one call to the next.
    """
    types = _library_types()
    return len(metadata) <= 1 and all(
        tensor.dtype in types and _is_array_shape(tensor.shape) for tensor in tensors.values()
    )


def _is_array_shape(shape: tuple[int, ...]) -> bool:
    """Whether a numpy array can have ``shape``: an empty one may be too large in its other
    dimensions.
    """
    return len(shape) <= _ARRAY_RANK_LIMIT and math.prod(filter(None, shape)) < 2**59


@cache
def _library_types() -> frozenset[str]:
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save

    known = set()
    for name in _OWN:
        if dtypes.get(name).numpy:
            with suppress(SafetensorError):
                save({"x": np.empty(0, dtypes.numpy_dtype(name))})
                known.add(name)
    return frozenset(known)


_Entry = tuple[str, str, tuple[int, ...], int, int]


def _broken(reason: str) -> FormatError:
    return FormatError(f"the safetensors file is broken: {reason}")


def _read_header(source: Source) -> tuple[str, int]:
    """The header's text, and where the tensors' bytes start."""
    if source.size < 8:
        raise _broken(f"it has {source.size} bytes, not even a header length")
    length = int.from_bytes(source.read(0, 8), "little")
    if length > HEADER_LIMIT:
        raise _broken(
            f"it claims a header of {length} bytes, more than the format's {HEADER_LIMIT}"
        )
    if length > source.size - 8:
        raise _broken(
            f"its header should be {length} bytes long, but only {source.size - 8} are there"
        )
    try:
        return source.read(8, length).decode(), 8 + length
    except UnicodeDecodeError as error:
        raise _broken(f"byte {error.start} of its header is not UTF-8") from None


def _parse(text: str) -> tuple[list[_Entry], str]:
    """The tensors in the header's order, and the text of ``__metadata__`` (``""`` if there is
    none).
    """
    entries: list[_Entry] = []
    names, metadata = set[str](), ""
    position = _expect(_OPEN, text, 0, "an opening brace")
    closed = _CLOSE.match(text, position)
    while not closed:
        match = _ENTRY.match(text, position)
        name = _unquote(match[1]) if match else ""
        if match and name != _METADATA:
            dtype = DTYPES.get(match[2])
            if dtype is None:
                raise _unknown(name, match[2])
            shape = tuple(map(int, match[3].split(","))) if match[3] else ()
            entries.append((name, dtype, shape, int(match[4]), int(match[5])))
            position = match.end()
        else:
            key = _KEY.match(text, position)
            if not key:
                raise _broken(f"character {position} of its header is not a tensor's name")
            name, start = _unquote(key[1]), key.end()
            if name == _METADATA:
                position = _metadata_end(text, start)
                metadata = text[start:position]
            else:
                entry, position = _odd_entry(name, text, start)
                entries.append(entry)
        if name in names:
            raise _broken(f"two tensors are called {display(name, 80)}")
        names.add(name)
        closed = _NEXT.match(text, position)
        if not closed:
            raise _broken(f"a comma or brace is missing at character {position} of its header")
        position = closed.end()
        if closed[1] == ",":
            closed = None
    _expect(_REST, text, closed.end(), "nothing more")
    return entries, "" if metadata == "null" else metadata


def _expect(pattern: re.Pattern[str], text: str, position: int, what: str) -> int:
    match = pattern.match(text, position)
    if not match:
        raise _broken(f"{what} was expected at character {position} of its header")
    return match.end()


def _unquote(token: str) -> str:
    if "\\" not in token:
        return token[1:-1]
    name: str = json.loads(token)
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise _broken("half of a surrogate pair stands in its header")
    return name


def _metadata_end(text: str, position: int) -> int:
    """Where the map of strings (or null) at ``position`` ends.

    Its content is kept as it is, never interpreted.
    """
    if null := _NULL.match(text, position):
        return null.end()
    position = _expect(_OPEN, text, position, "a map of strings")
    if closed := _CLOSE.match(text, position):
        return closed.end()
    while True:
        pair = _PAIR.match(text, position)
        if not pair:
            raise _broken(
                f"its metadata is not a map of strings (character {position} of the header)"
            )
        for token in pair.groups():
            _unquote(token)
        closed = _NEXT.match(text, pair.end())
        if not closed:
            raise _broken(f"its metadata does not end (character {pair.end()} of the header)")
        position = closed.end()
        if closed[1] == "}":
            return position


def _odd_entry(name: str, text: str, position: int) -> tuple[_Entry, int]:
    """An entry in another form: fields in another order, further ones (ignored), or what serde
    reads as the same.
    """
    try:
        value, length = _DECODER.raw_decode(text[position : position + _ODD_ENTRY_LIMIT])
    except (ValueError, RecursionError) as error:
        raise _broken(
            f"the entry of tensor {display(name, 80)} cannot be read ({str(error)[:80]!a})"
        ) from None
    _check_nested(value)
    if type(value) is list and len(value) == 3:
        value = dict(zip(("dtype", "shape", "data_offsets"), value, strict=True))
    if type(value) is not dict or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise _broken(
            f"the entry of tensor {display(name, 80)} does not say dtype, shape and data_offsets"
        )
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(dtype) is dict and list(dtype.values()) == [None]:
        dtype = next(iter(dtype))
    if type(dtype) is not str or dtype not in DTYPES:
        raise _unknown(name, str(dtype))
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _broken(f"the shape or offsets of tensor {display(name, 80)} are not whole numbers")
    return (name, DTYPES[dtype], tuple(shape), offsets[0], offsets[1]), position + length


def _unknown(name: str, dtype: str) -> FormatError:
    return _broken(
        f"tensor {display(name, 80)} has the unknown type {display(dtype, 40)}; a newer Git-Theta"
        " may know it"
    )


def _are_sizes(values: object) -> bool:
    return type(values) is list and all(
        type(value) is int and 0 <= value <= _MAX for value in values
    )


def _check_nested(value: object) -> None:
    """Refuse what the reference's JSON reader refuses but Python's does not: deep nesting and
    broken strings.
    """
    level = [value]
    for _ in range(_DEPTH_LIMIT):
        if not level:
            return
        deeper: list[object] = []
        for item in level:
            if type(item) is dict:
                deeper += [*item, *item.values()]
            elif type(item) is list:
                deeper += item
            elif type(item) is str and any("\ud800" <= letter <= "\udfff" for letter in item):
                raise _broken("half of a surrogate pair stands in its header")
        level = deeper
    if any(type(item) in (dict, list) for item in level):
        raise _broken(f"its header is nested more than {_DEPTH_LIMIT} deep")


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _integer(text: str) -> int | float:
    if text == "-0":  # a float to the reference
        return -0.0
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("number out of range")
    return value


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is repeated")
    return table


_DECODER = json.JSONDecoder(
    object_pairs_hook=_distinct,
    parse_constant=_no_constant,
    parse_int=_integer,
    parse_float=_finite,
)


def _checked_shape(name: str, dtype: str, shape: tuple[int, ...], length: int) -> tuple[int, ...]:
    """``shape``, checked against the ``length`` bytes it has, with the reference's rules for
    overflow.
    """
    known, elements, plain = dtypes.get(dtype), 1, len(shape) <= _RANK_LIMIT
    for size in shape:
        elements *= size
        if max(size, elements) > _MAX:
            raise _broken(f"the shape of tensor {display(name, 80)} overflows")
        plain = plain and size <= dtypes.MAX_BYTES and elements <= dtypes.MAX_BYTES
    blocks, rest = divmod(elements, known.block_elements)
    if rest or blocks * known.block_bytes != length:
        what = display(dtypes.describe(dtype, shape), 80)
        raise _broken(f"tensor {display(name, 80)} is {what} but occupies {length} bytes")
    return shape if plain else (elements,)


def _place(item: tuple[str, Tensor]) -> tuple[int, str]:
    """Sorts as the library does: wider types first, which aligns every tensor."""
    return -_RANKS[item[1].dtype], item[0]


def _quoted(name: str) -> str:
    text = json.dumps(name, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FormatError(f"a safetensors file cannot hold the name {display(name, 80)}") from None
    return text
