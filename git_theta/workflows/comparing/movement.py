"""How far a tensor moved: the numbers of a diff, and how those of several tensors are joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """How one tensor moved; :mod:`git_theta.workflows.comparing.measure` defines each number.

    ``elements`` were compared and ``changed`` of them differ. ``norm`` is ‖W‖, ``norm_new`` ‖W'‖
    and ``moved`` ‖D‖; ``distance`` is 1 - cosine (None: not defined), ``largest`` max |D|.
    ``histogram`` has (e, n, p) for each binary order: n elements of D in (-2^(e+1),
    -2^e], p in [2^e, 2^(e+1)). ``partial``: the tensors have another number of rows, and only the
    leading ones that both have were compared. Not ``comparable``: nothing but ``elements`` and
    ``changed`` could be told.

    ``new_nan`` and ``new_inf`` elements are NaN or infinite now and were not before (rows that were
    added count too); ``zero_rows`` and ``zero_channels`` are all zero now and were not before.
    """

    elements: int
    changed: int
    nonfinite: int = 0
    norm: float = 0.0
    norm_new: float = 0.0
    moved: float = 0.0
    distance: float | None = None
    largest: float = 0.0
    rank: int | None = None
    histogram: tuple[tuple[int, int, int], ...] | None = None
    partial: bool = False
    comparable: bool = False
    new_nan: int = 0
    new_inf: int = 0
    zero_rows: int = 0
    zero_channels: int = 0

    @property
    def fraction(self) -> float:
        """Changed elements in those compared, 0 to 1."""
        return self.changed / self.elements if self.elements else 0.0

    @property
    def relative(self) -> float | None:
        """‖D‖ / ‖W‖ over finite elements; NaN if none of these moved, but some are not finite any
        more.
        """
        if not self.comparable:
            return None
        if self.moved == 0.0:
            return math.nan if self.new_nan or self.new_inf else 0.0
        return self.moved / self.norm if self.norm else math.inf

    @property
    def peak(self) -> float:
        """Max |D|; NaN where :attr:`relative` is."""
        return math.nan if math.isnan(self.relative or 0.0) else self.largest

    @property
    def cosine(self) -> float | None:
        """⟨W, W'⟩ / (‖W‖ ‖W'‖)."""
        return None if self.distance is None else 1.0 - self.distance


def together(parts: Sequence[Statistics]) -> Statistics | None:
    """The statistics of several tensors as if they were one; None for none.

    The rank is told where all have the same.
    """
    if not parts:
        return None
    values = [part for part in parts if part.comparable]
    norm, norm_new, moved = (
        math.hypot(*(getattr(part, name) for part in values))
        for name in ("norm", "norm_new", "moved")
    )
    ranks = {part.rank for part in values if part.moved}
    return Statistics(
        elements=sum(part.elements for part in parts),
        changed=sum(part.changed for part in parts),
        nonfinite=sum(part.nonfinite for part in parts),
        new_nan=sum(part.new_nan for part in parts),
        new_inf=sum(part.new_inf for part in parts),
        zero_rows=sum(part.zero_rows for part in parts),
        zero_channels=sum(part.zero_channels for part in parts),
        norm=norm,
        norm_new=norm_new,
        moved=moved,
        distance=_distance_together(values, norm, norm_new, moved),
        largest=max((part.largest for part in values), default=0.0),
        rank=ranks.pop() if len(ranks) == 1 else None,
        histogram=_histogram_together(values),
        partial=any(part.partial for part in parts),
        comparable=bool(values),
    )


def _distance_together(
    parts: Sequence[Statistics], norm: float, norm_new: float, moved: float
) -> float | None:
    if not moved and any(part.new_nan or part.new_inf for part in parts):
        return math.nan
    if not norm or not norm_new or not math.isfinite(norm * norm_new):
        return None
    if moved < norm / 2:
        a, b, d = 1.0, norm_new / norm, moved / norm
        return min(max((d * d - (b - a) ** 2) / (2 * b), 0.0), 2.0)
    known = [
        (part, part.distance if part.moved else 0.0) for part in parts if part.distance is not None
    ]
    inner = math.fsum(
        (1 - distance) * (part.norm / norm) * (part.norm_new / norm_new) for part, distance in known
    )
    return min(max(1 - inner, 0.0), 2.0)


def _histogram_together(parts: Sequence[Statistics]) -> tuple[tuple[int, int, int], ...] | None:
    known = [part.histogram for part in parts if part.histogram is not None]
    if not known:
        return None
    orders: dict[int, list[int]] = {}
    for histogram in known:
        for order, negative, positive in histogram:
            counts = orders.setdefault(order, [0, 0])
            counts[0] += negative
            counts[1] += positive
    return tuple((order, low, high) for order, (low, high) in sorted(orders.items()))
