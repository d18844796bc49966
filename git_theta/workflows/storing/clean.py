"""clean: from a checkpoint's bytes to its manifest; what the manifest needs is then in the
store.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from git_theta.core import earlier_release, lfs_pointer
from git_theta.core import skeleton as skeletons
from git_theta.core.digest import digest_of_range
from git_theta.core.layout import Extent, Layout
from git_theta.core.manifest import (
    INLINE_LIMIT,
    Entry,
    Link,
    Manifest,
    ObjectRef,
    is_manifest,
    parse,
    unconverted,
)
from git_theta.core.resources.futures import abandon
from git_theta.core.resources.memory import Scratch, Take
from git_theta.core.source import Source, head_of
from git_theta.core.tensors import Spec, Tensor
from git_theta.errors import FormatError, ManifestError, ThetaError
from git_theta.workflows import chains
from git_theta.workflows.session import Session
from git_theta.workflows.storing import layouts
from git_theta.workflows.storing.reuse import Elsewhere

# Tensors up to this size are read once and held; larger ones are read twice, in blocks
_HELD = 64 << 20
_BATCH = 4 << 20  # small tensors are handed to a thread together
_MANIFEST_LIMIT = 256 << 20


class Cancelled(ThetaError):  # noqa: N818 - not an error, a way out
    """The work was given up because its input turned out to be another one."""


@dataclass(slots=True)
class Job:
    """Lets another thread follow a clean (``done`` bytes of ``total``) and stop it."""

    total: int = 0
    done: int = 0
    cancelled: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, count: int) -> None:
        """Count ``count`` more bytes; :class:`Cancelled` when the work is no longer wanted."""
        if self.cancelled:
            raise Cancelled("cancelled")
        with self.lock:
            self.done += count


def clean(
    session: Session, path: str, source: Source, known: Sequence[Manifest], job: Job | None = None
) -> bytes:
    """The manifest of the checkpoint in ``source``, which git calls ``path``.

    ``known`` are manifests that the index and HEAD hold there: content that one of them describes
    gives that very manifest back, and tensors that did not change keep their lines. A manifest
    passes through as it is, and so does metadata of Git-Theta 0.2, with a warning. The objects are
    stored, but neither durable nor visible before ``session.store.flush()``. :class:`FormatError`
    for a broken checkpoint, and for a Git LFS pointer that no known manifest describes.
    """
    job = job or Job()
    job.total = source.size
    head = head_of(source)
    if is_manifest(head):
        return _pass_through(session, source)
    if earlier_release.is_metadata(head):
        session.warn(f"{path} stays as it is: {earlier_release.ADVICE}")
        return source.read(0, source.size)
    if lfs_pointer.is_pointer(source.size, head):
        return _held_pointer(session, source, known)
    layout = layouts.find(session, path, source, head, known)
    elsewhere = Elsewhere(session, path)
    try:
        manifest = _CleanWork(session, source, layout, list(known), elsewhere, job).run()
        for other in known:
            if other.identity == manifest.identity:
                return session.hand_out(other)
        elsewhere.remember(manifest.entries)
        return session.hand_out(manifest)
    finally:
        elsewhere.close()


def _pass_through(session: Session, source: Source) -> bytes:
    if source.size > _MANIFEST_LIMIT:
        raise ManifestError(f"a manifest of {source.size} bytes is too large to be one")
    text = unconverted(source.read(0, source.size))
    session.hand_out(parse(text))
    return text


def _held_pointer(session: Session, source: Source, known: Sequence[Manifest]) -> bytes:
    """The known manifest of the Git LFS pointer in ``source``; :class:`FormatError` when there is
    none: it is not a model.
    """
    from git_theta.workflows.storing import recut

    for manifest in known:
        if manifest.size == source.size and recut.describing(session, manifest, source) is not None:
            return session.hand_out(manifest)
    raise FormatError(f"this {lfs_pointer.ADVICE}")


@dataclass(slots=True)
class _CutTensor:
    """A tensor's line, its CRC-32 where one was asked for, and what the user should know."""

    staged: chains.StagedEntry
    crc: int | None
    notices: list[str]


