"""Files that git does not store the way the attributes say: manifests that no attribute tracks, and
tracked files that are no manifests.

One look at the index, or at a revision, serves every command that would otherwise report that all
is well.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from git_theta.core import earlier_release, lfs_pointer
from git_theta.core.manifest import parse
from git_theta.core.names import display, shell_word
from git_theta.core.readable.numbers import size
from git_theta.errors import ThetaError
from git_theta.git.config import attributes, config_file
from git_theta.git.history import contents, listing, revisions
from git_theta.git.history.contents import BlobContent
from git_theta.git.history.listing import TrackedFile
from git_theta.git.repository import Repository
from git_theta.git.writing import staging
from git_theta.workflows.session import Session


class Kind(Enum):
    """How a file is stored otherwise than the attributes say."""

    UNTRACKED = "a manifest that no attribute tracks"
    UNSTAGED = "a manifest that only attributes outside the index track"
    RAW = "a tracked file that was committed as it is"
    POINTER = "a tracked file that was committed as a Git LFS pointer"
    STORED_POINTER = "a manifest of a Git LFS pointer"
    OLD = "metadata of Git-Theta 0.2"
    LINK = "a tracked symbolic link that leads to no tracked model"


@dataclass(frozen=True, slots=True)
class Mistracked:
    """A file at ``path`` (from the top) that is stored otherwise than the attributes say; ``size``
    is that of its blob in bytes.

    ``files`` are the attributes files to be staged where that is what it takes.
    """

    path: str
    blob: str
    kind: Kind
    size: int = 0
    files: tuple[str, ...] = ()

    @property
    def lacks_model(self) -> bool:
        """Whether a checkout cannot leave the model in the working tree."""
        return self.kind in (Kind.UNTRACKED, Kind.POINTER, Kind.STORED_POINTER)


@dataclass(frozen=True, slots=True)
class IndexSurvey:
    """What the index or a revision holds.

    ``tracked`` are the files (no links) that an attribute gives to Git-Theta, ``manifests`` all
    files that are manifests, each with its content; git may not have the content of a tracked file
    (None). ``found`` are the files stored otherwise than the attributes say. ``unmatched`` are the
    pathspecs that match no file at all.
    """

    tracked: dict[str, tuple[TrackedFile, BlobContent | None]]
    manifests: dict[str, tuple[TrackedFile, BlobContent]]
    found: tuple[Mistracked, ...]
    unmatched: tuple[str, ...] = ()

    @property
    def by_path(self) -> dict[str, Mistracked]:
        """What was found, by path."""
        return {item.path: item for item in self.found}


def survey(
    session: Session, revision: str | None = None, pathspecs: Sequence[str] = ()
) -> IndexSurvey:
    """Look at what matches ``pathspecs`` (default: everything) in ``revision``, or in the index.

    Where there is no index to look at (a bare repository), HEAD is looked at. Files that are not
    tracked are passed over where a partial clone may lack them: those that a sparse checkout leaves
    out, and in a revision all.
    """
    repository, cwd = session.repository, session.cwd
    if revision is None and repository.worktree is None:
        revision = "HEAD"
        if revisions.find("HEAD", "tree", cwd or repository.git_dir) is None:
            return IndexSurvey({}, {}, (), tuple(pathspecs))
    with _index_of(revision, cwd) as index:
        paths = list(pathspecs) or ([":/"] if repository.worktree is not None else [])
        entries = listing.one_each(listing.index(paths, cwd, file=index))
        values = attributes.check(
            repository, (entry.path for entry in entries), ["filter"], index=index
        )
        ours = {path for path, found in values.items() if attributes.is_tracked(found)}
        partial = index is not None and _is_partial(repository)
        wanted = [
            entry
            for entry in entries
            if entry.path in ours or not (entry.is_link or entry.left_out or partial)
        ]
        held = _interesting(repository, wanted, ours)
        tracked = {
            entry.path: (entry, held.get(entry.blob))
            for entry in wanted
            if entry.path in ours and not entry.is_link
        }
        manifests = {
            e.path: (e, held[e.blob])
            for e in wanted
            if not e.is_link and e.blob in held and held[e.blob].is_manifest
        }
        unstaged = _unstaged(repository, ours.intersection(manifests)) if index is None else {}
        links = {
            e.path: _leads_to(e.path, os.fsdecode(held[e.blob].data))
            for e in wanted
            if e.is_link and e.blob in held
        }
        fine = _tracked_at(repository, links.values(), index)
        found = []
        for entry in wanted:
            content = held.get(entry.blob)
            if content is not None and links.get(entry.path) not in fine:
                kind = _kind(session, entry, content, entry.path in ours, entry.path in unstaged)
                if kind is not None:
                    files = unstaged.get(entry.path, ()) if kind is Kind.UNSTAGED else ()
                    found.append(Mistracked(entry.path, entry.blob, kind, content.size, files))
        unmatched = listing.unmatched(pathspecs, cwd, file=index)
        return IndexSurvey(tracked, manifests, tuple(found), tuple(unmatched))


@dataclass(frozen=True, slots=True)
class NotModels:
    """Tracked files of the working tree that are no models: symbolic links that lead to no tracked
    file, and Git LFS pointers.
    """

    links: tuple[str, ...]
    pointers: tuple[str, ...]


def not_models(repository: Repository, names: Iterable[str]) -> NotModels:
    """Those of the tracked files ``names`` (from the top) that are no models as they are in the
    working tree.
    """
    assert repository.worktree is not None
    top, links, pointers = repository.worktree, dict[str, str](), []
    for name in sorted(names):
        with contextlib.suppress(OSError):
            path = top / name
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                links[name] = _leads_to(name, path.readlink().as_posix())
                continue
            small = stat.S_ISREG(status.st_mode) and status.st_size < lfs_pointer.SIZE_LIMIT
            if small and lfs_pointer.is_pointer(status.st_size, path.read_bytes()):
                pointers.append(name)
    inside = [
        target
        for target in links.values()
        if not target.startswith(("/", "../")) and (top / target).is_file()
    ]
    values = attributes.check(repository, inside, ["filter"])
    fine = {target for target, found in values.items() if attributes.is_tracked(found)}
    return NotModels(
        tuple(name for name, target in links.items() if target not in fine), tuple(pointers)
    )


@contextlib.contextmanager
def _index_of(revision: str | None, cwd: Path | None) -> Iterator[Path | None]:
    """An index of ``revision``: up to 2.40 git reads the attributes of a revision from an index
    only. None for the index in force.
    """
    if revision is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="git-theta-") as folder:
        index = Path(folder, "index")
        staging.read_into(index, f"{revision}^{{tree}}", cwd)
        yield index


def _is_partial(repository: Repository) -> bool:
    """Whether git may lack blobs, and would fetch each that is asked for."""
    return config_file.of_git_dir(repository.git_dir, "extensions.partialClone") is not None


def _interesting(
    repository: Repository, entries: Sequence[TrackedFile], ours: set[str]
) -> dict[str, BlobContent]:
    """The contents of tracked files, and of others those that are manifests, by blob."""
    kept = {entry.blob for entry in entries if entry.path in ours}
    read = contents.read(repository, (entry.blob for entry in entries))
    return {blob: content for blob, content in read if blob in kept or content.is_manifest}


def _kind(
    session: Session, entry: TrackedFile, content: BlobContent, ours: bool, unstaged: bool
) -> Kind | None:
    if entry.is_link:
        return Kind.LINK if ours else None
    if content.is_manifest:
        if not ours:
            return Kind.UNTRACKED
        if unstaged:
            return Kind.UNSTAGED
        return Kind.STORED_POINTER if _holds_pointer(session, content) else None
    if not ours or not content.size:
        return None
    if content.is_lfs_pointer:
        return Kind.POINTER
    return Kind.OLD if content.is_old_metadata else Kind.RAW


def _holds_pointer(session: Session, content: BlobContent) -> bool:
    """Whether the file that a manifest describes is a Git LFS pointer; False when the file cannot
    be rebuilt.
    """
    from git_theta.workflows.restoring.reader import StoredSource

    try:
        manifest = parse(content.data)
        if manifest.size >= lfs_pointer.SIZE_LIMIT:
            return False
        head = StoredSource(session, manifest).read(0, min(64, manifest.size))
    except ThetaError:
        return False
    return lfs_pointer.is_pointer(manifest.size, head)


def _tracked_at(repository: Repository, paths: Iterable[str], index: Path | None) -> set[str]:
    """Those of ``paths`` at which the index has a tracked file that is no link."""
    specs = [listing.literal(path) for path in paths if not path.startswith(("/", "../"))]
    if not specs:
        return set()
    listed = listing.one_each(listing.index(specs, repository.worktree, file=index))
    files = (entry.path for entry in listed if not entry.is_link)
    values = attributes.check(repository, files, ["filter"], index=index)
    return {path for path, found in values.items() if attributes.is_tracked(found)}


def _leads_to(path: str, text: str) -> str:
    """Where the symbolic link ``path`` that holds ``text`` leads, from the repository's top."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), text))


