"""dense: the tensor itself, as byte planes. Needs no base, so every chain ends with one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from git_theta.core import dtypes
from git_theta.core.tensors import Buffer, Encoded, Spec, Tensor
from git_theta.updates import frames, planes

if TYPE_CHECKING:
    import numpy as np

    from git_theta.core.contracts import Level, Read
    from git_theta.core.resources.memory import Take


class Dense:
    """Stores a tensor without reference to any other."""

    name = "dense"
    needs_base = False
    exact_by_construction = True  # the planes are cut and joined, nothing is computed

    # Part of the contract
    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded:
        """The planes of ``tensor``; never None."""
        return Encoded(list(chunks(tensor.spec, [memoryview(tensor.data).cast("B")], level)))

    # Part of the contract
    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        """The tensor's bytes."""
        if not frames.size(spec):
            width = dtypes.get(spec.dtype).width
            return planes.decode_bytes(payload, spec.nbytes // width, width)
        return frames.fill(frames.Frames(payload, 0, spec), _decode).data.cast("B")

    # Part of the contract
    def reader(self, payload: memoryview, spec: Spec, base: Spec | None, read: Read | None) -> Read:
        """How to read some of the tensor's integers."""
        return frames.Reading(frames.Frames(payload, 0, spec), _decode)


def decode_into(payload: memoryview, spec: Spec, take: Take) -> memoryview:
    """A tensor's bytes, decoded into the memory that ``take`` gives for their number once the
    payload may hold as many.
    """
    import numpy as np

    found = frames.Frames(payload, 0, spec)
    memory = take(spec.nbytes)
    out = np.frombuffer(memory, dtype=np.dtype(f"<u{found.width}"))
    for frame in found:
        _decode(frame, out[frame.start : frame.stop])
    return memory


def blocks(payload: memoryview, spec: Spec) -> Iterator[memoryview]:
    """A tensor's bytes, decoded block by block: each is valid until the next is asked for."""
    import numpy as np

    out = None
    for frame in frames.Frames(payload, 0, spec):
        count = frame.stop - frame.start
        if out is None or len(out) < count:
            out = np.empty(count, dtype=np.dtype(f"<u{dtypes.get(spec.dtype).width}"))
        for block in planes.filling(frame.body, out[:count]):
            yield block.data.cast("B")


def chunks(spec: Spec, pieces: Iterable[memoryview], level: Level) -> Iterator[Buffer]:
    """The payload of a tensor whose bytes are ``pieces``, one behind the other; each but the last
    is a multiple of :func:`frames.step` long.
    """
    width = dtypes.get(spec.dtype).width
    if not frames.size(spec):
        for piece in pieces:
            yield from planes.encode_bytes(piece, width, level)
        return
    table, step = frames.Table(spec), frames.step(spec)
    for piece in pieces:
        for start in range(0, len(piece), step):
            yield from table.frame(planes.encode_bytes(piece[start : start + step], width, level))
    yield table.dump()


def _decode(frame: frames.Frame, out: np.ndarray) -> None:
    planes.fill(frame.body, out)
