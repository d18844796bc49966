"""What a merge has to do, decided from manifests alone: no tensor is read.

Per tensor, the digests of the base and of each side tell whether it is unchanged, changed on one
side, changed alike, or really in conflict; only conflicts need a strategy. Tensors are matched by
name, across renames that digests prove.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from git_theta.core.contracts import UnitKind
from git_theta.core.manifest import Entry, Manifest
from git_theta.errors import MergeError
from git_theta.merges import units
from git_theta.merges.items import (
    NO_BYTES,
    ByteFormats,
    Item,
    MergePlan,
    SkeletonPlan,
    Value,
    value_of,
)
from git_theta.merges.one_tensor import decide
from git_theta.merges.renames import renames
from git_theta.merges.ties import decide_tied, tied_groups
from git_theta.merges.unit_conflicts import united


def plan(
    base: Manifest | None,
    sides: Sequence[Manifest],
    kinds: Sequence[UnitKind] = units.KINDS,
    formats: ByteFormats = NO_BYTES,
) -> MergePlan:
    """Decide what digests can decide.

    ``base`` is None without a common ancestor; ``sides[0]`` is ours.

    ``kinds`` find the tensors that are units; ``formats`` names the formats that know no tensors.
    :class:`MergeError` for fewer than two sides, or when a
    kind fails.
    """
    if len(sides) < 2:
        raise MergeError(f"a merge needs at least two sides, not {len(sides)}")
    maps = [renames(base, side) for side in sides]
    tables: list[dict[str, Entry]] = [base.by_name if base is not None else {}]
    for side, renamed in zip(sides, maps, strict=True):
        tables.append(
            {renamed.get(name, name): entry for name, entry in side.by_name.items()}
            if renamed
            else side.by_name
        )
    # Per side, what it calls the keys that it renamed.
    called = [{key: name for name, key in renamed.items()} for renamed in maps]
    items: list[Item] = []
    for keys in tied_groups(base, sides, maps, tables):
        if len(keys) == 1:
            items.append(decide(keys, [table.get(keys[0]) for table in tables], called))
        else:
            items.extend(decide_tied(keys, tables, called))
    # Runs of bytes are content, however small, and not counters
    if any(side.format in formats.runs for side in sides):
        items = [
            (
                replace(item, kind="changed", result=None, notice="")
                if item.kind == "counter"
                else item
            )
            for item in items
        ]
    if all(side.format in formats.whole for side in sides):
        items = _whole(items)
    elif _strangers(base, items):
        items = [_unrelated(item) for item in items]
    skeleton = _skeleton(base, sides)
    items = _twins(united(_unclashed(items), base, sides, kinds))
    return MergePlan(
        base, tuple(sides), tuple(_in_file_order(items, sides, skeleton.source)), skeleton, formats
    )


def _unclashed(items: list[Item]) -> list[Item]:
    """Items with unique names: a rename to a name that another tensor has is undone and becomes a
    conflict.
    """
    taken = Counter(item.name for item in items if item.result is not None or item.conflict)
    taken.update(alias for item in items for alias in item.aliases)
    if all(count == 1 for count in taken.values()):
        return items
    result = []
    for item in items:
        if taken[item.name] > 1 and item.renamed_from:
            active = (
                item.active
                if len(item.active) > 1
                else tuple(i for i, side in enumerate(item.sides) if side is not None)
            )
            apart = replace(
                item,
                name=item.renamed_from,
                kind="renamed-apart",
                active=active,
                result=None,
                renamed_from="",
                notice="",
            )
            result.append(apart)
        else:
            result.append(item)
    return result


def _twins(items: list[Item]) -> list[Item]:
    """Conflicts with the same inputs as an earlier one point to it: copies of one tensor are merged
    once.
    """
    seen: dict[tuple[Value, ...], str] = {}
    result = []
    for item in items:
        first = item.name
        if item.kind in ("changed", "added-apart"):
            first = seen.setdefault((value_of(item.base), *map(value_of, item.sides)), item.name)
        result.append(item if first == item.name else replace(item, twin=first))
    return result


def _skeleton(base: Manifest | None, sides: Sequence[Manifest]) -> SkeletonPlan:
    before = None if base is None else (base.format, base.skeleton.digest)
    values = [(side.format, side.skeleton.digest) for side in sides]
    active = [i for i, value in enumerate(values) if value != before]
    if not active:
        return SkeletonPlan("same", 0)
    if len({values[i] for i in active}) == 1:
        return SkeletonPlan("one-side" if len(active) == 1 else "equal", active[0])
    # Git has renamed the file as they did
    converted = [i for i in active if base is not None and sides[i].format != base.format]
    return SkeletonPlan(
        "changed", (converted or active)[0], conflict=not any(side.entries for side in sides)
    )


def _whole(items: list[Item]) -> list[Item]:
    """Pieces of a file that nobody understood belong together: where several sides changed it, each
    one that differs is a conflict.
    """
    if len({i for item in items for i in item.active}) < 2:
        return items
    result = []
    for item in items:
        values = {value_of(side) for side in item.sides}
        if not item.conflict and len(values) > 1:
            differs = replace(
                item,
                kind="removed-changed" if None in values else "changed",
                active=tuple(range(len(item.sides))),
                result=None,
            )
            result.append(differs)
        else:
            result.append(item)
    return result


def _strangers(base: Manifest | None, items: Sequence[Item]) -> bool:
    """Whether the sides are no versions of one model: no common ancestor, or several sides that
    kept nothing in common.
    """
    if base is None:
        return True
    changed = {i for item in items for i in item.active}
    return len(changed) > 1 and not any(
        all(item.sides[i] is not None for i in changed) for item in items
    )


def _unrelated(item: Item) -> Item:
    """``item`` as a conflict, unless all sides have it."""
    if item.conflict or all(side is not None for side in item.sides) or not any(item.sides):
        return item
    return replace(
        item, kind="unrelated", active=tuple(range(len(item.sides))), result=None, notice=""
    )


def _in_file_order(items: list[Item], sides: Sequence[Manifest], lead: int) -> list[Item]:
    """The items in the order of side ``lead``; those it lacks behind the one they follow on the
    first side that has them.
    """
    of_entry: list[dict[str, list[int]]] = [{} for _ in sides]
    for number, item in enumerate(items):
        for at, entry in enumerate(item.sides):
            if entry is not None:
                of_entry[at].setdefault(entry.name, []).append(number)
    # A linked list: what follows each item; -1 is the head.
    following: dict[int, int] = {}
    placed = {-1}
    for at in (lead, *(i for i in range(len(sides)) if i != lead)):
        previous = -1
        for entry in sides[at].entries:
            for number in of_entry[at].get(entry.name, ()):
                if number not in placed:
                    placed.add(number)
                    if previous in following:
                        following[number] = following[previous]
                    following[previous] = number
                previous = number
    order, number = [], -1
    while number in following:
        number = following[number]
        order.append(items[number])
    # What no side has any more.
    order.extend(item for number, item in enumerate(items) if number not in placed)
    return order
