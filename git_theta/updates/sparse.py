"""sparse: where elements changed, and by how much. The smallest when few of them did.

Each frame (see :mod:`git_theta.updates.frames`) stands for itself. Positions are stored in
whichever of two ways is smaller: the gaps between them, as byte planes of 16-bit (or, for a gap
beyond that, 32-bit) integers, or one bit an element through zstd. The changed elements follow as a
residual against the base's elements in the same places.

A frame: form byte (0 gaps of 16 bits, 1 gaps of 32 bits, 2 bits) | number of changes (varint) |
length of the positions (varint) | positions | residual. A frame of a larger tensor in which nothing
changed is empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from git_theta.core import dtypes, varint
from git_theta.core.contracts import Change, Level, Read
from git_theta.core.tensors import Buffer, Encoded, Spec, Tensor
from git_theta.errors import PayloadError, UsageError
from git_theta.updates import floats, frames, planes
from git_theta.updates.prediction import delta_plan, residual

_BITS = 2
_MOST = 0.25  # of the elements; above that it never pays
# Places in each of the stretches that tell which form is smaller, and the number of these
_STRETCH, _STRETCHES = 1 << 11, 16
_LIMIT = 1 << 24  # changes; so that their positions stay within 128 MiB


class Sparse:
    """Stores the elements that changed."""

    name = "sparse"
    needs_base = True
    meant_for: Change = "few"
    exact_by_construction = True  # differences of integers
    parts: tuple[str, ...] = ("data", "indices", "indptr", "shape")

    def from_parts(
        self, base: Tensor, parts: Mapping[str, np.ndarray]
    ) -> tuple[Tensor, Encoded | None]:
        """``base`` + the matrix in compressed rows; see :func:`encode_given`."""
        if parts["shape"].dtype.kind not in "iu":
            raise UsageError("the shape of a sparse update consists of integers")
        shape = parts["shape"].reshape(-1).tolist()
        return encode_given(base, parts["data"], parts["indices"], parts["indptr"], shape)

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        """The payload; None unless the base has the same type and as many elements, of which at
        most a quarter (and 16 Mi) changed.
        """
        if base is None or base.dtype != tensor.dtype or base.spec.nbytes != tensor.spec.nbytes:
            return None
        changes = _changes(tensor.bits(), base.bits(), min(_LIMIT, int(_MOST * len(tensor.bits()))))
        return None if changes is None else _dump(changes, tensor.spec, level)

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        """The tensor's bytes."""
        if base is None:
            raise PayloadError("a sparse update needs a base of the same type and size")
        out = frames.fill(*_open(payload, spec, base.spec, residual.reading(base.bits())))
        return out.data.cast("B")

    def reader(self, payload: memoryview, spec: Spec, base: Spec | None, read: Read | None) -> Read:
        """How to read some of the tensor's integers."""
        if base is None or read is None:
            raise PayloadError("a sparse update needs a base of the same type and size")
        return frames.Reading(*_open(payload, spec, base, read))


def _open(
    payload: memoryview, spec: Spec, base: Spec, read: Read
) -> tuple[frames.Frames, frames.Decode]:
    if base.dtype != spec.dtype or base.nbytes != spec.nbytes:
        raise PayloadError("a sparse update needs a base of the same type and size")
    found = frames.Frames(payload, 0, spec, hollow=True)

    def decode(frame: frames.Frame, out: np.ndarray) -> None:
        out[:] = read(frame.start, frame.stop)
        if len(frame.body) or not found.cut:
            _change(frame.body, out)

    return found, decode


def estimate(tensor: Tensor, base: Tensor, count: int) -> float:
    """About how many bytes the update takes, judged by about ``count`` elements.

    Type and size must be the same.
    """
    target, source = delta_plan.sample(tensor.bits(), count), delta_plan.sample(base.bits(), count)
    changes = _changes(target, source, len(target))
    assert changes is not None
    chunks = _dump_frame(changes, len(target), "default")
    return _size(list(chunks)) * len(tensor.bits()) / len(target)


