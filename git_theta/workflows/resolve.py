"""resolve: go on with a model that git left in conflict, for all of its tensors or some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from git_theta.core.manifest import Manifest
from git_theta.core.names import display
from git_theta.errors import UsageError
from git_theta.git.command import run
from git_theta.git.index import stages
from git_theta.git.merging import merged_mode
from git_theta.workflows import checkout
from git_theta.workflows.merge import Merged, merge, planned
from git_theta.workflows.merge_rules import Rules
from git_theta.workflows.merge_state import MergeState
from git_theta.workflows.merge_statistics import Siblings, left_behind
from git_theta.workflows.session import Session


def conflicted(session: Session, pathspecs: Sequence[str], cwd: Path) -> dict[str, tuple[Manifest | None, Manifest, Manifest]]:
    """The models in conflict that ``pathspecs`` match (none: all): path → base, ours, theirs.

    :class:`UsageError` when there is none.
    """
    listing = run(["ls-files", "--unmerged", "-z", "--full-name", "--", *(pathspecs or [":/"])], cwd=cwd)
    found: dict[str, tuple[Manifest | None, Manifest, Manifest]] = {}
    others = []
    for path, blobs in stages(listing).items():
        base, ours, theirs = (session.manifest(blobs[stage][1]) if stage in blobs else None for stage in (1, 2, 3))
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
        raise UsageError(f"no tracked model is in conflict{where} ('git status' shows what is)")
    return found


def _beyond(path: str, stages: Sequence[int]) -> str:
    """Why tensors cannot settle the model at ``path``, of which the index has these ``stages`` (base, ours, theirs), and what can."""
    whats = {
        (1,): "was renamed or deleted by both",
        (2,): "is here on our side only (renamed differently, or another kind of file, on theirs)",
        (3,): "is here on their side only (renamed differently, or another kind of file, on ours)",
        (1, 2): "was deleted by them and changed by us",
        (1, 3): "was deleted by us and changed by them",
    }
    what = whats.get(tuple(stages))
    if what is None:
        return f"{display(path)} was committed without Git-Theta on one side; put the file you want there and 'git add' it"
    return f"{display(path)} {what}; 'git add' keeps the file that is there, 'git rm' deletes it"


def resolve(
    session: Session,
    path: str,
    versions: tuple[Manifest | None, Manifest, Manifest],
    rules: Rules,
    siblings: Siblings | None = None,
) -> Merged:
    """Apply ``rules`` to what is still open of the model at ``path``; finish it when nothing is left, else remember what is done.

    Finished means: in the index without conflict, and written to the working tree.
    """
    base, ours, theirs = versions
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
        for place, manifest in left_behind(session, path, merged, siblings).items():
            session.store.flush()
            checkout.stage(session, checkout.Target(place, manifest, False), "100644")
    state.forget(path)
    return merged


def finish(session: Session, path: str, manifest: Manifest) -> None:
    """Put ``manifest`` into the index as the resolved version of ``path``, and the model into the working tree."""
    listing = stages(run(["ls-files", "--unmerged", "-z"], cwd=session.repository.worktree)).get(path, {})
    mode = merged_mode(listing.get(1), [listing[stage] for stage in (2, 3) if stage in listing]) or "100644"
    checkout.stage(session, checkout.Target(path, manifest, mode == "100755"), mode)
