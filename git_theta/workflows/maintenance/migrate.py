"""migrate: rewrite history from raw files or Git LFS pointers to manifests (import), and back
(export).

Every version goes through the same :mod:`clean <git_theta.workflows.storing.clean>` as ``git add``,
after its parents' versions, so that it is stored as the difference from them. Nothing of the
repository has changed before all is done; then all refs move at once. A dry run does the same work
in a scratch folder and leaves it at that: what it says of sizes is what would be.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from git_theta.core import earlier_release, lfs_pointer
from git_theta.core.manifest import Manifest, is_manifest, parse
from git_theta.core.names import display
from git_theta.core.references import References
from git_theta.core.source import HEAD, BytesSource, FileSource, Source, head_of
from git_theta.errors import GitError, ObjectMissing, ThetaError, UsageError
from git_theta.git.config import attributes, push_hook
from git_theta.git.history import blobs, changes, contents, listing, manifest_scan
from git_theta.git.lfs_program import lfs_folder
from git_theta.git.repository import Repository
from git_theta.git.writing import rewrite, staging
from git_theta.git.writing.rewrite import BlobChange, CommitChanges, Ref, RewriteScratch, Rewritten
from git_theta.plugins import registry, tables
from git_theta.store.local import LocalStore
from git_theta.workflows import chains
from git_theta.workflows.maintenance import rewrite_attributes
from git_theta.workflows.restoring import checkout, smudge
from git_theta.workflows.session import Session
from git_theta.workflows.sharing import fetch
from git_theta.workflows.storing import clean

_SMALL = 4 << 20  # versions up to this size are read into memory
_FLUSH = 1 << 30
_RELATIVES = 3  # other models that a model new under its path is compared with
_PARSED = 64  # manifests that are kept at hand
_POINTER = re.compile(
    rb"version https://(?:git-lfs|hawser)\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid"
    rb" sha256:([0-9a-f]{64})\nsize ([0-9]{1,19})\n"
)
_EXTENDED = re.compile(rb"(?m)^ext-")
_NAMED = 5
_FOLDER = "migrate-"


@dataclass(slots=True)
class Summary:
    """What a migration did, or would do.

    ``versions`` files of history at ``paths``, ``whole`` bytes as files, took ``before`` bytes and
    take ``after``. ``commits`` are rewritten, ``refs`` moved; the old ones are under ``kept``.
    ``signatures`` are dropped; ``old_metadata`` versions stay as they are.
    """

    patterns: tuple[str, ...] = ()
    paths: int = 0
    versions: int = 0
    whole: int = 0
    before: int = 0
    after: int = 0
    commits: int = 0
    refs: int = 0
    signatures: int = 0
    old_metadata: int = 0
    kept: str = ""
    left: tuple[str, ...] = ()


def import_history(
    session: Session, include: Sequence[str], names: Sequence[str], dry: bool
) -> Summary:
    """Have the files that ``include`` (patterns of .gitattributes) matches stored by Git-Theta in
    all commits of the refs ``names``.

    Without ``include``: all suffixes of known formats under which history holds a checkpoint.
    Without ``names``: every branch and tag.
    """
    repository, chosen = _prepared(session, names)
    found = rewrite.files(repository, chosen)
    held = _Contents(session)
    patterns = list(include) or _suffixes(held, found)
    if not patterns:
        raise UsageError(
            "history holds no checkpoint under a known suffix; name the files: --include"
            ' "*.weights"'
        )
    matched = attributes.matches(
        repository, [("", pattern) for pattern in patterns], {path for path, _ in found}
    )
    paths = {path for group in matched for path in group}
    if any(path.rpartition("/")[2] == attributes.FILE for path in paths):
        raise UsageError(
            f"{' '.join(patterns)} would take {attributes.FILE} itself, which git reads; use a"
            " narrower pattern"
        )
    versions = {(path, blob) for path, blob in found if path in paths}
    held.require({blob: path for path, blob in sorted(versions)})
    total = sum(held.whole(blob) for blob in {blob for _, blob in versions})
    with (
        _scratch(session, not dry) as (scratch, store),
        session.progress.begin("Migrating", total) as bar,
    ):
        working = session if store is None else _with_store(session, store)
        work = _Import(
            working,
            scratch,
            held,
            rewrite_attributes.Tracking(repository, patterns, sorted(paths)),
            bar.advance,
        )
        rewritten = scratch.rewrite(chosen, work.change)
        working.store.flush()
        done = {blob for _, blob in versions} - work.old_metadata - work.migrated
        summary = Summary(
            tuple(patterns),
            len(work.paths),
            len(done),
            sum(map(held.whole, done)),
            held.kept_bytes(done),
        )
        summary.after = sum(work.references.objects.values()) + work.text_bytes
        summary.old_metadata = len(work.old_metadata)
        _finish(session, summary, rewritten, "import", dry)
    if not dry:
        lost = [
            path
            for path, yes in rewrite_attributes.in_force(
                repository, _at_head(session, paths)
            ).items()
            if not yes
        ]
        summary.left = tuple(sorted(lost)[:_NAMED])
    return summary


def export_history(session: Session, names: Sequence[str], lfs: bool, dry: bool) -> Summary:
    """Have git store whole models again (or, with ``lfs``, Git LFS) in all commits of the refs
    ``names``; without any, of all refs.

    :class:`ObjectMissing` before anything is done where the store lacks what a version needs and no
    remote has it.
    """
    repository, chosen = _prepared(session, names)
    found = rewrite.files(repository, chosen)
    texts = {
        item.blob: parse(item.text)
        for item in manifest_scan.manifests(
            repository, {blob: path for path, blob in sorted(found)}
        )
    }
    fetch.fetch_missing(session, list(texts.values()))
    for blob, manifest in texts.items():
        try:
            chains.require(session.store, manifest)
        except ObjectMissing as error:
            raise ObjectMissing(
                f"{display(next(path for path, other in sorted(found) if other == blob))}: {error}"
            ) from None
    paths = {path for path, blob in found if blob in texts}
    references = References()
    for manifest in texts.values():
        references.objects.update(manifest.objects())
    whole = sum(manifest.size for manifest in texts.values())
    summary = Summary((), len(paths), len(texts), whole, sum(references.objects.values()))
    with (
        _scratch(session, not dry) as (scratch, _),
        session.progress.begin("Migrating", whole) as bar,
    ):
        dock = lfs_folder(repository.common_dir) if lfs and not dry else None
        work = _Export(session, scratch, texts, lfs, dock, bar.advance)
        rewritten = scratch.rewrite(chosen, work.change)
        summary.after = whole if lfs else scratch.kept_bytes(work.files.values())
        _finish(session, summary, rewritten, "export", dry)
    return summary


def _prepared(session: Session, names: Sequence[str]) -> tuple[Repository, list[Ref]]:
    rewrite.require_library()
    rewrite.require_quiet(session.repository)
    chosen = rewrite.refs(session.repository, names)
    if not chosen:
        raise UsageError("there is no history to migrate: no branch or tag names a commit")
    return session.repository, chosen


@contextlib.contextmanager
def _scratch(session: Session, keep: bool) -> Iterator[tuple[RewriteScratch, LocalStore | None]]:
    """A scratch repository, and for a dry run a store on top of the real one; both are gone
    afterwards.
    """
    folder = session.store.temporary_path().with_name(
        f"{_FOLDER}{os.getpid()}-{os.urandom(4).hex()}"
    )
    store = (
        None
        if keep
        else LocalStore(folder / "objects", [session.store.root, *session.store.alternates])
    )
    try:
        folder.mkdir(parents=True)
        yield RewriteScratch(session.repository, folder, keep), store
    finally:
        if store is not None:
            store.close()
        for path in folder.rglob("*") if os.name == "nt" else ():
            path.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def _with_store(session: Session, store: LocalStore) -> Session:
    """The session with another store; threads and what reads git's blobs are shared."""
    other = Session(
        session.repository,
        session.settings,
        session.warn,
        session.pool(),
        progress=session.progress,
    )
    other.__dict__["store"] = store
    other.__dict__["blobs"] = session.blobs
    return other


