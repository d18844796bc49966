"""push: deliver the objects of commits that a remote is about to get, or has got without them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from git_theta.core.manifest import ObjectRef
from git_theta.core.names import display
from git_theta.core.references import References
from git_theta.errors import (
    ManifestError,
    ManifestVersionError,
    ObjectDamaged,
    ObjectMissing,
    UsageError,
)
from git_theta.git.config import remotes
from git_theta.git.config.remotes import Remote
from git_theta.git.history import manifest_scan
from git_theta.git.repository import Repository
from git_theta.store.folder import FolderPlace
from git_theta.workflows.session import Session
from git_theta.workflows.sharing import routes

# Objects that are asked for behind a network where more are taken to be (docs/sharing.md says so)
_PROBES = 64


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """A line of what git tells a pre-push hook: which object goes to which ref, and what that ref
    holds now.
    """

    local_ref: str
    local_oid: str
    remote_ref: str
    remote_oid: str

    @property
    def deletes(self) -> bool:
        """Whether the ref is to be deleted."""
        return not self.local_oid.strip("0")

    @property
    def creates(self) -> bool:
        """Whether the ref is new."""
        return not self.remote_oid.strip("0")


def parse_updates(stdin: bytes) -> list[RefUpdate]:
    """What git writes to a pre-push hook; :class:`~git_theta.errors.UsageError` otherwise."""
    updates = []
    for line in filter(None, stdin.decode("utf-8", "surrogateescape").split("\n")):
        words = line.rsplit(" ", 3)  # the first is what the user wrote: main@{1 day ago}
        if len(words) != 4 or not all(
            set(words[number]) <= set("0123456789abcdef") and words[number] for number in (1, 3)
        ):
            raise UsageError(
                "a pre-push hook gets 'local-ref local-oid remote-ref remote-oid' lines; this"
                " command is for git to run"
            )
        updates.append(RefUpdate(*words))
    return updates


@dataclass(frozen=True, slots=True)
class Need:
    """An object that must be delivered, and whose it is: a tensor at a path."""

    ref: ObjectRef
    path: str
    blob: str
    tensor: str


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What is to be delivered to ``remote``: the objects of ``manifests`` new manifests, without
    those it is known to have.
    """

    remote: Remote
    manifests: int
    needs: tuple[Need, ...]
    broken: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(need.ref.size for need in self.needs)


def plan_update(
    session: Session, remote: Remote, updates: Sequence[RefUpdate], subtract: bool
) -> PushPlan:
    """What ``remote`` needs before its refs may change: the objects of all manifests in commits
    that it does not have yet.

    What it has is what its refs reach. With ``subtract``, objects that the parents' versions have
    are taken to be there as well, if a folder has all of them, or storage the few that it is asked
    for; else all that the tips' files need is delivered.
    """
    tips = [update.local_oid for update in updates if not update.deletes]
    if not tips:
        return PushPlan(remote, 0, ())
    had = _had(
        session, remote, tips, [update.remote_oid for update in updates if not update.creates]
    )
    return _plan(session, remote, tips, had, subtract)


def plan_revisions(session: Session, remote: Remote, revisions: Sequence[str]) -> PushPlan:
    """Everything that ``revisions`` need in their own files, and in the commits before them that
    ``remote`` is not known to have.
    """
    tips = resolved(session.repository, revisions)
    return _with_trees(
        session, _plan(session, remote, tips, _had(session, remote, tips, []), subtract=False), tips
    )


def plan_history(
    session: Session, remote: Remote, tips: Sequence[str], covered: Sequence[str]
) -> PushPlan:
    """Everything that ``tips`` (object ids) and the commits before them need, without the commits
    ``covered`` and those before them.
    """
    blobs = manifest_scan.blobs(session.repository, tips, covered, _options(remote, []))
    read = _needs(manifest_scan.manifests(session.repository, blobs))
    return PushPlan(remote, read.manifests, tuple(read.needs), tuple(read.broken))


