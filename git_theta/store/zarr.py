"""Tensors as zarr3 arrays in a folder or in object storage, through TensorStore.

An array becomes visible when its metadata is written, which is done after its data: what is there
is whole. Arrays are cut into *chunks* of about a megabyte, and large ones into *shards* of many
chunks, one file or object each: who reads a slice reads the chunks it touches.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from git_theta.core import dtypes
from git_theta.core.names import display
from git_theta.core.tensors import Buffer, Spec
from git_theta.errors import TransferError, UsageError
from git_theta.store.kvstore import ERRORS, OpenedStore, context, open_store
from git_theta.store.storage_url import parse_url

if TYPE_CHECKING:
    import numpy as np
    import tensorstore

    from git_theta.store.web import Limits

ROOT = "zarr.json"
_CHUNK, _SHARD = 1 << 20, 64 << 20  # bytes
# Bytes that all answers may have together: of a JSON file; while keys are listed or an array is
# written; besides an array's chunks
_METADATA, _LISTED, _MORE = 256 << 20, 64 << 20, 1 << 20
# Of arrays that are read: elements of a shard, chunks of a shard. Ours have half as many, and 64
_ELEMENTS, _CHUNKS = 128 << 20, 1 << 16
_PLAIN = ("bytes", "crc32c")  # codecs whose output is as large as their input, and a checksum
_LONGEST = 120  # characters of a name in a path
_UNSAFE = re.compile(rb"[^A-Za-z0-9_.-]")


class ArrayFolder:
    """A folder, or a prefix of a bucket, that holds arrays; ``where`` is a path, or a URL as ``git
    theta remote set`` takes it.
    """

    def __init__(
        self, where: str, environment: Mapping[str, str], limits: Limits | None = None
    ) -> None:
        if "://" in where:
            storage = parse_url(where)
            folder = storage.path if storage.scheme == "file" else None
            self.read_only = storage.read_only
            self._storage = storage
        else:
            folder, self.read_only = os.path.abspath(where), False  # noqa: PTH100 - without following links
        self.title = display(where, 200)
        self._folder = "" if folder is None else f"{Path(folder).as_posix().rstrip('/')}/"
        self._environment, self._limits = environment, limits
        self._opened: OpenedStore | None = None
        self._opening = threading.Lock()

    def keys(self) -> Iterator[str]:
        """Everything that is there."""
        self._allow(_LISTED)
        for key in self._run(lambda: self._store().store.list().result()):
            yield key.decode("utf-8", "replace")

    def write(self, key: str, data: bytes) -> None:
        """Write a small file."""
        self._run(lambda: self._store().store.write(key, data).result())

    def read(self, key: str) -> bytes | None:
        """A small file's bytes; None where there is none."""
        self._allow(_METADATA)
        found = self._run(lambda: self._store().store.read(key).result())
        return bytes(found.value) if found.state == "value" else None

    def array(
        self, path: str, metadata: Mapping[str, Any] | None = None
    ) -> tensorstore.TensorStore:
        """The array at ``path``.

        With ``metadata`` it is taken to be such a one, and can be written before anybody sees it.
        Otherwise its own metadata must be such that its size tells how many bytes it takes.
        """
        import tensorstore

        spec: dict[str, Any] = {"driver": "zarr3"}
        if metadata is None:
            spec["metadata"] = self._metadata(path)
        else:
            spec |= {"metadata": metadata, "store_data_equal_to_fill_value": True}
        array: tensorstore.TensorStore = self._run(
            lambda: tensorstore.open(
                spec,
                kvstore=self._store().store / f"{path}/",
                context=self._store().context,
                open=True,
                assume_metadata=True,
            ).result()
        )
        return array

    def fill(self, array: tensorstore.TensorStore, value: np.ndarray) -> None:
        """Write all of an array."""
        self._allow(_LISTED)
        self._run(lambda: array.write(value).result())

    def slabs(self, array: tensorstore.TensorStore) -> Iterator[np.ndarray]:
        """All of an array in C order, in pieces of about a shard."""
        shape = tuple(array.shape)
        if not shape or 0 in shape:
            yield self._slab(array)
            return
        row = max(1, array.dtype.numpy_dtype.itemsize * dtypes.count(shape[1:]))
        written = array.chunk_layout.write_chunk.shape
        lead = (written[0] if written else None) or 1
        step = max(1, _SHARD // row // lead) * lead
        for start in range(0, shape[0], step):
            yield self._slab(array[start : min(start + step, shape[0])])

    def _slab(self, piece: tensorstore.TensorStore) -> np.ndarray:
        """A part of an array, of which the server may send no more than its chunks can take."""
        self._allow(2 * encoded_size(piece) + _MORE)
        value: np.ndarray = self._run(lambda: piece.read().result())
        return value

    def _metadata(self, path: str) -> dict[str, Any]:
        text = self.read(f"{path}/{ROOT}")
        if text is None:
            raise TransferError(f"{self.title}: the array {display(path, 200)} is missing")
        try:
            found: dict[str, Any] = json.loads(text)
            check_metadata(found)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = display(str(error), 200)
            raise TransferError(
                f"{self.title}: the array {display(path, 200)} is none of ours: {reason}"
            ) from None
        return found

    def _allow(self, size: int) -> None:
        if not self._folder:
            gateway = self._store().gateway
            if gateway is not None:
                gateway.allow(size)

    def _store(self) -> OpenedStore:
        with self._opening:
            if self._opened is None:
                self._opened = (
                    self._open_folder()
                    if self._folder
                    else open_store(self._storage, self._environment, self.title, self._limits)
                )
        return self._opened

    def _open_folder(self) -> OpenedStore:
        import tensorstore

        made = context()
        spec = {"driver": "file", "path": self._folder}
        return OpenedStore(tensorstore.KvStore.open(spec, context=made).result(), made, None)

    def _run(self, work: Any) -> Any:
        try:
            return work()
        except TransferError:  # says where already
            raise
        except ERRORS as error:
            reason = self._opened.explain(error) if self._opened else error
            said = str(reason).split("[source locations=")[0].split("\n")[0].strip()
            raise TransferError(f"{self.title}: {display(said, 300)}") from None


def metadata(spec: Spec, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A zarr3 array's metadata: raw little-endian bytes with a checksum for each chunk."""
    size = dtypes.numpy_dtype(spec.dtype).itemsize
    chunk, shard = chunks(spec.shape, size)
    codecs: list[dict[str, Any]] = [
        {"name": "bytes", "configuration": {"endian": "little"}} if size > 1 else {"name": "bytes"}
    ]
    codecs.append({"name": "crc32c"})
    if shard != chunk:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        inner = {
            "chunk_shape": chunk,
            "codecs": codecs,
            "index_codecs": index,
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    name = dtypes.get(spec.dtype).numpy
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(spec.shape),
        "data_type": name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": _zero(name),
        "codecs": codecs,
        "attributes": dict(attributes),
    }


def check_metadata(found: Mapping[str, Any]) -> None:
    """:class:`ValueError` unless an array's metadata has chunks of a bounded size, and no codecs
    that decode to more than they are given.
    """
    chunk, codecs = found["chunk_grid"]["configuration"]["chunk_shape"], found["codecs"]
    inner = chunk
    if [codec["name"] for codec in codecs] == ["sharding_indexed"]:
        sharding = codecs[0]["configuration"]
        inner, codecs = sharding["chunk_shape"], sharding["codecs"] + sharding["index_codecs"]
    for codec in codecs:
        if codec["name"] not in _PLAIN:
            raise ValueError(f"it has the codec {codec['name']}")
    if any(type(length) is not int or length < 1 for length in (*chunk, *inner)):
        raise ValueError("its chunks have no size")
    if dtypes.count(chunk) > _ELEMENTS:
        raise ValueError(f"its chunks have {dtypes.count(chunk):,} elements")
    if dtypes.count(chunk) > _CHUNKS * dtypes.count(inner):
        raise ValueError(f"its shards have more than {_CHUNKS:,} chunks")


def encoded_size(array: tensorstore.TensorStore) -> int:
    """The bytes that an array's shards take at most, whole, with the checksums and the index."""
    layout, shape = array.chunk_layout, tuple(array.shape)
    shard = [length or 1 for length in layout.write_chunk.shape or shape]
    chunk = [length or 1 for length in layout.read_chunk.shape or shape]
    parts = dtypes.count(shard) // dtypes.count(chunk)
    size = array.dtype.numpy_dtype.itemsize * dtypes.count(chunk)
    shards = dtypes.count([-(-length // part) for length, part in zip(shape, shard, strict=True)])
    return shards * (parts * (size + 4 + 16) + 4)


def _zero(name: str) -> Any:
    if name == "bool":
        return False
    if name.startswith("complex"):
        return [0.0, 0.0]
    if name == "float8_e8m0fnu":  # it has no zero
        return 1.0
    return 0.0 if "float" in name else 0


def chunks(shape: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """The shapes of chunks and of shards for elements of ``size`` bytes: the longest sides are
    halved until a piece is small enough.
    """
    chunk = [max(1, length) for length in shape]
    while chunk and size * dtypes.count(chunk) > _CHUNK and max(chunk) > 1:
        longest = chunk.index(max(chunk))
        chunk[longest] = (chunk[longest] + 1) // 2
    grid = [-(-max(1, length) // part) for length, part in zip(shape, chunk, strict=True)]
    while grid and size * dtypes.count(chunk) * dtypes.count(grid) > _SHARD and max(grid) > 1:
        longest = grid.index(max(grid))
        grid[longest] = (grid[longest] + 1) // 2
    return chunk, [part * count for part, count in zip(chunk, grid, strict=True)]


def paths(names: Iterable[str]) -> list[str]:
    """A path segment for each name: the name itself where it is plain, else with ``=`` and two hex
    digits for other bytes.

    None leads anywhere else, is hidden, is a name that zarr or Windows keeps for itself, or differs
    from another in case only: such names, and long ones, end in a part of their hash.
    """
    taken, found = set[str](), []
    for name in names:
        raw = name.encode("utf-8", "surrogatepass")
        text = _UNSAFE.sub(lambda match: b"=%02X" % match[0][0], raw).decode("ascii")
        special = (
            not text
            or text[0] in "._-"
            or text[-1] == "."
            or len(text) > _LONGEST
            or _is_reserved(text)
        )
        if special or text.lower() in taken:
            text = f"t{text[:_LONGEST]}={hashlib.sha256(raw).hexdigest()[:16]}"
        while text.lower() in taken:
            text += "x"
        taken.add(text.lower())
        found.append(text)
    return found


def _is_reserved(text: str) -> bool:
    stem = text.split(".", maxsplit=1)[0].lower()
    return (
        stem in ("c", "zarr", "con", "prn", "aux", "nul")
        or re.fullmatch(r"(com|lpt)\d", stem) is not None
    )


def as_array(spec: Spec, data: Buffer) -> np.ndarray | None:
    """A tensor as an array that zarr can hold with every bit; None for packed types, and for
    booleans that are neither 0 nor 1.
    """
    import numpy as np

    if not dtypes.get(spec.dtype).numpy:
        return None
    raw = np.frombuffer(data, np.uint8)
    if spec.dtype == "bool" and raw.size and raw.max() > 1:
        return None
    return raw.view(dtypes.numpy_dtype(spec.dtype)).reshape(spec.shape)


def group(attributes: Mapping[str, Any]) -> bytes:
    """A zarr3 group's metadata."""
    text = json.dumps(
        {"zarr_format": 3, "node_type": "group", "attributes": attributes},
        ensure_ascii=True,
        separators=(",", ":"),
    )
    return text.encode("ascii")


def group_attributes(text: bytes, where: str) -> dict[str, Any]:
    """The attributes in a group's metadata; :class:`UsageError` where it is none."""
    try:
        found = json.loads(text)
        attributes = found["attributes"] if found["node_type"] == "group" else None
    except (ValueError, KeyError, TypeError, RecursionError):
        attributes = None
    if not isinstance(attributes, dict):
        raise UsageError(f"{where} holds no zarr group")
    return attributes
