"""Tensors and pairs of them for the tests of updates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from git_theta.core import dtypes
from git_theta.core.contracts import Encoded, Level, Update
from git_theta.core.tensors import Tensor

FLOATS = ("f16", "bf16", "f32", "f64")


def payload(encoded: Encoded | None) -> memoryview:
    assert encoded is not None
    return memoryview(b"".join(bytes(chunk) for chunk in encoded.chunks))


def round_trip(
    update: Update, tensor: Tensor, base: Tensor | None, level: Level = "default"
) -> Encoded:
    """Encode, check that decoding gives the same bytes, and return the payload."""
    encoded = update.encode(tensor, base, level)
    assert encoded is not None
    decoded = update.decode(payload(encoded), tensor.spec, base)
    assert bytes(memoryview(decoded).cast("B")) == bytes(tensor.data)
    return encoded


def random_tensor(dtype: str, shape: Sequence[int], seed: int) -> Tensor:
    """Random bit patterns."""
    size = dtypes.nbytes(dtype, shape)
    return Tensor(
        dtype,
        tuple(shape),
        np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes(),
    )


def weights(shape: Sequence[int], seed: int = 0, scale: float = 0.05) -> np.ndarray:
    """Values as in a trained layer, float32."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def tensor(array: np.ndarray, dtype: str = "f32") -> Tensor:
    return Tensor.from_array(array.astype(dtypes.numpy_dtype(dtype)))


@st.composite
def pairs(draw: st.DrawFn, names: Sequence[str] = dtypes.names()) -> tuple[Tensor, Tensor]:
    """Two tensors of one type and shape: random bits, equal except for some bytes."""
    name = draw(st.sampled_from(names))
    block = dtypes.get(name).block_elements
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    shape = (*shape[:-1], shape[-1] * block) if shape else (block,)
    size = dtypes.nbytes(name, shape)
    data = draw(st.binary(min_size=size, max_size=size))
    other = bytearray(data)
    for place in draw(st.lists(st.integers(0, size - 1), max_size=6)) if size else ():
        other[place] = draw(st.integers(0, 255))
    return Tensor(name, shape, data), Tensor(name, shape, bytes(other))
