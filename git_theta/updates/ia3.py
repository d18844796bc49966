"""ia3: the base times one factor a channel (Liu et al. 2022, "(IA)^3"; also a merged normalisation,
or channels pruned to zero), and what that leaves.

A channel is a position along one dimension or along a run of neighbouring ones, so that a tensor
reads as (before, channels, behind). Products are taken in float64 and rounded once. Payload:
``flags`` byte (1: the residual is grouped by exponent, 2: there is none, 4: factors are f64, not
f32) | first dimension and number of dimensions that channels run along (varints) | the factors'
bits as byte planes | the residual.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from git_theta.core import dtypes, varint
from git_theta.core.contracts import Change, Level, Read
from git_theta.core.tensors import Buffer, Encoded, Spec, Tensor
from git_theta.errors import PayloadError, UsageError
from git_theta.updates import floats, frames, planes
from git_theta.updates.prediction import residual

_GROUPED, _NO_RESIDUAL, _DOUBLE = 1, 2, 4
# Half a step of the last digit is 2^-this of the power of two below
_HALF_STEP = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}
_WORTH = 1.0  # bits an element that a sample must save


class IA3:
    """Stores per-channel factors."""

    name = "ia3"
    needs_base = True
    meant_for: Change = "rule"
    parts: tuple[str, ...] = ("ia3",)

    def from_parts(
        self, base: Tensor, parts: Mapping[str, np.ndarray]
    ) -> tuple[Tensor, Encoded | None]:
        """``base`` * ia3; see :func:`encode_given`."""
        return encode_given(None, base, parts["ia3"])

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        """The payload; None when no scaling along one dimension explains the change."""
        found = None if base is None else find(tensor, base)
        return None if base is None or found is None else _dump(found, base, tensor, level)

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        """The tensor's bytes."""
        if base is None:
            raise PayloadError("an ia3 update needs the value it is based on")
        predict, rest = _open(payload, spec, base.spec, residual.reading(base.bits()))
        if rest is None:
            return residual.predicted(predict, base.bits())
        return frames.fill(*rest).data.cast("B")

    def reader(self, payload: memoryview, spec: Spec, base: Spec | None, read: Read | None) -> Read:
        """How to read some of the tensor's integers."""
        if base is None or read is None:
            raise PayloadError("an ia3 update needs the value it is based on")
        predict, rest = _open(payload, spec, base, read)
        return predict if rest is None else frames.Reading(*rest)


def _open(
    payload: memoryview, spec: Spec, base: Spec, read: Read
) -> tuple[Read, tuple[frames.Frames, frames.Decode] | None]:
    """What the factors and the base's elements predict, and the residual, if there is one."""
    if base != spec or spec.dtype not in floats.KINDS:
        raise PayloadError("an ia3 update needs a base of the same float type and shape")
    flags, scaling, position = _parse(payload, spec)
    predict = _predict(scaling, read, spec)
    if flags & _NO_RESIDUAL:
        residual.finish(payload, position)
        return predict, None
    decode = residual.decoder(predict, spec.dtype if flags & _GROUPED else "")
    return predict, (frames.Frames(payload, position, spec), decode)


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """``factors`` (float64, flat) for each position along ``axes`` dimensions from ``first`` on; no
    dimensions: one factor for all.
    """

    first: int
    axes: int
    factors: np.ndarray


def encode_given(
    tensor: Tensor | None, base: Tensor, factors: np.ndarray, level: Level = "default"
) -> tuple[Tensor, Encoded]:
    """Code ``base * factors``, which broadcast against it as in numpy.

    Without ``tensor`` that product, computed as every machine computes it, is the new tensor, and
    nothing but the factors is stored. With one, it is stored as the product and a residual. Returns
    the new tensor and its payload. :class:`UsageError` when the factors do not fit or are not
    finite.
    """
    if base.dtype not in floats.KINDS:
        raise UsageError(
            f"an ia3 update needs a float tensor (f16, bf16, f32 or f64), not {base.spec}"
        )
    if tensor is not None and tensor.spec != base.spec:
        raise UsageError(f"an ia3 update cannot turn {base.spec} into {tensor.spec}")
    with np.errstate(all="ignore"):
        given = np.asarray(factors).astype(np.float64)
    if not np.isfinite(given).all():
        raise UsageError("the factors hold NaN or infinity")
    shape = (1,) * (len(base.shape) - given.ndim) + given.shape
    if len(shape) != len(base.shape) or any(
        mine not in (1, size) for mine, size in zip(shape, base.shape, strict=True)
    ):
        raise UsageError(f"factors of shape {given.shape} do not broadcast against {base.spec}")
    along = [number for number, size in enumerate(shape) if size != 1]
    first, axes = (along[0], along[-1] - along[0] + 1) if along else (0, 0)
    wide = np.broadcast_to(
        given.reshape(shape[first : first + axes]), base.shape[first : first + axes]
    )
    scaling = Scaling(first, axes, np.ascontiguousarray(wide).reshape(-1))
    if tensor is not None:
        return tensor, _dump(scaling, base, tensor, level)
    predict = _predict(scaling, residual.reading(base.bits()), base.spec)
    new = Tensor(base.dtype, base.shape, residual.predicted(predict, base.bits()))
    return new, Encoded([*_head(scaling, _NO_RESIDUAL, level)], f"channels={len(scaling.factors)}")


