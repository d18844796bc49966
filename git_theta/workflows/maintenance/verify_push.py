"""Verify a push: every manifest that it brings is well formed and its objects are there, and every
file is stored as the attributes of its commit say.

For a server, and for CI: it needs no working tree and no installed filter, only reads, and takes
the push for a stranger's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol

from git_theta.core import lfs_pointer
from git_theta.core.manifest import Entry, ObjectRef
from git_theta.core.names import display
from git_theta.core.readable.numbers import size
from git_theta.core.references import StrictCheck
from git_theta.errors import ManifestError, UsageError
from git_theta.git.history import contents, pointer_scan, pushed, revisions
from git_theta.git.history.blobs import SIZE_LIMIT
from git_theta.git.history.contents import BlobContent
from git_theta.git.history.pushed import Budget, Change, Scope
from git_theta.git.lfs_program import lfs_folder
from git_theta.git.repository import Repository
from git_theta.store import kvstore
from git_theta.store.folder import FolderPlace
from git_theta.store.local import LocalStore
from git_theta.workflows.maintenance import attributes_of_commits
from git_theta.workflows.restoring import mistracked
from git_theta.workflows.restoring.mistracked import Kind, Mistracked
from git_theta.workflows.sharing.pointers import REFS

_TOGETHER = 4096  # blobs or files that git is asked for at a time
_OBJECTS = 1000  # objects that a place is asked for at a time
# Where pointers to objects are kept, as refs of any kind that a forge takes
POINTERS = tuple(REFS.values())
_REMEMBERED = 500_000  # blobs, and objects, that were looked at


class Place(Protocol):
    """Where objects are looked for."""

    @property
    def title(self) -> str:
        """What to call it."""

    def lacking(self, refs: Sequence[ObjectRef]) -> list[ObjectRef]:
        """Those objects that are not there with their right size."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Objects in folders that are only read: not even a file's times are changed."""

    folder: FolderPlace

    @property
    def title(self) -> str:
        """What to call it."""
        return self.folder.title

    def lacking(self, refs: Sequence[ObjectRef]) -> list[ObjectRef]:
        """Those objects that are in none of the folders, by name and size."""
        return [ref for ref in refs if self.folder.find(ref) is None]


def own_store(repository: Repository) -> Folders:
    """Where a push to a repository on this machine puts objects, and what it borrows."""
    own = repository.objects
    folders = [own, lfs_folder(repository.common_dir), *repository.alternates()]
    return Folders(FolderPlace(folders, LocalStore(own), "the repository's object store"))


def storage(url: str) -> Place:
    """A folder or bucket; :class:`~git_theta.errors.UsageError` if ``url`` names none."""
    found = kvstore.place(url)
    return Folders(found) if isinstance(found, FolderPlace) else found


@dataclass(frozen=True, slots=True)
class PushChecks:
    """What is verified: the objects' presence in ``place`` and among those that pointers name in
    ``pointers`` (None: not at all), how files are tracked, and at most how many changed files are
    looked at.
    """

    place: Place | None
    pointers: PointedObjects | None = None
    attributes: bool = True
    limit: int = 10_000_000


class PointedObjects:
    """The objects that Git LFS pointers name in the histories of ``tips``, read when they are first
    asked for.
    """

    def __init__(self, repository: Repository, tips: Sequence[str]) -> None:
        self._repository = repository
        self._tips = tuple(tips)

    @cached_property
    def _keys(self) -> set[bytes]:
        named = pointer_scan.named(self._repository.git_dir, self._tips)
        return {self._key(ref) for ref in named}

    @staticmethod
    def _key(ref: ObjectRef) -> bytes:
        return bytes.fromhex(ref.oid) + ref.size.to_bytes(8, "big")  # there may be millions

    def __contains__(self, ref: ObjectRef) -> bool:
        return self._key(ref) in self._keys


