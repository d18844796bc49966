"""clean: from a checkpoint's bytes to its manifest; what the manifest needs is then in the
store.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from git_theta.core import earlier_release, lfs_pointer
from git_theta.core import skeleton as skeletons
from git_theta.core.digest import digest_of_range
from git_theta.core.layout import Extent, Layout
from git_theta.core.manifest import (
    INLINE_LIMIT,
    Entry,
    Link,
    Manifest,
    is_manifest,
    parse,
    unconverted,
)
from git_theta.core.objects import BUNDLED
from git_theta.core.resources.futures import abandon
from git_theta.core.resources.memory import Scratch, Take
from git_theta.core.source import Source, head_of
from git_theta.core.tensors import Spec, Tensor
from git_theta.errors import FormatError, ManifestError, ThetaError
from git_theta.workflows import bundles, chains
from git_theta.workflows.session import Session
from git_theta.workflows.storing import layouts, small_tensors
from git_theta.workflows.storing.reuse import Elsewhere
from git_theta.workflows.storing.small_tensors import SmallTensor

# Tensors up to this size are read once and held; larger ones are read twice, in blocks
_HELD = 64 << 20
_BATCH = 4 << 20  # bytes of tensors that are handed to a thread together
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
        same = next((other for other in known if other.same_content(manifest)), manifest)
        if same is manifest:
            session.require_release()
        return session.hand_out(same)
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


@dataclass(frozen=True, slots=True)
class _CutTensor:
    """A tensor's line, its CRC-32 where one was asked for, and what the user should know."""

    staged: chains.StagedEntry
    crc: int | None
    notices: Sequence[str] = ()

    def under(self, extent: Extent, crc: int | None) -> _CutTensor:
        """The same for another tensor of the file with the same bytes."""
        line = self.staged.entry._replace(name=extent.name, aliases=extent.aliases)
        return _CutTensor(replace(self.staged, entry=line), crc)


_Cut = dict[int, _CutTensor]
"""Tensors by their number in the file."""


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

    def __init__(self, batches: Sequence[Sequence[int]], extents: Sequence[Extent]) -> None:
        self._lock = threading.Lock()
        self._large = deque(batch for batch in batches if extents[batch[0]].length > _HELD)
        self._small = deque(batch for batch in batches if extents[batch[0]].length <= _HELD)
        self._busy = False

    def do_next(self, work: Callable[[Sequence[int]], _Cut]) -> _Cut:
        """Do ``work`` on a batch that nobody has begun, and return what came of it."""
        with self._lock:
            large = bool(self._large) and not (self._busy and self._small)
            batch = self._large.popleft() if large else self._small.popleft()
            self._busy = self._busy or large
        try:
            return work(batch)
        finally:
            if large:
                with self._lock:
                    self._busy = False