def find(tensor: Tensor, base: Tensor) -> Scaling | None:
    """The factors along one dimension (or the first two) that best turn ``base`` into ``tensor``;
    None when they save too little.
    """
    if (
        tensor.dtype not in floats.KINDS
        or tensor.spec != base.spec
        or len(tensor.shape) < 2
        or 0 in tensor.shape
    ):
        return None
    new, old = _sampled(tensor), _sampled(base)
    views = {choice: _channels(new.shape, *choice) for choice in _choices(tensor.shape)}
    best, least = None, float(residual.lengths(new, old).mean()) - _WORTH
    for choice in _coherent(new, old, tensor.dtype, views):
        trial = _fit(new.reshape(-1), old.reshape(-1), tensor.dtype, views[choice], *choice)
        predict = _predict(trial, residual.reading(old.reshape(-1)), Spec(tensor.dtype, new.shape))
        cost = float(residual.lengths(new, predict(0, new.size).reshape(new.shape)).mean())
        if cost < least:
            best, least = choice, cost
    if best is None:
        return None
    return _fit(tensor.bits(), base.bits(), tensor.dtype, _channels(tensor.shape, *best), *best)


def _coherent(
    new: np.ndarray, old: np.ndarray, dtype: str, views: dict[tuple[int, int], tuple[int, int, int]]
) -> Iterator[tuple[int, int]]:
    """A quick look: choices in which ratios differ from their channel's median less than half as
    much as from 1 or from one for all.
    """
    with np.errstate(all="ignore"):
        ratios = floats.widen(new.reshape(-1), dtype) / floats.widen(old.reshape(-1), dtype)
    ratios[~np.isfinite(ratios)] = 1.0
    plain = min(_spread(ratios, 1.0), _spread(ratios, np.median(ratios)))
    for choice, view in views.items():
        shaped = ratios.reshape(view).transpose(1, 0, 2).reshape(view[1], -1)
        if _spread(shaped, np.median(shaped, axis=1, keepdims=True)) < 0.5 * plain:
            yield choice


def _spread(ratios: np.ndarray, middle: np.ndarray | float) -> float:
    return float(np.minimum(np.abs(ratios - middle), 1.0).mean())