def encode_given(
    base: Tensor,
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    shape: Sequence[int] | np.ndarray,
    level: Level = "default",
) -> tuple[Tensor, Encoded]:
    """Code ``base`` plus a sparse matrix in compressed rows (as scipy's ``csr_matrix``) of as many
    elements, taken in C order.

    With two row pointers it is a single row of all elements, whatever ``shape`` says: Git-Theta 0.2
    wrote the flattened tensor, and the tensor's own shape beside it.

    Sums are taken in float64 and rounded once; those of integer types wrap around. Returns the new
    tensor and its payload. :class:`UsageError` when the matrix is malformed, does not fit, or holds
    NaN or infinity.
    """
    places = _flat_places(indices, indptr, shape, dtypes.count(base.shape))
    values = np.asarray(data).reshape(-1)
    if len(values) != len(places):
        raise UsageError(f"a sparse update lists {len(values)} values for {len(places)} places")
    if base.dtype in floats.KINDS:
        with np.errstate(all="ignore"):
            wide = values.astype(np.float64)
        if not np.isfinite(wide).all():
            raise UsageError("a sparse update holds NaN or infinity")
        before = base.bits()[places]
        with np.errstate(all="ignore"):
            after = floats.settle(
                floats.widen(before, base.dtype) + wide, before, wide == 0, base.dtype
            )
    elif dtypes.get(base.dtype).kind in "iu" and values.dtype.kind in "iu":
        after = base.bits()[places] + values.astype(base.bits().dtype)
    else:
        raise UsageError(f"a sparse update of {values.dtype} cannot be added to {base.spec}")
    bits = base.bits().copy()
    bits[places] = after
    new = Tensor(base.dtype, base.shape, bits.data.cast("B") if len(bits) else b"")
    changes = _changes(bits, base.bits(), len(bits))
    assert changes is not None
    return new, _dump(changes, base.spec, level)


def _flat_places(
    indices: np.ndarray, indptr: np.ndarray, shape: Sequence[int] | np.ndarray, count: int
) -> np.ndarray:
    columns, ends = np.asarray(indices).reshape(-1), np.asarray(indptr).reshape(-1)
    size = [int(n) for n in np.asarray(shape).reshape(-1)]
    if len(ends) == 2 and min(size, default=0) >= 0 and math.prod(size) == count:
        size = [1, count]
    if len(size) != 2 or min(size) < 0 or size[0] * size[1] != count:
        raise UsageError(
            f"a sparse update of shape {tuple(size)} does not fit a tensor of {count} elements"
        )
    if columns.dtype.kind not in "iu" or ends.dtype.kind not in "iu" or len(ends) != size[0] + 1:
        raise UsageError(
            f"a sparse update of {size[0]} rows needs integer indices and {size[0] + 1} row"
            " pointers"
        )
    columns, ends = columns.astype(np.int64), ends.astype(np.int64)
    if int(ends[0]) != 0 or int(ends[-1]) != len(columns) or (np.diff(ends) < 0).any():
        raise UsageError(
            "a sparse update's row pointers do not rise from 0 to the number of its values"
        )
    if len(columns) and (int(columns.min()) < 0 or int(columns.max()) >= size[1]):
        raise UsageError(f"a sparse update's index lies outside its {size[1]} columns")
    places = np.repeat(np.arange(size[0]), np.diff(ends)) * size[1] + columns
    if len(np.unique(places)) != len(places):
        raise UsageError("a sparse update lists an element twice")
    return np.asarray(places)


class _Changes(NamedTuple):
    """Where two arrays differ (rising, ``uint32`` if they fit), and the elements of both there."""

    places: np.ndarray
    target: np.ndarray
    source: np.ndarray


def _changes(target: np.ndarray, source: np.ndarray, limit: int) -> _Changes | None:
    """Where the two differ, and how; None in more than ``limit`` places.

    Elements are taken while their block is in the cache.
    """
    place_type = np.uint32 if len(target) < 1 << 32 else np.int64
    places, ours, theirs, count = [np.empty(0, place_type)], [target[:0]], [source[:0]], 0
    differ = np.empty(min(planes.BLOCK, len(target)), bool)
    for start in range(0, len(target), planes.BLOCK):
        block, other = target[start : start + planes.BLOCK], source[start : start + planes.BLOCK]
        found = np.flatnonzero(np.not_equal(block, other, out=differ[: len(block)]))
        count += len(found)
        if count > limit:
            return None
        ours.append(block[found])
        theirs.append(other[found])
        places.append(np.add(found, start, dtype=np.int64).astype(place_type))
    return _Changes(np.concatenate(places), np.concatenate(ours), np.concatenate(theirs))


def _dump(changes: _Changes, spec: Spec, level: Level) -> Encoded:
    places = changes.places

    def code(start: int, stop: int) -> Iterable[Buffer]:
        low, high = np.searchsorted(places, np.array([start, stop], places.dtype))
        if low == high and frames.size(spec):
            return ()
        own = (places[low:high] - places.dtype.type(start)).astype(np.uint32)
        part = _Changes(own, changes.target[low:high], changes.source[low:high])
        return _dump_frame(part, stop - start, level)

    return Encoded(list(frames.coded(spec, code)), f"changed={len(places)}")


