"""What a torch zip archive holds: its storages, cut into extents and named by its pickle.

The unit is the storage: an entry ``data/N`` is one extent, whatever tensors see it. Its name, type
and shape come from the pickle; N does not, since it shifts when a tensor is added. Where the pickle
is silent or contradicts the archive, the bytes are still an extent, of plain bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from git_theta.checkpoints.assemble import bounded
from git_theta.checkpoints.containers.stored_zip import finished, is_large, raw_extent
from git_theta.checkpoints.containers.zip_container import ZipArchive, ZipEntry, read_archives
from git_theta.checkpoints.torch import pickle_reader
from git_theta.checkpoints.torch.pickle_tree import View, views
from git_theta.core import dtypes
from git_theta.core.layout import Extent, Layout, unique_names
from git_theta.core.source import Source

NAME = "torch-zip"  # of the format
STORAGE_NAME = re.compile(r"(?:(?:data|constants)/[^/]+|\.data/.+\.storage)\Z")


@dataclass(frozen=True, slots=True)
class TorchArchive:
    """A torch archive: its entries by their names below ``root`` in file order, and what its
    pickles call the storages.

    ``views`` holds the tensors by the name of their storage's entry (``data/<key>``). ``tree`` is
    None when ``data.pkl`` is not understood; ``trouble`` says why.
    """

    root: str
    entries: dict[str, ZipEntry]
    tree: object
    views: dict[str, list[View]]
    big_endian: bool
    trouble: str = ""


class StoragePart(NamedTuple):
    """A run of a storage that is one tensor: its type and shape, and where it starts in the storage
    (in bytes).

    ``views`` are those that show exactly these bytes, in one and the same way; the first one names
    the part. If there are none, or they contradict the archive, ``name`` does.
    """

    name: str
    views: tuple[View, ...]
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int

    @property
    def names(self) -> tuple[str, ...]:
        """The part's name, and those that are tied to it."""
        return tuple(view.name for view in self.views) or (self.name,)


def scan(source: Source) -> Layout:
    """The layout of a torch file; :class:`FormatError` when its zip archive is not sound."""
    archives, notices = read_archives(source), list[str]()
    layout = finished(
        NAME, source.size, archives, list(bounded(_all_extents(source, archives, notices)))
    )
    return replace(layout, notices=tuple(notices)) if notices else layout


def _all_extents(
    source: Source, archives: Sequence[ZipArchive], notices: list[str]
) -> Iterator[Extent]:
    budget = pickle_reader.SIZE_LIMIT
    for archive in archives:
        understood = understand(source, archive, budget)
        if understood.trouble and any(map(STORAGE_NAME.match, understood.entries)):
            notices.append(
                "its tensors have no names and types, since its pickle is not understood:"
                f" {understood.trouble}"
            )
        yield from extents(understood)
        budget -= sum(
            min(entry.length, budget) for entry in archive.entries if entry.name.endswith(".pkl")
        )


def extents(archive: TorchArchive) -> Iterator[Extent]:
    """An archive's extents, named as its pickle has it (not yet uniquely)."""
    for name, entry in archive.entries.items():
        if entry.plain and STORAGE_NAME.match(name):
            for part in parts(archive, name, entry):
                aliases = part.names[1:] if len(part.views) > 1 else ()
                yield Extent(
                    part.name,
                    part.dtype,
                    part.shape,
                    entry.offset + part.start,
                    part.length,
                    aliases,
                )
        elif is_large(entry) or (entry.plain and not archive.root):
            yield raw_extent(name, entry)


def understand(
    source: Source, archive: ZipArchive, budget: int = pickle_reader.SIZE_LIMIT
) -> TorchArchive:
    """What an archive's pickles (of at most ``budget`` bytes) say of its entries.

    Never fails: what is not understood has no names.
    """
    folders = [
        entry.name.removesuffix("data.pkl")
        for entry in archive.entries
        if entry.name.endswith("/data.pkl")
    ]
    root = folders[0] if len(folders) == 1 and folders[0].count("/") == 1 else ""
    entries = {
        name: entry for name, entry in _below(root, archive.entries) if not name.endswith("/")
    }
    tree, found, trouble = None, dict[str, list[View]](), ""
    if root:
        tree, trouble = _read_pickle(source, entries.get("data.pkl"), budget)
        constants, _ = _read_pickle(source, entries.get("constants.pkl"), budget)  # of TorchScript
        for folder, seen in (("data", views(tree)), ("constants", views(constants, "constants"))):
            for view in seen:
                found.setdefault(f"{folder}/{view.storage.key}", []).append(view)
    order = entries.get("byteorder")
    big_endian = (
        order is not None
        and order.plain
        and order.length == 3
        and source.read(order.offset, 3) == b"big"
    )
    return TorchArchive(root, entries, tree, found, big_endian, trouble)


