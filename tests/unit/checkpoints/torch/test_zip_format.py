"""Torch's zip files, without torch: the files in ``tests/data/torch`` are written by
``tests/data/make_torch_files.py``.
"""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from git_theta.checkpoints.containers.stored_zip import SKELETON_LIMIT
from git_theta.checkpoints.torch import pickle_reader, pickle_tree
from git_theta.checkpoints.torch.pickle_tree import NAME_LIMIT
from git_theta.checkpoints.torch.zip_format import TorchZipFormat
from git_theta.core import dtypes
from git_theta.core.contracts import CheckpointFormat
from git_theta.core.layout import Layout
from git_theta.core.source import BytesSource
from git_theta.errors import FormatError

FORMAT = TorchZipFormat()
DATA = Path(__file__).parents[3] / "data" / "torch"


def load(stem: str) -> bytes:
    return (DATA / f"{stem}.pt").read_bytes()


def scan(data: bytes) -> Layout:
    return FORMAT.scan(BytesSource(data))


def shown(data: bytes) -> dict[str, str]:
    """Type and shape by name, aliases with a star."""
    result: dict[str, str] = {}
    for extent in scan(data).extents:
        what = dtypes.describe(extent.dtype, extent.shape)
        result |= {extent.name: what} | dict.fromkeys(extent.aliases, what + "*")
    return result


def content(data: bytes, name: str) -> bytes:
    return next(
        data[extent.offset : extent.end]
        for extent in scan(data).extents
        if name in (extent.name, *extent.aliases)
    )


def counted(start: int, length: int) -> bytes:
    """The bytes that the script's ``filled`` puts into a tensor."""
    return bytes((start + number) % 256 for number in range(length))


# -- real files ------------------------------------------------------------------------------------


def test_every_type() -> None:
    data = load("types")
    own = {
        "complex32": "c32",
        "complex64": "c64",
        "complex128": "c128",
        "bool": "bool",
        "bfloat16": "bf16",
    }
    assert len(shown(data)) == 21
    for name, what in shown(data).items():
        short = own.get(name) or name.replace("float8", "f8").replace("uint", "u").replace(
            "int", "i"
        ).replace("float", "f")
        assert what == f"{short}[2,3]"
        expected = counted(17, dtypes.nbytes(short, (2, 3)))
        assert content(data, name) == (
            bytes(byte % 2 for byte in expected) if name == "bool" else expected
        )


def test_scalars_and_empty_tensors() -> None:
    assert shown(load("shapes")) == {
        "scalar": "f32[]",
        "empty": "f32[0,3]",
        "one": "f32[1]",
        "deep": "f32[1,2,1,2]",
        "half": "f16[0]",
    }
    assert content(load("shapes"), "deep") == counted(1, 16)


def test_nested_training_state() -> None:
    found = shown(load("training"))
    assert found["model.embed.weight"] == "f32[5,4]"
    assert found["model.head.weight"] == "f32[5,4]*"
    assert found["model.norm.num_batches_tracked"] == "i64[]"
    assert found["optimizer.state.0.exp_avg"] == "f32[5,4]"
    assert found["optimizer.state.2.step"] == "f32[]"
    assert found["rng.torch"] == "u8[64]"
    assert len(found) == 17


def test_views_share_the_extent_of_their_storage() -> None:
    data = load("views")
    assert shown(data) == {
        "base": "f32[4,3]",
        "same": "f32[4,3]*",
        "lone_transposed": "f32[6]",
        "part": "f32[10]",
        "channels_last": "f32[12]",
        "expanded": "f32[3]",
        "tile_a": "f32[4]",
        "tile_b": "f32[2,3]",
        "tile_c": "f32[2]",
        "tile_c_again": "f32[2]*",
    }
    assert [content(data, name) for name in ("tile_a", "tile_b", "tile_c")] == [
        counted(50, 16),
        counted(66, 24),
        counted(90, 8),
    ]
    assert content(data, "part") == counted(90, 40)


def test_containers_other_than_mappings() -> None:
    assert shown(load("list")) == {"0": "f32[2]", "1.a": "f32[3]", "2.0": "f32[1]"}
    assert shown(load("tensor")) == {"tensor": "f32[2,2]"}
    assert shown(load("parameters")) == {"p": "f32[2,2]", "b": "f32[2]"}
    assert shown(load("nothing")) == {}
    assert shown(load("protocol5")) == {"a": "f32[2]", "b.c": "f32[3]"}


