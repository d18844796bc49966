"""Names for the slices of torch's distributed checkpoints (``.distcp``), which stand in the file
``.metadata`` beside them.

It is a pickle of ``torch.distributed.checkpoint.metadata.Metadata``; ``storage_data`` says for each
tensor (or piece of one, by the place of its first element) the file and the bytes in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from git_theta.checkpoints.assemble import NAME_LIMIT, RANK_LIMIT, assemble
from git_theta.checkpoints.torch import pickle_reader
from git_theta.checkpoints.torch.pickle_reader import Call, Pairs, PickleError
from git_theta.core import dtypes
from git_theta.core.layout import Layout
from git_theta.core.source import Source
from git_theta.errors import FormatError

METADATA = ".metadata"
_ATTRIBUTES_LIMIT = 64  # values in an object's state that are looked at; torch's have six


def named(layout: Layout, name: str, metadata: Source) -> Layout:
    """``layout`` of the file called ``name``, with the names of ``metadata``; a piece of a tensor
    is called ``<name>@4,0``.

    So is the first piece, ``<name>@0,0``: only a whole tensor has the tensor's own name.

    :class:`FormatError` when the metadata is not understood, or does not speak of this file.
    """
    if metadata.size > pickle_reader.SIZE_LIMIT:
        raise FormatError(
            f"metadata of {metadata.size} bytes is larger than {pickle_reader.SIZE_LIMIT}"
        )
    try:
        tree = pickle_reader.read(metadata.read(0, metadata.size))
    except PickleError as error:
        raise FormatError(f"the metadata cannot be read: {error}") from None
    slices = sorted(item for item in _slices(tree, name))
    if not slices or max(start + length for start, length, _ in slices) > layout.size:
        raise FormatError("the metadata is that of another file")
    extents, number = [], 0
    for extent in layout.extents:
        while number < len(slices) and sum(slices[number][:2]) <= extent.offset:
            number += 1
        start, length, label = slices[number] if number < len(slices) else (extent.end, 0, "")
        name = extent.name
        if start <= extent.offset and extent.end <= start + length:
            own = name.partition("#")[0]
            name = label if own == "tensor" else f"{label}/{own}"
        extents.append(extent._replace(name=name))
    return assemble(layout.format, layout.size, extents, layout.checksums)


def _slices(tree: Any, name: str) -> Iterator[tuple[int, int, str]]:
    """Offset, length and name of what lies in the file ``name``."""
    stored = _attributes(tree).get("storage_data")
    flat = stored.flat if type(stored) is Pairs else ()
    cut = set(_pieces(flat))
    for key, value in zip(flat[::2], flat[1::2], strict=False):
        index, place = _attributes(key), _attributes(value)
        label, start, length = index.get("fqn"), place.get("offset"), place.get("length")
        if (
            place.get("relative_path") != name
            or type(label) is not str
            or type(start) is not int
            or type(length) is not int
        ):
            continue
        if start >= 0 and length >= 0:
            yield start, length, (label + _corner(index.get("offset"), label in cut))[:NAME_LIMIT]


def _pieces(flat: Sequence[Any]) -> Iterator[str]:
    """The names of tensors of which a piece begins elsewhere than at the tensor's own beginning, in
    this file or another.
    """
    for key in itertools.islice(flat, 0, None, 2):
        index = _attributes(key)
        if type(index.get("fqn")) is str and _corner(index.get("offset"), False):
            yield index["fqn"]


def _corner(offset: Any, cut: bool) -> str:
    """Where a piece of a tensor begins; nothing at the tensor's own beginning, unless the tensor is
    ``cut`` into pieces.

    ``offset`` is a ``torch.Size``: a call with a tuple.
    """
    sizes = (
        offset.arguments[0]
        if type(offset) is Call and type(offset.arguments) is tuple and offset.arguments
        else offset
    )
    if type(sizes) is not tuple or len(sizes) > RANK_LIMIT or not (cut or any(sizes)):
        return ""
    if not all(type(size) is int and 0 <= size <= dtypes.MAX_BYTES for size in sizes):
        return ""
    return "@" + ",".join(map(str, sizes))


def _attributes(node: Any) -> dict[str, Any]:
    """An object's attributes by name."""
    states = (
        [state for state in node.states[:1] if type(state) is Pairs] if type(node) is Call else []
    )
    flat = [item for state in states for item in state.flat[:_ATTRIBUTES_LIMIT]]
    return {
        key: value for key, value in zip(flat[::2], flat[1::2], strict=False) if type(key) is str
    }
