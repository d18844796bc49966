"""The history of a model by its manifests: per commit which tensors changed, how they are stored,
and what that costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from git_theta.core.manifest import Entry, ObjectRange, is_manifest
from git_theta.errors import ManifestError
from git_theta.git.history.commits import Commit, of_file
from git_theta.workflows.comparing.compare import Comparison, TensorChange, compare_texts, select
from git_theta.workflows.comparing.metrics import of_commits
from git_theta.workflows.session import Session

_KEPT = 16  # manifests held at a time


@dataclass(frozen=True, slots=True)
class Step:
    """What one commit did to the model, beside its first parent.

    ``changes`` are those asked for. ``tensor_bytes`` counts the tensors that came in with new
    values, ``stored`` the stored bytes that no earlier commit needed. Without ``comparison``
    the ``problem`` says why. ``metrics`` are those noted on the commit.
    """

    commit: Commit
    comparison: Comparison | None
    changes: tuple[TensorChange, ...]
    tensor_bytes: int = 0
    stored: int = 0
    problem: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def updates(self) -> dict[str, int]:
        """How the new values are stored: the number of tensors for each kind of update, the most
        frequent first.
        """
        found = Counter(
            _update(change.new)
            for change in self.changes
            if change.new and change.kind != "renamed"
        )
        return dict(found.most_common())


def _update(entry: Entry) -> str:
    return entry.chain[0].update if entry.chain else "inline"


def log(
    session: Session,
    path: str,
    revisions: Sequence[str] = (),
    globs: Sequence[str] = (),
    count: int | None = None,
    cwd: Path | None = None,
) -> list[Step]:
    """The commits that changed the model ``path`` (from the top), newest first; with ``globs`` only
    those that changed such a tensor.

    One ``git log``, one ``git cat-file`` and notes tell it all; no tensor is read. Renames of the
    file are followed. A merge is told by what it changed beside its first parent, yet costs only
    what neither side had.
    """
    commits = of_file(path, revisions, cwd, count)
    text = reader(session)
    seen: set[ObjectRange] = set()
    steps = []
    for commit in reversed(commits):
        step = _step(commit, text, globs, seen)
        if step.changes or not globs:
            steps.append(step)
    noted = of_commits(session, [step.commit.oid for step in steps])
    return [replace(step, metrics=noted.get(step.commit.oid, {})) for step in reversed(steps)]


def reader(session: Session) -> Callable[[str | None], bytes | None]:
    """Reads manifests by their blobs and keeps the last few; None for what is no manifest."""

    @lru_cache(maxsize=_KEPT)
    def read(blob: str | None) -> bytes | None:
        text = session.blobs.read(blob) if blob else None
        return text if text is not None and is_manifest(text) else None

    return read


def _step(
    commit: Commit,
    text: Callable[[str | None], bytes | None],
    globs: Sequence[str],
    seen: set[ObjectRange],
) -> Step:
    old, new = text(commit.old_blob), text(commit.blob)
    if new is None and commit.blob is not None:
        return Step(commit, None, (), problem="not stored by Git-Theta here")
    try:
        found = compare_texts(old, new)
    except ManifestError as error:
        return Step(commit, None, (), problem=f"its manifest cannot be read: {error}")
    changes = select(found.changes, globs)
    fresh = _new_ranges(found, changes if globs else found.changes, not globs) - seen
    seen |= _new_ranges(found, found.changes, True)
    tensors = sum(
        change.new.nbytes for change in changes if change.new and change.kind != "renamed"
    )
    return Step(commit, found, tuple(changes), tensors, sum(place.length for place in fresh))


def _new_ranges(
    found: Comparison, changes: Sequence[TensorChange], skeleton: bool
) -> set[ObjectRange]:
    """The ranges of objects that the new version needs and the old one did not."""
    old = {place for change in found.changes if change.old for place in change.old.ranges}
    new = {place for change in changes if change.new for place in change.new.ranges}
    if skeleton and found.new:
        new |= set(found.new.skeleton.ranges)
        old |= set(found.old.skeleton.ranges) if found.old else set()
    return new - old
