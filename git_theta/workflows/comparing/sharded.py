"""Models of several files (shards) seen as one: their manifests joined, and their versions compared
by tensor, wherever a tensor lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from git_theta.core.digest import digest
from git_theta.core.layout import unique_names
from git_theta.core.manifest import Entry, Link, Manifest
from git_theta.core.shards import groups
from git_theta.git.history import listing
from git_theta.git.history.changes import FileChange, Range
from git_theta.plugins import tables
from git_theta.workflows.comparing.values import Absent
from git_theta.workflows.comparing.version import Version

if TYPE_CHECKING:
    from git_theta.core.tensors import Tensor
    from git_theta.workflows.comparing.values import Values
    from git_theta.workflows.comparing.version import Side, Version
    from git_theta.workflows.session import Session


def joined(manifests: Sequence[Manifest]) -> Manifest:
    """One manifest with the tensors of all, to be reported, not stored.

    Names that several have are numbered (``x``, ``x#2``).
    """
    skeletons = [manifest.skeleton for manifest in manifests]
    places = tuple(dict.fromkeys(place for each in skeletons for place in each.ranges))
    identity = digest(
        "\n".join(
            f"{manifest.format} {manifest.skeleton.digest}" for manifest in manifests
        ).encode()
    )
    skeleton = Entry(
        "skeleton",
        "u8",
        (sum(each.nbytes for each in skeletons),),
        identity,
        (Link(tables.FALLBACK_UPDATE, places),) if places else (),
    )
    entries = [entry for manifest in manifests for entry in manifest.entries]
    names = iter(unique_names(name for entry in entries for name in (entry.name, *entry.aliases)))
    unique = [
        entry._replace(name=next(names), aliases=tuple(next(names) for _ in entry.aliases))
        for entry in entries
    ]
    return Manifest(
        manifests[0].format,
        sum(manifest.size for manifest in manifests),
        skeleton,
        tuple(unique),
        {},
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """Reads each tensor where it lies: by its unique name, from the values of its file, which knows
    it as another entry.
    """

    places: dict[str, tuple[Values, Entry]]

    def load(self, entry: Entry) -> Tensor:
        """As :meth:`Values.load`."""
        values, own = self.places[entry.name]
        return values.load(own)


def join(
    session: Session, asked: Range, sides: Sequence[Side]
) -> tuple[list[Side], dict[str, int]]:
    """``sides`` with those of one model made one, called after its index; and by that name the
    tensors of its files that did not change.

    A side with a problem stays by itself.
    """
    changed = {side[0].new_path: side for side in sides if not side[3]}
    kept = _unchanged(session, asked, {side[0].new_path for side in sides})
    found: list[Side] = []
    same: dict[str, int] = {}
    taken: set[str] = set()
    for index, paths in groups([*changed, *kept]).items():
        members = [changed[path] for path in paths if path in changed]
        if not members or not any(old.is_model or new.is_model for _, old, new, _ in members):
            continue
        taken.update(path for path in paths if path in changed)
        rest = [session.manifest(kept[path]) for path in paths if path not in changed]
        same[index] = sum(len(manifest.entries) for manifest in rest if manifest is not None)
        found.append(_joined_side(index, members, any(manifest is not None for manifest in rest)))
    return [*found, *(side for side in sides if side[3] or side[0].new_path not in taken)], same


def _joined_side(index: str, members: Sequence[Side], more: bool) -> Side:
    """The sides of one model's files as one.

    ``more``: it has files that did not change, so it is on both sides.
    """
    members = sorted(members, key=lambda side: side[0].new_path)
    old, new = (
        _version([side[1] for side in members], more),
        _version([side[2] for side in members], more),
    )
    modes = ["100644" if version.is_model else "000000" for version in (old, new)]
    blobs = ["" if version.is_model else None for version in (old, new)]
    status = "M" if old.is_model and new.is_model else "A" if new.is_model else "D"
    return FileChange(index, index, modes[0], modes[1], blobs[0], blobs[1], status), old, new, ""


def _version(parts: Sequence[Version], more: bool) -> Version:
    held = [(part.parsed, part.values) for part in parts if part.is_model]
    manifests = [manifest for manifest, _ in held if manifest is not None]
    if not manifests:
        empty = Manifest(
            tables.FALLBACK_FORMAT, 0, Entry.of_inline("skeleton", "u8", (0,), b""), (), {}
        )
        return Version(None, Absent(), empty if more else None)
    manifest = joined(manifests)
    own = [
        (values, entry) for found, values in held if found is not None for entry in found.entries
    ]
    return Version(
        None,
        _Parts({entry.name: place for entry, place in zip(manifest.entries, own, strict=True)}),
        manifest,
    )


def _unchanged(session: Session, asked: Range, changed: set[str]) -> dict[str, str]:
    """Path → blob of the files that both sides have alike."""
    if asked.new is not None:
        entries = listing.tree(asked.new, where=session.cwd)
    else:
        entries = listing.index([":/"], session.cwd)
    return {entry.path: entry.blob for entry in entries if entry.path not in changed}