def _finish(session: Session, summary: Summary, rewritten: Rewritten, what: str, dry: bool) -> None:
    repository = session.repository
    summary.commits, summary.refs = len(rewritten.commits), len(rewritten.refs)
    summary.signatures = rewrite.signatures(repository, rewritten)
    if dry or not rewritten.refs:
        return
    if what == "import" and session.settings.hook == "auto":
        try:
            # No file has passed through the filter, which sees to it otherwise
            push_hook.ensure(repository, session.warn)
        except GitError as error:
            session.warn(str(error))
    summary.kept = rewrite.kept_name(repository, what)
    head = manifest_scan.resolve(repository, "HEAD^{commit}")
    _check_in_the_way(session, head, rewritten)
    rewrite.move(repository, rewritten, summary.kept, f"git theta migrate {what}")
    if repository.worktree is not None and head is not None and head in rewritten.commits:
        _refresh(session, head, rewritten.commits[head])


# The versions that are read


class _Contents:
    """What git, or Git LFS's local store, holds for a blob."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lfs = lfs_folder(session.repository.common_dir)
        self._pointers: dict[str, tuple[str, int] | None] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    def require(self, named: Mapping[str, str]) -> None:
        """Look at the blobs ``named`` (blob → a path); :class:`ObjectMissing`, naming them, where
        Git LFS objects are not here.
        """
        listed = manifest_scan.git(
            self._session.repository,
            [
                "cat-file",
                "--buffer",
                "--batch-check=%(objectname) %(objectsize) %(objectsize:disk)",
            ],
            "".join(f"{blob}\n" for blob in named).encode("ascii"),
        )
        for words in (line.split(" ") for line in listed.decode("ascii").splitlines()):
            if len(words) != 3 or not words[1].isdecimal():
                raise GitError(
                    f"git does not have blob {words[0]} ({display(named.get(words[0], ''))}); 'git"
                    " fetch' may bring it"
                )
            self._sizes[words[0]] = int(words[1]), int(words[2])
        lacking = []
        for blob, path in named.items():
            pointer = self._pointer(blob)
            if pointer is not None and not self._has(*pointer):
                lacking.append(f"{display(path)} (Git LFS object {pointer[0]})")
        if lacking:
            more = f" and {len(lacking) - _NAMED:,} more" if len(lacking) > _NAMED else ""
            raise ObjectMissing(
                f"not here: {', '.join(lacking[:_NAMED])}{more}; 'git lfs fetch --all' brings what"
                " Git LFS has"
            )

    def whole(self, blob: str) -> int:
        """The size of the file that the blob stands for."""
        pointer = self._pointer(blob)
        return pointer[1] if pointer is not None else self._sizes[blob][0]

    def kept_bytes(self, chosen: set[str]) -> int:
        """Bytes on disk of blobs: as git has compressed them, or of Git LFS's objects."""
        pointers = {pointer for blob in chosen if (pointer := self._pointer(blob)) is not None}
        return sum(self._sizes[blob][1] for blob in chosen if self._pointer(blob) is None) + sum(
            size for _, size in pointers
        )

    def head(self, blob: str) -> bytes:
        """The file's first bytes, 4096 where there are as many."""
        small = self._session.blobs.read(blob, _SMALL)
        if small is None:
            with self._spooled(blob) as path, path.open("rb") as file:
                return file.read(HEAD)
        pointer = _POINTER.fullmatch(small)
        if pointer is None:
            return small[:HEAD]
        try:
            with self._lfs_path(pointer[1].decode("ascii")).open("rb") as file:
                return file.read(HEAD)
        except OSError:
            return b""

    @contextlib.contextmanager
    def open(self, blob: str) -> Iterator[Source]:
        """The file, its bytes checked where they come from Git LFS."""
        small = self._session.blobs.read(blob, _SMALL)
        pointer = self._pointer(blob)
        if pointer is not None:
            with (
                FileSource(self._lfs_path(pointer[0])) as source,
                self._lfs_path(pointer[0]).open("rb") as file,
            ):
                if hashlib.file_digest(file, "sha256").hexdigest() != pointer[0]:
                    raise GitError(
                        f"Git LFS object {pointer[0]} is damaged; 'git lfs fsck' tells more"
                    )
                yield source
        elif small is not None:
            yield BytesSource(small)
        else:
            with self._spooled(blob) as path, FileSource(path) as source:
                yield source

    @contextlib.contextmanager
    def _spooled(self, blob: str) -> Iterator[Path]:
        path = self._session.store.temporary_path()
        try:
            blobs.write(self._session.repository, blob, path)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _pointer(self, blob: str) -> tuple[str, int] | None:
        if blob not in self._pointers:
            text = self._session.blobs.read(blob, 1023)
            match = _POINTER.fullmatch(text) if text is not None else None
            if match is not None and _EXTENDED.search(match[0]):
                raise GitError(
                    f"blob {blob} is a Git LFS pointer with extensions, which only git-lfs can"
                    " resolve; 'git lfs migrate export' does"
                )
            self._pointers[blob] = (
                (match[1].decode("ascii"), int(match[2])) if match is not None else None
            )
        return self._pointers[blob]

    def _lfs_path(self, oid: str) -> Path:
        return self._lfs / oid[:2] / oid[2:4] / oid

    def _has(self, oid: str, size: int) -> bool:
        path = self._lfs_path(oid)
        return path.is_file() and path.stat().st_size == size


