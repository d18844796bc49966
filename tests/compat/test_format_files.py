"""What is built, loaded by the frameworks' own readers; and their own writers' files, as they see
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from git_theta.checkpoints.flax_msgpack import FlaxMsgpackFormat
from git_theta.checkpoints.gguf import GgufFormat
from git_theta.checkpoints.hdf5 import Hdf5Format
from git_theta.checkpoints.onnx import OnnxFormat
from git_theta.checkpoints.torch.legacy_archive import TorchLegacyFormat
from git_theta.core.source import BytesSource
from git_theta.core.tensors import Tensor

DATA = Path(__file__).parents[1] / "data" / "formats"


def read(name: str) -> bytes:
    return (DATA / name).read_bytes()


def tensors(fmt: Any, data: bytes) -> dict[str, Tensor]:
    return {
        e.name: Tensor(e.dtype, e.shape, data[e.offset : e.end])
        for e in fmt.scan(BytesSource(data)).extents
    }


@pytest.mark.parametrize("like", [True, False])
def test_gguf_loads_what_is_built(tmp_path: Path, like: bool) -> None:
    gguf = pytest.importorskip("gguf")
    old = read("small.gguf")
    wanted = tensors(GgufFormat(), old)
    del wanted["half"]
    wanted["new"] = Tensor.from_array(np.arange(10, dtype=np.float32).reshape(2, 5))
    path = tmp_path / "built.gguf"
    path.write_bytes(bytes(GgufFormat().build(wanted, BytesSource(old) if like else None)))
    reader = gguf.GGUFReader(path)
    assert [tensor.name for tensor in reader.tensors] == list(wanted)
    assert {tensor.name: tensor.data.tobytes() for tensor in reader.tensors} == {
        name: bytes(t.data) for name, t in wanted.items()
    }
    assert ("general.architecture" in reader.fields) == like


@pytest.mark.parametrize("name", ["small.h5", "latest.h5", "long.h5"])
def test_h5py_has_the_same_places(name: str) -> None:
    h5py = pytest.importorskip("h5py")
    layout = Hdf5Format().scan(BytesSource(read(name)))
    found = {alias: extent for extent in layout.extents for alias in (extent.name, *extent.aliases)}
    places: dict[str, tuple[int, int]] = {}

    def visit(path: str, item: Any) -> None:
        if (
            isinstance(item, h5py.Dataset)
            and item.id.get_offset() is not None
            and item.id.get_storage_size()
        ):
            places[path] = (item.id.get_offset(), item.id.get_storage_size())

    with h5py.File(DATA / name) as file:
        file.visititems(visit)
    assert places
    assert (
        places.items()
        <= {path: (extent.offset, extent.length) for path, extent in found.items()}.items()
    )


def test_msgpack_reads_what_is_built() -> None:
    msgpack = pytest.importorskip("msgpack")
    old = read("small.msgpack")
    wanted = tensors(FlaxMsgpackFormat(), old)
    wanted["params/new/kernel"] = Tensor.from_array(np.arange(4, dtype=np.float64).reshape(2, 2))

    def array(code: int, data: bytes) -> Any:  # as flax.serialization does it
        if code == 2:
            return complex(*msgpack.unpackb(data))
        shape, kind, raw = msgpack.unpackb(data, raw=True)
        return (kind.decode(), tuple(shape), raw)

    tree = msgpack.unpackb(
        bytes(FlaxMsgpackFormat().build(wanted, BytesSource(old))), ext_hook=array, raw=False
    )
    assert tree["params"]["new"]["kernel"] == (
        "float64",
        (2, 2),
        bytes(wanted["params/new/kernel"].data),
    )
    assert tree["step"] == ("int32", (), bytes(wanted["step"].data))
    assert (tree["complex"], tree["note"], tree["rate"]) == (1 + 2j, "text", 0.5)


# The third file holds uint16, which torch writes in this form but cannot load from it.
@pytest.mark.parametrize("name", ["training-legacy.pt", "protocol4-legacy.pt"])
@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
def test_torch_sees_the_same_values_in_old_files(name: str) -> None:
    torch = pytest.importorskip("torch")
    found: dict[str, Any] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[path or "tensor"] = value
        elif isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                walk(f"{path}.{key}" if path else str(key), inner)

    walk("", torch.load(DATA / name, weights_only=False))
    cut = tensors(TorchLegacyFormat(), read(name))
    assert cut.keys() <= found.keys()
    for path, tensor in cut.items():
        assert bytes(found[path].contiguous().flatten().view(torch.uint8).numpy()) == bytes(
            tensor.data
        ), path


def test_what_onnx_writes(tmp_path: Path) -> None:
    """Initializers, a constant of a node, one value after the other, half-precision numbers, a
    sparse tensor, a branch, other files.
    """
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    held: dict[str, np.ndarray] = {
        "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "half": np.arange(5, dtype=np.float16),
        "brain": np.arange(6).astype(ml_dtypes.bfloat16),
        "index": np.arange(7),
        "mask": np.array([True, False]),
    }
    kind = onnx.TensorProto
    coded = [
        helper.make_tensor("floats", kind.FLOAT, [3], [1.5, 2.5, 3.5]),
        helper.make_tensor("longs", kind.INT64, [2], [1, 300]),
    ]
    inner = helper.make_graph(
        [], "inner", [], [], [numpy_helper.from_array(np.ones(4, np.float32), "inside")]
    )
    nodes = [
        helper.make_node(
            "Constant", [], ["konst"], value=numpy_helper.from_array(np.full(3, 7.0), "")
        ),
        helper.make_node(
            "If", ["x"], ["y"], then_branch=inner, else_branch=helper.make_graph([], "none", [], [])
        ),
    ]
    weights = [*(numpy_helper.from_array(value, name) for name, value in held.items()), *coded]
    model = helper.make_model(helper.make_graph(nodes, "graph", [], [], weights))
    onnx.save(model, tmp_path / "model.onnx")
    data = (tmp_path / "model.onnx").read_bytes()
    assert OnnxFormat().sniff(data[:4096])
    found = tensors(OnnxFormat(), data)
    assert [name for name in found if name not in held] == [
        "konst.value",
        "inside",
        "floats",
        "longs",
    ]
    for name, value in held.items():
        assert found[name] == Tensor.from_array(value), name
    assert found["konst.value"].array().tolist() == [7.0] * 3
    assert found["inside"].array().tolist() == [1.0] * 4
    assert found["floats"].array().tolist() == [1.5, 2.5, 3.5]
    assert found["longs"].dtype == "u8"

    onnx.save(
        model,
        tmp_path / "split.onnx",
        save_as_external_data=True,
        location="values.bin",
        size_threshold=0,
    )
    (tmp_path / "values.bin").unlink()  # nobody asks for it
    assert not set(held) & set(tensors(OnnxFormat(), (tmp_path / "split.onnx").read_bytes()))
