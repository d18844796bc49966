"""The byte-plane coder under every update: integers in, compressed planes out.

Values are coded in blocks of 256 Ki elements, small enough to stay in a core's cache. A block of
w-byte integers is split into w *planes* (all lowest bytes, …, all highest bytes), since the bytes
of one significance are alike: exponents are few, mantissa bits are noise. A plane that would not
shrink is stored as it is. The others go through zstd, in effect as a Huffman coder: matches are
worth looking for only where a sample says so (text, runs of zeros).

Layout of the payload, block after block: per plane, lowest first, a little-endian u32 ``n`` and
then, for n = 0, the plane's bytes, otherwise a zstd frame of ``n`` bytes.
"""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import zstandard

from git_theta.errors import PayloadError

if TYPE_CHECKING:
    import numpy as np

    from git_theta.core.contracts import Level
    from git_theta.core.tensors import Buffer

BLOCK = 256 * 1024
_SAMPLE = 4096
_PROBES, _PROBE = 2, 6  # how many stretches of a small plane are looked for again; their bytes
_NO_GAIN = 0.995  # of a sample: a plane that shrinks less is kept as it is
_SMALL = 1 << 20  # bytes up to which importing numpy would take longer than doing without
_SIZE = struct.Struct("<I")


class _PlaneCoders(threading.local):
    """Compression contexts, one set a thread: they are costly to make and not to be shared."""

    def __init__(self) -> None:
        parameters = zstandard.ZstdCompressionParameters
        plain = {"write_content_size": False, "write_checksum": False}
        huffman = parameters(
            strategy=zstandard.STRATEGY_FAST,
            window_log=17,
            hash_log=6,
            chain_log=6,
            min_match=7,
            **plain,
        )
        self.huffman = zstandard.ZstdCompressor(compression_params=huffman)
        self.matching = zstandard.ZstdCompressor(
            compression_params=parameters.from_level(3, window_log=18, **plain)
        )
        self.thorough = zstandard.ZstdCompressor(
            compression_params=parameters.from_level(19, window_log=18, **plain)
        )
        self.expand = zstandard.ZstdDecompressor(max_window_size=1 << 20)


_coders = _PlaneCoders()


def encode(bits: np.ndarray, level: Level = "default") -> Iterator[Buffer]:
    """The chunks of the payload of ``bits``: a flat array of ``uint8``, ``uint16``, ``uint32`` or
    ``uint64``, little-endian.
    """
    return encode_bytes(bits.data.cast("B") if len(bits) else memoryview(b""), bits.itemsize, level)


encode_block = encode


def encode_bytes(data: memoryview, width: int, level: Level = "default") -> Iterator[Buffer]:
    """The chunks of the payload of the little-endian integers of ``width`` bytes in ``data``
    (bytes, contiguous).
    """
    for start in range(0, len(data), BLOCK * width):
        for plane in _split(data[start : start + BLOCK * width], width):
            packed = _compress(plane, level)
            yield _SIZE.pack(0 if packed is None else len(packed))
            yield plane if packed is None else packed


def _split(block: memoryview, width: int) -> list[Buffer]:
    if width == 1:
        return [block]
    if "numpy" not in sys.modules and len(block) < _SMALL:
        whole = bytes(block)
        return [whole[number::width] for number in range(width)]
    import numpy as np

    return [plane.data for plane in split(np.frombuffer(block, f"<u{width}"))]


def split(block: np.ndarray) -> list[np.ndarray]:
    """The byte planes of ``block``, lowest byte first.

    Casting and shifting beat strided copies about three times.
    """
    import numpy as np

    if block.itemsize == 1:
        return [np.ascontiguousarray(block)]
    planes = [block.astype(np.uint8)]
    shifted = np.empty_like(block)
    for shift in range(8, 8 * block.itemsize, 8):
        np.right_shift(block, shift, out=shifted)
        planes.append(shifted.astype(np.uint8))
    return planes


def join(planes: Iterable[np.ndarray], out: np.ndarray) -> None:
    """Put the planes, lowest byte first, back together into ``out``."""
    import numpy as np

    shifted = None
    for number, plane in enumerate(planes):
        if number == 0:
            np.copyto(out, plane)
        else:
            shifted = np.empty_like(out) if shifted is None else shifted
            np.left_shift(plane, 8 * number, out=shifted, dtype=out.dtype)
            np.bitwise_or(out, shifted, out=out)


def entropy(plane: np.ndarray) -> float:
    """Bits a byte (order 0) of a sample of ``plane``."""
    import numpy as np

    if len(plane) > 4 * _SAMPLE:
        plane = np.frombuffer(_sample(plane.data), np.uint8)
    counts = np.bincount(plane, minlength=1)
    counts = counts[counts > 0]
    return float(np.log2(len(plane)) - (counts * np.log2(counts)).sum() / len(plane))


def _sample(plane: Buffer) -> bytes:
    """Four stretches spread over ``plane``, which is longer than they are together."""
    step = (len(plane) - _SAMPLE) // 3
    return b"".join(plane[i * step : i * step + _SAMPLE] for i in range(4))


def _compress(plane: Buffer, level: Level) -> bytes | None:
    if len(plane) < 32:
        return None
    if len(plane) > 4 * _SAMPLE:
        sample = _sample(plane)
        if len(_coders.huffman.compress(sample)) > _NO_GAIN * len(sample):
            return None
    packed = shrink(plane, level)
    return packed if len(packed) < len(plane) else None


