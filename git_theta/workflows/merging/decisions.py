"""The first step of a merge, plan: what becomes of each tensor, from manifests and rules alone.

What digests do not decide is taken from a side, left to the user, or a task for a strategy.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from git_theta.core.contracts import MergeCase, MergeStrategy, WholeModel, taken_version
from git_theta.core.manifest import Entry, Manifest
from git_theta.core.names import display
from git_theta.errors import MergeError
from git_theta.merges import options as merge_options
from git_theta.merges.items import BASE, ByteFormats, Item, MergePlan
from git_theta.merges.plan import plan
from git_theta.plugins import registry, tables
from git_theta.workflows.merging.merge_rules import MergeRule, Rules, strategy_of
from git_theta.workflows.merging.outcome import Conflict, MergeProgress, conflict


@dataclass(frozen=True, slots=True)
class Task:
    """A tensor that ``strategy`` is to merge, as ``rule`` says.

    ``options`` are those of the rule for the sides that are merged. ``case``: its values, if the
    strategy prepared whole models; else they are still to be loaded.
    """

    item: Item
    rule: MergeRule
    strategy: MergeStrategy
    options: dict[str, object]
    case: MergeCase | None = None


@dataclass(frozen=True, slots=True)
class Decisions:
    """What is decided of a merge before any tensor is read: what is settled (``progress``), left to
    the user (``conflicts``), and to compute (``tasks``).
    """

    plan: MergePlan
    rules: Rules
    progress: MergeProgress
    conflicts: tuple[Conflict, ...]
    tasks: tuple[Task, ...]


def planned(base: Manifest | None, sides: Sequence[Manifest]) -> MergePlan:
    """What digests decide of a merge of ``sides`` (the first is ours), with the units that plugins
    know, too.
    """
    runs = frozenset(side.format for side in sides if not registry.knows_tensors(side.format))
    formats = ByteFormats(runs, runs & {tables.FALLBACK_FORMAT})
    return plan(base, sides, registry.unit_kinds(), formats)


def decide(plan: MergePlan, rules: Rules, before: MergeProgress) -> Decisions:
    """Let ``rules`` decide every conflict that is not settled ``before``."""
    resolved, used = dict(before.resolved), dict(before.used)
    conflicts: list[Conflict] = []
    tasks: list[Task] = []
    counters = tuple(item for item in plan.items if item.kind == "counter")
    for item in (*plan.conflicts, *counters):
        if item.name in resolved:
            continue
        parts = plan.parts(item)
        rule = rules.rule([name for part in parts for name in (part.name, *part.aliases)])
        strategy = strategy_of(rule) if rule is not None else None
        problem = ""
        try:
            if rule is not None and strategy is not None and taken_version(strategy) is not None:
                values = _taken(plan, parts, strategy)
                resolved.update(values)
                used.update(dict.fromkeys(values, rule))
                continue
            if rule is not None and strategy is not None and item.conflict:
                tasks.append(_task(plan, item, rule, strategy))
                continue
        except MergeError as error:
            problem = str(error)
        if item.conflict:
            conflicts.append(conflict(item, problem))
    whole = [task for task in tasks if isinstance(task.strategy, WholeModel)]
    if whole:
        try:
            _check_alone(plan, rules, whole[0].rule, resolved)
        except MergeError as error:
            conflicts += [conflict(task.item, str(error)) for task in whole]
            tasks = [task for task in tasks if task not in whole]
    progress = replace(before, resolved=resolved, used=used)
    return Decisions(plan, rules, progress, tuple(conflicts), tuple(tasks))


def taken_side(decisions: Decisions) -> int | None:
    """The version from which all that several sides changed is taken, if it is one; the file's
    other content comes from there, too.
    """
    chosen = decisions.rules.rest
    if chosen is None:
        rules = [decisions.progress.used.get(item.name) for item in decisions.plan.conflicts]
        names = {rule.strategy if rule is not None else "" for rule in rules}
        chosen = rules[0] if len(names) == 1 else None
    if chosen is None or _absent(decisions.plan, strategy_of(chosen)):
        return None
    return taken_version(strategy_of(chosen))


def _taken(
    plan: MergePlan, items: Sequence[Item], strategy: MergeStrategy
) -> dict[str, Entry | None]:
    """The values of all ``items`` in the version that ``strategy`` takes, by name; None: it has no
    such tensor. :class:`MergeError` without such a version.
    """
    problem, version = _absent(plan, strategy), taken_version(strategy)
    if problem or version is None:
        raise MergeError(problem)
    known = plan.version(version).by_name
    found: dict[str, Entry | None] = {}
    for item in items:
        found[item.name] = item.base if version == BASE else item.sides[version]
        # The side may have several values for these names
        if item.kind in ("tied-apart", "unit"):
            found.update({name: known.get(name, found[item.name]) for name in item.aliases})
    return found


def _absent(plan: MergePlan, strategy: MergeStrategy) -> str:
    """Why ``strategy`` cannot take its version of what ``plan`` merges; empty if it can."""
    version, count = taken_version(strategy), len(plan.sides)
    if version == BASE:
        return "" if plan.base is not None else "there is no common ancestor to go back to"
    if version is not None and version >= count:
        return f"'{strategy.name}' takes side {version + 1}, and only {count} are merged"
    most = strategy.max_sides
    if version is not None and most is not None and count > most:
        named = "two" if most == 2 else most
        return f"'{strategy.name}' is one of {named} sides, and {count} are merged"
    return ""


def _task(plan: MergePlan, item: Item, rule: MergeRule, strategy: MergeStrategy) -> Task:
    """The task of merging ``item``; :class:`MergeError` if no strategy can merge what the sides
    have.
    """
    if item.kind == "unit":
        raise MergeError(
            f"'{rule.strategy}' would merge its parts one by one, which gives other values"
        )
    if isinstance(strategy, WholeModel):
        return Task(item, rule, strategy, dict(rule.options))
    if len(item.entries) != len(item.active):
        raise MergeError(
            f"'{rule.strategy}' cannot merge a tensor that one side does not have; take ours or"
            " theirs"
        )
    if item.kind == "tied-apart":
        raise MergeError(
            f"'{rule.strategy}' cannot merge tensors that one side ties and another does not; take"
            " ours or theirs"
        )
    if not item.array:
        raise MergeError(
            f"'{rule.strategy}' does not compute with {item.entries[0].dtype} values; take ours,"
            " theirs or base"
        )
    if not (item.fits or rule.options.get("rows") == "common"):
        raise MergeError(
            f"'{rule.strategy}' needs one type and shape on all sides; take ours or theirs"
        )
    options = merge_options.for_sides(rule.options, item.active, len(plan.sides))
    return Task(item, rule, strategy, options)


def _check_alone(plan: MergePlan, rules: Rules, rule: MergeRule, resolved: Container[str]) -> None:
    """:class:`MergeError` unless ``rule`` has the whole model to itself: reordering moves tensors
    that no side changed, too.
    """
    for item in plan.items:
        if item.unit is not None and any(side != item.sides[0] for side in item.sides):
            raise MergeError(
                f"{rule.strategy} reorders tensors one by one, and unit"
                f" '{display(item.unit.name, 80)}' cannot be; take a side"
            )
        other = rules.rule((item.name, *item.aliases))
        if item.name in resolved or other != rule:
            what = f"'{display(item.name, 80)}' follows another choice"
            raise MergeError(
                f"{rule.strategy} merges whole models, and {what}; let {rule.strategy} alone merge"
                " this model"
            )
