"""The second step of a merge, load: the values of a task's tensor, as arrays.

Objects that are missing are fetched in one go; a tensor is decoded when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from git_theta.core.contracts import MergeCase, SurveysModel, WholeModel, statistics_of
from git_theta.core.manifest import Entry, Manifest
from git_theta.merges.items import Item, MergePlan, computable
from git_theta.merges.training_state import never_negative
from git_theta.store.local import LocalStore
from git_theta.workflows import chains
from git_theta.workflows.merging.decisions import Task
from git_theta.workflows.merging.outcome import Siblings
from git_theta.workflows.session import Session

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where the values of a merge are.

    ``statistics`` holds, per statistic that a strategy uses, the manifest of each side's companion
    file. None: this merge knows of no companion files, and leaves none.
    """

    store: LocalStore
    plan: MergePlan
    statistics: Mapping[str, Sequence[Manifest | None]] | None


def gather(
    session: Session, plan: MergePlan, tasks: Sequence[Task], siblings: Siblings | None
) -> Inputs:
    """Bring every object that ``tasks`` will read, in one go, and say where the values are."""
    from git_theta.workflows.sharing.fetch import fetch_missing

    strategies = [task.strategy for task in tasks]
    whole = any(isinstance(each, (SurveysModel, WholeModel)) for each in strategies)
    items = plan.items if whole else [task.item for task in tasks]
    entries = [e for item in items for e in (item.base, *item.sides) if e is not None]
    wanted: list[Manifest] = []
    if session.store.missing([ref for entry in entries for ref in entry.objects]):
        once = {entry.digest: entry for entry in entries}
        wanted.append(replace(plan.sides[0], entries=tuple(once.values())))
    statistics = None
    if siblings is not None:
        names = sorted({name for each in strategies for name in statistics_of(each)})
        statistics = {name: siblings(name) for name in names}
        wanted += [each for found in statistics.values() for each in found if each is not None]
    if wanted:
        fetch_missing(session, wanted)
    return Inputs(session.store, plan, statistics)


def load(inputs: Inputs, task: Task) -> MergeCase:
    """The values of the task's tensor: the base's, if it fits, each active side's, and their
    statistics.
    """
    if task.case is not None:
        return task.case
    item = task.item
    fits = item.base_fits or task.options.get("rows") == "common"
    return MergeCase(
        item.name,
        _array(inputs, item.base) if item.base is not None and fits else None,
        tuple(_array(inputs, entry) for entry in item.entries),
        statistics_of_sides(inputs, item, item.active),
    )


def every_case(inputs: Inputs) -> Iterator[MergeCase]:
    """Every tensor of the model that all sides have alike and that a formula may merge, in conflict
    or not, one at a time.
    """
    for item in inputs.plan.items:
        if item.kind == "counter" or item.unit is not None or never_negative(item.name):
            continue
        sides = [side for side in item.sides if side is not None]
        if item.base is None or len(sides) < len(item.sides) or not computable(item.base):
            continue
        if all(side.spec == item.base.spec for side in sides):
            base, *arrays = (_array(inputs, entry) for entry in (item.base, *sides))
            yield MergeCase(item.name, base, tuple(arrays))


def whole_sides(inputs: Inputs) -> list[dict[str, np.ndarray]]:
    """All tensors of each side, by every name that they have in the merge."""
    sides: list[dict[str, np.ndarray]] = [{} for _ in inputs.plan.sides]
    for item in inputs.plan.items:
        for side, entry in zip(sides, item.sides, strict=True):
            if entry is not None:
                array = _array(inputs, entry)
                side.update(dict.fromkeys((item.name, *item.aliases), array))
    return sides


def statistics_of_sides(
    inputs: Inputs, item: Item, sides: Iterable[int]
) -> dict[str, tuple[np.ndarray | None, ...]]:
    """The statistics of one tensor, an array for each of ``sides``, if any of them tracks them."""
    found: dict[str, tuple[np.ndarray | None, ...]] = {}
    for name, manifests in (inputs.statistics or {}).items():
        named = [manifests[side] for side in sides]
        entries = [each.by_name.get(item.name) if each is not None else None for each in named]
        if any(entry is not None for entry in entries):
            found[name] = tuple(
                _array(inputs, entry) if entry is not None else None for entry in entries
            )
    return found


def _array(inputs: Inputs, entry: Entry) -> np.ndarray:
    return chains.load(inputs.store, entry).array()
