"""low-rank: two thin factors whose product is added to the base, and what that leaves (LoRA merged
into the weights, for one).

A tensor of more than two dimensions counts as a matrix of shape[0] rows. Payload: ``flags`` byte
(1: the residual is grouped by exponent, 2: there is none) | the factors | the residual against base
+ product.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from git_theta.core import dtypes
from git_theta.core.contracts import Change, Level, Read
from git_theta.core.tensors import Buffer, Encoded, Spec, Tensor
from git_theta.errors import PayloadError, UsageError
from git_theta.updates import floats, frames
from git_theta.updates.prediction import factors, residual, sketch

_GROUPED, _NO_RESIDUAL = 1, 2


class LowRank:
    """Stores a change of low rank by its factors."""

    name = "low-rank"
    needs_base = True
    meant_for: Change = "rule"
    parts: tuple[str, ...] = ("R", "C")

    def from_parts(
        self, base: Tensor, parts: Mapping[str, np.ndarray]
    ) -> tuple[Tensor, Encoded | None]:
        """``base`` + R C; see :func:`encode_given`."""
        return encode_given(None, base, parts["R"], parts["C"])

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        """The payload; None when the change is not of low rank."""
        found = None if base is None else sketch.find(tensor, base, level)
        return None if base is None or found is None else _dump(found, base, tensor, level)

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        """The tensor's bytes."""
        if base is None:
            raise PayloadError("a low-rank update needs the value it is based on")
        predict, rest = _open(payload, spec, base.spec, residual.reading(base.bits()))
        if rest is None:
            return residual.predicted(predict, base.bits())
        return frames.fill(*rest).data.cast("B")

    def reader(self, payload: memoryview, spec: Spec, base: Spec | None, read: Read | None) -> Read:
        """How to read some of the tensor's integers."""
        if base is None or read is None:
            raise PayloadError("a low-rank update needs the value it is based on")
        predict, rest = _open(payload, spec, base, read)
        return predict if rest is None else frames.Reading(*rest)


def _open(
    payload: memoryview, spec: Spec, base: Spec, read: Read
) -> tuple[Read, tuple[frames.Frames, frames.Decode] | None]:
    """What the factors and the base's elements predict, and the residual, if there is one."""
    if base != spec or not _is_matrix(spec):
        raise PayloadError("a low-rank update needs a base of the same float type and shape")
    if not len(payload) or payload[0] > 2:
        raise PayloadError("this is not a low-rank update, or one that a newer Git-Theta wrote")
    found, position = factors.parse(payload, 1, _matrix_shape(spec))
    predict = factors.predict(found, read, spec.dtype)
    if payload[0] == _NO_RESIDUAL:
        residual.finish(payload, position)
        return predict, None
    decode = residual.decoder(predict, spec.dtype if payload[0] == _GROUPED else "")
    return predict, (frames.Frames(payload, position, spec), decode)


def encode_given(
    tensor: Tensor | None,
    base: Tensor,
    left: np.ndarray,
    right: np.ndarray,
    scale: float = 1.0,
    level: Level = "default",
) -> tuple[Tensor, Encoded]:
    """Code ``base + scale * left @ right``: ``left`` is (rows x rank), ``right`` (rank x columns),
    of any real type.

    Without ``tensor`` that sum, computed as every machine computes it, is the new tensor, and
    nothing but the factors is stored. With one, it is stored as the sum and a residual. Returns the
    new tensor and its payload. :class:`UsageError` when the factors do not fit or are not finite.
    """
    if not _is_matrix(base.spec):
        raise UsageError(
            f"a low-rank update needs a float matrix (f16, bf16, f32 or f64), not {base.spec}"
        )
    if tensor is not None and tensor.spec != base.spec:
        raise UsageError(f"a low-rank update cannot turn {base.spec} into {tensor.spec}")
    rows, columns = _matrix_shape(base.spec)
    left, right = np.asarray(left), np.asarray(right)
    if (
        left.ndim != 2
        or right.ndim != 2
        or left.shape[0] != rows
        or right.shape[1] != columns
        or left.shape[1] != right.shape[0]
    ):
        raise UsageError(
            f"factors of shape {left.shape} and {right.shape} do not fit {base.spec}, a matrix of"
            f" {rows} by {columns}"
        )
    if not 0 < left.shape[1] <= min(factors.MAX_RANK, rows, columns):
        raise UsageError(
            f"a rank of {left.shape[1]} is not low: at most {min(factors.MAX_RANK, rows, columns)}"
            " is possible here"
        )
    with np.errstate(all="ignore"):
        left, right = left.astype(np.float64) * float(scale), right.astype(np.float64)
    if not np.isfinite(left).all() or not np.isfinite(right).all():
        raise UsageError("the factors hold NaN or infinity, or their scale does")
    fixed = factors.fix(left, right)
    if fixed is None:
        raise UsageError("the factors hold numbers beyond 2^400")
    if tensor is not None:
        return tensor, _dump(fixed, base, tensor, level)
    predict = factors.predict(fixed, residual.reading(base.bits()), base.dtype)
    new = Tensor(base.dtype, base.shape, residual.predicted(predict, base.bits()))
    return new, Encoded([bytes([_NO_RESIDUAL]), *factors.dump(fixed, level)], f"rank={fixed.rank}")


def _dump(found: factors.Factors, base: Tensor, tensor: Tensor, level: Level) -> Encoded:
    predict = factors.predict(found, residual.reading(base.bits()), base.dtype)
    bits = tensor.bits()
    # How far a prediction is off, in steps of the last digit, depends on the exponent above all:
    # grouping pays at any level.
    rest = residual.coded(tensor.spec, residual.reading(bits), predict, level, tensor.dtype)
    return Encoded([bytes([_GROUPED]), *factors.dump(found, level), *rest], f"rank={found.rank}")


def _is_matrix(spec: Spec) -> bool:
    return spec.dtype in floats.KINDS and len(spec.shape) >= 2 and dtypes.count(spec.shape) > 0


def _matrix_shape(spec: Spec) -> tuple[int, int]:
    return spec.shape[0], dtypes.count(spec.shape[1:])
