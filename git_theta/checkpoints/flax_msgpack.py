"""Flax's checkpoints (``flax.serialization.to_bytes``, ``flax_model.msgpack``): MessagePack with
extension types for arrays.

Extension 1 is an array, 3 a scalar: both hold, again as MessagePack, ``[shape, name of the type,
bytes]``. An array of more than 1 GiB is a map of chunks, each of which is a tensor here. Names are
the keys on the way, with ``/`` between them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from git_theta.checkpoints.assemble import NAME_LIMIT, NAMES_LIMIT, assemble, raw, shaped
from git_theta.checkpoints.cursor import Cursor
from git_theta.core import dtypes
from git_theta.core.layout import Extent, Layout
from git_theta.core.names import display
from git_theta.core.source import BytesSource, Source
from git_theta.core.tensors import Buffer, Contents, Tensor
from git_theta.errors import FormatError

DEPTH_LIMIT = 128
VALUES_LIMIT = 4_000_000
CHUNK = 1 << 30  # flax.serialization.MAX_CHUNK_SIZE
_ARRAY, _SCALAR = 1, 3
_TEXT_LIMIT = 1 << 16
_CHUNKED = "__msgpack_chunked_array__"
_TYPES = {known.numpy: known.name for known in map(dtypes.get, dtypes.names()) if known.numpy}
# The bytes of a number behind its first byte.
_FIXED = {
    0xC0: 0,
    0xC2: 0,
    0xC3: 0,
    0xCA: 4,
    0xCB: 8,
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
}
# The width of the length of texts and bytes, arrays, maps, and extensions.
_TEXTS, _BYTES = {0xD9: 1, 0xDA: 2, 0xDB: 4}, {0xC4: 1, 0xC5: 2, 0xC6: 4}
_ARRAYS, _MAPS = {0xDC: 2, 0xDD: 4}, {0xDE: 2, 0xDF: 4}
_MAP_STARTS = frozenset(bytes([first]) for first in (*range(0x81, 0x90), *_MAPS))
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}


@dataclass(frozen=True, slots=True)
class _Token:
    """One value's head. ``count``: values in an array, pairs in a map, bytes otherwise; ``code`` is
    an extension's.
    """

    kind: str
    count: int
    code: int = 0
    start: int = 0


class FlaxMsgpackFormat:
    """Checkpoints written by Flax, and by Transformers for Flax."""

    name = "flax-msgpack"
    suffixes: tuple[str, ...] = (".msgpack",)

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` is a map that leads by text keys to an array as Flax writes it."""
        if head[:1] not in _MAP_STARTS:
            return False
        try:
            path, token = next(_leaves(Cursor(BytesSource(head), "head")))
            return bool(path) and token.code in (_ARRAY, _SCALAR)
        except (FormatError, StopIteration):
            return False

    def scan(self, source: Source) -> Layout:
        """One extent per array or scalar; :class:`FormatError` for what is no MessagePack.

        What follows the first value is kept.
        """
        cursor = Cursor(source, "MessagePack file")
        extents = (
            _extent(source, path, token)
            for path, token in _leaves(cursor)
            if token.code in (_ARRAY, _SCALAR)
        )
        return assemble(self.name, source.size, extents)

    def contents(self, source: Source) -> Contents:
        """The arrays, those in chunks put together, and the paths of the other values."""
        tree = _first(source)
        if not isinstance(tree, dict):
            raise FormatError("this MessagePack file is no map, so its tensors have no names")
        tensors: dict[str, Tensor] = {}
        others: list[str] = []
        letters = 0
        for name, value in _named(tree, ""):
            letters += len(name)
            if letters > NAMES_LIMIT:
                raise FormatError(
                    f"the names in this MessagePack file have more than {NAMES_LIMIT} characters"
                )
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                others.append(name)
        return Contents(tensors, tuple(others))

    def build(self, tensors: Mapping[str, Tensor], like: Source | None) -> Buffer:
        """A file with ``tensors``: nested maps by the parts of their names, which keep the other
        values and the order of ``like``.

        :class:`FormatError` for types Flax does not know, and for names of which one is a part of
        another.
        """
        tree = _first(like) if like is not None else {}
        if not isinstance(tree, dict):
            raise FormatError(
                "this MessagePack file is no map, so tensors cannot be written into it"
            )
        _keep(tree, "", set(tensors))
        for name, tensor in tensors.items():
            _put(tree, name, tensor)
        data = b"".join(_written(tree))
        _check(data, tensors)
        return data


