"""Files of torch before 1.6, and distributed checkpoints, without torch."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import pytest
from cutting import contents, cut, mutants, survives, told

from git_theta.checkpoints.torch.legacy_archive import TorchLegacyFormat
from git_theta.checkpoints.torch.zip_format import TorchZipFormat
from git_theta.core.contracts import CheckpointFormat
from git_theta.core.source import BytesSource
from git_theta.errors import FormatError

FORMAT = TorchLegacyFormat()
DATA = Path(__file__).parents[3] / "data" / "formats"
FILES = {path.stem: path.read_bytes() for path in sorted(DATA.glob("*-legacy.pt"))}
MAGIC = 0x1950A86A20F9469CFC6C


def file(keys: object, tail: bytes = b"", system: object = None, tree: object = ()) -> bytes:
    system = {"little_endian": True} if system is None else system
    return b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, system, tree, keys)) + tail


def test_is_a_format() -> None:
    assert isinstance(FORMAT, CheckpointFormat)


def test_what_torch_writes() -> None:
    layout = cut(FORMAT, FILES["views-legacy"])
    assert told(layout) == {
        "tied": "f32[4, 3]",
        "flat": "f32[6]",
        "half": "f16[2, 2]",
        "f8": "f8_e5m2[3]",
        "u16": "u16[2]",
    }
    assert next(e for e in layout.extents if e.name == "tied").aliases == ("also",)
    assert contents(layout, FILES["views-legacy"])["flat"] == bytes(range(1, 25))
    assert told(cut(FORMAT, FILES["protocol4-legacy"])) == {"tensor": "f32[2]"}
    training = cut(FORMAT, FILES["training-legacy"])
    assert told(training)["optimizer.state.0.exp_avg"] == "f32[5, 4]"
    assert next(e for e in training.extents if e.name == "model.embed.weight").aliases == (
        "model.head.weight",
    )


def test_no_storages() -> None:
    assert told(cut(FORMAT, file([], b"more"))) == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(MAGIC, 2), "cannot be read"),
        (pickle.dumps(MAGIC, 2) + pickle.dumps(1002, 2) + file([])[30:], "cannot be read|numbers"),
        (file({"a": 1}), "list of its storages"),
        (file([1]), "no key"),
        (file(["1", "1"]), "twice"),
        (file(["1"], bytes(8)), "nothing says"),
        (file([], b"", [1]), "what system"),
        (FILES["views-legacy"][:-1], "announced"),
        (FILES["views-legacy"][:-20], "announced"),
    ],
)
def test_broken_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        FORMAT.scan(BytesSource(data))


def test_a_length_that_lies() -> None:
    data = bytearray(FILES["protocol4-legacy"])
    at = data.rindex(struct.pack("<Q", 2))
    data[at : at + 8] = struct.pack("<Q", 2**63)
    with pytest.raises(FormatError, match="announced"):
        FORMAT.scan(BytesSource(bytes(data)))


def test_big_endian_values_are_plain_bytes() -> None:
    data = FILES["protocol4-legacy"].replace(b"little_endian\x94\x88", b"little_endian\x94\x89")
    assert data != FILES["protocol4-legacy"]
    assert told(cut(FORMAT, data)) == {"tensor": "u8[8]"}


def test_damaged_files() -> None:
    assert min(survives(FORMAT, mutants(list(FILES.values()), 1000)))


def test_slices_of_a_distributed_checkpoint() -> None:
    """Each is a zip archive of its own, one behind the other; their names stand in another file."""
    data = (DATA / "slices.distcp").read_bytes()
    layout = cut(TorchZipFormat(), data)
    assert told(layout) == {"tensor": "f32[4, 3]", "tensor#2": "bf16[3]"}
    assert min(survives(TorchZipFormat(), mutants([data], 300)))