def _choices(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Dimensions to try, where the channels are few beside the elements."""
    last = len(shape) - 1
    choices = [(0, 1), (last, 1)] + ([(1, 1), (0, 2)] if len(shape) > 2 else [])
    unique = list(dict.fromkeys(choices))
    return [choice for choice in unique if _channels(shape, *choice)[1] * 8 <= math.prod(shape)]


def _channels(shape: tuple[int, ...], first: int, axes: int) -> tuple[int, int, int]:
    """Numbers of positions before, along and behind the channels' dimensions."""
    return (
        math.prod(shape[:first]),
        math.prod(shape[first : first + axes]),
        math.prod(shape[first + axes :]),
    )


def _sampled(tensor: Tensor) -> np.ndarray:
    """A grid of at most about 1000 elements, as bits, in the tensor's number of dimensions."""
    side = max(3, round(1000 ** (1 / len(tensor.shape))))
    grid = np.ix_(
        *(
            np.unique(np.linspace(0, size - 1, min(size, side)).astype(np.int64))
            for size in tensor.shape
        )
    )
    return np.ascontiguousarray(tensor.bits().reshape(tensor.shape)[grid])


def _fit(
    target: np.ndarray,
    base: np.ndarray,
    dtype: str,
    view: tuple[int, int, int],
    first: int,
    axes: int,
) -> Scaling:
    """A factor for each channel.

    Each element allows those factors whose product rounds to it: an interval. Where the intervals
    of a channel meet, its elements are exact products, and the shortest number in there (bf16, f32,
    f64) is the factor; elsewhere it is that of least squares.
    """
    channels = view[1]
    low, high = np.full(channels, -np.inf), np.full(channels, np.inf)
    products, squares, zeroed = np.zeros(channels), np.zeros(channels), np.zeros(channels, bool)
    new, old = target.reshape(view), base.reshape(view)
    for part in _blocks(view):
        mine = part[1]
        with np.errstate(all="ignore"):
            values, before = (
                floats.widen(bits[part].reshape(-1), dtype).reshape(bits[part].shape)
                for bits in (new, old)
            )
            usable = np.isfinite(values) & np.isfinite(before) & (before != 0)
            zeroed[mine] |= (usable & (values == 0)).any(axis=(0, 2))
            usable &= values != 0
            half = np.ldexp(1.0 + 2.0**-20, np.frexp(values)[1] - 1 - _HALF_STEP[dtype])
            if dtype == "f16":
                half = np.maximum(half, 2.0**-25)  # of its denormals, which are worth keeping
            value, size = np.where(before < 0, -values, values), np.abs(before)
            np.maximum(
                low[mine],
                np.where(usable, (value - half) / size, -np.inf).max(axis=(0, 2)),
                out=low[mine],
            )
            np.minimum(
                high[mine],
                np.where(usable, (value + half) / size, np.inf).min(axis=(0, 2)),
                out=high[mine],
            )
            values, before = np.where(usable, values, 0.0), np.where(usable, before, 0.0)
            products[mine] += (values * before).sum(axis=(0, 2))
            squares[mine] += (before * before).sum(axis=(0, 2))
    return Scaling(first, axes, _settle(low, high, products, squares, zeroed))


def _blocks(view: tuple[int, int, int]) -> Iterator[tuple[slice, slice, slice]]:
    """The array in blocks of at most about 512 Ki elements, in a fixed order."""
    behind = min(view[2], 1 << 19)
    along = max(1, min(view[1], (1 << 19) // behind))
    before = max(1, (1 << 19) // (behind * along))
    for i in range(0, view[0], before):
        for j in range(0, view[1], along):
            for k in range(0, view[2], behind):
                yield slice(i, i + before), slice(j, j + along), slice(k, k + behind)


def _settle(
    low: np.ndarray, high: np.ndarray, products: np.ndarray, squares: np.ndarray, zeroed: np.ndarray
) -> np.ndarray:
    with np.errstate(all="ignore"):
        slopes = np.where(
            squares > 0, products / np.where(squares > 0, squares, 1.0), np.where(zeroed, 0.0, 1.0)
        )
        slopes = np.where(np.isfinite(slopes), slopes, 1.0).astype(np.float32).astype(np.float64)
        meet = (low <= high) & np.isfinite(low) & np.isfinite(high)
        middle = np.where(meet, low + (high - low) / 2, 1.0)
        factors = np.where(meet, middle, slopes)
        for dtype in ("f32", "bf16"):
            shorter = floats.widen(floats.narrow(middle, dtype), dtype)
            factors = np.where(meet & (low <= shorter) & (shorter <= high), shorter, factors)
        factors = np.where(meet & (low <= 1.0) & (high >= 1.0), 1.0, factors)
    return np.where(np.isfinite(factors), factors, 1.0)


def _predict(scaling: Scaling, base: Read, spec: Spec) -> Read:
    _, channels, behind = _channels(spec.shape, scaling.first, scaling.axes)

    def read(start: int, stop: int) -> np.ndarray:
        before = base(start, stop)
        groups = np.arange(start // behind, (stop - 1) // behind + 1)
        factors = scaling.factors[groups % channels]
        if behind > 1:
            lengths = np.minimum((groups + 1) * behind, stop) - np.maximum(groups * behind, start)
            factors = np.repeat(factors, lengths)
        with np.errstate(all="ignore"):
            values = floats.widen(before, spec.dtype) * factors
        return floats.settle(values, before, factors == 1, spec.dtype)

    return read


def _head(scaling: Scaling, flags: int, level: Level) -> Iterator[Buffer]:
    with np.errstate(over="ignore", under="ignore"):
        short = scaling.factors.astype(np.float32)
    exact = bool((short.astype(np.float64) == scaling.factors).all())
    yield (
        bytes([flags | (0 if exact else _DOUBLE)])
        + varint.dump(scaling.first)
        + varint.dump(scaling.axes)
    )
    yield from planes.encode(
        short.view(np.uint32) if exact else scaling.factors.view(np.uint64), level
    )


def _dump(scaling: Scaling, base: Tensor, tensor: Tensor, level: Level) -> Encoded:
    bits = tensor.bits()
    group = tensor.dtype if level == "best" else ""
    predict = _predict(scaling, residual.reading(base.bits()), base.spec)
    rest = residual.coded(tensor.spec, residual.reading(bits), predict, level, group)
    return Encoded(
        [*_head(scaling, _GROUPED * bool(group), level), *rest], f"channels={len(scaling.factors)}"
    )


def _parse(payload: memoryview, spec: Spec) -> tuple[int, Scaling, int]:
    if not len(payload) or payload[0] & ~_DOUBLE > 2:
        raise PayloadError("this is not an ia3 update, or one that a newer Git-Theta wrote")
    flags = payload[0]
    first, position = varint.parse(payload, 1)
    axes, position = varint.parse(payload, position)
    if first + axes > len(spec.shape) or dtypes.count(spec.shape) == 0:
        raise PayloadError(f"channels along {axes} dimensions from {first} on do not fit {spec}")
    channels = _channels(spec.shape, first, axes)[1]
    bits, position = residual.take(payload, position, channels, 8 if flags & _DOUBLE else 4)
    with np.errstate(invalid="ignore"):
        factors = bits.view(np.float64 if flags & _DOUBLE else np.float32).astype(np.float64)
    if not np.isfinite(factors).all():
        raise PayloadError("an ia3 update holds a factor that is not finite")
    return flags, Scaling(first, axes, factors), position
