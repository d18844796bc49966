"""Which rows of a tensor were which rows of its base: a vocabulary extended, trimmed, or with rows
removed or put in between.

The alignment only decides how well the base predicts; a wrong guess costs bytes, never exactness.
So rows are compared by a few dozen elements each: equal ones by a hash; changed ones (fine-tuned
and trimmed at once) by the signs of those elements, and by where their neighbours went.
"""

from __future__ import annotations

import numpy as np

from git_theta.core import dtypes
from git_theta.updates import floats
from git_theta.updates.prediction import residual
from git_theta.updates.prediction.runs import Run

_LOOK = 32
_MOST = 1 << 21  # rows; beyond that they are compared in place
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed: the golden ratio of 2^64


def align(target: np.ndarray, base: np.ndarray, dtype: str, base_dtype: str = "") -> list[Run]:
    """The runs of rows of ``target`` (rows x elements, unsigned) that ``base`` (other rows, as many
    elements) predicts, in order.

    Rows in no run have no counterpart. ``base_dtype`` is given where the base has another float
    type.
    """
    if not len(target) or not len(base) or not target.shape[1]:
        return []
    if max(len(target), len(base)) > _MOST:
        return [Run(0, 0, min(len(target), len(base)))]
    new, old = _looks(target), _looks(base)
    if base_dtype:
        old = floats.convert(old.reshape(-1), base_dtype, dtype).reshape(old.shape)
    anchors = _anchors(_hashes(new), _hashes(old), len(base))
    if dtypes.get(dtype).kind in "fc" and new.shape[1] >= _LOOK:
        signs = _anchors(_signs(new), _signs(old), len(base))
        anchors = np.where(anchors >= 0, anchors, signs)
    return _runs(_settle(new, old, anchors))


def _looks(rows: np.ndarray) -> np.ndarray:
    """Some elements of every row, 32 of them where possible: of short rows, of those behind them
    too.
    """
    count, width = rows.shape
    if width >= _LOOK:
        piece = _LOOK // 4
        starts = [i * (width - piece) // 3 for i in range(4)]
        return np.concatenate([rows[:, start : start + piece] for start in starts], axis=1)
    padded = np.zeros(count * width + _LOOK, rows.dtype)
    padded[: count * width] = rows.reshape(-1)
    return np.lib.stride_tricks.sliding_window_view(padded, _LOOK)[: count * width : width]


def _hashes(looks: np.ndarray) -> np.ndarray:
    mixed = np.zeros(len(looks), np.uint64)
    for column in looks.T:
        mixed ^= column
        mixed *= _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _signs(looks: np.ndarray) -> np.ndarray:
    top = np.ascontiguousarray(looks >> looks.dtype.type(8 * looks.itemsize - 1)).astype(np.uint8)
    return np.packbits(top, axis=1).view(np.uint32).reshape(-1)


def _anchors(new: np.ndarray, old: np.ndarray, rows: int) -> np.ndarray:
    """For each new key the only place where it stands among the old ones; -1 where there is none or
    more than one.
    """
    order = np.argsort(old, kind="stable")
    ordered = old[order]
    left, right = np.searchsorted(ordered, new, "left"), np.searchsorted(ordered, new, "right")
    return np.where(right - left == 1, order[np.minimum(left, rows - 1)], -1)


def _settle(new: np.ndarray, old: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """For each new row the old row most like it among the anchored one, those that continue the
    neighbours' runs, and those in line with the first and the last row; -1 where none is clearly
    more alike than rows at random.
    """
    rows, index = len(old), np.arange(len(new))
    known = anchors >= 0
    candidates = [anchors]
    for last in (np.maximum.accumulate(np.where(known, index, -1)), _next_known(known, index)):
        inside = (last >= 0) & (last < len(new))
        place = np.clip(last, 0, len(new) - 1)
        candidates.append(np.where(inside, anchors[place] + index - place, -1))
    candidates += [index, index + rows - len(new)]
    columns = slice(None, None, 2) if len(new) < 4096 else slice(None, None, 4)
    few, many = np.ascontiguousarray(new[:, columns]), np.ascontiguousarray(old[:, columns])
    best, least = np.full(len(new), -1), np.full(len(new), np.inf)
    for candidate in candidates:
        todo = np.flatnonzero(
            (candidate >= 0) & (candidate < rows) & (candidate != best) & (least > 0)
        )
        cost = _unlikeness(few[todo], many[candidate[todo]])
        better = cost < least[todo]
        best[todo[better]], least[todo[better]] = candidate[todo[better]], cost[better]
    random = _unlikeness(few, many[(index * 7919 + 13) % rows])
    best[(least > 0) & (least > _limit(random, new))] = -1
    return best


def _limit(random: np.ndarray, new: np.ndarray) -> float:
    """What two rows that have to do with each other stay below, given how unlike rows at random
    are.
    """
    return float(random.mean()) - 0.2 * 8 * new.itemsize


def _next_known(known: np.ndarray, index: np.ndarray) -> np.ndarray:
    backwards = np.where(known, index, len(index))[::-1]
    return np.minimum.accumulate(backwards)[::-1]


def _unlikeness(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Mean length in bits of the folded differences, a row each."""
    return np.asarray(residual.lengths(new, old).mean(axis=1))


def _runs(sources: np.ndarray) -> list[Run]:
    index = np.flatnonzero(sources >= 0)
    if not len(index):
        return []
    breaks = np.flatnonzero((np.diff(index) != 1) | (np.diff(sources[index]) != 1)) + 1
    firsts = np.concatenate([[0], breaks])
    lengths = np.diff(np.concatenate([firsts, [len(index)]]))
    return [
        Run(int(index[f]), int(sources[index[f]]), int(n))
        for f, n in zip(firsts, lengths, strict=True)
    ]


def related(target: np.ndarray, base: np.ndarray) -> bool:
    """Whether rows in the same place look alike, judged by up to 64 of them: if not, it may be
    worth aligning them.
    """
    count = min(len(target), len(base))
    if count < 8 or not target.shape[1]:
        return True
    step = -(-count // 64)
    new, old = _looks(target[:count:step]), _looks(base[:count:step])
    here, random = _unlikeness(new, old), _unlikeness(new, np.roll(old, len(old) // 3, axis=0))
    return bool(np.count_nonzero((here > 0) & (here > _limit(random, new))) < 0.1 * len(new))
