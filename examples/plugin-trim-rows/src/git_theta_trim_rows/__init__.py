"""trim-rows: a tensor that is its base without some rows, as an embedding is whose vocabulary was
trimmed.

Payload: for each run of rows that stayed, two little-endian u32: how many rows of the base were
left out before it, and how many it has. Nothing else is stored, so deleting 5,000 of 30,000 words
costs as many bytes for a model of any width.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np

from git_theta.plugin import Buffer, Encoded, Level, PayloadError, Spec, Tensor, Update, hookimpl

_RUN = struct.Struct("<II")
_AT_ONCE = 1024  # rows that are compared at a time


class TrimRows:
    """Stores which rows of the base are left."""

    name = "trim-rows"
    needs_base = True

    # There is just one way
    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        """The payload; None unless the tensor is ``base`` with some rows deleted, bit for bit, and
        nothing else changed.
        """
        if base is None or not _are_rows(tensor.spec, base.spec) or base.shape[0] >= 1 << 32:
            return None
        runs = _kept(_rows(tensor), _rows(base))
        if runs is None:
            return None
        removed = base.shape[0] - tensor.shape[0]
        return Encoded([b"".join(_RUN.pack(*run) for run in runs)], f"removed={removed}")

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        """The tensor's bytes.

        :class:`PayloadError` for anything that :meth:`encode` would not have written for such a
        base.
        """
        if base is None or not _are_rows(spec, base.spec):
            raise PayloadError("trim-rows needs a base with more rows of the same kind")
        if len(payload) % _RUN.size or len(payload) > _RUN.size * spec.shape[0]:
            raise PayloadError(f"{len(payload)} bytes of trim-rows cannot be {spec.shape[0]} rows")
        source, width = memoryview(base.data).cast("B"), spec.nbytes // spec.shape[0]
        out, filled, row = bytearray(spec.nbytes), 0, 0
        for skipped, count in _RUN.iter_unpack(payload):
            row += skipped
            if not count or row + count > base.shape[0] or filled + count > spec.shape[0]:
                raise PayloadError("a run of trim-rows lies outside of the tensor or its base")
            out[filled * width : (filled + count) * width] = source[
                row * width : (row + count) * width
            ]
            filled, row = filled + count, row + count
        if filled != spec.shape[0]:
            raise PayloadError(f"trim-rows gives {filled} of {spec.shape[0]} rows")
        return out


@hookimpl
def register_updates() -> Iterable[Update]:
    """Called by Git-Theta where this package is installed."""
    return [TrimRows()]


def _are_rows(spec: Spec, base: Spec) -> bool:
    """Whether both have rows (what one index of the first dimension holds) of one kind, the base
    more of them.
    """
    if (
        spec.dtype != base.dtype
        or not spec.shape
        or not base.shape
        or spec.shape[1:] != base.shape[1:]
    ):
        return False
    return (
        0 < spec.shape[0] < base.shape[0] and spec.nbytes > 0 and spec.nbytes % spec.shape[0] == 0
    )


def _rows(tensor: Tensor) -> np.ndarray:
    return np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape[0], -1)


def _kept(new: np.ndarray, old: np.ndarray) -> list[tuple[int, int]] | None:
    """The runs of ``old`` that make up ``new``; None where they do not.

    Taking each row as early as possible never rules out a solution. More rows than are missing
    cannot be left out, so this gives up soon on a tensor that is something else.
    """
    runs: list[tuple[int, int]] = []
    row = position = skipped = 0
    while row < len(new):
        if position - row > len(old) - len(new):
            return None
        count = min(_AT_ONCE, len(new) - row, len(old) - position)
        differ = (new[row : row + count] != old[position : position + count]).any(axis=1)
        same = int(differ.argmax()) if differ.any() else count
        if same:
            if runs and not skipped:  # the run goes on behind what was compared at once
                before, length = runs.pop()
                runs.append((before, length + same))
            else:
                runs.append((skipped, same))
            row, position, skipped = row + same, position + same, 0
        else:
            position, skipped = position + 1, skipped + 1
    return runs
