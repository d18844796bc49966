"""fsck: whether every object that manifests need is here and is what its name says, every tensor
decodes to its digest, and they make a file.

Objects are read once, and tensors decoded once, whatever number of versions share them: chains that
end alike form a tree, which is walked from its dense root outwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from git_theta.core import skeleton as skeletons
from git_theta.core.contracts import Level
from git_theta.core.digest import digest
from git_theta.core.manifest import Entry, Link, ObjectRef, parse
from git_theta.core.names import display
from git_theta.core.references import References
from git_theta.core.source import FileSource, head_of
from git_theta.core.tensors import Spec, Tensor
from git_theta.errors import ManifestError, ObjectDamaged, ObjectMissing, PayloadError, ThetaError
from git_theta.git.config.remotes import Remote
from git_theta.git.history import manifest_scan, roots
from git_theta.plugins import registry
from git_theta.store.local import LocalStore, of_other_bytes
from git_theta.workflows import chains
from git_theta.workflows.maintenance import prune
from git_theta.workflows.session import Session
from git_theta.workflows.sharing import fetch, routes
from git_theta.workflows.storing import layouts

_QUARANTINE = "damaged"
_LEVELS: tuple[Level, ...] = ("default", "fast", "best")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one object or tensor, and where it matters: a path, a blob, the
    commits that brought it.

    ``kind`` is ``missing``, ``damaged`` (its bytes are not what its name says), ``wrong`` (its
    bytes are, but the tensor is not) or ``broken`` (the manifest). ``oid`` is empty where no single
    object is to blame.
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
    """What was looked at, and what is wrong with it."""

    manifests: int = 0
    tensors: int = 0
    objects: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)


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
    look = _hashed(advance)
    trees = list(_grow(found.held).values())
    for problems in session.pool().map(lambda tree: list(_walk(session.store, look, tree)), trees):
        report.problems += problems
    report.problems += _unfit(session.store, found.wholes)
    return report


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


def _hashed(advance: Callable[[int], None]) -> chains.Look:
    """Looks whether an object is what its name says; :class:`ObjectDamaged` when it is not."""

    def look(ref: ObjectRef, data: memoryview) -> None:
        advance(ref.size)
        if hashlib.sha256(data).hexdigest() != ref.oid:
            raise of_other_bytes(ref)

    return look


def _walk(store: LocalStore, look: chains.Look, root: _Node) -> Iterator[Problem]:
    """Decode a tree, parents before children, holding only the values that still have children to
    come.
    """
    waiting: list[tuple[_Node, Tensor | None]] = [(root, None)]
    while waiting:
        node, base = waiting.pop()
        try:
            value = chains.decode(store, node.link, base, look=look)
        except ObjectDamaged as error:
            yield from _blame(node, "damaged", error.oid, error.reason)
        except ObjectMissing as error:
            yield from _blame(node, "missing", error.oid, "")
        except ThetaError as error:
            yield from _blame(node, "wrong", "", str(error))
        else:
            yield from _compare(node, value)
            waiting += [(child, value) for child in node.children.values()]


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
    """What ``remote`` has not, or has damaged, of a survey's objects: each is read there.

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
    problems = []
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
    other be found.
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
        _make_again(session, found, {ref.oid for ref in lacking})
    repaired = sorted(
        oid for oid, ref in refs.items() if session.store.find(oid, ref.size) is not None
    )
    again = check(session, found, lambda _: None)
    still = {problem.oid for problem in again.problems}
    again.repaired = [oid for oid in repaired if oid not in still]
    return again


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
                    _encode_again(session.store, held.entry, value, lacking)
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


def _encode_again(store: LocalStore, entry: Entry, value: Tensor, lacking: set[str]) -> None:
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
            store.flush()
            made = chains.stage(store, link.update, value.spec, encoded.chunks).seal()
            if made[0].objects == link.objects:
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
        except (ThetaError, OSError):
            return None
        return None


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
