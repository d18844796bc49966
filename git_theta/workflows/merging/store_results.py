"""The fourth step of a merge, store: computed arrays become staged entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from git_theta.core.manifest import Entry, Manifest
from git_theta.core.tensors import Tensor
from git_theta.merges.items import Item, MergePlan
from git_theta.workflows import chains
from git_theta.workflows.bundles import Bundles
from git_theta.workflows.merging.decisions import Task
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


class Shelves:
    """Where the new payloads of a merge's ``tasks`` go: those of the merged file, and those of its
    companion file for each statistic.
    """

    def __init__(
        self, session: Session, plan: MergePlan, tasks: Sequence[Task], statistics: Iterable[str]
    ) -> None:
        numbers = {item.name: number for number, item in enumerate(plan.items)}
        sizes = [max(_sizes(item)) for item in plan.items]
        awaited = [numbers[task.item.name] for task in tasks]
        self._session = session
        self._numbers = numbers
        self._model = Bundles(session.store, sizes, awaited)
        self._beside = {name: Bundles(session.store, sizes, awaited) for name in statistics}

    def destination(self, item: Item, statistic: str = "") -> chains.PayloadTarget:
        """Where the merged value of ``item`` goes, or a ``statistic`` of it."""
        number = self._numbers[item.name]
        bundles = self._beside.get(statistic) if statistic else self._model
        bundle = None if bundles is None else bundles.get(number)
        return chains.PayloadTarget(self._session.store, self._session.settings, bundle, number)

    def done(self, item: Item) -> None:
        """Nothing more comes for ``item``."""
        for bundles in (self._model, *self._beside.values()):
            bundles.done(self._numbers[item.name])


def _sizes(item: Item) -> list[int]:
    return [entry.nbytes for entry in (*item.sides, item.base) if entry is not None]


def store(
    session: Session,
    item: Item,
    computed: Computed,
    statistics: Mapping[str, Sequence[Manifest | None]],
    shelves: Shelves,
) -> Stored:
    """Store what was computed for ``item``; ``statistics`` are the companion files of the sides,
    whose values new ones can build on.
    """
    like = [side for side in (*item.entries, *item.sides) if side is not None]
    value = Tensor.from_array(computed.array)
    entry = _staged(session, value, like, item, shelves.destination(item))
    left = {}
    for name, array in computed.statistics.items():
        sides = [side.by_name for side in statistics.get(name, ()) if side is not None]
        old = [side[item.name] for side in sides if item.name in side]
        alone = replace(item, base=None, aliases=())
        to = shelves.destination(item, name)
        left[name] = _staged(session, Tensor.from_array(array), old, alone, to)
    return Stored(entry, left, computed.notices, computed.averaged)


def _staged(
    session: Session,
    tensor: Tensor,
    like: Sequence[Entry],
    item: Item,
    to: chains.PayloadTarget,
) -> chains.StagedEntry:
    """The entry of a merged value: as a side (or the base) has it already, or an update against the
    first of ``like``.
    """
    return chains.keep(
        to,
        (item.name, item.aliases),
        chains.InMemory(tensor),
        chains.equal_among([*like, item.base], tensor.spec),
        lambda: chains.bases(to.store, like[0]) if like else [],
        session.warn,
    )
