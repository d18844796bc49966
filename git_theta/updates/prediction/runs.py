"""Runs of rows that a tensor has in common with its base: how they are stored, read one behind the
other, and put back in place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from git_theta.core import varint
from git_theta.errors import PayloadError

_STEP = 4096


@dataclass(frozen=True, slots=True)
class Run:
    """``length`` rows from ``start`` on in the tensor were those from ``source`` on in the base."""

    start: int
    source: int
    length: int


Span = tuple[int, int]
"""Start and length."""


def between(runs: Sequence[Run], count: int) -> list[Span]:
    """The rows of a tensor of ``count`` rows that no run covers."""
    edges = [0, *(edge for run in runs for edge in (run.start, run.start + run.length)), count]
    return [
        (edges[i], edges[i + 1] - edges[i])
        for i in range(0, len(edges), 2)
        if edges[i + 1] > edges[i]
    ]


class Gathered:
    """Rows of a table (flat, ``width`` elements each) one behind the other, without copying more
    than is read.
    """

    def __init__(self, bits: np.ndarray, spans: Sequence[Span], width: int) -> None:
        self._bits = bits
        self._starts = [start * width for start, _ in spans]
        self._ends = [
            int(end) for end in np.cumsum([length * width for _, length in spans], dtype=np.int64)
        ]
        self.count = self._ends[-1] if spans else 0

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """Elements ``start`` to ``stop``, counted in what is gathered."""
        number, pieces = bisect_right(self._ends, start), []
        while start < stop:
            before = self._ends[number - 1] if number else 0
            end = min(stop, self._ends[number])
            shift = self._starts[number] - before
            pieces.append(self._bits[start + shift : end + shift])
            start, number = end, number + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate([self._bits[:0], *pieces])


def put_in_place(table: np.ndarray, runs: Sequence[Run]) -> None:
    """Move the rows of ``table`` from where they were decoded (those of the runs first, then the
    others) to where they belong.

    Only the others are copied aside.
    """
    others, places, place = between(runs, len(table)), [], 0
    for run in runs:
        places.append(place)
        place += run.length
    if not others or others == [(place, len(table) - place)]:
        return
    kept = table[place:].copy()
    for run, place in reversed(list(zip(runs, places, strict=True))):
        # Backwards: a row only ever moves towards the end
        for stop in range(run.length, 0, -_STEP):
            start = max(0, stop - _STEP)
            table[run.start + start : run.start + stop] = table[place + start : place + stop].copy()
    place = 0
    for start, length in others:
        table[start : start + length] = kept[place : place + length]
        place += length


def dump(runs: Sequence[Run]) -> bytes:
    """As varints: the number of runs, then of each the rows skipped, the zigzagged jump in the base
    since the last one's end, length.
    """
    fields, start, source = [varint.dump(len(runs))], 0, 0
    for run in runs:
        jump = run.source - source
        fields += [
            varint.dump(run.start - start),
            varint.dump(2 * jump if jump >= 0 else -2 * jump - 1),
            varint.dump(run.length),
        ]
        start, source = run.start + run.length, run.source + run.length
    return b"".join(fields)


def parse(payload: memoryview, position: int, rows: int, base_rows: int) -> tuple[list[Run], int]:
    """What :func:`dump` wrote, and the position behind it; :class:`PayloadError` when it lies
    outside the tensor's or the base's rows.
    """
    number, position = varint.parse(payload, position)
    if not 0 < number <= rows:
        raise PayloadError(f"{number} runs do not fit {rows} rows")
    runs, start, source = [], 0, 0
    for _ in range(number):
        gap, position = varint.parse(payload, position)
        jump, position = varint.parse(payload, position)
        length, position = varint.parse(payload, position)
        start, source = start + gap, source + (-(jump >> 1) - 1 if jump & 1 else jump >> 1)
        if not 0 < length <= rows - start or not 0 <= source <= base_rows - length:
            raise PayloadError("a delta's rows lie outside the tensor or its base")
        runs.append(Run(start, source, length))
        start, source = start + length, source + length
    return runs, position
