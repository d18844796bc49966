"""What changed between two versions of a model, by their manifests alone: no tensor is read.

Two tensors belong together when they share a name (an alias counts), else when their bytes, type
and shape are equal, else when their names differ only in leading components (``model.`` or
``module.`` put in front) and one candidate is left. Equality is always that of digests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

from git_theta.core import dtypes
from git_theta.core.manifest import Entry, Manifest, parse

Kind = Literal["added", "removed", "modified", "renamed", "reshaped", "retyped"]
KINDS: tuple[Kind, ...] = ("added", "removed", "modified", "renamed", "reshaped", "retyped")
_DROPPED = 3  # leading components of a name that may have been put in front or taken away


@dataclass(frozen=True, slots=True)
class TensorChange:
    """One tensor that is not the same on both sides.

    ``modified``: other bytes. ``reshaped``: another shape (and perhaps type). ``retyped``: another
    element type. ``renamed``: the same bytes under other names. A tensor can be renamed and changed
    at once: then ``kind`` says how it changed and the entries' names differ.
    """

    kind: Kind
    old: Entry | None
    new: Entry | None

    @property
    def entry(self) -> Entry:
        """The new version, or the old one of a tensor that was removed."""
        entry = self.new or self.old
        assert entry is not None
        return entry

    @property
    def name(self) -> str:
        """The tensor's name, as it is now."""
        return self.entry.name

    @property
    def former_name(self) -> str | None:
        """What it was called before, where that is something else."""
        return self.old.name if self.old and self.new and self.old.name != self.new.name else None

    @property
    def elements(self) -> int:
        """Number of elements, as it is now."""
        return dtypes.count(self.entry.shape)

    @property
    def has_values(self) -> bool:
        """Whether both sides have values that may differ, so that reading them tells more."""
        return self.kind in ("modified", "reshaped", "retyped")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions of a model; None where there is no model on that side.

    ``unchanged`` counts the tensors that are the same.

    ``changes`` are in the order of the new file; what was removed comes before the next changed
    tensor that it stood before.
    """

    old: Manifest | None
    new: Manifest | None
    changes: tuple[TensorChange, ...]
    unchanged: int = 0

    @property
    def counts(self) -> dict[Kind, int]:
        """How many changes there are of each kind."""
        found = dict.fromkeys(KINDS, 0)
        for change in self.changes:
            found[change.kind] += 1
        return found

    @property
    def tensors(self) -> int:
        """Number of tensors in the new version (the old one's where the model was deleted)."""
        there = sum(
            1 for change in self.changes if (change.new if self.new else change.old) is not None
        )
        return self.unchanged + there

    @property
    def other_content(self) -> bool:
        """Whether the file's bytes outside of the tensors (or its format) changed."""
        return bool(
            self.old
            and self.new
            and (self.old.skeleton.digest, self.old.format)
            != (self.new.skeleton.digest, self.new.format)
        )

    @property
    def same(self) -> bool:
        """Whether both sides rebuild the same bytes."""
        return (
            not self.changes and not self.other_content and (self.old is None) == (self.new is None)
        )

    @property
    def stored(self) -> int:
        """Stored bytes that the new version needs and the old one does not: what the change costs
        to store.
        """
        if self.new is None:
            return 0
        old = {place for change in self.changes if change.old for place in change.old.ranges}
        new = {place for change in self.changes if change.new for place in change.new.ranges}
        old |= set(self.old.skeleton.ranges) if self.old else set()
        new |= set(self.new.skeleton.ranges)
        return sum(place.length for place in new - old)


def compare(old: Manifest | None, new: Manifest | None, unchanged: int = 0) -> Comparison:
    """What became of each tensor.

    ``unchanged`` tensors were left out on both sides already (see :func:`narrow`).
    """
    olds, news = old.entries if old else (), new.entries if new else ()
    partner = _Pairs(olds, news)
    partner.by_name(old, new)
    partner.by_content()
    for count in range(1, _DROPPED + 1):
        shorter = partial(_shortened, count=count)
        partner.by_key(shorter, _typed)
        partner.by_key(_typed, shorter)
    changes, same = partner.changes()
    return Comparison(old, new, tuple(changes), unchanged + same)


def compare_texts(old: bytes | None, new: bytes | None) -> Comparison:
    """As :func:`compare`, for manifests as git stores them; lines that stand in both are not even
    parsed.
    """
    if old is None or new is None:
        return compare(
            parse(old) if old is not None else None, parse(new) if new is not None else None
        )
    first, second, same = narrow(old, new)
    return compare(parse(first), parse(second), same)


def narrow(old: bytes, new: bytes) -> tuple[bytes, bytes, int]:
    """Both manifests without the tensor lines they share, and the number of these."""
    old_head, old_lines = _split(old)
    new_head, new_lines = _split(new)
    shared = set(old_lines).intersection(new_lines)
    if not shared or len(set(old_lines)) < len(old_lines) or len(set(new_lines)) < len(new_lines):
        return old, new, 0  # repeated lines are for the parser to complain about
    return _join(old_head, old_lines, shared), _join(new_head, new_lines, shared), len(shared)


def _split(text: bytes) -> tuple[bytes, list[bytes]]:
    head, blank, body = text.partition(b"\n\n")
    return head + blank, body.split(b"\n")[:-1] if body.endswith(b"\n") else []


def _join(head: bytes, lines: Sequence[bytes], shared: set[bytes]) -> bytes:
    return head + b"".join(line + b"\n" for line in lines if line not in shared)


def select(changes: Iterable[TensorChange], globs: Sequence[str]) -> list[TensorChange]:
    """The changes of tensors that one of ``globs`` matches by any of their names (all, without
    globs).

    ``*`` matches dots too; a pattern without wildcards also matches everything below it.
    """
    return [
        change
        for change in changes
        if not globs or any(matches(name, globs) for name in _names(change))
    ]


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether one of ``globs`` matches ``name``, as :func:`select` does it."""
    return any(
        fnmatchcase(name, glob) or name == glob or name.startswith((f"{glob}.", f"{glob}/"))
        for glob in globs
    )


def _names(change: TensorChange) -> Iterable[str]:
    for entry in (change.new, change.old):
        if entry is not None:
            yield entry.name
            yield from entry.aliases


_Key = tuple[str, str, tuple[int, ...]]


def _content(entry: Entry) -> _Key:
    return entry.digest, entry.dtype, entry.shape


def _typed(entry: Entry) -> _Key:
    return entry.name, entry.dtype, entry.shape


def _shortened(entry: Entry, count: int) -> _Key:
    """The name without ``count`` leading components (the empty name where it has no more), and the
    type.
    """
    parts = entry.name.split(".", count)
    return parts[count] if len(parts) > count else "", entry.dtype, entry.shape


class _Pairs:
    """Finds for each new tensor the old one it comes from, the surest way first."""

    def __init__(self, olds: Sequence[Entry], news: Sequence[Entry]) -> None:
        self._olds = olds
        self._news = news
        self._pairs: dict[int, list[Entry]] = defaultdict(list)  # id of a new entry → its old ones
        self._left_old = {id(entry): entry for entry in olds}
        self._left_new = {id(entry): entry for entry in news}

    def _pair(self, old: Entry, new: Entry) -> None:
        self._pairs[id(new)].append(old)
        self._left_old.pop(id(old), None)
        self._left_new.pop(id(new), None)

    def by_name(self, old: Manifest | None, new: Manifest | None) -> None:
        """Pair by name; of a tensor that was tied and is no more (or the other way round) each part
        goes with the whole.
        """
        if old is None or new is None:
            return
        for entry in self._news:
            found = next(
                (old.by_name[name] for name in (entry.name, *entry.aliases) if name in old.by_name),
                None,
            )
            if found is not None:
                self._pair(found, entry)
        for entry in list(self._left_old.values()):
            found = next(
                (new.by_name[name] for name in (entry.name, *entry.aliases) if name in new.by_name),
                None,
            )
            if found is not None:
                self._pair(entry, found)

    def by_content(self) -> None:
        """Pair what is left by equal bytes; of several, by the last component of the name, then in
        order.
        """
        for olds, news in self._groups(_content, _content).values():
            self._pair_group(olds, news)

    def by_key(self, old_key: Callable[[Entry], _Key], new_key: Callable[[Entry], _Key]) -> None:
        """Pair what is left by equal keys, where just one tensor on each side has the key."""
        for key, (olds, news) in self._groups(old_key, new_key).items():
            if len(olds) == len(news) == 1 and key[0]:
                self._pair(olds[0], news[0])

    def _groups(
        self, old_key: Callable[[Entry], _Key], new_key: Callable[[Entry], _Key]
    ) -> dict[_Key, tuple[list[Entry], list[Entry]]]:
        groups: dict[_Key, tuple[list[Entry], list[Entry]]] = defaultdict(lambda: ([], []))
        for entry in self._left_old.values():
            groups[old_key(entry)][0].append(entry)
        for entry in self._left_new.values():
            groups[new_key(entry)][1].append(entry)
        return groups

    def _pair_group(self, olds: list[Entry], news: list[Entry]) -> None:
        for last in (True, False):
            waiting: dict[str, list[Entry]] = defaultdict(list)
            for old in reversed(olds):
                if id(old) in self._left_old:
                    waiting[old.name.rpartition(".")[2] if last else ""].append(old)
            for new in news:
                names = waiting.get(new.name.rpartition(".")[2] if last else "")
                if id(new) in self._left_new and names:
                    self._pair(names.pop(), new)

    def changes(self) -> tuple[list[TensorChange], int]:
        """All changes in order, and the number of tensors that are the same."""
        place = {id(entry): number for number, entry in enumerate(self._olds)}
        gone = sorted(self._left_old.values(), key=lambda entry: place[id(entry)])
        found: list[TensorChange] = []
        same = 0
        for new in self._news:
            olds = self._pairs.get(id(new), [])
            changed = [change for old in olds for change in _classify(old, new)]
            # Only changed tensors tell where a removed one stood: the unchanged ones may have been
            # left out.
            while gone and changed and place[id(gone[0])] < place[id(olds[0])]:
                found.append(TensorChange("removed", gone.pop(0), None))
            found += changed if olds else [TensorChange("added", None, new)]
            same += bool(olds) and not changed
        found += [TensorChange("removed", old, None) for old in gone]
        return found, same


def _classify(old: Entry, new: Entry) -> list[TensorChange]:
    """How ``old`` became ``new``; nothing where they are the same."""
    if old.shape != new.shape:
        return [TensorChange("reshaped", old, new)]
    if old.dtype != new.dtype:
        return [TensorChange("retyped", old, new)]
    if old.digest != new.digest:
        return [TensorChange("modified", old, new)]
    same_names = (old.name, set(old.aliases)) == (new.name, set(new.aliases))
    return [] if same_names else [TensorChange("renamed", old, new)]
