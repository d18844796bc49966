"""The items of a merge: per tensor, what the base and the sides have, and what digests decided.

Tied weights (names of one extent) are one item, so they are merged once; separate copies that are
equal everywhere are *twins*: one is merged for both. The parts of a *unit* (quantised codes and
their scales, LoRA factors) that several sides changed are one conflict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from git_theta.core import dtypes
from git_theta.core.manifest import Entry, Manifest, rename
from git_theta.core.names import display

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


class ByteFormats(NamedTuple):
    """Formats that know no tensors, by name: ``runs`` cut a file into runs of bytes; of these,
    ``whole`` understand nothing of the file, so that its runs belong together.
    """

    runs: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()


NO_BYTES = ByteFormats()


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


@dataclass(frozen=True)
class MergePlan:
    """All that a merge of ``sides`` has to do; ``items`` are in the order of the merged file.

    ``formats`` says which of the sides' formats know no tensors.
    """

    base: Manifest | None
    sides: tuple[Manifest, ...]
    items: tuple[Item, ...]
    skeleton: SkeletonPlan
    formats: ByteFormats

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


Value = tuple[str, str, tuple[int, ...]] | None
"""Digest, type and shape of a tensor: what makes two entries equal; None: there is none."""


def value_of(entry: Entry | None) -> Value:
    """The value that ``entry`` stands for."""
    return None if entry is None else (entry.digest, entry.dtype, entry.shape)


def named(entry: Entry, name: str, aliases: tuple[str, ...]) -> Entry:
    """``entry`` under these names."""
    return (
        entry if entry.name == name and entry.aliases == aliases else rename(entry, name, aliases)
    )


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