def _suffixes(held: _Contents, found: set[tuple[str, str]]) -> list[str]:
    """Patterns for the suffixes of known formats under which there is a checkpoint that is one by
    its content.
    """
    special = [
        item
        for item in registry.checkpoint_formats()
        if not (item.name in tables.FORMATS and tables.FORMATS[item.name].generic)
    ]
    known = {suffix for item in special for suffix in item.suffixes}
    names = {item.name for item in special}
    by_suffix: dict[str, list[str]] = {}
    for path, blob in sorted(found):
        suffix = PurePosixPath(path).suffix
        if suffix.lower() in known:
            by_suffix.setdefault(suffix, []).append(blob)
    chosen = []
    for suffix, members in sorted(by_suffix.items()):
        heads = map(held.head, members)
        if any(
            is_manifest(head) or next(registry.detect(head, "")).name in names for head in heads
        ):
            chosen.append(f"*{suffix}")
    return chosen


# Rewriting


@dataclass(frozen=True, slots=True)
class _Tree:
    """What of a rewritten commit its children need: its models, its attributes files (path → mode
    and blob), and those of the original.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    originals: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    written: Mapping[str, tuple[str, str]] = field(default_factory=dict)


class _Rewriter:
    """Changes commits, parents first.

    A subclass says what becomes of a file, and of an attributes file.
    """

    def __init__(self, session: Session, scratch: RewriteScratch) -> None:
        self._session = session
        self._scratch = scratch
        self._trees: dict[str, _Tree] = {}
        self._attributes: dict[tuple[str, str, bool], str] = {}
        self.paths: set[str] = set()

    def change(self, commit: CommitChanges) -> Sequence[BlobChange]:
        """What the commit's changes become."""
        parents = [self._trees[parent] for parent in commit.parents if parent in self._trees]
        before = parents[0] if parents else _Tree()
        models, originals, changes = dict(before.models), dict(before.originals), list[BlobChange]()
        gone = [
            models.pop(item.path)
            for item in commit.changes
            if item.path in models and not item.is_file
        ]
        for item in commit.changes:
            if item.path.rpartition("/")[2] == attributes.FILE:
                if item.blob and not item.is_file:
                    raise GitError(
                        f"{display(item.path)} in commit {commit.oid[:12]} is a symbolic link; git"
                        " does not follow it, nor can this"
                    )
                originals.pop(item.path, None)
                originals.update({item.path: (item.mode, item.blob)} if item.blob else {})
                continue
            blob = self._converted(commit, item, parents, gone) if item.is_file else None
            if blob is None:
                models.pop(item.path, None)
                changes.append(item)
            else:
                models[item.path] = blob
                self.paths.add(item.path)
                changes.append(BlobChange(item.path, item.mode, blob))
        written = self._written(originals, bool(models))
        for path in sorted({*before.written, *written}):
            if before.written.get(path) != written.get(path):
                changes.append(BlobChange(path, *written.get(path, ("", ""))))
        tree = _Tree(models, originals, written)
        self._trees[commit.oid] = before if tree == before else tree
        return changes

    def _converted(
        self, commit: CommitChanges, item: BlobChange, parents: Sequence[_Tree], gone: Sequence[str]
    ) -> str | None:
        try:
            return self._file(item, parents, gone)
        except ThetaError as error:
            raise type(error)(
                f"{display(item.path)} in commit {commit.oid[:12]}: {error}"
            ) from None

    def _written(
        self, originals: Mapping[str, tuple[str, str]], models: bool
    ) -> dict[str, tuple[str, str]]:
        """The attributes files of a tree that has, or has not, ``models``."""
        found = {}
        for path, (mode, blob) in {attributes.FILE: ("100644", ""), **originals}.items():
            key = path, blob, models
            if key not in self._attributes:
                data = self._session.blobs.read(blob) if blob else None
                new = self._attributes_file(path, data, models)
                self._attributes[key] = (
                    blob if new == data else "" if new is None else self._scratch.store(new)
                )
            if self._attributes[key]:
                found[path] = mode, self._attributes[key]
        return found

    def _file(self, item: BlobChange, parents: Sequence[_Tree], gone: Sequence[str]) -> str | None:
        """The blob that takes a file's place; None where it stays and is no model."""
        raise NotImplementedError

    def _attributes_file(self, path: str, data: bytes | None, models: bool) -> bytes | None:
        """What an attributes file (None: there is none) becomes in a tree with or without
        ``models``.
        """
        raise NotImplementedError


