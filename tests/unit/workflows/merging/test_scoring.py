"""The candidates of a choice by score, and which of them is best."""

from __future__ import annotations

import pytest

from git_theta.workflows.merging.scoring import Candidate, Score, best, candidates


def test_every_strategy_is_tried_with_every_combination_of_swept_values() -> None:
    found = candidates(("a", "b"), ("x=1",), (("y", ("2", "3")), ("z", ("4", "5"))))
    words = [("x=1", f"y={y}", f"z={z}") for y in "23" for z in "45"]
    assert found == [Candidate(strategy, each) for strategy in "ab" for each in words]
    assert candidates(("a",), ("x=1",), ()) == [Candidate("a", ("x=1",))]


@pytest.mark.parametrize(
    ("values", "minimize", "wanted"),
    [
        ((0.25, None, 0.5, 0.5), False, 2),
        ((0.25, None, 0.0, -0.0, 0.5), True, 2),
        ((None, -3.0), False, 1),
        ((None, None), False, None),
        ((), True, None),
    ],
)
def test_the_best_score_is_the_first_of_the_highest_or_lowest(
    values: tuple[float | None, ...], minimize: bool, wanted: int | None
) -> None:
    found = [Score(Candidate("a", (str(at),)), value) for at, value in enumerate(values)]
    assert best(found, minimize) is (None if wanted is None else found[wanted])
