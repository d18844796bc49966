"""Checkpoints as the frameworks themselves load them: arrays by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (found[name].shape, found[name].dtype.name) == (array.shape, array.dtype.name), name
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


def by_torch(path: Path) -> dict[str, np.ndarray]:
    torch = pytest.importorskip("torch")
    return {name: tensor.numpy() for name, tensor in torch.load(path, weights_only=True).items()}


def by_numpy(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def by_gguf(path: Path) -> dict[str, np.ndarray]:
    gguf = pytest.importorskip("gguf")
    return {
        tensor.name: tensor.data.reshape(tuple(reversed(tensor.shape.tolist())))
        for tensor in gguf.GGUFReader(path).tensors
    }


def by_msgpack(path: Path) -> dict[str, np.ndarray]:
    msgpack = pytest.importorskip("msgpack")

    def array(code: int, data: bytes) -> Any:  # as flax.serialization does it
        shape, kind, raw = msgpack.unpackb(data, raw=True)
        return np.frombuffer(raw, np.dtype(kind.decode())).reshape(shape)

    found: dict[str, np.ndarray] = msgpack.unpackb(path.read_bytes(), ext_hook=array, raw=False)
    return found


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "safetensors": load_file,
    "pt": by_torch,
    "npz": by_numpy,
    "gguf": by_gguf,
    "msgpack": by_msgpack,
}
