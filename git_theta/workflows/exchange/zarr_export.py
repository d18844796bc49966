"""export and import: a model as zarr3 arrays, for clusters whose processes each read their slice,
and back to the very file.

What is exported holds all it takes to come back: an array for each tensor, one for the skeleton,
and in the root group's attributes the tensors in the file's order with their digests. The root is
written last, so an export that was interrupted is none.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from git_theta.core import dtypes
from git_theta.core import skeleton as skeletons
from git_theta.core.digest import HEX, digest, digest_of_blocks
from git_theta.core.manifest import Entry, Manifest
from git_theta.core.names import display, escape, unescape
from git_theta.core.resources.futures import abandon
from git_theta.core.tensors import Spec
from git_theta.errors import (
    FormatError,
    ManifestError,
    ObjectDamaged,
    PayloadError,
    TransferError,
    UsageError,
)
from git_theta.store import zarr
from git_theta.store.zarr import ArrayFolder
from git_theta.workflows import chains
from git_theta.workflows.session import Session
from git_theta.workflows.sharing.fetch import fetch_missing

if TYPE_CHECKING:
    import numpy as np

_VERSION = 1
_KEY = "git_theta"
_SKELETON = "skeleton"
_FOLDER = "tensors"
_IN_FLIGHT = 512 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """A tensor of an export: its names, what it is in the file, the digest of its bytes, and its
    array.

    ``raw`` arrays hold the tensor's bytes as u8: zarr has no such type.
    """

    name: str
    aliases: tuple[str, ...]
    spec: Spec
    digest: str
    path: str
    raw: bool

    @property
    def stored(self) -> Spec:
        """What the array is."""
        return Spec("u8", (self.spec.nbytes,)) if self.raw else self.spec


@dataclass(frozen=True, slots=True)
class Export:
    """A whole export: the file's format and size, its skeleton and tensors."""

    format: str
    size: int
    skeleton: Exported
    tensors: tuple[Exported, ...]


def export(
    session: Session,
    manifest: Manifest,
    place: ArrayFolder,
    source: str,
    advance: Callable[[int], None],
) -> Export:
    """Write the model of ``manifest`` (called ``source``) to ``place``.

    :class:`UsageError` unless there is nothing there yet. A tensor at a time is in memory, or
    several small ones.
    """
    if place.read_only:
        raise UsageError(f"{place.title} is read-only")
    if next(place.keys(), None) is not None:
        raise UsageError(f"{place.title} is not empty; name a new folder, or empty it first")
    if chains.missing(session.store, manifest):
        fetch_missing(session, [manifest])
    chains.require(session.store, manifest)
    segments = zarr.paths(entry.name for entry in manifest.entries)
    todo = [
        (manifest.skeleton, _SKELETON),
        *(
            (entry, f"{_FOLDER}/{part}")
            for entry, part in zip(manifest.entries, segments, strict=True)
        ),
    ]
    done = _in_order(
        session, todo, lambda entry, path: _write(session, entry, path, place), advance
    )
    for item in done:
        place.write(f"{item.path}/{zarr.ROOT}", json.dumps(_metadata(item)).encode("ascii"))
    result = Export(manifest.format, manifest.size, done[0], tuple(done[1:]))
    place.write(f"{_FOLDER}/{zarr.ROOT}", zarr.group({}))
    place.write(zarr.ROOT, zarr.group({_KEY: _described(result, source)}))
    return result


def _in_order(
    session: Session,
    todo: Sequence[tuple[Entry, str]],
    work: Callable[[Entry, str], Exported],
    advance: Callable[[int], None],
) -> list[Exported]:
    """What ``work`` makes of each; several at a time as long as they are small."""
    waiting: deque[tuple[int, Future[Exported]]] = deque()
    done, size = [], 0
    try:
        for entry, path in todo:
            while waiting and (
                size + entry.nbytes > _IN_FLIGHT or len(waiting) > 4 * session.threads
            ):
                size -= waiting[0][0]
                advance(waiting[0][0])
                done.append(waiting.popleft()[1].result())
            waiting.append((entry.nbytes, session.pool().submit(work, entry, path)))
            size += entry.nbytes
        for count, future in waiting:
            advance(count)
            done.append(future.result())
    finally:
        abandon(future for _, future in waiting)
    return done


def _write(session: Session, entry: Entry, path: str, place: ArrayFolder) -> Exported:
    import numpy as np

    data = chains.load(session.store, entry).data
    array = zarr.as_array(entry.spec, data)
    item = Exported(entry.name, entry.aliases, entry.spec, entry.digest, path, array is None)
    place.fill(
        place.array(path, _metadata(item)),
        np.frombuffer(data, np.uint8) if array is None else array,
    )
    return item


def _metadata(item: Exported) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "name": escape(item.name),
        "aliases": [escape(alias) for alias in item.aliases],
    }
    if item.raw:
        attributes |= {"bytes_of": str(item.spec)}
    return zarr.metadata(item.stored, {_KEY: attributes})


def _described(done: Export, source: str) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "source": display(source),
        "format": done.format,
        "size": done.size,
        "skeleton": _row(done.skeleton),
        "tensors": [_row(item) for item in done.tensors],
    }


def _row(item: Exported) -> dict[str, Any]:
    row = {
        "name": escape(item.name),
        "path": item.path,
        "dtype": item.spec.dtype,
        "shape": list(item.spec.shape),
        "digest": item.digest,
    }
    return {
        **row,
        **({"aliases": [escape(alias) for alias in item.aliases]} if item.aliases else {}),
        **({"raw": True} if item.raw else {}),
    }