class _Import(_Rewriter):
    """From files, or Git LFS pointers, to manifests."""

    def __init__(
        self,
        session: Session,
        scratch: RewriteScratch,
        held: _Contents,
        track: rewrite_attributes.Tracking,
        advance: Callable[[int], None],
    ) -> None:
        super().__init__(session, scratch)
        self._contents = held
        self._track = track
        self._tracked = set(track.paths)
        self._advance = advance
        self._parsed: dict[str, Manifest] = {}
        self._unflushed = 0
        self.converted: dict[str, str] = {}  # blob and suffix → the manifest's blob
        self.old_metadata: set[str] = set()
        self.migrated: set[str] = set()
        self.references = References()
        self.text_bytes = 0

    def _file(self, item: BlobChange, parents: Sequence[_Tree], gone: Sequence[str]) -> str | None:
        if item.path not in self._tracked:
            return None
        key = item.blob + PurePosixPath(item.path).suffix.lower()
        if key not in self.converted:
            known = [self._manifest(blob) for blob in self._ancestors(item.path, parents, gone)]
            with self._contents.open(item.blob) as source:
                self.converted[key] = self._clean(
                    item, source, [manifest for manifest in known if manifest is not None]
                )
        return self.converted[key]

    def _clean(self, item: BlobChange, source: Source, known: Sequence[Manifest]) -> str:
        head = head_of(source)
        if earlier_release.is_metadata(head):
            self.old_metadata.add(item.blob)
            return item.blob
        text = clean.clean(self._session, item.path, source, known)
        if is_manifest(head):
            self.migrated.add(item.blob)
            self._advance(source.size)
            return item.blob
        self.references.add(text)
        self.text_bytes += len(text)
        self._advance(source.size)
        self._unflushed += source.size
        if self._unflushed > _FLUSH:
            self._session.store.flush()
            self._unflushed = 0
        return self._remember(self._scratch.store(text), parse(text))

    def _ancestors(self, path: str, parents: Sequence[_Tree], gone: Sequence[str]) -> list[str]:
        """The manifests that a version at ``path`` is likely close to: its parents' there, else
        those the commit took away, else others.
        """
        own = dict.fromkeys(tree.models[path] for tree in parents if path in tree.models)
        if own or gone:
            return list(own or gone)[:_RELATIVES]
        suffix = PurePosixPath(path).suffix
        others = [
            blob
            for tree in parents[:1]
            for other, blob in sorted(tree.models.items())
            if PurePosixPath(other).suffix == suffix
        ]
        return list(dict.fromkeys(others))[:_RELATIVES]

    def _manifest(self, blob: str) -> Manifest | None:
        manifest = self._parsed.get(blob)
        if manifest is None:
            text = self._scratch.git(["cat-file", "blob", blob])
            if not is_manifest(text):
                return None
            manifest = parse(text)
        self._remember(blob, manifest)
        return manifest

    def _remember(self, blob: str, manifest: Manifest) -> str:
        self._parsed.pop(blob, None)
        self._parsed[blob] = manifest
        while len(self._parsed) > _PARSED:
            del self._parsed[next(iter(self._parsed))]
        return blob

    def _attributes_file(self, path: str, data: bytes | None, models: bool) -> bytes | None:
        return self._track.apply(path, data) if models else data