class _InFile:
    """A tensor in a checkpoint file, read into memory that ``take`` gives: at once up to
    :data:`_HELD` bytes, else when somebody needs all of it.

    ``crc`` is its CRC-32 if it is to be ``summed``, once its digest was asked for.
    """

    def __init__(self, source: Source, extent: Extent, summed: bool, take: Take, job: Job) -> None:
        self.extent = extent
        self.spec = Spec(extent.dtype, extent.shape)
        self.crc: int | None = None
        self._source = source
        self._summed = summed
        self._take = take
        self._job = job
        self._held: memoryview | None = None

    def digest(self) -> str:
        """As :meth:`chains.Storable.digest`."""
        extent = self.extent
        if extent.length <= _HELD:
            self._held = self._take(extent.length)
        identity, self.crc = digest_of_range(
            self._source,
            extent.offset,
            extent.length,
            self._summed,
            self._held,
            self._job.advance,
        )
        return identity

    def tensor(self) -> Tensor:
        """As :meth:`chains.Storable.tensor`."""
        if self._held is None:
            self._held = self._take(self.extent.length)
            self._source.read_into(self.extent.offset, self._held)
        return Tensor(*self.spec, self._held)

    def blocks(self, step: int) -> Iterator[memoryview]:
        """As :meth:`chains.Storable.blocks`."""
        if self._held is not None:
            yield self._held
            return
        length = self.extent.length
        block = memoryview(bytearray(min(step, length)))
        for start in range(0, length, step):
            part = block[: min(step, length - start)]
            self._source.read_into(self.extent.offset + start, part)
            self._job.advance(0)
            yield part


class _Queue:
    """Batches in the order in which they are best worked on: of tensors beyond :data:`_HELD`, one
    at a time while there is anything else.

    Such a tensor takes much memory while it is compared with its earlier value, and begun late it
    would keep all others waiting.
    """

    def __init__(self, batches: Sequence[range], extents: Sequence[Extent]) -> None:
        self._lock = threading.Lock()
        self._large = deque(batch for batch in batches if extents[batch.start].length > _HELD)
        self._small = deque(batch for batch in batches if extents[batch.start].length <= _HELD)
        self._busy = False

    def do_next(self, work: Callable[[range], list[_CutTensor]]) -> tuple[range, list[_CutTensor]]:
        """Do ``work`` on a batch that nobody has begun; the batch and what came of it."""
        with self._lock:
            large = bool(self._large) and not (self._busy and self._small)
            batch = self._large.popleft() if large else self._small.popleft()
            self._busy = self._busy or large
        try:
            return batch, work(batch)
        finally:
            if large:
                with self._lock:
                    self._busy = False