def parse_updates(stdin: bytes, hash_length: int) -> list[tuple[str, str]]:
    """The refs that a push moves, each with the object that it will name (deleted ones are left
    out): of the lines ``old new ref`` that git gives to a pre-receive hook.

    :class:`~git_theta.errors.UsageError` for anything else.
    """
    found = []
    for line in filter(None, stdin.decode("utf-8", "surrogateescape").split("\n")):
        words = line.split(" ", 2)
        oid = re.compile(rf"[0-9a-f]{{{hash_length}}}\Z")
        if len(words) != 3 or not words[2] or not all(map(oid.match, words[:2])):
            raise UsageError(
                "standard input must hold the lines 'old new ref' that git gives to a pre-receive"
                " hook; in CI, name revisions instead"
            )
        if words[1].strip("0"):
            found.append((words[2], words[1]))
    return found


def scope_of_updates(
    repository: Repository, updates: Iterable[tuple[str, str]]
) -> tuple[Scope, Scope]:
    """What a push brings: the commits that no ref reaches yet, those of models and those of
    pointers.
    """
    tips: dict[bool, list[str]] = {False: [], True: []}
    for name, oid in updates:
        tips[name in POINTERS].append(oid)
    return pushed.scope_of(repository, tips[False]), pushed.scope_of(repository, tips[True])


def pointed(
    repository: Repository, updates: Iterable[tuple[str, str]], required: bool
) -> PointedObjects | None:
    """The objects that pointers name once the push is accepted; None if nobody uses pointers here
    and they are not ``required``.

    In a clone, the branch of a remote counts too.
    """
    found = pushed.refs(repository, [*POINTERS, "refs/remotes/*/theta/objects"])
    found.update((name, oid) for name, oid in updates if name in POINTERS)
    return PointedObjects(repository, list(found.values())) if found or required else None


def scope_of_revisions(repository: Repository, names: Sequence[str]) -> Scope:
    """What revisions name: of a range all of its commits, of a single one its files.

    :class:`~git_theta.errors.UsageError` for one that does not exist.
    """
    commits, trees = list[str](), list[str]()
    for name in names:
        found = [] if name.startswith("-") else revisions.in_range(name, repository)
        if not found:
            raise UsageError(
                f"there is no revision {display(name, 80)!r} here (a shallow clone may lack it)"
            )
        if len(found) == 1 and ".." not in name:
            trees += found
        else:
            commits += found
    return Scope(tuple(commits), tuple(trees))


def verify(repository: Repository, scope: Scope, checks: PushChecks) -> Iterator[str]:
    """What is wrong with the commits in ``scope``, one line for each fault, as it is found.

    What is held while more is read is bounded, whatever was pushed.
    :class:`~git_theta.errors.GitError` if there is more to look at than ``checks`` allow;
    :class:`~git_theta.errors.TransferError` if the place does not answer.
    """
    budget = Budget(checks.limit)
    manifests = _Manifests(checks)
    known: dict[str, _Stored] = {}
    changes = pushed.changes(repository, scope, budget)
    while group := list(islice(changes, _TOGETHER)):
        files = [change for change in group if change.is_file]
        fresh = {change.blob: change for change in reversed(files) if change.blob not in known}
        if len(known) > _REMEMBERED:
            known.clear()
        read = contents.read(repository, fresh, limit=SIZE_LIMIT, replaced=False)
        for blob, content in read:
            known[blob] = _Stored.of(content)
            if content.is_manifest:
                yield from manifests.check(_where(fresh[blob]), content)
        if checks.attributes:
            yield from _mistracked(repository, files, known, budget)
    yield from manifests.rest()


def verify_pointers(repository: Repository, scope: Scope, checks: PushChecks) -> Iterator[str]:
    """What is wrong with commits of pointers: a file that is not exactly a pointer, an object that
    is not there.
    """
    budget = Budget(checks.limit)
    changes = pushed.changes(repository, scope, budget)
    while group := list(islice(changes, _OBJECTS)):
        files = {change.blob: change for change in group if change.is_file}
        read = contents.read(repository, files, limit=0, replaced=False)
        named = {blob: lfs_pointer.parse(content.data) for blob, content in read}
        refs: dict[ObjectRef, Change] = {}
        for change in group:
            found = named.get(change.blob) if change.is_file else None
            if found is None:
                yield (
                    f"{_where(change)}: not exactly a Git LFS pointer; the ref theta/objects holds"
                    " nothing else"
                )
            else:
                refs[ObjectRef(*found)] = change
        if checks.place is not None:
            for ref in checks.place.lacking(list(refs)):
                yield (
                    f"{_where(refs[ref])}: object {ref.oid} ({ref.size:,} bytes) is not in"
                    f" {checks.place.title}"
                )


