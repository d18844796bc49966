"""prune: delete the objects that nothing needs.

First a plan, which is all that a dry run makes; a deletion makes it under a lock.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from git_theta.core.digest import HEX
from git_theta.core.manifest import ObjectRef
from git_theta.core.names import display
from git_theta.core.references import References
from git_theta.errors import ManifestError, ManifestVersionError, TransferError, UsageError
from git_theta.git.config import config_file, remotes
from git_theta.git.config.remotes import Remote
from git_theta.git.history import manifest_scan, roots
from git_theta.git.repository import Repository
from git_theta.store.folder import FolderPlace
from git_theta.store.local import touched
from git_theta.store.partial import PartialObject
from git_theta.workflows.session import Session
from git_theta.workflows.sharing import routes

# Seconds: a command may have written an object for a commit that is still to come
GRACE = 24 * 3600
_LOOK = 0.02  # seconds of deleting after which refs and indexes are looked at again
_LOOKS = 20  # changes of theirs that are followed


class Why(Enum):
    """Why an object may go."""

    UNNEEDED = "needed by nothing"
    REMOTE = "needed by older commits only, and verified to be at the remote"


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What would be deleted and why; how many objects stay because something needs them, and how
    many because they are young.
    """

    delete: tuple[tuple[ObjectRef, Why], ...]
    needed: int
    needed_bytes: int
    young: tuple[ObjectRef, ...]
    unverified: int = 0

    def chosen(self, why: Why) -> list[ObjectRef]:
        """The objects to delete for one reason."""
        return [ref for ref, reason in self.delete if reason is why]


def plan(session: Session, now: bool = False, verified_at: Remote | None = None) -> PrunePlan:
    """Which objects of this store nothing needs.

    With ``now`` young ones too. With ``verified_at``, also those that are needed only by commits
    which that remote has and nobody has checked out, as far as the remote is verified to hold them.
    :class:`~git_theta.errors.ManifestVersionError` when a manifest cannot be understood.
    """
    return _planned(session, now, verified_at)[0]


def _planned(
    session: Session, now: bool, verified_at: Remote | None
) -> tuple[PrunePlan, dict[str, float]]:
    """The plan, and when each object of the store was last touched."""
    repository = session.repository
    needed = _needed(session, _manifests(repository))
    found = list(_own_objects(session))
    own = [(ref, changed) for ref, changed, whole in found if whole or ref.oid not in needed]
    limit = time.time() - (0 if now else GRACE)
    unneeded = [(ref, changed) for ref, changed in own if ref.oid not in needed]
    delete = [(ref, Why.UNNEEDED) for ref, changed in unneeded if changed <= limit]
    young = tuple(ref for ref, changed in unneeded if changed > limit)
    stay = [ref for ref, _ in own if ref.oid in needed]
    unverified = 0
    if verified_at is not None:
        kept = _needed(session, _here_to_stay(repository, verified_at))
        old = [ref for ref in stay if ref.oid not in kept]
        there = _verified(session, verified_at, old)
        unverified = len(old) - len(there)
        delete += [(ref, Why.REMOTE) for ref in there]
        gone = {ref.oid for ref in there}
        stay = [ref for ref in stay if ref.oid not in gone]
    chosen = PrunePlan(tuple(delete), len(stay), sum(ref.size for ref in stay), young, unverified)
    return chosen, {ref.oid: changed for ref, changed in own}


def prune(session: Session, now: bool = False, verified_at: Remote | None = None) -> PrunePlan:
    """Delete what :func:`plan` names, while no other command uses the store; what was deleted.

    Git itself moves refs without asking us, and where a system has no locks, others store objects
    meanwhile. So whatever is touched or needed by the time that its turn comes stays.

    :class:`~git_theta.errors.UsageError` where the repository forbids it
    (``extensions.preciousObjects``).
    """
    repository = session.repository
    if config_file.of_git_dir(repository.git_dir, "extensions.preciousObjects", "bool") == "true":
        raise UsageError(
            "extensions.preciousObjects is set: other repositories borrow from this one, so nothing"
            " is deleted"
        )
    if verified_at is not None:
        routes.hold_folder(session, verified_at)  # what is verified to be there must stay there
    with session.store.alone():
        return _delete(session, now, verified_at)


