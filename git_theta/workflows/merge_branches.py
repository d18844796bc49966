"""Merging whole commits: which models conflict between them, and the one tree that several branches make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from git_theta.core.manifest import Manifest
from git_theta.core.names import display
from git_theta.errors import GitError
from git_theta.git import merging, writing
from git_theta.workflows.merge import Merged, ancestor, merge
from git_theta.workflows.merge_rules import Rules
from git_theta.workflows.merge_statistics import OfCommits
from git_theta.workflows.session import Session


@dataclass(frozen=True, slots=True)
class Model:
    """One tracked model as the commits to merge have it; ``sides`` in the commits' order, all present."""

    path: str
    mode: str
    base: Manifest | None
    sides: tuple[Manifest, ...]
    commits: tuple[str, ...]


def models(session: Session, commits: Sequence[str], rules: Callable[[str], Rules]) -> list[Model]:
    """The models that more than one of ``commits`` changed, each differently from another, since their common ancestor.

    Where histories crossed, there are several: then ``rules`` (of the model at a path) tell what their merge is.
    """
    bases = merging.common_bases(commits, session.cwd)
    before = [merging.blobs(base, session.cwd) for base in bases]
    listings = [merging.blobs(commit, session.cwd) for commit in commits]
    found = []
    for path in dict.fromkeys(path for listing in listings for path in listing):
        versions = [listing.get(path) for listing in listings]
        earlier = {listing.get(path) for listing in before}
        agreed = earlier if len(earlier) == 1 else set()
        changed = {version for version in versions if version is not None and version not in agreed}
        if len(changed) < 2 or any(version is None for version in versions):
            continue
        sides = [session.manifest(version[1]) for version in versions if version is not None]
        present = tuple(side for side in sides if side is not None)
        if len(present) == len(versions):
            mode = merging.merged_mode(next(iter(agreed), None), [version for version in versions if version is not None])
            found.append(Model(path, mode, before_all(session, path, bases, rules), present, tuple(commits)))
    return found


def before_all(session: Session, path: str, bases: Sequence[str], rules: Callable[[str], Rules]) -> Manifest | None:
    """The model at ``path`` as the commits ``bases`` have it: where they differ, what their own merge makes of it."""
    versions: dict[str, Manifest] = {}
    for base in bases:
        manifest = session.manifest(f"{base}:{path}")
        if manifest is not None:
            versions.setdefault(manifest.identity, manifest)
    if len(versions) < 2:
        return next(iter(versions.values()), None)
    older = before_all(session, path, merging.common_bases(bases, session.cwd), rules)
    found = ancestor(session, path, older, list(versions.values()), rules(path))
    session.store.flush()
    return found


def siblings(session: Session, model: Model) -> OfCommits:
    """Statistics tracked beside a model, as each of the merged commits has them."""
    return OfCommits(session, model.path, tuple((commit,) for commit in model.commits))


def merge_model(session: Session, model: Model, rules: Rules) -> Merged:
    """Merge one model of several commits."""
    return merge(session, model.path, model.base, model.sides, rules, siblings=siblings(session, model))


def merged_tree(session: Session, commits: Sequence[str], merged: Mapping[str, tuple[str, Manifest]]) -> str:
    """The tree of merging all ``commits``: models as given (path → mode, manifest), every other file as git merges it, in turn.

    :class:`GitError` naming the files that conflict.
    """
    changes = {}
    for path, (mode, manifest) in merged.items():
        changes[path] = (mode, writing.blob(session.hand_out(manifest), session.cwd))
    # In every commit the models are replaced by the result, so that git sees the same change on all sides.
    scratch = scratch_index(session)
    try:
        trees = [merging.with_blobs(commit, changes, scratch, session.cwd) for commit in commits]
    finally:
        scratch.unlink(missing_ok=True)
    heads = [merging.scratch_commit(tree, [commit], session.cwd) for tree, commit in zip(trees, commits, strict=True)]
    result, tree = heads[0], trees[0]
    for head in heads[1:]:
        tree, conflicts = merging.merge_trees(result, head, session.cwd)
        if conflicts:
            shown = ", ".join(display(path, 80) for path in conflicts[:5]) + (", …" if len(conflicts) > 5 else "")
            raise GitError(f"{len(conflicts)} other files conflict ({shown}); merge these branches one after the other")
        result = merging.scratch_commit(tree, [result, head], session.cwd)
    return tree


def scratch_index(session: Session) -> Path:
    """A fresh path for an index that is thrown away."""
    session.repository.cache.mkdir(parents=True, exist_ok=True)
    return session.repository.cache / f"merge-index-{session.store.temporary_path().name}"


def candidates(
    strategies: Sequence[str], words: Sequence[str], sweeps: Sequence[tuple[str, Sequence[str]]]
) -> Iterator[tuple[str, list[str]]]:
    """Every combination of a strategy and swept option values: (strategy, ``key=value`` words)."""
    from itertools import product

    for strategy in strategies:
        for values in product(*(steps for _, steps in sweeps)):
            yield strategy, [*words, *(f"{key}={value}" for (key, _), value in zip(sweeps, values, strict=True))]