class _CleanWork:
    """One clean: the facts that its tasks share.

    Which task runs when changes nothing of the outcome.
    """

    def __init__(
        self,
        session: Session,
        source: Source,
        layout: Layout,
        known: list[Manifest],
        elsewhere: Elsewhere,
        job: Job,
    ) -> None:
        self.session = session
        self.source = source
        self.layout = layout
        self.known = known
        self.elsewhere = elsewhere
        self.job = job
        self.covered = skeletons.covered(layout)
        self._scratch = Scratch()

    def run(self) -> Manifest:
        results = self._tensors(list(_batches(self.layout.extents)))
        self._report(results)
        skeleton = self._skeleton([result.crc for result in results])
        entries = _share_equal([result.staged.seal() for result in results])
        return Manifest(self.layout.format, self.layout.size, skeleton.seal(), entries, {})

    def _tensors(self, batches: Sequence[range]) -> list[_CutTensor]:
        if len(batches) < 2:  # threads would only cost their start
            return [result for batch in batches for result in self._batch(batch)]
        pool, work = self.session.pool(), _Queue(batches, self.layout.extents)
        futures = [pool.submit(work.do_next, self._batch) for _ in batches]
        try:
            done = sorted((future.result() for future in futures), key=lambda item: item[0].start)
            return [result for _, results in done for result in results]
        except BaseException:
            self.job.cancelled = True
            abandon(futures)
            raise

    def _batch(self, numbers: range) -> list[_CutTensor]:
        return [
            self._tensor(self.layout.extents[number], self.covered[number]) for number in numbers
        ]

    def _tensor(self, extent: Extent, covered: bool) -> _CutTensor:
        with self._scratch.lease() as take:
            value = _InFile(self.source, extent, covered, take, self.job)
            notices: list[str] = []
            staged = chains.keep(
                self.session.store,
                self.session.settings,
                (extent.name, extent.aliases),
                value,
                lambda identity: self._known_chain(extent, identity),
                lambda: self._bases(extent.name, value.spec, notices, take),
                notices.append,
            )
            return _CutTensor(staged, value.crc, notices)

    def _known_chain(self, extent: Extent, identity: str) -> tuple[Link, ...] | None:
        """How the same bytes are stored already: under the same name, else under any."""
        for manifest in self.known:
            entry = manifest.by_name.get(extent.name)
            if (
                entry is None
                or entry.digest != identity
                or entry.dtype != extent.dtype
                or entry.shape != extent.shape
            ):
                entry = None
            if entry is not None:
                return entry.chain
        for manifest in self.known:
            entry = manifest.by_digest.get((identity, extent.dtype))
            if entry is not None and entry.shape == extent.shape:
                return entry.chain
        return self.elsewhere.chain(identity, Spec(extent.dtype, extent.shape))

    def _bases(self, name: str, spec: Spec, notices: list[str], take: Take) -> list[chains.Base]:
        earlier = [m.by_name[name] for m in self.known if name in m.by_name]
        earlier = earlier or self.elsewhere.bases(name, spec)
        stored = [entry for entry in earlier if entry.chain]
        return chains.load_bases(self.session.store, stored, notices, take)

    def _skeleton(self, sums: Sequence[int | None]) -> chains.StagedEntry:
        data = skeletons.cut(self.layout, self.source, sums)
        _check_skeleton(data, self.layout, self.source)
        store, notices = self.session.store, list[str]()
        value = chains.InMemory(Tensor("u8", (len(data),), data))
        earlier = [manifest.skeleton for manifest in self.known]
        if len(data) > INLINE_LIMIT:
            earlier = earlier or self.elsewhere.skeletons()
        stored = [entry for entry in earlier if entry.chain]
        return chains.keep(
            store,
            self.session.settings,
            ("skeleton", ()),
            value,
            chains.equal_among(earlier, value.spec),
            lambda: chains.load_bases(store, stored, notices),
            notices.append,
        )

    def _report(self, results: Sequence[_CutTensor]) -> None:
        notices = [notice for result in results for notice in result.notices]
        for notice in notices[:3]:
            self.session.warn(notice)
        if len(notices) > 3:
            self.session.warn(f"… and {len(notices) - 3} more tensors likewise")


def _batches(extents: Sequence[Extent]) -> Iterator[range]:
    """Consecutive extents in runs of about :data:`_BATCH` bytes, at least one each and at most
    1024.
    """
    start = size = 0
    for number, extent in enumerate(extents):
        if number > start and (size + extent.length > _BATCH or number - start >= 1024):
            yield range(start, number)
            start, size = number, 0
        size += extent.length
    if start < len(extents):
        yield range(start, len(extents))


def _share_equal(sealed: Sequence[Entry]) -> tuple[Entry, ...]:
    """Tensors of one file that are equal are stored as the first of them is, whichever was encoded
    first.
    """
    first: dict[tuple[str, str, tuple[int, ...]], Entry] = {}
    for entry in sealed:
        if entry.chain:
            first.setdefault((entry.digest, entry.dtype, entry.shape), entry)
    return tuple(
        entry._replace(chain=first[entry.digest, entry.dtype, entry.shape].chain)
        if entry.chain
        else entry
        for entry in sealed
    )


def _check_skeleton(data: bytes, layout: Layout, source: Source) -> None:
    """Splice on paper: the skeleton just cut must give back every byte outside of the tensors."""
    parsed = skeletons.parse(data, layout.size, [extent.length for extent in layout.extents])
    for piece in parsed.pieces:
        if piece.tensor >= 0:
            extent = layout.extents[piece.tensor]
            same = (piece.offset, piece.length) == (extent.offset, extent.length)
        else:
            same = piece.data is None or piece.data == source.read(piece.offset, piece.length)
        if not same:
            raise FormatError("the file changed while it was read, or its layout is not exact")


def new_objects(manifest: Manifest, known: Sequence[Manifest]) -> list[ObjectRef]:
    """The objects that ``manifest`` needs and none of ``known`` does."""
    old = {oid for other in known for oid in other.objects()}
    return [ObjectRef(oid, size) for oid, size in manifest.objects().items() if oid not in old]
