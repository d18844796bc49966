"""The statistics that some strategies use, tracked as files beside the model: where they are, and the ones that a merge leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from git_theta.core.manifest import Entry, Manifest
from git_theta.workflows.session import Session

if TYPE_CHECKING:
    from git_theta.workflows.merge import Merged

STATISTICS = ("fisher", "gram", "velocity")


class Siblings(Protocol):
    """Where a strategy's statistics come from: per statistic and side, the manifest of the tracked file that holds them."""

    def __call__(self, statistic: str) -> Sequence[Manifest | None]:
        """One manifest a side, None where that side tracks none."""


@dataclass(frozen=True, slots=True)
class OfCommits:
    """Statistics beside the model at ``path`` as each side's commit (any name git knows, tried in turn) has them."""

    session: Session
    path: str
    commits: tuple[tuple[str, ...], ...]

    def __call__(self, statistic: str) -> list[Manifest | None]:
        """One manifest a side."""
        place = sibling(self.path, statistic)
        return [next(filter(None, (self.session.manifest(f"{name}:{place}") for name in names)), None) for names in self.commits]


def sibling(path: str, statistic: str) -> str:
    """The path of a statistic's file beside a model's: ``model.fisher.safetensors`` for ``model.safetensors``."""
    stem, dot, suffix = path.rpartition(".")
    return f"{stem}.{statistic}.{suffix}" if dot and "/" not in suffix else f"{path}.{statistic}"


def left_behind(session: Session, path: str, merged: Merged, siblings: Siblings) -> dict[str, Manifest]:
    """The files of statistics that a merge of the model at ``path`` leaves, by path: tracked ones, and ones that attributes would track.

    A tensor that the merge did not compute keeps the statistics it has.
    """
    from git_theta.workflows.merge_build import built

    files = {}
    for statistic, entries in merged.statistics.items():
        place = sibling(path, statistic)
        before = next((manifest for manifest in siblings(statistic) if manifest is not None), None)
        if before is None and not _would_be_tracked(session, place):
            continue
        combined = {entry.name: entry for entry in before.entries} if before is not None else {}
        combined.update(_placed(before, entries))
        form = before.format if before is not None else merged.plan.sides[0].format
        files[place] = built(session, place, form, list(combined.values()), before, [before] if before is not None else [])
    return files


def _placed(before: Manifest | None, entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """``entries`` under the names (and aliases) that the earlier file has for them."""
    known = before.by_name if before is not None else {}
    return {known[name].name if name in known else name: _called(entry, known.get(name)) for name, entry in entries.items()}


def _called(entry: Entry, like: Entry | None) -> Entry:
    return entry if like is None else entry._replace(name=like.name, aliases=like.aliases)


def _would_be_tracked(session: Session, path: str) -> bool:
    from git_theta.git import attributes

    return attributes.is_tracked(attributes.check(session.repository, [path], ["filter"])[path])
