"""frames: how the payload of a large tensor is cut, so that some of its rows can be decoded alone.

A tensor of more than 1 MiB is coded in frames: runs of consecutive integers, each coded without
regard to any other, of at most 1 MiB and of whole rows where these are not larger. Their lengths
stand behind them, since a tensor is written to the store while it is coded. A payload is then

what is common to all frames | the frames | the table: integers in a frame (varint), integers in the
first (varint), the length of each frame (u32) | the table's length (u32).

Nothing here needs numpy until integers are decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from git_theta.core import dtypes, varint
from git_theta.errors import PayloadError
from git_theta.updates import planes

if TYPE_CHECKING:
    import numpy as np

    from git_theta.core.tensors import Buffer, Spec

LIMIT = 1 << 20
"""Bytes: of the largest frame, and of the largest tensor that is not cut."""
_LENGTH = struct.Struct("<I")

Code = Callable[[int, int], "Iterable[Buffer]"]
"""The chunks that hold the integers from one number to before another."""


def size(spec: Spec) -> int:
    """Integers in each frame of a tensor of ``spec``; 0 where it is not cut."""
    if spec.nbytes <= LIMIT:
        return 0
    count, most = _count(spec), LIMIT // dtypes.get(spec.dtype).width
    row = count // spec.shape[0] if count % spec.shape[0] == 0 else 0
    return most // row * row if 0 < row <= most else most


def step(spec: Spec) -> int:
    """Bytes at whose multiples a tensor of ``spec`` may be cut to be coded piece by piece."""
    return size(spec) * dtypes.get(spec.dtype).width or LIMIT


class Table:
    """The lengths of the frames of a tensor of ``spec``, as they are written."""

    def __init__(self, spec: Spec) -> None:
        self._size = size(spec)
        self._lengths: list[int] = []

    def frame(self, chunks: Iterable[Buffer]) -> Iterator[Buffer]:
        """The same chunks, which make one frame."""
        length = 0
        for chunk in chunks:
            length += memoryview(chunk).nbytes
            yield chunk
        self._lengths.append(length)

    def dump(self) -> bytes:
        """What stands behind the frames; nothing where the tensor is not cut."""
        if not self._size:
            return b""
        sizes = varint.dump(self._size) * 2
        table = sizes + struct.pack(f"<{len(self._lengths)}I", *self._lengths)
        return table + _LENGTH.pack(len(table))


def coded(spec: Spec, code: Code) -> Iterator[Buffer]:
    """The chunks of all frames of a tensor of ``spec``, and of the table behind them."""
    table, count = Table(spec), _count(spec)
    frame = size(spec) or max(1, count)
    for start in range(0, count, frame):
        yield from table.frame(code(start, min(start + frame, count)))
    yield table.dump()


class Frame(NamedTuple):
    """The integers from ``start`` to before ``stop``, coded in ``body``."""

    start: int
    stop: int
    body: memoryview


class Frames:
    """The frames of a tensor of ``spec`` that begin at ``position`` of ``payload``; a tensor that
    is not cut is one frame.

    :class:`PayloadError` where the table does not fit tensor or payload, or where a frame is too
    short for its planes (``hollow`` frames need not have any). Memory is taken for no more frames
    than the payload has room for.
    """

    def __init__(
        self, payload: memoryview, position: int, spec: Spec, hollow: bool = False
    ) -> None:
        self.count, self.width = _count(spec), dtypes.get(spec.dtype).width
        self.cut = bool(size(spec))
        self._payload = payload
        self._first = self._size = max(1, self.count)
        lengths: tuple[int, ...] = (len(payload) - position,)
        if self.cut:
            self._size, self._first, lengths = self._parse(payload, position)
        self._offsets = [*accumulate(lengths, initial=position)]
        if not self.count:
            planes.finish(payload, position)
        if not hollow:
            for frame in self:
                self._check(frame)

    def _parse(self, payload: memoryview, position: int) -> tuple[int, int, tuple[int, ...]]:
        end = len(payload) - _LENGTH.size
        start = end - _LENGTH.unpack_from(payload, end)[0] if end >= position else -1
        if start < position:
            raise PayloadError("the payload ends without a table of its frames")
        table = payload[start:end]
        most, at = varint.parse(table, 0)
        first, at = varint.parse(table, at)
        if not 0 < first <= most <= LIMIT // self.width:
            raise PayloadError(f"frames of {most} values, the first of {first}, cannot be")
        number = 1 + max(0, -(-(self.count - first) // most))
        if len(table) - at != number * _LENGTH.size:
            raise PayloadError(f"the payload's table does not have {number} frames")
        lengths = struct.unpack_from(f"<{number}I", table, at)
        if sum(lengths) != start - position:
            raise PayloadError("the payload's frames are not as long as its table says")
        return most, first, lengths

    def _check(self, frame: Frame) -> None:
        blocks = -(-(frame.stop - frame.start) // planes.BLOCK)
        if blocks * self.width * (_LENGTH.size + 1) > len(frame.body):
            count = frame.stop - frame.start
            raise PayloadError(f"the payload is too small to hold {count} values")

    def between(self, start: int, stop: int) -> Iterator[Frame]:
        """The frames that hold any of the integers from ``start`` to before ``stop``."""
        number = 0 if start < self._first else 1 + (start - self._first) // self._size
        while start < stop:
            begin = number and self._first + (number - 1) * self._size
            end = min(self._first + number * self._size, self.count)
            body = self._payload[self._offsets[number] : self._offsets[number + 1]]
            yield Frame(begin, end, body)
            start, number = end, number + 1

    def __iter__(self) -> Iterator[Frame]:
        return self.between(0, self.count)


Decode = Callable[[Frame, "np.ndarray"], None]
"""Fill an array with the integers of a frame."""


def fill(frames: Frames, decode: Decode) -> np.ndarray:
    """All integers, decoded frame by frame."""
    import numpy as np

    out = np.empty(frames.count, dtype=np.dtype(f"<u{frames.width}"))
    for frame in frames:
        decode(frame, out[frame.start : frame.stop])
    return out


class Reading:
    """Reads stretches of the integers in ``frames`` as they are asked for, by decoding the frames
    that hold them; the last one is kept, so that reading in order decodes each but once.

    What a call gives is valid until the next, and is not to be written to.
    """

    def __init__(self, frames: Frames, decode: Decode) -> None:
        self._frames = frames
        self._decode = decode
        self._kept: tuple[int, np.ndarray] | None = None

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """The integers from ``start`` to before ``stop``."""
        import numpy as np

        pieces = [
            self._whole(frame)[max(0, start - frame.start) : stop - frame.start]
            for frame in self._frames.between(start, stop)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([np.empty(0, f"<u{self._frames.width}"), *pieces])

    def _whole(self, frame: Frame) -> np.ndarray:
        import numpy as np

        if self._kept is None or self._kept[0] != frame.start:
            out = np.empty(frame.stop - frame.start, f"<u{self._frames.width}")
            self._decode(frame, out)
            self._kept = frame.start, out
        return self._kept[1]


def _count(spec: Spec) -> int:
    return spec.nbytes // dtypes.get(spec.dtype).width
