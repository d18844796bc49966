"""How a base predicts a tensor: in place or through aligned rows, as it is, decayed, or converted
from another float type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from git_theta.core import dtypes
from git_theta.core.contracts import Level
from git_theta.core.tensors import Spec, Tensor
from git_theta.updates import floats, planes
from git_theta.updates.prediction import residual, row_alignment
from git_theta.updates.prediction.decay import Decay
from git_theta.updates.prediction.decay import find as find_decay
from git_theta.updates.prediction.runs import Run

_DECAY_SAMPLE = 16384


@dataclass(frozen=True, slots=True)
class DeltaPlan:
    """The base decayed or not, its rows aligned (None: all in place), the residual grouped by
    exponents of the type ``group``.
    """

    decay: Decay | None = None
    runs: Sequence[Run] | None = None
    group: str = ""

    def predict(self, read: residual.Read, spec: Spec, base: Spec) -> residual.Read:
        """The prediction of ``spec``, given how to read the base's elements that predict."""
        if self.decay is not None:
            decayed = self.decay
            return lambda start, stop: decayed.apply(read(start, stop), spec.dtype)
        if converted(spec, base):
            return lambda start, stop: floats.convert(read(start, stop), base.dtype, spec.dtype)
        return read


def predictable(spec: Spec, base: Spec) -> bool:
    """Whether elements of ``base`` can predict elements of ``spec`` at all."""
    if spec.dtype == base.dtype or {spec.dtype, base.dtype} <= set(floats.KINDS):
        return True
    first, second = dtypes.get(spec.dtype), dtypes.get(base.dtype)
    alike = floats.EXPONENTS.get(spec.dtype) == floats.EXPONENTS.get(base.dtype)
    return first.width == second.width and alike and "q" not in (first.kind, second.kind)


def converted(spec: Spec, base: Spec) -> bool:
    """Whether the base's elements must be rounded (or widened) to predict those of ``spec``."""
    return spec.dtype != base.dtype and spec.dtype in floats.KINDS and base.dtype in floats.KINDS


def row_width(spec: Spec, base: Spec) -> int:
    """Integers in a row (what one index of the first dimension holds) where both have such rows, of
    one width; else 0.
    """
    if (
        not spec.shape
        or not base.shape
        or spec.shape[1:] != base.shape[1:]
        or not spec.shape[0]
        or not base.shape[0]
    ):
        return 0
    widths = set()
    for one in (spec, base):
        count = one.nbytes // dtypes.get(one.dtype).width
        widths.add(0 if count % one.shape[0] else count // one.shape[0])
    return widths.pop() if len(widths) == 1 else 0


def make(tensor: Tensor, base: Tensor, level: Level) -> DeltaPlan | None:
    """The best plan, judged by samples; None when the base cannot predict the tensor."""
    if not predictable(tensor.spec, base.spec):
        return None
    target, source = tensor.bits(), base.bits()
    aligned = _align(tensor, base)
    if aligned is not None:
        return DeltaPlan(runs=aligned) if aligned else None
    if len(target) != len(source):
        return None
    found = None
    if level != "fast" and tensor.dtype == base.dtype:
        found = find_decay(
            sample(target, _DECAY_SAMPLE), sample(source, _DECAY_SAMPLE), tensor.dtype
        )
    group = ""
    if level == "best" and tensor.dtype in floats.EXPONENTS:
        predict = DeltaPlan(found).predict(residual.reading(source), tensor.spec, base.spec)
        group = _worth_grouping(target, predict, tensor.dtype)
    return DeltaPlan(found, None, group)


def _align(tensor: Tensor, base: Tensor) -> list[Run] | None:
    """The aligned rows where these are not simply all in place (then None); an empty list where
    none has a counterpart.
    """
    width = row_width(tensor.spec, base.spec)
    if not width:
        return None
    new, old = tensor.bits().reshape(-1, width), base.bits().reshape(-1, width)
    if len(new) == len(old) and (tensor.dtype != base.dtype or row_alignment.related(new, old)):
        return None
    found = row_alignment.align(
        new, old, tensor.dtype, base.dtype if converted(tensor.spec, base.spec) else ""
    )
    if len(found) * 16 > 64 + new.nbytes:
        found = []
    if len(new) == len(old) and sum(
        run.length for run in found if run.start != run.source
    ) < 0.1 * len(new):
        return None
    return found


def _worth_grouping(target: np.ndarray, predict: residual.Read, dtype: str) -> str:
    """``dtype`` where grouping makes four pieces of the tensor smaller, else nothing: it tears
    apart long runs of unchanged elements.
    """
    piece = planes.BLOCK // 4
    sizes = [0, 0]
    for start in range(0, len(target), max(piece, len(target) // 4)):
        count = min(piece, len(target) - start)
        read, guess = (
            residual.reading(target[start : start + count]),
            residual.reading(predict(start, start + count)),
        )
        for grouped, group in enumerate(("", dtype)):
            sizes[grouped] += sum(
                map(len, residual.encode(read, guess, count, "best" if group else "default", group))
            )
    return dtype if sizes[1] < sizes[0] else ""


def estimate(tensor: Tensor, base: Tensor, plan: DeltaPlan, count: int) -> tuple[float, float]:
    """Bytes that a delta in place takes, and the part of the elements that changed, judged by about
    ``count`` elements.
    """
    target, source = sample(tensor.bits(), count), sample(base.bits(), count)
    predict = plan.predict(residual.reading(source), tensor.spec, base.spec)
    coded = sum(
        map(len, residual.encode(residual.reading(target), predict, len(target), "default"))
    )
    changed = (
        np.count_nonzero(target != source) / max(1, len(target))
        if target.dtype == source.dtype
        else 1.0
    )
    return coded * len(tensor.bits()) / max(1, len(target)), float(changed)


def sample(bits: np.ndarray, count: int) -> np.ndarray:
    """About ``count`` elements in pieces of 1 Ki, spread evenly; no more than a thirty-second of
    them where that leaves 4 Ki.
    """
    pieces = max(4, min(count, len(bits) // 32) // 1024)
    if len(bits) <= pieces * 1024:
        return bits
    step = (len(bits) - 1024) // (pieces - 1)
    return np.concatenate([bits[i * step : i * step + 1024] for i in range(pieces)])
