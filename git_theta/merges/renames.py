"""Tensors that one side renamed: the same bytes, gone under one name and new under another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

from git_theta.core.digest import digest
from git_theta.core.manifest import INLINE_LIMIT, Entry, Manifest

_Key = tuple[str, str, tuple[int, ...]]
_CONSTANT_LIMIT = 1 << 24
_SEPARATOR = "."


def renames(base: Manifest | None, side: Manifest) -> dict[str, str]:
    """New name → old name for the tensors of ``base`` that ``side`` holds, byte for byte, under
    other names.

    A pair must be the only one with its digest. Where several share one, and for values that prove
    nothing (tiny ones, all zeros, all ones), the other pairs tell: if ``model.a.weight`` became
    ``a.weight``, then ``model.a.bias`` became ``a.bias``.
    """
    if base is None:
        return {}
    gone = _by_value(
        entry for entry in base.entries if not any(name in side.by_name for name in _names(entry))
    )
    new = _by_value(
        entry for entry in side.entries if not any(name in base.by_name for name in _names(entry))
    )
    pairs: list[tuple[Entry, Entry]] = []
    doubtful: list[tuple[list[Entry], list[Entry]]] = []
    for value, old in gone.items():
        if value in new:
            if len(old) == len(new[value]) == 1 and not _proves_nothing(old[0]):
                pairs.append((old[0], new[value][0]))
            else:
                doubtful.append((old, new[value]))
    if doubtful and pairs:
        pairs += _by_pattern(doubtful, _patterns(pairs))
    result: dict[str, str] = {}
    for before, after in pairs:
        if len(_names(before)) == len(_names(after)):
            result.update(zip(_names(after), _names(before), strict=True))
        else:
            result[after.name] = before.name
    return result


def _names(entry: Entry) -> tuple[str, ...]:
    return (entry.name, *entry.aliases)


def _by_value(entries: Iterable[Entry]) -> dict[_Key, list[Entry]]:
    table: dict[_Key, list[Entry]] = {}
    for entry in entries:
        table.setdefault((entry.digest, entry.dtype, entry.shape), []).append(entry)
    return table


def _patterns(pairs: Iterable[tuple[Entry, Entry]]) -> list[tuple[list[str], list[str]]]:
    """(old, new) leading parts of the names, what follows being equal; the most frequent first,
    longer ones before shorter.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for before, after in pairs:
        old, new = before.name.split(_SEPARATOR), after.name.split(_SEPARATOR)
        same = 0
        while same < min(len(old), len(new)) and old[-1 - same] == new[-1 - same]:
            same += 1
        counts[
            _SEPARATOR.join(old[: len(old) - same]), _SEPARATOR.join(new[: len(new) - same])
        ] += same > 0
        # Only the last part changed hands too; the module's name may tell for its other tensors
        if not same:
            counts[_SEPARATOR.join(old[:-1]), _SEPARATOR.join(new[:-1])] += 1
    found = [pattern for pattern, count in counts.items() if count and pattern[0] != pattern[1]]
    found.sort(key=lambda pattern: (-counts[pattern], -len(pattern[0]), pattern))
    return [
        (old.split(_SEPARATOR) if old else [], new.split(_SEPARATOR) if new else [])
        for old, new in found
    ]


def _by_pattern(
    doubtful: Iterable[tuple[list[Entry], list[Entry]]],
    patterns: Iterable[tuple[list[str], list[str]]],
) -> list[tuple[Entry, Entry]]:
    patterns = list(patterns)[:1000]
    pairs = []
    for old, new in doubtful:
        free: Mapping[str, Entry] = {entry.name: entry for entry in new}
        used: set[str] = set()
        for entry in old:
            parts = entry.name.split(_SEPARATOR)
            for before, after in patterns:
                name = _SEPARATOR.join([*after, *parts[len(before) :]])
                if parts[: len(before)] == before and name in free and name not in used:
                    used.add(name)
                    pairs.append((entry, free[name]))
                    break
    return pairs


def _proves_nothing(entry: Entry) -> bool:
    """Whether equal bytes may well be chance: very few of them, or all zeros or ones."""
    return entry.nbytes <= INLINE_LIMIT or entry.digest in _constants(entry.dtype, entry.nbytes)


@lru_cache(maxsize=256)
def _constants(dtype: str, nbytes: int) -> tuple[str, ...]:
    """The digests of all zeros and all ones, for tensors small enough to be biases or norms."""
    if nbytes > _CONSTANT_LIMIT:
        return ()
    one = _ONE.get(dtype)
    return (digest(bytes(nbytes)), *([digest(one * (nbytes // len(one)))] if one else []))


_ONE = {
    "f32": b"\x00\x00\x80\x3f",
    "f64": b"\x00\x00\x00\x00\x00\x00\xf0\x3f",
    "f16": b"\x00\x3c",
    "bf16": b"\x80\x3f",
}
