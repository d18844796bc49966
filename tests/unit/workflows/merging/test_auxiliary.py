"""Files of statistics by their names, and the rules by which they are merged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_theta.merges.options import complete
from git_theta.plugins import registry, tables
from git_theta.workflows.merging.auxiliary import of_model, rules_for, sibling
from git_theta.workflows.merging.merge_rules import Rules, from_words

PATHS = st.text("ab./-é ", min_size=1).filter(lambda path: not path.endswith("/"))


@given(PATHS, st.sampled_from(tables.STATISTICS))
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
