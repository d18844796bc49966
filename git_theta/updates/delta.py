"""delta: the difference from the base, for every type and also for a base of other rows or of
another float type.

The base predicts the tensor; what is coded is the residual (see
:mod:`git_theta.updates.prediction.residual`). How the base predicts is said by the payload:

``flags`` byte | where flagged DECAY: factor (f64), steps (varint) | where flagged ROWS: the runs of
rows that the base predicts | residual of the predicted elements | where flagged ROWS: byte planes
of the elements in no run. The last two are cut in frames (see :mod:`git_theta.updates.frames`).

GROUPED: elements are ordered by the prediction's exponent. CONVERTED: the base has another float
type and is rounded to the tensor's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from git_theta.core import dtypes, varint
from git_theta.core.contracts import Change, Level, Read
from git_theta.core.tensors import Buffer, Encoded, Spec, Tensor
from git_theta.errors import PayloadError
from git_theta.updates import floats, frames, planes
from git_theta.updates.prediction import decay, delta_plan, residual, runs

_GROUPED, _ROWS, _CONVERTED, _DECAY = 1, 2, 4, 8
_FACTOR = struct.Struct("<d")


class Delta:
    """Stores a tensor as its difference from an earlier value."""

    name = "delta"
    needs_base = True
    meant_for: Change = "small"
    exact_by_construction = True  # differences of integers

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        """The payload; None without a base that could predict any of it."""
        plan = None if base is None else delta_plan.make(tensor, base, level)
        return None if base is None or plan is None else encode(tensor, base, plan, level)

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        """The tensor's bytes."""
        if base is None:
            raise PayloadError("a delta needs the value it is based on")
        plan, position = _parse_head(payload, spec, base.spec)
        found, read = frames.Frames(payload, position, spec), residual.reading(base.bits())
        if plan.runs is None:
            out = frames.fill(found, _in_place(plan, spec, base.spec, read))
        else:
            out = _fill_rows(found, plan, spec, base)
        return out.data.cast("B")

    def reader(
        self, payload: memoryview, spec: Spec, base: Spec | None, read: Read | None
    ) -> Read | None:
        """How to read some of the tensor's integers; None where rows moved."""
        if base is None or read is None:
            raise PayloadError("a delta needs the value it is based on")
        plan, position = _parse_head(payload, spec, base)
        if plan.runs is not None:
            return None
        found = frames.Frames(payload, position, spec)
        return frames.Reading(found, _in_place(plan, spec, base, read))


def encode(tensor: Tensor, base: Tensor, plan: delta_plan.DeltaPlan, level: Level) -> Encoded:
    """The payload, as planned."""
    head = _head(plan, tensor.spec, base.spec)
    return (
        _encode_in_place(head, tensor, base, plan, level)
        if plan.runs is None
        else _encode_rows(head, tensor, base, plan, level)
    )


def _encode_in_place(
    head: bytes, tensor: Tensor, base: Tensor, plan: delta_plan.DeltaPlan, level: Level
) -> Encoded:
    target, source, changed = tensor.bits(), base.bits(), 0
    comparable = source.dtype == target.dtype

    def read(start: int, stop: int) -> np.ndarray:
        nonlocal changed
        block = target[start:stop]
        if comparable:
            changed += int(np.count_nonzero(block != source[start:stop]))
        return block

    predict = plan.predict(residual.reading(source), tensor.spec, base.spec)
    chunks = [head, *residual.coded(tensor.spec, read, predict, level, plan.group)]
    return Encoded(chunks, f"changed={changed}" if comparable else "")


