"""Writes the small files of ``formats/`` with the frameworks' own writers: ``python
tests/data/make_format_files.py``.

Written with gguf 0.19, h5py 3.16, msgpack 1.2, numpy 2.4, ml_dtypes 0.6, onnx 1.23.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent / "formats"


def ramp(shape: tuple[int, ...], dtype: str = "float32", start: int = 1) -> np.ndarray:
    """Values that count up from ``start``."""
    return (np.arange(int(np.prod(shape))) + start).astype(dtype).reshape(shape)


def gguf_file() -> None:
    import gguf

    writer = gguf.GGUFWriter(HERE / "small.gguf", "llama")
    writer.add_context_length(128)
    writer.add_token_list(["<s>", "a", "été"])
    writer.add_array("scores", [0.5, 1.5])
    writer.add_tensor("token_embd.weight", ramp((3, 32)))
    writer.add_tensor(
        "blk.0.attn_q.weight",
        gguf.quants.quantize(ramp((2, 64)), gguf.GGMLQuantizationType.Q8_0),
        raw_dtype=gguf.GGMLQuantizationType.Q8_0,
    )
    writer.add_tensor(
        "blk.0.attn_k.weight",
        gguf.quants.quantize(ramp((2, 64)), gguf.GGMLQuantizationType.Q4_0),
        raw_dtype=gguf.GGMLQuantizationType.Q4_0,
    )
    writer.add_tensor("half", ramp((5,), "float16"))
    writer.add_tensor(
        "brain",
        gguf.quants.quantize(ramp((2, 3)), gguf.GGMLQuantizationType.BF16),
        raw_dtype=gguf.GGMLQuantizationType.BF16,
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    writer = gguf.GGUFWriter(HERE / "big-endian.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_custom_alignment(64)
    writer.add_tensor("w", ramp((3, 4)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def numpy_files() -> None:
    import ml_dtypes

    np.save(HERE / "plain.npy", ramp((3, 4)))
    np.save(HERE / "fortran.npy", np.asfortranarray(ramp((3, 4))))
    np.save(HERE / "big.npy", ramp((3,), ">f8"))
    np.save(HERE / "objects.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    np.save(HERE / "records.npy", np.zeros(3, dtype=[("x", "<f4"), ("y", "<i8", (2,))]))
    np.save(HERE / "bfloat.npy", ramp((2, 3)).astype(ml_dtypes.bfloat16))
    with (HERE / "two.npy").open("wb") as file:
        np.save(file, ramp((2,)))
        np.save(file, ramp((1, 2), "int64"))
    with (HERE / "version3.npy").open("wb") as file:
        np.lib.format.write_array(file, ramp((2, 2), "uint16"), version=(3, 0))
    arrays: dict[str, Any] = {
        "w": ramp((4, 3)),
        "layer/b": ramp((3,), "float64"),
        "n": np.int64(7),
        "f": np.asfortranarray(ramp((2, 5))),
        "s": np.array("abc"),
    }
    np.savez(HERE / "small.npz", **arrays)
    np.savez_compressed(HERE / "packed.npz", **arrays)


def onnx_file() -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    def made(values: np.ndarray, name: str, kind: int, raw: bool = False) -> TensorProto:
        return helper.make_tensor(
            name, kind, values.shape, values.tobytes() if raw else values.flatten().tolist(), raw
        )

    away = TensorProto(
        name="away", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    away.external_data.add(key="location", value="../../etc/passwd")
    body = helper.make_graph(
        [
            helper.make_node(
                "Constant", [], ["inner"], value=made(ramp((2,)), "", TensorProto.FLOAT)
            )
        ],
        "body",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [2])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(ramp((3,), "int64"))),
        helper.make_node("If", ["yes"], ["z"], then_branch=body, else_branch=body),
    ]
    initializers = [
        numpy_helper.from_array(ramp((3, 4)), "w"),
        made(ramp((2, 2)), "floats", TensorProto.FLOAT),
        made(ramp((3,), "float64"), "doubles", TensorProto.DOUBLE),
        made(ramp((3,), "int32"), "coded", TensorProto.INT32),
        made(ramp((2, 3), "uint16"), "brain", TensorProto.BFLOAT16, True),
        away,
    ]
    sparse = helper.make_sparse_tensor(
        made(ramp((2,)), "sparse", TensorProto.FLOAT),
        numpy_helper.from_array(ramp((2,), "int64")),
        [9],
    )
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])]
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, initializers, sparse_initializer=[sparse]
    )
    save(
        helper.make_model(graph, producer_name="test", opset_imports=[helper.make_opsetid("", 17)]),
        HERE / "small.onnx",
    )


def flax_file() -> None:
    """As ``flax.serialization.msgpack_serialize`` does it, with msgpack's own packer."""
    import ml_dtypes
    import msgpack

    def array(values: np.ndarray) -> bytes:
        parts = (values.shape, values.dtype.name, values.tobytes())
        return bytes(msgpack.packb(parts, use_bin_type=True))

    def pack(value: Any) -> object:
        if isinstance(value, np.ndarray):
            return msgpack.ExtType(1, array(value))
        if isinstance(value, np.generic):
            return msgpack.ExtType(3, array(np.asarray(value)))
        return msgpack.ExtType(2, msgpack.packb((value.real, value.imag)))

    chunks = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 2, "1": 3},
        "chunks": {"0": ramp((4,)), "1": ramp((2,))},
    }
    tree = {
        "params": {
            "dense": {"kernel": ramp((4, 3)), "bias": ramp((3,)).astype(ml_dtypes.bfloat16)},
            "big": chunks,
        },
        "step": np.int32(7),
        "rate": 0.5,
        "complex": 1 + 2j,
        "empty": {},
        "note": "text",
        "long": ramp((100,), "int64"),
        "list": [1, None, True, -5, 70000, {"a": b"x"}],
    }
    (HERE / "small.msgpack").write_bytes(msgpack.packb(tree, default=pack, strict_types=True))


