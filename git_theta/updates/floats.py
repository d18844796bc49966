"""Floating point that gives the same bits on every machine.

Predictions must be redone bit for bit by whoever decodes, so only operations whose result IEEE 754
fixes are used: one element-wise operation at a time (numpy never fuses two), no sums whose order
could vary. Two things are left that machines disagree on, and they are defined away here: denormals
(a process may flush them) count as zero, and the bits of a NaN are never computed.
"""

from __future__ import annotations

import numpy as np

KINDS = ("f16", "bf16", "f32", "f64")
# Results below this magnitude become zero: the smallest normal number, doubled since some machines
# look at it before rounding, some after.
_TINY = {"f16": 0.0, "bf16": 2.0**-125, "f32": 2.0**-125, "f64": 2.0**-1021}
EXPONENTS = {
    "f16": (10, 5), "bf16": (7, 8), "f32": (23, 8), "f64": (52, 11), "c32": (10, 5), "c64": (23, 8),
    "c128": (52, 11),
    "f8_e4m3fn": (3, 4), "f8_e4m3fnuz": (3, 4), "f8_e5m2": (2, 5), "f8_e5m2fnuz": (2, 5),
}  # fmt: skip
"""Per type: the exponent field's lowest bit and its width."""


def exponents(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The exponent fields of ``bits``, as ``uint8`` or (f64, c128) ``uint16``."""
    shift, width = EXPONENTS[dtype]
    fields = np.right_shift(bits, shift)
    np.bitwise_and(fields, (1 << width) - 1, out=fields)
    return np.asarray(fields, dtype=np.uint8 if width <= 8 else np.uint16)


def widen(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The values of ``bits`` (flat, unsigned, of a type in :data:`KINDS`) as a new float64 array;
    denormals read as zero.
    """
    with np.errstate(invalid="ignore"):
        if dtype == "f64":
            values = bits.view(np.float64).copy()
        elif dtype == "f32":
            values = bits.view(np.float32).astype(np.float64)
        elif dtype == "bf16":
            values = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        else:
            return bits.view(np.float16).astype(np.float64)
    values[exponents(bits, dtype) == 0] = 0.0
    return values


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """The float64 ``values`` rounded to ``dtype``, ties to even, as its bits (bf16: by way of
    float32, as frameworks do).

    NaN is not allowed for; what would be denormal (f16 excepted) becomes zero of the same sign.
    """
    small = np.abs(values) < _TINY[dtype]
    if small.any():
        values = np.where(small, np.copysign(0.0, values), values)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype == "f64":
            return np.array(values, dtype=np.float64).view(np.uint64)
        if dtype == "f16":
            return values.astype(np.float16).view(np.uint16)
        bits = values.astype(np.float32).view(np.uint32)
    return bits if dtype == "f32" else round_to_bf16(bits)


def round_to_bf16(bits: np.ndarray) -> np.ndarray:
    """The bits of float32 rounded to those of bf16, ties to even, by integer arithmetic.

    A NaN may come out as anything.
    """
    odd = np.right_shift(bits, 16)
    np.bitwise_and(odd, 1, out=odd)
    odd += bits
    odd += np.uint32(0x7FFF)
    np.right_shift(odd, 16, out=odd)
    return np.asarray(odd, dtype=np.uint16)


def settle(values: np.ndarray, before: np.ndarray, keep: np.ndarray, dtype: str) -> np.ndarray:
    """``values`` rounded to ``dtype``, except where ``keep`` holds or they are not finite: there
    the bits of ``before`` stay.
    """
    stays = np.isfinite(values)
    np.logical_not(stays, out=stays)
    np.logical_or(stays, keep, out=stays)
    bits = narrow(values, dtype)
    np.copyto(bits, before, where=stays)
    return bits


def convert(bits: np.ndarray, source: str, target: str) -> np.ndarray:
    """The bits of type ``source`` as the nearest ones of type ``target`` (both in :data:`KINDS`);
    NaN becomes 0.
    """
    if (source, target) == ("f32", "bf16"):
        return round_to_bf16(bits)
    if (source, target) == ("bf16", "f32"):
        return bits.astype(np.uint32) << np.uint32(16)
    values = widen(bits, source)
    unknown = np.isnan(values)
    if unknown.any():
        values[unknown] = 0.0
    return narrow(values, target)
