"""smudge: from a manifest back to the checkpoint, byte for byte; streamed in order, or written in
place by all threads.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from git_theta.core import skeleton as skeletons
from git_theta.core.manifest import Manifest
from git_theta.core.resources.futures import abandon
from git_theta.core.tensors import Buffer
from git_theta.errors import ObjectDamaged, PayloadError, StoreError
from git_theta.store.local import LocalStore
from git_theta.workflows import chains

_AHEAD = 128 << 20  # bytes decoded ahead of the reader
_RUN = 4 << 20


def stream(store: LocalStore, manifest: Manifest, pool: Executor, threads: int) -> Iterator[Buffer]:
    """The checkpoint's bytes in order.

    Tensors are decoded ahead by the pool; every digest is checked before its bytes are given out.
    """
    plan = _Plan(store, manifest)
    splicer = skeletons.Splicer(plan.skeleton, len(manifest.entries))
    waiting: deque[tuple[_Run, Future[list[_Decoded]]]] = deque()
    runs, ahead = iter(plan.runs()), 0
    following = next(runs, None)
    try:
        while waiting or following is not None:
            while following is not None and (
                not waiting or (len(waiting) <= 2 * threads and ahead + following.size <= _AHEAD)
            ):
                waiting.append((following, pool.submit(plan.decode, following)))
                ahead += following.size
                following = next(runs, None)
            run, future = waiting.popleft()
            decoded = {item.tensor: item for item in future.result()}
            del future
            for piece in run.pieces:
                if piece.tensor >= 0:
                    item = decoded.pop(piece.tensor)
                    splicer.sums[piece.tensor] = item.crc
                    yield item.data
                elif piece.checksum >= 0:
                    yield splicer.checksum(piece.checksum)
                else:
                    assert piece.data is not None
                    yield piece.data
            ahead -= run.size
    finally:
        abandon(future for _, future in waiting)


def write(
    store: LocalStore,
    manifest: Manifest,
    path: Path,
    pool: Executor,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write the checkpoint to the new file ``path``, by all threads at once.

    The caller removes it when this raises.
    """
    plan = _Plan(store, manifest)
    splicer = skeletons.Splicer(plan.skeleton, len(manifest.entries))
    try:
        with path.open("xb", buffering=0) as file:
            file.truncate(manifest.size)
            place = _Placer(file.fileno(), path)

            def one(run: _Run) -> list[tuple[int, int | None]]:
                sums = [
                    (piece.tensor, plan.pour(piece, place))
                    for piece in run.pieces
                    if piece.tensor >= 0
                ]
                if advance is not None:
                    advance(run.size)
                return sums

            futures = [pool.submit(one, run) for run in plan.runs()]
            try:
                for future in futures:
                    for number, crc in future.result():
                        splicer.sums[number] = crc
            finally:
                abandon(futures)
            for piece in plan.skeleton.pieces:
                if piece.data is not None:
                    place.put(piece.offset, piece.data)
                elif piece.checksum >= 0:
                    place.put(piece.offset, splicer.checksum(piece.checksum))
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from None


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A tensor's bytes, and their CRC-32 where one was asked for."""

    tensor: int
    data: Buffer
    crc: int | None


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive pieces that one task decodes."""

    pieces: tuple[skeletons.Piece, ...]
    size: int


class _Plan:
    def __init__(self, store: LocalStore, manifest: Manifest) -> None:
        self._store = store
        self._manifest = manifest
        data = bytes(chains.load(store, manifest.skeleton).data)
        try:
            self.skeleton = skeletons.parse(
                data, manifest.size, [entry.nbytes for entry in manifest.entries]
            )
        except PayloadError as error:
            raise ObjectDamaged(
                f"the file cannot be put together: {error} (was a part of its manifest staged?)"
            ) from None
        self._summed = skeletons.needed(self.skeleton, len(manifest.entries))

    def runs(self) -> Iterator[_Run]:
        pieces: list[skeletons.Piece] = []
        size = 0
        for piece in self.skeleton.pieces:
            if pieces and (size + piece.length > _RUN or len(pieces) >= 4096):
                yield _Run(tuple(pieces), size)
                pieces, size = [], 0
            pieces.append(piece)
            size += piece.length
        if pieces:
            yield _Run(tuple(pieces), size)

    def pour(self, piece: skeletons.Piece, place: _Placer) -> int | None:
        """Write one tensor where it belongs; its CRC-32, where that is needed."""
        entry, summed = self._manifest.entries[piece.tensor], self._summed[piece.tensor]
        return chains.pour(
            self._store, entry, lambda offset, data: place.put(piece.offset + offset, data), summed
        )

    def decode(self, run: _Run) -> list[_Decoded]:
        result = []
        for piece in run.pieces:
            if piece.tensor >= 0:
                data = chains.load(self._store, self._manifest.entries[piece.tensor]).data
                crc = zlib.crc32(data) if self._summed[piece.tensor] else None
                result.append(_Decoded(piece.tensor, data, crc))
        return result


class _Placer:
    """Writes at positions of one file, from several threads."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    def put(self, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        if hasattr(os, "pwrite"):
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written
        else:  # Windows: a handle of one's own is the portable way to a position of one's own
            with self._path.open("r+b", buffering=0) as file:
                file.seek(offset)
                while view:
                    view = view[file.write(view) :]
