"""Checkpoints to measure with: synthetic ones, larger ones made of a real one, and the way between
two real ones.

Synthetic are normal weights whose scale varies from tensor to tensor, as it does in trained models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

TYPES = {
    "bf16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
    "fp32": ("F32", np.dtype(np.float32)),
    "fp16": ("F16", np.dtype(np.float16)),
}


def write(path: Path, dtype: str, tensors: int, nbytes: int, seed: int = 0) -> None:
    """A safetensors file of ``tensors`` matrices of ``nbytes`` bytes each.

    One at a time is in memory.
    """
    code, array_type = TYPES[dtype]
    columns = 4096 if nbytes >= 1 << 20 else 64
    rows = nbytes // array_type.itemsize // columns
    size = rows * columns * array_type.itemsize
    header = {
        f"model.layers.{number // 8}.block.{number % 8}.weight": {
            "dtype": code,
            "shape": [rows, columns],
            "data_offsets": [number * size, (number + 1) * size],
        }
        for number in range(tensors)
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in _matrices(tensors, rows * columns, array_type, seed):
            file.write(values)


def enlarge(source: Path, target: Path, nbytes: int, stack: int = 8) -> None:
    """A model of about ``nbytes`` bytes out of a real one: ``stack`` copies of a tensor make one,
    and there are as many models as needed.

    Each copy is rotated by another number of elements, so that no two are alike; of two models that
    are enlarged alike, the elements that stand in one place stood in one place before.
    """
    tensors = read(source)
    copies = max(1, round(nbytes / stack / sum(array.nbytes for array in tensors.values())))
    save(
        target,
        {
            f"part{copy}.{name}": np.concatenate(
                [
                    np.roll(array.reshape(-1), (copy * stack + number) * 97 + 1).reshape(
                        array.shape
                    )
                    for number in range(stack)
                ]
            )
            for copy in range(copies)
            for name, array in tensors.items()
        },
    )


def between(first: Path, last: Path, share: float, target: Path) -> None:
    """The model that is ``share`` of the way from ``first`` to ``last``, as a training run might
    have passed by it.
    """
    old, new = read(first), read(last)
    mixed = {
        name: (array + np.float32(share) * (new[name] - array)).astype(array.dtype)
        for name, array in old.items()
    }
    save(target, mixed)


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name, in the file's order."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        data = np.frombuffer(file.read(), np.uint8)
    types = {**dict(TYPES.values()), "I64": np.dtype(np.int64)}
    header.pop("__metadata__", None)
    return {
        name: data[slice(*entry["data_offsets"])]
        .view(types[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
    }


def save(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """The tensors as a safetensors file."""
    codes = {array_type: code for code, array_type in TYPES.values()} | {np.dtype(np.int64): "I64"}
    header, position = {}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": codes[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _matrices(count: int, elements: int, array_type: np.dtype, seed: int) -> Iterator[memoryview]:
    random = np.random.default_rng(seed)
    for scale in 0.02 * random.lognormal(0, 0.5, count):
        values = random.standard_normal(elements, dtype=np.float32)
        values *= np.float32(scale)
        yield values.astype(array_type, copy=False).view(np.uint8).data
