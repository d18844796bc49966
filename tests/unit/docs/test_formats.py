"""What docs/ says about manifests and objects is true: the example, the tables, and a reader made
from the pages.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import reader
from hypothesis import given, settings
from hypothesis import strategies as st

from git_theta.checkpoints.containers.stored_zip import StoredZipFormat
from git_theta.checkpoints.safetensors import SafetensorsFormat
from git_theta.core import dtypes, manifest, names, objects, skeleton
from git_theta.core.contracts import Encoded, Level
from git_theta.core.digest import digest, object_id
from git_theta.core.source import BytesSource
from git_theta.core.tensors import Spec, Tensor
from git_theta.settings import Settings
from git_theta.updates import floats, frames
from git_theta.updates.delta import Delta
from git_theta.updates.dense import Dense, chunks
from git_theta.updates.ia3 import IA3
from git_theta.updates.ia3 import encode_given as encode_ia3
from git_theta.updates.low_rank import LowRank
from git_theta.updates.low_rank import encode_given as encode_low_rank
from git_theta.updates.patch import Patch
from git_theta.updates.prediction import factors
from git_theta.updates.sparse import Sparse

DOCS = Path(__file__).resolve().parents[3] / "docs"
EXAMPLE = dict(
    re.findall(
        r"<!-- (.*?) -->\n```\w*\n(.*?)```",
        (DOCS / "example.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
)
PAGE = (DOCS / "object-format.md").read_text(encoding="utf-8")


def shown(name: str) -> bytes:
    return bytes.fromhex(EXAMPLE[name])


def stored() -> dict[str, bytes]:
    return {object_id(shown(name)): shown(name) for name in EXAMPLE if name.startswith("object of")}


# -- the worked example ----------------------------------------------------------------------------


def test_the_example_is_what_git_theta_writes() -> None:
    source = BytesSource(shown("checkpoint"))
    layout = SafetensorsFormat().scan(source)
    assert skeleton.cut(layout, source, [None] * len(layout.extents)) == shown("skeleton")
    weight = layout.extents[0]
    data = source.read(weight.offset, weight.length)
    spec = Spec(weight.dtype, weight.shape)
    payload = b"".join(chunks(spec, [memoryview(data)], "default"))
    head = objects.dump(objects.Header("dense", spec, digest(data), 0, len(payload)))
    assert (head + payload) in shown("object of both")
    text = EXAMPLE["manifest"].encode()
    parsed = manifest.parse(text)
    assert manifest.dump(parsed) == text
    assert (parsed.format, parsed.size) == (layout.format, layout.size)
    assert parsed.skeleton.digest == digest(shown("skeleton"))
    for entry, extent in zip(parsed.entries, layout.extents, strict=True):
        assert (entry.name, entry.dtype, entry.shape) == (extent.name, extent.dtype, extent.shape)
        assert entry.digest == digest(source.read(extent.offset, extent.length))
    assert parsed.objects() == {oid: len(data) for oid, data in stored().items()}


def test_the_example_can_be_read_by_git_theta() -> None:
    parsed = manifest.parse(EXAMPLE["manifest"].encode())
    for entry in (parsed.skeleton, parsed.entries[0]):
        ((place,),) = [link.ranges for link in entry.chain]
        end = place.offset + place.length
        data = memoryview(stored()[place.oid])[place.offset : end]
        head, start = objects.parse(data)
        assert (head.update, head.spec, head.part) == ("dense", entry.spec, 0)
        assert head.digest == entry.digest
        assert digest(Dense().decode(data[start:], head.spec, None)) == entry.digest


def test_the_example_can_be_read_by_the_reader_of_the_pages() -> None:
    assert reader.rebuild(EXAMPLE["manifest"].encode(), stored().__getitem__) == shown("checkpoint")


# -- tables ----------------------------------------------------------------------------------------


def test_the_table_of_element_types_is_complete() -> None:
    rows = re.findall(r"^\| ((?:`\w+` ?)+)\| (\d+) / (\d+) \| (\d) \|", PAGE, re.MULTILINE)
    table = {name: tuple(map(int, row[1:])) for row in rows for name in re.findall(r"\w+", row[0])}
    assert table == {
        name: (d.block_bytes, d.block_elements, d.width)
        for name in dtypes.names()
        for d in [dtypes.get(name)]
    }
    assert {name: row[:2] for name, row in table.items()} == reader.ELEMENT_BYTES


def test_the_tables_of_exponents_and_decays_are_complete() -> None:
    section = PAGE.partition("exponent field: lowest bit, bits")[2].partition("##")[0]
    rows = re.findall(r"^\| ((?:`\w+` ?)+)\| (\d+), (\d+) \|", section, re.MULTILINE)
    assert {
        name: (int(low), int(bits)) for each, low, bits in rows for name in re.findall(r"\w+", each)
    } == floats.EXPONENTS
    assert reader.EXPONENT == floats.EXPONENTS
    assert "1 to 512" in PAGE
    assert factors.MAX_RANK == 512
    assert "1 MiB (2^20 bytes)" in PAGE
    assert frames.LIMIT == reader.LARGE == 1 << 20


# -- the reader against the real thing -------------------------------------------------------------


@given(st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF), max_size=20))
def test_names_are_escaped_as_the_page_says(name: str) -> None:
    assert reader.unescape(names.escape(name)) == name
    assert re.fullmatch(
        r"\\e|(?:[!#-\[\]-~]|\\x[0-9a-f]{2}|\\u\{[1-9a-f][0-9a-f]{2,5}\})+", names.escape(name)
    )


def decoded(update: str, tensor: Tensor, payload: bytes, base: Tensor | None) -> bytes:
    old = None if base is None else (base.dtype, base.shape, bytes(base.data))
    return reader.DECODERS[update](reader.Reader(payload), tensor.dtype, tensor.shape, old)


def joined(encoded: Encoded | None) -> bytes:
    assert encoded is not None
    return b"".join(bytes(chunk) for chunk in encoded.chunks)


def a_tensor(dtype: str, shape: tuple[int, ...], seed: int = 0, scale: float = 0.02) -> Tensor:
    """Normal numbers, with a few zeros, denormals, infinities and NaN among them."""
    random = np.random.default_rng(seed)
    count = int(np.prod(shape))
    if dtypes.get(dtype).kind not in "fc" or not dtypes.get(dtype).numpy:
        data = random.integers(0, 4, dtypes.nbytes(dtype, shape), np.uint8)
        return Tensor(dtype, shape, data.tobytes())
    with np.errstate(all="ignore"):
        values = (scale * random.standard_normal(count)).astype(dtypes.numpy_dtype(dtype))
        values[: count // 7 : 5] = np.array(
            [0.0, -0.0, 1e-40, 3e-310, 6e-8, np.inf, np.nan]
        ).astype(values.dtype)[np.arange(len(values[: count // 7 : 5])) % 7]
    return Tensor(dtype, shape, values.tobytes())


def changed(tensor: Tensor, part: float, seed: int = 1) -> Tensor:
    """The tensor with some elements a few last digits higher or lower."""
    random = np.random.default_rng(seed)
    bits = tensor.bits().copy()
    where = random.random(len(bits)) < part
    bits[where] += random.integers(0, 200, int(where.sum())).astype(bits.dtype) - bits.dtype.type(
        100
    )
    return Tensor(tensor.dtype, tensor.shape, bits.tobytes())


@pytest.mark.parametrize("dtype", dtypes.names())
def test_dense(dtype: str) -> None:
    for shape in ((0,), (256,), (2, 512)):
        tensor = a_tensor(dtype, shape)
        assert decoded(
            "dense", tensor, joined(Dense().encode(tensor, None, "default")), None
        ) == bytes(tensor.data)


@pytest.mark.parametrize("dtype", ["bf16", "f64", "c64", "u8"])
def test_dense_in_frames(dtype: str) -> None:
    for shape in ((1100, 1000), (2, 1_100_000), (1_500_000,)):
        tensor = a_tensor(dtype, shape)
        payload = joined(Dense().encode(tensor, None, "default"))
        assert decoded("dense", tensor, payload, None) == bytes(tensor.data)


@pytest.mark.parametrize("level", ["default", "best"])
def test_delta_and_sparse_in_frames(level: Level) -> None:
    base = a_tensor("f32", (600, 700))
    for part, update in ((0.9, Delta()), (0.01, Sparse()), (0.2, Sparse())):
        tensor = changed(base, part)
        payload = joined(update.encode(tensor, base, level))
        assert decoded(update.name, tensor, payload, base) == bytes(tensor.data)
    bits = base.bits().copy()
    bits[:3] ^= 1
    tensor = Tensor("f32", base.shape, bits.tobytes())
    payload = joined(Sparse().encode(tensor, base, level))
    assert decoded("sparse", tensor, payload, base) == bytes(tensor.data)
    assert payload.endswith(bytes(4) + (6 + 8).to_bytes(4, "little")), "the second frame is empty"


def test_delta_of_aligned_rows_in_frames() -> None:
    base = a_tensor("f32", (900, 512), scale=1.0)
    rows = np.frombuffer(base.data, np.float32).reshape(900, 512)
    more = np.frombuffer(a_tensor("f32", (700, 512), seed=9).data, np.float32).reshape(700, 512)
    new = np.concatenate([rows[500:], more[:30], rows[:450], more[30:]])
    tensor = Tensor("f32", new.shape, new.tobytes())
    payload = joined(Delta().encode(tensor, base, "default"))
    assert payload[0] & 2
    assert decoded("delta", tensor, payload, base) == bytes(tensor.data)


def test_factors_with_frames_behind_them() -> None:
    base, random = a_tensor("bf16", (800, 700)), np.random.default_rng(4)
    left, right = random.standard_normal((800, 2)), random.standard_normal((2, 700))
    for encode, parts, update in (
        (encode_low_rank, (left, right, 0.01), "low-rank"),
        (encode_ia3, (1 + left[:, :1] / 10,), "ia3"),
    ):
        made, _ = encode(None, base, *parts)
        tensor = changed(made, 0.1)
        _, encoded = encode(tensor, base, *parts)
        with np.errstate(all="ignore"):
            assert decoded(update, tensor, joined(encoded), base) == bytes(tensor.data)


@pytest.mark.parametrize("level", ["default", "best"])
@pytest.mark.parametrize(
    "dtype", ["f16", "bf16", "f32", "f64", "c64", "i32", "u8", "bool", "f8_e4m3fn", "q4_0"]
)
def test_delta_in_place(dtype: str, level: Level) -> None:
    base = a_tensor(dtype, (640, 512))
    tensor = changed(base, 0.9)
    assert decoded("delta", tensor, joined(Delta().encode(tensor, base, level)), base) == bytes(
        tensor.data
    )


@pytest.mark.parametrize("source", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("target", ["f16", "bf16", "f32", "f64"])
def test_delta_from_another_float_type(source: str, target: str) -> None:
    base, tensor = a_tensor(source, (64, 64)), a_tensor(target, (64, 64))
    assert decoded("delta", tensor, joined(Delta().encode(tensor, base, "default")), base) == bytes(
        tensor.data
    )


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
def test_delta_with_decay(dtype: str) -> None:
    base = a_tensor(dtype, (256, 256))
    factor = 0.9 if dtype == "f64" else float(np.float32(0.9))
    bits = base.bits()
    for _ in range(3):
        with np.errstate(all="ignore"):
            bits = floats.narrow(floats.widen(bits, dtype) * factor, dtype)
    tensor = Tensor(dtype, base.shape, bits.tobytes())
    payload = joined(Delta().encode(tensor, base, "default"))
    with np.errstate(all="ignore"):
        assert decoded("delta", tensor, payload, base) == bytes(tensor.data)
    assert payload[0] & 8


def test_delta_of_aligned_rows() -> None:
    base = a_tensor("f32", (300, 64), scale=1.0)
    rows = np.frombuffer(base.data, np.float32).reshape(300, 64)
    more = np.frombuffer(a_tensor("f32", (7, 64), seed=9).data, np.float32).reshape(7, 64)
    new = np.concatenate([rows[200:], more[:3], rows[:150], more[3:]])
    tensor = Tensor("f32", new.shape, new.tobytes())
    payload = joined(Delta().encode(tensor, base, "default"))
    assert payload[0] & 2
    assert decoded("delta", tensor, payload, base) == bytes(tensor.data)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.2])
def test_sparse(part: float) -> None:
    base = a_tensor("bf16", (300, 300))
    tensor = changed(base, part)
    assert decoded(
        "sparse", tensor, joined(Sparse().encode(tensor, base, "default")), base
    ) == bytes(tensor.data)


def test_sparse_by_bits() -> None:
    base = a_tensor("u16", (100_000,))
    bits = base.bits().copy()
    bits[1000:20_000] ^= 1
    tensor = Tensor("u16", base.shape, bits.tobytes())
    payload = joined(Sparse().encode(tensor, base, "default"))
    assert payload[0] == 2
    assert decoded("sparse", tensor, payload, base) == bytes(tensor.data)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("given_result", [False, True])
def test_low_rank(dtype: str, given_result: bool) -> None:
    random = np.random.default_rng(2)
    base = a_tensor(dtype, (60, 10, 9))
    left, right = random.standard_normal((60, 3)), random.standard_normal((3, 90))
    tensor, _ = encode_low_rank(None, base, left, right, 0.01)
    tensor = changed(tensor, 0.3) if given_result else tensor
    _, encoded = encode_low_rank(tensor if given_result else None, base, left, right, 0.01)
    with np.errstate(all="ignore"):
        assert decoded("low-rank", tensor, joined(encoded), base) == bytes(tensor.data)
    assert LowRank().decode(memoryview(joined(encoded)), tensor.spec, base) == tensor.data


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("shape", [(40, 1, 1), (30, 1), (50,), (1, 30, 50), (1,)])
def test_ia3(dtype: str, shape: tuple[int, ...]) -> None:
    base = a_tensor(dtype, (40, 30, 50))
    channels = 1 + 0.1 * np.random.default_rng(3).standard_normal(shape)
    tensor, encoded = encode_ia3(None, base, channels)
    with np.errstate(all="ignore"):
        assert decoded("ia3", tensor, joined(encoded), base) == bytes(tensor.data)
        tensor = changed(tensor, 0.1)
        _, encoded = encode_ia3(tensor, base, channels)
        assert decoded("ia3", tensor, joined(encoded), base) == bytes(tensor.data)
    assert IA3().decode(memoryview(joined(encoded)), tensor.spec, base) == tensor.data


@pytest.mark.parametrize("old", [b"", b"short", b"a longer text " * 40])
def test_patch(old: bytes) -> None:
    new = b"before " + old + b"and behind"
    base, tensor = Tensor("u8", (len(old),), old), Tensor("u8", (len(new),), new)
    assert decoded("patch", tensor, joined(Patch().encode(tensor, base, "default")), base) == new


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("abc/", min_size=1, max_size=6), st.binary(max_size=300), st.booleans()),
        max_size=6,
        unique_by=lambda e: e[0],
    )
)
def test_skeletons_with_derived_checksums(entries: list[tuple[str, bytes, bool]]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data, deflated in entries:
            archive.writestr(
                zipfile.ZipInfo(name),
                data,
                zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED,
            )
    file = buffer.getvalue()
    source = BytesSource(file)
    layout = StoredZipFormat().scan(source)
    tensors = [source.read(extent.offset, extent.length) for extent in layout.extents]
    cut = skeleton.cut(layout, source, [zlib.crc32(data) for data in tensors])
    assert reader.splice(cut, len(file), tensors) == file
    stored_entries = sum(1 for _, data, deflated in entries if data and not deflated)
    assert len(skeleton.parse(cut, len(file), list(map(len, tensors))).checksums) >= stored_entries


@given(
    st.text("abcdefghij", min_size=1, max_size=8),
    st.lists(st.integers(0, 2**40), max_size=5),
    st.integers(0, 4095),
)
def test_object_headers(update: str, shape: list[int], part: int) -> None:
    shape = [n % 1000 for n in shape]
    spec, payload = Spec("f32", tuple(shape)), b"payload"
    length = len(payload) if spec.nbytes < objects.BUNDLED else 0
    data = objects.dump(objects.Header(update, spec, "ab" * 32, part, length)) + payload
    assert reader.header(data) == (update, "f32", tuple(shape), part, "ab" * 32, payload)


def test_a_payload_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from git_theta.store.local import LocalStore
    from git_theta.workflows import chains

    monkeypatch.setattr(objects, "PART_SIZE", 100_000)
    store, tensor = LocalStore(tmp_path / "objects"), a_tensor("f32", (600, 500))
    payload = chains.Payload("dense", chunks(tensor.spec, [memoryview(tensor.data)], "default"))
    target = chains.PayloadTarget(store, Settings())
    (link,) = chains.stage(target, tensor.spec, digest(tensor.data), payload).seal()
    store.flush()
    entry = manifest.Entry("t", "f32", (600, 500), digest(tensor.data), (link,))
    text = manifest.dump(
        manifest.Manifest(
            "x", 1_200_000, manifest.Entry.of_inline("skeleton", "u8", (0,), b""), (entry,), {}
        )
    ).decode()
    found = {ref.oid: ref for ref in link.objects}
    assert len(found) > 5
    assert reader.tensor(text.splitlines()[-1], lambda oid: store.read(found[oid])) == tensor.data


def test_the_header_is_laid_out_as_the_page_says() -> None:
    assert (
        objects.dump(objects.Header("dense", Spec("bf16", (300,)), "ab" * 32, 2, 300))
        == b"GTO1\x05dense\x04bf16\x01\xac\x02\x02" + b"\xab" * 32 + b"\xac\x02"
    )