def shrink(plane: Buffer, level: Level) -> bytes:
    """``plane`` as one zstd frame, whatever its size; :func:`expand` is the inverse.

    The frame is copied, since it lies in memory that would have held the plane, and frames are kept
    until a tensor is complete.
    """
    if len(plane) <= 2 * _SAMPLE:
        return _shrink_small(plane, level)
    return bytes(memoryview(_choose_coder(plane, level).compress(plane)))


def _shrink_small(plane: Buffer, level: Level) -> bytes:
    """As :func:`shrink`, of a plane that a sample would hold all of: coded at once, and for matches
    once more if there seem to be any.
    """
    packed = _coders.huffman.compress(plane)
    if not _seems_to_repeat(bytes(plane)):
        return packed
    matched = _coders.matching.compress(plane)
    if len(matched) >= 0.95 * len(packed):
        return packed
    return _coders.thorough.compress(plane) if level == "best" else matched


def _seems_to_repeat(plane: bytes) -> bool:
    """Whether one of a few short stretches is there twice."""
    step = max(1, len(plane) // _PROBES)
    probes = (plane[at : at + _PROBE] for at in range(step // 2, len(plane) - _PROBE + 1, step))
    return any(plane.count(probe) > 1 for probe in probes)


def _choose_coder(plane: Buffer, level: Level) -> zstandard.ZstdCompressor:
    """Matching pays where it shrinks a sample of the plane clearly below what Huffman codes do;
    else those are as small and faster.
    """
    middle = len(plane) // 2
    sample = plane[max(0, middle - _SAMPLE) : middle + _SAMPLE]
    if len(_coders.matching.compress(sample)) < 0.95 * len(_coders.huffman.compress(sample)):
        return _coders.thorough if level == "best" else _coders.matching
    return _coders.huffman


def decode(payload: memoryview, count: int, width: int) -> np.ndarray:
    """The ``count`` integers of ``width`` bytes in ``payload``; :class:`PayloadError` when it holds
    anything else.

    The result is writable. Nothing is allocated for a count that the payload is too short to hold.
    """
    import numpy as np

    _check_count(payload, count, width)
    out = np.empty(count, dtype=np.dtype(f"<u{width}"))
    fill(payload, out)
    return out


def fill(payload: memoryview, out: np.ndarray) -> None:
    """Fill ``out`` with the integers in ``payload``, which holds no more and no less."""
    for _ in filling(payload, out):
        pass


def filling(payload: memoryview, out: np.ndarray) -> Iterator[np.ndarray]:
    """As :func:`fill`, block after block: each is yielded once it is filled."""
    position = 0
    for start in range(0, len(out), BLOCK):
        block = out[start : start + BLOCK]
        position = decode_block(payload, position, block)
        yield block
    finish(payload, position)


def decode_bytes(payload: memoryview, count: int, width: int) -> Buffer:
    """As :func:`decode`, the integers as little-endian bytes."""
    if "numpy" in sys.modules or count * width > _SMALL:
        return decode(payload, count, width).data.cast("B") if count else b""
    _check_count(payload, count, width)
    out, position = bytearray(count * width), 0
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        for number in range(width):
            plane, position = _decode_plane(payload, position, stop - start)
            out[start * width + number : stop * width : width] = plane
    finish(payload, position)
    return out


def _check_count(payload: memoryview, count: int, width: int) -> None:
    blocks = -(-count // BLOCK)
    if blocks * width * (_SIZE.size + 1) > len(payload):
        raise PayloadError(f"the payload is too small to hold {count} values")


def finish(payload: memoryview, position: int) -> None:
    """:class:`PayloadError` unless ``position`` is the end of ``payload``."""
    if position != len(payload):
        raise PayloadError("the payload goes on behind its last block")


def decode_block(payload: memoryview, position: int, out: np.ndarray) -> int:
    """Fill ``out`` with the block at ``position``; returns where the next one starts."""
    import numpy as np

    planes = []
    for _ in range(out.itemsize):
        plane, position = _decode_plane(payload, position, len(out))
        planes.append(np.frombuffer(plane, np.uint8))
    join(planes, out)
    return position


def _decode_plane(payload: memoryview, position: int, count: int) -> tuple[Buffer, int]:
    if position + _SIZE.size > len(payload):
        raise PayloadError("the payload ends within a block")
    (size,) = _SIZE.unpack_from(payload, position)
    start, length = position + _SIZE.size, size or count
    frame = payload[start : start + length]
    if len(frame) != length:
        raise PayloadError("the payload ends within a plane")
    return frame if size == 0 else expand(frame, count), start + length


def expand(frame: memoryview, count: int) -> bytes:
    """The ``count`` bytes that the zstd ``frame`` holds; :class:`PayloadError` when it holds
    another number, before allocating more.
    """
    try:
        if zstandard.frame_content_size(frame) not in (-1, count):
            raise PayloadError("a plane declares another size than its block has")
        data = _coders.expand.decompress(frame, max_output_size=count, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PayloadError(f"a plane is damaged ({error})") from None
    if len(data) != count:
        raise PayloadError(f"a plane of {count} bytes decodes to {len(data)}")
    return data
