"""What digests decide about one tensor: unchanged, changed on one side, changed alike, or a
conflict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from git_theta.core.manifest import Entry
from git_theta.merges.items import CONFLICTS, Item, Kind, named, value_of
from git_theta.merges.training_state import is_counter


def decide(
    keys: Sequence[str], entries: Sequence[Entry | None], called: Sequence[Mapping[str, str]]
) -> Item:
    """The item of names ``keys`` that are one extent wherever they occur; ``entries``: the base's,
    then each side's.
    """
    base, sides = entries[0], tuple(entries[1:])
    name, aliases, apart = names_of(keys, sides, called)
    before = keys[0] if base is not None and name != keys[0] else ""
    kind, active, winner = _kind_of(base, sides, bool(before) or apart)
    if apart and kind not in CONFLICTS:
        kind, winner = "renamed-apart", None
        active = (
            active
            if len(active) > 1
            else tuple(i for i, entry in enumerate(sides) if entry is not None)
        )
    if kind == "removed-changed":
        active = tuple(range(len(sides))) if len(active) == 1 else active
    result = None if winner is None else named(winner, name, aliases)
    notice = (
        "changed on several sides; a counter is not merged, the first side's is kept"
        if kind == "counter"
        else ""
    )
    return Item(
        name, kind, base, sides, active, result, aliases, renamed_from=before, notice=notice
    )


def _kind_of(
    base: Entry | None, sides: Sequence[Entry | None], renamed: bool
) -> tuple[Kind, tuple[int, ...], Entry | None]:
    """Kind, active sides, and the entry to take (None: removed, or a conflict)."""
    before = value_of(base)
    values = [value_of(side) for side in sides]
    active = tuple(i for i, value in enumerate(values) if value != before)
    if not active:
        return "unchanged", (), sides[0]
    distinct = {values[i] for i in active}
    first = sides[active[0]]
    if len(distinct) == 1:
        if first is None:
            return ("removed-changed" if renamed else "removed"), active, None
        if base is None:
            return "added", active, first
        return ("one-side" if len(active) == 1 else "equal"), active, first
    if None in distinct:
        return "removed-changed", active, None
    present = [entry for entry in (sides[i] for i in active) if entry is not None]
    if len({entry.shape for entry in present}) > 1:
        return "reshaped", active, None
    if len({entry.dtype for entry in present}) > 1:
        return "dtype", active, None
    if is_counter(present[0]):
        return "counter", active, first
    return ("changed" if base is not None else "added-apart"), active, None


def names_of(
    keys: Sequence[str], sides: Sequence[Entry | None], called: Sequence[Mapping[str, str]]
) -> tuple[str, tuple[str, ...], bool]:
    """Name and aliases in the result, and whether the sides' new names for it differ."""
    if len(keys) == 1 and not any(keys[0] in names for names in called):
        return keys[0], (), False
    result, apart = [], False
    for key in keys:
        new = {called[i].get(key, key) for i, entry in enumerate(sides) if entry is not None} - {
            key
        }
        if len(new) > 1:
            apart = True
            result.append(
                next(called[i].get(key, key) for i, entry in enumerate(sides) if entry is not None)
            )
        else:
            result.append(new.pop() if new else key)
    return result[0], tuple(result[1:]), apart