class _Export(_Rewriter):
    """From manifests to whole files, or to Git LFS's pointers to them."""

    def __init__(
        self,
        session: Session,
        scratch: RewriteScratch,
        texts: Mapping[str, Manifest],
        lfs: bool,
        dock: Path | None,
        advance: Callable[[int], None],
    ) -> None:
        super().__init__(session, scratch)
        self._texts = texts
        self._lfs = lfs
        self._dock = dock
        self._advance = advance
        self.files: dict[str, str] = {}

    # The other way's
    def _file(self, item: BlobChange, parents: Sequence[_Tree], gone: Sequence[str]) -> str | None:
        manifest = self._texts.get(item.blob)
        if manifest is None:
            return None
        if item.blob not in self.files:
            path = self._session.store.temporary_path()
            try:
                smudge.write(
                    self._session.store, manifest, path, self._session.pool(), self._advance
                )
                self.files[item.blob] = (
                    self._pointer(path) if self._lfs else self._scratch.store_file(path)
                )
            finally:
                path.unlink(missing_ok=True)
        return self.files[item.blob]

    def _pointer(self, path: Path) -> str:
        """Move a file to Git LFS's objects (in a dry run: nowhere); return the pointer."""
        size = path.stat().st_size
        with path.open("rb") as file:
            oid = hashlib.file_digest(file, "sha256").hexdigest()
        if self._dock is not None:
            target = self._dock / oid[:2] / oid[2:4] / oid
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
        return self._scratch.store(lfs_pointer.dump(oid, size))

    # The other direction needs ``models``.
    def _attributes_file(self, path: str, data: bytes | None, models: bool) -> bytes | None:
        return rewrite_attributes.untracked(path, data, self._lfs)


