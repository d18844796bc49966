"""Element types by Git-Theta's own names.

The names are stored in manifests and objects, so they never change meaning. ``numpy``'s
``dtype.str`` cannot serve here: it is lossy for the types of ``ml_dtypes`` (bfloat16 and two fp8
types all read ``<V1`` or ``<V2``). Values are little-endian. Packed types (``f4``, ``f6``, the
quantised ``q…``/``iq…`` types of GGUF) are described by a block: so many elements in so many bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from git_theta.errors import FormatError

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 2**63 - 1


class DType(NamedTuple):
    """One element type.

    ``kind`` is ``b`` bool, ``i`` signed, ``u`` unsigned, ``f`` float, ``c`` complex, ``q`` packed
    or quantised. ``block_elements`` elements occupy ``block_bytes`` bytes. ``numpy`` names the
    array type (``""``: none exists, the bytes are still stored, compared and delta-coded).
    """

    name: str
    kind: str
    block_bytes: int
    block_elements: int = 1
    numpy: str = ""

    @property
    def width(self) -> int:
        """Bytes of the integer that the coder sees per element: 1, 2, 4 or 8.

        1 for packed types.
        """
        if self.kind == "q":
            return 1
        return self.block_bytes // 2 if self.kind == "c" else self.block_bytes


_TABLE: dict[str, DType] = {
    d.name: d
    for d in (
        DType("bool", "b", 1, numpy="bool"),
        DType("u8", "u", 1, numpy="uint8"),
        DType("i8", "i", 1, numpy="int8"),
        DType("u16", "u", 2, numpy="uint16"),
        DType("i16", "i", 2, numpy="int16"),
        DType("u32", "u", 4, numpy="uint32"),
        DType("i32", "i", 4, numpy="int32"),
        DType("u64", "u", 8, numpy="uint64"),
        DType("i64", "i", 8, numpy="int64"),
        DType("f16", "f", 2, numpy="float16"),
        DType("bf16", "f", 2, numpy="bfloat16"),
        DType("f32", "f", 4, numpy="float32"),
        DType("f64", "f", 8, numpy="float64"),
        DType("c32", "c", 4),
        DType("c64", "c", 8, numpy="complex64"),
        DType("c128", "c", 16, numpy="complex128"),
        DType("f8_e4m3fn", "f", 1, numpy="float8_e4m3fn"),
        DType("f8_e5m2", "f", 1, numpy="float8_e5m2"),
        DType("f8_e4m3fnuz", "f", 1, numpy="float8_e4m3fnuz"),
        DType("f8_e5m2fnuz", "f", 1, numpy="float8_e5m2fnuz"),
        DType("f8_e8m0fnu", "f", 1, numpy="float8_e8m0fnu"),
        DType("f4_e2m1", "q", 1, 2),
        DType("f6_e2m3", "q", 3, 4),
        DType("f6_e3m2", "q", 3, 4),
        # GGUF block types: sizes from ggml's type table (elements per block, bytes per block).
        DType("q4_0", "q", 18, 32),
        DType("q4_1", "q", 20, 32),
        DType("q5_0", "q", 22, 32),
        DType("q5_1", "q", 24, 32),
        DType("q8_0", "q", 34, 32),
        DType("q8_1", "q", 36, 32),
        DType("q2_k", "q", 84, 256),
        DType("q3_k", "q", 110, 256),
        DType("q4_k", "q", 144, 256),
        DType("q5_k", "q", 176, 256),
        DType("q6_k", "q", 210, 256),
        DType("q8_k", "q", 292, 256),
        DType("iq2_xxs", "q", 66, 256),
        DType("iq2_xs", "q", 74, 256),
        DType("iq3_xxs", "q", 98, 256),
        DType("iq1_s", "q", 50, 256),
        DType("iq4_nl", "q", 18, 32),
        DType("iq3_s", "q", 110, 256),
        DType("iq2_s", "q", 82, 256),
        DType("iq4_xs", "q", 136, 256),
        DType("iq1_m", "q", 56, 256),
        DType("tq1_0", "q", 54, 256),
        DType("tq2_0", "q", 66, 256),
        DType("mxfp4", "q", 17, 32),
    )
}


def names() -> tuple[str, ...]:
    """All names this release can store."""
    return tuple(_TABLE)


def get(name: str) -> DType:
    """The type called ``name``; :class:`FormatError` when this release does not know it."""
    try:
        return _TABLE[name]
    except KeyError:
        raise FormatError(
            f"unknown element type {name[:40]!r}; a newer Git-Theta may know it"
        ) from None


def numpy_dtype(name: str) -> np.dtype:
    """The little-endian numpy (or ml_dtypes) dtype of ``name``; :class:`FormatError` for packed
    types.
    """
    import numpy as np

    known = get(name)
    if not known.numpy:
        raise FormatError(
            f"{name} values have no array type; they can be stored and compared, not computed with"
        )
    if known.numpy.startswith(("bfloat", "float8")):
        import ml_dtypes

        packed: np.dtype = np.dtype(getattr(ml_dtypes, known.numpy))
        return packed
    return np.dtype(known.numpy).newbyteorder("<")


def from_numpy(dtype: np.dtype) -> str:
    """Git-Theta's name of a numpy dtype of either byte order; :class:`FormatError` for objects,
    strings and records.
    """
    for known in _TABLE.values():
        if known.numpy == dtype.name:
            return known.name
    raise FormatError(f"arrays of type {dtype} cannot be stored as a tensor")


def count(shape: Sequence[int]) -> int:
    """Number of elements of ``shape`` (1 for a scalar); :class:`FormatError` when negative or
    beyond 2^63.
    """
    total = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise FormatError(f"impossible dimension {str(size)[:40]}")
        total *= size
        if total > MAX_BYTES:
            # A zero further on cannot excuse it: every format's own reader refuses such a shape
            # too.
            raise FormatError("the shape's element count overflows 63 bits")
    return total


def nbytes(name: str, shape: Sequence[int]) -> int:
    """Bytes that ``shape`` elements of type ``name`` occupy; :class:`FormatError` when they fill no
    whole blocks.
    """
    known = get(name)
    elements = count(shape)
    blocks, rest = divmod(elements, known.block_elements)
    if rest:
        raise FormatError(
            f"{elements} elements of {name} do not fill blocks of {known.block_elements}"
        )
    if blocks * known.block_bytes > MAX_BYTES:
        raise FormatError("the shape's size overflows 63 bits")
    return blocks * known.block_bytes


def describe(name: str, shape: Sequence[int]) -> str:
    """How a tensor's type reads in manifests and messages, for example ``bf16[768,3072]`` (a
    scalar: ``f32[]``).
    """
    return f"{name}[{','.join(map(str, shape))}]"
