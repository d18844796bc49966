"""Files of statistics by their names, and the rules by which they are merged."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_examples import of

from git_theta.core.contracts import Combination, MergeCase, MergeStrategy, Option
from git_theta.merges.options import complete
from git_theta.plugin import hookimpl
from git_theta.plugins import discovery, registry, tables
from git_theta.workflows.merging.auxiliary import of_model, rules_for, sibling
from git_theta.workflows.merging.merge import merge
from git_theta.workflows.merging.merge_rules import Rules, from_words
from git_theta.workflows.session import Session

PATHS = st.text("ab./-é ", min_size=1).filter(lambda path: not path.endswith("/"))


@given(PATHS, st.sampled_from(list(tables.STATISTICS)))
def test_the_model_of_a_file_of_statistics_is_found_by_its_name(path: str, statistic: str) -> None:
    assert of_model(sibling(path, statistic)) == (path, statistic)


@pytest.mark.parametrize(
    "path",
    [
        "model.safetensors",
        "gram",
        "fisher.safetensors",
        "a.fisher/model.pt",
        "a.b.pt",
        "model.fishers.pt",
    ],
)
def test_other_files_are_no_statistics(path: str) -> None:
    assert of_model(path) is None


def test_statistics_are_added_up_and_never_merged_by_the_strategy_of_the_model() -> None:
    given_rules = Rules(
        (
            from_words("fisher", ["weights=2,1"], "a"),
            from_words("theirs", [], "b"),
            from_words("ties", ()),
        )
    )
    found = rules_for("fisher", given_rules, 2).rules
    average = registry.merge_strategy("average")
    summed = complete("average", average.options, {"normalize": False, "weights": (1.0, 1.0)})
    assert [(rule.params, rule.strategy) for rule in found] == [
        ("a", "average"),
        ("b", "theirs"),
        ("*", "average"),
        ("*", "average"),
    ]
    assert found[0].options == {**summed, "weights": (2.0, 1.0)}
    assert found[2].options == found[3].options == summed
    # Weights of the model's tensors say nothing of other statistics; velocities are moving
    # averages.
    assert rules_for("gram", given_rules, 2).rules[0].options == summed
    assert rules_for("velocity", given_rules, 2).rules[0].options["normalize"] is True
    # When it is known what became of the model, only that counts.
    assert rules_for("fisher", given_rules, 2, picks=False).rules[1].strategy == "average"


class Trusting:
    """A plugin's strategy that declares a statistic of its own, and ``gram`` otherwise than the
    built-in strategy does.
    """

    name, summary, needs_base, min_sides = "trusting", "trusts", False, 2
    max_sides: int | None = None
    options: tuple[Option, ...] = (Option("weights", "floats", None, "one a side"),)

    def __init__(self, how: Combination) -> None:
        self.statistics: dict[str, Combination] = {"trust": how, "gram": how}

    def merge(self, case: MergeCase, options: Mapping[str, object]) -> np.ndarray:
        return case.sides[0]


class Third(Trusting):
    """A plugin's strategy that takes the third side."""

    name, takes = "third", 2


def plug_in(monkeypatch: pytest.MonkeyPatch, *strategies: MergeStrategy) -> None:
    """Have the whole program know ``strategies``, for this test."""
    module = types.ModuleType("a_plugin")
    module.register_merge_strategies = hookimpl(lambda: strategies)  # type: ignore[attr-defined]
    known = registry.Registry(list[discovery.OfferedPlugin], print)
    known.register(module, "by hand")
    monkeypatch.setattr(registry, "merge_strategy", known.merge_strategy)
    monkeypatch.setattr(registry, "statistics", known.statistics)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("sum", {"normalize": False, "weights": (1.0, 1.0)}),
        ("weighted", {"normalize": False, "weights": (2.0, 1.0)}),
        ("mean", {"normalize": True, "weights": None}),
    ],
)
def test_a_plugin_says_how_its_statistics_combine(
    monkeypatch: pytest.MonkeyPatch, how: Combination, wanted: dict[str, object]
) -> None:
    plug_in(monkeypatch, Trusting(how))
    assert of_model("model.trust.pt") == ("model.pt", "trust")
    rules = Rules((from_words("trusting", ["weights=2,1"], "a"), from_words("ties", ())))
    found = rules_for("trust", rules, 2).rules
    assert [rule.strategy for rule in found] == ["average"] * 3
    assert wanted.items() <= found[0].options.items()
    unweighted = {**wanted, "weights": None if how == "mean" else (1.0, 1.0)}
    assert all(unweighted.items() <= rule.options.items() for rule in found[1:])
    # Its own tensors by its own word, all others as who declared the statistic first.
    found = rules_for("gram", rules, 2).rules
    assert wanted.items() <= found[0].options.items()
    assert found[1].options["weights"] == found[2].options["weights"] == (1.0, 1.0)


def test_statistics_follow_a_plugin_that_takes_a_side(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, Third("sum"))
    rules = Rules((from_words("third", ()),))
    assert [rule.strategy for rule in rules_for("trust", rules, 3).rules] == ["third", "average"]
    assert rules_for("trust", rules, 3, picks=False).rules[0].strategy == "average"
    base, *sides = (of(a=word, b=word) for word in ("base", "one", "two", "three"))
    found = merge(cast("Session", None), "m.pt", base, sides, rules)
    assert found.manifest is not None
    assert found.manifest.entries == sides[2].entries
    found = merge(cast("Session", None), "m.pt", base, sides[:2], rules)
    assert "'third' takes side 3, and only 2 are merged" in found.conflicts[0].reason