def _delete(session: Session, now: bool, verified_at: Remote | None) -> PrunePlan:
    repository = session.repository
    known = roots.state(repository)
    chosen, before = _planned(session, now, verified_at)
    if chosen.delete:
        _forget_caches(repository)
    left, gone = list(chosen.delete), list[tuple[ObjectRef, Why]]()
    next_look, looks = 0.0, 0
    while left:
        begun = time.monotonic()
        if begun >= next_look:
            present = roots.state(repository)
            if present != known:
                looks += 1
                if looks > _LOOKS:
                    break  # everything is in motion: the rest may go another time
                known, left = present, _still(session, left, verified_at)
                continue
            next_look = time.monotonic() + max(_LOOK, time.monotonic() - begun)
        ref, why = left.pop()
        if session.store.touched(ref.oid) == before[ref.oid]:
            session.store.remove(ref.oid)
            gone.append((ref, why))
    _remove_empty_folders(session)
    spared = {ref for ref, _ in chosen.delete} - {ref for ref, _ in gone}
    stay = chosen.needed_bytes + sum(ref.size for ref in spared)
    return replace(
        chosen, delete=tuple(gone), needed=chosen.needed + len(spared), needed_bytes=stay
    )


def _still(
    session: Session, chosen: Sequence[tuple[ObjectRef, Why]], verified_at: Remote | None
) -> list[tuple[ObjectRef, Why]]:
    """Those of ``chosen`` that may go now that refs or an index have changed."""
    needed = _needed(session, _manifests(session.repository))
    if verified_at is not None and any(why is Why.REMOTE for _, why in chosen):
        kept = _needed(session, _here_to_stay(session.repository, verified_at))
    else:
        kept = needed
    return [
        (ref, why) for ref, why in chosen if ref.oid not in (kept if why is Why.REMOTE else needed)
    ]


def borrowers_possible(plan: PrunePlan) -> bool:
    """Whether a person should be reminded that other repositories may borrow from this one: nobody
    here can know.
    """
    return bool(plan.chosen(Why.UNNEEDED))


def needed_blobs(repository: Repository) -> dict[str, str]:
    """Blob → path of everything that anything of this repository refers to."""
    partial = ["--missing=allow-promisor"] if _is_partial(repository) else []
    notes = roots.state_objects(repository)
    blobs = manifest_scan.blobs(repository, notes, [], [*roots.OPTIONS, *partial])
    # Git keeps what these lead to, and a graft hides what the commits name
    if (repository.common_dir / "info" / "grafts").exists():
        blobs.update(
            manifest_scan.blobs(repository, notes, [], [*roots.OPTIONS, *partial], grafted=True)
        )
    blobs.update(_indexed(repository))
    return blobs


def _indexed(repository: Repository) -> dict[str, str]:
    """What this worktree's index holds, even in a hook, for which git has put another one in force,
    and what that one holds.
    """
    found: dict[str, str] = {}
    for index in (repository.index, repository.git_dir / "index"):
        found.update(manifest_scan.index_blobs(repository, index))
    return found


def _manifests(repository: Repository) -> Iterator[manifest_scan.Found]:
    yield from manifest_scan.manifests(repository, needed_blobs(repository))
    yield from roots.written_manifests(repository)
    yield from roots.settled_manifests(repository)


