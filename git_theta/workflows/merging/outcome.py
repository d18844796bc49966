"""What a merge of one model comes to: what is settled, what is left to the user, and what to
report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from git_theta.core.manifest import Entry, Manifest
from git_theta.core.names import display, shell_word
from git_theta.merges.items import Item, MergePlan, reason
from git_theta.workflows.merging.merge_rules import MergeRule, literal


@dataclass(frozen=True, slots=True)
class MergeProgress:
    """What is settled of a merge: per tensor its value (None: removed) and the rule that gave it;
    statistics that strategies left.

    ``by_name``: files of different formats are to be merged by tensor name.
    """

    resolved: Mapping[str, Entry | None] = field(default_factory=dict)
    used: Mapping[str, MergeRule] = field(default_factory=dict)
    statistics: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)
    by_name: bool = False


@dataclass(frozen=True, slots=True)
class Conflict:
    """A tensor that is left to the user, and why; of a unit, its first part."""

    item: Item
    reason: str

    @property
    def title(self) -> str:
        """The tensor's or the unit's name, for a message."""
        unit = self.item.unit if self.item.kind == "unit" else None
        return f"unit {display(unit.name, 80)}" if unit is not None else display(self.item.name, 80)


@dataclass(frozen=True, slots=True)
class Merged:
    """The outcome: a manifest (None as long as there are conflicts), what strategies resolved so
    far, and what to tell.
    """

    manifest: Manifest | None
    progress: MergeProgress
    conflicts: tuple[Conflict, ...]
    problems: tuple[str, ...]
    notices: tuple[str, ...]
    plan: MergePlan

    @property
    def resolved(self) -> Mapping[str, Entry | None]:
        """What each tensor that was in conflict became, as far as it is settled."""
        return self.progress.resolved

    @property
    def statistics(self) -> Mapping[str, Mapping[str, Entry]]:
        """The statistics that strategies left, by name and tensor."""
        return self.progress.statistics


class Siblings(Protocol):
    """Where a strategy's statistics come from: per statistic and side, the manifest of the tracked
    file that holds them.
    """

    def __call__(self, statistic: str) -> Sequence[Manifest | None]:
        """One manifest a side, None where that side tracks none."""


def conflict(item: Item, problem: str = "") -> Conflict:
    """``item`` as a conflict: why it is one, the ``problem`` that keeps a strategy from merging it,
    and, for a unit, what does settle it.
    """
    words = [reason(item), problem] if problem else [reason(item)]
    if item.kind == "unit":
        params = shell_word(literal(item.name))
        words.append(
            f"take it whole from one side: git theta resolve --params {params} --ours (or --theirs,"
            " --base)"
        )
    return Conflict(item, "; ".join(words))


def _kinds(conflicts: Sequence[Conflict]) -> str:
    """What ``conflicts`` are: tensors, units, or both."""
    units = sum(conflict.item.kind == "unit" for conflict in conflicts)
    mark = "s" if len(conflicts) > 1 else ""
    return (
        f"tensor{mark}"
        if not units
        else f"unit{mark}"
        if units == len(conflicts)
        else "tensors and units"
    )


def describe(path: str, merged: Merged, shown: int = 5) -> list[str]:
    """What a user should read about a merge that is not finished: what conflicts, why, and the
    commands that go on.
    """
    lines = [f"{display(path)}: {problem}" for problem in merged.problems]
    if merged.conflicts:
        count = len(merged.conflicts)
        lines.append(
            f"{display(path)}: {count} {_kinds(merged.conflicts)} changed on several sides:"
        )
        lines += [f"    {c.title}: {c.reason}" for c in merged.conflicts[:shown]]
        if count > shown:
            lines.append(f"    … and {count - shown} more")
    if lines:
        quoted = shell_word(path)
        lines.append(
            f"resolve with: git theta resolve {quoted} -s STRATEGY    ('git theta strategies' lists"
            " them; also --ours, --theirs, --base)"
        )
        lines.append(f"or put the file you want there and run: git add {quoted}")
    return lines
