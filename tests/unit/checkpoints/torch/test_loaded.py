"""What a file holds as its framework sees it: shapes, orders, ties, and what is left over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cutting import mutants

from git_theta.checkpoints.flax_msgpack import FlaxMsgpackFormat
from git_theta.checkpoints.gguf import GgufFormat
from git_theta.checkpoints.hdf5 import Hdf5Format
from git_theta.checkpoints.numpy_files import NpyFormat, NpzFormat
from git_theta.checkpoints.safetensors import SafetensorsFormat
from git_theta.checkpoints.torch.legacy_archive import TorchLegacyFormat
from git_theta.checkpoints.torch.zip_format import TorchZipFormat
from git_theta.core.contracts import ReadsContents
from git_theta.core.source import BytesSource
from git_theta.core.tensors import Tensor
from git_theta.errors import FormatError

DATA = Path(__file__).parents[3] / "data"
FORMATS = {
    "safetensors": (SafetensorsFormat(), []),
    "torch-zip": (TorchZipFormat(), sorted(DATA.glob("torch/*.pt"))),
    "torch-legacy": (TorchLegacyFormat(), [*DATA.glob("formats/*-legacy.pt")]),
    "gguf": (GgufFormat(), [*DATA.glob("formats/*.gguf")]),
    "npy": (NpyFormat(), [*DATA.glob("formats/*.npy")]),
    "npz": (NpzFormat(), [*DATA.glob("formats/*.npz")]),
    "hdf5": (Hdf5Format(), [*DATA.glob("formats/*.h5")]),
    "flax-msgpack": (FlaxMsgpackFormat(), [*DATA.glob("formats/*.msgpack")]),
}


def source(name: str) -> BytesSource:
    return BytesSource((DATA / name).read_bytes())


def values(tensor: Tensor) -> list[object]:
    found: list[object] = tensor.array().tolist()
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(name: str) -> None:
    fmt, files = FORMATS[name]
    assert isinstance(fmt, ReadsContents)
    seeds = [path.read_bytes() for path in files if path.name != "legacy.pt"]
    seeds = seeds or [
        bytes(
            SafetensorsFormat().build(
                {"a": Tensor("f32", (2,), b"12345678"), "b": Tensor("u8", (1,), b"x")}, None
            )
        )
    ]
    read = 0
    for data in mutants(seeds, 600, seed=3):
        try:
            held = fmt.contents(BytesSource(data))
        except FormatError:
            continue
        read += 1
        assert sum(tensor.spec.nbytes for tensor in held.tensors.values()) <= 64 * len(data) + (
            1 << 20
        )
    assert read


def test_views_of_torch_are_tensors_of_their_own_and_ties_stay() -> None:
    held = TorchLegacyFormat().contents(source("formats/views-legacy.pt"))
    assert held.tensors["tied"] is held.tensors["also"]
    assert values(held.tensors["t"]) == np.array(values(held.tensors["tied"])).T.tolist()
    assert not held.others


def test_the_values_of_a_training_state_are_told() -> None:
    held = TorchZipFormat().contents(source("torch/training.pt"))
    assert (
        set(held.tensors)
        >= {name for name in held.tensors if name.startswith("optimizer.state.")}
        != set()
    )
    assert any(name.endswith(".lr") for name in held.others)
    assert not set(held.tensors) & set(held.others)


def test_what_repeats_elements_is_no_tensor() -> None:
    assert TorchZipFormat().contents(source("torch/views.pt")).others == (
        "expanded (expanded: it repeats elements)",
    )


def test_fortran_order_becomes_c_order() -> None:
    held = NpzFormat().contents(source("formats/small.npz"))
    with np.load(DATA / "formats" / "small.npz") as wanted:
        for name, tensor in held.tensors.items():
            assert tensor.array().tolist() == wanted[name].tolist(), name
    assert held.others == ("s (<U3)",)
    assert (
        values(NpyFormat().contents(source("formats/fortran.npy")).tensors["array"])
        == np.load(DATA / "formats" / "fortran.npy").tolist()
    )
    assert all(
        name.endswith("(compressed)")
        for name in NpzFormat().contents(source("formats/packed.npz")).others
    )


def test_chunks_of_flax_are_one_array() -> None:
    held = FlaxMsgpackFormat().contents(source("formats/small.msgpack"))
    assert values(held.tensors["params/big"]) == [[1, 2, 3], [4, 1, 2]]
    assert held.others == ("rate", "complex", "note", "list")


def test_what_flax_itself_wrote() -> None:
    held = FlaxMsgpackFormat().contents(source("formats/flax.msgpack"))
    assert {name: str(tensor.spec) for name, tensor in held.tensors.items()} == {
        "params/dense/kernel": "f32[4,3]",
        "params/dense/bias": "bf16[3]",
        "params/norm/scale": "f16[3]",
        "step": "i32[]",
        "list/0": "f64[2]",
        "list/1": "i64[]",
    }
    assert held.others == ("rate", "note", "c")
    chunks = FlaxMsgpackFormat().contents(source("formats/flax-chunks.msgpack"))
    assert values(chunks.tensors["params/w"]) == np.arange(40).reshape(5, 8).tolist()
    assert chunks.tensors.keys() == {"params/w", "b"}


def test_datasets_of_hdf5_in_one_piece() -> None:
    held = Hdf5Format().contents(source("formats/small.h5"))
    assert held.tensors["scalar"] is held.tensors["hard"]
    assert values(held.tensors["layers/dense/vars/0"]) == np.arange(1, 13).reshape(3, 4).tolist()
    assert held.tensors["empty"].shape == (0, 3)
    assert {name.partition(" ")[0] for name in held.others} == {
        "away",
        "big",
        "chunked",
        "complex",
        "packed",
        "text",
        "var",
    }


def test_keys_of_gguf_and_metadata_are_told() -> None:
    assert "general.architecture" in GgufFormat().contents(source("formats/small.gguf")).others
    big = GgufFormat().contents(source("formats/big-endian.gguf"))
    assert not big.tensors
    assert big.others[0].startswith("w (")