def plan_all(session: Session, remote: Remote) -> PushPlan:
    """Everything that any ref of this repository needs, whatever ``remote`` is believed to have."""
    blobs = manifest_scan.blobs(session.repository, [], [], _options(remote, ["--all"]))
    read = _needs(manifest_scan.manifests(session.repository, blobs))
    return PushPlan(remote, read.manifests, tuple(read.needs), tuple(read.broken))


def deliver(session: Session, plan: PushPlan, thorough: bool = False) -> int:
    """Send what ``plan`` needs; the number of objects that were sent.

    Returning means that every one of them is there.

    With ``thorough``, what a folder has is read, and sent again where it is damaged; else its size
    is enough. :class:`~git_theta.errors.ObjectMissing` when one is neither here nor to be had,
    naming path and tensor; :class:`~git_theta.errors.TransferError` when one did not arrive.
    """
    for line in plan.broken:
        session.warn(line)
    if not plan.needs:
        return 0
    session.store.hold()
    place = routes.Routes(session).destination(plan.remote)
    if isinstance(place, FolderPlace):
        session.hold(place.target())
    refs = [need.ref for need in plan.needs]
    if thorough and isinstance(place, FolderPlace):
        place.lacking(refs)  # those that are there are relied on, so they become young again
        refs = [ref for ref, _ in place.audit(refs)]
    elif isinstance(place, routes.Checked):
        refs = place.lacking(refs)
    _complete(session, plan, refs)
    if not place.verifies:
        _verify(session, plan, refs)
    what, total = f"Sending objects to {plan.remote.title}", sum(ref.size for ref in refs)
    with session.progress.begin(what, total) as bar:
        try:
            place.send(session.store, refs, bar.advance)
        except ObjectDamaged:
            _verify(session, plan, refs)  # to say whose it is
            raise
    return len(refs)


def _had(session: Session, remote: Remote, tips: Sequence[str], told: Sequence[str]) -> list[str]:
    """What the remote has of ``tips``: what git was ``told`` in this push and, where its tracking
    refs promise more, what it says itself.

    Tracking refs alone prove nothing: the remote's URL may lead somewhere else by now, pushes may
    go elsewhere than fetches come from, and what is there may have been made anew. A folder may
    have lost a ref, and its objects, since it told git of it: from here on it is held.
    """
    folder = routes.hold_folder(session, remote)
    if folder is not None:
        told = manifest_scan.named(folder, told)
    tracked = remotes.tracked_commits(session.repository, remote)
    if tracked and manifest_scan.count(session.repository, tips, told) != manifest_scan.count(
        session.repository, tips, [*told, *tracked]
    ):
        told = [*told, *remotes.advertised(session.repository, remote)]
    return list(dict.fromkeys(told))


def _plan(
    session: Session, remote: Remote, tips: Sequence[str], had: Sequence[str], subtract: bool
) -> PushPlan:
    repository = session.repository
    blobs = manifest_scan.blobs(repository, tips, had, _options(remote, []))
    new = list(manifest_scan.manifests(repository, blobs))
    read = _needs(new)
    if not read.needs or not had or not subtract:
        return PushPlan(remote, read.manifests, tuple(read.needs), tuple(read.broken))
    known = References()
    for found in manifest_scan.manifests(
        repository, manifest_scan.replaced(repository, tips, had, (found.blob for found in new))
    ):
        try:
            known.add(found.text)
        except ManifestError:
            continue
    shared = [need for need in read.needs if need.ref.oid in known.objects]
    if not _holds(session, remote, shared):
        everything = PushPlan(remote, read.manifests, tuple(read.needs), tuple(read.broken))
        return _with_trees(session, everything, manifest_scan.commits(repository, tips))
    needs = tuple(need for need in read.needs if need.ref.oid not in known.objects)
    return PushPlan(remote, read.manifests, needs, tuple(read.broken))


