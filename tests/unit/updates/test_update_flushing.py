"""A process may take denormal numbers for zero (libraries built with -ffast-math set that): nothing
may come out differently.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from update_examples import FLOATS, random_tensor, weights

from git_theta.core import dtypes
from git_theta.core.tensors import Tensor
from git_theta.updates import floats, ia3, low_rank
from git_theta.updates.prediction.decay import Decay

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() != "x86_64",
    reason="sets a register of x86-64 by way of glibc",
)
_STATUS, _FLUSH = 28, 0x8040  # where glibc keeps MXCSR in fenv_t, and its bits DAZ and FTZ


@contextmanager
def flushing() -> Iterator[None]:
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    saved = ctypes.create_string_buffer(32)
    library.fegetenv(saved)
    changed = ctypes.create_string_buffer(saved.raw, 32)
    register = ctypes.c_uint32.from_buffer(changed, _STATUS)
    register.value |= _FLUSH
    library.fesetenv(changed)
    try:
        yield
    finally:
        library.fesetenv(saved)


def everything(dtype: str) -> list[bytes]:
    """Every kind of prediction, from random bits (many of them denormal) and from tiny numbers."""
    kind = dtypes.numpy_dtype(dtype)
    random = random_tensor(dtype, (120, 100), 1)
    tiny = random.bits().copy()
    shift, width = floats.EXPONENTS[dtype]
    tiny &= ~tiny.dtype.type(((1 << width) - 1 & ~3) << shift)
    results = []
    for bits in (random.bits(), tiny):
        base = Tensor(dtype, (120, 100), bits.tobytes())
        results.append(
            bytes(
                low_rank.encode_given(None, base, weights((120, 3)), weights((3, 100), 1))[0].data
            )
        )
        results.append(
            bytes(
                low_rank.encode_given(None, base, weights((120, 3)), weights((3, 100), 1), 1e-36)[
                    0
                ].data
            )
        )
        results.append(bytes(ia3.encode_given(None, base, weights((1, 100), 2))[0].data))
        results += [
            Decay(0.9, 5).apply(bits, dtype).tobytes(),
            Decay(float(np.float32(0.9)), 5).apply(bits, dtype).tobytes(),
        ]
        results += [
            floats.convert(bits, dtype, other).tobytes() for other in FLOATS if other != dtype
        ]
    assert kind.itemsize * 12000 == len(results[0])
    return results


@pytest.mark.parametrize("dtype", FLOATS)
def test_predictions_do_not_depend_on_denormals(dtype: str) -> None:
    plain = everything(dtype)
    with flushing():
        smallest = np.array([2.0**-1074]) * np.array([1.0])
        flushed = everything(dtype)
    assert smallest[0] == 0, "the register is set"
    assert plain == flushed