def _where(change: Change) -> str:
    if not change.path:
        return f"blob {change.blob}"
    return f"{display(change.path, 200)} (commit {change.commit[:12]})"


@dataclass(frozen=True, slots=True)
class _Stored:
    """What a blob is: a manifest, or something of ``kind`` that no tracked file may be."""

    is_manifest: bool
    kind: Kind | None
    size: int

    @classmethod
    def of(cls, content: BlobContent) -> _Stored:
        """What a content is. An empty file is none that could be wrong."""
        kind = None
        if not content.is_manifest and content.size:
            kind = Kind.OLD if content.is_old_metadata else Kind.RAW
            kind = Kind.POINTER if content.is_lfs_pointer else kind
        return cls(content.is_manifest, kind, content.size)


def _mistracked(
    repository: Repository, files: Sequence[Change], known: dict[str, _Stored], budget: Budget
) -> Iterator[str]:
    """The files that are not stored as the attributes of their commit say."""
    named = [change for change in files if change.path]
    if not named:
        return
    ours = attributes_of_commits.tracked(repository, named, budget)
    for change in named:
        stored = known.get(change.blob)
        if stored is None:  # git has not got it: a partial clone
            continue
        untracked = Kind.UNTRACKED if stored.is_manifest else None
        kind = stored.kind if ours[change.commit, change.path] else untracked
        if kind is not None:
            item = Mistracked(change.path, change.blob, kind, stored.size)
            yield f"{_where(change)}: {mistracked.reason(item)}"


class _Manifests:
    """Reads manifests and looks for their objects, many at a time."""

    def __init__(self, checks: PushChecks) -> None:
        self._place, self._pointers = checks.place, checks.pointers
        self._strict = StrictCheck()
        self._seen = set[ObjectRef]()
        self._waiting: dict[ObjectRef, str] = {}  # whose each is

    def check(self, where: str, content: BlobContent) -> Iterator[str]:
        """What is wrong with the text of a manifest, and with objects of it and of earlier ones."""
        if content.size > SIZE_LIMIT:
            yield (
                f"{where}: a manifest of {size(content.size)}; none is larger than"
                f" {size(SIZE_LIMIT)}"
            )
            return
        try:
            for entry in self._strict.entries(content.data):
                yield from self._need(entry, where)
        except ManifestError as error:
            yield f"{where}: no valid manifest: {error}"

    def _need(self, entry: Entry, where: str) -> Iterator[str]:
        if self._place is None and self._pointers is None:
            return
        for ref in entry.objects:
            if ref not in self._seen and ref not in self._waiting:
                self._waiting[ref] = f"{where}: tensor {display(entry.name, 120)}"
                if len(self._waiting) >= _OBJECTS:
                    yield from self.rest()

    def rest(self) -> Iterator[str]:
        """The objects that are not there, of those that were not looked for yet."""
        waiting, self._waiting = self._waiting, {}
        if len(self._seen) > _REMEMBERED:
            self._seen.clear()
        self._seen.update(waiting)
        absent = set[ObjectRef]()
        if self._place is not None and waiting:
            absent.update(self._place.lacking(list(waiting)))
        for ref, where in waiting.items():
            what = f"{where}: object {ref.oid} ({ref.size:,} bytes)"
            if ref in absent:
                assert self._place is not None
                yield f"{what} is not in {self._place.title}"
            elif self._pointers is not None and ref not in self._pointers:
                yield f"{what} has no Git LFS pointer at the ref theta/objects"
