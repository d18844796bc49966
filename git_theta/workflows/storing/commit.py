"""commit: put checkpoints on a branch from memory.

The working tree is not read, and only written where that branch is checked out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from git_theta.core.manifest import Manifest
from git_theta.core.names import display
from git_theta.core.source import FileSource, Source
from git_theta.errors import FileChanged, GitError, NotCheckedOut, ThetaError, UsageError
from git_theta.git.config import attributes
from git_theta.git.history import listing, revisions
from git_theta.git.writing import merge_trees, plumbing, staging
from git_theta.git.writing.plumbing import Branch
from git_theta.store.guard import turn
from git_theta.workflows.restoring import checkout
from git_theta.workflows.session import Session, scratch_index
from git_theta.workflows.storing.clean import clean

_PATIENCE = 10.0  # seconds that another git command may take with the index
_ATTEMPTS = 5  # at a branch that others move meanwhile
_UNFINISHED = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply")
_PLAIN_LIMIT = 16 << 20  # bytes of a file that Git-Theta does not track

Files = Mapping[str, Source]
Blobs = Mapping[str, tuple[str, str]]


def commit(
    session: Session,
    files: Files,
    message: str,
    name: str | None = None,
    worktree: bool = True,
    tracked: frozenset[str] = frozenset(),
) -> str:
    """Commit ``files`` (path from the top → content) to the branch ``name`` (None: the one checked
    out) and return the commit.

    What Git-Theta tracks there is stored as ``git add`` would store it on that branch; other files,
    as git stores them. The branch moves by compare-and-swap: where somebody else moved it
    meanwhile, the files go on top, unless one of them was changed too. Without any change nothing
    is committed, and the branch's commit is returned.

    ``tracked`` paths are stored by Git-Theta whatever the branch's attributes say, since ``files``
    hold others (see :func:`tracking`).

    Where the branch is checked out, its index entries follow; so do the files of the working tree,
    unless ``worktree`` is False. Files with changes that are not committed are never overwritten:
    :class:`UsageError`.
    """
    cwd = folder(session)
    branch = plumbing.branch(session.repository, name, cwd)
    if branch.here:
        with turn(session.repository.common_dir):
            _check_unchanged(session, branch, list(files), worktree)
    tracked |= _tracked(session, branch, list(files))
    session.store.hold()
    before = _versions(branch.start, list(files), cwd)
    blobs = {
        path: (before[path][0], _blob(session, path, source, path in tracked, before[path][1]))
        for path, source in files.items()
    }
    session.store.flush()
    # Those who would only come into each other's way wait for each other
    with turn(session.repository.common_dir):
        made = _on_top(session, branch, blobs, before, message)
        if branch.here and made != branch.tip:
            _follow(session, blobs, tracked, worktree, made)
    return made


def folder(session: Session) -> Path:
    """Where git runs for ``session``."""
    return session.cwd or session.repository.worktree or session.repository.git_dir


def _check_unchanged(
    session: Session, branch: Branch, paths: Sequence[str], worktree: bool
) -> None:
    """As git's own commands that move the branch checked out: refuse to overwrite what is not
    committed.
    """
    for name in _UNFINISHED:
        if (session.repository.git_dir / name).exists():
            raise UsageError(
                f"{branch.shown} is checked out and in the middle of something (see 'git status');"
                " finish that first"
            )
    for item in listing.status(list(map(listing.literal, paths)), folder(session)):
        if item.is_staged or worktree:
            what = (
                "is staged"
                if item.is_staged
                else "has changes"
                if not item.is_untracked
                else "is there, but not committed"
            )
            raise UsageError(
                f"{display(item.path)} {what} in the working tree, where {branch.shown} is"
                " checked out; commit"
                " it, or save to another branch"
            )


def _tracked(session: Session, branch: Branch, paths: Sequence[str]) -> frozenset[str]:
    """Those of ``paths`` that the branch's attributes (the working tree's, where it is checked out)
    give to Git-Theta.
    """
    if branch.here:
        found = attributes.check(session.repository, paths, ["filter"])
    else:
        index = scratch_index(session)
        try:
            staging.read_into(index, branch.start, folder(session))
            found = attributes.check(session.repository, paths, ["filter"], index=index)
        finally:
            index.unlink(missing_ok=True)
    return frozenset(path for path, values in found.items() if attributes.is_tracked(values))


def require_tracked(session: Session, path: str, name: str | None) -> None:
    """:class:`UsageError` unless Git-Theta tracks ``path`` on the branch ``name``."""
    branch = plumbing.branch(session.repository, name, folder(session))
    if path not in _tracked(session, branch, [path]):
        where = "here" if branch.here else f"on {branch.shown}"
        raise UsageError(
            f"{display(path)} is not tracked by Git-Theta {where}; 'git theta track"
            f" {display(path)}' it" + ("" if branch.here else ", and commit .gitattributes there")
        )


def tracking(session: Session, path: str, name: str | None = None) -> tuple[str, bytes] | None:
    """The attributes file of the branch ``name``, as path and content, that would have ``path``
    tracked; None if it is tracked already.
    """
    branch = plumbing.branch(session.repository, name, folder(session))
    if path in _tracked(session, branch, [path]):
        return None
    inside = PurePosixPath(path).parent
    for place in (inside, *inside.parents):  # the nearest one wins, so a line at its end does
        file = (place / ".gitattributes").as_posix()
        data = _attributes(session, branch, file)
        if data is not None or place == PurePosixPath("."):
            pattern = f"/{attributes.literal(PurePosixPath(path).relative_to(place).as_posix())}"
            text = attributes.parse_file(data or b"", Path(file)).having(pattern).text()
            return file, text.encode("utf-8", "surrogateescape")
    raise AssertionError("a path's last parent is the top")


def _attributes(session: Session, branch: Branch, file: str) -> bytes | None:
    if not branch.here:
        return session.blobs.read(f"{branch.start}:{file}") if branch.start else None
    full = session.full_path(file)
    if not os.path.lexists(full):
        return None
    attributes.read(full)  # an error for one that git ignores
    return full.read_bytes()


def _versions(
    start: str | None, paths: Sequence[str], cwd: Path
) -> dict[str, tuple[str, str | None]]:
    """Path → (mode, blob) as the commit ``start`` has it; of a new file no blob."""
    found: dict[str, tuple[str, str | None]] = dict.fromkeys(paths, ("100644", None))
    for entry in listing.tree(start, paths, cwd, recursive=False) if start else ():
        if not entry.is_ordinary:
            raise UsageError(
                f"{display(entry.path)} is no ordinary file in {start[:12] if start else ''}"
            )
        found[entry.path] = entry.mode, entry.blob
    return found


def _blob(session: Session, path: str, source: Source, tracked: bool, before: str | None) -> str:
    if not tracked:
        if source.size > _PLAIN_LIMIT:
            raise UsageError(
                f"{display(path)} is not tracked by Git-Theta, and {source.size} bytes are many for"
                " git; 'git theta track' it"
            )
        return plumbing.blob(source.read(0, source.size), folder(session), path)
    manifest = session.manifest(before) if before is not None else None
    text = clean(session, path, source, [manifest] if manifest is not None else [])
    if isinstance(source, FileSource):
        now = os.fstat(source.fileno())
        if (now.st_size, now.st_mtime_ns) != (source.stat.st_size, source.stat.st_mtime_ns):
            raise FileChanged(
                f"{display(path)}: the file was written while it was read; save it again"
            )
    return plumbing.blob(text, folder(session))


def _on_top(
    session: Session,
    branch: Branch,
    blobs: Blobs,
    before: Mapping[str, tuple[str, str | None]],
    message: str,
) -> str:
    """The commit that brings ``blobs`` to the branch, which then names it."""
    cwd, tip, start = folder(session), branch.tip, branch.start
    for _ in range(_ATTEMPTS):
        index = scratch_index(session)
        try:
            tree = merge_trees.with_blobs(start, blobs, index, cwd)
        finally:
            index.unlink(missing_ok=True)
        if start is not None and tip == start and revisions.find(start, "tree", cwd) == tree:
            return start
        made = plumbing.commit_tree(tree, [start] if start else [], message, cwd)
        if plumbing.move(branch.name, made, tip, f"commit (git-theta): {message}", cwd):
            return made
        tip = start = plumbing.commit(branch.name, cwd)
        if tip is None or _versions(tip, list(blobs), cwd) != before:
            raise GitError(
                f"{branch.shown} was moved by somebody else, who changed the same file; load it and"
                " save again"
            )
    raise GitError(
        f"{branch.shown} is moved by somebody else again and again; try again, or save to another"
        " branch"
    )


def _follow(
    session: Session, blobs: Blobs, tracked: frozenset[str], worktree: bool, made: str
) -> None:
    """Let the index, and the files of the working tree, follow the branch that is checked out."""
    cwd = folder(session)
    try:
        _with_index(lambda: staging.put(blobs, cwd))
        if worktree:
            _write(session, blobs, tracked)
    except ThetaError as error:
        names = " ".join(map(display, blobs))
        raise NotCheckedOut(
            f"committed as {made[:12]}, but not checked out ({error}); 'git checkout HEAD --"
            f" {names}' does that",
            made,
        ) from error


def _with_index(write: Callable[[], None]) -> None:
    """Do what writes the index, when no other command does: the branch has moved, so it
    is late to give up.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            write()
        except GitError as error:
            if "index.lock" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def _write(session: Session, blobs: Blobs, tracked: frozenset[str]) -> None:
    others = [path for path in blobs if path not in tracked]
    if others:  # first, since attributes may be among them
        _with_index(lambda: staging.write_out(others, folder(session)))
    manifests = {
        path: session.manifest(blob) for path, (_, blob) in blobs.items() if path in tracked
    }
    targets = [
        checkout.Target(path, manifest, blobs[path][0] == "100755")
        for path, manifest in manifests.items()
        if manifest
    ]
    outcome = checkout.checkout(session, targets)
    if outcome.failed:
        raise outcome.failed[0][1]


def version(session: Session, path: str, name: str | None) -> Manifest | None:
    """What the branch ``name`` (or, where that is new, the commit it would start from) has at
    ``path``; None for no manifest.
    """
    branch = plumbing.branch(session.repository, name, folder(session))
    return session.manifest(f"{branch.start}:{path}") if branch.start else None
