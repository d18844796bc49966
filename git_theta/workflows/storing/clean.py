"""clean: from a checkpoint's bytes to its manifest; what the manifest needs is then in the
store.
"""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from git_theta.core import dtypes, earlier_release, lfs_pointer
from git_theta.core import skeleton as skeletons
from git_theta.core.digest import digest, digest_of_range
from git_theta.core.layout import Extent, Layout, PartlyBrokenError
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
from git_theta.core.names import display
from git_theta.core.resources.futures import abandon
from git_theta.core.resources.memory import Scratch, Take
from git_theta.core.source import Source
from git_theta.core.tensors import Buffer, Spec, Tensor
from git_theta.errors import FormatError, ManifestError, PluginError, ThetaError
from git_theta.plugins import registry, tables
from git_theta.workflows import chains
from git_theta.workflows.session import Session
from git_theta.workflows.storing.reuse import Elsewhere

HEAD = 4096
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
    head = source.read(0, min(HEAD, source.size))
    if is_manifest(head):
        return _pass_through(session, source)
    if earlier_release.is_metadata(head):
        session.warn(f"{path} stays as it is: {earlier_release.ADVICE}")
        return source.read(0, source.size)
    if lfs_pointer.is_pointer(source.size, head):
        return _held_pointer(session, source, known)
    layout = _layout(session, path, source, head, known)
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


def _layout(
    session: Session, path: str, source: Source, head: bytes, known: Sequence[Manifest]
) -> Layout:
    """How to cut ``source``: as one of the ``known`` manifests was cut that describes these very
    bytes, else as its format says.
    """
    problem, layout = None, None
    try:
        layout = scan(session, path, source, head)
    except FormatError as error:
        problem = error
    for manifest in known:
        if manifest.size == source.size and (layout is None or _cut_otherwise(layout, manifest)):
            from git_theta.workflows.storing import recut

            before = recut.describing(session, manifest, source)
            if before is not None:
                return before
    if layout is None:
        assert problem is not None
        raise problem
    if tables.beside(PurePosixPath(path).name):
        from git_theta.workflows.storing import companions

        return companions.as_before(session, source, layout, known)
    return layout


def _cut_otherwise(layout: Layout, manifest: Manifest) -> bool:
    return layout.format != manifest.format or [e.name for e in layout.extents] != [
        e.name for e in manifest.entries
    ]


