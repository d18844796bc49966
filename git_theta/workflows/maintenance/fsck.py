"""fsck: whether every object that manifests need is here and is what its name says, every tensor
decodes to its digest, and they make a file.

Objects are read once, and tensors decoded once, whatever number of versions share them: chains that
end alike form a tree, which is walked from its dense root outwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from git_theta.core import skeleton as skeletons
from git_theta.core.contracts import Level
from git_theta.core.digest import digest, digest_of_range
from git_theta.core.layout import Layout
from git_theta.core.manifest import Entry, Link, ObjectRange, ObjectRef, parse
from git_theta.core.names import display
from git_theta.core.references import References
from git_theta.core.source import FileSource, head_of
from git_theta.core.tensors import Spec, Tensor
from git_theta.errors import (
    FormatError,
    ManifestError,
    ObjectDamaged,
    ObjectMissing,
    PayloadError,
    ThetaError,
)
from git_theta.git.config.remotes import Remote
from git_theta.git.history import manifest_scan, roots
from git_theta.plugins import registry
from git_theta.store.local import LocalStore
from git_theta.workflows import chains
from git_theta.workflows.maintenance import prune
from git_theta.workflows.session import Session
from git_theta.workflows.sharing import fetch, pointers, routes
from git_theta.workflows.storing import layouts

_QUARANTINE = "damaged"
_LEVELS: tuple[Level, ...] = ("default", "fast", "best")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one object or tensor, and where it matters: a path, a blob, the
    commits that brought it.

    ``kind`` is ``missing``, ``damaged`` (its bytes are not what its name says), ``partial`` (what
    is needed of it is here, the rest is not), ``wrong`` (its bytes are, but the tensor is not),
    ``unnamed`` (no Git LFS pointer at the remote names it) or ``broken`` (the manifest). ``oid`` is
    empty where no single object is to blame.
    """

    kind: str
    oid: str
    tensor: str
    path: str
    blob: str
    reason: str = ""
    commit: str = ""
    versions: int = 1


@dataclass(slots=True)
class FsckReport:
    """What was looked at, what is wrong with it, and what can be read of damaged objects."""

    manifests: int = 0
    tensors: int = 0
    objects: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    readable: set[ObjectRange] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor's line, and the first manifest it was found in."""

    entry: Entry
    path: str
    blob: str


@dataclass(frozen=True, slots=True)
class Whole:
    """A manifest as a file to be put together: its skeleton, its size, and the sizes of its
    tensors.
    """

    skeleton: Entry
    size: int
    lengths: tuple[int, ...]
    path: str
    blob: str


@dataclass(slots=True)
class _Node:
    """One stored value: a chain's end, the manifest lines for it, the values that build on it."""

    link: Link
    holders: list[Held] = field(default_factory=list)
    children: dict[Link, _Node] = field(default_factory=dict)


@dataclass(slots=True)
class Survey:
    """All distinct lines of some manifests, and what they make together."""

    wholes: list[Whole] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    blobs: dict[str, str] = field(default_factory=dict)
    broken: list[Problem] = field(default_factory=list)
    objects: dict[str, int] = field(default_factory=dict)


def survey(session: Session, revisions: Sequence[str] = (), everything: bool = False) -> Survey:
    """The lines of what is checked out (HEAD and index), of ``revisions`` as 'fetch' takes them, or
    of ``everything`` referred to.
    """
    result, references = Survey(), References()
    if everything:
        blobs = dict(prune.needed_blobs(session.repository))
    else:
        blobs = (
            fetch.blobs_of(session, revisions) if revisions else fetch.blobs_of_checkout(session)
        )
    for found in manifest_scan.manifests(session.repository, blobs):
        result.blobs[found.blob] = found.path
        try:
            result.held += [
                Held(entry, found.path, found.blob) for entry in references.add(found.text)
            ]
            manifest = parse(found.text)
        except ManifestError as error:
            result.broken.append(Problem("broken", "", "", found.path, found.blob, str(error)))
            continue
        lengths = tuple(entry.nbytes for entry in manifest.entries)
        result.wholes.append(
            Whole(manifest.skeleton, manifest.size, lengths, found.path, found.blob)
        )
    result.objects = {ref.oid: ref.size for held in result.held for ref in held.entry.objects}
    return result


