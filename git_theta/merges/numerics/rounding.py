"""From an element type to float64 and back, rounding once.

``float64 -> float32 -> bf16`` rounds twice: a value just above the middle of two bf16 numbers can
become that very middle in float32 and then go to the even neighbour, the wrong one. ``ml_dtypes``
converts that way. So the first step here rounds
*to odd* (Boldo and Melquiond, 2008): an inexact float32 gets an odd last bit and can never be a
middle; float32 has more than the two extra bits this needs over every narrower type, subnormal
numbers included.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_NAN_BITS = {
    "float64": 0x7FF8000000000000,
    "float32": 0x7FC00000,
    "float16": 0x7E00,
    "bfloat16": 0x7FC0,
    "float8_e5m2": 0x7E,
    "float8_e4m3fn": 0x7F,
    "float8_e4m3fnuz": 0x80,
    "float8_e5m2fnuz": 0x80,
}


def supported(dtype: np.dtype) -> bool:
    """Whether values of ``dtype`` (a real floating type) can be computed with here."""
    return dtype.name in _NAN_BITS


def widen(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """``values`` (any supported type, 1-D) exactly, as float64, in ``out``, which is returned."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        if values.dtype.itemsize == 1:
            np.take(_table(values.dtype), values.view(np.uint8), out=out, mode="clip")
        else:
            np.copyto(out, values)
    return out


def narrow(values: np.ndarray, out: np.ndarray, scratch: BlockScratch | None = None) -> None:
    """``values`` (float64, 1-D) rounded once, to nearest with ties to even, into ``out`` (any
    supported type).

    Too large values become what the type has for them: infinity, else NaN. A NaN gets one fixed bit
    pattern, because its sign and payload depend on the processor. ``scratch`` saves allocations
    when called for many blocks.
    """
    if not values.size:
        return
    with np.errstate(all="ignore"):
        if out.dtype.itemsize >= 4:
            np.copyto(out, values, casting="same_kind")
        else:
            np.copyto(out, to_odd(values, scratch), casting="unsafe")
        if np.isnan(values.max()):
            out.view(f"u{out.dtype.itemsize}")[np.isnan(values)] = _NAN_BITS[out.dtype.name]


_NOWHERE = np.empty(0, np.intp)


class BlockScratch:
    """Working memory of :func:`narrow` for blocks of up to ``size`` elements. One thread's own."""

    __slots__ = ("back", "inexact", "single")

    def __init__(self, size: int) -> None:
        self.single = np.empty(size, np.float32)
        self.back = np.empty(size)
        self.inexact = np.empty(size, np.bool_)


def to_odd(values: np.ndarray, scratch: BlockScratch | None = None) -> np.ndarray:
    """``values`` (float64) as float32: exact ones unchanged, each other one as that neighbour whose
    last bit is 1.

    The result lies in ``scratch`` where one is given.
    """
    scratch = scratch or BlockScratch(values.size)
    single, back, inexact = (
        scratch.single[: values.size],
        scratch.back[: values.size],
        scratch.inexact[: values.size],
    )
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.copyto(single, values, casting="same_kind")
    np.copyto(back, single)
    np.not_equal(back, values, out=inexact)
    places = np.flatnonzero(inexact) if inexact.any() else _NOWHERE
    if places.size:
        few = places.size < values.size // 8
        exact, rounded = (values[places], single[places]) if few else (values, single)
        bits = rounded.view(np.uint32)
        wrong = (bits & 1) == 0
        wrong &= ~np.isnan(exact)
        if not few:
            wrong &= inexact
        # One step in the magnitude: away from zero where the nearest number lies nearer to zero
        # than the value.
        beyond = np.abs(rounded) > np.abs(exact)
        np.subtract(bits, 1, out=bits, where=wrong & beyond)
        np.add(bits, 1, out=bits, where=wrong & ~beyond)
        if few:
            single[places] = rounded
    return single


@lru_cache(maxsize=16)
def _table(dtype: np.dtype) -> np.ndarray:
    table = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float64)
    table.setflags(write=False)
    return table
