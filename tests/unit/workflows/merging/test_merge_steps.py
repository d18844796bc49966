"""The steps of a merge: what is decided before a tensor is read, and who knows whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from plan_examples import manifest, of, tensor

import git_theta
from git_theta.plugins import registry
from git_theta.workflows.merging.decisions import decide, planned
from git_theta.workflows.merging.merge_rules import Rules, from_words
from git_theta.workflows.merging.outcome import MergeProgress

PACKAGE = Path(git_theta.__file__).parent
STEPS = (
    "git_theta.workflows.merging.decisions",
    "git_theta.workflows.merging.load_inputs",
    "git_theta.merges.compute",
    "git_theta.workflows.merging.store_results",
    "git_theta.workflows.merging.assemble_file",
    "git_theta.workflows.merging.merge",
)


def imported(module: str) -> set[str]:
    """The modules that ``module`` imports anywhere."""
    path = PACKAGE.parent / (module.replace(".", "/") + ".py")
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize("number", range(len(STEPS)))
def test_a_step_knows_only_those_before_it(number: int) -> None:
    assert imported(STEPS[number]).isdisjoint(STEPS[number + 1 :])


def test_one_step_loads_values_and_one_stores_them() -> None:
    folder = PACKAGE / "workflows" / "merging"
    used = {
        (path.stem, node.attr)
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "chains"
    }
    steps = {"decisions", "load_inputs", "whole_model", "store_results", "assemble_file", "merge"}
    assert {stem for stem, name in used if name == "load"} & steps == {"load_inputs"}
    assert {stem for stem, name in used if name in ("keep", "bases", "encode")} == {"store_results"}
    assert {stem for stem, _ in used} & steps == {"load_inputs", "store_results"}


def test_built_in_strategies_are_known_by_name_in_the_tables_only() -> None:
    """A plugin's strategy is treated as they are; people name them in commands, rules and files."""
    names = {each.name for each in registry.merge_strategies()}
    known = set()
    for layer in ("core", "merges", "plugins", "workflows", "drivers", "api"):
        for path in (PACKAGE / layer).rglob("*.py"):
            if path.stem == "tables" or path.parent.name == "strategies":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and node.value in names:
                    known.add((path.stem, node.value))
    assert known == {
        ("assemble_file", "base"),  # a recipe's key
        ("verify", "base"),
        ("training_state", "fisher"),  # how tensors are called
    }


def test_what_no_strategy_can_merge_is_decided_before_anything_is_read() -> None:
    """Lacking on a side, packed, reshaped: these are no tasks, whose values would be fetched."""
    base = manifest(
        *(tensor(name, "base") for name in ("gone", "grown", "plain")),
        tensor("packed", "base", "f4_e2m1"),
    )
    ours = manifest(
        tensor("grown", "ours", shape=(20, 16)),
        tensor("plain", "ours"),
        tensor("packed", "ours", "f4_e2m1"),
    )
    theirs = manifest(
        *(tensor(name, "theirs") for name in ("gone", "grown", "plain")),
        tensor("packed", "theirs", "f4_e2m1"),
    )
    rules = Rules((from_words("average", ()),))
    found = decide(planned(base, [ours, theirs]), rules, MergeProgress())
    assert [task.item.name for task in found.tasks] == ["plain"]
    reasons = {conflict.item.name: conflict.reason for conflict in found.conflicts}
    assert "'average' cannot merge a tensor that one side does not have" in reasons["gone"]
    assert "'average' needs one type and shape on all sides" in reasons["grown"]
    assert "'average' does not compute with f4_e2m1 values" in reasons["packed"]
    common = Rules((from_words("average", ["rows=common"]),))
    found = decide(planned(base, [ours, theirs]), common, MergeProgress())
    assert {task.item.name for task in found.tasks} == {"plain", "grown"}


def test_what_was_settled_before_and_what_rules_take_is_no_task() -> None:
    base, ours, theirs = (of(a=f"a{n}", b=f"b{n}", c=f"c{n}") for n in range(3))
    rules = Rules((from_words("theirs", (), "a"), from_words("average", (), "[bc]")))
    before = MergeProgress({"b": None})
    found = decide(planned(base, [ours, theirs]), rules, before)
    assert [task.item.name for task in found.tasks] == ["c"]
    assert found.progress.resolved == {"a": theirs.by_name["a"], "b": None}
    assert [rule.strategy for rule in found.progress.used.values()] == ["theirs"]
    assert not found.conflicts
