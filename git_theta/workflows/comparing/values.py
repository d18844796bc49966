"""Where the values of a version's tensors come from: the object store, or a checkpoint file as it
lies on disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from git_theta.core.layout import Extent, Layout
from git_theta.core.manifest import Entry, Link
from git_theta.core.names import display
from git_theta.core.resources.memory import Take
from git_theta.core.source import FileSource, stamp
from git_theta.core.tensors import Tensor
from git_theta.errors import FileChanged, ThetaError
from git_theta.store.local import LocalStore
from git_theta.workflows import chains


class Values(Protocol):
    """Reads the tensors of one version."""

    def load(self, entry: Entry) -> Tensor:
        """The value of ``entry``; an error of ours where it cannot be had."""


@dataclass(frozen=True, slots=True)
class StoredValues:
    """Tensors of a version that git knows; each is checked by its digest."""

    store: LocalStore

    def load(self, entry: Entry) -> Tensor:
        """As :meth:`Values.load`."""
        return chains.load(self.store, entry)


class FileValues:
    """Tensors of a checkpoint file whose ``layout`` was read from ``source`` as it still is."""

    def __init__(self, source: FileSource, layout: Layout) -> None:
        self._source = source
        self._extents: dict[str, Extent] = {extent.name: extent for extent in layout.extents}

    def load(self, entry: Entry) -> Tensor:
        """As :meth:`Values.load`; :class:`FileChanged` when the file is not what it was."""
        extent = self._extents.get(entry.name)
        if extent is None or (extent.dtype, extent.shape) != (entry.dtype, entry.shape):
            raise FileChanged(
                f"tensor {display(entry.name, 200)}: the file changed while it was read"
            )
        data = bytearray(extent.length)
        self._source.read_into(extent.offset, memoryview(data))
        if stamp(os.fstat(self._source.fileno())) != stamp(self._source.stat):
            raise FileChanged(
                f"tensor {display(entry.name, 200)}: the file changed while it was read"
            )
        return Tensor(entry.dtype, entry.shape, data)


class Absent:
    """The side on which there is no model."""

    def load(self, entry: Entry) -> Tensor:
        """Never called: what is absent on one side is not compared."""
        raise ThetaError(f"there is no tensor {display(entry.name, 200)}")


@dataclass(frozen=True, slots=True)
class Pair:
    """Reads a tensor's old and new value.

    What the chains of both have in common is decoded once.
    """

    old: Values
    new: Values

    def pair(self, old: Entry, new: Entry, take: Take | None = None) -> tuple[Tensor, Tensor]:
        """Both values; what both stand on may lie in memory that ``take`` gives."""
        if (
            isinstance(self.old, StoredValues)
            and self.old == self.new
            and old.inline is None
            and new.inline is None
        ):
            shared = _shared_tail(old.chain, new.chain)
            if shared:
                try:
                    return _load_both(self.old.store, old, new, shared, take)
                except ThetaError:
                    pass  # whatever it is, the plain way names the tensor and the object
        return self.old.load(old), self.new.load(new)

    def single(self, new: Entry) -> Tensor:
        """The new value alone."""
        return self.new.load(new)


def _shared_tail(first: Sequence[Link], second: Sequence[Link]) -> int:
    """How many of the last links are the same objects."""
    count = 0
    while (
        count < min(len(first), len(second))
        and first[-1 - count].ranges == second[-1 - count].ranges
    ):
        count += 1
    return count


def _load_both(
    store: LocalStore, old: Entry, new: Entry, shared: int, take: Take | None
) -> tuple[Tensor, Tensor]:
    base = chains.follow(store, old.chain[len(old.chain) - shared :], None, take)
    values = []
    for entry in (old, new):
        values.append(chains.follow(store, entry.chain[: len(entry.chain) - shared], base))
        chains.check(values[-1], entry)
    return values[0], values[1]