def _unstaged(repository: Repository, paths: set[str]) -> dict[str, tuple[str, ...]]:
    """Those of the tracked ``paths`` that the attributes in the index do not track, each with the
    attributes files that are not staged.
    """
    values = attributes.check(repository, sorted(paths), ["filter"], index=repository.index)
    lacking = [path for path, found in values.items() if not attributes.is_tracked(found)]
    if not lacking:
        return {}
    # 'ls-files --modified' would have every file looked into
    where = [f":(top,glob)**/{attributes.FILE}"]
    top = repository.worktree
    files = sorted({*listing.untracked(where, top), *listing.modified(where, top)})
    return {
        path: tuple(f for f in files if path.startswith(f.removesuffix(attributes.FILE)))
        for path in lacking
    }


# Telling the user


def describe(item: Mistracked, shown: Callable[[str], str] = str) -> str:
    """What is wrong with a file, in one line; ``shown`` gives a path from the top as it is seen
    from the current folder.
    """
    return f"{display(shown(item.path))}: {reason(item)}; {remedy(item, shown)}"


def reason(item: Mistracked) -> str:
    """How the file is stored, and what that leads to."""
    return {
        Kind.UNTRACKED: (
            "git holds its manifest, but no .gitattributes tracks the file: clones get the text,"
            " and 'git add' stores it whole"
        ),
        Kind.UNSTAGED: (
            "the .gitattributes that tracks it is not in the index, so clones would get its"
            " manifest"
        ),
        Kind.RAW: f"committed without Git-Theta (as it is, {size(item.size)})",
        Kind.POINTER: "committed without Git-Theta (a Git LFS pointer)",
        Kind.STORED_POINTER: "what was added is a Git LFS pointer, not the model",
        Kind.OLD: earlier_release.ADVICE.partition("; ")[0],
        Kind.LINK: "a symbolic link is tracked, not a model: git stores only where it leads",
    }[item.kind]


