from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core import dtypes
from git_theta.core.tensors import Spec, Tensor
from git_theta.errors import FormatError

ARRAYS = [name for name in dtypes.names() if dtypes.get(name).numpy]


@given(st.sampled_from(ARRAYS), st.lists(st.integers(0, 5), max_size=3), st.data())
def test_arrays_come_back(name: str, shape: list[int], data: st.DataObject) -> None:
    dtype = dtypes.numpy_dtype(name)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = data.draw(st.binary(min_size=count, max_size=count)) if name != "bool" else bytes(count)
    array = np.frombuffer(raw, dtype).reshape(shape)
    tensor = Tensor.from_array(array)
    assert (tensor.dtype, tensor.shape) == (name, tuple(shape))
    assert bytes(tensor.data) == raw
    assert tensor.array().shape == tuple(shape)
    assert tensor.array().tobytes() == raw
    assert tensor.bits().tobytes() == raw
    assert tensor.bits().itemsize == dtypes.get(name).width


def test_any_memory_order_and_byte_order_will_do() -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4)
    expected = np.arange(12, dtype="<i4").reshape(3, 4)
    assert bytes(Tensor.from_array(array).data) == expected.tobytes()
    assert bytes(Tensor.from_array(np.asfortranarray(expected)).data) == expected.tobytes()
    assert bytes(Tensor.from_array(expected[::2, ::-1]).data) == expected[::2, ::-1].tobytes()
    assert bytes(Tensor.from_array(np.array(7, np.int16)).data) == b"\7\0"


def test_negative_zero_and_payloads_of_nan_are_kept() -> None:
    for dtype, bits in (
        (np.float32, np.uint32),
        (np.float16, np.uint16),
        (ml_dtypes.bfloat16, np.uint16),
    ):
        top = 8 * np.dtype(bits).itemsize
        raw = np.array([1 << (top - 1), (1 << top) - 1, (1 << top) - 2, 1], dtype=bits)
        assert bytes(Tensor.from_array(raw.view(dtype)).data) == raw.tobytes()


def test_types_without_arrays() -> None:
    tensor = Tensor("q4_0", (64,), bytes(range(36)))
    assert tensor.bits().tobytes() == bytes(range(36))
    assert tensor.bits().dtype == np.uint8
    with pytest.raises(FormatError, match="q4_0"):
        tensor.array()


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_bytes_and_shape_must_agree(size: int) -> None:
    with pytest.raises(FormatError, match=rf"f32\[2\] needs 8 bytes, not {size}"):
        Tensor("f32", (2,), bytes(size))


def test_any_buffer_counts_by_its_bytes() -> None:
    Tensor("f32", (2,), memoryview(bytearray(8)).cast("Q"))
    assert Spec("f32", (2, 3)).nbytes == 24
    assert str(Spec("bf16", ())) == "bf16[]"
