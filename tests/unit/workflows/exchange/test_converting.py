"""A converted file: what is written, by whom, and what is left when it cannot be."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from git_theta.checkpoints.safetensors import SafetensorsFormat
from git_theta.core.source import BytesSource
from git_theta.errors import StoreError, UsageError
from git_theta.workflows.exchange import convert

ARRAYS = {
    "h.10.w": np.arange(6, dtype="<f4").reshape(2, 3),
    "h.2.w": np.arange(4, dtype="<f4"),
    "steps": np.arange(3, dtype="<i8"),
}


def npz(arrays: dict[str, np.ndarray]) -> BytesSource:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub has allow_pickle first
    return BytesSource(file.getvalue())


@pytest.fixture
def by_library(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that the library was asked to write."""
    saved = []
    save_file = safetensors.numpy.save_file

    def spy(arrays: dict[str, np.ndarray], path: Path, metadata: dict[str, str] | None) -> None:
        saved.append(path)
        save_file(arrays, path, metadata)

    monkeypatch.setattr(safetensors.numpy, "save_file", spy)
    return saved


def test_the_library_writes_the_file(tmp_path: Path, by_library: list[Path]) -> None:
    done = convert.convert(npz(ARRAYS), ".npz", "safetensors")
    size = convert.write(tmp_path / "new.safetensors", done.save)
    written = (tmp_path / "new.safetensors").read_bytes()
    assert len(by_library) == 1
    assert written == safetensors.numpy.save(ARRAYS)
    assert size == len(written)
    assert (tmp_path / "new.safetensors").stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert [path.name for path in tmp_path.iterdir()] == ["new.safetensors"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_tied_names_are_written_the_same_every_time(
    tmp_path: Path, by_library: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ties = {f"tied.{number}": "h.2.w" for number in range(30)}
    untied = convert._untied
    monkeypatch.setattr(convert, "_untied", lambda tensors: (untied(tensors)[0], ties))
    noting = SafetensorsFormat.noting
    monkeypatch.setattr(SafetensorsFormat, "noting", lambda self, tied, _: noting(self, tied, "pt"))
    written = set()
    for name in "abc":
        done = convert.convert(npz(ARRAYS), ".npz", "safetensors")
        convert.write(tmp_path / name, done.save)
        written.add((tmp_path / name).read_bytes())
    assert len(written) == 1
    assert not by_library
    with safetensors.safe_open(tmp_path / "a", "np") as file:
        assert file.metadata() == {"format": "pt", **ties}
        assert sorted(file.keys()) == sorted(ARRAYS)


def test_a_file_of_the_same_format_is_copied(tmp_path: Path, by_library: list[Path]) -> None:
    data = safetensors.numpy.save(ARRAYS, {"a": "b"})
    done = convert.convert(BytesSource(data), ".safetensors", "safetensors")
    assert convert.write(tmp_path / "new", done.save) == len(data)
    assert (tmp_path / "new").read_bytes() == data
    assert not by_library


@pytest.mark.parametrize("target", ["safetensors", "npz"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, target: str) -> None:
    resource = pytest.importorskip("resource")
    big = {"w": np.zeros(1 << 20)}  # npz to npz: a copy
    done = convert.convert(npz(big), ".npz", target)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(StoreError, match=r"new.* cannot be written: .*[Ff]ile too large"):
            convert.write(tmp_path / "new", done.save)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == []


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    done = convert.convert(npz(ARRAYS), ".npz", "safetensors")
    (tmp_path / "new").write_bytes(b"old")
    with pytest.raises(UsageError):
        convert.write(tmp_path / "new", done.save)
    assert (tmp_path / "new").read_bytes() == b"old"
    convert.write(tmp_path / "new", done.save, force=True)
    assert (tmp_path / "new").read_bytes() == safetensors.numpy.save(ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
