"""ONNX models: a walk through the protocol buffer to the tensors of its graphs, functions and
attributes.

Field numbers are those of ``onnx.proto``. Tensors that say their values lie in another file have
none here; that file is never opened. Values that protocol buffers code one by one (``int32_data``,
``int64_data``, ``uint64_data``) are plain bytes.
"""

from __future__ import annotations

from git_theta.checkpoints.assemble import NAME_LIMIT, NAMES_LIMIT, assemble, raw, shaped
from git_theta.checkpoints.cursor import Cursor
from git_theta.core.layout import Extent, Layout
from git_theta.core.source import BytesSource, Source
from git_theta.errors import FormatError

DEPTH_LIMIT = 64
FIELDS_LIMIT = 8_000_000
_VERSIONS = range(3, 64)

TYPES = {
    1: "f32",
    2: "u8",
    3: "i8",
    4: "u16",
    5: "i16",
    6: "i32",
    7: "i64",
    9: "bool",
    10: "f16",
    11: "f64",
    12: "u32",
    13: "u64",
    14: "c64",
    15: "c128",
    16: "bf16",
    17: "f8_e4m3fn",
    18: "f8_e4m3fnuz",
    19: "f8_e5m2",
    20: "f8_e5m2fnuz",
    23: "f4_e2m1",
    24: "f8_e8m0fnu",
}

# Which fields of which message hold further messages, and of what kind.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION, _SPARSE, _TENSOR, _TRAINING = range(8)
_INNER: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
}
_LABELS = {_NODE: 2, _ATTRIBUTE: 1}  # a node is called by its first output
_PACKED = {4: ("f32", {14: "c64"}), 10: ("f64", {15: "c128"})}
_CODED, _RAW = (5, 7, 11), 9


class OnnxFormat:
    """Models in ONNX."""

    name = "onnx"
    suffixes: tuple[str, ...] = (".onnx",)

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` starts with a version of the format, a producer's name if any, and soon
        a graph or operator sets.
        """
        cursor = Cursor(BytesSource(head), "head")
        try:
            if cursor.take(1) != b"\x08" or cursor.varint() not in _VERSIONS:
                return False
            while True:
                tag = cursor.varint()
                if tag in (7 << 3 | 2, 8 << 3 | 2):
                    return True
                if tag in (2 << 3 | 2, 3 << 3 | 2, 4 << 3 | 2, 6 << 3 | 2, 14 << 3 | 2):
                    text = cursor.take(cursor.varint())
                    if tag == 2 << 3 | 2 and not text.decode().isprintable():
                        return False
                elif tag == 5 << 3:
                    cursor.varint()
                else:
                    return False
        except (FormatError, UnicodeDecodeError):
            return False

    def scan(self, source: Source) -> Layout:
        """One extent per tensor; :class:`FormatError` for any other protocol buffer."""
        walk = _Walk(Cursor(source, "ONNX file"))
        walk.message(_MODEL, source.size, "", 0)
        return assemble(self.name, source.size, walk.found)


class _Walk:
    """Collects the tensors, field by field."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.found: list[Extent] = []
        self._fields = self._letters = 0

    def field(self, end: int) -> tuple[int, int, int]:
        """The next field: number, wire type and value (of length-delimited fields: the length)."""
        cursor = self.cursor
        self._fields += 1
        if self._fields > FIELDS_LIMIT:
            raise cursor.broken(f"it has more than {FIELDS_LIMIT} fields")
        tag = cursor.varint()
        number, wire = tag >> 3, tag & 7
        if not number or wire not in (0, 1, 2, 5):
            raise cursor.broken(f"the field before byte {cursor.position} is of no known kind")
        value = (
            cursor.varint()
            if wire in (0, 2)
            else int.from_bytes(cursor.take(8 if wire == 1 else 4), "little")
        )
        if cursor.position > end or (wire == 2 and value > end - cursor.position):
            raise cursor.broken(
                f"a field before byte {cursor.position} reaches beyond what it is a part of"
            )
        return number, wire, value

    def message(self, kind: int, end: int, path: str, depth: int) -> None:
        """Everything up to ``end``."""
        if depth > DEPTH_LIMIT:
            raise self.cursor.broken(f"it is nested more than {DEPTH_LIMIT} deep")
        inner, label, before = _INNER[kind], "", len(self.found)
        while self.cursor.position < end:
            number, wire, value = self.field(end)
            if wire != 2:
                continue
            stop = self.cursor.position + value
            if number in inner:
                name = _path(kind, path, label)
                if inner[number] == _TENSOR:
                    if kind == _SPARSE:  # its indices are called after its values
                        name = (
                            self.found[before].name
                            if len(self.found) > before
                            else name or "sparse"
                        )
                        name = f"{name}.indices" if number == 2 else name
                    self.tensor(stop, name)
                else:
                    self.message(inner[number], stop, name, depth + 1)
            elif number == _LABELS.get(kind) and not label:
                label = self.text(value)
            self.cursor.skip(stop - self.cursor.position)

    def text(self, length: int) -> str:
        """``length`` bytes from here as text, at most so much as a name may have."""
        return self.cursor.source.read(self.cursor.position, min(length, 4 * NAME_LIMIT)).decode(
            "utf-8", "replace"
        )[:NAME_LIMIT]

    def tensor(self, end: int, path: str) -> None:
        """One tensor: dimensions and type usually come before its values, but need not."""
        dims: list[int] = []
        kind, name, values = 0, "", list[tuple[int, int, int]]()
        while self.cursor.position < end:
            number, wire, value = self.field(end)
            if wire == 0:
                if number == 1:
                    dims.append(value)
                elif number == 2:
                    kind = value
            elif wire == 2:
                stop = self.cursor.position + value
                if number == 1:
                    while self.cursor.position < stop and len(dims) <= 64:
                        dims.append(self.cursor.varint())
                elif number == 8:
                    name = self.text(value)
                elif number == _RAW or number in _PACKED or number in _CODED:
                    values.append((number, self.cursor.position, value))
                if self.cursor.position > stop:
                    raise self.cursor.broken(
                        f"a dimension before byte {self.cursor.position} is cut off"
                    )
                self.cursor.skip(stop - self.cursor.position)
        self.found += [
            _extent(name or path or "tensor", kind, dims, *value) for value in values if value[2]
        ]
        self._letters += len(name or path)
        if self._letters > NAMES_LIMIT:
            raise self.cursor.broken(
                f"the names of its tensors have more than {NAMES_LIMIT} characters"
            )


def _path(kind: int, path: str, label: str) -> str:
    """What tensors without a name are called inside of a message: ``<first output of the
    node>.<attribute>``.
    """
    if kind == _ATTRIBUTE:
        return f"{path}.{label}"[:NAME_LIMIT] if path and label else path or label
    return label or path if kind == _NODE else path


def _extent(name: str, kind: int, dims: list[int], number: int, offset: int, length: int) -> Extent:
    if number in _PACKED:
        plain, others = _PACKED[number]
        return shaped(name, others.get(kind, plain), dims, offset, length)
    if number == _RAW and kind in TYPES:
        return shaped(name, TYPES[kind], dims, offset, length)
    return raw(name, offset, length)
