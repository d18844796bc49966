"""CRC-32 of a concatenation from the CRC-32 of its pieces, so that pieces can be summed where they
are decoded.

Appending ``n`` zero bits to a message multiplies its CRC by x^n modulo the polynomial; CRC(A+B) =
CRC(A)·x^(8·|B|) xor CRC(B). Products of polynomials over GF(2) in the reflected bit order of ISO
3309.
"""

from __future__ import annotations

from functools import lru_cache

_POLYNOMIAL = 0xEDB88320


def combine(first: int, second: int, second_length: int) -> int:
    """CRC-32 of A+B, given that of A, that of B, and B's length in bytes."""
    return _multiply(_power(second_length), first) ^ second


@lru_cache(maxsize=4096)
def _power(length: int) -> int:
    """x^(8·length) modulo the polynomial, by squaring."""
    result, square = 0x80000000, 0x00800000  # 1 and x^8, reflected
    while length:
        if length & 1:
            result = _multiply(square, result)
        square = _multiply(square, square)
        length >>= 1
    return result


def _multiply(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product
