from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.core import dtypes
from git_theta.errors import FormatError

ALL = dtypes.names()
ARRAYS = [name for name in ALL if dtypes.get(name).numpy]


@pytest.mark.parametrize("name", ALL)
def test_every_type_is_complete(name: str) -> None:
    known = dtypes.get(name)
    assert known.name == name
    assert known.kind in "biufcq"
    assert known.width in (1, 2, 4, 8)
    assert known.block_bytes % known.width == 0
    assert dtypes.nbytes(name, [3 * known.block_elements]) == 3 * known.block_bytes
    assert dtypes.nbytes(name, [0]) == 0
    assert name == name.lower()
    assert name.isascii()


@pytest.mark.parametrize("name", ARRAYS)
def test_array_types(name: str) -> None:
    array_type = dtypes.numpy_dtype(name)
    assert dtypes.from_numpy(array_type) == name
    assert array_type.itemsize == dtypes.get(name).block_bytes
    assert array_type.byteorder in "<|="
    assert dtypes.from_numpy(array_type.newbyteorder(">")) == name


@pytest.mark.parametrize("name", sorted(set(ALL) - set(ARRAYS)))
def test_types_without_arrays(name: str) -> None:
    with pytest.raises(FormatError, match=name):
        dtypes.numpy_dtype(name)


@pytest.mark.parametrize(
    "array_type",
    [
        np.dtype(object),
        np.dtype("U3"),
        np.dtype("M8[s]"),
        np.dtype([("a", "f4")]),
        np.dtype(ml_dtypes.int4),
    ],
)
def test_arrays_that_are_no_tensors(array_type: np.dtype) -> None:
    with pytest.raises(FormatError):
        dtypes.from_numpy(array_type)


def test_unknown_type() -> None:
    with pytest.raises(FormatError, match="unknown element type"):
        dtypes.get("f31")
    with pytest.raises(FormatError) as caught:
        dtypes.get("x" * 10_000)
    assert len(str(caught.value)) < 200


@given(st.lists(st.integers(-3, 2**70) | st.integers(0, 5), max_size=6), st.sampled_from(ALL))
def test_sizes_never_overflow(shape: list[int], name: str) -> None:
    try:
        size = dtypes.nbytes(name, shape)
    except FormatError:
        return
    assert 0 <= size < 2**63
    assert all(length >= 0 for length in shape)
    assert (
        size
        == dtypes.count(shape) // dtypes.get(name).block_elements * dtypes.get(name).block_bytes
    )


@pytest.mark.parametrize(
    "shape", [[-1], [2**63], [2**32, 2**32], [2**62, 4, 0], [1.0], [True], ["3"], [None]]
)
def test_impossible_shapes(shape: list[object]) -> None:
    with pytest.raises(FormatError):
        dtypes.count(shape)  # type: ignore[arg-type]


def test_largest_sizes() -> None:
    assert dtypes.nbytes("u8", [2**63 - 1]) == 2**63 - 1
    with pytest.raises(FormatError):
        dtypes.nbytes("u16", [2**62])
    with pytest.raises(FormatError, match="blocks of 32"):
        dtypes.nbytes("q4_0", [33])
    assert dtypes.nbytes("f4_e2m1", [3, 2]) == 3
    assert dtypes.nbytes("f32", []) == 4


def test_description() -> None:
    assert dtypes.describe("bf16", (768, 3072)) == "bf16[768,3072]"
    assert dtypes.describe("f32", ()) == "f32[]"


def test_importing_needs_no_numpy() -> None:
    code = (
        "import sys, git_theta.core.dtypes, git_theta.core.manifest, git_theta.core.layout;"
        " sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
