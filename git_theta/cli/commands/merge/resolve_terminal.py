"""Choosing how conflicts are settled, at a terminal: groups of tensors, how far each side moved,
one choice for many.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import click

from git_theta.cli.output import path, plural, table
from git_theta.core.manifest import Entry, Manifest
from git_theta.core.names import display
from git_theta.errors import FormatError, ThetaError
from git_theta.merges.items import Item, reason
from git_theta.workflows import chains
from git_theta.workflows.merging import merge_rules
from git_theta.workflows.merging.decisions import planned
from git_theta.workflows.merging.state import MergeState
from git_theta.workflows.session import Session
from git_theta.workflows.sharing.fetch import fetch_missing

Versions = tuple[Manifest | None, Manifest, Manifest]


@dataclass(frozen=True, slots=True)
class TensorGroup:
    """Tensors that differ only in their numbers (layers), which mostly want the same choice."""

    label: str
    items: tuple[Item, ...]


def ask(session: Session, name: str, versions: Versions, by_name: bool) -> merge_rules.Rules:
    """Show the open conflicts of the model at ``name`` and ask what to do with them."""
    base, ours, theirs = versions
    decided = planned(base, [ours, theirs])
    kept = MergeState(session.repository).load(name, decided)
    by_name = by_name or kept.by_name
    if decided.format_conflict and not by_name:
        formats = " and ".join(dict.fromkeys(side.format for side in decided.sides))
        by_name = click.confirm(
            f"{path(name)}: the sides are {formats} files. Merge them by tensor name?"
        )
    groups = grouped([item for item in decided.conflicts if item.name not in kept.resolved])
    if groups:
        _show(session, name, groups)
    chosen: dict[str, merge_rules.MergeRule] = {}
    while left := [group for group in groups if group.items[0].name not in chosen]:
        picked = _which(groups, left)
        how = _how() if picked else None
        if not picked or how is None:
            break
        strategy, words = how
        try:
            for item in (item for group in picked for item in group.items):
                chosen[item.name] = merge_rules.from_words(
                    strategy, words, merge_rules.literal(item.name)
                )
        except ThetaError as error:
            click.echo(f"{error}")
    rules = tuple(chosen.values())
    ways = {(rule.strategy, tuple(rule.options.items())) for rule in rules}
    if (
        len(ways) == 1
        and not kept.resolved
        and all(group.items[0].name in chosen for group in groups)
    ):
        # One choice for everything: for counters and the file's other content, too
        rules = (replace(rules[0], params="*"),)
    return merge_rules.Rules(rules, by_name=by_name)


def grouped(items: Sequence[Item]) -> list[TensorGroup]:
    """The items by name with numbers left open, in order of first occurrence."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(re.sub(r"[0-9]+(?![A-Za-z0-9])", "*", item.name), []).append(item)
    return [
        TensorGroup(label if len(members) > 1 else members[0].name, tuple(members))
        for label, members in found.items()
    ]


def _show(session: Session, name: str, groups: Sequence[TensorGroup]) -> None:
    """The table of ``groups``. What is not here is fetched to measure it."""
    entries = [
        e
        for group in groups
        for item in group.items
        for e in (item.base, *item.sides)
        if e is not None
    ]
    if session.store.missing(ref for entry in entries for ref in entry.objects):
        fetch_missing(
            session,
            [
                Manifest(
                    "none",
                    0,
                    entries[0],
                    tuple({entry.digest: entry for entry in entries}.values()),
                    {},
                )
            ],
        )
    click.echo(
        f"{path(name)}: {plural(sum(len(group.items) for group in groups), 'tensor')} in conflict"
    )
    rows = [_row(session, number, group) for number, group in enumerate(groups, start=1)]
    for line in table(
        rows, ("#", "tensors", "count", "why", "ours moved", "theirs moved"), right=(0, 2)
    ):
        click.echo(line)
    click.echo(
        "For each of them: ours, theirs, base, or a strategy with its options, such as: ties"
        " density=0.3"
    )
    click.echo(
        "'git theta strategies' lists those. Nothing is written before all questions are answered."
    )


def _row(session: Session, number: int, group: TensorGroup) -> tuple[str, ...]:
    why = " or ".join(dict.fromkeys(reason(item).partition(":")[0] for item in group.items))
    moved = [
        _moved(session, [(item.base, item.sides[side]) for item in group.items]) for side in (0, 1)
    ]
    return str(number), display(group.label, 60), str(len(group.items)), why, *moved


def _moved(session: Session, pairs: Sequence[tuple[Entry | None, Entry | None]]) -> str:
    """How far a side is from the base, all tensors of a group together: the norm of the change by
    the norm of the base.
    """
    from git_theta.workflows.comparing.measure import measure

    if all(side is None for _, side in pairs):
        return "removed"
    if all(base is None for base, _ in pairs):
        return "new"
    whole = change = 0.0
    for base, side in pairs:
        if base is None or side is None:
            return "in part"
        if base.spec != side.spec:
            return str(side.spec)
        try:
            before, after = (chains.load(session.store, each) for each in (base, side))
        except (ThetaError, FormatError):
            return "?"
        found = measure(before, after, rank=False)
        if found is None or not found.comparable:
            return "?"
        if found.nonfinite:
            return "NaN or infinite"
        whole, change = math.hypot(whole, found.norm), math.hypot(change, found.moved)
    return f"{change / whole:.2e}" if whole else "from zero"


def _which(groups: Sequence[TensorGroup], left: Sequence[TensorGroup]) -> list[TensorGroup]:
    """Groups by number, also ones that were chosen before; none: stop."""
    while text := click.prompt(
        "Which (numbers, 'all' that are left, or Enter to stop)", default="", show_default=False
    ).strip():
        if text == "all":
            return list(left)
        words = re.split(r"[,\s]+", text.strip(", "))
        if all(
            re.fullmatch(r"[0-9]{1,6}", word) and 1 <= int(word) <= len(groups) for word in words
        ):
            return [groups[int(word) - 1] for word in words]
        click.echo(f"'{display(text, 60)}' is not among 1 to {len(groups)}, nor 'all'")
    return []


def _how() -> tuple[str, list[str]] | None:
    """A strategy and its options, for example ``ties density=0.3``."""
    words = click.prompt("How (Enter to stop)", default="", show_default=False).split()
    return (words[0], words[1:]) if words else None