def _read_pickle(source: Source, entry: ZipEntry | None, budget: int) -> tuple[object, str]:
    """A pickle's tree, or None and why there is none: such a file may load elsewhere all the same;
    it is cut without names.
    """
    if entry is None:
        return None, ""
    if not entry.plain:
        return None, "it is compressed"
    try:
        if entry.length <= budget:
            return pickle_reader.read(source.read(entry.offset, entry.length)), ""
        if budget < pickle_reader.SIZE_LIMIT:
            return (
                None,
                (
                    f"the pickles of the file's archives are larger than {pickle_reader.SIZE_LIMIT}"
                    " bytes"
                ),
            )
        return (
            pickle_reader.read_large(source.read, entry.offset, entry.offset + entry.length)[0],
            "",
        )
    except pickle_reader.PickleError as error:
        return None, str(error)


def _below(root: str, entries: Sequence[ZipEntry]) -> list[tuple[str, ZipEntry]]:
    names = [entry.name.removeprefix(root) for entry in entries]
    if len(set(names)) < len(names):
        names = unique_names(names)
    return list(zip(names, entries, strict=True))


def parts(archive: TorchArchive, name: str, entry: ZipEntry) -> list[StoragePart]:
    """How the storage in entry ``name`` is cut: as a whole, or into the contiguous tensors that
    tile it exactly.
    """
    seen = archive.views.get(name)
    if not seen:
        return [StoragePart(name, (), "u8", (entry.length,), 0, entry.length)]
    fitting = [view for view in seen if _fits(view, entry.length)]
    if archive.big_endian or not fitting:
        return [StoragePart(seen[0].name, (), "u8", (entry.length,), 0, entry.length)]
    whole = next((view for view in fitting if view.full), None)
    if whole:
        return [_part(whole, fitting)]
    return _tiles(fitting, entry.length) or [_flat(fitting, entry.length)]


def _fits(view: View, length: int) -> bool:
    """Whether a view and its storage agree with the entry's ``length`` in bytes."""
    width = dtypes.get(view.storage.dtype).block_bytes
    return view.storage.numel * width == length and not (
        view.contiguous and view.offset + view.numel > view.storage.numel
    )


def _part(first: View, others: Sequence[View]) -> StoragePart:
    width = dtypes.get(first.storage.dtype).block_bytes
    return StoragePart(
        first.name,
        _like(first, others),
        first.storage.dtype,
        _shape(first),
        first.offset * width,
        first.numel * width,
    )


def _like(first: View, others: Sequence[View]) -> tuple[View, ...]:
    if len(others) == 1:
        return (first,)
    return (first, *(view for view in others if view is not first and view.same(first)))


def _shape(view: View) -> tuple[int, ...]:
    total = 1
    for size in view.shape:
        total *= size
        if total > dtypes.MAX_BYTES:  # only a zero further on makes it fit
            return (view.numel,)
    return view.shape


def _flat(fitting: Sequence[View], length: int) -> StoragePart:
    first = fitting[0]
    return StoragePart(
        first.name, _like(first, fitting), first.storage.dtype, (first.storage.numel,), 0, length
    )


def _tiles(fitting: Sequence[View], length: int) -> list[StoragePart]:
    """One part per tensor if contiguous ones of one type cover the storage without gap or overlap,
    else none.
    """
    tiles: dict[int, list[View]] = {}
    for view in fitting:
        if view.contiguous and view.numel and view.storage.dtype == fitting[0].storage.dtype:
            tiles.setdefault(view.offset, []).append(view)
    position, found = 0, []
    while group := tiles.pop(position, None):
        if any(view.numel != group[0].numel for view in group):
            return []
        found.append(_part(group[0], group))
        position += group[0].numel
    covered = sum(part.length for part in found)
    return found if not tiles and covered == length else []