def scan(session: Session, path: str, source: Source, head: bytes) -> Layout:
    """The layout of a checkpoint by the first format that recognises it: with a file beside it, by
    content, then by the path's suffix.
    """
    if tables.beside(PurePosixPath(path).name):
        from git_theta.workflows.storing import companions

        beside = companions.scan(session, path, source)
        if beside is not None:
            return beside
    for candidate in registry.detect(head, PurePosixPath(path).suffix.lower()):
        try:
            layout = candidate.scan(source)
        except FormatError as error:
            whole = (
                error.layout
                if isinstance(error, PartlyBrokenError) and error.layout.extents
                else None
            )
            how = (
                f"byte for byte, with its whole tensors ({len(whole.extents)})"
                if whole
                else "as plain bytes"
            )
            if session.settings.on_invalid != "store":
                reason = str(error).partition(" is broken: ")[2] or str(error)
                raise FormatError(
                    f"this looks like {candidate.name}, but is broken: {reason}; "
                    f"save it again, or 'git config theta.onInvalid store' stores it {how}"
                ) from None
            session.warn(f"{path}: broken {candidate.name} ({error}); stored {how}")
            layout = whole or registry.checkpoint_format("opaque").scan(source)
        except ThetaError:
            raise
        except Exception as error:
            if candidate.name in tables.FORMATS:
                raise
            raise PluginError(
                f"checkpoint format {candidate.name!r}, which a plugin provides, failed:"
                f" {type(error).__name__}: {display(str(error), 200)}"
            ) from error
        if layout.size != source.size:
            raise FormatError(
                f"format {candidate.name} describes {layout.size} bytes of a file of {source.size}"
            )
        if (
            layout.format == "opaque"
            and layout.size
            and not tables.explains(PurePosixPath(path).name)
        ):
            session.warn(f"{path}: no known checkpoint format; stored as plain bytes")
        for notice in layout.notices:
            session.warn(f"{path}: {notice}")
        return layout
    # Opaque takes everything
    raise FormatError("no checkpoint format is installed")  # pragma: no cover


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

    entry: Entry
    crc: int | None
    notices: list[str]


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
        entries = _share_equal(results)
        skeleton = self._skeleton([result.crc for result in results])
        return Manifest(self.layout.format, self.layout.size, skeleton, entries, {})

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
        if extent.length <= INLINE_LIMIT:
            data = self.source.read(extent.offset, extent.length)
            self.job.advance(extent.length)
            entry = Entry.of_inline(extent.name, extent.dtype, extent.shape, data, extent.aliases)
            return _CutTensor(entry, zlib.crc32(data) if covered else None, [])
        with self._scratch.lease() as take:
            return self._in_store(extent, covered, take)

    def _in_store(self, extent: Extent, covered: bool, take: Take) -> _CutTensor:
        held = take(extent.length) if extent.length <= _HELD else None
        identity, crc = digest_of_range(
            self.source, extent.offset, extent.length, covered, held, self.job.advance
        )
        notices: list[str] = []
        chain = self._known_chain(extent, identity)
        if chain is None:
            chain = self._store(extent, held, notices, take)
        elif self._is_lost(chain):
            if len(chain) > 1 or chain[0].update != "dense":
                notices.append(
                    f"objects of {display(extent.name, 80)} are not here; 'git theta fsck --repair'"
                    " makes or fetches them"
                )
            else:  # so whoever has the file mends the store
                chains.save(
                    self.session.store,
                    "dense",
                    Spec(extent.dtype, extent.shape),
                    self._dense_blocks(extent),
                )
        return _CutTensor(
            Entry(extent.name, extent.dtype, extent.shape, identity, chain, None, extent.aliases),
            crc,
            notices,
        )

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

    def _is_lost(self, chain: Sequence[Link]) -> bool:
        """Whether a known tensor's value cannot be rebuilt from what is here."""
        return bool(self.session.store.rely_on(ref for link in chain for ref in link.objects))

    def _store(
        self, extent: Extent, held: memoryview | None, notices: list[str], take: Take
    ) -> tuple[Link, ...]:
        settings, store = self.session.settings, self.session.store
        earlier = [m.by_name[extent.name] for m in self.known if extent.name in m.by_name]
        spec = Spec(extent.dtype, extent.shape)
        earlier = earlier or self.elsewhere.bases(extent.name, spec)
        bases = chains.load_bases(store, [entry for entry in earlier if entry.chain], notices, take)
        if held is None and not bases and not chains.baseless():
            return (chains.save(store, "dense", spec, self._dense_blocks(extent)),)
        if held is None:
            held = take(extent.length)
            self.source.read_into(extent.offset, held)
        return chains.encode(
            store,
            Tensor(extent.dtype, extent.shape, held),
            bases,
            settings.compression,
            settings.max_chain,
        )

    def _dense_blocks(self, extent: Extent) -> Iterator[Buffer]:
        """The dense payload of a tensor too large to be held, block by block; the same bytes as
        ``Dense.encode`` gives.
        """
        from git_theta.updates import dense, planes

        step = planes.BLOCK * dtypes.get(extent.dtype).width
        block = memoryview(bytearray(min(step, extent.length)))
        for start in range(0, extent.length, step):
            part = block[: min(step, extent.length - start)]
            self.source.read_into(extent.offset + start, part)
            if self.job.cancelled:
                raise Cancelled("cancelled")
            yield from dense.chunks(extent.dtype, part, self.session.settings.compression)

    def _skeleton(self, sums: Sequence[int | None]) -> Entry:
        data = skeletons.cut(self.layout, self.source, sums)
        _check_skeleton(data, self.layout, self.source)
        if len(data) <= INLINE_LIMIT:
            return Entry.of_inline("skeleton", "u8", (len(data),), data)
        settings, tensor, identity = (
            self.session.settings,
            Tensor("u8", (len(data),), data),
            digest(data),
        )
        earlier = [manifest.skeleton for manifest in self.known] or self.elsewhere.skeletons()
        for skeleton in earlier:
            if skeleton.digest == identity:
                if self._is_lost(skeleton.chain) and len(skeleton.chain) == 1:
                    chains.encode(
                        self.session.store, tensor, [], settings.compression, settings.max_chain
                    )
                return skeleton
        notices: list[str] = []
        bases = chains.load_bases(
            self.session.store, [skeleton for skeleton in earlier if skeleton.chain], notices
        )
        chain = chains.encode(
            self.session.store, tensor, bases, settings.compression, settings.max_chain
        )
        return Entry("skeleton", "u8", (len(data),), identity, chain)

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


def _share_equal(results: Sequence[_CutTensor]) -> tuple[Entry, ...]:
    """Tensors of one file that are equal are stored as the first of them is, whichever was encoded
    first.
    """
    first: dict[tuple[str, str, tuple[int, ...]], Entry] = {}
    entries = []
    for result in results:
        entry = result.entry
        if entry.chain:
            twin = first.setdefault((entry.digest, entry.dtype, entry.shape), entry)
            if twin.chain != entry.chain:
                entry = Entry(
                    entry.name,
                    entry.dtype,
                    entry.shape,
                    entry.digest,
                    twin.chain,
                    None,
                    entry.aliases,
                )
        entries.append(entry)
    return tuple(entries)


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