def test_sparse_tensors() -> None:
    assert shown(load("sparse")) == {
        "coo.indices": "i64[2,2]",
        "coo.values": "f32[2]",
        "csr.compressed_indices": "i64[3]",
        "csr.plain_indices": "i64[2]",
        "csr.values": "f32[2]",
    }


def test_odd_names() -> None:
    data = load("names")
    assert shown(data) == {
        "tensor": "f32[1]",
        "a.b": "f32[2]",
        "a.b#2": "f32[3]",
        "7": "f32[1]",
        "../x\0\x1b[31m": "f32[1]",
    }
    assert content(data, "7") == counted(8, 4)


@pytest.mark.parametrize(
    "path", sorted(set(DATA.glob("*.pt")) - {DATA / "legacy.pt"}), ids=lambda path: path.stem
)
def test_real_files_splice_back_and_their_checksums_are_true(path: Path) -> None:
    data = path.read_bytes()
    layout = scan(data)
    spliced, position = b"", 0
    for extent in layout.extents:
        spliced += data[position : extent.offset] + data[extent.offset : extent.end]
        position = extent.end
    assert spliced + data[position:] == data
    entries = zipfile.ZipFile(path).infolist()
    # Torch puts none behind empty entries
    assert len(layout.checksums) == sum(2 if entry.file_size else 1 for entry in entries)
    for check in layout.checksums:
        assert int.from_bytes(data[check.offset : check.offset + 4], "little") == zlib.crc32(
            data[check.start : check.start + check.length]
        )
    assert FORMAT.sniff(data[:4096])


def test_the_legacy_form_is_not_a_zip() -> None:
    assert not FORMAT.sniff(load("legacy"))
    with pytest.raises(FormatError):
        scan(load("legacy"))


# -- made files ------------------------------------------------------------------------------------


