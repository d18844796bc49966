"""Merging whole commits: which models conflict between them, and the one tree that several branches
make.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from git_theta.core.manifest import Manifest
from git_theta.core.names import display
from git_theta.errors import GitError, MergeError
from git_theta.git.writing import merge_trees, plumbing
from git_theta.merges.items import MergePlan
from git_theta.workflows.merging.auxiliary import (
    OfCommits,
    left_behind,
    merge_file,
    of_model,
    rules_for,
)
from git_theta.workflows.merging.decisions import planned
from git_theta.workflows.merging.merge import ancestor, merge
from git_theta.workflows.merging.merge_rules import Rules
from git_theta.workflows.merging.outcome import Merged, MergeProgress, describe
from git_theta.workflows.session import Session, scratch_index


@dataclass(frozen=True, slots=True)
class BranchModel:
    """One tracked model as the commits to merge have it; ``sides`` in the commits' order, all
    present.
    """

    path: str
    mode: str
    base: Manifest | None
    sides: tuple[Manifest, ...]
    commits: tuple[str, ...]


def models(
    session: Session, commits: Sequence[str], rules: Callable[[str], Rules]
) -> list[BranchModel]:
    """The models that more than one of ``commits`` changed, each differently from another, since
    their common ancestor.

    Files of statistics are not among them: they follow their model (:func:`statistics`). If
    histories crossed, there are several ancestors: then ``rules`` (of the model at a path) tell
    what their merge is.
    """
    bases = merge_trees.common_bases(commits, session.cwd)
    before = [merge_trees.blobs(base, session.cwd) for base in bases]
    listings = [merge_trees.blobs(commit, session.cwd) for commit in commits]
    found = []
    beside = _beside(listings)
    for path in dict.fromkeys(path for listing in listings for path in listing):
        if path in beside:
            continue
        versions = [listing.get(path) for listing in listings]
        earlier = {listing.get(path) for listing in before}
        agreed = earlier if len(earlier) == 1 else set()
        changed = {version for version in versions if version is not None and version not in agreed}
        if len(changed) < 2 or any(version is None for version in versions):
            continue
        sides = [session.manifest(version[1]) for version in versions if version is not None]
        present = tuple(side for side in sides if side is not None)
        if len(present) == len(versions):
            mode = merge_trees.merged_mode(
                next(iter(agreed), None), [version for version in versions if version is not None]
            )
            found.append(
                BranchModel(
                    path, mode, before_all(session, path, bases, rules), present, tuple(commits)
                )
            )
    return found


def before_all(
    session: Session, path: str, bases: Sequence[str], rules: Callable[[str], Rules]
) -> Manifest | None:
    """The model at ``path`` as the commits ``bases`` have it: where they differ, what their own
    merge makes of it.
    """
    versions: dict[str, Manifest] = {}
    for base in bases:
        manifest = session.manifest(f"{base}:{path}")
        if manifest is not None:
            versions.setdefault(manifest.identity, manifest)
    if len(versions) < 2:
        return next(iter(versions.values()), None)
    older = before_all(session, path, merge_trees.common_bases(bases, session.cwd), rules)
    found = ancestor(session, path, older, list(versions.values()), rules(path))
    session.store.flush()
    return found


def statistics(
    session: Session,
    commits: Sequence[str],
    merged: Mapping[str, Merged],
    rules: Callable[[str], Rules],
) -> dict[str, tuple[str, Manifest]]:
    """The files of statistics that merging ``commits`` gives: path → mode, manifest.

    ``merged``: the models that were merged, by path.

    A file that one commit lacks is left to git, unless a strategy computed it. :class:`MergeError`
    names what cannot be merged.
    """
    listings = [merge_trees.blobs(commit, session.cwd) for commit in commits]
    bases = merge_trees.common_bases(commits, session.cwd)
    files: dict[str, tuple[str, Manifest]] = {}
    for place, (path, statistic) in _beside(listings).items():
        versions = [listing[place] for listing in listings if place in listing]
        sides = [
            side for side in (session.manifest(blob) for _, blob in versions) if side is not None
        ]
        if len(sides) < len(commits) or (path not in merged and len(set(versions)) < 2):
            continue
        base = before_all(
            session, place, bases, partial(_rules_before, rules(path), statistic, len(bases))
        )
        model = merged.get(path)
        known = (
            (model.plan, model.progress)
            if model is not None
            else (_plan(session, path, bases, commits, rules), MergeProgress())
        )
        result = merge_file(session, place, base, sides, rules(path), *known)
        if result.manifest is None:
            raise MergeError(" ".join(line.strip() for line in describe(place, result)[:-2]))
        files[place] = merge_trees.merged_mode(None, versions), result.manifest
    for path, outcome in merged.items():
        left = left_behind(
            session,
            path,
            outcome,
            siblings(session, path, commits, bases),
            lambda place: files.get(place, ("", None))[1],
        )
        files.update(
            {
                place: (files.get(place, ("100644",))[0], manifest)
                for place, manifest in left.items()
            }
        )
    return files


def _plan(
    session: Session,
    path: str,
    bases: Sequence[str],
    commits: Sequence[str],
    rules: Callable[[str], Rules],
) -> MergePlan | None:
    """The plan of merging the model at ``path``, which git can merge by itself."""
    found = [session.manifest(f"{commit}:{path}") for commit in commits]
    sides = [side for side in found if side is not None]
    if len(sides) < len(commits):
        return None
    return planned(before_all(session, path, bases, rules), sides)


def tracks_statistics(session: Session, commits: Sequence[str]) -> bool:
    """Whether files of statistics lie beside models in ``commits``: git's own merge would not have
    them follow.
    """
    return bool(_beside([merge_trees.blobs(commit, session.cwd) for commit in commits]))


def _rules_before(rules: Rules, statistic: str, count: int, _: str) -> Rules:
    return rules_for(statistic, rules, count)


def _beside(listings: Sequence[Mapping[str, object]]) -> dict[str, tuple[str, str]]:
    """The files of statistics in ``listings``, each with the path of its model, which all listings
    have, and the statistic.
    """
    every = dict.fromkeys(path for listing in listings for path in listing)
    found = {path: of_model(path) for path in every}
    return {
        path: named
        for path, named in found.items()
        if named is not None and all(named[0] in listing for listing in listings)
    }


def siblings(
    session: Session, path: str, commits: Sequence[str], bases: Sequence[str] = ()
) -> OfCommits:
    """Statistics tracked beside the model at ``path``, as each of ``commits`` has them."""
    return OfCommits(session, path, tuple((commit,) for commit in commits), tuple(bases[:1]))


def merge_model(session: Session, model: BranchModel, rules: Rules) -> Merged:
    """Merge one model of several commits."""
    session.require_release()
    return merge(
        session,
        model.path,
        model.base,
        model.sides,
        rules,
        siblings=siblings(session, model.path, model.commits),
    )


def merged_tree(
    session: Session, commits: Sequence[str], merged: Mapping[str, tuple[str, Manifest]]
) -> str:
    """The tree of merging all ``commits``: models as given (path → mode, manifest), every other
    file as git merges it, in turn.

    :class:`GitError` naming the files that conflict.
    """
    if merged:
        session.require_release()
    changes = {}
    for path, (mode, manifest) in merged.items():
        changes[path] = (mode, plumbing.blob(session.hand_out(manifest), session.cwd))
    # In every commit the models are replaced by the result, so that git sees the same change on all
    # sides.
    scratch = scratch_index(session)
    try:
        trees = [
            merge_trees.with_blobs(commit, changes, scratch, session.cwd) for commit in commits
        ]
    finally:
        scratch.unlink(missing_ok=True)
    heads = [
        merge_trees.scratch_commit(tree, [commit], session.cwd)
        for tree, commit in zip(trees, commits, strict=True)
    ]
    result, tree = heads[0], trees[0]
    for head in heads[1:]:
        tree, conflicts = merge_trees.merge_trees(result, head, session.cwd)
        if conflicts:
            shown = ", ".join(display(path, 80) for path in conflicts[:5]) + (
                ", …" if len(conflicts) > 5 else ""
            )
            raise GitError(
                f"{len(conflicts)} other files conflict ({shown}); merge these branches one after"
                " the other"
            )
        result = merge_trees.scratch_commit(tree, [result, head], session.cwd)
    return tree
