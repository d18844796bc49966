"""What a merge has to do, decided from manifests alone: no tensor is read.

Per tensor, the digests of the base and of each side tell whether it is unchanged, changed on one
side, changed alike, or really in conflict; only conflicts need a strategy. Tensors are matched by
name, across renames that digests prove. Tied weights (names of one extent) are one item, so they
are merged once; separate copies that are equal everywhere are *twins*: one is merged for both. The
parts of a *unit* (quantised codes and their scales, LoRA factors) that several sides changed are
one conflict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from git_theta.core import dtypes
from git_theta.core.contracts import UnitKind
from git_theta.core.manifest import Entry, Manifest, rename
from git_theta.core.names import display
from git_theta.core.tensors import Spec
from git_theta.errors import MergeError
from git_theta.merges import units
from git_theta.merges.renames import renames
from git_theta.merges.training_state import is_counter

Kind = Literal[
    "unchanged",  # no side changed it
    "one-side",  # one side changed it
    "equal",  # several sides changed it to the same value
    "added",  # new on one side, or the same on several
    "removed",  # gone on one side or more, unchanged on the others
    # Training state that changed on several sides: the first of them is kept, with a notice
    "counter",
    "changed",  # conflict: several values
    "added-apart",  # conflict: new on several sides, with several values
    "removed-changed",  # conflict: gone on one side, changed or renamed on another
    "reshaped",  # conflict: the sides' shapes differ
    "dtype",  # conflict: the sides' element types differ
    "tied-apart",  # conflict: one side tied weights that others changed separately
    "renamed-apart",  # conflict: the sides' names for it differ, or the new name is taken
    # Conflict: a part of a unit that several sides changed; all its parts are to be taken from one
    # side
    "unit",
    # Conflict: some sides lack it, and no common version of the model tells whether they removed it
    "unrelated",
]
CONFLICTS: tuple[Kind, ...] = (
    "changed",
    "added-apart",
    "removed-changed",
    "reshaped",
    "dtype",
    "tied-apart",
    "renamed-apart",
    "unit",
    "unrelated",
)
BASE = -1
"""The number of the common ancestor, beside those of the sides."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Items that are merged together: what ``kind`` of unit they are, and the names of its
    ``parts``, in the order of the items.
    """

    kind: str
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The module that all parts' names begin with; the first part's name if there is none."""
        first, last = min(self.parts), max(self.parts)
        same = next(
            (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
        )
        ends = [at for at in range(same) if first[at] in "./:"]
        return first[: ends[-1]] if ends else self.parts[0]

    @property
    def words(self) -> tuple[str, ...]:
        """The parts' names behind that of the unit."""
        start = (
            len(self.name) + 1
            if all(part.startswith(self.name) and part != self.name for part in self.parts)
            else 0
        )
        return tuple(part[start:] for part in self.parts)


@dataclass(frozen=True, slots=True)
class Item:
    """One tensor of the merge, under the ``name`` (and ``aliases``) it will have.

    ``sides`` holds each side's entry, None where it has none; ``active`` the numbers of the sides
    that differ from the base: what a strategy merges. ``result`` is the decided entry (None:
    removed, or a conflict). ``twin`` names an earlier conflict with the same inputs, whose result
    serves here too. ``renamed_from`` is its name in the base where that differs. ``unit`` is the
    unit that it is a part of; None if the model is known to have no such unit, or at most one side
    changed anything.
    """

    name: str
    kind: Kind
    base: Entry | None
    sides: tuple[Entry | None, ...]
    active: tuple[int, ...]
    result: Entry | None = None
    aliases: tuple[str, ...] = ()
    twin: str = ""
    renamed_from: str = ""
    notice: str = ""
    unit: Unit | None = None

    @property
    def follows(self) -> bool:
        """Whether it is a part, but not the first, of a unit in conflict, which is resolved as a
        whole.
        """
        return self.kind == "unit" and self.unit is not None and self.unit.parts[0] != self.name

    @property
    def conflict(self) -> bool:
        """Whether it has to be resolved."""
        return self.kind in CONFLICTS

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The active sides' entries: the values a strategy gets, in order."""
        return tuple(entry for entry in (self.sides[i] for i in self.active) if entry is not None)

    @property
    def fits(self) -> bool:
        """Whether all active sides have a value, of one type and shape."""
        return (
            len(self.entries) == len(self.active)
            and len({(entry.dtype, entry.shape) for entry in self.entries}) == 1
        )

    @property
    def base_fits(self) -> bool:
        """Whether the base has a value of the active sides' type and shape, so that strategies that
        need one can work.
        """
        return (
            self.base is not None
            and self.fits
            and (self.base.dtype, self.base.shape) == (self.entries[0].dtype, self.entries[0].shape)
        )

    @property
    def numeric(self) -> bool:
        """Whether a strategy that computes may be tried: floats on all active sides (not integers,
        packed types or block scales).
        """
        whole = bool(self.entries) and len(self.entries) == len(self.active)
        return whole and self.kind != "tied-apart" and all(map(computable, self.entries))

    @property
    def array(self) -> bool:
        """Whether the active sides' values are numbers that an array can hold, which packed types
        are not.
        """
        return all(dtypes.get(entry.dtype).numpy for entry in self.entries)


@dataclass(frozen=True, slots=True)
class SkeletonPlan:
    """The file's other content: ``source`` is the side whose skeleton is taken, or imitated when
    the file must be rebuilt.

    ``kind``: ``same`` on all sides and in the base, ``one-side`` (one side changed it), ``equal``
    (the sides agree), ``changed`` (several versions). ``conflict``: there are several versions, and
    they are all there is: the file has no tensors.
    """

    kind: Literal["same", "one-side", "equal", "changed"]
    source: int
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class File:
    """How the merged file is made: the skeleton of version ``source`` as it is, or, with ``build``,
    a new file like that one.
    """

    source: int
    build: bool
    notice: str = ""


@dataclass(frozen=True)
class MergePlan:
    """All that a merge of ``sides`` has to do; ``items`` are in the order of the merged file."""

    base: Manifest | None
    sides: tuple[Manifest, ...]
    items: tuple[Item, ...]
    skeleton: SkeletonPlan

    @cached_property
    def conflicts(self) -> tuple[Item, ...]:
        """The items to resolve, without twins (which follow their first); of a unit's parts the
        first, which stands for the unit.
        """
        return tuple(
            item for item in self.items if item.conflict and not item.twin and not item.follows
        )

    def parts(self, item: Item) -> tuple[Item, ...]:
        """All items that are resolved together with the conflict ``item``: the parts of its unit,
        or itself alone.
        """
        if item.kind != "unit" or item.unit is None:
            return (item,)
        return tuple(self._by_name[name] for name in item.unit.parts)

    @cached_property
    def _by_name(self) -> dict[str, Item]:
        return {item.name: item for item in self.items}

    def version(self, number: int) -> Manifest:
        """The manifest of side ``number``, or of the common ancestor (:data:`BASE`), which must
        exist.
        """
        found = self.base if number == BASE else self.sides[number]
        assert found is not None
        return found

    @property
    def format_conflict(self) -> bool:
        """Whether the sides are files of different formats; the items are matched by name all the
        same.
        """
        return len({side.format for side in self.sides}) > 1

    @property
    def clean(self) -> bool:
        """Whether nothing is left to resolve."""
        return not (self.conflicts or self.skeleton.conflict or self.format_conflict)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many items there are of each kind that occurs."""
        return dict(Counter(item.kind for item in self.items))

    def notices(self, settled: Container[str] = ()) -> tuple[str, ...]:
        """What was decided that a person might want to know: one line a subject, with the first few
        names.

        Nothing about items whose names are in ``settled``: these were decided otherwise.
        """
        subjects: dict[str, list[str]] = {}
        for item in self.items:
            if item.notice and item.name not in settled:
                subjects.setdefault(item.notice, []).append(item.name)
        return tuple(f"{subject}: {listed(names)}" for subject, names in subjects.items())


def plan(
    base: Manifest | None, sides: Sequence[Manifest], kinds: Sequence[UnitKind] = units.KINDS
) -> MergePlan:
    """Decide what digests can decide.

    ``base`` is None where there is no common ancestor; ``sides[0]`` is ours.

    ``kinds`` tell which tensors are units. :class:`MergeError` for fewer than two sides, or when a
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
    for keys in _groups(base, sides, maps, tables):
        if len(keys) == 1:
            items.append(_item(keys, [table.get(keys[0]) for table in tables], called))
        else:
            items.extend(_tied(keys, tables, called))
    if _opaque(sides):
        items = [
            (
                replace(item, kind="changed", result=None, notice="")
                if item.kind == "counter"
                else item
            )
            for item in items
        ]
    if all(side.format == "opaque" for side in sides):
        items = _whole(items)
    elif _strangers(base, items):
        items = [_unrelated(item) for item in items]
    skeleton = _skeleton(base, sides)
    items = _twins(_united(_unclashed(items), base, sides, kinds))
    return MergePlan(
        base, tuple(sides), tuple(_in_file_order(items, sides, skeleton.source)), skeleton
    )


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
            entries.append(_named(entry, item.name, item.aliases))
    return tuple(entries)


def _separate(values: Mapping[str, Entry | None]) -> list[Entry]:
    """An entry for each value among those of some names, which are tied if they have the same
    value.
    """
    names: dict[_Value, list[str]] = {}
    for name, entry in values.items():
        names.setdefault(_value(entry), []).append(name)
    return [
        _named(entry, same[0], tuple(same[1:]))
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
        {name: _value(entry) for entry in entries for name in (entry.name, *entry.aliases)}
        for entries in (one, other)
    ]
    return tables[0] == tables[1]


def reason(item: Item) -> str:
    """Why an item is a conflict, in a few words, for example ``reshaped: f32[10,4], f32[12,4]``."""
    absent = "none" if item.kind == "unrelated" else "removed"
    shown = ", ".join(
        absent if item.sides[i] is None else _described(item.sides[i]) for i in item.active
    )
    if item.kind == "unit" and item.unit is not None:
        parts = ", ".join(display(word, 60) for word in item.unit.words[:8]) + (
            ", …" if len(item.unit.words) > 8 else ""
        )
        return f"{item.unit.kind} ({parts}) changed on {len(item.active)} sides"
    if item.kind in ("changed", "added-apart"):
        verb = "changed" if item.kind == "changed" else "added"
        return f"{verb} on {len(item.active)} sides: {_described(item.entries[0])}"
    words = {
        "removed-changed": "removed on one side, changed on another",
        "reshaped": "reshaped",
        "dtype": "element types differ",
        "tied-apart": "tied on one side, changed separately on another",
        "renamed-apart": "renamed differently, or to a name that is taken",
        "unrelated": "the sides' models have no common ancestor",
    }
    return f"{words[item.kind]}: {shown}" if item.kind in words else item.kind


# Formats that know no tensors: they cut files into runs of bytes.
GENERIC = ("opaque", "stored-zip")

# Deciding one tensor

_Value = tuple[str, str, tuple[int, ...]] | None


def _value(entry: Entry | None) -> _Value:
    return None if entry is None else (entry.digest, entry.dtype, entry.shape)


def _item(
    keys: Sequence[str], entries: Sequence[Entry | None], called: Sequence[Mapping[str, str]]
) -> Item:
    """The item of names ``keys`` that are one extent wherever they occur; ``entries``: the base's,
    then each side's.
    """
    base, sides = entries[0], tuple(entries[1:])
    name, aliases, apart = _names(keys, sides, called)
    before = keys[0] if base is not None and name != keys[0] else ""
    kind, active, winner = _decide(base, sides, bool(before) or apart)
    if apart and kind not in CONFLICTS:
        kind, winner = "renamed-apart", None
        active = (
            active
            if len(active) > 1
            else tuple(i for i, entry in enumerate(sides) if entry is not None)
        )
    if kind == "removed-changed":
        active = tuple(range(len(sides))) if len(active) == 1 else active
    result = None if winner is None else _named(winner, name, aliases)
    notice = (
        "changed on several sides; a counter is not merged, the first side's is kept"
        if kind == "counter"
        else ""
    )
    return Item(
        name, kind, base, sides, active, result, aliases, renamed_from=before, notice=notice
    )


def _decide(
    base: Entry | None, sides: Sequence[Entry | None], renamed: bool
) -> tuple[Kind, tuple[int, ...], Entry | None]:
    """Kind, active sides, and the entry to take (None: removed, or a conflict)."""
    before = _value(base)
    values = [_value(side) for side in sides]
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


def _names(
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


def _named(entry: Entry, name: str, aliases: tuple[str, ...]) -> Entry:
    return (
        entry if entry.name == name and entry.aliases == aliases else rename(entry, name, aliases)
    )


# Tied weights


def _groups(
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


def _tied(
    keys: list[str], tables: Sequence[Mapping[str, Entry]], called: Sequence[Mapping[str, str]]
) -> Iterable[Item]:
    """The items of names that some manifest ties together: one for each set of names that stays
    tied.
    """
    parts = [_partition(keys, table) for table in tables]
    kept, notice = _merged_partition(keys, parts)
    places = [_places(keys, table, new) for table, new in zip(tables[1:], called, strict=True)]
    for block in kept:
        values = [tuple(_value(table.get(key)) for key in block) for table in tables]
        names = _kept_names(block, tables)
        entries = [next((table[key] for key in block if key in table), None) for table in tables]
        uniform = all(len({value for value in row if value is not None}) <= 1 for row in values)
        if uniform and names:
            item = _item(_primary_first(names, places), entries, called)
        elif uniform:
            item = _item(block, entries, called)
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
    values: Sequence[tuple[_Value, ...]],
    called: Sequence[Mapping[str, str]],
) -> Item:
    """Names to be tied that have different values somewhere: decided only where the sides that
    changed them agree.
    """
    base, sides = entries[0], tuple(entries[1:])
    active = tuple(i for i, row in enumerate(values[1:]) if row != values[0])
    distinct = {values[1 + i] for i in active}
    name, aliases, _ = _names(block, sides, called)
    if len(distinct) == 1:
        row = next(iter(distinct))
        first = sides[active[0]]
        if first is not None and len({value for value in row if value is not None}) == 1:
            kind: Kind = "one-side" if len(active) == 1 else "equal"
            return Item(name, kind, base, sides, active, _named(first, name, aliases), aliases)
    return Item(name, "tied-apart", base, sides, active or tuple(range(len(sides))), None, aliases)


# The whole


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


def _united(
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
            whole = len({tuple(_value(part.sides[i]) for part in parts) for i in active}) > 1
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


def _twins(items: list[Item]) -> list[Item]:
    """Conflicts with the same inputs as an earlier one point to it: copies of one tensor are merged
    once.
    """
    seen: dict[tuple[_Value, ...], str] = {}
    result = []
    for item in items:
        first = item.name
        if item.kind in ("changed", "added-apart"):
            first = seen.setdefault((_value(item.base), *map(_value, item.sides)), item.name)
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
        values = {_value(side) for side in item.sides}
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


def _opaque(sides: Sequence[Manifest]) -> bool:
    """Whether a side's "tensors" are runs of bytes of a file that nobody understood: content,
    however small, and no counters.
    """
    return any(side.format in GENERIC for side in sides)


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


def _structure(entries: Iterable[Entry]) -> list[tuple[str, tuple[str, ...], str, tuple[int, ...]]]:
    """What a file's skeleton must fit, whatever the order: it has one of its own."""
    return sorted((entry.name, entry.aliases, entry.dtype, entry.shape) for entry in entries)


def computable(entry: Entry) -> bool:
    """Whether a strategy may compute with a tensor's values: floats and complex numbers that an
    array can hold.
    """
    known = dtypes.get(entry.dtype)
    return known.kind in "fc" and bool(known.numpy) and entry.dtype != "f8_e8m0fnu"


def _described(entry: Entry | None) -> str:
    return "none" if entry is None else dtypes.describe(entry.dtype, entry.shape)


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few of ``names``, for a message."""
    shown = ", ".join(display(name, 60) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