def _dump_frame(changes: _Changes, count: int, level: Level) -> Iterator[Buffer]:
    form, position_chunks = _dump_places(changes.places, count, level)
    length = _size(position_chunks)
    yield bytes([form]) + varint.dump(len(changes.places)) + varint.dump(length)
    yield from position_chunks
    target, source = residual.reading(changes.target), residual.reading(changes.source)
    yield from residual.encode(target, source, len(changes.places), level)


def _dump_places(places: np.ndarray, count: int, level: Level) -> tuple[int, Sequence[Buffer]]:
    if len(places) * 64 <= count:
        return _dump_gaps(places, level)
    if len(places) <= _STRETCHES * _STRETCH or _bits_are_smaller(places, level):
        bits = planes.shrink(_marks(places, count).data, level)
        if len(places) > _STRETCHES * _STRETCH:
            return _BITS, [bits]
        form, gaps = _dump_gaps(places, level)
        return (_BITS, [bits]) if len(bits) < _size(gaps) else (form, gaps)
    return _dump_gaps(places, level)


def _dump_gaps(places: np.ndarray, level: Level) -> tuple[int, Sequence[Buffer]]:
    gaps = np.empty_like(places)
    gaps[:1] = places[:1]
    np.subtract(places[1:], places[:-1], out=gaps[1:])
    gaps[1:] -= 1
    form = 1 if len(gaps) and int(gaps.max()) > 0xFFFF else 0
    return form, list(
        planes.encode(gaps.astype(np.uint32 if form else np.uint16, copy=False), level)
    )


def _bits_are_smaller(places: np.ndarray, level: Level) -> bool:
    """Judged by some stretches spread over ``places``, which are more than these hold together."""
    step, sizes = (len(places) - _STRETCH) // (_STRETCHES - 1), [0, 0]
    for number in range(_STRETCHES):
        part = places[number * step : number * step + _STRETCH]
        part = part - part[0]
        sizes[0] += _size(_dump_gaps(part, level)[1])
        sizes[1] += len(planes.shrink(_marks(part, int(part[-1]) + 1).data, level))
    return sizes[1] < sizes[0]


def _size(chunks: Sequence[Buffer]) -> int:
    return sum(memoryview(chunk).nbytes for chunk in chunks)


def _marks(places: np.ndarray, count: int) -> np.ndarray:
    starts = range(0, count, planes.BLOCK)
    marks, edges = (
        np.empty(-(-count // 8), np.uint8),
        np.searchsorted(places, np.array([*starts, count], places.dtype)),
    )
    for number, start in enumerate(starts):
        block = np.zeros(min(planes.BLOCK, count - start), bool)
        block[places[edges[number] : edges[number + 1]] - start] = True
        packed = np.packbits(block, bitorder="little")
        marks[start // 8 : start // 8 + len(packed)] = packed
    return marks


def _unmark(marks: np.ndarray, count: int) -> np.ndarray:
    found = [np.empty(0, np.int64)]
    for start in range(0, count, planes.BLOCK):
        block = marks[start // 8 : (start + planes.BLOCK) // 8]
        found.append(
            np.flatnonzero(
                np.unpackbits(block, count=min(planes.BLOCK, count - start), bitorder="little")
            )
            + start
        )
    return np.concatenate(found)


def _change(body: memoryview, out: np.ndarray) -> None:
    """Turn the base's elements in ``out`` into those of the frame with that ``body``."""
    form, changed, length, position = _parse_head(body, len(out))
    places = _parse_places(body[position : position + length], form, changed, len(out))
    position += length
    values = residual.allocate(body, position, changed, out.itemsize)
    predict = residual.reading(out[places])
    residual.finish(body, residual.decode(body, position, values, predict))
    out[places] = values


def _parse_head(payload: memoryview, count: int) -> tuple[int, int, int, int]:
    if not len(payload) or payload[0] > _BITS:
        raise PayloadError("this is not a sparse update, or one that a newer Git-Theta wrote")
    changed, position = varint.parse(payload, 1)
    length, position = varint.parse(payload, position)
    if changed > count or length > len(payload) - position:
        raise PayloadError(f"{changed} changes in {length} bytes do not fit the update")
    return payload[0], changed, length, position


def _parse_places(data: memoryview, form: int, changed: int, count: int) -> np.ndarray:
    if form == _BITS:
        packed = np.frombuffer(planes.expand(data, -(-count // 8)), np.uint8)
        places = _unmark(packed, count)
    else:
        gaps = planes.decode(data, changed, 4 if form else 2)
        if changed and int(gaps.max()) >= count:
            raise PayloadError("a changed element lies outside the tensor")
        places = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if len(places) != changed or (
        changed and (int(places.max()) >= count or int(places.min()) < 0)
    ):
        raise PayloadError("the changed elements' places do not fit the tensor")
    return places
