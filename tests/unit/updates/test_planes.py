from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from git_theta.core import dtypes
from git_theta.core.contracts import Level
from git_theta.core.tensors import Spec, Tensor
from git_theta.errors import PayloadError
from git_theta.updates import dense, frames, planes

WIDTHS = [1, 2, 4, 8]
LEVELS: list[Level] = ["fast", "default", "best"]
EDGES = [
    0,
    1,
    31,
    32,
    33,
    16384,
    16385,
    planes.BLOCK - 1,
    planes.BLOCK,
    planes.BLOCK + 1,
    2 * planes.BLOCK,
    2 * planes.BLOCK + 7,
]


def values(kind: str, count: int, width: int) -> np.ndarray:
    random = np.random.default_rng(count)
    raw: dict[str, Callable[[], np.ndarray]] = {
        "zeros": lambda: np.zeros(count * width, np.uint8),
        "noise": lambda: np.frombuffer(random.bytes(count * width), np.uint8),
        "text": lambda: np.frombuffer(
            (b"the same words again and again; " * (count * width // 32 + 1))[: count * width],
            np.uint8,
        ),
        "counters": lambda: np.arange(count, dtype=f"<u{width}" if width > 1 else np.uint8).view(
            np.uint8
        ),
        "floats": lambda: (
            (random.standard_normal(count * width // 4 + 1) * 0.02)
            .astype(np.float32)
            .view(np.uint8)[: count * width]
        ),
    }
    return raw[kind]().view(f"<u{width}")


def payload(bits: np.ndarray, level: Level = "default") -> bytes:
    return b"".join(bytes(chunk) for chunk in planes.encode(bits, level))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["zeros", "noise", "text", "counters", "floats"])
def test_decode_is_the_inverse_of_encode(kind: str, width: int) -> None:
    for count in EDGES:
        bits = values(kind, count, width)
        coded = payload(bits)
        decoded = planes.decode(memoryview(coded), count, width)
        assert decoded.dtype == bits.dtype
        assert np.array_equal(decoded, bits)
        assert decoded.flags.writeable
        assert bytes(planes.decode_bytes(memoryview(coded), count, width)) == bits.tobytes()
        blocks = -(-count // planes.BLOCK)
        assert len(coded) <= bits.nbytes + 4 * width * blocks, (
            "never more than the sizes of the planes on top"
        )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", WIDTHS)
def test_without_numpy_the_payload_is_the_same(
    monkeypatch: pytest.MonkeyPatch, width: int, level: Level
) -> None:
    """Small tensors are coded without numpy where it is not loaded yet; nobody may see the
    difference.
    """
    for kind in ("noise", "floats", "text"):
        for count in (0, 1, 100, 40_000, planes.BLOCK + 3 if width < 4 else 130_000):
            bits = values(kind, count, width)
            coded = payload(bits, level)
            with monkeypatch.context() as patch:
                patch.delitem(sys.modules, "numpy")
                data = memoryview(bits.tobytes())
                assert b"".join(map(bytes, planes.encode_bytes(data, width, level))) == coded
                assert bytes(planes.decode_bytes(memoryview(coded), count, width)) == data
                assert "numpy" not in sys.modules


@given(st.binary(max_size=400), st.sampled_from(WIDTHS), st.sampled_from(LEVELS))
def test_any_small_content(data: bytes, width: int, level: Level) -> None:
    data = data[: len(data) // width * width]
    coded = b"".join(map(bytes, planes.encode_bytes(memoryview(data), width, level)))
    assert bytes(planes.decode_bytes(memoryview(coded), len(data) // width, width)) == data


def test_stretches_make_the_payload_of_the_whole() -> None:
    for dtype in ("bf16", "f32", "c64", "q4_0", "bool"):
        data = memoryview(values("floats", 3 * planes.BLOCK + 36, 8).tobytes())
        data = data[: len(data) // 144 * 144]
        known = dtypes.get(dtype)
        elements = len(data) // known.block_bytes * known.block_elements
        spec = Spec(dtype, (3, elements // 3) if elements % 3 == 0 else (elements,))
        assert frames.size(spec)
        whole = b"".join(map(bytes, dense.chunks(spec, [data], "default")))
        step = frames.step(spec)
        parts = (data[start : start + step] for start in range(0, len(data), step))
        assert b"".join(map(bytes, dense.chunks(spec, parts, "default"))) == whole


@pytest.mark.parametrize("dtype", dtypes.names())
def test_dense_of_every_type(dtype: str) -> None:
    known = dtypes.get(dtype)
    data = values("floats", known.block_bytes * 700, 1).tobytes()
    tensor = Tensor(dtype, (7, 100 * known.block_elements), data)
    update = dense.Dense()
    encoded = update.encode(tensor, None, "default")
    coded = b"".join(bytes(chunk) for chunk in encoded.chunks)
    assert encoded.size == len(coded)
    assert bytes(update.decode(memoryview(coded), tensor.spec, None)) == data


def test_what_shrinks_and_what_does_not() -> None:
    count = 1 << 20
    sizes = {
        kind: len(payload(values(kind, count, 2))) / (2 * count)
        for kind in ("zeros", "noise", "text", "counters")
    }
    assert sizes["zeros"] < 0.001
    assert sizes["text"] < 0.01
    assert 1 <= sizes["noise"] < 1.0001
    assert sizes["counters"] < 0.6


def test_what_it_looks_like() -> None:
    assert payload(np.array([0x0102, 0x0304], "<u2")) == bytes([0, 0, 0, 0, 2, 4, 0, 0, 0, 0, 1, 3])
    coded = payload(np.zeros(1000, "<u2"))
    (size,) = struct.unpack_from("<I", coded)
    assert zstandard.ZstdDecompressor().decompress(
        coded[4 : 4 + size], max_output_size=1000
    ) == bytes(1000)


# Damage


@given(
    st.sampled_from(["zeros", "noise", "text", "floats"]),
    st.sampled_from(WIDTHS),
    st.integers(0, 3000),
    st.lists(
        st.tuples(st.integers(0, 10**6), st.binary(max_size=4), st.integers(0, 4)),
        min_size=1,
        max_size=3,
    ),
    st.integers(-2, 2),
)
@settings(max_examples=300)
def test_damaged_payloads(
    kind: str, width: int, count: int, changes: list[tuple[int, bytes, int]], more: int
) -> None:
    """They decode to as many values as were asked for, or are refused; whether they are the right
    ones, the digest tells.
    """
    coded = bytearray(payload(values(kind, count, width)))
    for place, new, drop in changes:
        where = place % (len(coded) + 1)
        coded[where : where + drop] = new
    wanted = max(0, count + more)
    with suppress(PayloadError):
        assert len(planes.decode(memoryview(coded), wanted, width)) == wanted
    with suppress(PayloadError):
        assert len(planes.decode_bytes(memoryview(coded), wanted, width)) == wanted * width


@given(st.binary(max_size=80), st.integers(0, 50), st.sampled_from(WIDTHS))
@settings(max_examples=300)
def test_any_payload(data: bytes, count: int, width: int) -> None:
    with suppress(PayloadError):
        assert planes.decode(memoryview(data), count, width).size == count


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(100 << 20))
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100 << 20))
    for frame in (bomb, hidden):
        with pytest.raises(PayloadError):
            planes.decode(memoryview(struct.pack("<I", len(frame)) + frame), 1000, 1)


def test_a_window_of_gigabytes_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = compressor.compress(bytes(1000)) + compressor.flush()
    with pytest.raises(PayloadError, match="damaged"):
        planes.decode(memoryview(struct.pack("<I", len(frame)) + frame), 1000, 1)


def test_nothing_is_allocated_for_counts_that_cannot_be() -> None:
    for count in (2**40, 2**62):
        with pytest.raises(PayloadError, match="too small to hold"):
            planes.decode(memoryview(bytes(1000)), count, 4)
        with pytest.raises(PayloadError, match="too small to hold"):
            planes.decode_bytes(memoryview(bytes(1000)), count, 4)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0",
        b"\0\0\0\0",
        b"\0\0\0\0abc",
        b"\0\0\0\0abcde",
        b"\5\0\0\0abcd",
        b"\xff\xff\xff\xff" + bytes(100),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(PayloadError):
        planes.decode(memoryview(data), 4, 1)


def test_a_frame_with_something_behind_it_is_refused() -> None:
    frame = zstandard.ZstdCompressor().compress(bytes(1000))
    for behind in (b"x", frame, zstandard.ZstdCompressor().compress(b"")):
        data = struct.pack("<I", len(frame + behind)) + frame + behind
        with pytest.raises(PayloadError):
            planes.decode(memoryview(data), 1000, 1)
