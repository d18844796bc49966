"""git's merge driver: three manifests in, one out.

Used by merge, rebase, cherry-pick, revert, stash pop and merge-tree alike.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from git_theta.core.manifest import Manifest, is_manifest, parse
from git_theta.core.names import display
from git_theta.errors import ThetaError
from git_theta.git.config.config_file import load_settings
from git_theta.git.history import revisions
from git_theta.git.repository import discover
from git_theta.git.writing.merge_trees import common_bases
from git_theta.merges.items import MergePlan
from git_theta.terminal.bars import Bars
from git_theta.workflows.merging import merge_rules
from git_theta.workflows.merging.auxiliary import OfCommits, merge_file, rules_for, tracked_for
from git_theta.workflows.merging.decisions import planned
from git_theta.workflows.merging.merge import ancestor, merge
from git_theta.workflows.merging.outcome import Merged, MergeProgress, describe
from git_theta.workflows.restoring.statcache import StatCache
from git_theta.workflows.session import Session

ENVIRONMENT = "GIT_THETA_MERGE"


def main(base: str, ours: str, theirs: str, path: str, *, ancestors: bool = False) -> int:
    """Merge the files ``base``, ``ours`` and ``theirs`` into ``ours``; 0 when it is clean, 1 for a
    conflict, which leaves ours.

    ``ancestors``: the sides are common ancestors of what git merges after that, in a history that
    crossed; nobody is told of conflicts. :class:`ThetaError` never leaves this function: whatever
    goes wrong is a conflict, with a line that says why.
    """
    try:
        with Session(discover(), load_settings(), _say, progress=Bars()) as session:
            session.require_release()
            versions = [_read(file) for file in (base, ours, theirs)]
            return (_merge_ancestors if ancestors else _merge)(session, path, versions, Path(ours))
    except ThetaError as error:
        _say(f"{display(path)}: {error}")
        return 1


def _merge(
    session: Session, path: str, versions: Sequence[Manifest | str | None], target: Path
) -> int:
    base, ours, theirs = versions
    if isinstance(base, str) or not isinstance(ours, Manifest) or not isinstance(theirs, Manifest):
        reasons = [version for version in versions if isinstance(version, str)] or [
            "one side is empty"
        ]
        _say(
            f"{display(path)}: cannot be merged by tensor: {reasons[0]}; check out the side you"
            " want and 'git add' it"
        )
        return 1
    beside = tracked_for(session, path)
    if beside is not None:
        model = _plan_of_model(session, beside[0], path, (base, ours, theirs))
        merged = merge_file(
            session, path, base, [ours, theirs], find_rules(session, beside[0], os.environ), model
        )
    else:
        merged = merge(
            session,
            path,
            base,
            [ours, theirs],
            find_rules(session, path, os.environ),
            siblings=siblings(session, path),
        )
    for notice in merged.notices:
        _say(f"{display(path)}: {notice}")
    if merged.statistics:
        names = ", ".join(sorted(merged.statistics))
        _say(
            f"{display(path)}: the {names} kept beside it stays as it was; 'git theta merge' and"
            " 'git theta resolve' update it"
        )
    if merged.manifest is None:
        _leave_conflict(session, path, merged)
        return 1
    session.store.flush()
    text = session.hand_out(merged.manifest)
    target.write_bytes(text)
    StatCache(session.repository.cache).expect(path, text)
    return 0


def _merge_ancestors(
    session: Session, path: str, versions: Sequence[Manifest | str | None], target: Path
) -> int:
    base, ours, theirs = versions
    if isinstance(base, str) or not isinstance(ours, Manifest) or not isinstance(theirs, Manifest):
        return 1
    beside = tracked_for(session, path)
    rules = find_rules(session, path if beside is None else beside[0], os.environ)
    found = ancestor(
        session,
        path,
        base,
        [ours, theirs],
        rules if beside is None else rules_for(beside[1], rules, 2),
    )
    session.store.flush()
    if found is not None:
        target.write_bytes(session.hand_out(found))
    return 0 if found is not None else 1


def _leave_conflict(session: Session, path: str, merged: Merged) -> None:
    if session.repository.worktree is not None:
        from git_theta.workflows.merging.state import MergeState

        state = MergeState(session.repository)
        if merged.resolved or merged.progress.by_name:
            session.store.flush()
            state.save(path, merged.plan, merged.progress)
        elif state.load(path, merged.plan) != MergeProgress():
            state.forget(path)  # of the same merge, which was aborted
    for line in describe(path, merged):
        _say(line)


def _read(file: str) -> Manifest | str | None:
    """The manifest in a file of git's; None for an empty one (there is no such version); words for
    anything else.
    """
    content = Path(file).read_bytes()
    if not content:
        return None
    if not is_manifest(content):
        return "one version was committed without Git-Theta"
    return parse(content)


def find_rules(session: Session, path: str, environment: Mapping[str, str]) -> merge_rules.Rules:
    """The rules for the model at ``path``: those of 'git theta merge', a committed
    ``.theta.toml``'s, ``theta.merge.strategy``.
    """
    return merge_rules.complete(session, path, given_rules(environment))


def given_rules(environment: Mapping[str, str]) -> merge_rules.Rules:
    """The rules that 'git theta merge' was given; none, with room for further ones, where git was
    called without it.
    """
    given = environment.get(ENVIRONMENT, "")
    return merge_rules.load(given, "git theta merge") if given else merge_rules.Rules(further=True)


def siblings(session: Session, path: str) -> OfCommits:
    """Companion statistics of the model, as ours and theirs have them in git's current merge."""
    theirs = _head()
    known = [theirs] if theirs else []
    return OfCommits(
        session,
        path,
        (("HEAD",), (*known, "MERGE_HEAD", "CHERRY_PICK_HEAD", "REBASE_HEAD", "REVERT_HEAD^")),
    )


def _head() -> str:
    """The one commit that ``git merge`` merges; nothing if git does something else, or merges
    several.
    """
    theirs = [name.removeprefix("GITHEAD_") for name in os.environ if name.startswith("GITHEAD_")]
    return theirs[0] if len(theirs) == 1 else ""


def _plan_of_model(
    session: Session, path: str, statistics: str, versions: Sequence[Manifest | None]
) -> MergePlan | None:
    """The plan of merging the model at ``path``, whose statistics git merges; None unless it is
    sure which commits git merges.
    """
    theirs = _head()
    bases = common_bases(["HEAD", theirs], session.cwd) if theirs else []
    if len(bases) != 1:
        return None
    names = (bases[0], "HEAD", theirs)
    known = [session.manifest(f"{name}:{statistics}") for name in names]
    base, *sides = (session.manifest(f"{name}:{path}") for name in names)
    present = [side for side in sides if side is not None]
    if list(map(_identity, known)) != list(map(_identity, versions)) or len(present) < 2:
        return None
    return planned(base, present)


def _identity(manifest: Manifest | None) -> str:
    return manifest.identity if manifest is not None else ""


def stopped_siblings(session: Session, path: str) -> OfCommits:
    """As :func:`siblings`, with the common ancestor's, when git has stopped at a conflict."""
    merging = revisions.find("MERGE_HEAD", where=session.cwd) is not None
    merged = common_bases(["HEAD", "MERGE_HEAD"], session.cwd)[:1] if merging else []
    return replace(
        siblings(session, path), bases=(*merged, "CHERRY_PICK_HEAD^", "REBASE_HEAD^", "REVERT_HEAD")
    )


def _say(message: str) -> None:
    print(f"git-theta: {message}", file=sys.stderr)
