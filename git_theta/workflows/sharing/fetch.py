"""fetch: bring objects that manifests name into the local store."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import translate

from git_theta.core.manifest import Manifest, ObjectRef, parse
from git_theta.core.names import display
from git_theta.core.references import References
from git_theta.errors import ManifestError, UsageError
from git_theta.git.config.remotes import Remote
from git_theta.git.history import manifest_scan, revisions
from git_theta.plugins import registry
from git_theta.plugins.registry import unknown_text
from git_theta.workflows import chains
from git_theta.workflows.session import Session
from git_theta.workflows.sharing import routes


@dataclass(frozen=True, slots=True)
class FetchOutcome:
    """What a fetch did: the objects that were needed, those of them that were not here before, and
    those that still are not.
    """

    needed: int
    fetched: tuple[ObjectRef, ...]
    lacking: tuple[ObjectRef, ...]


@dataclass(slots=True)
class Needed:
    """The ``objects`` (id → size) that manifests need, and how many manifests could not be read."""

    objects: dict[str, int] = field(default_factory=dict)
    unread: int = 0

    def add(self, other: Needed) -> None:
        """Count in what others need."""
        self.objects |= other.objects
        self.unread += other.unread


def fetch_missing(session: Session, manifests: Sequence[Manifest]) -> None:
    """Bring what ``manifests`` need and the store has not.

    What cannot be had stays missing: the caller looks again. Nothing is brought for a manifest with
    an update that is not known here. :class:`~git_theta.errors.PluginError` if all are such.
    """
    readable = [each for each in manifests if not registry.unknown_updates(each.updates)]
    if manifests and not readable:
        registry.require_updates(name for each in manifests for name in each.updates)
    routes.bring(
        session, [ref for manifest in readable for ref in chains.missing(session.store, manifest)]
    )


def fetch(session: Session, needed: dict[str, int], remote: Remote | None = None) -> FetchOutcome:
    """Bring ``needed`` objects (id → size) from ``remote``, or from all remotes in turn."""
    refs = [ObjectRef(oid, size) for oid, size in needed.items()]
    session.store.hold()  # what is here now must be here still at the end
    absent = session.store.missing(refs)
    lacking = routes.bring(session, absent, remote)
    left = {ref.oid for ref in lacking}
    return FetchOutcome(
        len(refs), tuple(ref for ref in absent if ref.oid not in left), tuple(lacking)
    )


def of_revisions(
    session: Session, revisions: Sequence[str], glob: str | None = None, whole_history: bool = False
) -> Needed:
    """The objects that revisions need: of one commit (or tree) its files', of a range ``A..B`` all
    of its commits'.

    ``glob`` narrows it to tensors with a matching name (``*`` matches dots too).
    :class:`~git_theta.errors.UsageError` for a revision that does not exist.
    """
    return _objects(session, blobs_of(session, revisions, ["--all"] if whole_history else []), glob)


def blobs_of(
    session: Session, revisions: Sequence[str], options: Sequence[str] = ()
) -> dict[str, str]:
    """Blob → path of what revisions hold: single ones in their trees, ranges in all their commits,
    ``options`` (of rev-list) in history.
    """
    options, single = list(options), list[str]()
    for revision in revisions:
        names = _resolve(session, revision)
        if len(names) == 1 and ".." not in revision:
            single.append(names[0])
        else:
            options += names
    found: dict[str, str] = {}
    if options:
        found.update(manifest_scan.blobs(session.repository, [], [], options))
    for name in single:
        found.update(manifest_scan.tree_blobs(session.repository, name))
    return found


def blobs_of_checkout(session: Session) -> dict[str, str]:
    """Blob → path of the index (all its stages) and HEAD."""
    found = manifest_scan.index_blobs(session.repository)
    if manifest_scan.resolve(session.repository, "HEAD") is not None:
        found.update(manifest_scan.tree_blobs(session.repository, "HEAD"))
    return found


def of_checkout(session: Session, glob: str | None = None) -> Needed:
    """The objects that the index (all its stages) and HEAD need."""
    return _objects(session, blobs_of_checkout(session), glob)


def of_recent(session: Session, days: int, glob: str | None = None) -> Needed:
    """The objects of every branch, remote branch and tag that moved in the last ``days`` days, and
    of their commits since.
    """
    tips = manifest_scan.recent_tips(session.repository, days)
    found: dict[str, str] = {}
    for tip in tips:
        found.update(manifest_scan.tree_blobs(session.repository, tip))
    if tips:
        found.update(
            manifest_scan.blobs(session.repository, tips, [], [f"--since={days} days ago"])
        )
    return _objects(session, found, glob)


def _objects(session: Session, blobs: dict[str, str], glob: str | None) -> Needed:
    references, chosen, unread, updates = References(), dict[str, int](), 0, set[str]()
    matches = re.compile(translate(glob)).match if glob is not None else None
    for found in manifest_scan.manifests(session.repository, blobs):
        try:
            if matches is None:
                entries = references.add(found.text)
                updates.update(link.update for entry in entries for link in entry.chain)
                continue
            for entry in parse(found.text).entries:
                if any(matches(name) for name in (entry.name, *entry.aliases)):
                    updates.update(link.update for link in entry.chain)
                    chosen.update((ref.oid, ref.size) for ref in entry.objects)
        except ManifestError as error:
            unread += 1
            session.warn(f"{display(found.path)} (blob {found.blob[:12]}) is left out: {error}")
    unknown = registry.unknown_updates(updates)
    if unknown:  # objects may be fetched for another program, or for a release to come
        session.warn(unknown_text(unknown))
    return Needed(references.objects if matches is None else chosen, unread)


def _resolve(session: Session, revision: str) -> list[str]:
    if revision.startswith("-"):
        raise UsageError(f"{display(revision, 60)!r} is not a revision")
    names = revisions.in_range(revision, session.repository)
    if not names:
        raise UsageError(
            f"there is no revision {display(revision, 80)!r}; 'git fetch' brings those of a remote"
        )
    return names