def check(session: Session, found: Survey, advance: Callable[[int], None]) -> FsckReport:
    """Read every object and decode every tensor of a survey."""
    report = FsckReport(
        len(found.blobs),
        len(found.held),
        len(found.objects),
        sum(found.objects.values()),
        list(found.broken),
    )
    store, pool = session.store, session.pool()
    refs = [ObjectRef(oid, size) for oid, size in found.objects.items()]

    def verify(ref: ObjectRef) -> ObjectDamaged | ObjectMissing | None:
        try:
            store.verify(ref)
        except (ObjectDamaged, ObjectMissing) as error:
            return error
        finally:
            advance(ref.size)
        return None

    bad = {ref.oid: error for ref, error in zip(refs, pool.map(verify, refs), strict=True) if error}
    trees = list(_grow(found.held).values())
    for problems, readable in pool.map(lambda tree: _TreeWalk(store, bad).run(tree), trees):
        report.problems += problems
        report.readable |= readable
    report.problems += _unblamed(found, bad, report.problems)
    report.problems += _unfit(store, found.wholes)
    return report


def _unblamed(
    found: Survey,
    bad: Mapping[str, ObjectDamaged | ObjectMissing],
    problems: Sequence[Problem],
) -> Iterator[Problem]:
    """Objects that are damaged or here in part, though every tensor that lies in them can be
    read.
    """
    left = bad.keys() - {problem.oid for problem in problems}
    for held in found.held if left else ():
        for ref in held.entry.objects:
            if ref.oid in left:
                left = left - {ref.oid}
                error = bad[ref.oid]
                missing = isinstance(error, ObjectMissing)
                reason = "its tensors can be read, but it cannot be pushed"
                if not missing:
                    reason = f"{error.reason}; {reason}"
                yield _problem("partial" if missing else "damaged", ref.oid, held, reason)


def _unfit(store: LocalStore, wholes: Iterable[Whole]) -> Iterator[Problem]:
    """Manifests whose skeleton is that of other tensors: of such a file a part was staged, or a
    text merge mixed two.
    """
    # Most versions of a model have the same skeleton
    reasons: dict[tuple[Entry, int, tuple[int, ...]], str] = {}
    for whole in wholes:
        key = whole.skeleton, whole.size, whole.lengths
        if key not in reasons:
            reasons[key] = _why_unfit(store, *key)
        if reasons[key]:
            yield Problem(
                "broken", "", "", whole.path, whole.blob, f"it is no whole file: {reasons[key]}"
            )


def _why_unfit(store: LocalStore, skeleton: Entry, size: int, lengths: tuple[int, ...]) -> str:
    """Why ``skeleton`` is not that of a file of such tensors; empty where it is, or cannot be had:
    that is told as a tensor's.
    """
    try:
        skeletons.parse(bytes(chains.load(store, skeleton).data), size, lengths)
    except PayloadError as error:
        return str(error)
    except ThetaError:
        pass
    return ""


def _grow(held: Iterable[Held]) -> dict[Link, _Node]:
    """The chains as trees, by their dense ends."""
    trees: dict[Link, _Node] = {}
    for item in held:
        level, node = trees, None
        for link in reversed(item.entry.chain):
            node = level.setdefault(link, _Node(link))
            level = node.children
        if node is not None:
            node.holders.append(item)
    return trees


class _TreeWalk:
    """Decodes trees of values; ``bad`` are the objects that are not as they should be.

    A tensor in a damaged object is good all the same if its own bytes are.
    """

    def __init__(self, store: LocalStore, bad: Mapping[str, ObjectDamaged | ObjectMissing]) -> None:
        self._store = store
        self._bad = bad
        self._readable: set[ObjectRange] = set()

    def run(self, root: _Node) -> tuple[list[Problem], set[ObjectRange]]:
        """The problems of a tree, and what can be read of damaged objects."""
        return list(self._walk(root)), self._readable

    def _walk(self, root: _Node) -> Iterator[Problem]:
        """Decode a tree, parents before children, holding only the values that still have children
        to come.
        """
        waiting: list[tuple[_Node, Tensor | None]] = [(root, None)]
        while waiting:
            node, base = waiting.pop()
            try:
                value = self._decode(node.link, base)
            except ObjectDamaged as error:
                yield from _blame(node, "damaged", error.oid, error.reason)
            except ObjectMissing as error:
                yield from _blame(node, "missing", error.oid, "")
            except ThetaError as error:
                yield from _blame(node, "wrong", "", str(error))
            else:
                yield from _compare(node, value)
                waiting += [(child, value) for child in node.children.values()]

    def _decode(self, link: Link, base: Tensor | None) -> Tensor:
        damaged = [
            (place, error)
            for place in link.ranges
            if isinstance(error := self._bad.get(place.oid), ObjectDamaged)
        ]
        for place, error in damaged:
            if place.length == place.size:
                raise error
        try:
            value = chains.decode(self._store, link, base)
            if damaged:
                header, _ = chains.read_payload(self._store, link)
                if digest(memoryview(value.data).cast("B")) != header.digest:
                    raise damaged[0][1]
        except (PayloadError, FormatError):
            if damaged:
                raise damaged[0][1] from None
            raise
        self._readable.update(place for place, _ in damaged)
        return value


