"""A reader of manifests and objects, written from docs/manifest-format.md and docs/object-format.md
alone.

It shares no code with Git-Theta and prefers plain over fast: the tests hold it against the real
thing, so that the pages stay true and complete. It trusts its input; what a reader must refuse is
tested elsewhere.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import struct
import zlib
from collections.abc import Callable

import blake3
import numpy as np
import zstandard

BLOCK = 262_144
LARGE = 1 << 20
ELEMENT_BYTES = {
    "bool": (1, 1), "u8": (1, 1), "i8": (1, 1), "u16": (2, 1), "i16": (2, 1), "u32": (4, 1),
    "i32": (4, 1), "u64": (8, 1), "i64": (8, 1),
    "f16": (2, 1), "bf16": (2, 1), "f32": (4, 1), "f64": (8, 1), "c32": (4, 1), "c64": (8, 1),
    "c128": (16, 1),
    "f8_e4m3fn": (1, 1), "f8_e5m2": (1, 1), "f8_e4m3fnuz": (1, 1), "f8_e5m2fnuz": (1, 1),
    "f8_e8m0fnu": (1, 1),
    "f4_e2m1": (1, 2), "f6_e2m3": (3, 4), "f6_e3m2": (3, 4),
    "q4_0": (18, 32), "iq4_nl": (18, 32), "q4_1": (20, 32), "q5_0": (22, 32), "q5_1": (24, 32),
    "q8_0": (34, 32), "q8_1": (36, 32),
    "q2_k": (84, 256), "q3_k": (110, 256), "iq3_s": (110, 256), "q4_k": (144, 256),
    "q5_k": (176, 256), "q6_k": (210, 256),
    "q8_k": (292, 256), "iq2_xxs": (66, 256), "tq2_0": (66, 256), "iq2_xs": (74, 256),
    "iq3_xxs": (98, 256), "iq1_s": (50, 256),
    "iq2_s": (82, 256), "iq4_xs": (136, 256), "iq1_m": (56, 256), "tq1_0": (54, 256),
    "mxfp4": (17, 32),
}  # fmt: skip
EXPONENT = {
    "f16": (10, 5), "c32": (10, 5), "bf16": (7, 8), "f32": (23, 8), "c64": (23, 8), "f64": (52, 11),
    "c128": (52, 11),
    "f8_e4m3fn": (3, 4), "f8_e4m3fnuz": (3, 4), "f8_e5m2": (2, 5), "f8_e5m2fnuz": (2, 5),
}  # fmt: skip
FLOATS = ("f16", "bf16", "f32", "f64")
DECAYS = {"f16": (0, 31), "bf16": (34, 222), "f32": (34, 222), "f64": (34, 2014)}
NOTICE = (
    "# This text stands for a machine-learning model. To get the model:"
    ' pip install "git-theta>=1.0" && git theta install && git theta pull'
)
Objects = Callable[[str], bytes]
Value = tuple[str, tuple[int, ...], bytes]


def rebuild(manifest: bytes, objects: Objects) -> bytes:
    """The checkpoint, given its manifest and a way to get objects by id."""
    lines = manifest.decode("ascii").split("\n")
    assert lines[:2] == ["git-theta manifest 1", NOTICE]
    assert lines[-1] == ""
    size, blank = int(lines[3].removeprefix("size ")), lines.index("")
    skeleton = tensor(lines[4], objects)
    tensors = [tensor(line, objects) for line in lines[blank + 1 : -1]]
    return splice(skeleton, size, tensors)


def tensor(line: str, objects: Objects) -> bytes:
    """The bytes of the tensor that a manifest's line describes."""
    _, kind, *stored = line.split(" ")
    stored = [field for field in stored if not field.startswith("also:")]
    if stored[0].startswith("inline:"):
        return bytes.fromhex(stored[0].removeprefix("inline:"))
    digest, *chain = stored
    value: Value | None = None
    for link in reversed(chain):
        update, _, refs = link.partition(":")
        update = update.partition("(")[0]
        payload = b""
        for number, ref in enumerate(refs.split("+")):
            whole, _, place = ref.partition("@")
            oid, _, size = whole.partition(":")
            data = objects(oid)
            assert len(data) == int(size)
            assert hashlib.sha256(data).hexdigest() == oid
            if place:
                offset, _, length = place.partition(":")
                assert int(offset) + int(length) <= len(data)
                data = data[int(offset) : int(offset) + int(length)]
            name, dtype, shape, part, _, rest = header(data)
            assert (name, part) == (update, number)
            payload += rest
        value = dtype, shape, DECODERS[update](Reader(payload), dtype, shape, value)
    assert value is not None
    assert kind == f"{value[0]}[{','.join(map(str, value[1]))}]"
    assert blake3.blake3(value[2]).hexdigest() == digest
    return value[2]


