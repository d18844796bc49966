"""Choosing how conflicts are settled, at a terminal: groups of tensors, how far each side moved, one choice for many."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import click

from git_theta.cli.output import path, plural, table
from git_theta.core.manifest import Entry, Manifest
from git_theta.core.names import display
from git_theta.core.tensors import Tensor
from git_theta.errors import FormatError, ThetaError
from git_theta.merges import plan
from git_theta.plugins import registry
from git_theta.workflows import merge_rules, tensors
from git_theta.workflows.merge_state import MergeState
from git_theta.workflows.session import Session

Versions = tuple[Manifest | None, Manifest, Manifest]


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that differ only in their numbers (layers), which mostly want the same choice."""

    label: str
    items: tuple[plan.Item, ...]


def ask(session: Session, name: str, versions: Versions) -> merge_rules.Rules | None:
    """Show the open conflicts of the model at ``name`` and ask what to do with them; None: nothing was chosen."""
    base, ours, theirs = versions
    decided = plan.plan(base, [ours, theirs])
    kept = MergeState(session.repository).load(name, decided)
    groups = grouped([item for item in decided.conflicts if item.name not in kept.resolved])
    if not groups:
        return None
    click.echo(f"{path(name)}: {plural(sum(len(group.items) for group in groups), 'tensor')} in conflict")
    rows = [_row(session, number, group) for number, group in enumerate(groups, start=1)]
    for line in table(rows, ("#", "tensors", "count", "why", "ours moved", "theirs moved"), right=(0, 2)):
        click.echo(line)
    rules: list[merge_rules.Rule] = []
    while groups_left := [g for g in groups if merge_rules.Rules(tuple(rules)).rule([g.items[0].name]) is None]:
        chosen = _which(groups, groups_left)
        if chosen is None:
            break
        rule_words = _how()
        if rule_words is None:
            break
        strategy, words = rule_words
        try:
            for group in chosen:
                rules += [merge_rules.from_words(strategy, words, merge_rules.literal(item.name)) for item in group.items]
        except ThetaError as error:
            click.echo(f"{error}")
    return merge_rules.Rules(tuple(rules)) if rules else None


def grouped(items: Sequence[plan.Item]) -> list[Group]:
    """The items by name with numbers left open, in order of first occurrence."""
    found: dict[str, list[plan.Item]] = {}
    for item in items:
        found.setdefault(re.sub(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])", "*", item.name), []).append(item)
    return [Group(label if len(members) > 1 else members[0].name, tuple(members)) for label, members in found.items()]


def _row(session: Session, number: int, group: Group) -> tuple[str, ...]:
    first = group.items[0]
    moved = [_moved(session, first.base, side) for side in first.sides[:2]]
    return str(number), display(group.label, 60), str(len(group.items)), plan.reason(first).partition(":")[0], *moved


def _moved(session: Session, base: Entry | None, side: Entry | None) -> str:
    """How far a side is from the base: the norm of the change by the norm of the base."""
    if side is None:
        return "removed"
    if base is None:
        return "new"
    if base.spec != side.spec:
        return str(side.spec)
    import numpy as np

    try:
        before, after = (Tensor(e.dtype, e.shape, tensors.load(session.store, e)).array().astype(np.float64) for e in (base, side))
    except (ThetaError, FormatError):
        return "?"
    whole = float(np.linalg.norm(before.reshape(-1)))
    change = float(np.linalg.norm((after - before).reshape(-1)))
    return f"{change / whole:.2e}" if whole else "from zero"


def _which(groups: Sequence[Group], left: Sequence[Group]) -> list[Group] | None:
    text = click.prompt("Which (numbers, 'all' that are left, or Enter to stop)", default="", show_default=False).strip()
    if not text:
        return None
    if text == "all":
        return list(left)
    numbers = [int(word) for word in re.findall(r"\d{1,6}", text)]
    return [groups[n - 1] for n in numbers if 1 <= n <= len(groups)]


def _how() -> tuple[str, list[str]] | None:
    """A strategy and its options, for example ``ties density=0.3``."""
    names = ", ".join(strategy.name for strategy in registry.merge_strategies())
    text = click.prompt(f"How (ours, theirs, base, or a strategy with key=value: {names})", default="", show_default=False)
    words = text.split()
    return (words[0], words[1:]) if words else None
