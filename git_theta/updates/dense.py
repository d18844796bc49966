"""dense: the tensor itself, as byte planes. Needs no base, so every chain ends with one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from git_theta.core import dtypes
from git_theta.core.tensors import Buffer, Encoded, Spec, Tensor
from git_theta.updates import planes

if TYPE_CHECKING:
    from git_theta.core.contracts import Level
    from git_theta.core.resources.memory import Take


class Dense:
    """Stores a tensor without reference to any other."""

    name = "dense"
    needs_base = False
    exact_by_construction = True  # the planes are cut and joined, nothing is computed

    # Part of the contract
    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded:
        """The planes of ``tensor``; never None."""
        return Encoded(list(chunks(tensor.dtype, memoryview(tensor.data).cast("B"), level)))

    # Part of the contract
    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        """The tensor's bytes."""
        width = dtypes.get(spec.dtype).width
        return planes.decode_bytes(payload, spec.nbytes // width, width)


def decode_into(payload: memoryview, spec: Spec, take: Take) -> memoryview:
    """A tensor's bytes, decoded into the memory that ``take`` gives for their number once the
    payload may hold as many.
    """
    width = dtypes.get(spec.dtype).width
    return planes.decode_into(payload, spec.nbytes // width, width, take)


def blocks(payload: memoryview, spec: Spec) -> Iterator[memoryview]:
    """A tensor's bytes, decoded block by block: each is valid until the next is asked for."""
    width = dtypes.get(spec.dtype).width
    return planes.blocks(payload, spec.nbytes // width, width)


def chunks(dtype: str, data: memoryview, level: Level) -> Iterator[Buffer]:
    """The payload of a tensor's bytes, piece by piece.

    ``data`` may also be a stretch of a larger tensor that starts at a multiple of
    :data:`planes.BLOCK` elements: the payloads of the stretches, one behind the other, are the
    payload of the whole.
    """
    return planes.encode_bytes(data, dtypes.get(dtype).width, level)
