"""reading: single tensors of a version, straight from the store.

Only what is asked for is fetched and decoded.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace

from git_theta.core import lfs_pointer
from git_theta.core import skeleton as skeletons
from git_theta.core.contracts import ShowsViews, StoredView
from git_theta.core.manifest import Entry, Manifest, is_manifest, parse
from git_theta.core.names import display
from git_theta.core.tensors import Buffer, Spec, Tensor
from git_theta.errors import FormatError, GitError, ManifestError, UsageError
from git_theta.git.writing import index, plumbing
from git_theta.plugins import registry
from git_theta.workflows import chains, slices
from git_theta.workflows.session import Session


def manifest_at(session: Session, revision: str, path: str) -> Manifest:
    """The manifest of ``path`` (from the top) in ``revision``; in ``:0``, what is staged.

    :class:`UsageError` that tells whether the revision, the file or the manifest is missing.
    """
    if revision.startswith("-"):
        raise UsageError(f"'{display(revision, 60)}' is not a revision")
    text = session.blobs.read(f"{revision}:{path}")
    if text is not None and is_manifest(text):
        try:
            return parse(text)
        except ManifestError as error:
            raise ManifestError(f"{display(path)} in {display(revision, 60)}: {error}") from None
    cwd = session.cwd or session.repository.git_dir
    if not revision.startswith(":") and plumbing.commit(revision, cwd) is None:
        raise UsageError(
            f"there is no revision '{display(revision, 80)}'; 'git fetch' brings those of a remote"
        )
    if text is None and revision in (":", ":0"):
        unfinished = index.unfinished(session.repository, session.cwd)
        if unfinished:
            raise GitError(unfinished)
    if text is None:
        raise UsageError(
            f"there is no file {display(path)} in {display(revision, 60)}; paths count from the top"
            " of the repository"
        )
    how = (
        "a Git LFS pointer, not a model that Git-Theta stores"
        if lfs_pointer.is_pointer(len(text), text)
        else "not stored by Git-Theta"
    )
    raise UsageError(f"{display(path)} in {display(revision, 60)} is {how}")


class Reader:
    """The tensors in ``manifest`` by any of their names.

    Safe to use from several threads while ``session`` is open.

    Tensors that the format shows as views (transposed ones and slices in torch files) have the
    shape that its framework gives them.
    """

    def __init__(self, session: Session, manifest: Manifest) -> None:
        self.manifest = manifest
        self._session = session
        self._source: StoredSource | None = None
        form = registry.known_format(manifest.format)
        self._form = form if isinstance(form, ShowsViews) else None
        self._views: Mapping[str, StoredView] = {}
        if self._form is not None:
            self._views = self._find_views(self._form)
        self.specs: Mapping[str, Spec] = self._specs()

    def _specs(self) -> dict[str, Spec]:
        found: dict[str, Spec] = {}
        for entry in self.manifest.entries:
            found.update(dict.fromkeys((entry.name, *entry.aliases), entry.spec))
        found.update({name: view.spec for name, view in self._views.items()})
        return found

    def _find_views(self, form: ShowsViews) -> Mapping[str, StoredView]:
        self._fetch([])
        self._source = StoredSource(self._session, self.manifest)
        known = {name: entry.spec for name, entry in self.manifest.by_name.items()}
        return form.views(self._source, known)

    def fetch(self, names: Iterable[str]) -> None:
        """Bring the objects of the tensors ``names``, in one go, where they are not here."""
        wanted: dict[str, Entry] = {}
        for name in names:
            view = self._views.get(name)
            entries = [self.manifest.by_name[name]] if view is None else self._entries_of(view)
            wanted.update((entry.digest, entry) for entry in entries)
        self._fetch(list(wanted.values()))

    def _entries_of(self, view: StoredView) -> list[Entry]:
        assert self._source is not None
        return self._source.entries(view.offset, view.length)

    def _fetch(self, entries: list[Entry]) -> None:
        # Only there the skeleton is needed to read tensors
        if self._source is None and self._form is not None:
            entries = [*entries, self.manifest.skeleton]
        places = [place for entry in entries for place in entry.ranges]
        if self._session.store.lacking(places):
            from git_theta.workflows.sharing import routes

            registry.require_updates(link.update for entry in entries for link in entry.chain)
            routes.bring_ranges(self._session, places)

    def load(self, name: str) -> Tensor:
        """The tensor called ``name``, whole, verified by its digest, in memory of its own."""
        view = self._views.get(name)
        if view is None:
            entry = self.manifest.by_name[name]
            value = chains.load(self._session.store, entry)
            return replace(value, data=_writable(value.data))
        assert self._source is not None
        return Tensor.from_array(view.read(self._source.view(view.offset, view.length)).copy())

    def rows(self, name: str, start: int, stop: int, verify: bool = True) -> Tensor:
        """The rows from ``start`` to before ``stop`` of the tensor called ``name``.

        To ``verify`` them, all of it is decoded, as its digest is that of the whole; where it is
        stored dense, no more than the rows is held. Else no more is decoded than
        :func:`slices.rows` needs.
        """
        spec = self.specs[name]
        part = Spec(spec.dtype, (stop - start, *spec.shape[1:]))
        if name in self._views:
            return Tensor.from_array(self.load(name).array()[start:stop].copy())
        if not verify:
            return slices.rows(self._session.store, self.manifest.by_name[name], start, stop)
        row = spec.nbytes // spec.shape[0]
        out = bytearray(part.nbytes)
        first, last = start * row, stop * row

        def put(offset: int, data: Buffer) -> None:
            view = memoryview(data).cast("B")
            low, high = max(first, offset), min(last, offset + len(view))
            if low < high:
                out[low - first : high - first] = view[low - offset : high - offset]

        chains.pour(self._session.store, self.manifest.by_name[name], put, False)
        return Tensor(part.dtype, part.shape, out)


def _writable(data: Buffer) -> Buffer:
    return bytearray(data) if memoryview(data).readonly else data


class StoredSource:
    """A checkpoint's bytes with random access: of the skeleton from memory, of tensors as they are
    read. Derived checksums read as 0.
    """

    def __init__(self, session: Session, manifest: Manifest) -> None:
        self._session = session
        self._manifest = manifest
        self.size = manifest.size
        data = bytes(chains.load(session.store, manifest.skeleton).data)
        self._pieces = skeletons.parse(
            data, manifest.size, [entry.nbytes for entry in manifest.entries]
        ).pieces
        self._starts = [piece.offset for piece in self._pieces]
        self._lock = threading.Lock()
        self._last: tuple[int, Buffer] = (-1, b"")

    def entries(self, offset: int, length: int) -> list[Entry]:
        """The tensors that lie in a range of the file."""
        return [
            self._manifest.entries[piece.tensor]
            for piece in self._within(offset, length)
            if piece.tensor >= 0
        ]

    def read(self, offset: int, length: int) -> bytes:
        """As :meth:`~git_theta.core.source.Source.read`."""
        return bytes(self.view(offset, length))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """As :meth:`~git_theta.core.source.Source.read_into`."""
        buffer[:] = self.view(offset, len(buffer))

    def view(self, offset: int, length: int) -> memoryview:
        """As :meth:`read`, without a copy where the bytes lie in one piece."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FormatError(
                f"bytes {offset} to {offset + length} lie outside the file of {self.size} bytes"
            )
        parts = []
        for piece in self._within(offset, length):
            low, high = max(offset, piece.offset), min(offset + length, piece.end)
            parts.append(
                memoryview(self._bytes(piece)).cast("B")[low - piece.offset : high - piece.offset]
            )
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    def _within(self, offset: int, length: int) -> list[skeletons.Piece]:
        first = max(0, bisect.bisect_right(self._starts, offset) - 1)
        last = bisect.bisect_left(self._starts, offset + length)
        return list(self._pieces[first:last]) if length else []

    def _bytes(self, piece: skeletons.Piece) -> Buffer:
        if piece.data is not None:
            return piece.data
        if piece.tensor < 0:
            return bytes(piece.length)
        with self._lock:
            number, data = self._last
        if number != piece.tensor:
            data = chains.load(self._session.store, self._manifest.entries[piece.tensor]).data
            with self._lock:
                self._last = piece.tensor, data
        return data
