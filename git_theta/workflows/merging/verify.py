"""verify-merge: compute a recorded merge again from its inputs and compare, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from git_theta.core.contracts import is_reproducible
from git_theta.core.manifest import Entry, Manifest
from git_theta.errors import GitError, ThetaError, UsageError
from git_theta.git.history import commits, listing, revisions
from git_theta.git.writing.merge_trees import commit, common_bases
from git_theta.workflows import chains
from git_theta.workflows.merging.auxiliary import sibling
from git_theta.workflows.merging.merge import merge
from git_theta.workflows.merging.merge_branches import before_all
from git_theta.workflows.merging.merge_rules import MergeRule, Rules, rule, strategy_of
from git_theta.workflows.merging.outcome import MergeProgress, Siblings
from git_theta.workflows.session import Session
from git_theta.workflows.sharing.fetch import fetch_missing

_CANDIDATES = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """One model of a commit: whether its recorded merge gives its tensors again; if not, which
    differ, or why it cannot be told.

    ``tolerance``: a strategy had a part that is not the same to the last bit on every machine.
    """

    path: str
    same: bool
    differing: tuple[str, ...] = ()
    problem: str = ""
    tolerance: bool = False


def verify(session: Session, revision: str) -> list[Verdict]:
    """Verify every model of commit ``revision`` whose manifest records a merge; empty when none
    does.
    """
    verdicts = []
    for entry in listing.tree(commit(revision)):
        manifest = session.manifest(entry.blob) if entry.is_blob else None
        if manifest is not None and "merge" in manifest.headers:
            verdicts.append(_verify(session, revision, entry.path, manifest))
    return verdicts


def _verify(session: Session, revision: str, path: str, manifest: Manifest) -> Verdict:
    try:
        recipe = manifest.headers["merge"]
        if not isinstance(recipe, dict) or not isinstance(recipe.get("rules"), list):
            raise UsageError("its recipe is not one this release writes")
        rules = Rules(
            tuple(rule(row["strategy"], row["options"], row["params"]) for row in recipe["rules"]),
            "recipe",
            by_name=True,
        )
        joined = _joined_ancestors(session, revision, path, recipe.get("base"), rules)
        wanted = [
            *recipe["sides"],
            *([recipe["base"]] if "base" in recipe and joined is None else []),
        ]
        found = _inputs(session, revision, path, wanted)
        base = joined if joined is not None or "base" not in recipe else found[recipe["base"]]
        sides = [found[identity] for identity in recipe["sides"]]
        kept = MergeProgress({name: manifest.by_name.get(name) for name in recipe.get("kept", [])})
        again = merge(
            session, path, base, sides, rules, kept, _statistics(session, revision, path, recipe)
        )
    except (KeyError, TypeError, AttributeError):
        return Verdict(path, False, problem="its recipe is not one this release writes")
    except ThetaError as error:
        return Verdict(path, False, problem=str(error))
    if again.manifest is None:
        session.store.discard()
        reasons = [*again.problems, *(conflict.reason for conflict in again.conflicts)]
        return Verdict(
            path, False, problem=reasons[0] if reasons else "it cannot be computed again"
        )
    theirs = again.manifest.by_name
    names = sorted({*theirs, *manifest.by_name})
    differing = [n for n in names if _digest(theirs, n) != _digest(manifest.by_name, n)]
    near = [n for n in differing if _near(session, rules, theirs.get(n), manifest.by_name.get(n))]
    session.store.discard()
    left = tuple(name for name in differing if name not in near)
    return Verdict(
        path, not left, left, tolerance=bool(near) or any(not _reproducible(r) for r in rules.rules)
    )


def _joined_ancestors(
    session: Session, revision: str, path: str, identity: str | None, rules: Rules
) -> Manifest | None:
    """The base that no commit holds: what several common ancestors of the merged commits are
    together.

    Git may have taken them in the other order, and before anybody chose a strategy.
    """
    parents = revisions.parents(commit(revision))
    bases = common_bases(parents) if len(parents) > 1 else []
    ways = (
        [(order, chosen) for chosen in (rules, Rules()) for order in (bases, bases[::-1])]
        if len(bases) > 1
        else []
    )
    for order, chosen in ways:
        joined = before_all(session, path, order, lambda _, chosen=chosen: chosen)  # type: ignore[misc]  # a default
        if joined is not None and joined.identity == identity:
            return joined
    return None


def _reproducible(rule: MergeRule) -> bool:
    return is_reproducible(strategy_of(rule))


def _near(session: Session, rules: Rules, one: Entry | None, other: Entry | None) -> bool:
    """Whether two values are those of one merge by a strategy that is not the same on every
    machine.
    """
    rule = rules.rule((one.name, *one.aliases)) if one is not None else None
    if (
        one is None
        or other is None
        or rule is None
        or one.spec != other.spec
        or _reproducible(rule)
    ):
        return False
    from git_theta.merges.check import same_merge

    fetch_missing(session, [Manifest("none", 0, one, (one, other), {})])
    try:
        arrays = [chains.load(session.store, entry).array() for entry in (other, one)]
    except ThetaError:
        return False
    return same_merge(strategy_of(rule), *arrays)


def _statistics(session: Session, revision: str, path: str, recipe: Mapping[str, Any]) -> Siblings:
    """The statistics that the recipe names, from the history of their files."""
    found: dict[str, list[Manifest | None]] = {}
    for statistic, wanted in recipe.get("statistics", {}).items():
        known = _inputs(
            session,
            revision,
            sibling(path, statistic),
            [identity for identity in wanted if identity],
        )
        found[statistic] = [known[identity] if identity else None for identity in wanted]
    return lambda statistic: found.get(statistic, [None] * len(recipe["sides"]))


def _digest(table: Mapping[str, object], name: str) -> object:
    return getattr(table.get(name), "digest", None)


def _inputs(
    session: Session, revision: str, path: str, wanted: Sequence[str]
) -> dict[str, Manifest]:
    """The manifests with the identities ``wanted``, looked for in the history that leads to
    ``revision`` and in its own versions.
    """
    found: dict[str, Manifest] = {}
    # Under this name, or another one: a side may have renamed the file
    for paths in ([listing.literal(path)], []):
        for blob in commits.blobs(revision, paths, _CANDIDATES):
            if all(identity in found for identity in wanted):
                return found
            manifest = session.manifest(blob)
            if manifest is not None and manifest.identity in wanted:
                found[manifest.identity] = manifest
    if any(identity not in found for identity in wanted):
        raise GitError(
            "its inputs are not in the history any more (a squash or rebase may have dropped them)"
        )
    return found