class _CleanWork:
    """One clean: the facts that its tasks share.

    Which task runs when changes nothing of the outcome. All small tensors are hashed first, which
    shows what has to be stored; that is then read again. Larger ones are read once.
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
        self._groups = bundles.groups(extent.length for extent in layout.extents)
        self._skeleton_anew = False
        self._spool = bundles.Spool(session.store)
        self._bundles = [bundles.Bundle(session.store, self._spool) for _ in self._groups]

    def run(self) -> Manifest:
        """The manifest; everything new is then in the store."""
        try:
            return self._run()
        finally:
            self._spool.close()

    def _run(self) -> Manifest:
        extents = self.layout.extents
        seen = self._look(small_tensors.batches(extents))
        small = self._decide(seen)
        found = dict(small.settled)
        found |= self._spread(
            [
                *self._group_tasks(small, small.stored),
                *self._large_tasks(list(_batches(extents))),
            ]
        )
        found |= self._store_anew(small, found)
        for number, twin in small.twins.items():
            found[number] = found[twin].under(extents[number], seen[number].crc)
        results = [found[number] for number in range(len(extents))]
        self._report(results)
        skeleton = self._skeleton([result.crc for result in results])
        for bundle in self._bundles:
            bundle.close()
        entries = _share_equal([result.staged.seal() for result in results])
        self._remember(results, entries, skeleton)
        return Manifest(self.layout.format, self.layout.size, skeleton.seal(), entries, {})

    def _spread(self, tasks: Sequence[Callable[[], _Cut]]) -> _Cut:
        """What all ``tasks`` found, worked on side by side."""
        found: _Cut = {}
        if len(tasks) < 2:  # threads would only cost their start
            for task in tasks:
                found |= task()
            return found
        futures = [self.session.pool().submit(task) for task in tasks]
        try:
            for future in futures:
                found |= future.result()
        except BaseException:
            self.job.cancelled = True
            abandon(futures)
            raise
        return found

    # Small tensors

    def _look(self, batches: Sequence[Sequence[int]]) -> dict[int, SmallTensor]:
        """What is in the small tensors, in the file's order."""
        extents = self.layout.extents

        def one(numbers: Sequence[int]) -> dict[int, SmallTensor]:
            found = small_tensors.look(self.source, extents, self.covered, numbers)
            self.job.advance(sum(extents[number].length for number in numbers))
            return found

        several = len(batches) > 1
        found = self.session.pool().map(one, batches) if several else map(one, batches)
        return {number: small for some in found for number, small in some.items()}

    def _decide(self, seen: Mapping[int, SmallTensor]) -> _Decided:
        """What becomes of each small tensor, once all are known."""
        decided = _Decided(seen)
        first: dict[tuple[str, str, tuple[int, ...]], int] = {}
        changed: list[int] = []
        kept: dict[int, Entry] = {}
        for number, small in seen.items():
            extent = self.layout.extents[number]
            if small.inline is not None:
                line = _line(extent, small.identity)._replace(inline=small.inline)
                decided.settle(number, line)
                continue
            twin = first.setdefault((small.identity, extent.dtype, extent.shape), number)
            if twin != number:
                decided.twins[number] = twin
                continue
            entry = self._known_entry(extent, small.identity)
            if entry is not None:
                kept[number] = entry
            else:
                changed.append(number)
        places = {place for entry in kept.values() for place in entry.ranges}
        absent = set(self.session.store.rely_on({place.object for place in places}))
        for number, entry in kept.items():
            if absent and not absent.isdisjoint(entry.objects):
                decided.mended[number] = entry.chain
            else:
                decided.settle(number, entry)
        decided.stored = {*changed, *decided.mended}
        return decided

    def _known_entry(self, extent: Extent, identity: str) -> Entry | None:
        """The line of a tensor with these bytes, if they are stored already."""
        for manifest in self.known:
            entry = manifest.by_name.get(extent.name)
            if (
                entry is not None
                and entry.digest == identity
                and entry.dtype == extent.dtype
                and entry.shape == extent.shape
            ):
                same = entry.name == extent.name and entry.aliases == extent.aliases
                return entry if same else _line(extent, identity)._replace(chain=entry.chain)
        chain = self._known_chain(extent, identity)
        return _line(extent, identity)._replace(chain=chain) if chain else None

    def _group_tasks(
        self, small: _Decided, numbers: Collection[int], dense: bool = False
    ) -> list[Callable[[], _Cut]]:
        """Tasks that store small tensors: one for each group."""
        members = [
            [number for number in group if number in numbers] if numbers else []
            for group in self._groups
        ]
        return [
            partial(self._store_group, at, wanted, small, dense)
            for at, wanted in enumerate(members)
            if wanted
        ]

    def _store_group(self, at: int, numbers: Sequence[int], small: _Decided, dense: bool) -> _Cut:
        """Store tensors of a group, as ``dense`` ones where that is wanted.

        Its bundle is closed if it cannot change any more: nothing is stored anew where no version
        is known, and the skeleton joins the last one.
        """
        extents, bundle, found = self.layout.extents, self._bundles[at], _Cut()
        for number, data in small_tensors.read_again(self.source, extents, numbers, small.seen):
            self.job.advance(0)
            extent, seen = extents[number], small.seen[number]
            value = chains.InMemory(Tensor(extent.dtype, extent.shape, data), seen.identity)
            to = chains.PayloadTarget(self.session.store, self.session.settings, bundle, number)
            equal = partial(_as_it_was, small.mended.get(number))
            found[number] = self._keep(to, extent, value, equal, dense, seen.crc)
        if not self.known and at < len(self._groups) - 1:
            bundle.close()
        return found

    def _store_anew(self, small: _Decided, found: _Cut) -> _Cut:
        """Store small tensors anew that would make a clone fetch too much, if anything is stored;
        decide that of the skeleton, too.
        """
        if not self.known or not small.stored:
            return {}
        needed: dict[int, Sequence[Link]] = {}
        new: dict[int, int] = {}
        for number in small.seen:
            if number in found:
                line = found[number].staged
                needed[number] = line.chain_below
                new[number] = line.new_bytes
        needed[len(self.layout.extents)] = self.known[0].skeleton.chain
        worn = bundles.to_store_anew(needed, new)
        self._skeleton_anew = len(self.layout.extents) in worn
        return self._spread(self._group_tasks(small, worn, dense=True))

    # Large tensors

    def _large_tasks(self, batches: Sequence[Sequence[int]]) -> list[Callable[[], _Cut]]:
        queue = _Queue(batches, self.layout.extents)
        return [partial(queue.do_next, self._store_large)] * len(batches)

    def _store_large(self, numbers: Sequence[int]) -> _Cut:
        return {number: self._store_one(number) for number in numbers}

    def _store_one(self, number: int) -> _CutTensor:
        extent = self.layout.extents[number]
        with self._scratch.lease() as take:
            value = _InFile(self.source, extent, self.covered[number], take, self.job)
            to = chains.PayloadTarget(self.session.store, self.session.settings)
            cut = self._keep(to, extent, value, partial(self._known_chain, extent))
            return replace(cut, crc=value.crc)

    def _keep(
        self,
        to: chains.PayloadTarget,
        extent: Extent,
        value: chains.Storable,
        equal: Callable[[str], Sequence[Link] | None],
        dense: bool = False,
        crc: int | None = None,
    ) -> _CutTensor:
        """Store a tensor, as a ``dense`` one where that is wanted."""
        notices: list[str] = []
        with self._scratch.lease() as take:
            staged = chains.keep(
                to,
                (extent.name, extent.aliases),
                value,
                equal,
                lambda: [] if dense else self._bases(extent.name, value.spec, notices, take),
                notices.append,
            )
        return _CutTensor(staged, crc, notices)

    def _known_chain(self, extent: Extent, identity: str) -> tuple[Link, ...] | None:
        """How the same bytes are stored already: under the same name, else under any, else as an
        earlier value that the present one is built on.
        """
        spec = Spec(extent.dtype, extent.shape)
        for manifest in self.known:
            entry = manifest.by_name.get(extent.name)
            if entry is not None and (entry.digest, entry.spec) == (identity, spec):
                return entry.chain
        for manifest in self.known:
            entry = manifest.by_digest.get((identity, extent.dtype))
            if entry is not None and entry.shape == extent.shape:
                return entry.chain
        chain = self.elsewhere.chain(identity, spec)
        if chain:
            return chain
        for manifest in self.known:
            entry = manifest.by_name.get(extent.name)
            if entry is not None and len(entry.chain) > 1:
                chain = chains.earlier(self.session.store, entry.chain, identity, spec)
                if chain:
                    return chain
        return None

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
        earlier = [] if self._skeleton_anew else [each.skeleton for each in self.known]
        if not self.known and len(data) > INLINE_LIMIT:
            earlier = self.elsewhere.skeletons()
        stored = [entry for entry in earlier if entry.chain]
        bundle = self._bundles[-1] if self._bundles else None
        return chains.keep(
            chains.PayloadTarget(store, self.session.settings, bundle, len(self.layout.extents)),
            ("skeleton", ()),
            value,
            partial(self._known_skeleton, earlier, value.spec),
            lambda: chains.load_bases(store, stored, notices),
            notices.append,
        )

    def _known_skeleton(
        self, earlier: Sequence[Entry], spec: Spec, identity: str
    ) -> Sequence[Link] | None:
        if self._skeleton_anew or spec.nbytes <= INLINE_LIMIT:
            return None
        found = chains.equal_among(earlier, spec)(identity)
        return found or self.elsewhere.chain(identity, spec)

    def _remember(
        self, results: Sequence[_CutTensor], entries: Sequence[Entry], skeleton: chains.StagedEntry
    ) -> None:
        """Log the new lines, and those that they replace."""
        new = [
            entry
            for result, entry in zip(results, entries, strict=True)
            if result.staged.staged is not None
        ]
        found = [manifest.by_name.get(entry.name) for manifest in self.known for entry in new]
        old = [entry for entry in found if entry is not None]
        if skeleton.staged is not None:
            old += [manifest.skeleton for manifest in self.known]
            new.append(skeleton.seal())
        self.elsewhere.remember([*old, *new])

    def _report(self, results: Sequence[_CutTensor]) -> None:
        notices = [notice for result in results for notice in result.notices]
        for notice in notices[:3]:
            self.session.warn(notice)
        if len(notices) > 3:
            self.session.warn(f"… and {len(notices) - 3} more tensors likewise")


