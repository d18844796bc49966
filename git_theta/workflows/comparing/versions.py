"""The versions of models that a diff is asked for: of a revision, the index, the working tree, or
of files anywhere.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from git_theta.core import earlier_release
from git_theta.core.manifest import Entry, Manifest, is_manifest
from git_theta.core.names import display
from git_theta.core.source import FileSource, head_of
from git_theta.core.tensors import Tensor
from git_theta.errors import GitError, ThetaError, UsageError
from git_theta.git.config import attributes
from git_theta.git.history import contents
from git_theta.git.history.changes import FileChange, Range, changed
from git_theta.plugins import registry
from git_theta.workflows.comparing import sharded
from git_theta.workflows.comparing.compare import Comparison, compare, compare_texts
from git_theta.workflows.comparing.values import Absent, FileValues, Pair, StoredValues, Values
from git_theta.workflows.comparing.version import NOTHING, Side, Version
from git_theta.workflows.restoring.statcache import StatCache
from git_theta.workflows.session import Session
from git_theta.workflows.storing import layouts

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from git_theta.core.layout import Layout

_MANIFEST_LIMIT = 256 << 20
_RENAME_LIMIT = 400  # pairs of deleted and added models that are looked at
_ALIKE = 0.5  # equal tensors from which an added model counts as a deleted one under another name


@dataclass(frozen=True, slots=True)
class ModelDiff:
    """A model with its two sides.

    ``change`` says how its file changed, ``comparison`` how its tensors did.

    ``problem`` says what is wrong with a side: broken, unmerged, or no model.
    """

    change: FileChange
    old: Version
    new: Version
    comparison: Comparison | None
    problem: str = ""

    @property
    def reader(self) -> Pair:
        """Reads tensors of both sides."""
        return Pair(self.old.values, self.new.values)


def diff(
    session: Session,
    asked: Range,
    paths: Sequence[str],
    stack: ExitStack,
    cwd: Path | None = None,
    advance: Callable[[int], None] | None = None,
    grouped: bool = False,
) -> Iterator[ModelDiff]:
    """The models that differ in ``asked``, in git's order; where ``grouped``, the files of a
    sharded model are one.

    Files of the working tree stay open until ``stack`` is closed.
    """
    changes = changed(asked, paths, cwd, session.repository.hash_length)
    unmerged = {change.new_path for change in changes if change.status == "U"}
    changes = [
        change for change in changes if change.new_path not in unmerged or change.status == "U"
    ]
    texts, outdated = _texts(session, changes)
    tracked = _tracked(session, [change.new_path for change in changes if change.new_blob == ""])
    sides = []
    for change in changes:
        if outdated.intersection((change.old_blob, change.new_blob)):
            sides.append((change, NOTHING, NOTHING, earlier_release.ADVICE))
            continue
        old = _stored(session, texts.get(change.old_blob or ""))
        if change.status == "U":
            if old.is_model or _is_unmerged_model(session, change.new_path):
                sides.append((change, NOTHING, NOTHING, "unmerged"))
            continue
        if change.new_blob != "":
            sides.append((change, old, _stored(session, texts.get(change.new_blob or "")), ""))
        elif old.is_model or change.new_path in tracked:
            try:
                new = working_tree(session, change.new_path, old, stack, advance)
            except (ThetaError, OSError) as error:
                sides.append((change, old, NOTHING, str(error)))
            else:
                sides.append((change, old, new, ""))
    same: dict[str, int] = {}
    if grouped:
        sides, same = sharded.join(session, asked, sides)
    for change, old, new, problem in _renamed(sides):
        if problem:
            yield ModelDiff(change, old, new, None, problem)
        elif old.is_model or new.is_model:
            yield model_diff(change, old, new, same.get(change.new_path, 0))


def model_diff(change: FileChange, old: Version, new: Version, unchanged: int = 0) -> ModelDiff:
    """Both sides compared; a manifest that cannot be read is a problem of the result, not an error.

    ``unchanged`` further tensors are the same on both sides.
    """
    sides = (("old", old, change.old_blob), ("new", new, change.new_blob))
    other = [side for side, version, blob in sides if blob is not None and not version.is_model]
    try:
        return ModelDiff(
            change,
            old,
            new,
            compare_versions(old, new, unchanged),
            f"the {other[0]} version is not stored by Git-Theta" if other else "",
        )
    except ThetaError as error:
        return ModelDiff(change, old, new, None, str(error))


def compare_versions(old: Version, new: Version, unchanged: int = 0) -> Comparison:
    """How the tensors changed. ``unchanged`` further ones are the same on both sides."""
    if old.manifest is None and new.manifest is None:
        return compare_texts(old.text, new.text)
    return compare(old.parsed, new.parsed, unchanged)


def _texts(session: Session, changes: Iterable[FileChange]) -> tuple[dict[str, bytes], set[str]]:
    """Blob → text of those blobs of ``changes`` that are manifests; and those blobs that Git-Theta
    0.2 wrote.
    """
    blobs = [blob for change in changes for blob in (change.old_blob, change.new_blob) if blob]
    held = dict(contents.read(session.repository, blobs))
    outdated = {blob for blob, content in held.items() if content.is_old_metadata}
    return {blob: content.data for blob, content in held.items() if content.is_manifest}, outdated


def _tracked(session: Session, paths: Sequence[str]) -> set[str]:
    """Those of ``paths`` that git would run our filter for."""
    return {
        path
        for path, values in attributes.check(session.repository, paths, ["filter"]).items()
        if attributes.is_tracked(values)
    }


def _is_unmerged_model(session: Session, path: str) -> bool:
    return any(is_manifest(session.blobs.read(f":{stage}:{path}") or b"") for stage in (1, 2, 3))


def _stored(session: Session, text: bytes | None) -> Version:
    return Version(text, StoredValues(session.store)) if text is not None else NOTHING


def stored(session: Session, text: bytes) -> Version:
    """The version that git stores as the manifest ``text``."""
    return Version(text, StoredValues(session.store))


def working_tree(
    session: Session,
    path: str,
    old: Version,
    stack: ExitStack,
    advance: Callable[[int], None] | None = None,
    file: Path | None = None,
) -> Version:
    """The file of the working tree that git calls ``path`` (``file``, where it lies elsewhere); an
    error of ours when it is broken.

    The stat cache knows its manifest, or it is hashed. What ``old`` (or the index) holds already is
    entered as it is stored.
    """
    file = file or session.full_path(path)
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise GitError(f"{display(path)} is no ordinary file")
    source = stack.enter_context(FileSource(file))
    head = head_of(source)
    if is_manifest(head):
        return _manifest_file(source, StoredValues(session.store))
    if source.size == 0:
        raise GitError("the file is empty")
    text = StatCache(session.repository.cache).get(path, source.stat)

    def scan() -> Layout:
        return layouts.scan(session, path, source, head)

    if text is not None:
        return Version(text, _LazyFile(source, scan))
    from git_theta.workflows.storing.fingerprint import inspect

    layout = scan()
    known = [
        manifest
        for manifest in (old.parsed, session.manifest(f":0:{path}"))
        if manifest is not None
    ]
    manifest = inspect(source, layout, known, session.pool(), advance)
    return Version(None, FileValues(source, layout), manifest)


class _LazyFile:
    """The tensors of a file that is scanned when the first of them is asked for."""

    def __init__(self, source: FileSource, scan: Callable[[], Layout]) -> None:
        self._source = source
        self._scan = scan
        self._values: FileValues | None = None

    def load(self, entry: Entry) -> Tensor:
        """As :meth:`Values.load`."""
        if self._values is None:
            self._values = FileValues(self._source, self._scan())
        return self._values.load(entry)


def file(
    path: Path,
    session: Session | None,
    pool: Executor,
    stack: ExitStack,
    advance: Callable[[int], None] | None = None,
    known: Sequence[Manifest] = (),
) -> Version:
    """A checkpoint anywhere on disk, or a manifest (whose tensors are in the current repository's
    store, if there is one).
    """
    from git_theta.workflows.storing.fingerprint import inspect

    try:
        if not path.is_file():
            raise UsageError(f"{display(str(path))} is no file")
        source = stack.enter_context(FileSource(path))
    except OSError as error:
        raise UsageError(
            f"{display(str(path))} cannot be read: {error.strerror or error}"
        ) from None
    head = head_of(source)
    if is_manifest(head):
        return _manifest_file(source, StoredValues(session.store) if session else Absent())
    form = next(registry.detect(head, PurePosixPath(path.name).suffix.lower()))
    layout = registry.scan(form, source)
    return Version(None, FileValues(source, layout), inspect(source, layout, known, pool, advance))


def _manifest_file(source: FileSource, values: Values) -> Version:
    if source.size > _MANIFEST_LIMIT:
        raise GitError(f"a manifest of {source.size} bytes is too large to be one")
    return Version(source.read(0, source.size), values)


def _renamed(sides: Sequence[Side]) -> Iterator[Side]:
    """``sides`` with a deleted and an added model that are alike joined into a renamed one."""
    gone = [side for side in sides if side[0].new_blob is None and side[1].is_model]
    came = [side for side in sides if side[0].old_blob is None and side[2].is_model]
    joined: dict[int, Side] = {}
    if gone and came and len(gone) * len(came) <= _RENAME_LIMIT:
        scores = sorted(
            ((_alike(a[1], b[2]), -i, -j) for i, a in enumerate(gone) for j, b in enumerate(came)),
            reverse=True,
        )
        taken: set[int] = set()
        for score, i, j in scores:
            a, b = gone[-i], came[-j]
            if score >= _ALIKE and id(a) not in taken and id(b) not in taken:
                taken |= {id(a), id(b)}
                change = FileChange(
                    a[0].old_path,
                    b[0].new_path,
                    a[0].old_mode,
                    b[0].new_mode,
                    a[0].old_blob,
                    b[0].new_blob,
                    "R",
                )
                joined[id(b)] = (change, a[1], b[2], "")
                joined[id(a)] = (change, NOTHING, NOTHING, "")
    for side in sides:
        found = joined.get(id(side), side)
        if found is side or found[1].is_model:
            yield found


def _alike(old: Version, new: Version) -> float:
    """The share of tensors that are equal, by their digests."""
    try:
        first, second = old.parsed, new.parsed
    except ThetaError:
        return 0.0
    if first is None or second is None or not first.entries or not second.entries:
        return float(first is not None and second is not None and first.identity == second.identity)
    a, b = {entry.digest for entry in first.entries}, {entry.digest for entry in second.entries}
    return len(a & b) / max(len(a), len(b))