def _here_to_stay(repository: Repository, remote: Remote) -> Iterator[manifest_scan.Found]:
    """The manifests that are checked out, indexed, stashed, in the middle of something, or in
    commits that the remote does not have.
    """
    found: dict[str, str] = {}
    notes = roots.state_objects(repository)
    for oid in (*_heads(repository), *notes, *roots.stashes(repository)):
        if manifest_scan.git(repository, ["cat-file", "-t", oid]).strip() in (
            b"commit",
            b"tag",
            b"tree",
        ):
            found.update(manifest_scan.tree_blobs(repository, oid))
    partial = ["--missing=allow-promisor"] if _is_partial(repository) else []
    # What its refs named when they were last looked at may be gone from there
    had = remotes.advertised(repository, remote)
    found.update(manifest_scan.blobs(repository, notes, had, ["--all", "--reflog", *partial]))
    found.update(manifest_scan.blobs(repository, [], [], ["--indexed-objects", *partial]))
    found.update(_indexed(repository))
    yield from manifest_scan.manifests(repository, found)
    yield from roots.written_manifests(repository)
    yield from roots.settled_manifests(repository)


def _heads(repository: Repository) -> list[str]:
    """The commits that are checked out in any worktree."""
    listed = (
        manifest_scan.git(repository, ["worktree", "list", "--porcelain"])
        .decode("utf-8", "surrogateescape")
        .splitlines()
    )
    return [
        line.removeprefix("HEAD ")
        for line in listed
        if line.startswith("HEAD ") and line.removeprefix("HEAD ").strip("0")
    ]


def _is_partial(repository: Repository) -> bool:
    return any(remote.values("promisor") == ["true"] for remote in remotes.read(repository).every)


def _needed(session: Session, manifests: Iterable[manifest_scan.Found]) -> dict[str, int]:
    """The objects that manifests need; of a broken one whatever it seems to need."""
    references = References()
    for found in manifests:
        try:
            references.add(found.text)
        except ManifestVersionError as error:
            raise ManifestVersionError(
                f"{display(found.path)}: {error}; until then nothing can be deleted safely"
            ) from None
        except ManifestError as error:
            session.warn(
                f"{display(found.path)} is a broken manifest ({error}); the objects it names are"
                " kept"
            )
    return references.objects


def _own_objects(session: Session) -> Iterator[tuple[ObjectRef, float, bool]]:
    """The objects of this store, when each was last written or linked, and whether it is whole."""
    root = session.store.root
    for first in _folders(root):
        for second in _folders(first):
            for entry in os.scandir(second):
                name = entry.name.removesuffix(PartialObject.SUFFIX)
                if HEX.match(name) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield ObjectRef(name, status.st_size), touched(status), name == entry.name


def _folders(folder: str | os.PathLike[str]) -> list[str]:
    try:
        return sorted(
            entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)
        )
    except FileNotFoundError:
        return []


def _verified(session: Session, remote: Remote, refs: Sequence[ObjectRef]) -> list[ObjectRef]:
    """Those objects that the remote is sure to have."""
    if not refs:
        return []
    place = routes.Routes(session).destination(remote)
    if isinstance(place, FolderPlace):  # it may be this very repository, or borrow from it
        place = place.apart_from(session.store.root)
    try:
        if isinstance(place, routes.Auditable):
            bad = {ref.oid for ref, _ in place.audit(refs)}
            return [ref for ref in refs if ref.oid not in bad]
        place.send(session.store, refs, lambda _: None)  # a server asks for what it does not have
    except TransferError as error:
        session.warn(f"{error}; what only older commits need is kept")
        return []
    return list(refs)


def _forget_caches(repository: Repository) -> None:
    """A cache may say of a file that its objects are stored, without looking."""
    for folder in roots.git_dirs(repository):
        shutil.rmtree(folder / "theta" / "cache" / "stat", ignore_errors=True)


def _remove_empty_folders(session: Session) -> None:
    for first in _folders(session.store.root):
        for folder in (*_folders(first), first):
            try:
                Path(folder).rmdir()
            except OSError:
                continue
