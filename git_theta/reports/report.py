"""What a report is made of: the models that were compared, their changes, and what was measured of
each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from git_theta.core.manifest import Entry
from git_theta.reports.health import findings
from git_theta.reports.naming import natural
from git_theta.workflows.comparing.compare import Comparison, TensorChange
from git_theta.workflows.comparing.movement import Statistics, together
from git_theta.workflows.comparing.statistics import Result, Unknown


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model with two versions.

    ``changes`` are those asked for, in the order asked for, and ``results`` what was measured of
    each.

    ``measured`` is False where only manifests were asked for. ``former_path``: what the file was
    called, if something else. ``modes`` are git's, None where there is no file. ``problem`` says
    what is wrong with a side. ``entries`` are all tensors of the new version, where they are
    wanted.
    """

    path: str
    comparison: Comparison | None
    changes: tuple[TensorChange, ...] = ()
    results: tuple[Result, ...] = ()
    former_path: str | None = None
    modes: tuple[str | None, str | None] = (None, None)
    problem: str = ""
    measured: bool = True
    entries: tuple[Entry, ...] = ()

    @property
    def total(self) -> Statistics | None:
        """All that was measured, as if it were one tensor."""
        return together([result for result in self.results if isinstance(result, Statistics)])

    @property
    def unknown(self) -> list[Unknown]:
        """Why some tensors were not measured."""
        return [result for result in self.results if isinstance(result, Unknown)]

    @property
    def alarming(self) -> int:
        """Number of tensors with findings (see :mod:`git_theta.reports.health`)."""
        return sum(
            bool(findings(change, result))
            for change, result in zip(self.changes, self.results, strict=True)
        )

    @property
    def change_bytes(self) -> int:
        """Bytes of the tensors that are added or have other values now."""
        return sum(
            change.new.nbytes for change in self.changes if change.new and change.kind != "renamed"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """A whole diff: what its sides are called, the models, and the ids of the sides' commits or
    trees (empty if a side is none).
    """

    old: str
    new: str
    models: tuple[ModelReport, ...]
    ids: tuple[str, str] = ("", "")


def ordered(
    changes: Sequence[TensorChange], results: Sequence[Result], by: str
) -> tuple[tuple[TensorChange, ...], tuple[Result, ...]]:
    """Both, sorted: ``file`` (as they stand), ``name``, ``size``, or ``change`` (tensors with
    findings first, then new and lost ones, then by how far they moved).
    """
    pairs = list(zip(changes, results, strict=True))
    if by == "name":
        pairs.sort(key=lambda pair: natural(pair[0].name))
    elif by == "size":
        pairs.sort(key=lambda pair: -pair[0].entry.nbytes)
    elif by == "change":
        pairs.sort(key=_distance, reverse=True)
    return tuple(change for change, _ in pairs), tuple(result for _, result in pairs)


def _distance(pair: tuple[TensorChange, Result]) -> tuple[int, float]:
    change, result = pair
    relative = result.relative if isinstance(result, Statistics) else None
    if findings(change, result):
        return (3, math.inf if relative is None or math.isnan(relative) else relative)
    if isinstance(result, Statistics):
        return (1, relative) if relative is not None else (1, result.fraction)
    return (2 if change.kind in ("added", "removed", "reshaped") else 0, change.entry.nbytes)