def hdf5_files() -> None:
    import h5py

    with h5py.File(HERE / "small.h5", "w") as f:
        g = f.create_group("layers/dense/vars")
        g.create_dataset("0", data=ramp((3, 4)))
        g.create_dataset("1", data=ramp((4,), "float16"))
        f["layers"].attrs["keras_version"] = "3.15"
        f["layers"].attrs["names"] = np.array([b"a", b"bc"])
        f.create_dataset("scalar", data=np.int64(7))
        f.create_dataset("big", data=ramp((3,), ">f4"))
        f.create_dataset("empty", data=np.zeros((0, 3), "f4"))
        f.create_dataset("flags", data=np.array([True, False]))
        f.create_dataset("text", data=np.array([b"abc", b"d"]))
        f.create_dataset("var", data=["x", "yy"], dtype=h5py.string_dtype())
        f.create_dataset("complex", data=ramp((2,), "complex64"))
        f["link"] = h5py.SoftLink("/scalar")
        f["hard"] = f["scalar"]
        f.create_dataset("chunked", data=ramp((5, 6)), chunks=(2, 4))
        f.create_dataset("packed", data=ramp((64,)), chunks=(32,), compression="gzip")
        f.create_dataset("away", shape=(3,), dtype="f4", external=[("/tmp/none.raw", 0, 12)])
        for i in range(20):
            f.create_dataset(f"many/{i:02}", data=ramp((2,), start=i))
    with h5py.File(HERE / "external.h5", "w") as f:
        f.create_dataset("w", data=ramp((2,)))
        f["out"] = h5py.ExternalLink("/etc/passwd", "/x")
    # As Keras writes an optimizer's state: a long list of links
    with h5py.File(HERE / "long.h5", "w") as f:
        g = f.create_group("optimizer/vars", track_order=True)
        for i in range(40):
            g.create_dataset(str(i), data=ramp((2,), start=i))
    with h5py.File(HERE / "latest.h5", "w", libver="latest") as f:
        g = f.create_group("a/b")
        g.create_dataset("w", data=ramp((3, 4)))
        f.create_dataset("bias", data=ramp((4,), "float64"))
        f.create_dataset("chunked", data=ramp((5, 6)), chunks=(2, 4))
        f.create_dataset("one", data=ramp((4, 4)), chunks=(4, 4))
        f.create_dataset("packed", data=ramp((64,)), chunks=(32,), compression="gzip")
        for i in range(5):
            g.create_dataset(f"n{i}", data=ramp((2,), start=i))


def torch_files() -> None:
    """With torch 2.13.0."""
    import tempfile

    import torch
    import torch.distributed.checkpoint as dcp
    from make_torch_files import filled, training

    old = {"_use_new_zipfile_serialization": False}
    torch.save(training(), HERE / "training-legacy.pt", **old)
    base = filled((4, 3))
    several = {
        "tied": base,
        "also": base,
        "t": base.t(),
        "flat": filled((6,)),
        "half": filled((2, 2), "float16"),
    }
    torch.save(
        {**several, "f8": filled((3,), "float8_e5m2"), "u16": filled((2,), "uint16")},
        HERE / "views-legacy.pt",
        **old,
    )
    torch.save(filled((2,)), HERE / "protocol4-legacy.pt", pickle_protocol=4, **old)
    with tempfile.TemporaryDirectory() as folder:
        state = {
            "model": {"w": filled((4, 3)), "b": filled((3,), "bfloat16")},
            "step": 3,
            "note": "x",
        }
        dcp.save(state, checkpoint_id=folder, no_dist=True)
        (HERE / "slices.distcp").write_bytes((Path(folder) / "__0_0.distcp").read_bytes())
        (HERE.parent / "dcp").mkdir(exist_ok=True)
        for name in (".metadata", "__0_0.distcp"):
            (HERE.parent / "dcp" / name).write_bytes((Path(folder) / name).read_bytes())


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    needs = {
        numpy_files: "ml_dtypes",
        gguf_file: "gguf",
        onnx_file: "onnx",
        flax_file: "msgpack",
        hdf5_files: "h5py",
        torch_files: "torch",
    }
    for write, module in needs.items():
        spec = importlib.util.find_spec(module)
        if spec and spec.origin:  # the folder torch/ beside this file is none
            write()
