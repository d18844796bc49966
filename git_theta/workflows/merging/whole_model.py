"""Strategies that see whole models before they merge tensors one by one: surveys set options from
all tensors, and preparation reorders one side (git re-basin).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from git_theta.core.contracts import MergeCase, SurveysModel, WholeModel
from git_theta.core.names import display
from git_theta.errors import MergeError, ThetaError
from git_theta.merges.compute import guarded
from git_theta.merges.options import for_sides
from git_theta.merges.strategies.formula import computable
from git_theta.workflows.merging.decisions import Task
from git_theta.workflows.merging.load_inputs import (
    Inputs,
    every_case,
    statistics_of_sides,
    whole_sides,
)
from git_theta.workflows.merging.merge_rules import MergeRule


def prepared(inputs: Inputs, tasks: Sequence[Task]) -> tuple[list[Task], list[tuple[Task, str]]]:
    """The tasks as their strategies want them after a look at the whole model, and those that
    cannot be done, with the reason.

    A strategy for whole models has a model to itself: it gets a task for each tensor that differs.
    """
    whole = [task for task in tasks if isinstance(task.strategy, WholeModel)]
    if not whole:
        return _surveyed(inputs, tasks)
    try:
        return _reordered(inputs, whole[0]), []
    except ThetaError as error:
        others = [task for task in tasks if not isinstance(task.strategy, WholeModel)]
        done, refused = _surveyed(inputs, others)
        return done, [*((task, str(error)) for task in whole), *refused]


def _surveyed(inputs: Inputs, tasks: Sequence[Task]) -> tuple[list[Task], list[tuple[Task, str]]]:
    """The tasks with the options that surveys set, one survey a rule; and those of surveys that
    failed.
    """
    done: list[Task] = []
    refused: list[tuple[Task, str]] = []
    surveys: dict[int, MergeRule | ThetaError] = {}
    for task in tasks:
        if not isinstance(task.strategy, SurveysModel):
            done.append(task)
            continue
        key = id(task.rule)
        if key not in surveys:
            surveys[key] = _survey(inputs, task)
        rule = surveys[key]
        try:
            if isinstance(rule, ThetaError):
                raise rule
            options = for_sides(rule.options, task.item.active, len(inputs.plan.sides))
            done.append(replace(task, rule=rule, options=options))
        except ThetaError as error:
            refused.append((task, str(error)))
    return done, refused


def _survey(inputs: Inputs, task: Task) -> MergeRule | ThetaError:
    """The rule of ``task`` with the options that its strategy sets, or why it cannot."""
    strategy, rule = task.strategy, task.rule
    assert isinstance(strategy, SurveysModel)
    try:
        cases = partial(every_case, inputs)
        return replace(rule, options=guarded(strategy, strategy.survey, cases, rule.options))
    except ThetaError as error:
        return error


def _reordered(inputs: Inputs, first: Task) -> list[Task]:
    """A task for each tensor whose values differ as the strategy of ``first`` prepared the sides.

    Counters, and what is not made of numbers, stay as the plan decided it. Holds all sides' models.
    :class:`MergeError` when the sides' tensors differ in name, type or shape, or the strategy
    cannot prepare them.
    """
    assert isinstance(first.strategy, WholeModel)
    sides = guarded(first.strategy, first.strategy.prepare, whole_sides(inputs), first.rule.options)
    found = []
    for item in inputs.plan.items:
        values = [side.get(item.name) for side in sides]
        if any(value is None for value in values):
            continue
        for alias in item.aliases:
            if any(
                not _same(value, side[alias]) for value, side in zip(values, sides, strict=True)
            ):
                tied = f"'{display(item.name, 80)}' and '{display(alias, 80)}'"
                raise MergeError(
                    f"{first.strategy.name} would reorder {tied}, which are tied, apart"
                )
        differ = any(not _same(value, values[0]) for value in values[1:])
        if item.conflict or (differ and item.kind != "counter" and computable(values[0].dtype)):
            arrays = tuple(map(np.ascontiguousarray, values))
            statistics = statistics_of_sides(inputs, item, range(len(sides)))
            case = MergeCase(item.name, None, arrays, statistics)
            found.append(replace(first, item=item, case=case))
    return found


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    flat = (
        np.ascontiguousarray(one).reshape(-1).view(np.uint8),
        np.ascontiguousarray(other).reshape(-1).view(np.uint8),
    )
    return one.dtype == other.dtype and one.shape == other.shape and bool(np.array_equal(*flat))
