"""All of a torch file as torch would load it: tensors in their own shapes, ties kept, and the paths
of the values that are no tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from git_theta.checkpoints.containers.zip_container import ZipEntry
from git_theta.checkpoints.torch import storage_values
from git_theta.checkpoints.torch.pickle_reader import Call, Global, Items, Pairs
from git_theta.checkpoints.torch.pickle_tree import DEPTH_LIMIT, NAME_LIMIT, View, key_label
from git_theta.checkpoints.torch.zip_archive import STORAGE_NAME, TorchArchive
from git_theta.core import dtypes
from git_theta.core.layout import unique_names
from git_theta.core.source import Source
from git_theta.core.tensors import Buffer, Contents, Tensor
from git_theta.errors import FormatError

VALUES_LIMIT = 100_000
FRAMEWORK = "pt"  # as metadata of safetensors files calls torch
SHOWN_LIMIT = 8  # times that the tensors may show the file's bytes
# Types of every width that numpy has too
_CARRIERS = {1: "u8", 2: "u16", 4: "u32", 8: "u64", 16: "c128"}
_MAPPINGS = frozenset({"OrderedDict", "defaultdict"})


def read(source: Source, archives: Sequence[TorchArchive]) -> Contents:
    """The tensors of ``archives`` in ``source``, and what they hold besides; :class:`FormatError`
    for tensors beyond their storage.
    """
    found: list[tuple[str, Tensor]] = []
    others: list[str] = []
    room = SHOWN_LIMIT * source.size
    for archive in archives:
        if archive.tree is None:
            raise FormatError(
                "this torch file's pickle is not understood, so its tensors have no names"
            )
        for place, views in archive.views.items():
            entry, shown, data = archive.entries.get(place), dict[Any, Tensor](), b""
            for view in views:
                reason = _strange(view, archive, entry)
                if reason or entry is None:
                    others.append(f"{view.name} ({reason})")
                    continue
                if view[1:6] not in shown:
                    room -= view.numel * dtypes.get(view.storage.dtype).block_bytes
                    if room < 0:
                        raise FormatError(
                            "the tensors of this torch file are views that hold more than"
                            f" {SHOWN_LIMIT} times its bytes"
                        )
                    data = data or source.read(entry.offset, entry.length)
                    shown[view[1:6]] = Tensor(view.storage.dtype, view.shape, _bytes(view, data))
                found.append((view.name, shown[view[1:6]]))
        others += [
            name
            for name in archive.entries
            if STORAGE_NAME.match(name) and name not in archive.views
        ]
        others += _values(archive.tree)
    names = unique_names(name for name, _ in found)
    return Contents(
        {name: tensor for name, (_, tensor) in zip(names, found, strict=True)},
        tuple(others),
        FRAMEWORK,
    )


def _strange(view: View, archive: TorchArchive, entry: ZipEntry | None) -> str:
    """Why a tensor's bytes are not its values; empty if they are."""
    if entry is None or not entry.plain:
        return "its storage is not here, or compressed"
    if archive.big_endian:
        return "big-endian"
    function = view.node.function.name if type(view.node) is Call else ""
    if function == "_rebuild_qtensor":
        return "quantized by torch"
    arguments = view.node.arguments if function else ()
    place = 7 if function == "_rebuild_tensor_v3" else 6
    metadata = arguments[place] if len(arguments) > place else None
    if metadata is not None and not (type(metadata) is Pairs and not metadata.flat):
        return "conjugated or negated lazily"
    if view.numel > view.storage.numel:
        return "expanded: it repeats elements"
    return ""


def _bytes(view: View, data: bytes) -> Buffer:
    """The elements in C order."""
    width = dtypes.get(view.storage.dtype).block_bytes
    if len(data) != view.storage.numel * width:
        raise FormatError(f"tensor {view.name[:80]!a} does not fit its storage")
    if not view.contiguous:
        storage = view.storage._replace(dtype=_CARRIERS[width])
        return storage_values.array(view._replace(storage=storage), data).tobytes()
    if view.offset + view.numel > view.storage.numel:
        raise FormatError(f"tensor {view.name[:80]!a} reaches beyond its storage")
    return memoryview(data)[view.offset * width : (view.offset + view.numel) * width]


def _values(tree: Any) -> Iterator[str]:
    """The paths of all values but tensors: numbers, texts, objects.

    Lists and mappings are entered once.
    """
    frames, seen, steps = [iter([("", tree)])], set[int](), 0
    while frames:
        for path, node in frames[-1]:
            steps += 1
            if steps > VALUES_LIMIT:
                return
            children = _children(path, node)
            if children is None:
                yield path or type(node).__name__
            elif id(node) not in seen and len(frames) < DEPTH_LIMIT:
                seen.add(id(node))
                frames.append(children)
                break
        else:
            frames.pop()


def _children(path: str, node: Any) -> Iterator[tuple[str, Any]] | None:
    """What a container holds, with its path; None for another value."""
    function = node.function.name if type(node) is Call and type(node.function) is Global else ""
    if type(node) is Pairs:
        labelled = _labelled(node.flat)
    elif type(node) is list or type(node) is tuple:
        labelled = ((str(number), value) for number, value in enumerate(node))
    elif function in _MAPPINGS:
        labelled = chain(_labelled(node.pairs), [("(attributes)", None)] if node.states else [])
    elif function.startswith("_rebuild_") or (type(node) is Items and not node.flat):
        return iter(())
    else:
        return None
    return (
        ((f"{path}.{label}" if path else label)[:NAME_LIMIT], value) for label, value in labelled
    )


def _labelled(flat: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    return (
        (key_label(flat[number], number // 2), flat[number + 1])
        for number in range(0, len(flat) - 1, 2)
    )
