"""Writes torch files: anew, with other bytes in an old one, or with other tensors beside an old
one's values.

A file is only returned after it was read back and found to hold exactly what was asked for.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from git_theta.checkpoints.containers.zip_container import ZipEntry, read_archives
from git_theta.checkpoints.containers.zip_writer import write_archive
from git_theta.checkpoints.torch import zip_archive
from git_theta.checkpoints.torch.pickle_reader import Call, Global, Pairs, Persistent
from git_theta.checkpoints.torch.pickle_tree import (
    NAME_LIMIT,
    STORAGES,
    TYPES,
    Slot,
    View,
    key_label,
)
from git_theta.checkpoints.torch.pickle_writer import write
from git_theta.checkpoints.torch.zip_archive import STORAGE_NAME, StoragePart, TorchArchive
from git_theta.core import dtypes
from git_theta.core.layout import Extent, Layout
from git_theta.core.names import display
from git_theta.core.source import BytesSource, Source
from git_theta.core.tensors import Buffer, Tensor
from git_theta.errors import FormatError

_CLASSES = {
    own: name
    for name, own in reversed(STORAGES.items())
    if not name.startswith("Q") and name != "UntypedStorage"
}
_DTYPES = {own: name for name, own in reversed(TYPES.items())}
_SAVED = frozenset(
    {
        "data.pkl",
        "version",
        "byteorder",
        ".format_version",
        ".storage_alignment",
        ".data/serialization_id",
    }
)
_MAPPINGS = frozenset({Global("collections", "OrderedDict"), Global("collections", "defaultdict")})
_CONTAINERS = frozenset({Pairs, Call, list, tuple})
_CHUNK = 1 << 20


def build(tensors: Mapping[str, Tensor], like: Source | None) -> Buffer:
    """A torch file with exactly ``tensors``; whatever else it holds is taken from ``like``.

    Names that are tied in ``like`` stay tied where ``tensors`` does not say otherwise. A new name
    goes into the mapping of ``like`` whose path it starts with. :class:`FormatError` when ``like``
    cannot be changed so, or torch has no such type.
    """
    if like is None:
        data: Buffer = _new_file(tensors)
    else:
        layout = zip_archive.scan(like)
        data = (
            _same_file(like, layout, tensors)
            if _fits(layout, tensors)
            else _Rewrite(like, layout, tensors).file()
        )
    _check(data, tensors)
    return data


def _new_file(tensors: Mapping[str, Tensor]) -> bytes:
    """Names of one and the same tensor share its storage, as those of tied weights do."""
    flat: list[Any] = []
    contents = []
    keys: dict[int, str] = {}
    for name, tensor in tensors.items():
        if id(tensor) not in keys:
            keys[id(tensor)] = str(len(keys))
            contents.append((keys[id(tensor)], [tensor.data]))
        flat += [name, _call(keys[id(tensor)], name, tensor)]
    return _file("archive/", Pairs(flat), contents)


def _file(root: str, tree: Any, contents: Sequence[tuple[str, Sequence[Buffer]]]) -> bytes:
    entries: list[tuple[str, Sequence[Buffer]]] = [
        ("data.pkl", [write(tree)]),
        (".format_version", [b"1"]),
        (".storage_alignment", [b"64"]),
        ("byteorder", [b"little"]),
    ]
    entries += [(f"data/{key}", pieces) for key, pieces in contents]
    entries.append(("version", [b"3\n"]))
    return write_archive((root + name, pieces) for name, pieces in entries)


def _call(key: str, name: str, tensor: Tensor, old: Call | None = None) -> Call:
    """The call that makes ``tensor`` from storage ``key``; gradient flag, hooks and metadata as in
    ``old``.
    """
    arguments: tuple[Any, ...] = old.arguments if old else ()
    place = arguments[0].id[3] if old else "cpu"
    strides, total = [], 1
    for size in reversed(tensor.shape):
        strides.append(total)
        total *= size
    view = (0, tensor.shape, tuple(reversed(strides)))
    if old and old.function.name == "_rebuild_qtensor":
        if STORAGES.get(arguments[0].id[1].name) != tensor.dtype:
            raise FormatError(
                f"tensor {display(name, 80)} is quantized and cannot become {tensor.dtype}"
            )
        storage = Persistent(("storage", arguments[0].id[1], key, place, total))
        return Call(old.function, (storage, *view, *arguments[4:]))
    grad = arguments[4] if len(arguments) > 4 and dtypes.get(tensor.dtype).kind in "fc" else False
    hooks = arguments[5] if len(arguments) > 5 else Call(Global("collections", "OrderedDict"), ())
    metadata = arguments[7 if old and old.function.name == "_rebuild_tensor_v3" else 6 :]
    if tensor.dtype in _CLASSES:
        storage = Persistent(
            ("storage", Global("torch", _CLASSES[tensor.dtype]), key, place, total)
        )
        return Call(
            Global("torch._utils", "_rebuild_tensor_v2"), (storage, *view, grad, hooks, *metadata)
        )
    if tensor.dtype not in _DTYPES:
        raise FormatError(
            f"tensor {display(name, 80)} is {tensor.dtype}, which a torch file cannot hold"
        )
    storage = Persistent(
        ("storage", Global("torch.storage", "UntypedStorage"), key, place, tensor.spec.nbytes)
    )
    dtype = Global("torch", _DTYPES[tensor.dtype])
    return Call(
        Global("torch._utils", "_rebuild_tensor_v3"),
        (storage, *view, grad, hooks, dtype, *metadata),
    )


# -- the same file with other bytes ----------------------------------------------------------------


def _unchanged(extent: Extent, tensors: Mapping[str, Tensor]) -> bool:
    """Whether an extent keeps type and shape, and its names stay tied."""
    tensor = tensors.get(extent.name)
    if tensor is None or (tensor.dtype, tensor.shape) != (extent.dtype, extent.shape):
        return False
    tied = [tensors[alias] for alias in extent.aliases if alias in tensors]
    return all(other.spec == tensor.spec and _equal(other.data, tensor.data) for other in tied)


def _fits(layout: Layout, tensors: Mapping[str, Tensor]) -> bool:
    names = {name for extent in layout.extents for name in (extent.name, *extent.aliases)}
    return tensors.keys() <= names and all(_unchanged(extent, tensors) for extent in layout.extents)


def _same_file(like: Source, layout: Layout, tensors: Mapping[str, Tensor]) -> bytearray:
    """``like`` with the tensors' bytes in place; every CRC-32 that was right is right again."""
    data = bytearray(like.size)
    view = memoryview(data)
    like.read_into(0, view)
    entries = [entry for archive in read_archives(like) for entry in archive.entries if entry.plain]
    fields = [
        (
            entry,
            [
                field
                for field in (entry.front, *entry.sums)
                if _field(view, field) == _crc(view, entry)
            ],
        )
        for entry in entries
    ]
    for extent in layout.extents:
        view[extent.offset : extent.end] = memoryview(tensors[extent.name].data).cast("B")
    for entry, right in fields:
        crc = _crc(view, entry).to_bytes(4, "little")
        for field in right:
            view[field : field + 4] = crc
    return data


