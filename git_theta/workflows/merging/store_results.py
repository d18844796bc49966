"""The fourth step of a merge, store: computed arrays become staged entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from git_theta.core.manifest import Entry, Manifest
from git_theta.core.tensors import Tensor
from git_theta.merges.items import Item
from git_theta.workflows import chains
from git_theta.workflows.session import Session

if TYPE_CHECKING:
    from git_theta.merges.compute import Computed


@dataclass(frozen=True, slots=True)
class Stored:
    """A merged tensor: its entry, those of the statistics that the strategy left, and what to tell
    of it (see :class:`~git_theta.merges.compute.Computed`).
    """

    entry: chains.StagedEntry
    statistics: Mapping[str, chains.StagedEntry]
    notices: tuple[str, ...]
    averaged: bool


def store(
    session: Session,
    item: Item,
    computed: Computed,
    statistics: Mapping[str, Sequence[Manifest | None]],
) -> Stored:
    """Store what was computed for ``item``; ``statistics`` are the companion files of the sides,
    whose values new ones can build on.
    """
    like = [side for side in (*item.entries, *item.sides) if side is not None]
    entry = _staged(session, Tensor.from_array(computed.array), like, item)
    left = {}
    for name, array in computed.statistics.items():
        sides = [side.by_name for side in statistics.get(name, ()) if side is not None]
        old = [side[item.name] for side in sides if item.name in side]
        alone = replace(item, base=None, aliases=())
        left[name] = _staged(session, Tensor.from_array(array), old, alone)
    return Stored(entry, left, computed.notices, computed.averaged)


def _staged(
    session: Session, tensor: Tensor, like: Sequence[Entry], item: Item
) -> chains.StagedEntry:
    """The entry of a merged value: as a side (or the base) has it already, or an update against the
    first of ``like``.
    """
    store = session.store
    return chains.keep(
        store,
        session.settings,
        (item.name, item.aliases),
        chains.InMemory(tensor),
        chains.equal_among([*like, item.base], tensor.spec),
        lambda: chains.bases(store, like[0]) if like else [],
        session.warn,
    )
