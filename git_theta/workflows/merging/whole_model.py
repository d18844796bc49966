"""Merging by a strategy that must see whole models (git re-basin reorders one side before anything
is averaged).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Any, cast

from git_theta.core.contracts import MergeCase, MergeStrategy
from git_theta.core.manifest import Entry
from git_theta.core.names import display
from git_theta.errors import MergeError
from git_theta.merges.items import Item, MergePlan
from git_theta.workflows.merging.merge_rules import MergeRule, Rules
from git_theta.workflows.merging.outcome import guarded

if TYPE_CHECKING:
    import numpy as np


def check(plan: MergePlan, rules: Rules, rule: MergeRule, resolved: Container[str]) -> None:
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


def cases(
    plan: MergePlan,
    strategy: MergeStrategy,
    prepare: Callable[..., Any],
    options: Mapping[str, object],
    load: Callable[[Entry], np.ndarray],
    statistics: Callable[[Item], Mapping[str, tuple[np.ndarray | None, ...]]],
) -> list[tuple[Item, MergeCase]]:
    """The tensors to merge, as the strategy prepared them: those whose prepared values differ.

    Counters, and what is not made of numbers, stay as the plan decided it. Holds all sides' models.
    :class:`MergeError` when the sides' tensors differ in name, type or shape, or the strategy
    cannot prepare them.
    """
    import numpy as np

    from git_theta.merges.strategies.formula import computable

    models: list[dict[str, np.ndarray]] = [{} for _ in plan.sides]
    for item in plan.items:
        for model, entry in zip(models, item.sides, strict=True):
            if entry is not None:
                model.update(dict.fromkeys((item.name, *item.aliases), load(entry)))
    prepared = guarded(strategy, prepare, models, options)
    found = []
    for item in plan.items:
        values = [model.get(item.name) for model in prepared]
        if any(value is None for value in values):
            continue
        sides = cast("list[np.ndarray]", values)
        for alias in item.aliases:
            if any(
                not _same(side, model[alias]) for side, model in zip(sides, prepared, strict=True)
            ):
                tied = f"'{display(item.name, 80)}' and '{display(alias, 80)}'"
                raise MergeError(f"{strategy.name} would reorder {tied}, which are tied, apart")
        differ = any(not _same(side, sides[0]) for side in sides[1:])
        if item.conflict or (differ and item.kind != "counter" and computable(sides[0].dtype)):
            found.append(
                (
                    item,
                    MergeCase(
                        item.name,
                        None,
                        tuple(np.ascontiguousarray(side) for side in sides),
                        statistics(item),
                    ),
                )
            )
    return found


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    import numpy as np

    flat = (
        np.ascontiguousarray(one).reshape(-1).view(np.uint8),
        np.ascontiguousarray(other).reshape(-1).view(np.uint8),
    )
    return one.dtype == other.dtype and one.shape == other.shape and bool(np.array_equal(*flat))
