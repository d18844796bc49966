"""Tied weights: names of one extent, which stay together in the merged file if the sides agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from git_theta.core.manifest import Entry, Manifest
from git_theta.merges.items import Item, Kind, Value, named, value_of
from git_theta.merges.one_tensor import decide, names_of


def tied_groups(
    base: Manifest | None,
    sides: Sequence[Manifest],
    maps: Sequence[Mapping[str, str]],
    tables: Sequence[Mapping[str, Entry]],
) -> list[list[str]]:
    """All names (the base's for renamed ones), those together that any manifest ties; in order of
    first occurrence.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while (above := parent.get(key, key)) != key:
            parent[key] = key = parent.get(above, above)
        return key

    manifests = [*([(base, {})] if base is not None else []), *zip(sides, maps, strict=True)]
    for manifest, renamed in manifests:
        for entry in manifest.entries:
            for alias in entry.aliases:
                one, other = (
                    root(renamed.get(entry.name, entry.name)),
                    root(renamed.get(alias, alias)),
                )
                if one != other:
                    parent[other] = one
    groups: dict[str, dict[str, None]] = {}
    for table in tables:
        for key in table:
            groups.setdefault(root(key) if parent else key, {})[key] = None
    return [list(members) for members in groups.values()]


def decide_tied(
    keys: list[str], tables: Sequence[Mapping[str, Entry]], called: Sequence[Mapping[str, str]]
) -> Iterable[Item]:
    """The items of names that some manifest ties together: one for each set of names that stays
    tied.
    """
    parts = [_partition(keys, table) for table in tables]
    kept, notice = _merged_partition(keys, parts)
    places = [_places(keys, table, new) for table, new in zip(tables[1:], called, strict=True)]
    for block in kept:
        values = [tuple(value_of(table.get(key)) for key in block) for table in tables]
        names = _kept_names(block, tables)
        entries = [next((table[key] for key in block if key in table), None) for table in tables]
        uniform = all(len({value for value in row if value is not None}) <= 1 for row in values)
        if uniform and names:
            item = decide(_primary_first(names, places), entries, called)
        elif uniform:
            item = decide(block, entries, called)
        else:
            item = _apart(block, entries, values, called)
        yield replace(item, notice=item.notice or notice) if notice else item


def _partition(keys: Sequence[str], table: Mapping[str, Entry]) -> frozenset[frozenset[str]]:
    """Which of ``keys`` are one extent in one manifest."""
    blocks: dict[int, set[str]] = {}
    for key in keys:
        if key in table:
            blocks.setdefault(id(table[key]), set()).add(key)
    return frozenset(frozenset(block) for block in blocks.values())


def _merged_partition(
    keys: Sequence[str], parts: Sequence[frozenset[frozenset[str]]]
) -> tuple[list[list[str]], str]:
    """How the names are tied in the result (``parts``: the base's way, then each side's), and a
    notice where the sides disagree.

    Everyone ties all of them that he has: so does the result. Else the one new way that sides have,
    else the base's; with several new ways only what is tied everywhere stays so, which loses
    nothing.
    """
    if all(len(part) <= 1 for part in parts):
        return [list(keys)], ""
    new = {part for part in parts[1:] if part and part != parts[0]}
    ways = [next(iter(new))] if len(new) == 1 else [parts[0]] if not new else list(parts)
    labels: dict[str, list[int]] = {key: [] for key in keys}
    for part in ways:
        number = {key: at for at, block in enumerate(sorted(map(sorted, part))) for key in block}
        for key in keys:
            labels[key].append(number.get(key, -1))
    blocks: dict[tuple[int | str, ...], list[str]] = {}
    for key in keys:
        known = any(label >= 0 for label in labels[key])
        blocks.setdefault(tuple(labels[key]) if known else (key,), []).append(key)
    return list(blocks.values()), (
        "tied differently on the sides, so stored separately" if len(new) > 1 else ""
    )


def _kept_names(block: Sequence[str], tables: Sequence[Mapping[str, Entry]]) -> list[str]:
    """The names of a tied tensor that stay: not dropped by a side that still has the tensor."""
    has = [table for table in tables[1:] if any(key in table for key in block)] or list(tables[:1])
    # In the base: on all of them still; new: on any.
    return [
        key for key in block if (all if key in tables[0] else any)(key in table for table in has)
    ]


def _places(
    keys: Sequence[str], table: Mapping[str, Entry], called: Mapping[str, str]
) -> dict[str, int]:
    """Where each key stands among the names of its entry: 0 for the one that leads."""
    listed: dict[int, dict[str, int]] = {}
    result = {}
    for key in keys:
        if key in table:
            entry = table[key]
            if id(entry) not in listed:
                listed[id(entry)] = {
                    name: at for at, name in enumerate((entry.name, *entry.aliases))
                }
            result[key] = listed[id(entry)].get(called.get(key, key), len(entry.aliases) + 1)
    return result


def _primary_first(names: list[str], places: Sequence[Mapping[str, int]]) -> list[str]:
    """The names in the order in which the first side that has any lists them, then the others."""
    for of_side in places:
        if any(name in of_side for name in names):
            return sorted(names, key=lambda name: of_side.get(name, len(of_side) + len(names)))
    return names


def _apart(
    block: Sequence[str],
    entries: Sequence[Entry | None],
    values: Sequence[tuple[Value, ...]],
    called: Sequence[Mapping[str, str]],
) -> Item:
    """Names to be tied that have different values somewhere: decided only where the sides that
    changed them agree.
    """
    base, sides = entries[0], tuple(entries[1:])
    active = tuple(i for i, row in enumerate(values[1:]) if row != values[0])
    distinct = {values[1 + i] for i in active}
    name, aliases, _ = names_of(block, sides, called)
    if len(distinct) == 1:
        row = next(iter(distinct))
        first = sides[active[0]]
        if first is not None and len({value for value in row if value is not None}) == 1:
            kind: Kind = "one-side" if len(active) == 1 else "equal"
            return Item(name, kind, base, sides, active, named(first, name, aliases), aliases)
    return Item(name, "tied-apart", base, sides, active or tuple(range(len(sides))), None, aliases)
