"""What a merge of one model comes to: what is settled, what is left to the user, and what to
report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from git_theta.core.contracts import MergeStrategy
from git_theta.core.manifest import Entry, Manifest
from git_theta.core.names import display
from git_theta.errors import MergeError, ThetaError
from git_theta.merges.items import Item, MergePlan
from git_theta.workflows.merging.merge_rules import MergeRule

if TYPE_CHECKING:
    pass

from typing import TYPE_CHECKING, Protocol


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


def guarded(strategy: MergeStrategy, call: Callable[..., Any], *arguments: object) -> Any:
    """What a strategy's further method returns; :class:`MergeError` whatever goes wrong in it."""
    try:
        return call(*arguments)
    except ThetaError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {display(str(error) or 'no message', 200)}"
        raise MergeError(
            f"{strategy.name} failed with {what}; resolve it by another strategy"
        ) from error


class Siblings(Protocol):
    """Where a strategy's statistics come from: per statistic and side, the manifest of the tracked
    file that holds them.
    """

    def __call__(self, statistic: str) -> Sequence[Manifest | None]:
        """One manifest a side, None where that side tracks none."""
