"""Finds the tensors in the tree of a torch pickle: what they are called, and how they see which
storage.

A name is the dotted path that leads to the tensor (``optimizer.state.0.exp_avg``). Names are
labels; whatever is not understood costs at most a name, never the file. The rebuild functions and
their arguments are those of ``torch/_utils.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from git_theta.checkpoints.torch.pickle_reader import Call, Global, Items, Pairs, Persistent
from git_theta.core import dtypes

DEPTH_LIMIT = 200  # containers in each other; a pickled module takes five
VIEWS_LIMIT = 400_000
NAME_LIMIT = 1000  # characters of one name; a longer one is cut
NAMES_LIMIT = 64 << 20  # characters of all names together

STORAGES = {
    "DoubleStorage": "f64",
    "FloatStorage": "f32",
    "HalfStorage": "f16",
    "BFloat16Storage": "bf16",
    "LongStorage": "i64",
    "IntStorage": "i32",
    "ShortStorage": "i16",
    "CharStorage": "i8",
    "ByteStorage": "u8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "c128",
    "ComplexFloatStorage": "c64",
    "QInt8Storage": "i8",
    "QUInt8Storage": "u8",
    "QInt32Storage": "i32",
    "QUInt4x2Storage": "u8",
    "QUInt2x4Storage": "u8",
    "UntypedStorage": "u8",
}
TYPES = {
    "float64": "f64",
    "double": "f64",
    "float32": "f32",
    "float": "f32",
    "float16": "f16",
    "half": "f16",
    "bfloat16": "bf16",
    "int64": "i64",
    "long": "i64",
    "int32": "i32",
    "int": "i32",
    "int16": "i16",
    "short": "i16",
    "int8": "i8",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "bool": "bool",
    "complex32": "c32",
    "chalf": "c32",
    "complex64": "c64",
    "cfloat": "c64",
    "complex128": "c128",
    "cdouble": "c128",
    "float8_e4m3fn": "f8_e4m3fn",
    "float8_e5m2": "f8_e5m2",
    "float8_e4m3fnuz": "f8_e4m3fnuz",
    "float8_e5m2fnuz": "f8_e5m2fnuz",
    "float8_e8m0fnu": "f8_e8m0fnu",
    "float4_e2m1fn_x2": "u8",  # torch counts pairs
    "bits8": "u8",
    "bits1x8": "u8",
    "bits2x4": "u8",
    "bits4x2": "u8",
    "bits16": "u16",
}

_PLAIN = frozenset({type(None), bool, int, float, str, bytes, bytearray, Global})
# What a pickled nn.Module, and a DTensor, hold under these names is called by bare names in a
# state_dict.
_HIDDEN = frozenset({"_parameters", "_buffers", "_modules", "_local_tensor"})


# Named tuples, since there are many and making a frozen dataclass takes three times as long.
class TorchStorage(NamedTuple):
    """What a pickle says of a storage: its ``key`` (entry ``data/<key>``), element type, and number
    of elements.
    """

    key: str
    dtype: str
    numel: int


class Slot(NamedTuple):
    """A place in a list or (``paired``) in the values of a mapping: ``values[position]``."""

    values: list[Any]
    position: int
    paired: bool


class View(NamedTuple):
    """A tensor called ``name``: elements of ``storage`` from ``offset`` on, with ``shape`` and
    ``strides`` (in elements).

    ``numel`` is its number of elements; ``node`` is the call in the tree that makes it (or the bare
    storage), ``slot`` the nearest list or mapping that it lies in.
    """

    name: str
    storage: TorchStorage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    numel: int
    contiguous: bool
    node: Any
    slot: Slot | None

    @property
    def full(self) -> bool:
        """Whether it covers its storage, in order."""
        return self.contiguous and self.offset == 0 and self.numel == self.storage.numel

    def same(self, other: View) -> bool:
        """Whether it shows the same elements in the same way."""
        return self[1:6] == other[1:6]


def views(tree: Any, prefix: str = "") -> list[View]:
    """All tensors of a torch pickle, in its order.

    Each container is entered once, by the first path that leads to it.
    """
    found: list[View] = []
    seen: set[int] = set()
    kept: list[Any] = []  # what is made on the way must live as long as its id is in ``seen``
    total = 0
    frames = [_Frame(prefix, enumerate([("", tree)]), None, False, None)]
    while frames:
        path, children, holder, paired, outer = frames[-1]
        for index, (label, node) in children:
            if type(node) in _PLAIN:
                continue
            name = (f"{path}.{label}" if path and label else path or label)[:NAME_LIMIT]
            slot = (
                outer
                if holder is None
                else Slot(holder, 2 * index + 1 if paired else index, paired)
            )
            view = _view(name, node, slot)
            if view:
                found.append(view)
                total += len(name)
                if total > NAMES_LIMIT or len(found) == VIEWS_LIMIT:
                    return found
                if not _holds_more(node):
                    continue
            if id(node) in seen or len(frames) >= DEPTH_LIMIT:
                continue
            frame = _frame(name, node, bool(view), slot)
            if frame:
                seen.add(id(node))
                kept.append(node)
                frames.append(frame)
                break
        else:
            frames.pop()
    return found


class _Frame(NamedTuple):
    """A container that is being walked: its children (numbered, labelled), and the list they lie in
    if they can be replaced.
    """

    path: str
    children: Iterator[tuple[int, tuple[str, Any]]]
    holder: list[Any] | None
    paired: bool
    slot: Slot | None


def _frame(path: str, node: Any, is_view: bool, slot: Slot | None) -> _Frame | None:
    """How to walk a container; None for what is no container."""
    kind = type(node)
    if kind is Pairs or kind is Items:
        if type(node.flat) is not list:
            return None
        children = _of_pairs(node.flat) if kind is Pairs else _numbered(node.flat)
        return _Frame(path, enumerate(children), node.flat, kind is Pairs, slot)
    if kind is list or kind is tuple:
        return _Frame(path, enumerate(_numbered(node)), node if kind is list else None, False, slot)
    if kind is Persistent:
        return _Frame(path, enumerate([("", node.id)]), None, False, slot)
    if kind is Call:
        return _Frame(path, enumerate(_of_call(node, is_view)), None, False, slot)
    return None


def storage_of(node: Any) -> TorchStorage | None:
    """What a persistent id says: ``('storage', type, key, location, numel)``."""
    if type(node) is not Persistent or type(node.id) is not tuple or len(node.id) < 5:
        return None
    kind, storage_type, key, _, numel = node.id[:5]
    if (
        kind != "storage"
        or type(storage_type) is not Global
        or type(key) is not str
        or not _is_size(numel)
    ):
        return None
    return TorchStorage(key, STORAGES.get(storage_type.name, "u8"), numel)


def _view(name: str, node: Any, slot: Slot | None) -> View | None:
    if type(node) is Persistent:
        storage = storage_of(node)
        return (
            View(
                name or "tensor",
                storage,
                0,
                (storage.numel,),
                (1,),
                storage.numel,
                True,
                node,
                slot,
            )
            if storage
            else None
        )
    if (
        type(node) is not Call
        or type(node.function) is not Global
        or not node.function.name.startswith("_rebuild_")
    ):
        return None
    function, arguments = node.function.name, node.arguments
    if function not in _TENSORS or type(arguments) is not tuple or len(arguments) < 4:
        return None
    storage = storage_of(arguments[0])
    offset, shape, strides = arguments[1:4]
    if (
        storage is None
        or not _is_size(offset)
        or not _are_sizes(shape)
        or not _are_sizes(strides)
        or len(shape) != len(strides)
    ):
        return None
    if function == "_rebuild_tensor_v3":
        dtype = arguments[6] if len(arguments) > 6 else None
        if type(dtype) is not Global or dtype.name not in TYPES:
            offset, shape, strides = 0, (storage.numel,), (1,)  # of a type unknown here: its bytes
        else:
            own = TYPES[dtype.name]
            storage = TorchStorage(storage.key, own, storage.numel // dtypes.get(own).block_bytes)
    expected, contiguous = 1, True
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if stride != expected and size != 1:
            contiguous = False
        expected *= size
        if expected > dtypes.MAX_BYTES:
            return None
    return View(
        name or "tensor",
        storage,
        offset,
        shape,
        strides,
        expected,
        contiguous or not expected,
        node,
        slot,
    )


_TENSORS = frozenset(
    {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor"}
)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= dtypes.MAX_BYTES


def _are_sizes(values: Any) -> bool:
    if type(values) is not tuple or len(values) > 64:
        return False
    # All() with a generator takes three times as long for these few
    for value in values:
        if type(value) is not int or not 0 <= value <= dtypes.MAX_BYTES:
            return False
    return True


def _holds_more(node: Any) -> bool:
    """Whether a tensor's own call may lead to further tensors."""
    return type(node) is Call and bool(
        node.function.name == "_rebuild_qtensor" or node.states or node.pairs or node.items
    )