# The working tree


@dataclass(frozen=True, slots=True)
class _PathDifference:
    """A path that two commits have otherwise: what the new one has there."""

    path: str
    mode: str
    blob: str
    added: bool


def _differences(session: Session, old: str, new: str) -> list[_PathDifference]:
    listed = manifest_scan.git(
        session.repository,
        ["diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", old, new],
    )
    none = "0" * session.repository.hash_length
    return [
        _PathDifference(item.new_path, item.new_mode, item.new_blob or none, item.status == "A")
        for item in changes.parse(listed)
    ]


def _check_in_the_way(session: Session, head: str | None, rewritten: Rewritten) -> None:
    if session.repository.worktree is None or head is None or head not in rewritten.commits:
        return
    for item in _differences(session, head, rewritten.commits[head]):
        if item.added and os.path.lexists(session.full_path(item.path)):
            raise GitError(
                f"{display(item.path)} is in the way and not tracked; add and commit it, or move it"
                " away"
            )


def _refresh(session: Session, old: str, new: str) -> None:
    """Have index and working tree follow from commit ``old`` to ``new``, without models being
    written that are there already.
    """
    worktree, differences = session.repository.worktree, _differences(session, old, new)
    unwritten = _skipped(session)
    staging.put({item.path: (item.mode, item.blob) for item in differences}, worktree)
    skipped = [item.path for item in differences if item.path in unwritten and item.blob.strip("0")]
    if skipped:
        staging.leave_out(skipped, worktree)
    present = [item for item in differences if item.path not in unwritten]
    small = [item for item in present if item.path.rpartition("/")[2] == attributes.FILE]
    for item in small:
        if not item.blob.strip("0"):
            session.full_path(item.path).unlink(missing_ok=True)
    staging.write_out([item.path for item in small if item.blob.strip("0")], worktree)
    models = [item for item in present if item not in small]
    held = dict(contents.read(session.repository, [item.blob for item in models]))
    manifests = {blob: parse(content.data) for blob, content in held.items() if content.is_manifest}
    sizes = {blob: content.size for blob, content in held.items()} | {
        blob: manifest.size for blob, manifest in manifests.items()
    }
    kept = [
        item for item in models if session.full_path(item.path).lstat().st_size == sizes[item.blob]
    ]
    staging.write_out([item.path for item in models if item not in kept], worktree)
    stats = {item.path: session.full_path(item.path).lstat() for item in kept}
    known = [(item, manifests[item.blob]) for item in kept if item.blob in manifests]
    written = tuple(
        checkout.Target(item.path, manifest, item.mode == "100755") for item, manifest in known
    )
    checkout.mark(session, checkout.CheckoutOutcome(written, (), stats))


def _skipped(session: Session) -> set[str]:
    """The files of the index that a sparse checkout leaves out."""
    entries = listing.index((), session.repository.worktree)
    return {entry.path for entry in entries if entry.left_out}


def _at_head(session: Session, paths: set[str]) -> list[str]:
    """Those of ``paths`` that are checked out."""
    head = manifest_scan.resolve(session.repository, "HEAD^{tree}")
    if session.repository.worktree is None or head is None:
        return []
    return sorted(paths.intersection(manifest_scan.tree_blobs(session.repository, "HEAD").values()))