def unescape(text: str) -> str:
    """The name that a manifest's field stands for."""
    if text == "\\e":
        return ""
    return re.sub(
        r"\\x([0-9a-f]{2})|\\u\{([0-9a-f]+)\}",
        lambda match: chr(int(match[1] or match[2], 16)),
        text,
    )


def splice(skeleton: bytes, size: int, tensors: list[bytes]) -> bytes:
    """Skeleton and tensors put together."""
    read = Reader(skeleton)
    count, checks = read.varint(), read.varint()
    assert count == len(tensors)
    taken, position = [], 0
    for data in tensors:
        position += read.varint()
        taken.append((position, data))
        position += len(data)
    fields, position = [], 0
    for _ in range(checks):
        position += read.varint()
        start = position - read.varint()
        fields.append((position, start, start + read.varint()))
        position += 4
    taken += [(place, bytes(4)) for place, _, _ in fields]
    file = bytearray()
    for place, data in sorted((item for item in taken if item[1]), key=lambda item: item[0]):
        file += read.take(place - len(file)) + data
    file += read.take(size - len(file))
    assert read.at_end
    for place, start, end in fields:
        file[place : place + 4] = struct.pack("<I", zlib.crc32(file[start:end]))
    return bytes(file)


def header(data: bytes) -> tuple[str, str, tuple[int, ...], int, str, bytes]:
    """What a payload's header says: update, element type, shape, part number, the value's digest;
    and what follows it.
    """
    read = Reader(data)
    assert read.take(4) == b"GTO1"
    update = read.take(read.take(1)[0]).decode("ascii")
    dtype = read.take(read.take(1)[0]).decode("ascii")
    shape = tuple(read.varint() for _ in range(read.take(1)[0]))
    part, digest, length = read.varint(), read.take(32).hex(), read.varint()
    rest = read.rest()
    size, elements = ELEMENT_BYTES[dtype]
    small = math.prod(shape) // elements * size < 1 << 20
    assert length == (len(rest) if small else 0)
    return update, dtype, shape, part, digest, rest


class Reader:
    """Reads bytes from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self._position == len(self._data)

    def take(self, count: int) -> bytes:
        """So many bytes."""
        data = self._data[self._position : self._position + count]
        assert len(data) == count
        self._position += count
        return data

    def rest(self) -> bytes:
        """What is left."""
        return self.take(len(self._data) - self._position)

    def varint(self) -> int:
        """An LEB128 number."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def planes(self, count: int, width: int) -> np.ndarray:
        """``count`` integers of ``width`` bytes."""
        out = np.zeros(count, f"<u{width}")
        for start in range(0, count, BLOCK):
            block = out[start : start + BLOCK]
            for number in range(width):
                (length,) = struct.unpack("<I", self.take(4))
                plane = (
                    zstandard.decompress(self.take(length), len(block))
                    if length
                    else self.take(len(block))
                )
                assert len(plane) == len(block)
                block |= np.frombuffer(plane, np.uint8).astype(out.dtype) << out.dtype.type(
                    8 * number
                )
        return out

    def signed(self, count: int, width: int) -> np.ndarray:
        """Signed integers, shifted with the sign in the lowest bit."""
        stored = self.planes(count, width)
        values: np.ndarray = (stored >> 1) ^ (0 - (stored & 1)).astype(stored.dtype)
        return values.view(f"<i{width}")

    def residual(self, prediction: np.ndarray, group: str = "") -> np.ndarray:
        """The values that were predicted.

        ``group`` is the type whose exponent field orders them.
        """
        difference = self.signed(len(prediction), prediction.itemsize).view(prediction.dtype)
        if group:
            shift, bits = EXPONENT[group]
            fields = [int(value) >> shift & (1 << bits) - 1 for value in prediction]
            order = sorted(range(len(prediction)), key=fields.__getitem__)
            sorted_, difference = difference, np.empty_like(difference)
            difference[order] = sorted_
        values: np.ndarray = prediction + difference
        return values

    def frames(
        self, dtype: str, shape: tuple[int, ...], decode: Callable[[Reader, int, int], np.ndarray]
    ) -> np.ndarray:
        """All integers of a tensor; ``decode`` reads those from one number to before another."""
        count, rest = count_of(dtype, shape), self.rest()
        if count * width_of(dtype) <= LARGE:
            whole = Reader(rest)
            values = decode(whole, 0, count)
            assert whole.at_end
            return values
        (length,) = struct.unpack("<I", rest[-4:])
        table, place = Reader(rest[-4 - length : -4]), 0
        size, first = table.varint(), table.varint()
        edges = [0, *range(first, count, size), count]
        parts = []
        for start, stop in itertools.pairwise(edges):
            (length,) = struct.unpack("<I", table.take(4))
            frame = Reader(rest[place : place + length])
            place += length
            parts.append(decode(frame, start, stop))
            assert frame.at_end
        assert table.at_end
        return np.concatenate(parts)