def _token(cursor: Cursor) -> _Token:
    first = cursor.take(1)[0]
    if first < 0x80 or first >= 0xE0:
        return _Token("number", 0)
    if first < 0x90:
        return _Token("map", first & 15)
    if first < 0xA0:
        return _Token("array", first & 15)
    if first < 0xC0:
        return _sized(cursor, "text", first & 31)
    if first in _FIXED:
        return _sized(cursor, "number", _FIXED[first])
    if first in _TEXTS:
        return _sized(cursor, "text", cursor.uint(_TEXTS[first]))
    if first in _BYTES:
        return _sized(cursor, "bytes", cursor.uint(_BYTES[first]))
    if first in _ARRAYS:
        return _Token("array", cursor.uint(_ARRAYS[first]))
    if first in _MAPS:
        return _Token("map", cursor.uint(_MAPS[first]))
    if first == 0xC1:
        raise cursor.broken(f"byte {cursor.position - 1} starts no value")
    length = cursor.uint(_EXTENSIONS[first]) if first in _EXTENSIONS else 1 << (first - 0xD4)
    return _sized(cursor, "extension", length, cursor.uint(1))


def _sized(cursor: Cursor, kind: str, length: int, code: int = 0) -> _Token:
    return _Token(kind, length, code, cursor.skip(length))


def _leaves(cursor: Cursor) -> Iterator[tuple[str, _Token]]:
    """Every extension in the first value, with the keys that lead to it."""
    cursor.order = "big"
    # Path, whether it is a map, values to come, number of the next one
    frames: list[list[Any]] = [["", False, 1, 0]]
    for _ in range(VALUES_LIMIT):
        while frames and not frames[-1][2]:
            frames.pop()
        if not frames:
            return
        frame = frames[-1]
        path, keyed, _, number = frame
        frame[2] -= 1
        frame[3] += 1
        label = _key(cursor, number) if keyed else str(number)
        name = (f"{path}/{label}" if path else label)[:NAME_LIMIT] if len(frames) > 1 else ""
        token = _token(cursor)
        if token.kind in ("map", "array"):
            # every value takes at least one byte
            if token.count * (2 if token.kind == "map" else 1) > cursor.end - cursor.position:
                raise cursor.broken(
                    f"{token.count} values are announced at byte {cursor.position}, more than there"
                    " are bytes"
                )
            if len(frames) > DEPTH_LIMIT:
                raise cursor.broken(f"it is nested more than {DEPTH_LIMIT} deep")
            frames.append([name, token.kind == "map", token.count, 0])
        elif token.kind == "extension":
            yield name, token
    raise cursor.broken(f"it holds more than {VALUES_LIMIT} values")


def _key(cursor: Cursor, number: int) -> str:
    start = cursor.position
    token = _token(cursor)
    if token.kind in ("map", "array", "extension"):
        raise cursor.broken(f"the key at byte {start} is no text")
    if token.kind != "text":
        return str(number)
    return cursor.source.read(token.start, min(token.count, _TEXT_LIMIT)).decode("utf-8", "replace")


def _extent(source: Source, name: str, token: _Token) -> Extent:
    """An array's extent: its bytes, or the whole extension if Flax writes nothing of the kind."""
    cursor = Cursor(source, "array", token.start, token.start + token.count, "big")
    try:
        outer, sizes = _token(cursor), _token(cursor)
        if (outer.kind, outer.count) != ("array", 3) or sizes.kind != "array" or sizes.count > 64:
            return raw(name, token.start, token.count)
        shape = [_number(cursor) for _ in range(sizes.count)]
        kind, content = _token(cursor), _token(cursor)
        if (
            kind.kind != "text"
            or kind.count > 40
            or content.kind != "bytes"
            or content.start + content.count != cursor.end
        ):
            return raw(name, token.start, token.count)
        dtype = _TYPES.get(source.read(kind.start, kind.count).decode("latin-1"), "u8")
        return shaped(name, dtype, shape, content.start, content.count)
    except FormatError:
        return raw(name, token.start, token.count)


