"""Containers: zip and tar archives of checkpoints, and those inside of each other."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from cutting import contents, cut, mutants, survives, told

from git_theta.checkpoints.containers import nested
from git_theta.checkpoints.containers.nested import SourceWindow
from git_theta.checkpoints.containers.stored_zip import StoredZipFormat
from git_theta.checkpoints.containers.tar_container import TarFormat
from git_theta.core.contracts import CheckpointFormat
from git_theta.core.source import BytesSource
from git_theta.errors import FormatError

ZIP, TAR = StoredZipFormat(), TarFormat()
DATA = Path(__file__).parents[3] / "data"
H5, NPZ, GGUF = (
    (DATA / "formats" / name).read_bytes() for name in ("latest.h5", "small.npz", "small.gguf")
)
TORCH = (DATA / "torch" / "views.pt").read_bytes()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, method)
    return target.getvalue()


def tarred(members: dict[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return target.getvalue()


def test_is_a_format() -> None:
    assert isinstance(TAR, CheckpointFormat)


def test_a_keras_file() -> None:
    data = zipped({"metadata.json": b"{}", "config.json": b'{"a": 1}', "model.weights.h5": H5})
    layout = cut(ZIP, data)
    assert told(layout)["model.weights.h5/a/b/w"] == "f32[3, 4]"
    assert told(layout)["config.json"] == "u8[8]"
    assert contents(layout, data)["model.weights.h5/bias"] == struct.pack("<4d", 1, 2, 3, 4)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_archive_of_checkpoints(form: int) -> None:
    long = "folder/" + "x" * 60 + "/" + "y" * 60 + "/model.gguf"
    data = tarred({"./weights.pt": TORCH, long: GGUF, "config.yaml": b"a: 1\n", "empty": b""}, form)
    found = told(cut(TAR, data))
    assert found[f"{long}/token_embd.weight"] == "f32[3, 32]"
    assert found["config.yaml"] == "u8[5]"
    assert any(name.startswith("weights.pt/") for name in found)
    assert "empty" not in found


def test_names_that_ustar_cannot_hold() -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        name = "é" * 200
        assert told(cut(TAR, tarred({name: b"0123456789"}, form))) == {name: "u8[10]"}


def test_containers_in_containers() -> None:
    data = tarred({"a.zip": zipped({"b.npz": NPZ, "c.pt": TORCH})})
    layout = cut(TAR, data)
    assert told(layout)["a.zip/b.npz/w"] == "f32[4, 3]"
    assert layout.checksums


def test_depth_is_bounded() -> None:
    data = NPZ
    for _ in range(8):
        data = zipped({"z": data})
    (extent,) = cut(ZIP, data).extents
    assert extent.name == "z/" * nested.DEPTH_LIMIT + "z"


def test_members_that_are_broken_or_packed_are_plain_bytes() -> None:
    packed = zipped({"x": bytes(100)}, zipfile.ZIP_DEFLATED)
    data = zipped({"bad.gguf": GGUF[:100], "bad.h5": H5[:-1], "packed.zip": packed})
    assert told(cut(ZIP, data)) == {
        "bad.gguf": "u8[100]",
        "bad.h5": f"u8[{len(H5) - 1}]",
        "packed.zip": f"u8[{len(packed)}]",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:700], "announced"),
        (lambda data: data[:1024] + b"x" * 512 + data[1536:], "damaged"),
    ],
)
def test_broken_archives_are_refused(change: object, message: str) -> None:
    data = change(tarred({"a": bytes(400), "b": bytes(400)}))  # type: ignore[operator]
    with pytest.raises(FormatError, match=message):
        TAR.scan(BytesSource(data))


def test_parts_stay_inside() -> None:
    part = SourceWindow(BytesSource(b"0123456789"), 2, 4)
    assert part.read(1, 2) == b"34"
    buffer = bytearray(4)
    part.read_into(0, memoryview(buffer))
    assert buffer == b"2345"
    with pytest.raises(FormatError, match="outside"):
        part.read(2, 3)
    with pytest.raises(FormatError, match="outside"):
        SourceWindow(BytesSource(b"01"), 1, 2)


def test_damaged_files() -> None:
    inner = {"m.h5": H5, "n.npz": NPZ, "g.gguf": GGUF}
    assert min(survives(ZIP, mutants([zipped(inner)], 600)))
    assert min(survives(TAR, mutants([tarred({**inner, "z.zip": zipped(inner)})], 600)))
