"""A small transformer and what becomes of it: the checkpoints that the tests commit.

All of it is the same on every run.
"""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

Tensors = dict[str, np.ndarray]

VERSIONS = ("base", "dense", "head", "train-1", "train-2", "trim")
DTYPES: dict[str, np.dtype[Any]] = {
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp32": np.dtype(np.float32),
}
_WIDTH, _BLOCKS, _WORDS, _CLASSES = 128, 6, 512, 1000
_STORAGES = {
    "float32": "Float",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "uint8": "Byte",
    "bool": "Bool",
}


def weights(seed: int = 1) -> Tensors:
    """1.4 million parameters as training leaves them (5.5 MB in fp32), a counter and a mask."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.04).astype(np.float32)

    tensors = {"embeddings.word.weight": normal(_WORDS, _WIDTH)}
    for block in range(_BLOCKS):
        name = f"encoder.layer.{block}"
        for part in ("query", "key", "value", "output"):
            tensors[f"{name}.attention.{part}.weight"] = normal(_WIDTH, _WIDTH)
            tensors[f"{name}.attention.{part}.bias"] = np.zeros(_WIDTH, np.float32)
        tensors[f"{name}.mlp.up.weight"] = normal(4 * _WIDTH, _WIDTH)
        tensors[f"{name}.mlp.down.weight"] = normal(_WIDTH, 4 * _WIDTH)
        tensors[f"{name}.norm.weight"] = np.ones(_WIDTH, np.float32)
    tensors["head.weight"] = normal(_CLASSES, _WIDTH)
    tensors["steps"] = np.array(seed, np.int64)
    tensors["mask"] = random.random(_WORDS) < 0.5
    return tensors


def trained(tensors: Tensors, seed: int, only: str = "") -> Tensors:
    """One more round of training: small changes of every float, or of those tensors whose name
    begins with ``only``.
    """
    random = np.random.default_rng(seed)
    result = {}
    for name, value in tensors.items():
        moved = value.dtype == np.float32 and name.startswith(only)
        result[name] = (
            value + (random.standard_normal(value.shape) * 1e-4).astype(np.float32)
            if moved
            else value
        )
    return result


def trimmed(tensors: Tensors) -> Tensors:
    """Without the last hundred words."""
    return {**tensors, "embeddings.word.weight": tensors["embeddings.word.weight"][:-100]}


def cast(tensors: Tensors, dtype: np.dtype[Any]) -> Tensors:
    """The floats as ``dtype``."""
    return {
        name: value.astype(dtype) if value.dtype == np.float32 else value
        for name, value in tensors.items()
    }


def optimizer(tensors: Tensors, seed: int) -> Tensors:
    """The two moments of AdamW."""
    random = np.random.default_rng(seed)
    floats = [
        name for name, value in tensors.items() if value.dtype == np.float32 and "layer.0" in name
    ]
    keys = [(name, moment) for name in floats for moment in ("exp_avg", "exp_avg_sq")]
    return {
        f"{name}.{moment}": (random.standard_normal(tensors[name].shape) ** 2 * 1e-6).astype(
            np.float32
        )
        for name, moment in keys
    }


def history(dtype: np.dtype[Any]) -> dict[str, tuple[Tensors, dict[str, Any]]]:
    """Each of :data:`VERSIONS`: the model's tensors, and the rest of a training checkpoint (empty
    where it is a bare model).
    """
    base = weights()
    dense = trained(base, 2)
    head = trained(dense, 3, only="head")
    first, second = trained(head, 4), trained(head, 5)
    models = {
        "base": base,
        "dense": dense,
        "head": head,
        "train-1": first,
        "train-2": second,
        "trim": trimmed(second),
    }
    rest: dict[str, dict[str, Any]] = {version: {} for version in VERSIONS}
    for epoch, version in enumerate(("train-1", "train-2"), 1):
        state = {
            "state": optimizer(base, epoch),
            "param_groups": [{"lr": 1e-3 / epoch, "betas": (0.9, 0.999), "params": [0, 1]}],
        }
        rng = np.frombuffer(np.random.default_rng(epoch).bytes(5056), np.uint8)
        rest[version] = {"optimizer": state, "epoch": epoch, "best": None, "rng": rng}
    return {version: (cast(models[version], dtype), rest[version]) for version in VERSIONS}


def safetensors_file(
    tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None
) -> bytes:
    """A .safetensors file, by the reference implementation."""
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()},
        metadata or {"format": "pt"},
    )


def checkpoints(dtype: np.dtype[Any]) -> dict[str, dict[str, bytes]]:
    """Each version as files by suffix."""
    files = {}
    for version, (tensors, rest) in history(dtype).items():
        moments = (
            {f"optimizer.{name}": value for name, value in rest["optimizer"]["state"].items()}
            if rest
            else {}
        )
        nested = {"model": tensors, **rest} if rest else tensors
        files[version] = {
            "safetensors": safetensors_file({**tensors, **moments}),
            "pt": torch_file(nested),
        }
    return files


def torch_file(tree: object, stem: str = "archive") -> bytes:
    """What ``torch.save`` writes for ``tree``: a zip of stored entries at multiples of 64, a
    pickle, a storage an array.
    """
    arrays: list[np.ndarray] = []
    pickle = b"\x80\x02" + _pickled(tree, arrays) + b"."
    entries = [("data.pkl", pickle), (".format_version", b"1"), ("byteorder", b"little")]
    entries += [
        (f"data/{number}", np.ascontiguousarray(array).tobytes())
        for number, array in enumerate(arrays)
    ]
    entries += [("version", b"3\n"), (".data/serialization_id", b"0" * 40)]
    return _zipped([(f"{stem}/{name}", data) for name, data in entries])


def _pickled(value: object, arrays: list[np.ndarray]) -> bytes:
    """Opcodes of pickle protocol 2."""
    match value:
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            return b"J" + struct.pack("<i", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(_pickled(item, arrays) for item in value) + b"t"
        case list():
            return b"](" + b"".join(_pickled(item, arrays) for item in value) + b"e"
        case dict():
            start = b"ccollections\nOrderedDict\n)R" if isinstance(value, OrderedDict) else b"}"
            return (
                start
                + b"("
                + b"".join(_pickled(item, arrays) for pair in value.items() for item in pair)
                + b"u"
            )
        case np.ndarray():
            arrays.append(value)
            return _pickled_tensor(value, str(len(arrays) - 1))
    raise TypeError(type(value))


def _pickled_tensor(array: np.ndarray, key: str) -> bytes:
    none: list[np.ndarray] = []
    storage = (
        b"("
        + _pickled("storage", none)
        + b"ctorch\n%sStorage\n" % _STORAGES[array.dtype.name].encode()
    )
    storage += _pickled(key, none) + _pickled("cpu", none) + _pickled(array.size, none) + b"tQ"
    strides = tuple(
        int(stride) // array.itemsize for stride in np.empty(array.shape, array.dtype).strides
    )
    where = (
        _pickled(0, none) + _pickled(tuple(map(int, array.shape)), none) + _pickled(strides, none)
    )
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + where
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def _zipped(entries: Sequence[tuple[str, bytes]]) -> bytes:
    out, directory = bytearray(), bytearray()
    for name, data in entries:
        raw, start, crc = name.encode(), len(out), zlib.crc32(data)
        padding = -(start + 30 + len(raw) + 4) % 64
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        out += (
            struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, len(raw), len(extra))
            + raw
            + extra
            + data
        )
        out += struct.pack("<4s3I", b"PK\7\x08", crc, len(data), len(data))
        head = struct.pack("<4s6H3I", b"PK\1\2", 0, 0, 0x808, 0, 0, 0, crc, len(data), len(data))
        directory += head + struct.pack("<5H2I", len(raw), 0, 0, 0, 0, 0, start) + raw
    where, count = len(out), len(entries)
    out += directory
    end64 = len(out)
    out += struct.pack(
        "<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), where
    )
    out += struct.pack("<4sIQI", b"PK\6\7", 0, end64, 1)
    out += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), where, 0)
    return bytes(out)