def width_of(dtype: str) -> int:
    """Bytes of the integers that coders see."""
    size, elements = ELEMENT_BYTES[dtype]
    return 1 if elements > 1 else size // 2 if dtype.startswith("c") else size


def integers(value: Value) -> np.ndarray:
    """A tensor's bytes as such integers."""
    return np.frombuffer(value[2], f"<u{width_of(value[0])}")


def count_of(dtype: str, shape: tuple[int, ...]) -> int:
    """How many integers a tensor has."""
    size, elements = ELEMENT_BYTES[dtype]
    return math.prod(shape) // elements * size // width_of(dtype)


# -- floating point --------------------------------------------------------------------------------


def widen(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Values as f64."""
    if dtype == "f16":
        return bits.view(np.float16).astype(np.float64)
    shift, width = EXPONENT[dtype]
    if dtype == "bf16":
        values = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    else:
        values = bits.view({"f32": np.float32, "f64": np.float64}[dtype]).astype(np.float64)
    return np.where(
        bits >> bits.dtype.type(shift) & bits.dtype.type((1 << width) - 1) == 0, 0.0, values
    )


def narrow(values: np.ndarray, dtype: str) -> np.ndarray:
    """The bits of f64 values rounded to a type."""
    if dtype != "f16":
        tiny = 2.0**-1021 if dtype == "f64" else 2.0**-125
        values = np.where(np.abs(values) < tiny, np.copysign(0.0, values), values)
    if dtype == "f64":
        return values.view(np.uint64)
    if dtype == "f16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.astype(np.float32).view(np.uint32)
    return bits if dtype == "f32" else bf16(bits)


def bf16(bits: np.ndarray) -> np.ndarray:
    """The bits of f32 rounded to bf16."""
    wide = bits.astype(np.uint64)
    return ((wide + 0x7FFF + (wide >> 16 & 1)) % 2**32 >> 16).astype(np.uint16)


def settle(values: np.ndarray, idle: np.ndarray, base: np.ndarray, dtype: str) -> np.ndarray:
    """Narrowed values; the base's bits if nothing was to do or the result is not finite."""
    return np.where(idle | ~np.isfinite(values), base, narrow(values, dtype))


# -- updates ---------------------------------------------------------------------------------------


def dense(read: Reader, dtype: str, shape: tuple[int, ...], base: Value | None) -> bytes:
    """Planes of the tensor."""
    width = width_of(dtype)
    values = read.frames(dtype, shape, lambda frame, start, stop: frame.planes(stop - start, width))
    return values.tobytes()


def delta(read: Reader, dtype: str, shape: tuple[int, ...], base: Value | None) -> bytes:
    """A prediction by the base, and a residual."""
    assert base is not None
    (flags,) = read.take(1)
    old, count = integers(base), count_of(dtype, shape)
    decay = (struct.unpack("<d", read.take(8))[0], read.varint()) if flags & 8 else None
    width = count // shape[0] if flags & 2 else 0
    kept: list[tuple[int, int, int]] = []
    if flags & 2:
        start = source = 0
        for _ in range(read.varint()):
            start += read.varint()
            jump = read.varint()
            source += -(jump >> 1) - 1 if jump & 1 else jump >> 1
            kept.append((start, source, read.varint()))
            start, source = start + kept[-1][2], source + kept[-1][2]
        old = np.concatenate(
            [old[source * width : (source + length) * width] for _, source, length in kept]
        )
    prediction = _convert(old, base[0], dtype) if flags & 4 else old
    if decay is not None:
        prediction = _decay(prediction, dtype, *decay)

    def decode(frame: Reader, start: int, stop: int) -> np.ndarray:
        known = frame.residual(prediction[start:stop], dtype if flags & 1 else "")
        others = frame.planes(stop - start - len(known), width_of(dtype))
        return np.concatenate([known, others])

    values = read.frames(dtype, shape, decode)
    if not flags & 2:
        return values.tobytes()
    predicted, others = values[: len(prediction)], values[len(prediction) :].reshape(-1, width)
    table, is_kept, place = (
        np.empty((shape[0], width), predicted.dtype),
        np.zeros(shape[0], bool),
        0,
    )
    for start, _, length in kept:
        table[start : start + length] = predicted[place : place + length * width].reshape(
            length, width
        )
        is_kept[start : start + length] = True
        place += length * width
    table[~is_kept] = others
    return table.tobytes()


def _convert(bits: np.ndarray, source: str, target: str) -> np.ndarray:
    if (source, target) == ("bf16", "f32"):
        return bits.astype(np.uint32) << 16
    if (source, target) == ("f32", "bf16"):
        return bf16(bits)
    values = widen(bits, source)
    return narrow(np.where(np.isnan(values), 0.0, values), target)


def _decay(bits: np.ndarray, dtype: str, factor: float, steps: int) -> np.ndarray:
    shift, width = EXPONENT[dtype]
    field = bits >> bits.dtype.type(shift) & bits.dtype.type((1 << width) - 1)
    low, high = DECAYS[dtype]
    out = bits
    for _ in range(steps):
        out = narrow(widen(out, dtype) * factor, dtype)
    return np.where((field >= low) & (field < high), out, bits)


def sparse(read: Reader, dtype: str, shape: tuple[int, ...], base: Value | None) -> bytes:
    """Changed places, and a residual for them."""
    assert base is not None
    old, large = integers(base), len(base[2]) > LARGE

    def decode(frame: Reader, start: int, stop: int) -> np.ndarray:
        out = old[start:stop].copy()
        if large and frame.at_end:
            return out
        (form,), changed, length = frame.take(1), frame.varint(), frame.varint()
        positions = Reader(frame.take(length))
        if form == 2:
            marks = zstandard.decompress(positions.rest(), -(-len(out) // 8))
            places = [i for i in range(len(out)) if marks[i // 8] >> i % 8 & 1]
        else:
            gaps = positions.planes(changed, 4 if form else 2).astype(np.int64)
            places = (np.cumsum(gaps + 1) - 1).tolist()
        assert len(places) == changed
        out[places] = frame.residual(out[places])
        return out

    return read.frames(dtype, shape, decode).tobytes()


def low_rank(read: Reader, dtype: str, shape: tuple[int, ...], base: Value | None) -> bytes:
    """Two factors, and a residual against base + product."""
    assert base is not None
    bits, rows = integers(base), shape[0]
    columns = len(bits) // rows
    (form,), rank = read.take(1), read.varint()
    left = read.signed(rank * rows, 4).reshape(rank, rows).T
    right = read.signed(rank * columns, 4).reshape(rank, columns)
    left_scale, right_scale = read.signed(rows, 2), read.signed(columns, 2)
    whole = left.astype(object) @ right.astype(object)  # Python's integers: exact by construction
    scale = left_scale[:, None].astype(int) + right_scale[None, :].astype(int)
    product = np.array(
        [
            math.ldexp(number, int(power))
            for number, power in zip(whole.reshape(-1), scale.reshape(-1), strict=True)
        ]
    )
    prediction = settle(widen(bits, dtype) + product, product == 0, bits, dtype)
    return _corrected(read, dtype, shape, prediction, form == 2, dtype if form == 1 else "")


def ia3(read: Reader, dtype: str, shape: tuple[int, ...], base: Value | None) -> bytes:
    """A factor a channel, and a residual against the product."""
    assert base is not None
    bits = integers(base)
    (flags,), first, axes = read.take(1), read.varint(), read.varint()
    channels = math.prod(shape[first : first + axes])
    raw = read.planes(channels, 8 if flags & 4 else 4)
    factors = raw.view(np.float64 if flags & 4 else np.float32).astype(np.float64)
    behind = math.prod(shape[first + axes :])
    each = factors[np.arange(len(bits)) // behind % channels]
    prediction = settle(widen(bits, dtype) * each, each == 1, bits, dtype)
    return _corrected(read, dtype, shape, prediction, flags & 2, dtype if flags & 1 else "")


def _corrected(
    read: Reader,
    dtype: str,
    shape: tuple[int, ...],
    prediction: np.ndarray,
    whole: int,
    group: str,
) -> bytes:
    if whole:
        assert read.at_end
        return prediction.tobytes()
    return read.frames(
        dtype, shape, lambda frame, start, stop: frame.residual(prediction[start:stop], group)
    ).tobytes()


def patch(read: Reader, dtype: str, shape: tuple[int, ...], base: Value | None) -> bytes:
    """A zstd frame with the base as its dictionary."""
    assert base is not None
    content = (
        zstandard.ZstdCompressionDict(base[2], dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        if len(base[2]) >= 8
        else None
    )
    return zstandard.ZstdDecompressor(dict_data=content, max_window_size=1 << 31).decompress(
        read.rest()
    )


DECODERS = {
    "dense": dense,
    "delta": delta,
    "sparse": sparse,
    "low-rank": low_rank,
    "ia3": ia3,
    "patch": patch,
}
