"""patch: for bytes that are no array of numbers (file headers, pickles, JSON): zstd with the base
as its dictionary.

What the base already says is then a reference, wherever it moved. The payload is one zstd frame
that states its content's size.
"""

from __future__ import annotations

import zstandard

from git_theta.core.contracts import Change, Level
from git_theta.core.tensors import Buffer, Encoded, Spec, Tensor
from git_theta.errors import PayloadError

_LIMIT = 256 << 20  # bytes of both together: zstd takes several times as much memory
_WINDOW = 28  # the power of two of that limit
_LARGE = {"fast": 0, "default": 16 << 20, "best": 4 << 20}  # from here on a level becomes too slow
_STRENGTH = {"fast": (3, 3), "default": (12, 3), "best": (19, 12)}


class Patch:
    """Stores bytes by reference to an earlier version of them."""

    name = "patch"
    needs_base = True
    meant_for: Change = "text"

    def encode(self, tensor: Tensor, base: Tensor | None, level: Level) -> Encoded | None:
        """The payload; None unless both are single bytes (``u8``), of no more than 256 MiB
        together.
        """
        if (
            base is None
            or tensor.dtype != "u8"
            or base.dtype != "u8"
            or tensor.spec.nbytes + base.spec.nbytes > _LIMIT
        ):
            return None
        data, old = _flat(tensor), _flat(base)
        strength = _STRENGTH[level][len(data) > _LARGE[level]]
        window = max(10, (len(data) + len(old)).bit_length())
        parameters = zstandard.ZstdCompressionParameters.from_level(
            strength,
            source_size=len(data),
            dict_size=len(old),
            window_log=window,
            enable_ldm=len(data) > 32 << 20,
            write_content_size=True,
            write_checksum=False,
        )
        compressor = zstandard.ZstdCompressor(
            compression_params=parameters, dict_data=_dictionary(old)
        )
        return Encoded([compressor.compress(data)])

    def decode(self, payload: memoryview, spec: Spec, base: Tensor | None) -> Buffer:
        """The bytes."""
        if base is None or base.dtype != "u8" or spec.dtype != "u8":
            raise PayloadError("a patch is made of bytes and needs the bytes it is based on")
        size = spec.nbytes
        if size + base.spec.nbytes > _LIMIT:
            raise PayloadError(
                f"a patch cannot be as large as {size} bytes on a base of {base.spec.nbytes}"
            )
        try:
            if zstandard.frame_content_size(payload) != size:
                raise PayloadError(f"a patch for {size} bytes declares another size")
            expand = zstandard.ZstdDecompressor(
                dict_data=_dictionary(_flat(base)), max_window_size=1 << _WINDOW + 1
            )
            data = expand.decompress(payload, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise PayloadError(f"a patch is damaged ({error})") from None
        if len(data) != size:
            raise PayloadError(f"a patch for {size} bytes decodes to {len(data)}")
        return data


def _flat(tensor: Tensor) -> memoryview:
    return memoryview(tensor.data).cast("B")


def _dictionary(old: memoryview) -> zstandard.ZstdCompressionDict | None:
    # zstd takes content of at least 8 bytes as a dictionary; less would not help either.
    return (
        zstandard.ZstdCompressionDict(bytes(old), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        if len(old) >= 8
        else None
    )
