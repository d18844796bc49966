"""Files of ``torch.save`` and TorchScript (since torch 1.6): a zip archive of a pickle and one
entry per storage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from git_theta.checkpoints.containers.zip_container import read_archives
from git_theta.checkpoints.torch import (
    distributed_slices,
    loaded,
    saved_objects,
    stored_views,
    writer,
    zip_archive,
)
from git_theta.core.contracts import StoredView
from git_theta.core.layout import Layout
from git_theta.core.source import Source
from git_theta.core.tensors import Buffer, Contents, Spec, Tensor

_FIRST = re.compile(
    rb"[^/]+/(?:data\.pkl|constants\.pkl|version|byteorder|\.format_version|\.data/.+|(?:data|constants)/\d+|(?:code|extra)/.+)\Z"
)


class TorchZipFormat:
    """Checkpoints written by ``torch.save``, ``torch.jit.save`` and what builds on them."""

    name = zip_archive.NAME
    suffixes: tuple[str, ...] = (".pt", ".pth", ".ckpt", ".bin")

    def sniff(self, head: bytes) -> bool:
        """Whether the archive's first entry is one that torch writes first, or its pickle comes
        soon.
        """
        if not head.startswith(b"PK\3\4"):
            return False
        end = 30 + int.from_bytes(head[26:28], "little")
        padded = head[end : end + 2] == b"FB"  # the extra field with which torch aligns every entry
        # Not that of a torch file which lies inside of another archive
        root = head[30:end].partition(b"/")[0]
        return root + b"/data.pkl" in head or (padded and bool(_FIRST.match(head[30:end])))

    def scan(self, source: Source) -> Layout:
        """One extent per storage, or one per tensor where contiguous tensors tile a storage
        exactly.

        :class:`FormatError` when the zip archive is not sound; a pickle that is not understood only
        costs the names.
        """
        return zip_archive.scan(source)

    def sibling(self, name: str) -> str:
        """Where the slices of a distributed checkpoint have their names."""
        return distributed_slices.METADATA if name.endswith(".distcp") else ""

    def scan_beside(self, source: Source, name: str, sibling: Source) -> Layout:
        """As :meth:`scan`, with the names that ``sibling`` has for the slices in the file called
        ``name``.
        """
        return distributed_slices.named(self.scan(source), name, sibling)

    def contents(self, source: Source) -> Contents:
        """Every tensor that the file's pickle names, in C order; the paths of its other values."""
        return loaded.read(
            source, [zip_archive.understand(source, archive) for archive in read_archives(source)]
        )

    def views(self, source: Source, known: Mapping[str, Spec]) -> Mapping[str, StoredView]:
        """Transposed tensors and slices, of the shape that torch gives them."""
        return stored_views.find(source, known)

    def saves(self, state_dict: Mapping[str, object]) -> bool:
        """Whether ``state_dict`` holds tensors of torch, or mappings such as an optimizer's."""
        return saved_objects.are_in(state_dict)

    def save(self, state_dict: Mapping[str, object]) -> Sequence[Buffer]:
        """The file that ``torch.save`` writes: anything that it takes."""
        return saved_objects.pieces(state_dict)

    def build(self, tensors: Mapping[str, Tensor], like: Source | None) -> Buffer:
        """A file that ``torch.load(weights_only=True)`` reads: a flat mapping, or with ``like``
        that file's structure and values.

        :class:`FormatError` when ``like`` cannot be changed so, or torch has no such type.
        """
        return writer.build(tensors, like)
