"""The merged file: its tensors once every conflict is resolved, and whose file fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from git_theta.core.manifest import Entry
from git_theta.errors import MergeError
from git_theta.merges.items import MergePlan, Value, listed, named, value_of


@dataclass(frozen=True, slots=True)
class File:
    """How the merged file is made: the skeleton of version ``source`` as it is, or, with ``build``,
    a new file like that one.
    """

    source: int
    build: bool
    notice: str = ""


def finish(plan: MergePlan, resolved: Mapping[str, Entry | None]) -> tuple[Entry, ...]:
    """The merged file's tensors, in order: what the plan decided, and ``resolved`` for each
    conflict by item name (None: removed).

    What ``resolved`` names goes before any decision; a twin that it does not name gets its first
    one's entry. Names that were tied on some side get entries of their own if ``resolved`` has all
    of them. :class:`MergeError` naming the conflicts that are not resolved.
    """
    missing = [
        item.name
        for item in plan.items
        if item.conflict and not item.twin and item.name not in resolved
    ]
    if missing:
        raise MergeError(
            f"not resolved yet: {listed(missing)}; choose a strategy or a side for them"
        )
    entries = []
    for item in plan.items:
        if item.aliases and all(name in resolved for name in item.aliases):
            entries += _separate({name: resolved[name] for name in (item.name, *item.aliases)})
            continue
        decided = resolved[item.twin] if item.twin and item.name not in resolved else item.result
        entry = resolved.get(item.name, decided)
        if entry is not None:
            entries.append(named(entry, item.name, item.aliases))
    return tuple(entries)


def _separate(values: Mapping[str, Entry | None]) -> list[Entry]:
    """An entry for each value among those of some names, which are tied if they have the same
    value.
    """
    names: dict[Value, list[str]] = {}
    for name, entry in values.items():
        names.setdefault(value_of(entry), []).append(name)
    return [
        named(entry, same[0], tuple(same[1:]))
        for same in names.values()
        if (entry := values[same[0]]) is not None
    ]


def choose_file(plan: MergePlan, entries: Sequence[Entry], taken: int | None = None) -> File:
    """Whose skeleton fits the merged ``entries`` as it is, or that the format has to build a new
    file.

    ``taken`` is the side (or :data:`BASE`) from which everything that several sides changed is
    taken, if there is such a side: then the other content comes from there, too.
    """
    wanted = _structure(entries)
    source = plan.skeleton.source
    changed = plan.skeleton.kind == "changed"
    if (
        changed
        and taken is not None
        and plan.version(taken).format == plan.sides[source].format
        and not plan.format_conflict
    ):
        source, changed = taken, False
    notice = (
        "the file's other content (metadata, counters) changed on several sides; that of side"
        f" {source + 1} is kept"
        if changed
        else ""
    )
    lead = plan.version(source)
    if _structure(lead.entries) == wanted:
        return File(source, build=False, notice=notice)
    for number, side in enumerate(plan.sides):
        if (
            side.skeleton.digest == lead.skeleton.digest
            and side.format == lead.format
            and _structure(side.entries) == wanted
        ):
            return File(number, build=False, notice=notice)
    return File(source, build=True, notice=notice)


def same_values(one: Sequence[Entry], other: Sequence[Entry]) -> bool:
    """Whether both have the same names with the same values, tied or not."""
    tables = [
        {name: value_of(entry) for entry in entries for name in (entry.name, *entry.aliases)}
        for entries in (one, other)
    ]
    return tables[0] == tables[1]


def _structure(entries: Iterable[Entry]) -> list[tuple[str, tuple[str, ...], str, tuple[int, ...]]]:
    """What a file's skeleton must fit, whatever the order: it has one of its own."""
    return sorted((entry.name, entry.aliases, entry.dtype, entry.shape) for entry in entries)