def _field(view: memoryview, offset: int) -> int:
    return int.from_bytes(view[offset : offset + 4], "little")


def _crc(view: memoryview, entry: ZipEntry) -> int:
    return zlib.crc32(view[entry.offset : entry.end])


# -- another file with the same other values -------------------------------------------------------


class _Rewrite:
    """Changes the tree of ``like`` so that it holds ``tensors``, and collects the storages that
    this needs.
    """

    def __init__(self, like: Source, layout: Layout, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._archive = _understood(like)
        self._old_names = {
            name for extent in layout.extents for name in (extent.name, *extent.aliases)
        }
        self._cut = list(_storages(self._archive, layout))
        self._used = {entry.removeprefix("data/") for entry in self._archive.entries}
        self._keys: dict[str, str] = {}  # keys of the new storages, by their tensor's name
        # The calls made of an old one (by its id), by their tensor's name
        self._pointed: dict[int, dict[str, Call]] = {}
        self._removed: list[View] = []

    def file(self) -> bytes:
        """The file's bytes."""
        rank = {name: number for number, name in enumerate(self._tensors)}
        contents: list[tuple[int, str, list[Buffer]]] = []
        for entry, parts, extents in self._cut:
            if all(_unchanged(extent, self._tensors) for extent in extents):
                pieces = [self._tensors[extent.name].data for extent in extents]
                contents.append(
                    (
                        min(rank[extent.name] for extent in extents),
                        entry.removeprefix("data/"),
                        pieces,
                    )
                )
            else:
                self._change(entry, parts, extents)
        self._drop()
        self._add()
        contents += [
            (rank[name], key, [self._tensors[name].data]) for name, key in self._keys.items()
        ]
        contents.sort(key=lambda item: item[0])
        return _file(
            self._archive.root, self._archive.tree, [(key, pieces) for _, key, pieces in contents]
        )

    def _change(self, entry: str, parts: Sequence[StoragePart], extents: Sequence[Extent]) -> None:
        """Give each tensor of a storage a storage of its own, or take it out."""
        shown = {id(view) for part in parts for view in part.views}
        for view in self._archive.views.get(entry, ()):
            if id(view) not in shown:
                raise _impossible(
                    extents[0].name, f"{display(view.name, 80)} shares its bytes in another shape"
                )
        for part, extent in zip(parts, extents, strict=True):
            if not part.views:
                raise _impossible(extent.name, "the file's pickle does not say where it belongs")
            for view, name in zip(part.views, (extent.name, *extent.aliases), strict=True):
                target = name if name in self._tensors else extent.name
                if target not in self._tensors:
                    self._removed.append(view)
                elif type(view.node) is not Call or not view.contiguous or view.shape != part.shape:
                    raise _impossible(name, "it is not a tensor that fills its storage in order")
                else:
                    self._point(view, target)

    def _point(self, view: View, target: str) -> None:
        """Let a tensor of the tree be ``target``, in a new storage."""
        key = self._keys.get(target) or self._new_key(target)
        calls = self._pointed.setdefault(id(view.node), {})
        if target not in calls:
            made = _call(key, target, self._tensors[target], view.node)
            # One object under two names that are no longer equal: the second needs an object of its
            # own
            if calls:
                calls[target] = made
            else:
                view.node.function, view.node.arguments = made.function, made.arguments
                calls[target] = view.node
        if calls[target] is not view.node:
            slot = view.slot
            if slot is None or slot.values[slot.position] is not view.node:
                raise _impossible(target, "it is tied to another name inside of a larger value")
            slot.values[slot.position] = calls[target]

    def _new_key(self, name: str) -> str:
        number = len(self._used)
        while str(number) in self._used:
            number += 1
        self._used.add(str(number))
        self._keys[name] = str(number)
        return self._keys[name]

    def _drop(self) -> None:
        """Take the removed tensors out of the lists and mappings that hold them."""
        everything = (view for seen in self._archive.views.values() for view in seen)
        total = Counter(
            (id(view.slot.values), view.slot.position) for view in everything if view.slot
        )
        lost = Counter(
            (id(view.slot.values), view.slot.position) for view in self._removed if view.slot
        )
        slots: dict[int, dict[int, Slot]] = {}
        for view in self._removed:
            place = (id(view.slot.values), view.slot.position) if view.slot else (0, 0)
            if view.slot is None or lost[place] != total[place]:
                raise _impossible(view.name, "it is only a part of a larger value")
            slots.setdefault(place[0], {})[place[1]] = view.slot
        for indices in slots.values():
            for index, slot in sorted(indices.items(), reverse=True):
                del slot.values[index - 1 if slot.paired else index : index + 1]

    def _add(self) -> None:
        """Put the new tensors into the mappings whose paths their names start with."""
        new = [name for name in self._tensors if name not in self._old_names]
        found = _mappings(self._archive.tree) if new else {}
        grouped: dict[str, list[tuple[str, str]]] = {}
        for name in new:
            cuts = [position for position, letter in enumerate(name[:NAME_LIMIT]) if letter == "."]
            path = next((name[:cut] for cut in reversed(cuts) if name[:cut] in found), "")
            if path not in found:
                raise _impossible(name, "there is no mapping to put it into")
            grouped.setdefault(path, []).append((name, name[len(path) + 1 :] if path else name))
        for path, named in grouped.items():
            mapping = found[path]
            values = list(_flat(mapping))
            numbered = bool(values) and all(type(key) is int for key in values[::2])
            for name, label in named:
                values += [
                    _key(name, label) if numbered else label,
                    _call(self._new_key(name), name, self._tensors[name]),
                ]
            if isinstance(mapping, Pairs):
                mapping.flat = values
            else:
                mapping.pairs = values


def _flat(mapping: Pairs | Call) -> Sequence[Any]:
    return mapping.flat if isinstance(mapping, Pairs) else mapping.pairs


def _key(name: str, label: str) -> int:
    if not label.isdecimal() or len(label) > 18 or str(int(label)) != label:
        raise _impossible(name, "the mapping it would belong to has numbers as keys")
    return int(label)


def _impossible(name: str, reason: str) -> FormatError:
    return FormatError(
        f"tensor {display(name, 80)} cannot be written into a file like this: {reason}"
    )


def _understood(like: Source) -> TorchArchive:
    archives = read_archives(like)
    archive = zip_archive.understand(like, archives[0])
    plain = all(
        entry.plain and (name in _SAVED or name.startswith("data/"))
        for name, entry in archive.entries.items()
    )
    if len(archives) > 1 or not plain or archive.tree is None or archive.big_endian:
        raise FormatError(
            "this torch file is of a kind in which tensors cannot be added, removed or reshaped"
        )
    return archive


def _storages(
    archive: TorchArchive, layout: Layout
) -> Iterator[tuple[str, list[StoragePart], list[Extent]]]:
    """Every storage of ``layout``: its entry, its parts and their extents."""
    cut = [
        (name, zip_archive.parts(archive, name, entry))
        for name, entry in archive.entries.items()
        if STORAGE_NAME.match(name)
    ]
    if sum(len(parts) for _, parts in cut) != len(layout.extents):
        raise FormatError(
            "this torch file has other long parts, beside which tensors cannot be added, removed or"
            " reshaped"
        )
    extents = iter(layout.extents)
    for name, parts in cut:
        yield name, parts, [next(extents) for _ in parts]


def _mappings(tree: Any) -> dict[str, Pairs | Call]:
    """The tree's mappings by their paths."""
    found: dict[str, Pairs | Call] = {}
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [("", tree)]
    while todo:
        path, node = todo.pop()
        if id(node) in seen or len(path) > NAME_LIMIT:
            continue
        seen.add(id(node))
        if type(node) is Pairs or (
            type(node) is Call and type(node.function) is Global and node.function in _MAPPINGS
        ):
            found.setdefault(path, node)
            flat = _flat(node)
            labelled = [
                (key_label(key, number), value)
                for number, (key, value) in enumerate(zip(flat[::2], flat[1::2], strict=True))
            ]
        elif type(node) is list or type(node) is tuple:
            labelled = [(str(number), value) for number, value in enumerate(node)]
        else:
            continue
        todo += [
            (f"{path}.{label}" if path else label, value)
            for label, value in labelled
            if type(value) in _CONTAINERS
        ]
    return found


# -- reading back ----------------------------------------------------------------------------------


def _check(data: Buffer, tensors: Mapping[str, Tensor]) -> None:
    """:class:`FormatError` unless the file holds exactly ``tensors`` (and names tied to them)."""
    view, missing = memoryview(data), set(tensors)
    for extent in zip_archive.scan(BytesSource(data)).extents:
        names = [name for name in (extent.name, *extent.aliases) if name in tensors]
        for name in names:
            tensor = tensors[name]
            same = (
                tensor.spec.nbytes == extent.length
                and tensor.dtype == extent.dtype
                and _equal(tensor.data, view[extent.offset : extent.end])
            )
            if not same or tensor.shape != extent.shape:
                raise _impossible(name, "it would be read back as something else")
        if not names:
            raise _impossible(extent.name, "it would appear beside what was asked for")
        missing.difference_update(names)
    for name in missing:
        raise _impossible(name, "it would be read back under another name")


def _equal(left: Buffer, right: Buffer) -> bool:
    """Whether two buffers hold the same bytes; in pieces, since comparing memoryviews is slow and
    copying them is large.
    """
    if left is right:
        return True
    one, two = memoryview(left).cast("B"), memoryview(right).cast("B")
    return len(one) == len(two) and all(
        bytes(one[start : start + _CHUNK]) == bytes(two[start : start + _CHUNK])
        for start in range(0, len(one), _CHUNK)
    )
