"""Files that ``torch.save`` wrote before release 1.6: five pickles, then each storage's length and
bytes.

The structure is that of ``_legacy_save`` in ``torch/serialization.py``: a magic number, the
protocol (1001), facts of the writing system, the object, the list of storage keys; then, in that
list's order, the number of elements (8 bytes) and the elements.
"""

from __future__ import annotations

from typing import Any

from git_theta.checkpoints.assemble import assemble
from git_theta.checkpoints.containers.zip_container import ZipEntry
from git_theta.checkpoints.cursor import Cursor
from git_theta.checkpoints.torch import loaded, pickle_reader, zip_archive
from git_theta.checkpoints.torch.pickle_reader import Call, Pairs, Persistent, PickleError
from git_theta.checkpoints.torch.pickle_tree import TorchStorage, View, storage_of, views
from git_theta.checkpoints.torch.zip_archive import TorchArchive
from git_theta.core import dtypes
from git_theta.core.layout import Layout
from git_theta.core.source import Source
from git_theta.core.tensors import Contents
from git_theta.errors import FormatError

# LONG1 of ten bytes: how every pickle protocol from 2 on writes the magic number
# 0x1950a86a20f9469cfc6c.
MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_PROTOCOL = 1001
# A longer one is read without its long values
_WINDOWS = (1 << 16, 4 << 20, pickle_reader.SIZE_LIMIT)


class TorchLegacyFormat:
    """Checkpoints written before torch 1.6, or with ``_use_new_zipfile_serialization=False``."""

    name = "torch-legacy"
    suffixes: tuple[str, ...] = ()

    def sniff(self, head: bytes) -> bool:
        """Whether ``head`` starts with a pickle of torch's magic number."""
        return head.startswith(b"\x80") and MAGIC in head[:24]

    def scan(self, source: Source) -> Layout:
        """One extent per storage, or per tensor where tensors tile one; :class:`FormatError` when
        its end cannot be found.

        Without what the pickles say of the storages, their lengths are not known: unlike in a zip
        archive, they must be understood.
        """
        return assemble(self.name, source.size, zip_archive.extents(_read(source)))

    def contents(self, source: Source) -> Contents:
        """As that of a torch zip archive."""
        return loaded.read(source, [_read(source)])


def _read(source: Source) -> TorchArchive:
    """The file as if it were a zip archive, with an entry for each storage."""
    cursor = Cursor(source, "torch file")
    magic, protocol, system, tree, keys = (_pickle(cursor) for _ in range(5))
    if magic != int.from_bytes(MAGIC[2:], "little") or protocol != _PROTOCOL:
        raise cursor.broken("it does not start with the numbers that torch writes")
    if type(keys) is not list:
        raise cursor.broken("the list of its storages is missing")
    numbers: dict[str, int] = {}
    for key in keys:
        if type(key) is not str or key in numbers:
            raise cursor.broken("its list of storages holds what is no key, or one key twice")
        numbers[key] = len(numbers)
    found = _storages(views(tree), numbers)
    entries: dict[str, ZipEntry] = {}
    for key, number in numbers.items():
        if key not in found:
            raise cursor.broken(f"storage {number} is listed, but nothing says what it is")
        entries[f"data/{number}"] = _entry(cursor, f"data/{number}", found[key][0])
    named = {f"data/{numbers[key]}": seen for key, (_, seen) in found.items()}
    return TorchArchive("", entries, tree, named, _is_big_endian(system))


def _pickle(cursor: Cursor) -> Any:
    """The next pickle; its end is only known when it is read."""
    try:
        for window in _WINDOWS:
            data = cursor.source.read(cursor.position, min(window, cursor.end - cursor.position))
            try:
                tree, length = pickle_reader.read_first(data)
                break
            except PickleError:
                if len(data) < window:
                    raise
        else:
            tree, length = pickle_reader.read_large(cursor.source.read, cursor.position, cursor.end)
    except PickleError as error:
        raise cursor.broken(
            f"the pickle at byte {cursor.position} cannot be read: {error}"
        ) from None
    cursor.skip(length)
    return tree


def _storages(
    seen: list[View], numbers: dict[str, int]
) -> dict[str, tuple[TorchStorage, list[View]]]:
    """The listed storages as they were first described, each with the tensors that see it."""
    found: dict[str, tuple[TorchStorage, list[View]]] = {}
    for view in seen:
        node = view.node.arguments[0] if type(view.node) is Call else view.node
        storage = storage_of(node)
        if storage is None or storage.key not in numbers:
            continue
        listed = found.setdefault(storage.key, (storage, []))[1]
        if type(node) is Persistent and len(node.id) > 5 and node.id[5] is not None:
            # A part of a storage, as releases before 0.4 had them: its tensors' offsets count from
            # elsewhere
            continue
        listed.append(view)
    return found


def _entry(cursor: Cursor, name: str, storage: TorchStorage) -> ZipEntry:
    """Where a storage lies: its number of elements, then these."""
    length = cursor.uint(8) * dtypes.get(storage.dtype).block_bytes
    return ZipEntry(name, True, cursor.skip(length), length, 0, ())


def _is_big_endian(system: Any) -> bool:
    if type(system) is not Pairs:
        raise FormatError("the torch file is broken: it does not say what system wrote it")
    pairs = zip(system.flat[::2], system.flat[1::2], strict=False)
    return any(
        type(key) is str and key == "little_endian" and value is False for key, value in pairs
    )
