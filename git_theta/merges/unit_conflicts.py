"""Units in a merge: the items that are parts of one are joined, and are one conflict if sides that
changed it do not agree about all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from git_theta.core.contracts import UnitKind
from git_theta.core.manifest import Entry, Manifest
from git_theta.core.tensors import Spec
from git_theta.merges import units
from git_theta.merges.items import Item, Unit, value_of


def united(
    items: list[Item], base: Manifest | None, sides: Sequence[Manifest], kinds: Sequence[UnitKind]
) -> list[Item]:
    """The items, those that are parts of one unit joined: it is a conflict if sides changed it that
    do not agree about all of it.
    """
    if len({i for item in items for i in item.active}) < 2:
        return items
    above = list(range(len(items)))

    def root(number: int) -> int:
        while above[number] != number:
            above[number] = number = above[above[number]]
        return number

    kind_of: dict[int, str] = {}
    known: list[tuple[dict[str, Spec], list[tuple[UnitKind, tuple[str, ...]]]]] = []
    for at, manifest in enumerate((base, *sides)):
        if manifest is None:
            continue
        places = _numbers(
            items, [item.base if at == 0 else item.sides[at - 1] for item in items], manifest
        )
        specs = {name: entry.spec for name, entry in manifest.by_name.items()}
        found = next((found for before, found in known if before == specs), None)
        if found is None:  # mostly, all versions have the same tensors
            found = units.find(kinds, specs)
            known.append((specs, found))
        for kind, names in found:
            numbers = [places[name] for name in names if name in places]
            for number in numbers[1:]:
                above[root(number)] = root(numbers[0])
            for number in numbers[:1]:
                kind_of.setdefault(number, kind.name)
    groups: dict[int, list[int]] = {}
    for number in range(len(items)):
        groups.setdefault(root(number), []).append(number)
    result = list(items)
    for numbers in groups.values():
        if len(numbers) > 1:
            parts = [items[number] for number in numbers]
            unit = Unit(
                next(kind_of[n] for n in numbers if n in kind_of),
                tuple(part.name for part in parts),
            )
            active = tuple(i for i in range(len(sides)) if any(i in part.active for part in parts))
            whole = len({tuple(value_of(part.sides[i]) for part in parts) for i in active}) > 1
            for number in numbers:
                part = replace(items[number], unit=unit)
                result[number] = (
                    replace(part, kind="unit", active=active, result=None, notice="")
                    if whole
                    else part
                )
    return result


def _numbers(
    items: Sequence[Item], entries: Sequence[Entry | None], manifest: Manifest
) -> dict[str, int]:
    """Which of ``items`` each name of ``manifest`` belongs to; ``entries`` are the items' own
    there.
    """
    numbers: dict[str, int] = {}
    for number, item in enumerate(items):
        for name in (item.name, *item.aliases):
            if item.kind == "tied-apart" or manifest.by_name.get(name) is entries[number]:
                numbers.setdefault(name, number)
    seen: set[int] = set()
    for number, entry in enumerate(entries):
        if entry is not None and id(entry) not in seen:
            seen.add(id(entry))
            for name in (entry.name, *entry.aliases):  # other ones where the item was renamed
                numbers.setdefault(name, number)
    return numbers