def _holds(session: Session, remote: Remote, shared: Sequence[Need]) -> bool:
    """Whether the remote's objects are where they are taken to be: in a folder all of them,
    elsewhere as far as a few of them tell.
    """
    if not shared:
        return True
    place = routes.Routes(session).destination(remote)
    step = 1 if isinstance(place, FolderPlace) else -(-len(shared) // _PROBES)
    return not (
        isinstance(place, routes.Checked) and place.lacking([need.ref for need in shared[::step]])
    )


def _with_trees(session: Session, plan: PushPlan, tips: Sequence[str]) -> PushPlan:
    """The plan, and whatever the files of ``tips`` need."""
    blobs = {
        oid: path
        for tip in tips
        for oid, path in manifest_scan.tree_blobs(session.repository, tip).items()
    }
    more = _needs(manifest_scan.manifests(session.repository, blobs))
    needs = {need.ref.oid: need for need in (*more.needs, *plan.needs)}
    broken = dict.fromkeys((*plan.broken, *more.broken))
    return PushPlan(
        plan.remote, max(plan.manifests, more.manifests), tuple(needs.values()), tuple(broken)
    )


@dataclass(slots=True)
class _Read:
    manifests: int
    needs: list[Need]
    broken: list[str]


def _needs(manifests: Iterable[manifest_scan.Found]) -> _Read:
    """The objects of manifests, each once.

    A text that is no manifest after all names no objects; one of a newer release might.
    """
    references, seen, read = References(), set[str](), _Read(0, [], [])
    for found in manifests:
        read.manifests += 1
        try:
            entries = references.add(found.text)
        except ManifestVersionError as error:
            raise ManifestVersionError(
                f"{display(found.path)}: {error}; its objects cannot be sent by this one"
            ) from None
        except ManifestError as error:
            read.broken.append(
                f"{display(found.path)} (blob {found.blob[:12]}) is no valid manifest; nothing is"
                f" sent for it: {error}"
            )
            continue
        for entry in entries:
            for ref in entry.objects:
                if ref.oid not in seen:
                    seen.add(ref.oid)
                    read.needs.append(Need(ref, found.path, found.blob, entry.name))
    return read


def _complete(session: Session, plan: PushPlan, refs: Sequence[ObjectRef]) -> None:
    """What is to be sent must be here.

    What is not may be at the remote already, unknown to us, or at another one: then it is fetched.
    """
    lacking = {
        ref.oid for ref in routes.bring(session, refs, what="Fetching objects that are not here")
    }
    if not lacking:
        return
    absent = [need for need in plan.needs if need.ref.oid in lacking]
    first = absent[0]
    commit = manifest_scan.commit_of(session.repository, first.blob)
    where = f"{display(first.path)}{f' in commit {commit}' if commit else ''}"
    more = f", and {len(absent) - 1:,} more objects," if len(absent) > 1 else ""
    raise ObjectMissing(
        f"{where}: object {first.ref.oid} of tensor {display(first.tensor, 120)}{more} is neither"
        " here nor at a remote; nothing is pushed ('git theta fsck --repair' may find it, another"
        " clone may hold it)"
    )


def _verify(session: Session, plan: PushPlan, refs: Sequence[ObjectRef]) -> None:
    """Stop damaged objects here: a server that does not check would hand them to everyone."""

    def check(ref: ObjectRef) -> ObjectDamaged | None:
        try:
            session.store.verify(ref)
        except ObjectDamaged as error:
            return error
        return None

    for ref, error in zip(refs, session.pool().map(check, refs), strict=True):
        if error is not None:
            need = next(need for need in plan.needs if need.ref == ref)
            raise ObjectDamaged(
                f"{display(need.path)}: tensor {display(need.tensor, 120)}: {error}; 'git theta"
                " fsck --repair' may mend it"
            )


def _options(remote: Remote, options: list[str]) -> list[str]:
    """A partial clone has not all blobs; the remote that it is partial of has."""
    partial_of = remote.values("promisor") == ["true"] and remote.url == remote.push_url
    return [*options, "--missing=allow-promisor"] if partial_of else options


def resolved(repository: Repository, revisions: Sequence[str]) -> list[str]:
    """The objects that ``revisions`` name; :class:`UsageError` if there is none."""
    return [_resolved(repository, revision) for revision in revisions]


def _resolved(repository: Repository, revision: str) -> str:
    if revision.startswith("-"):
        raise UsageError(f"{display(revision, 60)!r} is not a revision")
    found = manifest_scan.resolve(repository, revision)
    if not found:
        raise UsageError(f"there is no revision {display(revision, 80)!r} here")
    return found
