"""Checkpoints that another file beside them explains: TensorFlow's values, and the slices of
torch's distributed checkpoints.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cutting import contents, rebuilt, told

from git_theta.checkpoints.tf_checkpoint import TfCheckpointFormat
from git_theta.checkpoints.torch.zip_format import TorchZipFormat
from git_theta.core.contracts import CheckpointFormat, ReadsSibling
from git_theta.core.source import BytesSource
from git_theta.errors import FormatError

DATA = Path(__file__).parents[3] / "data"
VALUES = (DATA / "tensorflow" / "small.data-00000-of-00001").read_bytes()
INDEX = (DATA / "tensorflow" / "small.index").read_bytes()
SLICES, METADATA = ((DATA / "dcp" / name).read_bytes() for name in ("__0_0.distcp", ".metadata"))
TF, TORCH = TfCheckpointFormat(), TorchZipFormat()


def test_are_formats() -> None:
    assert isinstance(TF, CheckpointFormat)
    assert isinstance(TF, ReadsSibling)
    assert isinstance(TORCH, ReadsSibling)
    assert (
        TF.sibling("x.y.data-00000-of-00012"),
        TF.sibling("x.data-0-of-1"),
        TF.sibling("x.index"),
    ) == ("x.y.index", "", "")
    assert (TORCH.sibling("__0_0.distcp"), TORCH.sibling("x.pt")) == (".metadata", "")


def test_what_tensorflow_wrote() -> None:
    layout = TF.scan_beside(BytesSource(VALUES), "small.data-00000-of-00001", BytesSource(INDEX))
    assert rebuilt(layout, VALUES) == VALUES
    assert told(layout) == {
        "step": "i32[]",
        "model/b": "bf16[5]",
        "model/n": "i64[]",
        "model/t": "u8[9]",
        "model/f": "bool[2]",
        "model/h": "f16[4]",
        "model/layers/0": "f32[3, 4]",
        "model/layers/1": "f32[3, 4]",
        "model/layers/2": "f32[3, 4]",
        "_CHECKPOINTABLE_OBJECT_GRAPH": "u8[743]",
    }
    numbers = layout.extents[2]
    assert int.from_bytes(VALUES[numbers.offset : numbers.end], "little") == 7
    assert not TF.sniff(VALUES)
    assert told(TF.scan(BytesSource(VALUES))) == {"bytes": f"u8[{len(VALUES)}]"}


@pytest.mark.parametrize(
    ("values", "name", "index"),
    [
        (VALUES + b"x", "small.data-00000-of-00001", INDEX),
        (VALUES[:-1], "small.data-00000-of-00001", INDEX),
        (VALUES, "small.data-00000-of-00002", INDEX),
        (VALUES, "small.data-00001-of-00002", INDEX),
        (VALUES, "small.pt", INDEX),
        (VALUES, "small.data-00000-of-00001", INDEX[:-1]),
        (VALUES, "small.data-00000-of-00001", b""),
        (VALUES, "small.data-00000-of-00001", bytes(100)),
    ],
)
def test_an_index_that_does_not_fit_is_refused(values: bytes, name: str, index: bytes) -> None:
    with pytest.raises(FormatError):
        TF.scan_beside(BytesSource(values), name, BytesSource(index))


def test_slices_have_their_names() -> None:
    layout = TORCH.scan_beside(BytesSource(SLICES), "__0_0.distcp", BytesSource(METADATA))
    assert rebuilt(layout, SLICES) == SLICES
    assert layout.format == "torch-zip"
    assert told(layout) == {"model.w": "f32[4, 3]", "model.b": "bf16[3]"}
    plain = TORCH.scan(BytesSource(SLICES))
    assert [extent.offset for extent in plain.extents] == [
        extent.offset for extent in layout.extents
    ]
    assert plain.checksums == layout.checksums


def test_pieces_of_one_tensor_are_called_after_their_place() -> None:
    folder = DATA / "dcp-sharded"
    metadata = BytesSource((folder / ".metadata").read_bytes())
    found: dict[str, bytes] = {}
    for name in ("__0_0.distcp", "__1_0.distcp"):
        data = (folder / name).read_bytes()
        layout = TORCH.scan_beside(BytesSource(data), name, metadata)
        assert rebuilt(layout, data) == data
        found |= contents(layout, data)
    assert found.keys() == {"model.w@0,0", "model.w@20,0", "model.b"}, (
        "no piece goes by the name of the whole"
    )
    assert np.frombuffer(found["model.w@0,0"] + found["model.w@20,0"], "<f4").tolist() == list(
        range(2400)
    )


@pytest.mark.parametrize("metadata", [b"", b"x", b"\x80\x02}.", METADATA[:-20]])
def test_metadata_that_is_not_understood_is_refused(metadata: bytes) -> None:
    with pytest.raises(FormatError):
        TORCH.scan_beside(BytesSource(SLICES), "__0_0.distcp", BytesSource(metadata))


def test_metadata_of_another_file_is_refused() -> None:
    with pytest.raises(FormatError, match="another file"):
        TORCH.scan_beside(BytesSource(SLICES), "__1_0.distcp", BytesSource(METADATA))