@dataclass(slots=True)
class _Decided:
    """What becomes of the small tensors that were ``seen``: they are ``settled``, or like an
    earlier one in the file (``twins``), or ``stored``: of these some written again as they were
    (``mended``: their chains).
    """

    seen: Mapping[int, SmallTensor]
    settled: _Cut = field(default_factory=dict)
    twins: dict[int, int] = field(default_factory=dict)
    stored: set[int] = field(default_factory=set)
    mended: dict[int, Sequence[Link]] = field(default_factory=dict)

    def settle(self, number: int, line: Entry) -> None:
        """The tensor has this line."""
        self.settled[number] = _CutTensor(chains.StagedEntry(line), self.seen[number].crc)


def _as_it_was(chain: Sequence[Link] | None, _: str) -> Sequence[Link] | None:
    return chain


def _line(extent: Extent, identity: str) -> Entry:
    return Entry(extent.name, extent.dtype, extent.shape, identity, (), None, extent.aliases)


def _batches(extents: Sequence[Extent]) -> Iterator[list[int]]:
    """The larger tensors in runs of about :data:`_BATCH` bytes, at least one each."""
    batch: list[int] = []
    size = 0
    for number, extent in enumerate(extents):
        if extent.length >= BUNDLED:
            if batch and size + extent.length > _BATCH:
                yield batch
                batch, size = [], 0
            batch.append(number)
            size += extent.length
    if batch:
        yield batch


def _share_equal(sealed: Sequence[Entry]) -> tuple[Entry, ...]:
    """Tensors of one file that are equal are stored as the first of them is, whichever was encoded
    first.
    """
    first: dict[tuple[str, str, tuple[int, ...]], Entry] = {}
    for entry in sealed:
        if entry.chain:
            first.setdefault((entry.digest, entry.dtype, entry.shape), entry)
    return tuple(
        entry._replace(chain=chain)
        if entry.chain
        and (chain := first[entry.digest, entry.dtype, entry.shape].chain) is not entry.chain
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