def rewritten(
    data: bytes, method: int = zipfile.ZIP_STORED, skip: tuple[str, ...] = (), **changed: bytes
) -> bytes:
    """The same entries written by Python's zipfile; ``changed`` by the last part of the name."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            if name.rpartition("/")[2] not in skip:
                new.writestr(
                    zipfile.ZipInfo(name),
                    changed.get(name.rpartition("/")[2].replace(".", "_"), old.read(name)),
                    method,
                )
    return target.getvalue()


class _Persistent:
    """Stands for what a pickle refers to by id."""

    def __init__(self, key: str, kind: str, numel: object) -> None:
        self.id = ("storage", _Name("torch", kind), key, "cpu", numel)


class _Name:
    def __init__(self, module: str, name: str) -> None:
        self.text = f"c{module}\n{name}\n".encode()


def pickled(value: Any) -> bytes:
    """A pickle (protocol 2) of plain values, and of tensors as ``(function, arguments)`` pairs of a
    :class:`_Call`.
    """
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    if isinstance(value, _Name):
        return value.text
    if isinstance(value, _Persistent):
        return _opcodes(value.id) + b"Q"
    if isinstance(value, _Call):
        return (
            value.function.text
            + _opcodes(value.arguments)
            + b"R"
            + (_opcodes(value.state) + b"b" if value.state else b"")
        )
    if isinstance(value, dict):
        return (
            b"}(" + b"".join(_opcodes(key) + _opcodes(item) for key, item in value.items()) + b"u"
        )
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_opcodes, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    return pickle.dumps(value, 2)[2:-1]


class _Call:
    def __init__(self, name: str, *arguments: Any, module: str = "torch._utils") -> None:
        self.function, self.arguments = _Name(module, name), arguments
        self.state: Any = None


def tensor(
    key: str,
    shape: tuple[Any, ...],
    strides: tuple[Any, ...],
    offset: Any = 0,
    kind: str = "FloatStorage",
    numel: object = None,
) -> _Call:
    if numel is None:
        numel = max(1, *shape) if len(shape) < 2 else shape[0] * shape[1]
    return _Call(
        "_rebuild_tensor_v2", _Persistent(key, kind, numel), offset, shape, strides, False, None
    )


def torch_zip(
    tree: Any,
    storages: dict[str, bytes],
    root: str = "archive",
    byteorder: bytes = b"little",
    more: dict[str, bytes] | None = None,
) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr(f"{root}/data.pkl", tree if isinstance(tree, bytes) else pickled(tree))
        file.writestr(f"{root}/byteorder", byteorder)
        for key, data in storages.items():
            file.writestr(f"{root}/data/{key}", data)
        for name, data in (more or {}).items():
            file.writestr(name, data)
    return target.getvalue()


def test_entry_numbers_do_not_matter() -> None:
    tree = {"b": tensor("77", (2,), (1,)), "a": tensor("x", (3,), (1,))}
    data = torch_zip(tree, {"x": b"x" * 12, "77": b"7" * 8})
    assert shown(data) == {"a": "f32[3]", "b": "f32[2]"}
    assert content(data, "b") == b"7" * 8


def test_storages_without_a_name_are_called_after_their_entry() -> None:
    data = torch_zip(
        {"a": tensor("0", (2,), (1,))}, {"0": bytes(8), "1": bytes(3)}, root="my model"
    )
    assert shown(data) == {"a": "f32[2]", "data/1": "u8[3]"}


def test_a_name_without_a_storage_is_ignored() -> None:
    assert shown(torch_zip({"a": tensor("5", (2,), (1,))}, {"0": bytes(8)})) == {"data/0": "u8[8]"}


@pytest.mark.parametrize(
    "tree",
    [
        b"",
        b"garbage",
        b"\x80\x02}q\0X",
        b"}" * 1000 + b".",
        b"\x80\x06N.",
        pickled(None),
        pickled([1, "x"]),
    ],
)
def test_a_pickle_that_is_not_understood_costs_only_the_names(tree: bytes) -> None:
    assert shown(torch_zip(tree, {"0": bytes(8), "1": bytes(3)})) == {
        "data/0": "u8[8]",
        "data/1": "u8[3]",
    }


HUGE = 2**62
LIES = {
    "numel too small": tensor("0", (1,), (1,), numel=1),
    "numel too large": tensor("0", (3,), (1,), numel=3),
    "numel negative": tensor("0", (2,), (1,), numel=-2),
    "numel a float": tensor("0", (2,), (1,), numel=2.0),
    "numel huge": tensor("0", (2,), (1,), numel=2**63),
    "unknown storage": tensor("0", (2,), (1,), kind="StrangeStorage", numel=2),
}


@pytest.mark.parametrize("case", LIES)
def test_a_pickle_that_lies_about_sizes_leaves_plain_bytes(case: str) -> None:
    assert set(shown(torch_zip({"a": LIES[case]}, {"0": bytes(8)})).values()) == {"u8[8]"}


@pytest.mark.parametrize(
    "view",
    [
        tensor("0", (3,), (1,), numel=2),
        tensor("0", (2,), (1,), offset=1, numel=2),
        tensor("0", (HUGE, 4), (4, 1), numel=2),
        tensor("0", (HUGE, HUGE, 0), (0, 0, 1), numel=2),
        tensor("0", (0, HUGE, HUGE), (0, 0, 1), numel=2),
        tensor("0", (2,), (HUGE,), numel=2),
        tensor("0", (2,), (-1,), numel=2),
        tensor("0", (-2,), (1,), numel=2),
        tensor("0", (2.0,), (1,), numel=2),
        tensor("0", (True,), (1,), numel=2),
        tensor("0", (2,), (1, 1), numel=2),
        tensor("0", (2,), (1,), offset=2**70, numel=2),
        tensor("0", (1 << 9000,), (1,), numel=2),
        tensor("0", (1,) * 65, (1,) * 65, numel=2),
        _Call("_rebuild_tensor_v2"),
        _Call("_rebuild_tensor_v2", 1, 2, 3, 4),
        _Call(
            "_rebuild_tensor_v3",
            _Persistent("0", "UntypedStorage", 8),
            0,
            (2,),
            (1,),
            False,
            None,
            "no type",
        ),
        _Call("_rebuild_tensor_v3", _Persistent("0", "UntypedStorage", 8), 0, (2,), (1,)),
        _Call(
            "_rebuild_tensor_v3",
            _Persistent("0", "UntypedStorage", 7),
            0,
            (1,),
            (1,),
            False,
            None,
            _Name("torch", "float32"),
        ),
        _Call("_rebuild_sparse_tensor", 1, (2,)),
        _Call("_rebuild_qtensor", _Persistent("0", "QInt8Storage", 8), 0, (2,), (1,), ()),
        _Call("_rebuild_from_type_v2", 1),
        _Call("_rebuild_nested_tensor"),
        _Persistent("0", "FloatStorage", []),
    ],
)
def test_impossible_views_never_refuse_a_file(view: Any) -> None:
    found = scan(torch_zip({"a": view, "b": [view]}, {"0": bytes(8)})).extents
    assert [(extent.length, len(extent.shape)) for extent in found] == [(8, 1)]


def test_an_empty_tensor_of_impossible_shape_is_given_flat() -> None:
    data = torch_zip({"a": tensor("0", (HUGE, HUGE, 0), (0, 0, 1), numel=0)}, {"0": b""})
    assert shown(data) in ({"a": "f32[0]"}, {"data/0": "u8[0]"})


def test_quantized_tensors() -> None:
    scales, zeros = (
        tensor("1", (2,), (1,), kind="DoubleStorage"),
        tensor("2", (2,), (1,), kind="LongStorage"),
    )
    whole = _Call(
        "_rebuild_qtensor",
        _Persistent("0", "QInt8Storage", 4),
        0,
        (2, 2),
        (2, 1),
        (_Name("torch", "per_channel_affine"), scales, zeros, 0),
        False,
        None,
    )
    data = torch_zip({"w": whole}, {"0": bytes(4), "1": bytes(16), "2": bytes(16)})
    assert shown(data) == {"w": "i8[2,2]", "w.scales": "f64[2]", "w.zero_points": "i64[2]"}


def test_wrapped_tensors_keep_the_name() -> None:
    inner = tensor("0", (2,), (1,))
    for wrapped in (
        _Call("_rebuild_parameter", inner, True, None),
        _Call("_rebuild_parameter_with_state", inner, True, None, {}),
        _Call(
            "_rebuild_from_type_v2",
            inner.function,
            _Name("my", "Tensor"),
            inner.arguments,
            {},
            module="torch._tensor",
        ),
        _Call("_rebuild_nested_tensor", inner, None, None, None),
        _Call("my_function", inner, module="my"),
    ):
        assert shown(torch_zip({"w": wrapped}, {"0": bytes(8)})) == {"w": "f32[2]"}


def test_what_modules_and_distributed_tensors_hide() -> None:
    inner = tensor("0", (2,), (1,))
    module = _Call("_reconstruct", _Name("my", "Net"), module="copyreg")
    module.state = {"training": True, "_parameters": {"weight": inner}, "_modules": {}}
    assert shown(torch_zip({"net": module}, {"0": bytes(8)})) == {"net.weight": "f32[2]"}
    outer = _Name("torch._utils", "_rebuild_wrapper_subclass")
    wrapped = _Call(
        "_rebuild_from_type_v2",
        outer,
        _Name("torch", "DTensor"),
        (1, (2,)),
        (None, {"_local_tensor": inner}),
        module="torch._tensor",
    )
    assert shown(torch_zip({"d": wrapped}, {"0": bytes(8)})) == {"d": "f32[2]"}
    tagged = _Call(
        "_rebuild_parameter_with_state", inner, True, None, {"tag": tensor("1", (1,), (1,))}
    )
    assert shown(torch_zip({"p": tagged}, {"0": bytes(8), "1": bytes(4)})) == {
        "p": "f32[2]",
        "p.tag": "f32[1]",
    }


def test_types_of_the_untyped_storage() -> None:
    def view(dtype: str) -> _Call:
        storage = _Persistent("0", "UntypedStorage", 8)
        return _Call(
            "_rebuild_tensor_v3", storage, 0, (2,), (1,), False, None, _Name("torch", dtype)
        )

    assert shown(torch_zip({"a": view("uint32")}, {"0": bytes(8)})) == {"a": "u32[2]"}
    assert shown(torch_zip({"a": view("some_new_type")}, {"0": bytes(8)})) == {"a": "u8[8]"}


def test_constants_of_torchscript_have_names() -> None:
    constants = {
        "archive/constants.pkl": pickled((tensor("0", (2,), (1,)),)),
        "archive/constants/0": bytes(8),
    }
    data = torch_zip({"a": tensor("0", (1,), (1,))}, {"0": bytes(4)}, more=constants)
    assert shown(data) == {"a": "f32[1]", "constants.0": "f32[2]"}


def test_slices_of_a_distributed_checkpoint() -> None:
    data = torch_zip(tensor("0", (2,), (1,)), {"0": b"12345678"}) + torch_zip(
        tensor("0", (1,), (1,)), {"0": b"abcd"}
    )
    assert shown(data) == {"tensor": "f32[2]", "tensor#2": "f32[1]"}
    assert content(data, "tensor#2") == b"abcd"


def test_all_pickles_of_a_file_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    one = torch_zip({"a": tensor("0", (2,), (1,))}, {"0": bytes(8)})
    assert list(shown(one * 3)) == ["a", "a#2", "a#3"]
    monkeypatch.setattr(pickle_reader, "SIZE_LIMIT", 300)
    assert list(shown(one * 3)) == ["a", "a#2", "data/0"]


def test_bare_storages_are_flat() -> None:
    assert shown(torch_zip([_Persistent("0", "HalfStorage", 4)], {"0": bytes(8)})) == {
        "0": "f16[4]"
    }


def test_tiles_must_cover_their_storage_exactly() -> None:
    def tile(offset: int, *shape: int) -> _Call:
        return tensor("0", shape, (shape[1], 1) if len(shape) == 2 else (1,), offset, numel=10)

    def split(*tiles: _Call) -> list[tuple[str, str]]:
        return list(shown(torch_zip(list(tiles), {"0": bytes(40)})).items())

    assert split(tile(6, 4), tile(0, 3, 2)) == [("1", "f32[3,2]"), ("0", "f32[4]")]
    assert split(tile(0, 5), tile(5, 5), tile(0, 5)) == [
        ("0", "f32[5]"),
        ("2", "f32[5]*"),
        ("1", "f32[5]"),
    ]
    assert split(tile(0, 5), tile(5, 4)) == [("0", "f32[10]")]  # a byte is missing
    assert split(tile(0, 5), tile(4, 6)) == [("0", "f32[10]")]  # they overlap
    assert split(tile(1, 9)) == [("0", "f32[10]")]
    # Two of another size at one place
    assert split(tile(0, 5), tile(5, 5), tile(0, 4)) == [("0", "f32[10]")]
    assert split(tile(0, 5), tile(5, 5), tile(0, 10)) == [("2", "f32[10]")]  # the whole comes first
    assert split(tile(0, 5), tile(0, 0), tile(5, 5)) == [("0", "f32[5]"), ("2", "f32[5]")]


def test_tied_names_are_aliases_only_in_the_same_shape() -> None:
    data = torch_zip(
        {
            "a": tensor("0", (2, 2), (2, 1)),
            "b": tensor("0", (2, 2), (2, 1)),
            "c": tensor("0", (2, 2), (1, 2)),
            "d": tensor("0", (4,), (1,)),
        },
        {"0": bytes(16)},
    )
    assert shown(data) == {"a": "f32[2,2]", "b": "f32[2,2]*"}


def test_big_endian_values_are_plain_bytes() -> None:
    data = torch_zip({"a": tensor("0", (2,), (1,))}, {"0": bytes(8)}, byteorder=b"big")
    assert shown(data) == {"a": "u8[8]"}


def test_packed_files_have_no_extents() -> None:
    data = rewritten(load("training"), zipfile.ZIP_DEFLATED)
    assert scan(data).extents == ()
    assert shown(rewritten(load("training"))) == shown(load("training"))


def test_large_entries_are_not_left_to_the_skeleton() -> None:
    data = torch_zip(
        {"a": tensor("0", (2,), (1,))},
        {"0": bytes(8)},
        more={"archive/extra": bytes(SKELETON_LIMIT + 1)},
    )
    assert shown(data) == {"a": "f32[2]", "extra": f"u8[{SKELETON_LIMIT + 1}]"}


def test_an_archive_of_another_kind_is_cut_by_its_entries() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for name in ("a/data.pkl", "b/data.pkl", "a/data/0"):
            file.writestr(name, b"1234")
    assert shown(target.getvalue()) == {
        "a/data.pkl": "u8[4]",
        "b/data.pkl": "u8[4]",
        "a/data/0": "u8[4]",
    }


def test_other_folders_of_storages() -> None:
    more = {
        "archive/constants/0": bytes(4),
        "archive/.data/7.storage": bytes(5),
        "archive/.data/serialization_id": b"1",
        "archive/code/x.py": b"",
    }
    assert shown(torch_zip({}, {}, more=more)) == {
        "constants/0": "u8[4]",
        ".data/7.storage": "u8[5]",
    }


@pytest.mark.parametrize("cut", [1, 30, 100, 400])
def test_a_truncated_file_is_refused(cut: int) -> None:
    with pytest.raises(FormatError):
        scan(load("training")[:-cut])


def test_names_are_bounded() -> None:
    deep: Any = tensor("0", (2,), (1,))
    for _ in range(300):
        deep = {"x" * 50: deep}
    long = {"y" * 5000: tensor("1", (2,), (1,)), "y" * 5001: tensor("2", (2,), (1,))}
    data = torch_zip([deep, long], {"0": bytes(8), "1": bytes(8), "2": bytes(8)})
    names = list(shown(data))
    assert names[0] == "data/0"
    assert all(len(name) <= NAME_LIMIT + 2 for name in names)
    assert len(set(names)) == 3


@pytest.mark.parametrize("limit", ["NAMES_LIMIT", "VIEWS_LIMIT"])
def test_one_storage_under_very_many_names(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(pickle_tree, limit, 1000)
    one = pickled(tensor("0", (2,), (1,)))[2:-1]
    data = torch_zip(b"\x80\x02](" + one + b"q\0" + b"h\0" * 20_000 + b"e.", {"0": bytes(8)})
    (extent,) = scan(data).extents
    assert extent.name == "0"
    assert len(extent.aliases) < 1000


class Sparse:
    """A huge file of zeros with a few spots written."""

    def __init__(self, size: int, spots: dict[int, bytes]) -> None:
        self.size, self.spots = size, spots

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size
        assert length < 100_000
        result = bytearray(length)
        for at, data in self.spots.items():
            start, end = max(at, offset), min(at + len(data), offset + length)
            if start < end:
                result[start - offset : end - offset] = data[start - at : end - at]
        return bytes(result)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.read(offset, len(buffer))


def huge_torch_file(contents: list[tuple[str, int, bytes]]) -> Sparse:
    """What torch 2.13 writes for ``(name, size, first bytes)``: zip64 fields only where needed,
    24-byte descriptors from 4 GiB on.
    """
    full, position, spots, central = 2**32 - 1, 0, {}, b""
    for name, size, data in contents:
        path, header = f"r/{name}".encode(), position
        wide = struct.pack("<QQ", size, size) if size >= full else b""
        wide += struct.pack("<Q", header) if header >= full else b""
        extra = struct.pack("<HH", 1, len(wide)) + wide if wide else b""
        padding = -(header + 30 + len(path) + len(extra) + 4) % 64
        local = struct.pack(
            "<4sHHHIIIIHH", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, len(path), len(extra) + 4 + padding
        )
        spots[header] = (
            local + path + extra + struct.pack("<2sH", b"FB", padding) + b"Z" * padding + data
        )
        position = header + len(local) + len(path) + len(extra) + 4 + padding + size
        descriptor = struct.pack("<QQ" if wide else "<II", size, size)
        spots[position] = b"PK\7\x08" + zlib.crc32(data).to_bytes(4, "little") + descriptor
        position += 8 + len(descriptor)
        sizes = (full, full) if size >= full else (size, size)
        fields = (
            0,
            0,
            0x808,
            0,
            0,
            0,
            zlib.crc32(data),
            *sizes,
            len(path),
            len(extra),
            0,
            0,
            0,
            0,
            min(header, full),
        )
        central += struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields) + path + extra
    numbers = (len(contents), len(contents), len(central), position)
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0x31E, 45, 0, 0, *numbers)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, position + len(central), 1)
    end += struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, *numbers[:3], min(position, full), 0)
    spots[position] = central + end
    return Sparse(position + len(central) + len(end), spots)


def test_storages_over_4_gib_are_found() -> None:
    count = (5 << 30) // 4
    tree = pickled(
        {
            "a": tensor("0", (3,), (1,)),
            "big": tensor("1", (count,), (1,)),
            "z": tensor("2", (2,), (1,)),
        }
    )
    sizes = [
        ("data.pkl", len(tree), tree),
        ("byteorder", 6, b"little"),
        ("data/0", 12, bytes(12)),
        ("data/1", count * 4, b""),
        ("data/2", 8, bytes(8)),
    ]
    layout = FORMAT.scan(huge_torch_file(sizes))
    assert [
        (extent.name, extent.dtype, extent.shape, extent.offset % 64) for extent in layout.extents
    ] == [
        ("a", "f32", (3,), 0),
        ("big", "f32", (count,), 0),
        ("z", "f32", (2,), 0),
    ]
    assert layout.extents[2].offset > 5 << 30
    assert len(layout.checksums) == 10


# -- detection -------------------------------------------------------------------------------------


def head(name: str, padded: bool = True) -> bytes:
    extra = b"FB\4\0ZZZZ" if padded else b""
    return (
        struct.pack("<4sHHHIIIIHH", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, len(name), len(extra))
        + name.encode()
        + extra
        + bytes(50)
    )


@pytest.mark.parametrize(
    "name",
    [
        "a/data.pkl",
        "a/version",
        "a/data/0",
        "a/.format_version",
        "a/constants.pkl",
        "a/code/x.py",
        "a/extra/y",
        "a/.data/version",
    ],
)
def test_sniffs_what_torch_writes_first(name: str) -> None:
    assert FORMAT.sniff(head(name))
    assert FORMAT.sniff(head(name, padded=False)) == (name == "a/data.pkl")


def test_sniffs_nothing_else() -> None:
    for other in (
        b"",
        b"PK",
        b"PK\3\4",
        b"PK\5\6",
        head("arr_0.npy"),
        head("model/x/data/0", padded=False),
        head("a/readme"),
        b"\x80\x02a/data.pkl",
    ):
        assert not FORMAT.sniff(other)
    assert isinstance(FORMAT, CheckpointFormat)


# -- hostile input ---------------------------------------------------------------------------------

_SEEDS = [load(stem) for stem in ("list", "views", "protocol5", "sparse")]


@st.composite
def _mutants(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(_SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(["set", "flip", "insert", "delete", "cut", "number"]))
        if change == "set" and where < len(data):
            data[where] = draw(st.integers(0, 255))
        elif change == "flip" and where < len(data):
            data[where] ^= 1 << draw(st.integers(0, 7))
        elif change == "insert":
            data[where:where] = draw(
                st.sampled_from([b"PK\3\4", b"PK\1\2", b"PK\5\6", b"\0", b"q\0", b"R", b"."])
            )
        elif change == "delete":
            del data[where : where + draw(st.integers(1, 9))]
        elif change == "cut" and draw(st.booleans()):
            del data[where:]
        else:
            data[where : where + 4] = struct.pack(
                "<I", draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, len(data)]))
            )
    return bytes(data)


@given(_mutants())
@settings(max_examples=300)
def test_mutants_are_cut_exactly_or_refused(data: bytes) -> None:
    FORMAT.sniff(data[:4096])
    try:
        layout = scan(data)
    except FormatError as error:
        assert str(error).isprintable()  # noqa: PT017 - both outcomes are fine
        return
    spliced, position = b"", 0
    for extent in layout.extents:
        assert extent.offset >= position
        spliced += data[position : extent.offset] + data[extent.offset : extent.end]
        position = extent.end
    assert spliced + data[position:] == data


def test_scanning_needs_no_numpy() -> None:
    code = (
        "import sys; before = set(sys.modules);"  # coverage has imported more
        " from git_theta.checkpoints.torch.zip_format import TorchZipFormat; from"
        " git_theta.core.source import"
        f" FileSource;TorchZipFormat().scan(FileSource({str(DATA / 'training.pt')!r}));"
        " sys.exit(bool({'numpy', 'pickle'} & (set(sys.modules) - before)))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_names_survive_a_pickle_too_large_to_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "SIZE_LIMIT", 4000)
    data = torch_zip({"buffer": "x" * 5000, "a": tensor("0", (2,), (1,))}, {"0": bytes(8)})
    assert shown(data) == {"a": "f32[2]"}
    assert scan(data).notices == ()


def test_a_file_whose_tensors_get_no_names_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    (notice,) = scan(torch_zip(b"garbage", {"0": bytes(8)})).notices
    assert "no names and types" in notice
    assert scan(torch_zip(b"garbage", {})).notices == ()
    monkeypatch.setattr(pickle_reader, "SIZE_LIMIT", 4000)
    data = torch_zip({"buffer": ["x" * 900] * 9, "a": tensor("0", (2,), (1,))}, {"0": bytes(8)})
    assert shown(data) == {"data/0": "u8[8]"}
    (notice,) = scan(data).notices
    assert "larger than 4000 bytes" in notice