def _encode_rows(
    head: bytes, tensor: Tensor, base: Tensor, plan: delta_plan.DeltaPlan, level: Level
) -> Encoded:
    assert plan.runs is not None
    width = delta_plan.row_width(tensor.spec, base.spec)
    paired = runs.Gathered(tensor.bits(), [(run.start, run.length) for run in plan.runs], width)
    source = runs.Gathered(base.bits(), [(run.source, run.length) for run in plan.runs], width)
    added = runs.Gathered(tensor.bits(), runs.between(plan.runs, tensor.shape[0]), width)
    predict = plan.predict(source, tensor.spec, base.spec)

    def code(start: int, stop: int) -> Iterator[Buffer]:
        middle = min(max(start, paired.count), stop)
        yield from residual.stretch(paired, predict, start, middle, level, plan.group)
        yield from planes.encode(added(middle - paired.count, stop - paired.count), level)

    chunks = [head, *frames.coded(tensor.spec, code)]
    return Encoded(chunks, f"kept={paired.count // width},new={added.count // width}")


def _head(plan: delta_plan.DeltaPlan, spec: Spec, base: Spec) -> bytes:
    flags = _GROUPED * bool(plan.group) | _ROWS * (plan.runs is not None)
    flags |= _CONVERTED * delta_plan.converted(spec, base) | _DECAY * (plan.decay is not None)
    fields = [bytes([flags])]
    if plan.decay is not None:
        fields += [_FACTOR.pack(plan.decay.factor), varint.dump(plan.decay.steps)]
    if plan.runs is not None:
        fields.append(runs.dump(plan.runs))
    return b"".join(fields)


def _in_place(plan: delta_plan.DeltaPlan, spec: Spec, base: Spec, read: Read) -> frames.Decode:
    count, own = (each.nbytes // dtypes.get(each.dtype).width for each in (spec, base))
    if own != count:
        raise PayloadError(f"a delta of {count} values is based on {own}")
    return residual.decoder(plan.predict(read, spec, base), plan.group)


def _fill_rows(
    found: frames.Frames, plan: delta_plan.DeltaPlan, spec: Spec, base: Tensor
) -> np.ndarray:
    assert plan.runs is not None
    row = delta_plan.row_width(spec, base.spec)
    source = runs.Gathered(base.bits(), [(run.source, run.length) for run in plan.runs], row)
    predict = plan.predict(source, spec, base.spec)

    def decode(frame: frames.Frame, out: np.ndarray) -> None:
        middle, position = min(max(0, source.count - frame.start), len(out)), 0
        if middle:
            position = residual.decode(
                frame.body, position, out[:middle], predict, plan.group, frame.start
            )
        planes.fill(frame.body[position:], out[middle:])

    out = frames.fill(found, decode)
    runs.put_in_place(out.reshape(-1, row), plan.runs)
    return out


def _parse_head(payload: memoryview, spec: Spec, base: Spec) -> tuple[delta_plan.DeltaPlan, int]:
    if not len(payload) or payload[0] > 15:
        raise PayloadError("this is not a delta, or one that a newer Git-Theta wrote")
    flags, position = payload[0], 1
    if not delta_plan.predictable(spec, base) or bool(flags & _CONVERTED) != delta_plan.converted(
        spec, base
    ):
        raise PayloadError(f"a delta for {spec} cannot be based on {base}")
    if flags & _GROUPED and spec.dtype not in floats.EXPONENTS:
        raise PayloadError(f"{spec.dtype} values have no exponents to group by")
    found, aligned = None, None
    if flags & _DECAY:
        if (
            position + _FACTOR.size > len(payload)
            or spec.dtype not in floats.KINDS
            or flags & _CONVERTED
        ):
            raise PayloadError("a delta's decay is cut short or out of place")
        (factor,) = _FACTOR.unpack_from(payload, position)
        steps, position = varint.parse(payload, position + _FACTOR.size)
        found = decay.Decay(factor, steps)
        if not found.valid:
            raise PayloadError("a delta's decay is out of range")
    if flags & _ROWS:
        if not delta_plan.row_width(spec, base):
            raise PayloadError(f"the rows of {spec} cannot be based on those of {base}")
        aligned, position = runs.parse(payload, position, spec.shape[0], base.shape[0])
    return delta_plan.DeltaPlan(found, aligned, spec.dtype if flags & _GROUPED else ""), position
