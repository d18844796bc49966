"""resolve: go on with a model that git left in conflict, for all of its tensors or some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from git_theta.core.manifest import Manifest
from git_theta.core.names import display
from git_theta.errors import UsageError
from git_theta.git.history import listing
from git_theta.git.writing.merge_trees import merged_mode
from git_theta.workflows.merging.auxiliary import OfCommits, left_behind, rules_for, tracked_for
from git_theta.workflows.merging.decisions import planned
from git_theta.workflows.merging.merge import merge
from git_theta.workflows.merging.merge_rules import Rules
from git_theta.workflows.merging.outcome import Merged
from git_theta.workflows.merging.state import MergeState
from git_theta.workflows.restoring import checkout
from git_theta.workflows.session import Session


def conflicted(
    session: Session, pathspecs: Sequence[str], cwd: Path
) -> dict[str, tuple[Manifest | None, Manifest, Manifest]]:
    """The models in conflict that ``pathspecs`` match (none: all): path → base, ours, theirs.

    :class:`UsageError` when there is none, or a pathspec matches nothing.
    """
    found: dict[str, tuple[Manifest | None, Manifest, Manifest]] = {}
    others = []
    for path, blobs in listing.unmerged(pathspecs or [":/"], cwd).items():
        base, ours, theirs = (
            session.manifest(blobs[stage].blob) if stage in blobs else None for stage in (1, 2, 3)
        )
        if ours is not None and theirs is not None:
            found[path] = (base, ours, theirs)
        elif base is not None or ours is not None or theirs is not None:
            others.append((path, blobs))
    for path, blobs in others:
        session.warn(_beyond(path, sorted(blobs)))
    if others and not found:
        raise UsageError("no model is in conflict that could be merged by tensor")
    if not found:
        where = f" at {', '.join(map(display, pathspecs))}" if pathspecs else ""
        raise UsageError(
            f"no tracked model is in conflict{where} ('git status' shows what is); if git gave up a"
            " merge of several branches, 'git theta merge A B C -s STRATEGY' merges their models"
        )
    unmatched = listing.unmatched(pathspecs, cwd)
    if unmatched:
        raise UsageError(f"nothing in the index matches {' '.join(map(display, unmatched))}")
    return found


def _beyond(path: str, stages: Sequence[int]) -> str:
    """Why tensors cannot settle the model at ``path``, of which the index has these ``stages``
    (base, ours, theirs), and what can.
    """
    whats = {
        (1,): "was renamed or deleted by both",
        (2,): "is here on our side only (renamed differently, or another kind of file, on theirs)",
        (3,): "is here on their side only (renamed differently, or another kind of file, on ours)",
        (1, 2): "was deleted by them and changed by us",
        (1, 3): "was deleted by us and changed by them",
    }
    what = whats.get(tuple(stages))
    if what is None:
        return (
            f"{display(path)} was committed without Git-Theta on one side; put the file you want"
            " there and 'git add' it"
        )
    return f"{display(path)} {what}; 'git add' keeps the file that is there, 'git rm' deletes it"


def resolve(
    session: Session,
    path: str,
    versions: tuple[Manifest | None, Manifest, Manifest],
    rules: Rules,
    siblings: OfCommits | None = None,
) -> Merged:
    """Apply ``rules`` to what is still open of the model at ``path``; finish it when nothing is
    left, else remember what is done.

    Finished means: in the index without conflict, and written to the working tree, and so are the
    statistics that follow the model. A file of statistics that is in conflict itself is merged as
    such (see :func:`~git_theta.workflows.merging.auxiliary.rules_for`).
    """
    base, ours, theirs = versions
    beside = tracked_for(session, path)
    if beside is not None:
        rules, siblings = rules_for(beside[1], rules, 2), None
    state = MergeState(session.repository)
    state.sweep()
    kept = state.load(path, planned(base, [ours, theirs]))
    merged = merge(session, path, base, [ours, theirs], rules, kept, siblings)
    session.store.flush()
    if merged.manifest is None:
        state.save(path, merged.plan, merged.progress)
        return merged
    finish(session, path, merged.manifest)
    if siblings is not None:
        _stage_statistics(
            session,
            left_behind(
                session, path, merged, siblings, lambda place: session.manifest(f":0:{place}")
            ),
        )
    state.forget(path)
    return merged


def _stage_statistics(session: Session, files: Mapping[str, Manifest]) -> None:
    """Stage and write the statistics of a model that is resolved; files that the user has changed
    meanwhile stay as they are.
    """
    session.store.flush()
    for place, manifest in files.items():
        entry = listing.staged(place, session.repository.worktree)
        if entry is not None and listing.is_modified(place, session.repository.worktree):
            session.warn(
                f"{display(place)} was changed in the working tree, so it does not follow the"
                " model; 'git add' it as it is"
            )
            continue
        mode = entry.mode if entry is not None else "100644"
        checkout.stage(session, checkout.Target(place, manifest, mode == "100755"), mode)


def finish(session: Session, path: str, manifest: Manifest) -> None:
    """Put ``manifest`` into the index as the resolved version of ``path``, and the model into the
    working tree.
    """
    held = listing.unmerged([listing.literal(path)], session.repository.worktree).get(path, {})
    sides = {stage: (entry.mode, entry.blob) for stage, entry in held.items()}
    mode = (
        merged_mode(sides.get(1), [sides[stage] for stage in (2, 3) if stage in sides]) or "100644"
    )
    checkout.stage(session, checkout.Target(path, manifest, mode == "100755"), mode)
