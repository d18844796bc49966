"""What is left of a tensor once it has been predicted: exact, and small where the prediction is
good.

Tensor and prediction are subtracted as integers, wrapping around, and the sign is moved to the
lowest bit ("zigzag", as in Protocol Buffers), so that small differences of either sign become small
numbers whose upper byte planes are empty.

Floats are subtracted just as they lie in memory, sign and magnitude. Mapping them to two's
complement first, so that integer order is number order, was measured too: it costs six more passes
and saves nothing (bf16: 0.1145 of the size either way), and after weight decay, which shrinks
positive and negative weights alike, it costs a bit (fp32: 0.378 instead of 0.364). A change of sign
lands at the far end of the scale either way.

With ``group`` (the float type's name) the elements of a frame are ordered by the exponent of the
prediction, which decides how many steps of the last digit a given change makes. The decoder
knows the prediction, hence the order. Statistics then change along a block, so that a Huffman table
for every 16 KiB of a plane pays (bf16: 0.095 of the size instead of 0.101, and instead of 0.1145
without grouping).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import numpy as np
import zstandard

from git_theta.core.contracts import Level
from git_theta.core.contracts import Read as Read
from git_theta.core.tensors import Buffer, Spec
from git_theta.errors import PayloadError
from git_theta.updates import floats, frames, planes


def reading(bits: np.ndarray) -> Read:
    """The elements of an array."""
    return lambda start, stop: bits[start:stop]


def _from(read: Read, first: int) -> Read:
    """The elements from ``first`` on, counted from there."""
    return lambda start, stop: read(first + start, first + stop)


def fold(
    target: np.ndarray, prediction: np.ndarray, out: np.ndarray, spare: np.ndarray | None = None
) -> None:
    """Zigzagged ``target - prediction`` into ``out``; all unsigned and of one width.

    Memory for an intermediate may be given.
    """
    np.subtract(target, prediction, out=out)
    _zigzag(out, np.empty_like(out) if spare is None else spare)


def unfold(folded: np.ndarray, prediction: np.ndarray) -> None:
    """The inverse of :func:`fold`, in place: ``folded`` becomes the target."""
    negative = np.bitwise_and(folded, 1)
    np.negative(negative, out=negative)
    np.right_shift(folded, 1, out=folded)
    np.bitwise_xor(folded, negative, out=folded)
    np.add(folded, prediction, out=folded)


def zigzag(values: np.ndarray) -> np.ndarray:
    """Signed integers as unsigned ones: 0, -1, 1, -2 and so on become 0, 1, 2, 3 and so on."""
    out = values.view(values.dtype.str.replace("i", "u")).copy()
    _zigzag(out, np.empty_like(out))
    return out


def unzigzag(folded: np.ndarray) -> np.ndarray:
    """The inverse of :func:`zigzag`; ``folded`` is used up."""
    unfold(folded, np.zeros(1, folded.dtype))
    return folded.view(folded.dtype.str.replace("u", "i"))


def _zigzag(values: np.ndarray, sign: np.ndarray) -> None:
    signed = values.dtype.str.replace("u", "i")
    np.right_shift(values.view(signed), 8 * values.itemsize - 1, out=sign.view(signed))
    np.left_shift(values, 1, out=values)
    np.bitwise_xor(values, sign, out=values)


def lengths(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """About how many bits each folded difference takes (float32, of the arrays' shape): a quick
    guess at what a prediction is worth.
    """
    folded = np.empty_like(target)
    fold(target, prediction, folded)
    return np.asarray(np.log2(folded.astype(np.float32) + np.float32(1)))


finish = planes.finish


def predicted(predict: Read, like: np.ndarray) -> memoryview:
    """The bytes of a tensor that is just as predicted, with integers as many and as wide as those
    of ``like``.
    """
    out = np.empty_like(like)
    for start in range(0, len(out), planes.BLOCK):
        stop = min(start + planes.BLOCK, len(out))
        out[start:stop] = predict(start, stop)
    return out.data.cast("B") if len(out) else memoryview(b"")


def encode(
    target: Read, predict: Read, count: int, level: Level, group: str = ""
) -> Iterator[Buffer]:
    """The chunks that, with the same predictions, yield the ``count`` elements of ``target``."""
    if group:
        yield from _encode_grouped(target, predict, count, level, group)
        return
    folded = spare = np.empty(0, np.uint8)
    for start in range(0, count, planes.BLOCK):
        stop = min(start + planes.BLOCK, count)
        block = target(start, stop)
        if len(spare) != len(block):
            folded, spare = np.empty_like(block), np.empty_like(block)
        elif block.itemsize == 1:  # its only plane is passed on as it is, if it does not shrink
            folded = np.empty_like(block)
        fold(block, predict(start, stop), folded, spare)
        yield from planes.encode_block(folded, level)


def coded(
    spec: Spec, target: Read, predict: Read, level: Level, group: str = ""
) -> Iterator[Buffer]:
    """As :func:`encode`, all elements of a tensor of ``spec`` in frames."""
    return frames.coded(
        spec, lambda start, stop: stretch(target, predict, start, stop, level, group)
    )


def stretch(
    target: Read, predict: Read, start: int, stop: int, level: Level, group: str = ""
) -> Iterator[Buffer]:
    """As :func:`encode`, the elements from ``start`` to before ``stop``."""
    return encode(_from(target, start), _from(predict, start), stop - start, level, group)


def _encode_grouped(
    target: Read, predict: Read, count: int, level: Level, group: str
) -> Iterator[Buffer]:
    parts, keys = [], []
    for start in range(0, count, planes.BLOCK):
        stop = min(start + planes.BLOCK, count)
        block, prediction = target(start, stop), predict(start, stop)
        folded = np.empty_like(block)
        fold(block, prediction, folded)
        parts.append(folded)
        keys.append(floats.exponents(prediction, group))
    if not parts:
        return
    whole, order = np.concatenate(parts), np.argsort(np.concatenate(keys), kind="stable")
    for first in range(0, count, planes.BLOCK):
        yield from _encode_ordered(whole[order[first : first + planes.BLOCK]], level)


class _ResidualCoders(threading.local):
    """Compression contexts, one set a thread."""

    def __init__(self) -> None:
        parameters, plain = (
            zstandard.ZstdCompressionParameters,
            {"write_content_size": False, "write_checksum": False, "min_match": 7},
        )
        huffman = parameters(
            strategy=zstandard.STRATEGY_FAST, window_log=17, hash_log=6, chain_log=6, **plain
        )
        tables = {
            "window_log": 18,
            "hash_log": 12,
            "chain_log": 12,
            "search_log": 1,
            "target_length": 32,
        }
        thorough = parameters(strategy=zstandard.STRATEGY_BTOPT, **tables, **plain)
        self.huffman = zstandard.ZstdCompressor(compression_params=huffman)
        self.thorough = zstandard.ZstdCompressor(compression_params=thorough)


_coders = _ResidualCoders()
_SIZE = struct.Struct("<I")
_STRETCH = 16384


def _encode_ordered(block: np.ndarray, level: Level) -> Iterator[Buffer]:
    """What :func:`planes.decode_block` reads, with a Huffman table for each stretch of a plane.

    Where most values are alike, Huffman's whole bits are too coarse, and a search for matches pays
    (at a tenth of the speed).
    """
    for plane in planes.split(block):
        bits, packed = planes.entropy(plane), b""
        if level == "best" and 0.05 < bits < 2.0:
            packed = _coders.thorough.compress(plane.data)
        elif bits < 7.96:
            stream, pieces = _coders.huffman.compressobj(), []
            for first in range(0, len(plane), _STRETCH):
                pieces += [
                    stream.compress(plane[first : first + _STRETCH].data),
                    stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK),
                ]
            packed = b"".join([*pieces, stream.flush()])
        if packed and len(packed) < len(plane):
            yield _SIZE.pack(len(packed)) + packed
        else:
            yield _SIZE.pack(0)
            yield plane.data


def allocate(payload: memoryview, position: int, count: int, width: int) -> np.ndarray:
    """Room for ``count`` integers of ``width`` bytes; :class:`PayloadError` when ``payload`` from
    ``position`` on cannot hold them.
    """
    if -(-count // planes.BLOCK) * width * 5 > len(payload) - position:
        raise PayloadError(f"the payload is too small to hold {count} values")
    return np.empty(count, dtype=np.dtype(f"<u{width}"))


def decoder(predict: Read, group: str = "") -> frames.Decode:
    """How to decode a frame that holds a residual and nothing else."""

    def decode_frame(frame: frames.Frame, out: np.ndarray) -> None:
        finish(frame.body, decode(frame.body, 0, out, predict, group, frame.start))

    return decode_frame


def decode(
    payload: memoryview,
    position: int,
    out: np.ndarray,
    predict: Read,
    group: str = "",
    first: int = 0,
) -> int:
    """Fill ``out`` from ``payload`` at ``position``; returns the position behind. ``predict``
    counts its elements from ``first`` on.

    The inverse of :func:`encode`.
    """
    if group:
        return _decode_grouped(payload, position, out, _from(predict, first), group)
    for start in range(0, len(out), planes.BLOCK):
        block = out[start : start + planes.BLOCK]
        position = planes.decode_block(payload, position, block)
        unfold(block, predict(first + start, first + start + len(block)))
    return position


def _decode_grouped(
    payload: memoryview, position: int, out: np.ndarray, predict: Read, group: str
) -> int:
    predictions, sorted_ = np.empty_like(out), np.empty_like(out)
    parts = [slice(at, min(at + planes.BLOCK, len(out))) for at in range(0, len(out), planes.BLOCK)]
    for part in parts:
        predictions[part] = predict(part.start, part.stop)
        position = planes.decode_block(payload, position, sorted_[part])
    out[np.argsort(floats.exponents(predictions, group), kind="stable")] = sorted_
    for part in parts:
        unfold(out[part], predictions[part])
    return position


def take(payload: memoryview, position: int, count: int, width: int) -> tuple[np.ndarray, int]:
    """The ``count`` integers of ``width`` bytes that :func:`planes.encode` left at ``position``,
    and the position behind them.
    """
    out = allocate(payload, position, count, width)
    for start in range(0, count, planes.BLOCK):
        position = planes.decode_block(payload, position, out[start : start + planes.BLOCK])
    return out, position