def _numbered(values: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((str(number), value) for number, value in enumerate(values))


def _of_pairs(flat: list[Any]) -> Iterator[tuple[str, Any]]:
    return (
        (key_label(flat[number], number // 2), flat[number + 1])
        for number in range(0, len(flat) - 1, 2)
    )


def key_label(key: Any, number: int) -> str:
    """How key number ``number`` of a mapping reads in a name."""
    if type(key) is str:
        return "" if key in _HIDDEN else key[:NAME_LIMIT]
    if type(key) is int and key.bit_length() > 64:
        return str(number)
    if type(key) in (int, float, bool, type(None)):
        return str(key)
    if type(key) is bytes:
        return key[:NAME_LIMIT].decode("latin-1")
    return str(number)


def _of_call(call: Call, is_view: bool) -> Iterator[tuple[str, Any]]:
    function = call.function.name if type(call.function) is Global else ""
    arguments = call.arguments if type(call.arguments) is tuple else (call.arguments,)
    if is_view:
        if (
            function == "_rebuild_qtensor"
            and len(arguments) > 4
            and type(arguments[4]) is tuple
            and len(arguments[4]) > 2
        ):
            yield from zip(("scales", "zero_points"), arguments[4][1:3], strict=True)
    elif function in ("_rebuild_parameter", "_rebuild_parameter_with_state") and arguments:
        yield "", arguments[0]
        yield from _of_state(arguments[3] if len(arguments) > 3 else None)
    elif function in ("_rebuild_from_type", "_rebuild_from_type_v2") and len(arguments) >= 4:
        yield "", Call(arguments[0], arguments[2])
        yield from _of_state(arguments[3])
    elif (
        function == "_rebuild_sparse_tensor" and len(arguments) > 1 and type(arguments[1]) is tuple
    ):
        coordinates = len(arguments[1]) < 4 or type(arguments[1][3]) is bool
        labels = (
            ("indices", "values")
            if coordinates
            else ("compressed_indices", "plain_indices", "values")
        )
        yield from zip(labels, arguments[1], strict=False)
    elif function == "_rebuild_nested_tensor":
        yield from zip(("", "sizes", "strides", "offsets"), arguments, strict=False)
    else:
        if type(call.function) is not Global:
            yield "", call.function
        # As a container, as other calls may have the same
        yield "", arguments[0] if len(arguments) == 1 else arguments
    if call.pairs:
        yield "", Pairs(call.pairs)
    if call.items:
        yield "", call.items
    for state in call.states:
        yield from _of_state(state)


def _of_state(state: Any) -> Iterator[tuple[str, Any]]:
    """An object's attributes; a pair of them holds those without and with slots."""
    for part in state if type(state) is tuple and len(state) == 2 else (state,):
        yield "", part