def _number(cursor: Cursor) -> int:
    first = cursor.take(1)[0]
    if first < 0x80:
        return first
    if first not in (0xCC, 0xCD, 0xCE, 0xCF):
        raise cursor.broken("a dimension is no whole number")
    return cursor.uint(_FIXED[first])


# -- writing ---------------------------------------------------------------------------------------


def _first(source: Source) -> dict[str, Any] | Tensor | bytes:
    """The file's first value, once it is known to have no more parts than are allowed."""
    for _ in _leaves(Cursor(source, "MessagePack file")):
        pass
    return _tree(Cursor(source, "MessagePack file"), 0)


def _tree(cursor: Cursor, depth: int) -> dict[str, Any] | Tensor | bytes:
    """A value: a map with text keys, an array or scalar of Flax's (as a tensor, or its bytes), or
    else its bytes.
    """
    cursor.order = "big"
    start = cursor.position
    token = _token(cursor)
    if token.kind == "map" and depth <= DEPTH_LIMIT:
        tree: dict[str, Any] = {}
        for number in range(token.count):
            at = cursor.position
            key = _key(cursor, number)
            if key in tree or cursor.source.read(at, cursor.position - at) != _text(key):
                raise FormatError(
                    f"the map at byte {start} has a key twice, or one that is no short text, so it"
                    " cannot be written anew"
                )
            tree[key] = _tree(cursor, depth + 1)
        return tree
    if token.kind == "array":
        todo, values = token.count, 0
        while todo:
            inner = _token(cursor)
            todo += inner.count * {"array": 1, "map": 2}.get(inner.kind, 0) - 1
            values += 1
            if inner.kind == "extension" or values > VALUES_LIMIT:
                raise FormatError("tensors in lists cannot be written into a Flax file")
    elif token.kind == "map":
        raise cursor.broken(f"it is nested more than {DEPTH_LIMIT} deep")
    if token.kind == "extension" and token.code in (_ARRAY, _SCALAR):
        return _Old(cursor.source.read(start, cursor.position - start), token.code)
    return cursor.source.read(start, cursor.position - start)


def _named(tree: dict[str, Any], path: str) -> Iterator[tuple[str, Tensor | None]]:
    """The arrays by name, and the names of the other values."""
    for key, value in tree.items():
        name = f"{path}/{key}" if path else key
        joined = _joined(value) if isinstance(value, dict) and _CHUNKED in value else None
        if joined is None and isinstance(value, dict):
            yield from _named(value, name)
        else:
            yield name, joined or (_array(value) if isinstance(value, _Old) else None)


def _array(value: bytes) -> Tensor | None:
    """An extension as a tensor; None where it is nothing Flax writes."""
    source = BytesSource(value)
    extent = _extent(source, "", _token(Cursor(source, "array", order="big")))
    if extent.dtype == "u8" and b"uint8" not in value[: extent.offset]:
        return None
    return Tensor(extent.dtype, extent.shape, source.read(extent.offset, extent.length))


def _joined(tree: dict[str, Any]) -> Tensor | None:
    """An array that lies in chunks; None for a map that only looks like one."""
    shape, chunks = tree.get("shape"), tree.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict) or not chunks:
        return None
    try:
        sizes = tuple(
            _number(Cursor(BytesSource(shape[str(number)]), "shape", order="big"))
            for number in range(len(shape))
        )
        parts = [_array(chunks[str(number)]) for number in range(len(chunks))]
        first = parts[0]
        if first is None or any(part is None or part.dtype != first.dtype for part in parts):
            return None
        return Tensor(first.dtype, sizes, b"".join(part.data for part in parts if part is not None))
    except (KeyError, TypeError, FormatError):
        return None


class _Old(bytes):
    """An array or scalar of ``like``."""

    code: int

    def __new__(cls, data: bytes, code: int) -> _Old:
        made = super().__new__(cls, data)
        made.code = code
        return made


def _keep(tree: dict[str, Any], path: str, names: set[str]) -> None:
    """Take out the arrays that are not among ``names``, and the maps that are left without any."""
    for key, value in list(tree.items()):
        name = f"{path}/{key}" if path else key
        if isinstance(value, dict):
            had = bool(value)
            _keep(value, name, names)
            if had and not value:
                del tree[key]
        elif isinstance(value, _Old) and name not in names:
            del tree[key]


