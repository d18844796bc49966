"""merge: several versions of a model become one.

A tensor goes five steps, with values between them: plan (:mod:`.decisions`), load
(:mod:`.load_inputs`), compute (:mod:`git_theta.merges.compute`), store (:mod:`.store_results`),
assemble (:mod:`.assemble_file`). Only what manifests and rules leave open is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from git_theta.core.contracts import taken_version
from git_theta.core.manifest import Manifest
from git_theta.errors import ThetaError
from git_theta.plugins import tables
from git_theta.workflows.merging.assemble_file import Results, assemble
from git_theta.workflows.merging.decisions import Decisions, Task, decide, planned
from git_theta.workflows.merging.load_inputs import gather, load
from git_theta.workflows.merging.merge_rules import Rules, strategy_of
from git_theta.workflows.merging.outcome import Merged, MergeProgress, Siblings
from git_theta.workflows.merging.store_results import Shelves, Stored, store
from git_theta.workflows.session import Session


def merge(
    session: Session,
    path: str,
    base: Manifest | None,
    sides: Sequence[Manifest],
    rules: Rules,
    kept: MergeProgress | None = None,
    siblings: Siblings | None = None,
) -> Merged:
    """Merge ``sides`` (the first is ours) of the model at ``path``.

    ``kept`` is what was settled before. Objects are stored but not flushed. Nothing is raised for a
    conflict or a strategy that cannot do its work: both leave the tensor to the user.
    """
    decisions = decide(planned(base, sides), rules, kept or MergeProgress())
    results = _run(session, decisions, siblings) if decisions.tasks else Results()
    return assemble(session, path, decisions, results)


def _run(session: Session, decisions: Decisions, siblings: Siblings | None) -> Results:
    """Load, compute and store what strategies merge, tensors side by side."""
    # These import numpy: most merges only compare digests
    from git_theta.merges.compute import compute
    from git_theta.workflows.merging.whole_model import prepared

    inputs = gather(session, decisions.plan, decisions.tasks, siblings)
    statistics = inputs.statistics or {}

    def run(task: Task) -> Stored | str:
        try:
            case = load(inputs, task)
            computed = compute(task.strategy, case, task.options, inputs.statistics is not None)
            del case  # storing needs memory, too
            return store(session, task.item, computed, statistics, shelves)
        except ThetaError as error:
            return str(error)  # an error would hold on to the arrays
        finally:
            shelves.done(task.item)

    tasks, refused = prepared(inputs, decisions.tasks)
    shelves = Shelves(session, decisions.plan, tasks, statistics)
    found = zip(tasks, session.pool().map(run, tasks), strict=True)
    return Results((*refused, *found), statistics)


def ancestor(
    session: Session, path: str, base: Manifest | None, versions: Sequence[Manifest], rules: Rules
) -> Manifest | None:
    """What the common ancestors of crossed histories are together, to merge their descendants
    against.

    What one of them changed is as it made it. What several did, a strategy that computes decides;
    what is left, or for a rule to take from one side, is as in ``base``, which came before them.
    Where that cannot be, it is ``base``.
    """
    picks = tuple(
        rule
        if taken_version(strategy_of(rule)) is None
        else replace(rule, strategy=tables.TAKES_BASE)
        for rule in rules.rules
    )
    merged = merge(session, path, base, versions, replace(rules, rules=picks))
    if merged.conflicts and not merged.problems:
        resolved = merged.resolved
        before = {
            item.name: item.base
            for item in merged.plan.items
            if item.conflict and not item.twin and item.name not in resolved
        }
        merged = merge(
            session,
            path,
            base,
            versions,
            rules,
            replace(merged.progress, resolved={**merged.resolved, **before}),
        )
    return base if merged.manifest is None else replace(merged.manifest, headers={})
