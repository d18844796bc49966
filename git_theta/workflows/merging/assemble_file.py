"""The last step of a merge, assemble: entries become the merged file's manifest, or what is left to
the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from git_theta.core.manifest import Entry, Manifest
from git_theta.errors import ThetaError
from git_theta.merges.finish import File, choose_file, finish, same_values
from git_theta.merges.items import MergePlan, listed
from git_theta.workflows.merging.decisions import Decisions, Task, taken_side
from git_theta.workflows.merging.merge_rules import MergeRule, Rules, literal
from git_theta.workflows.merging.outcome import Merged, MergeProgress, conflict
from git_theta.workflows.merging.store_results import Stored
from git_theta.workflows.session import Session

Beside = Mapping[str, Sequence[Manifest | None]]


@dataclass(frozen=True, slots=True)
class Results:
    """What became of the tasks of a merge: a stored tensor, or the reason that leaves it to the
    user; and the companion files that strategies read, per statistic and side.
    """

    tasks: tuple[tuple[Task, Stored | str], ...] = ()
    statistics: Beside = field(default_factory=dict)


def assemble(session: Session, path: str, decisions: Decisions, results: Results) -> Merged:
    """The outcome of merging the model at ``path``; with a manifest if nothing is left open."""
    plan, rules = decisions.plan, decisions.rules
    by_name = rules.by_name or decisions.progress.by_name
    settled = [(task, found) for task, found in results.tasks if isinstance(found, Stored)]
    progress = replace(_progress(decisions.progress, settled), by_name=by_name)
    conflicts = [
        *decisions.conflicts,
        *(conflict(task.item, why) for task, why in results.tasks if isinstance(why, str)),
    ]
    problems, notices = _formats(plan, by_name)
    notices = [*_told(settled), *notices]
    if plan.skeleton.conflict and not (rules.rest or decisions.progress.resolved):
        problems.append("the file has no tensors and changed on several sides")
    manifest = None
    if not conflicts and not problems:
        entries, file = _content(replace(decisions, progress=progress))
        notices += [file.notice] if file.notice else []
        try:
            manifest = _manifest(session, path, plan, entries, file)
        except ThetaError as error:
            problems.append(f"the merged file cannot be built: {error}")
        else:
            manifest = replace(manifest, headers=_recipe(plan, progress, results.statistics))
    told = (*plan.notices(progress.resolved), *notices)
    return Merged(manifest, progress, tuple(conflicts), tuple(problems), told, plan)


def _progress(before: MergeProgress, settled: Sequence[tuple[Task, Stored]]) -> MergeProgress:
    """``before``, and what strategies settled."""
    statistics = {name: dict(entries) for name, entries in before.statistics.items()}
    for task, found in settled:
        for name, entry in found.statistics.items():
            statistics.setdefault(name, {})[task.item.name] = entry.seal()
    entries = {task.item.name: found.entry.seal() for task, found in settled}
    return replace(
        before,
        resolved={**before.resolved, **entries},
        used={**before.used, **{task.item.name: task.rule for task, _ in settled}},
        statistics=statistics,
    )


def _told(settled: Sequence[tuple[Task, Stored]]) -> list[str]:
    """What a user should hear about the tensors that strategies merged."""
    notices = [notice for _, found in settled for notice in found.notices]
    averaged: dict[str, list[str]] = {}
    for task, found in settled:
        if found.averaged:
            averaged.setdefault(task.rule.strategy, []).append(task.item.name)
    for strategy, names in averaged.items():
        what = f"cannot be negative, so averaged where {strategy} could make it so"
        notices.append(f"{what}: {listed(names)}")
    return notices


def _formats(plan: MergePlan, by_name: bool) -> tuple[list[str], list[str]]:
    """What keeps sides of different formats from being merged, in words; and a notice if they are
    merged by tensor name.
    """
    if not plan.format_conflict:
        return [], []
    formats = sorted({side.format for side in plan.sides})
    what = f"the sides are files of different formats ({', '.join(formats)})"
    unknown = [form for form in formats if form in plan.formats.runs]
    if unknown:
        problem = (
            f"{what}, and the tensors of {unknown[0]} files are not known; take one side whole"
        )
        return [problem], []
    if not by_name:
        problem = (
            f"{what}; 'git theta resolve --by-name' merges them by tensor name; or take one side"
            " whole"
        )
        return [problem], []
    form = plan.sides[plan.skeleton.source].format
    return [], [f"{what}, merged by tensor name; the result is {form}"]


def _content(decisions: Decisions) -> tuple[tuple[Entry, ...], File]:
    """The merged file's tensors, and whose other content they get."""
    plan, taken = decisions.plan, taken_side(decisions)
    entries = finish(plan, decisions.progress.resolved)
    if taken is not None and same_values(entries, plan.version(taken).entries):
        entries = plan.version(taken).entries  # tied as there
    return entries, choose_file(plan, entries, taken)


def _manifest(
    session: Session, path: str, plan: MergePlan, entries: tuple[Entry, ...], file: File
) -> Manifest:
    """A side's skeleton around ``entries``, or a new file that the format builds.

    :class:`ThetaError` if it cannot be built.
    """
    side = plan.version(file.source)
    if not file.build:
        named = {entry.name: entry for entry in entries}
        ordered = tuple(named[old.name] for old in side.entries)
        return Manifest(side.format, side.size, side.skeleton, ordered, {})
    from git_theta.workflows.merging.merged_file import built

    return built(session, path, side.format, entries, side, plan.sides)


def _recipe(plan: MergePlan, progress: MergeProgress, statistics: Beside) -> dict[str, object]:
    """The headers with everything needed to compute the conflicts' values again."""
    if not progress.used:
        return {}
    recipe: dict[str, object] = {
        "rules": _recorded(progress.used),
        "sides": [side.identity for side in plan.sides],
    }
    if plan.base is not None:
        recipe["base"] = plan.base.identity
    beside = {
        name: [manifest.identity if manifest else None for manifest in found]
        for name, found in statistics.items()
        if any(found)
    }
    if beside:
        recipe["statistics"] = beside
    by_hand = sorted(name for name in progress.resolved if name not in progress.used)
    if by_hand:
        recipe["kept"] = by_hand
    return {"merge": recipe}


def _recorded(used: Mapping[str, MergeRule]) -> list[dict[str, object]]:
    """Rules by which every tensor of ``used`` is merged as it was: those that were followed, behind
    ones for the exceptions.
    """
    rules: list[MergeRule] = []
    for rule in used.values():
        if rule not in rules:
            rules.append(rule)
    followed = Rules(tuple(rules))
    odd = [
        replace(rule, params=literal(name))
        for name, rule in used.items()
        if followed.rule([name]) != rule
    ]
    return [rule.dump() for rule in (*odd, *rules)]