def _put(tree: dict[str, Any], name: str, tensor: Tensor) -> None:
    *path, last = name.split("/")
    for key in path:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise FormatError(
                f"tensor {display(name, 80)} cannot be written: a value stands where its map"
                " would be"
            )
    old = tree.get(last)
    if isinstance(old, dict) or (old is not None and not isinstance(old, _Old)):
        raise FormatError(
            f"tensor {display(name, 80)} cannot be written: something else is called so"
        )
    numpy_name = dtypes.get(tensor.dtype).numpy
    if not numpy_name:
        raise FormatError(
            f"tensor {display(name, 80)} is {tensor.dtype}, which a Flax file cannot hold"
        )
    code = _SCALAR if isinstance(old, _Old) and old.code == _SCALAR and not tensor.shape else _ARRAY
    tree[last] = (tensor, numpy_name, code)


def _written(tree: Any) -> Iterator[Buffer]:
    if isinstance(tree, dict):
        yield _head(0x80, 15, None, 0xDE, len(tree))
        for key, value in tree.items():
            yield _text(key)
            yield from _written(value)
    elif isinstance(tree, tuple):
        tensor, kind, code = tree
        view = memoryview(tensor.data).cast("B")
        if len(view) <= CHUNK:
            yield from _extension(tensor.shape, kind, view, code)
            return
        yield (
            b"\x83"
            + _text(_CHUNKED)
            + b"\xc3"
            + _text("shape")
            + _head(0x80, 15, None, 0xDE, len(tensor.shape))
        )
        yield b"".join(
            _text(str(number)) + _integer(size) for number, size in enumerate(tensor.shape)
        )
        width = dtypes.get(tensor.dtype).block_bytes
        starts = range(0, len(view), CHUNK // width * width)
        yield _text("chunks") + _head(0x80, 15, None, 0xDE, len(starts))
        for number, start in enumerate(starts):
            yield _text(str(number))
            part = view[start : start + starts.step]
            yield from _extension((len(part) // width,), kind, part, _ARRAY)
    else:
        yield tree


def _extension(shape: tuple[int, ...], kind: str, view: memoryview, code: int) -> Iterator[Buffer]:
    inner = b"\x93" + _head(0x90, 15, None, 0xDC, len(shape)) + b"".join(map(_integer, shape))
    inner += _text(kind) + _head(0, -1, 0xC4, 0xC5, len(view))
    length = len(inner) + len(view)
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}
    yield (
        (bytes([fixed[length]]) if length in fixed else _head(0, -1, 0xC7, 0xC8, length))
        + bytes([code])
        + inner
    )
    yield view


def _head(short: int, most: int, one: int | None, two: int, count: int) -> bytes:
    """The shortest head for ``count``: in the first byte, or behind it in 1, 2 or 4 bytes (whose
    first bytes follow each other).
    """
    if count <= most:
        return bytes([short | count])
    if one is not None and count < 1 << 8:
        return bytes([one, count])
    return struct.pack(">BH", two, count) if count < 1 << 16 else struct.pack(">BI", two + 1, count)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return _head(0xA0, 31, 0xD9, 0xDA, len(data)) + data


def _integer(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    for first, width in ((0xCC, 1), (0xCD, 2), (0xCE, 4)):
        if value < 1 << 8 * width:
            return bytes([first]) + value.to_bytes(width, "big")
    return b"\xcf" + value.to_bytes(8, "big")


def _check(data: bytes, tensors: Mapping[str, Tensor]) -> None:
    """:class:`FormatError` unless the file just built says of every tensor what was asked for."""
    found = {
        extent.name: (extent.dtype, extent.shape)
        for extent in FlaxMsgpackFormat().scan(BytesSource(data)).extents
    }
    wanted = {
        name: (tensor.dtype, tensor.shape)
        for name, tensor in tensors.items()
        if tensor.spec.nbytes <= CHUNK
    }
    if any(found.get(name) != spec for name, spec in wanted.items()) or (
        len(wanted) == len(tensors) and len(found) != len(wanted)
    ):
        raise FormatError(
            "these tensors cannot be written as a Flax file: they would be read back as something"
            " else"
        )