def _compare(node: _Node, value: Tensor) -> Iterator[Problem]:
    """Whether the lines that end here say what was decoded."""
    if not node.holders:
        return
    identity = digest(memoryview(value.data).cast("B"))
    for held in node.holders:
        if value.spec != held.entry.spec:
            yield _problem(
                "wrong",
                "",
                held,
                f"its objects hold {value.spec}, the manifest says {held.entry.spec}",
            )
        elif identity != held.entry.digest:
            yield _problem("wrong", "", held, "it decodes to another digest")


def _blame(node: _Node, kind: str, oid: str, reason: str) -> Iterator[Problem]:
    """Every line that builds on a value that cannot be had."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield from (_problem(kind, oid, held, reason) for held in node.holders)
        waiting += node.children.values()


def _problem(kind: str, oid: str, held: Held, reason: str) -> Problem:
    return Problem(kind, oid, held.entry.name, held.path, held.blob, reason)


# Telling where


def locate(session: Session, found: Survey, problems: Sequence[Problem]) -> list[Problem]:
    """The problems with the commit that brought each one's version, and the number of versions that
    it spoils.
    """
    lines = {problem.oid for problem in problems if problem.oid}
    spoilt: dict[str, set[str]] = {oid: set() for oid in lines}
    if lines:
        needles = {oid: oid.encode("ascii") for oid in lines}
        for item in manifest_scan.manifests(session.repository, found.blobs):
            for oid, needle in needles.items():
                if needle in item.text:
                    spoilt[oid].add(item.blob)
    commits = manifest_scan.commits_of(
        session.repository, {problem.blob for problem in problems if problem.blob}
    )
    return [
        Problem(
            problem.kind,
            problem.oid,
            problem.tensor,
            problem.path,
            problem.blob,
            problem.reason,
            commits.get(problem.blob, ""),
            max(1, len(spoilt.get(problem.oid, ()))),
        )
        for problem in problems
    ]


def check_remote(session: Session, found: Survey, remote: Remote) -> list[Problem]:
    """What ``remote`` lacks, or has damaged, of a survey's objects (each is read there), and what
    it may delete as no pointer names it.

    :class:`TransferError` when that cannot be done.
    """
    place = routes.Routes(session).destination(remote)
    if not isinstance(place, routes.Auditable):
        return []
    refs = [ObjectRef(oid, size) for oid, size in found.objects.items()]
    whose: dict[str, Held] = {}
    for held in found.held:
        for ref in held.entry.objects:
            whose.setdefault(ref.oid, held)
    problems = [
        _problem("unnamed", ref.oid, whose[ref.oid], f"no Git LFS pointer at {remote.title}")
        for ref in (pointers.unnamed(session, remote, refs) if pointers.matter(remote) else ())
    ]
    for ref, reason in place.audit(refs):
        kind = "missing" if reason.startswith("missing") else "damaged"
        said = reason.partition(" ")[2]
        problems.append(
            _problem(kind, ref.oid, whose[ref.oid], f"at {place.title}{f' {said}' if said else ''}")
        )
    return problems


# Repairing


def repair(session: Session, found: Survey, report: FsckReport) -> FsckReport:
    """Fetch what is missing or damaged, or make it again from tensors that are at hand; then check
    once more.

    A damaged object is moved aside (into ``theta/damaged``), so that nothing is lost should no
    other be found; what can be read of it stays here.
    """
    bad = {problem.oid for problem in report.problems if problem.oid}
    if not bad:
        return report
    refs = {oid: ObjectRef(oid, found.objects[oid]) for oid in bad if oid in found.objects}
    damaged = {problem.oid for problem in report.problems if problem.kind == "damaged"}
    with session.store.alone():
        for oid in damaged & refs.keys():
            _set_aside(session.store, refs[oid])
    lacking = routes.bring(session, refs.values())
    if lacking:
        gone = {ref.oid for ref in lacking}
        _keep_readable(session.store, [each for each in report.readable if each.oid in gone])
        _make_again(session, found, gone)
    repaired = sorted(
        oid for oid, ref in refs.items() if session.store.find(oid, ref.size) is not None
    )
    again = check(session, found, lambda _: None)
    still = {problem.oid for problem in again.problems}
    again.repaired = [oid for oid in repaired if oid not in still]
    return again


def _keep_readable(store: LocalStore, places: Iterable[ObjectRange]) -> None:
    """Take over from damaged objects, which were moved aside, what can be read of them."""
    for place in places:
        try:
            with (store.root.parent / _QUARANTINE / place.oid).open("rb") as file:
                file.seek(place.offset)
                data = file.read(place.length)
        except OSError:
            continue
        if len(data) == place.length:
            store.put_part(place, data)
    store.flush()


def _set_aside(store: LocalStore, ref: ObjectRef) -> None:
    """Move a damaged object out of the way, unless it was mended since it was read."""
    path = store.root / ref.oid[:2] / ref.oid[2:4] / ref.oid
    folder = store.root.parent / _QUARANTINE
    try:
        store.verify(ref)
    except ObjectDamaged:
        if path.is_file():
            folder.mkdir(exist_ok=True)
            path.replace(folder / ref.oid)
    except ObjectMissing:
        pass


def _make_again(session: Session, found: Survey, lacking: set[str]) -> None:
    """Encode tensors again whose value is at hand: in the working tree, or stored another way.

    The same bytes have the same id.
    """
    by_digest: dict[tuple[str, Spec], list[Entry]] = {}
    for held in found.held:
        by_digest.setdefault((held.entry.digest, held.entry.spec), []).append(held.entry)
    checkouts = _Checkouts(session)
    for _ in range(2):  # what was made in the first round may be what the second needs
        for held in found.held:
            if lacking & {ref.oid for ref in held.entry.objects}:
                value = checkouts.tensor(held) or _stored(
                    session.store, held.entry, by_digest[held.entry.digest, held.entry.spec]
                )
                if value is not None:
                    _encode_again(session, held.entry, value, lacking)
        session.store.flush()
        lacking = {
            ref.oid
            for ref in session.store.missing(ObjectRef(oid, found.objects[oid]) for oid in lacking)
        }
        if not lacking:
            return


def _stored(store: LocalStore, entry: Entry, twins: Sequence[Entry]) -> Tensor | None:
    for twin in twins:
        if twin.chain != entry.chain:
            try:
                return chains.load(store, twin)
            except ThetaError:
                continue
    return None


def _encode_again(session: Session, entry: Entry, value: Tensor, lacking: set[str]) -> None:
    store = session.store
    for position, link in enumerate(entry.chain):
        if not lacking & {ref.oid for ref in link.objects}:
            continue
        if position:  # only the newest link stores the value that we have
            return
        try:
            base = chains.follow(store, entry.chain[1:], None) if entry.chain[1:] else None
        except ThetaError:
            return
        update = registry.update(link.update)
        for level in _LEVELS:
            try:
                encoded = update.encode(value, base, level)
            except ThetaError:
                return
            if encoded is None:
                continue
            payload = chains.Payload(link.update, encoded.chunks)
            store.flush()
            if chains.put_again(store, link, value.spec, entry.digest, payload):
                return
            store.discard()


class _Checkouts:
    """The models of the working trees, as far as they hold what a manifest says."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._trees = roots.worktrees(session.repository)

    def tensor(self, held: Held) -> Tensor | None:
        """The value of a tensor, found by its name in the file at its path."""
        for tree in self._trees:
            path = tree / held.path
            if held.path and path.is_file() and not path.is_symlink():
                value = self._read(path, held)
                if value is not None:
                    return value
        return None

    def _read(self, path: Path, held: Held) -> Tensor | None:
        try:
            with FileSource(path) as source:
                layout = layouts.scan(self._session, held.path, source, head_of(source))
                for extent in layout.extents:
                    if (
                        held.entry.name in (extent.name, *extent.aliases)
                        and Spec(extent.dtype, extent.shape) == held.entry.spec
                    ):
                        data = source.read(extent.offset, extent.length)
                        return (
                            Tensor(extent.dtype, extent.shape, data)
                            if digest(data) == held.entry.digest
                            else None
                        )
                return _skeleton(held, layout, source)
        except (ThetaError, OSError):
            return None


def _skeleton(held: Held, layout: Layout, source: FileSource) -> Tensor | None:
    """The skeleton of a file, if that is what is ``held``."""
    covered = skeletons.covered(layout)
    sums = [
        digest_of_range(source, extent.offset, extent.length, True)[1] if summed else None
        for extent, summed in zip(layout.extents, covered, strict=True)
    ]
    data = skeletons.cut(layout, source, sums)
    fits = held.entry.spec == Spec("u8", (len(data),)) and held.entry.digest == digest(data)
    return Tensor("u8", (len(data),), data) if fits else None


def describe(problem: Problem) -> str:
    """One line for a person."""
    where = display(problem.path) if problem.path else f"blob {problem.blob[:12]}"
    if problem.commit:
        where += f" in commit {problem.commit}"
    if problem.versions > 1:
        where += f" and {problem.versions - 1} more versions"
    if problem.kind == "broken":
        return f"broken manifest  {where}: {problem.reason}"
    what = f"tensor {display(problem.tensor, 120)}"
    subject = f"object {problem.oid}, {what}" if problem.oid else what
    return f"{problem.kind}  {subject}  {where}{f': {problem.reason}' if problem.reason else ''}"
