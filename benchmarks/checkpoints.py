"""Synthetic checkpoints: normal weights whose scale varies from tensor to tensor, as it does in trained models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

TYPES = {"bf16": ("BF16", np.dtype(ml_dtypes.bfloat16)), "fp32": ("F32", np.dtype(np.float32)), "fp16": ("F16", np.dtype(np.float16))}


def write(path: Path, dtype: str, tensors: int, nbytes: int, seed: int = 0) -> None:
    """A safetensors file of ``tensors`` matrices of ``nbytes`` bytes each. One at a time is in memory."""
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


def _matrices(count: int, elements: int, array_type: np.dtype, seed: int) -> Iterator[memoryview]:
    random = np.random.default_rng(seed)
    for scale in 0.02 * random.lognormal(0, 0.5, count):
        values = random.standard_normal(elements, dtype=np.float32)
        values *= np.float32(scale)
        yield values.astype(array_type, copy=False).view(np.uint8).data