def remedy(item: Mistracked, shown: Callable[[str], str] = str) -> str:
    """The commands that mend it, to be run in the current folder."""
    called = word(shown(item.path))
    if item.kind is Kind.UNTRACKED:
        return f"run 'git theta track {called}'"
    if item.kind is Kind.UNSTAGED:
        files = " ".join(word(shown(file)) for file in item.files or (attributes.FILE,))
        return f"run 'git add {files}' and commit it"
    if item.kind is Kind.RAW:
        return f"run 'git add --renormalize {called}' and commit it"
    if item.kind is Kind.POINTER:
        return f"run 'git lfs pull', then 'git add --renormalize {called}', and commit it"
    if item.kind is Kind.STORED_POINTER:
        return (
            f"run 'git lfs smudge <{called} >{called}.new && mv {called}.new {called} && git add"
            f" {called}' and commit it"
        )
    if item.kind is Kind.LINK:
        return copying(shown(item.path))
    return earlier_release.ADVICE.partition("; ")[2]


def copying(name: str) -> str:
    """How to replace the symbolic link ``name`` by the file that it leads to."""
    called = word(name)
    return (
        f"copy the file: 'cp -L {called} {called}.new && mv {called}.new {called}', then 'git add"
        f" {called}'"
    )


def word(name: str) -> str:
    """``name`` as an argument to be pasted into a shell."""
    return shell_word(f"./{name}" if name.startswith("-") else name)
