"""Findings: changes of a tensor that are rarely meant, such as a NaN that came in.

Tables, pages, Markdown and JSON all show these.

What counts is documented in ``docs/diff.md``; thresholds that are not 1 stand here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from git_theta.core import dtypes
from git_theta.core.names import display
from git_theta.workflows.comparing.compare import TensorChange
from git_theta.workflows.comparing.movement import Statistics
from git_theta.workflows.comparing.statistics import Result, Searched, Unknown

NORM_FACTOR = 10.0
"""A norm jumps if it is more than so many times what it was, or less than that part of it."""
NORM_ELEMENTS = 16
"""Tensors of fewer elements have no norm jumps.

Scalars and small biases move that far in training.
"""

_KINDS = ("nan", "inf", "zero_rows", "zero_channels", "lost_rows", "lost_elements", "dtype", "norm")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found in a tensor, or in several alike.

    ``kind`` is one of the names in ``docs/diff.md``.

    ``count`` is how many elements, rows or channels are meant; of ``dtype`` and ``norm``, how many
    tensors. ``old`` and ``new`` are the types of a ``dtype`` finding; ``factor`` is ‖W'‖ / ‖W‖ of a
    ``norm`` finding.
    """

    kind: str
    count: int
    old: str = ""
    new: str = ""
    factor: float = 1.0

    @property
    def text(self) -> str:
        """A few words: ``3 new NaN``, ``10 rows lost``, ``f32 -> f16``, ``norm x25``.

        ASCII only.
        """
        many = f"{self.count:,}"
        plural = "" if self.count == 1 else "s"
        match self.kind:
            case "nan":
                return f"{many} new NaN"
            case "inf":
                return f"{many} new Inf"
            case "zero_rows":
                return f"{many} row{plural} zeroed"
            case "zero_channels":
                return f"{many} dead channel{plural}"
            case "lost_rows":
                return f"{many} row{plural} lost"
            case "lost_elements":
                return f"{many} element{plural} lost"
            case "dtype":
                return f"{self.old} -> {self.new}"
        if math.isinf(self.factor):
            return "norm xinf"
        return f"norm x{self.factor:.3g}"


def findings(change: TensorChange, result: Result) -> tuple[Finding, ...]:
    """What is to be said of one tensor, most serious first.

    Without ``result``, only what the manifests tell.
    """
    found: list[Finding] = []
    if isinstance(result, Statistics | Unknown | Searched):
        found += [
            Finding(kind, count)
            for kind, count in (("nan", result.new_nan), ("inf", result.new_inf))
            if count
        ]
    if isinstance(result, Statistics):
        found += [Finding("zero_rows", result.zero_rows)] if result.zero_rows else []
        found += [Finding("zero_channels", result.zero_channels)] if result.zero_channels else []
    old, new = change.old, change.new
    if old is None or new is None:
        return tuple(found)
    before, after = dtypes.count(old.shape), dtypes.count(new.shape)
    if after < before:
        rows = len(old.shape) == len(new.shape) and old.shape[1:] == new.shape[1:]
        found.append(
            Finding("lost_rows", old.shape[0] - new.shape[0])
            if rows
            else Finding("lost_elements", before - after)
        )
    if old.dtype != new.dtype:
        found.append(Finding("dtype", 1, old.dtype, new.dtype))
    if isinstance(result, Statistics) and dtypes.get(new.dtype).kind in "fc":
        found += _norm(result)
    return tuple(found)


def _norm(result: Statistics) -> list[Finding]:
    if (
        not result.comparable
        or not result.norm
        or not result.norm_new
        or result.elements < NORM_ELEMENTS
    ):
        return []
    factor = result.norm_new / result.norm if math.isfinite(result.norm) else 1.0
    return (
        [Finding("norm", 1, factor=factor)] if not 1 / NORM_FACTOR <= factor <= NORM_FACTOR else []
    )


def together(parts: Iterable[Sequence[Finding]]) -> tuple[Finding, ...]:
    """The findings of several tensors that share a line: counts are added, of norms the farthest is
    told.
    """
    merged: dict[tuple[str, str, str], Finding] = {}
    for finding in (finding for part in parts for finding in part):
        key = (finding.kind, finding.old, finding.new)
        known = merged.get(key)
        if known is None:
            merged[key] = finding
        else:
            farthest = max(known.factor, finding.factor, key=_far)
            merged[key] = Finding(
                finding.kind, known.count + finding.count, finding.old, finding.new, farthest
            )
    return tuple(sorted(merged.values(), key=lambda finding: _KINDS.index(finding.kind)))


def _far(factor: float) -> float:
    return abs(math.log(factor)) if 0 < factor < math.inf else math.inf


def words(found: Sequence[Finding], times: str = "x", arrow: str = "->") -> str:
    """Findings as one short text; nothing for none."""
    return ", ".join(
        finding.text.replace("->", arrow).replace("norm x", f"norm {times}") for finding in found
    )


def lines(
    changes: Sequence[TensorChange],
    results: Sequence[Result],
    limit: int,
    times: str = "x",
    arrow: str = "->",
) -> list[str]:
    """A line for each of ``limit`` tensors with findings, the most serious first, and one that
    counts the rest.
    """
    every = [
        (change, found)
        for change, result in zip(changes, results, strict=True)
        if (found := findings(change, result))
    ]
    every.sort(key=lambda item: min(_KINDS.index(finding.kind) for finding in item[1]))
    told = [
        f"{display(change.name, 120)}: {words(found, times, arrow)}"
        for change, found in every[:limit]
    ]
    if len(every) > limit:
        told.append(f"and {len(every) - limit:,} more")
    return told
