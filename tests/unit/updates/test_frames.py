"""Payloads cut in frames: exact at every edge, read in slices, refused where the table lies."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from update_examples import pairs, payload, random_tensor, round_trip, tensor, weights

from git_theta.core import dtypes, varint
from git_theta.core.contracts import Level, ReadsSlices, Update
from git_theta.core.tensors import Spec, Tensor
from git_theta.errors import PayloadError
from git_theta.testing import check_update
from git_theta.updates import dense, frames, ia3, low_rank, planes
from git_theta.updates.delta import Delta
from git_theta.updates.dense import Dense
from git_theta.updates.ia3 import IA3
from git_theta.updates.low_rank import LowRank
from git_theta.updates.prediction import residual
from git_theta.updates.sparse import Sparse


@contextmanager
def frames_of(limit: int) -> Iterator[None]:
    """Frames of so few bytes, so that small tensors have many."""
    with mock.patch.object(frames, "LIMIT", limit):
        yield


def read_stretches(update: Update, data: memoryview, spec: Spec, base: Tensor | None) -> None:
    """What is read in stretches is what is decoded."""
    out = update.decode(data, spec, base)
    whole = np.frombuffer(out, f"<u{dtypes.get(spec.dtype).width}")
    assert isinstance(update, ReadsSlices)
    if base is None:
        read = update.reader(data, spec, None, None)
    else:
        read = update.reader(data, spec, base.spec, residual.reading(base.bits()))
    if read is None:
        assert data[0] & 2, "rows that moved"
        return
    count = len(whole)
    for start, stop in {(0, count), (count // 3, count // 2), (count // 2, count), (0, 1)}:
        if start < stop <= count:
            assert (read(start, stop) == whole[start:stop]).all()


@pytest.mark.parametrize(
    ("dtype", "shape", "integers"),
    [
        ("f32", (262_144,), 0),
        ("f32", (262_145,), 262_144),
        ("bf16", (1000, 1000), 524_000),
        ("f64", (3, 1 << 17), 1 << 17),
        ("f64", (3, (1 << 17) + 1), 1 << 17),
        ("c64", (1000, 200), 262_000),
        ("u8", (2, 1 << 19), 0),
        ("q4_0", (1000, 64, 32), 910 * 64 * 18),
        ("q4_0", (32 * 60_000,), 1 << 20),
        ("f32", (0, 1 << 40), 0),
    ],
)
def test_frames_are_whole_rows_of_at_most_1_mib(
    dtype: str, shape: tuple[int, ...], integers: int
) -> None:
    spec = Spec(dtype, shape)
    assert frames.size(spec) == integers
    width = dtypes.get(dtype).width
    assert frames.step(spec) == (integers * width or 1 << 20)
    assert integers * width <= 1 << 20


def test_what_it_looks_like() -> None:
    with frames_of(4):
        coded = payload(Dense().encode(Tensor("u8", (2, 3), b"abcdef"), None, "default"))
    first, second = b"\0\0\0\0abc", b"\0\0\0\0def"
    table = b"\3\3" + struct.pack("<II", 7, 7)
    assert bytes(coded) == first + second + table + struct.pack("<I", 10)


def test_a_shorter_first_frame_is_read() -> None:
    parts = [b"ab", b"cdefg", b"hijkl", b"m"]
    coded = memoryview(
        built(5, 2, [len(part) + 4 for part in parts], b"\0\0\0\0".join([b"", *parts]))
    )
    with frames_of(12):
        spec = Spec("u8", (13,))
        assert bytes(Dense().decode(coded, spec, None)) == b"abcdefghijklm"
        read = Dense().reader(coded, spec, None, None)
        for start in range(13):
            for stop in range(start + 1, 14):
                assert bytes(read(start, stop)) == b"abcdefghijklm"[start:stop]


@pytest.mark.parametrize("update", [Dense(), Delta(), Sparse()], ids=lambda update: update.name)
@settings(max_examples=100, deadline=None)
@given(pairs(), st.sampled_from([8, 16, 24, 64]))
def test_any_pair(update: Update, pair: tuple[Tensor, Tensor], limit: int) -> None:
    new, base = pair
    with frames_of(limit):
        encoded = update.encode(new, base, "default")
        if encoded is None:
            return
        data = payload(encoded)
        assert bytes(memoryview(update.decode(data, new.spec, base))) == bytes(new.data)
        if new.spec.nbytes:
            read_stretches(update, data, new.spec, base if update.needs_base else None)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([64, 100, 1000, 4096]),
    st.sampled_from(["f16", "bf16", "f32", "f64"]),
    st.sampled_from(["default", "best"]),
)
def test_shapes_around_the_limit(
    rows: int, columns: int, limit: int, dtype: str, level: Level
) -> None:
    base = tensor(weights((rows, columns)), dtype)
    new = tensor(weights((rows, columns)) + weights((rows, columns), 1, 0.001), dtype)
    more = tensor(weights((rows + 3, columns)), dtype)
    left, right = weights((rows, 1), 2), weights((1, columns), 3)
    with frames_of(limit):
        for update, encoded, target in (
            (Delta(), Delta().encode(new, base, level), new),
            (Delta(), Delta().encode(more, base, level), more),
            (LowRank(), low_rank.encode_given(new, base, left, right)[1], new),
            (IA3(), ia3.encode_given(new, base, left)[1], new),
        ):
            if encoded is not None:
                data = payload(encoded)
                out = update.decode(data, target.spec, base)
                assert bytes(memoryview(out).cast("B")) == bytes(target.data)
                read_stretches(update, data, target.spec, base)


@pytest.mark.parametrize(
    "update", [Dense(), Delta(), Sparse(), LowRank(), IA3()], ids=lambda update: update.name
)
def test_the_contract_holds(update: Update) -> None:
    """Exactness, threads, hostile payloads, memory."""
    base = weights((192, 128))
    few = base.copy()
    few[3, :4] += 1
    changes = {
        "low-rank": base + weights((192, 1)) @ weights((1, 128), 2),
        "ia3": base * (1 + weights((192, 1), 3)),
        "sparse": few,
    }
    new = changes.get(update.name, base + weights((192, 128), 1, 1e-3))
    with frames_of(1 << 14):
        check_update(update, [(tensor(new, "f32"), tensor(base, "f32"))], mutations=60)


def test_real_frames() -> None:
    base = tensor(weights((900, 700)), "f32")
    array = weights((900, 700)) + weights((900, 700), 1, 1e-4)
    for update in (Dense(), Delta()):
        encoded = round_trip(update, tensor(array), base)
        read_stretches(update, payload(encoded), base.spec, base if update.needs_base else None)


def test_reading_in_order_decodes_each_frame_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, whole = [], planes.decode_block

    def decode_block(data: memoryview, position: int, out: np.ndarray) -> int:
        decoded.append(len(out))
        return whole(data, position, out)

    with frames_of(100):
        value = random_tensor("u8", (1000,), 1)
        coded = payload(Dense().encode(value, None, "default"))
        read = Dense().reader(coded, value.spec, None, None)
        monkeypatch.setattr(planes, "decode_block", decode_block)
        for start in range(0, 1000, 30):
            read(start, min(start + 30, 1000))
    assert decoded == [100] * 10


def test_memory_for_blocks_of_a_large_tensor_is_that_of_a_frame() -> None:
    spec = Spec("u8", (20 << 20,))
    chunks = dense.chunks(spec, [memoryview(bytes(spec.nbytes))], "fast")
    coded = memoryview(b"".join(map(bytes, chunks)))
    tracemalloc.start()
    try:
        assert sum(map(len, dense.blocks(coded, spec))) == spec.nbytes
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


# Tables that lie


def built(
    most: int, first: int, lengths: list[int], body: bytes, total: int | None = None
) -> bytes:
    table = varint.dump(most) + varint.dump(first) + struct.pack(f"<{len(lengths)}I", *lengths)
    return body + table + struct.pack("<I", len(table) if total is None else total)


BODY = b"\0\0\0\0abcd" * 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        bytes(4),
        built(4, 4, [8, 8, 8], BODY, 0),
        built(4, 4, [8, 8, 8], BODY, 2**32 - 1),
        built(4, 4, [8, 8, 8], BODY, 13),
        built(4, 4, [8, 8, 8], BODY, 15),
        built(0, 0, [], BODY),
        built(4, 0, [8, 8, 8], BODY),
        built(4, 5, [8, 8, 8], BODY),
        built(9, 4, [8, 8, 8], BODY),
        built(4, 4, [8, 8], BODY),
        built(4, 4, [8, 8, 8, 0], BODY),
        built(4, 4, [8, 8, 9], BODY),
        built(4, 4, [8, 8, 7], BODY),
        built(4, 4, [9, 8, 7], BODY),
        built(4, 4, [24, 0, 0], BODY),
        built(4, 4, [0, 0, 24], BODY),
        built(4, 4, [2**32 - 8, 16, 16], BODY),
        built(1, 1, [2] * 12, BODY),
        built(4, 4, [8, 8, 8], BODY)[1:],
        built(4, 4, [8, 8, 8], BODY) + b"x",
        b"x" + built(4, 4, [8, 8, 8], BODY),
    ],
)
@pytest.mark.parametrize("update", [Dense(), Delta()], ids=lambda update: update.name)
def test_refused(data: bytes, update: Dense | Delta) -> None:
    base = Tensor("u8", (12,), bytes(12))
    head = b"\0" if update.needs_base else b""
    with frames_of(8):
        good = memoryview(head + built(4, 4, [8, 8, 8], BODY))
        assert len(update.decode(good, base.spec, base)) == 12
        bad = memoryview(head + data)
        with pytest.raises(PayloadError):
            update.decode(bad, base.spec, base)
        with pytest.raises(PayloadError):
            read_whole(update, bad, base)


def read_whole(update: Dense | Delta, data: memoryview, base: Tensor) -> None:
    read = update.reader(data, base.spec, base.spec, residual.reading(base.bits()))
    assert read is not None
    read(0, len(base.bits()))


@pytest.mark.parametrize("data", [b"\0" * 8, built(3, 3, [0] * 4, b"\0")])
def test_sparse_refuses(data: bytes) -> None:
    base = Tensor("u8", (12,), bytes(12))
    with frames_of(8), pytest.raises(PayloadError):
        Sparse().decode(memoryview(data), base.spec, base)


@pytest.mark.parametrize("most", [1, 1 << 18])
def test_nothing_is_allocated_for_frames_that_cannot_be(most: int) -> None:
    data = memoryview(built(most, most, [100] * 50, bytes(5000)))
    tracemalloc.start()
    try:
        for refused in (data, data[:-4], memoryview(bytes(64))):
            with pytest.raises(PayloadError):
                Dense().decode(refused, Spec("f32", (1 << 50,)), None)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60),
    st.integers(0, 10),
    st.integers(0, 10),
    st.lists(st.integers(0, 70), max_size=6),
    st.integers(-3, 3),
)
def test_any_table(body: bytes, most: int, first: int, lengths: list[int], off: int) -> None:
    data = built(most, first, lengths, body)
    data = data[:-4] + struct.pack("<I", max(0, struct.unpack("<I", data[-4:])[0] + off))
    base = Tensor("u8", (20,), bytes(20))
    with frames_of(16):
        for update in (Dense(), Delta(), Sparse()):
            with suppress(PayloadError):
                assert len(memoryview(update.decode(memoryview(data), base.spec, base))) == 20