def read(place: ArrayFolder) -> Export:
    """What is exported at ``place``; :class:`UsageError` where there is no complete export, or none
    that this release reads.
    """
    text = place.read(zarr.ROOT)
    if text is None:
        raise UsageError(f"{place.title} holds no export, or one that was interrupted")
    described = zarr.group_attributes(text, place.title).get(_KEY)
    if not isinstance(described, dict) or type(described.get("version")) is not int:
        raise UsageError(f"{place.title} holds arrays, but not from 'git theta export'")
    if described["version"] > _VERSION:
        raise UsageError(
            f"{place.title} was exported by a newer Git-Theta; upgrade git-theta to read it"
        )
    try:
        return _parsed(described)
    except (KeyError, TypeError, ValueError, FormatError, ManifestError) as error:
        raise UsageError(
            f"{place.title} holds a damaged export: {display(str(error), 200)}"
        ) from None


def _parsed(described: Mapping[str, Any]) -> Export:
    rows = [_item(row, "") for row in described["tensors"]]
    segments = zarr.paths(item.name for item in rows)
    found = [
        _item(row, f"{_FOLDER}/{part}")
        for row, part in zip(described["tensors"], segments, strict=True)
    ]
    size, skeleton = described["size"], _item(described["skeleton"], _SKELETON)
    if (
        type(size) is not int
        or sum(item.spec.nbytes for item in found) > size
        or skeleton.spec.dtype != "u8"
    ):
        raise ValueError("its sizes do not add up")
    return Export(str(described["format"]), size, skeleton, tuple(found))


def _item(row: Mapping[str, Any], path: str) -> Exported:
    """A row whose array is at ``path``, where an export has it, whatever the row says."""
    spec = Spec(row["dtype"], tuple(row["shape"]))
    dtypes.nbytes(spec.dtype, spec.shape)
    if not HEX.match(row["digest"]):
        raise ValueError("a digest is none")
    raw = row.get("raw") is True
    if not raw and not dtypes.get(spec.dtype).numpy:
        raise ValueError(f"zarr has no type {spec.dtype}")
    return Exported(
        unescape(row["name"]),
        tuple(map(unescape, row.get("aliases", ()))),
        spec,
        row["digest"],
        path,
        raw,
    )


def restore(
    place: ArrayFolder,
    exported: Export,
    target: Path,
    changed: bool,
    advance: Callable[[int], None],
    force: bool = False,
) -> list[str]:
    """Write the file that was exported to ``place`` as ``target``, and return the names of tensors
    whose values have changed.

    With ``force`` an existing ``target`` is replaced. Without ``changed`` such a tensor is an
    :class:`ObjectDamaged`. The file appears complete or not at all.
    """
    temporary = target.with_name(f".{target.name}.{os.urandom(6).hex()}.git-theta")
    data = _skeleton(place, exported.skeleton)
    try:
        skeleton = skeletons.parse(
            data, exported.size, [item.spec.nbytes for item in exported.tensors]
        )
    except PayloadError as error:
        raise ObjectDamaged(f"{place.title}: the file cannot be put together: {error}") from None
    splicer, summed = (
        skeletons.Splicer(skeleton, len(exported.tensors)),
        skeletons.needed(skeleton, len(exported.tensors)),
    )
    others = []
    try:
        with temporary.open("xb") as file:
            file.truncate(exported.size)
            for piece in skeleton.pieces:
                if piece.tensor >= 0:
                    item = exported.tensors[piece.tensor]
                    file.seek(piece.offset)
                    identity, splicer.sums[piece.tensor] = _pour(
                        place, item, file, summed[piece.tensor]
                    )
                    if identity != item.digest:
                        others.append(item.name)
                        if not changed:
                            raise ObjectDamaged(
                                f"tensor {display(item.name, 200)} is not what was exported;"
                                " --changed takes it as it is"
                            )
                    advance(item.spec.nbytes)
            for piece in skeleton.pieces:
                if piece.tensor < 0:
                    file.seek(piece.offset)
                    file.write(
                        splicer.checksum(piece.checksum) if piece.data is None else piece.data
                    )
            file.flush()
            os.fsync(file.fileno())
        if force:
            temporary.replace(target)
        else:
            # Neither replaces a file that came meanwhile
            os.link(temporary, target) if os.name != "nt" else temporary.rename(target)
    except FileExistsError:
        raise UsageError(f"{display(str(target))} exists already; --force replaces it") from None
    except OSError as error:
        if isinstance(error, TransferError):
            raise
        raise UsageError(
            f"{display(str(target))} cannot be written: {error.strerror or error}"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return others


def _skeleton(place: ArrayFolder, item: Exported) -> bytes:
    data = b"".join(map(_bytes_of, place.slabs(_array(place, item))))
    if digest(data) != item.digest:
        raise ObjectDamaged(f"{place.title}: the file's skeleton is damaged")
    return data


def _pour(
    place: ArrayFolder, item: Exported, file: IO[bytes], summed: bool
) -> tuple[str, int | None]:
    """Write a tensor's bytes at the file's position; their digest, and their CRC-32 where that is
    needed.
    """

    def written() -> Iterator[memoryview]:
        for slab in place.slabs(_array(place, item)):
            block = _bytes_of(slab)
            file.write(block)
            yield block

    return digest_of_blocks(written(), summed)


def _bytes_of(array: np.ndarray) -> memoryview:
    import numpy as np

    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _array(place: ArrayFolder, item: Exported) -> Any:
    array = place.array(item.path)
    if (
        tuple(array.shape) != item.stored.shape
        or array.dtype.name != dtypes.get(item.stored.dtype).numpy
    ):
        raise ObjectDamaged(
            f"tensor {display(item.name, 200)}: its array is {array.dtype.name}{list(array.shape)},"
            f" not {item.stored}"
        )
    return array
